"""How far off `log p` and its differences between classes are, by solver and number of steps.

    python benchmarks/likelihood_steps.py digits-ddpm
    python benchmarks/likelihood_steps.py cifar10-ldm --data cifar10=PATH --images 3
    python benchmarks/likelihood_steps.py cifar10-ddpm --data cifar10=PATH --reference 64

Every class of the first images of the validation part, one probe per image, common to all classes
and to all solvers. Errors are means over images and classes, in nats, from `heun3` at
`--reference` steps, whose own error is told by its distance from half as many steps.
"""

import argparse

import numpy as np

import diffzero as dz
from diffzero import data

SETTINGS = [(s, n) for n in (8, 12, 16, 25) for s in ("heun", "heun3")]


def log_p(model, classes, images, solver, steps):
    """`[images, classes]`, evaluations and VJPs of each class."""
    classifier = dz.Likelihood(model, steps=steps, solver=solver).fit(classes)
    scores = classifier.scores(images)
    k = len(classes)
    return scores.logits, int(scores.evals[0]) // k, int(scores.vjps[0]) // k


def apart(values, truth):
    """Mean distance of `log p`, and of its differences from the mean over classes."""
    centred = [z - z.mean(1, keepdims=True) for z in (values, truth)]
    return np.abs(values - truth).mean(), np.abs(centred[0] - centred[1]).mean()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a class-conditional model")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--reference", type=int, default=128)
    options = parser.parse_args()
    model = dz.load(options.model, device="cpu")
    images = list(data.load(options.data, None, "validation").images[: options.images])
    truth, *_ = log_p(model, model.classes, images, "heun3", options.reference)
    half, *_ = log_p(model, model.classes, images, "heun3", options.reference // 2)
    own = apart(half, truth)
    print(f"{options.model}, {len(images)} images, {len(model.classes)} classes")
    print(f"half the reference's {options.reference} steps: {own[0]:.2f}, {own[1]:.2f} nats")
    print("| solver | steps | evaluations | VJPs | log p off | differences off |")
    print("|---|---|---|---|---|---|")
    for solver, steps in SETTINGS:
        found, evals, vjps = log_p(model, model.classes, images, solver, steps)
        whole, between = apart(found, truth)
        print(
            f"| `{solver}` | {steps} | {evals} | {vjps} | {whole:.2f} | {between:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
