"""What a recipe of pixel models ends with: settings chosen and temperatures fitted on held-out
images, every method measured on the same validation images, a sample sheet, the model card."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from .. import data
from ..data import held_out
from ..evaluate.metrics import fit_temperature
from ..evaluate.pixel_methods import Line, best_denoise, measure_all
from ..methods.elbo import ELBO
from ..methods.noise_denoise import NoiseDenoise
from ..models.load import load
from ..scoring.samplers import denoise
from ..temperature import temperature_entry
from .ddpm import PRESETS

ELBO_DRAWS = (1, 2, 4, 8, 16, 32)


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
