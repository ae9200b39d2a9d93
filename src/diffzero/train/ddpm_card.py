"""What a recipe of pixel models ends with: settings chosen and temperatures fitted on held-out
images, every method measured on the same validation images, a sample sheet, the model card."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from ..classifier import Scores
from ..evaluate.metrics import expected_calibration_error, fit_temperature, percent, wilson
from ..methods.elbo import ELBO
from ..methods.latent_knn import LatentKNN
from ..methods.likelihood import Likelihood
from ..methods.noise_denoise import NoiseDenoise, NoiseDenoiseVote
from ..models.load import load
from ..scoring.samplers import denoise
from ..temperature import temperature_entry
from . import data
from .ddpm import PRESETS
from .stable_diffusion import held_out

# Noise level and steps of a full run; one step returns what the network first makes of x_t.
DENOISE: list[dict[str, Any]] = [
    {"level": level, "steps": steps} for level in (0.3, 0.5, 0.7) for steps in (1, 20)
]
ELBO_DRAWS = (1, 2, 4, 8, 16, 32)
LIKELIHOOD_STEPS = 12
Keep = Callable[[str, Callable[[], Any]], Any]


@dataclass(frozen=True)
class Line:
    """One method on the validation images.

    Attributes:
        method: Its name in `diffzero methods`.
        settings: Those that are not its defaults.
        accuracy: With n and a 95 % Wilson interval.
        ece: Of `predict_proba`, None where no temperature was fitted.
        evals: Network evaluations an image.
        vjps: Vector-Jacobian products an image.
        seconds: An image.
        correct: Images classified rightly.
        low: Lower end of the interval.
        high: Upper end.
        bits: Bits per dimension under the true class, of likelihood.
    """

    method: str
    settings: str
    accuracy: str
    ece: float | None
    evals: int
    vjps: int
    seconds: float
    correct: int
    low: float
    high: float
    bits: float | None


def write_card(
    recipe: str,
    out: Path,
    sources: list[str],
    *,
    minutes: float,
    seed: int,
    limit: int,
    log: Callable[[str], None] = print,
    more: str = "",
    fit_images: int = 120,
) -> list[Line]:
    """Measure a trained pixel model and write `card.yaml`, `README.md` and `samples.png`.

    Args:
        recipe: `digits-ddpm` or `cifar10-ddpm`.
        out: The trained model.
        sources: The one data set it was trained on.
        minutes: Budget of training, for the card.
        seed: Of training, for the card.
        limit: Validation images to measure on.
        log: Called with lines of progress.
        more: Further options of the training command, for the card.
        fit_images: Held-out training images that settings and temperatures are chosen on.
    """
    preset = PRESETS[recipe]["cpu"]
    train = data.load(sources[0], None)
    held = held_out(train)[1].subset(slice(-fit_images, None))
    card: dict[str, Any] = {
        "family": "ddpm",
        "resolution": preset.side,
        "licence": "Apache-2.0",
        "template": "{}",
        "classes": train.classes,
        "grey_step": preset.grey_step,
    }
    (out / "card.yaml").write_text(yaml.safe_dump(card, sort_keys=False))
    model = load(out)
    elbo = ELBO(model, draws=max(ELBO_DRAWS), temperature=1.0).fit(train.classes)
    errors = elbo.draw_errors(list(held.images))
    fitted: dict[int, float] = {}
    for draws in ELBO_DRAWS:
        logits = np.stack([elbo.reduce(e[:draws]) for e in errors])
        fitted[draws] = _fit(logits, held.labels)
    chosen = best_denoise(model, held, log)
    nd = NoiseDenoise(model, **chosen, draws=4, temperature=1.0).fit(train.classes)
    logits = nd.scores(list(held.images)).logits
    card["temperatures"] = [
        temperature_entry(elbo, fitted),
        temperature_entry(nd, {4: _fit(logits, held.labels)}),
    ]
    log(f"temperatures {fitted}; noise-denoise {chosen}")
    (out / "card.yaml").write_text(yaml.safe_dump(card, sort_keys=False))
    model = load(out)
    test = data.load(sources[0], None, "validation").subset(slice(0, limit))
    lines = measure_all(model, chosen, held, test, log)
    card["accuracy"] = [
        f"{m.method} ({m.settings}): {m.accuracy}" for m in (lines[1], lines[2], lines[4])
    ]
    (out / "card.yaml").write_text(yaml.safe_dump(card, sort_keys=False))
    sample_sheet(model, out / "samples.png")
    text = _readme(recipe, train, held_out(train)[0], lines, fit_images, minutes, seed, more)
    (out / "README.md").write_text(text)
    return lines


def _fit(logits: np.ndarray, labels: np.ndarray) -> float:
    """Rounded to five significant digits: temperatures of distances are far below 1."""
    return float(f"{fit_temperature([(logits, labels)], smooth=True):.5g}")


def best_denoise(model: Any, held: data.Labelled, log: Callable[[str], None]) -> dict[str, Any]:
    """Level and steps of noise-denoise with the best accuracy of two draws on held-out images."""
    accuracy = []
    for options in DENOISE:
        classifier = NoiseDenoise(model, **options, draws=2).fit(held.classes)
        best = classifier.scores(list(held.images)).logits.argmax(1)
        accuracy.append(float((best == held.labels).mean()))
        log(f"held-out accuracy of noise-denoise, {options}: {accuracy[-1]:.3f}")
    return DENOISE[int(np.argmax(accuracy))]


def plan(
    model: Any, denoise: dict[str, Any], reference: list[np.ndarray]
) -> list[tuple[Any, str]]:
    """Every method with its settings in words.

    Args:
        model: A class-conditional backbone.
        denoise: Level and steps of noise-denoise.
        reference: Images that latent kNN may take its units from.
    """
    k = min(4, len(model.classes) - 1)
    steps = denoise["steps"]
    taken = f"{steps} step{'s' * (steps > 1)}"
    return [
        (ELBO(model, draws=8), "8 draws"),
        (ELBO(model, draws=32), "32 draws"),
        (Likelihood(model, steps=LIKELIHOOD_STEPS), f"{LIKELIHOOD_STEPS} Heun steps, 1 probe"),
        (
            Likelihood(model, steps=LIKELIHOOD_STEPS, paired=False),
            f"{LIKELIHOOD_STEPS} Heun steps, unpaired probes",
        ),
        (NoiseDenoise(model, **denoise, draws=4), f"level {denoise['level']:g}, {taken}, 4 draws"),
        (NoiseDenoiseVote(model, steps=steps), f"levels 0.3 to 0.7, {taken}"),
        (LatentKNN(model), "outlier, k = 2"),
        (LatentKNN(model, guidance=3.0), "outlier, k = 2, guidance 3"),
        (
            LatentKNN(model, guidance=3.0, k=k, reference=reference),
            f"outlier, k = {k}, guidance 3, {len(reference)} reference images",
        ),
    ]


def measure_all(
    model: Any,
    denoise: dict[str, Any],
    held: data.Labelled,
    labelled: data.Labelled,
    log: Callable[[str], None],
    keep: Keep = lambda name, make: make(),
) -> list[Line]:
    """A line for each method of `plan`, and one for the other reading of each latent kNN.

    Args:
        model: A class-conditional backbone.
        denoise: Level and steps of noise-denoise.
        held: Images held out of training.
        labelled: Images to measure on.
        log: Called with lines of progress.
        keep: Given a name and what measures it, returns what that returns, now or before.
    """
    lines = []
    for classifier, settings in plan(model, denoise, list(held.images)):
        measured = keep(
            f"{classifier.method} ({settings})", partial(_measure, classifier, settings, labelled)
        )
        lines += [Line(**fields) for fields in measured]
        for fields in measured:
            log(str(fields))
    return lines


def _measure(classifier: Any, settings: str, labelled: data.Labelled) -> list[dict[str, Any]]:
    """Fields of a method's line, and for latent kNN of that of the other reading."""
    scores, seconds = _timed(classifier, labelled)
    lines = [_line(classifier, scores, labelled.labels, settings, seconds)]
    if isinstance(classifier, LatentKNN):
        # The inlier's logits are minus the outlier's: the latents need not be encoded again.
        other = Scores(-scores.logits, scores.evals)
        words = settings.replace("outlier", "inlier")
        lines.append(_line(classifier, other, labelled.labels, words, seconds))
    return [asdict(line) for line in lines]


