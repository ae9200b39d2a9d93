"""A race of 24 coloured shapes, on combinations of colour and shape that training never showed.

    python benchmarks/race_scenes.py [--limit 500] [--deltas 0.05 0.4] [--differences] [--dense]

Images and questions are those of `diffzero reproduce binding`, which measures 32 dense draws on
them (768 evaluations per image). `--differences` races on differences of errors alone, `--dense`
measures 32 dense draws here too, and compares the answers.
"""

import argparse
import sys

import numpy as np

import diffzero as dz
from diffzero.data.scene_files import ask
from diffzero.evaluate.metrics import mcnemar, percent

DRAWS, PART = 32, 25  # of the longest race; images at a time


def answers_of(classifier, part):
    """Answers and evaluations of every image; what is right so far is told on the way."""
    answers, spent, right = [], [], 0
    for start in range(0, len(part.images), PART):
        now = slice(start, start + PART)
        scores = classifier.scores(part.images[now], part.candidates[now])
        answers += scores.logits.argmax(1).tolist()
        spent += scores.evals.tolist()
        right += int((scores.logits.argmax(1) == part.labels[now]).sum())
        told = f"{right} of {len(answers)} right, {np.mean(spent):.1f} evaluations per image"
        print(told, file=sys.stderr, flush=True)
    return np.array(answers), np.array(spent)


def main() -> None:
    """Print a line for each delta."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=500)
    parser.add_argument("--deltas", type=float, nargs="+", default=[0.05, 0.4])
    parser.add_argument("--differences", action="store_true", help="No control, no distances.")
    parser.add_argument("--dense", action="store_true")
    options = parser.parse_args()
    part = next(p for p in ask(options.limit, 32, tasks=("object",)) if p.held_out)
    alone = {"control": False, "variance": "successive", "min_draws": 3}
    chosen = alone if options.differences else {}
    dense = None
    if options.dense:
        dense, _ = answers_of(dz.ELBO("tiny-sd", template="{}", draws=DRAWS), part)
        print(f"dense {DRAWS}: {percent(int((dense == part.labels).sum()), len(dense))}")
    for delta in options.deltas:
        race = dz.Race("tiny-sd", template="{}", delta=delta, max_draws=DRAWS, **chosen)
        answers, spent = answers_of(race, part)
        right = answers == part.labels
        print(
            f"delta {delta}: {percent(int(right.sum()), len(right))}, {spent.mean():.1f} "
            f"evaluations per image (median {np.median(spent):.0f}, nine tenths "
            f"{np.quantile(spent, 0.9):.0f}, most {spent.max()})",
            flush=True,
        )
        if dense is not None:
            truth = dense == part.labels
            p = mcnemar(int((right & ~truth).sum()), int((truth & ~right).sum()))
            print(f"  as dense on {percent(int((answers == dense).sum()), len(dense))}, p {p:.2g}")


if __name__ == "__main__":
    main()
