"""A race of 24 coloured shapes, on combinations of colour and shape that training never showed.

    python benchmarks/race_scenes.py [--limit 500] [--deltas 0.4 0.5] [--dense]

Images and questions are those of `diffzero reproduce binding`, which measures 32 dense draws on
them (768 evaluations an image). The race of the least delta is run; those of larger ones are
replayed over its draws, which are all that they would have taken. `--dense` measures 32 dense
draws here too, and compares the answers.
"""

import argparse
import sys

import numpy as np

import diffzero as dz
from diffzero.data.scene_files import ask
from diffzero.evaluate.metrics import mcnemar, percent
from diffzero.noise import image_key, quantiles
from diffzero.scoring.replay import simulate
from diffzero.scoring.rules import Rule

DRAWS, PART = 32, 25  # of the longest race; images at a time


def errors_of(classifier, part):
    """Errors `[draws, k]` of every image; what is right so far is told on the way."""
    found, right, spent = [], 0, 0
    for start in range(0, len(part.images), PART):
        now = slice(start, start + PART)
        scores, cubes = classifier.scores_and_draws(part.images[now], part.candidates[now])
        found += [cube[:, :, 0] for cube in cubes]
        right += int((scores.logits.argmax(1) == part.labels[now]).sum())
        spent += int(scores.evals.sum())
        told = f"{right} of {len(found)} right, {spent / len(found):.1f} evaluations an image"
        print(told, file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Print a line for each delta."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=500)
    parser.add_argument("--deltas", type=float, nargs="+", default=[0.4, 0.5])
    parser.add_argument("--min-draws", type=int, default=3)
    parser.add_argument("--dense", action="store_true")
    options = parser.parse_args()
    part = next(p for p in ask(options.limit, 32, tasks=("object",)) if p.held_out)
    first = {"delta": min(options.deltas), "min_draws": options.min_draws, "max_draws": DRAWS}
    errors = errors_of(dz.Race("tiny-sd", template="{}", **first), part)
    places = [quantiles(image_key(0, image), np.arange(DRAWS)) for image in part.images]
    dense = None
    if options.dense:
        cubes = errors_of(dz.ELBO("tiny-sd", template="{}", draws=DRAWS), part)
        dense = np.array([cube.mean(0).argmin() for cube in cubes])
        print(f"dense {DRAWS}: {percent(int((dense == part.labels).sum()), len(dense))}")
    for delta in options.deltas:
        rule = Rule(**(first | {"delta": delta}))
        found = [simulate(e, p, rule) for e, p in zip(errors, places, strict=True)]
        answers = np.array([race.standing.leader for race in found])
        spent, right = np.array([race.draws.sum() for race in found]), answers == part.labels
        print(
            f"delta {delta}: {percent(int(right.sum()), len(right))}, {spent.mean():.1f} "
            f"evaluations an image (median {np.median(spent):.0f}, nine tenths "
            f"{np.quantile(spent, 0.9):.0f}, most {spent.max()})"
        )
        if dense is not None:
            truth = dense == part.labels
            p = mcnemar(int((right & ~truth).sum()), int((truth & ~right).sum()))
            print(f"  as dense on {percent(int((answers == dense).sum()), len(dense))}, p {p:.2g}")


if __name__ == "__main__":
    main()
