"""Accuracy against evaluations: dense draws, races and stages of fixed length, same images.

    python benchmarks/race.py --data FASHION [--limit 1000] [--draws 64] [--keep FOLDER]
        [--skip 0] [--held-out] [--plot race.png]

Every draw of every class is computed once with `tiny-sd` and kept in FOLDER in parts, so that
an interrupted run goes on and every rule is then replayed over the same errors. Races are replayed
as they are by default, and from differences alone (`control=False, variance="successive"`), as
`diffzero rescore --race` does. Stages of fixed length are those of the public diffusion
classifier: all classes take 4 draws, the best 5 32 in all, the best of these is the answer.
`--skip` leaves the first images out of the table. Fewer `--draws` than were kept take the first of
them. `--held-out` takes images held out of training, to choose rules on, instead of validation's.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from scipy.special import softmax

import diffzero as dz
from diffzero.data import held_out, load
from diffzero.evaluate.metrics import expected_calibration_error, mcnemar, percent
from diffzero.noise import image_key, quantiles
from diffzero.scoring.control import shrinkage
from diffzero.scoring.denoising import errors_and_products
from diffzero.scoring.engine import Jobs, Outcome, Results
from diffzero.scoring.replay import simulate
from diffzero.scoring.rules import Rule
from diffzero.temperature import fitted_by_draws, temperatures_at

PART = 25  # images
DIFFERENCES = {"control": False, "variance": "successive", "min_draws": 4}


class Told(dz.ELBO):
    """Dense draws, and what races ask of predictions beside their errors."""

    def _evaluate(self, batch, classes):
        said = errors_and_products(self.model_, batch, classes.of(batch))
        return Results(said, self.model_.denoiser.cost)

    def _program(self, subject, classes, image):
        draws, rows = np.arange(self.draws), classes.rows[image]
        said = yield Jobs.dense(rows, draws, self.times_of(subject.key, draws))
        said = said.reshape(self.draws, len(rows), -1)
        return Outcome(-said[..., 0].mean(0), extra=said)


def kept_draws(options):
    """Of every image errors `[n, draws, k]`, places `[n, draws]`, products `[n, draws, k, NOISES]`
    and labels `[n]`; and the classifier."""
    split = "train" if options.held_out else "validation"
    data = load(f"fashion-mnist={options.data}", None, split)
    data = held_out(data)[1] if options.held_out else data
    classifier = Told("tiny-sd", draws=options.draws).fit([n[0] for n in data.names])
    parts = []
    for start in range(0, options.limit, PART):
        path = options.keep / f"part-{start:04d}.npz"
        if not path.exists() and not options.kept_only:
            images = list(data.images[start : start + PART])
            said = np.stack(classifier.draw_errors(images))
            draws = np.arange(options.draws)
            places = np.stack([quantiles(image_key(0, i), draws) for i in images])
            whole = path.with_suffix(".writing.npz")
            labels = data.labels[start : start + PART]
            products = said[..., 1:].astype(np.float32)
            np.savez(whole, errors=said[..., 0], products=products, places=places, labels=labels)
            whole.rename(path)
        if path.exists():
            parts.append(np.load(path))
    names = ("errors", "places", "products", "labels")
    *drawn, labels = (np.concatenate([p[c] for p in parts])[options.skip :] for c in names)
    return [*(c[:, : options.draws] for c in drawn), labels], classifier


def dense(errors, n):
    """Logits `[images, k]` of n draws, and the evaluations of each image."""
    return -errors[:, :n].mean(1), np.full(len(errors), n * errors.shape[2])


def stages(errors, first, keep, last):
    """Logits after `first` draws of all and `last` of the best `keep`, and the evaluations."""
    early, late = (-errors[:, :n].mean(1) for n in (first, last))
    order = np.argsort(-early, axis=1)
    logits = np.full(early.shape, -np.inf)
    np.put_along_axis(
        logits, order[:, :keep], np.take_along_axis(late, order[:, :keep], 1), axis=1
    )
    spent = first * errors.shape[2] + (last - first) * keep
    return logits, np.full(len(errors), spent)


def races(kept, classifier, *, delta, max_draws, control, variance, min_draws):
    """Logits of races, their evaluations, and the draws of each leader."""
    rule = Rule(delta, min_draws, max_draws, variance=variance)
    found, log_snr = [], classifier.backbone_.schedule.log_snr
    for errors, places, products in zip(*kept, strict=True):
        t = torch.from_numpy(classifier.times_.at(places))
        shrink = shrinkage(log_snr(t).numpy()) if control else None
        found.append(simulate(errors, places, rule, products.astype(float), shrink))
    logits = np.stack([race.logits() for race in found])
    spent = np.array([race.draws.sum() for race in found])
    return logits, spent, np.array([race.draws.max() for race in found])


def calibration(logits, draws, labels, fitted):
    """Expected calibration error with the card's temperature for each image's draws."""
    proba = softmax(logits / temperatures_at(draws, fitted)[:, None], axis=1)
    return expected_calibration_error(proba.max(1), logits.argmax(1) == labels)


def plot(points, path):
    """Accuracy against evaluations, one line for each kind of rule."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(6, 4))
    for kind, found in points.items():
        cost, accuracy = zip(*sorted(found), strict=True)
        axis.plot(cost, accuracy, "o-", label=kind)
    axis.set(xscale="log", xlabel="evaluations per image", ylabel="accuracy, %")
    axis.minorticks_off()
    ticks = [20, 40, 80, 160, 320, 640]
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")


