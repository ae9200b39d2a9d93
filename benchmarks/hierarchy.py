"""Groups first, on the closed-form mixture: evaluations and answers beside a race of all classes.

    python benchmarks/hierarchy.py [--classes 200] [--images 40]

Classes lie in groups of 10 and of 20, and the model of a group is the mixture of its classes: what
a model is at best that knows the groups' names.
"""

import argparse

import torch

import diffzero as dz
from diffzero.evaluate.metrics import percent


def models(k, per, n, seed=1):
    """Classes, groups as mixtures of them, and n uint8 images with the true posterior's answer."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(k // per, 1, 3, 4, 4, generator=generator).double() * 0.5
    own = torch.randn(k // per, per, 3, 4, 4, generator=generator).double() * 0.2
    means = (centres + own).reshape(k, 1, 3, 4, 4)
    schedule = dz.DiscreteSchedule.linear()
    classes = dz.MixtureBackbone(torch.ones(k, 1), means, torch.full((k, 1), 0.3), schedule)
    weights = torch.eye(k // per).double().repeat_interleave(per, 1) / per
    groups = dz.MixtureBackbone(
        weights, means[:, 0].expand(k // per, -1, -1, -1, -1), torch.full((k // per, k), 0.3),
        schedule, classes=[f"group {i}" for i in range(k // per)],
    )  # fmt: skip
    labels = torch.randint(0, k, (n,), generator=generator)
    x = means[labels, 0] + 0.3 * torch.randn(n, 3, 4, 4, generator=generator).double()
    pixels = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    answer = classes.posterior(pixels.double() / 127.5 - 1).argmax(1).numpy()
    return classes, groups, pixels.permute(0, 2, 3, 1).numpy(), answer


def main():
    """Print a line for each size of groups and each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", type=int, default=200)
    parser.add_argument("--images", type=int, default=40)
    options = parser.parse_args()
    for per in (10, 20):
        classes, groups, images, answer = models(options.classes, per, options.images)
        names = classes.classes
        told = {g: names[i * per : (i + 1) * per] for i, g in enumerate(groups.classes)}
        tree = dz.Hierarchy(dz.Race(groups), told, dz.Race(classes)).fit(names)
        for way, classifier in (
            ("groups first", tree),
            ("all at once", dz.Race(classes).fit(names)),
        ):
            scores = classifier.scores(images)
            right = scores.logits.argmax(1) == answer
            print(
                f"{options.classes} classes in groups of {per}, {way}: "
                f"{scores.evals.mean():.0f} evaluations per image, the posterior's answer on "
                f"{percent(int(right.sum()), len(right))}"
            )


if __name__ == "__main__":
    main()