def _timed(classifier: Any, labelled: data.Labelled) -> tuple[Scores, float]:
    """Scores, and seconds an image."""
    classifier.fit(labelled.classes)
    began = time.perf_counter()
    scores = classifier.scores(list(labelled.images))
    return scores, (time.perf_counter() - began) / len(labelled.labels)


def _line(
    classifier: Any, scores: Scores, labels: np.ndarray, settings: str, seconds: float
) -> Line:
    """Accuracy, calibration and cost."""
    proba = classifier.probabilities(scores)
    right = scores.logits.argmax(1) == labels
    calibrated = classifier.temperature_in_use() != 1
    own = scores.details.get("bits_per_dim")
    n = len(right)
    low, high = wilson(int(right.sum()), n)
    return Line(
        classifier.method,
        settings,
        percent(int(right.sum()), n),
        expected_calibration_error(proba.max(1), right) if calibrated else None,
        round(float(scores.evals.mean())),
        0 if scores.vjps is None else round(float(scores.vjps.mean())),
        seconds,
        int(right.sum()),
        float(low),
        float(high),
        None if own is None else float(own[np.arange(n), labels].mean()),
    )


def sample_sheet(model: Any, path: Path, columns: int = 10, steps: int = 50) -> None:
    """Samples of every class, drawn by DDIM from pure noise."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    generator = torch.Generator().manual_seed(0)
    k = len(model.classes)
    figure, axes = plt.subplots(k, 1, figsize=(columns * 0.75 + 2, 0.75 * k + 0.5), dpi=100)
    for name, axis in zip(model.classes, axes, strict=True):
        x = torch.randn(columns, *model.shape, generator=generator).to(model.device, model.dtype)
        images = model.decode(denoise(model, x, model.embed([name] * columns), 1.0, steps))
        strip = torch.cat(list((images.float().cpu() + 1) / 2), 2).permute(1, 2, 0).numpy()
        axis.imshow(strip, interpolation="nearest")
        axis.axis("off")
        label = name.removeprefix("handwritten ")
        axis.text(-1, model.image_size / 2, label, ha="right", va="center", fontsize=10)
    figure.suptitle(f"Samples: {steps} DDIM steps, no guidance", fontsize=11)
    figure.subplots_adjust(left=0.16, right=0.99, top=0.94, bottom=0.01, hspace=0.08)
    figure.savefig(path)
    plt.close(figure)


def _readme(
    recipe: str,
    train: data.Labelled,
    used: data.Labelled,
    lines: list[Line],
    fit_images: int,
    minutes: float,
    seed: int,
    more: str,
) -> str:
    rows = "\n".join(
        f"| {m.method} | {m.settings} | {m.accuracy} | {'' if m.ece is None else f'{m.ece:.3f}'} "
        f"| {m.evals} | {m.vjps or ''} | {m.seconds:.2f} "
        f"| {'' if m.bits is None else f'{m.bits:.2f}'} |"
        for m in lines
    )
    digits = recipe == "digits-ddpm"
    threads = torch.get_num_threads()
    where = "scikit-learn's digits, BSD-3" if digits else f"{train.name}, no terms stated"
    flag = "" if digits else f" --data {train.name}=PATH"
    limits = (
        "it knows ten handwritten digits of 8x8 pixels; it is the model of the test suite."
        if digits
        else "it was trained on two CPU cores and has seen each image a few times at most: it is "
        "rough,\n  and its numbers are far below those of a network trained on a GPU."
    )
    return f"""# {recipe}

A class-conditional pixel diffusion model in diffusers' `DDPMPipeline` format: a `UNet2DModel` of
{train.images[0].shape[0]}x{train.images[0].shape[1]} pixels that predicts the noise.
A null class serves guidance; `classes` in `card.yaml` names the others.

* **Data**: {len(used.labels):,} images ({where}).
* **Command**: `diffzero train {recipe}{flag} --minutes {minutes:g} --seed {seed}{more} --out DIR`
* **Machine**: 2 CPU cores (AVX2), {minutes:g} minutes, shared with other work.
* **Licence**: Apache-2.0. Weights are fp16 safetensors.
* **Limits**: {limits}

Accuracy on the same validation images for every method (never trained or tuned on), with Wilson
95 % intervals. Level and temperatures were chosen on {fit_images} held-out training images; ECE is
that of `predict_proba` where a temperature was fitted. Cost is per image, on {threads} CPU
{"thread" if threads == 1 else "threads"} of the same machine; VJPs are vector-Jacobian products;
bits are bits per dimension under the true class, with dequantisation.

| method | settings | accuracy | ECE | evaluations | VJPs | seconds | bits |
|---|---|---|---|---|---|---|---|
{rows}

![samples](samples.png)
"""