def main() -> None:
    """Print one line a rule."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--held-out", action="store_true", help="Give another --keep, too.")
    parser.add_argument("--draws", type=int, default=64)
    parser.add_argument("--keep", type=Path, default=Path("race-draws"))
    parser.add_argument("--kept-only", action="store_true", help="No part that is not kept.")
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    options.keep.mkdir(parents=True, exist_ok=True)
    (errors, places, products, labels), classifier = kept_draws(options)
    temperatures, settings = classifier.backbone_.temperatures, classifier.settings()
    fitted = fitted_by_draws(temperatures, "elbo", settings)
    n, top = len(labels), options.draws
    wanted = dense(errors, top)[0].argmax(1)
    points: dict[str, list[tuple[float, float]]] = {}

    staged = stages(errors, 4, 5, min(32, top))[0].argmax(1) == labels

    def against(right, others):
        return mcnemar(int((right & ~others).sum()), int((others & ~right).sum()))

    def line(kind, name, logits, spent, draws=None):
        answer = logits.argmax(1)
        right = answer == labels
        p, q = against(right, wanted == labels), against(right, staged)
        points.setdefault(kind, []).append((spent.mean(), 100 * right.mean()))
        more = ""
        if draws is not None and fitted:
            more = f", ECE {calibration(logits, draws, labels, fitted):.3f}"
        print(
            f"{name}: {percent(int(right.sum()), n)}, {spent.mean():.1f} evaluations, same answer "
            f"on {percent(int((answer == wanted).sum()), n)}, McNemar p {p:.2g}, against fixed "
            f"stages {q:.2g}{more}",
            flush=True,
        )

    for draws in sorted({2, 4, 8, 16, min(32, top), top}):
        line("dense", f"dense {draws}", *dense(errors, draws), np.full(n, draws))
    for first, keep, last in sorted({(4, 5, min(32, top)), (4, 5, top)}):
        line("fixed stages", f"{first}, keep {keep}, {last}", *stages(errors, first, keep, last))
    own = {name: getattr(dz.Race(), name) for name in DIFFERENCES}
    for kind, options_of in (("race", own), ("race, differences alone", DIFFERENCES)):
        for delta in (0.3, 0.2, 0.1, 0.05, 0.01):
            settings = {"delta": delta, "max_draws": top} | options_of
            found = races((errors, places, products), classifier, **settings)
            line(kind, f"{kind} {delta}", *found)
    if options.plot:
        plot(points, options.plot)


if __name__ == "__main__":
    main()
