"""Scoring: jobs (image, condition, draw, t) in one flat table, packed into full batches.

A method is a generator for each image: it yields jobs, receives what the network said of them, and
returns logits. `engine.run` packs the jobs of many images; `times`, `denoising`, `ode` and
`samplers` are the mathematics that a method evaluates a batch with.
"""
