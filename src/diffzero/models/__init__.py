"""Models: codec x conditioner x denoiser, and one file per family that builds them.

    images --codec--> x_0          prompts --conditioner--> Condition
                      (x_t, t, Condition) --denoiser--> Prediction(x, eps)

A `Backbone` holds the three. `load` makes one of a card's name, a folder, a hub id or a pipeline.
"""
