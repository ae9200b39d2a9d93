"""What a recipe of class-conditional models ends with: settings and temperatures chosen on
held-out images, every method measured on the same validation images, a sample sheet, the card."""

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
from ..evaluate.page import template
from ..evaluate.pixel_methods import Line, best_denoise, measure_all
from ..methods.elbo import ELBO
from ..methods.noise_denoise import NoiseDenoise
from ..models.load import load
from ..scoring.samplers import denoise
from ..temperature import temperature_entry
from . import card_facts, ldm, parallel
from .ddpm import PRESETS

RECIPES = (*PRESETS, "cifar10-ldm")
ELBO_DRAWS = (1, 2, 4, 8, 16, 32)


def begin_card(
    recipe: str, out: Path, sets: list[data.Labelled], init: str | None = None
) -> dict[str, Any]:
    """Write what a model cannot be used without into `card.yaml`: family, classes, and a
    pixel model's grey step."""
    latent = recipe not in PRESETS
    card: dict[str, Any] = {
        "family": "ldm" if latent else "ddpm",
        "resolution": ldm.SIDE if latent else PRESETS[recipe]["cpu"].side,
        "template": "{}",
        "classes": sets[0].classes,
    }
    licence = card_facts.licence([sets[0].name], init)
    if licence is not None:
        card["licence"] = licence
    if not latent:
        card["grey_step"] = PRESETS[recipe]["cpu"].grey_step
    (out / "card.yaml").write_text(yaml.safe_dump(card, sort_keys=False), encoding="utf-8")
    return card


def write_card(
    recipe: str,
    out: Path,
    sources: list[str],
    *,
    minutes: float,
    seed: int,
    limit: int,
    device: str = "cpu",
    init: str | None = None,
    log: Callable[[str], None] = print,
    more: str = "",
    fit_images: int = 120,
) -> list[Line]:
    """Measure a class-conditional model and write `card.yaml`, `README.md` and `samples.png`.

    Args:
        recipe: A name in `RECIPES`.
        out: The trained model.
        sources: The one data set it was trained on.
        minutes: Budget of training, for the card.
        seed: Of training, for the card.
        limit: Validation images to measure on.
        device: What it was trained on and is measured on, `cpu` or `cuda`.
        init: The model that training started from, if any.
        log: Called with lines of progress.
        more: Further options of the training command, for the card.
        fit_images: Held-out training images that settings and temperatures are chosen on.
    """
    train = data.load(sources[0], None)
    held = held_out(train)[1].subset(slice(-fit_images, None))
    card = begin_card(recipe, out, [train], init)
    model = load(out, device=device)
    chosen = best_denoise(model, held, log)
    card["temperatures"] = _temperatures(model, chosen, held, log)
    (out / "card.yaml").write_text(yaml.safe_dump(card, sort_keys=False), encoding="utf-8")
    model = load(out, device=device)
    test = data.load(sources[0], None, "validation").subset(slice(0, limit))
    lines = measure_all(model, chosen, held, test, log)
    card["accuracy"] = [
        f"{m.method} ({m.settings}): {m.accuracy}" for m in (lines[1], lines[2], lines[4])
    ]
    (out / "card.yaml").write_text(yaml.safe_dump(card, sort_keys=False), encoding="utf-8")
    sample_sheet(model, out / "samples.png")
    digits, n = recipe == "digits-ddpm", parallel.asked()
    start = f"torchrun --nproc-per-node {n} -m diffzero" if n > 1 else "diffzero"
    text = template("pixel_card.md.j2", Path(__file__).parent, escape=False).render(
        recipe=recipe,
        start=start,
        network=type(model.denoiser.network).__name__,
        latent=model.grey_step is None,
        target={"epsilon": "the noise", "v_prediction": "v"}[model.denoiser.parametrisation],
        side=card["resolution"],
        used=len(held_out(train)[0].labels),
        where=f"{train.name}; {card_facts.terms([train.name])}",
        flag="" if digits else f" --data {train.name}=PATH",
        limits=_limits(digits, card_facts.place(device)),
        licence=card_facts.licence_line([train.name], init),
        trained_on=card_facts.places(device),
        measured_on=card_facts.place(device),
        **{"lines": lines, "fit_images": len(held.labels), "minutes": minutes, "seed": seed},
        more=more,
    )
    (out / "README.md").write_text(text + "\n", encoding="utf-8")
    return lines


def _temperatures(
    model: Any, chosen: dict[str, Any], held: data.Labelled, log: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Entries of the ELBO and of noise-denoise with its chosen settings."""
    images = list(held.images)
    elbo = ELBO(model, draws=max(ELBO_DRAWS), temperature=1.0).fit(held.classes)
    errors = elbo.draw_errors(images)
    fitted: dict[int, float] = {}
    for draws in ELBO_DRAWS:
        logits = np.stack([elbo.reduce(e[:draws]) for e in errors])
        fitted[draws] = _fit(logits, held.labels)
    nd = NoiseDenoise(model, **chosen, draws=4, temperature=1.0).fit(held.classes)
    logits = nd.scores(images).logits
    log(f"temperatures {fitted}; noise-denoise {chosen}")
    return [temperature_entry(elbo, fitted), temperature_entry(nd, {4: _fit(logits, held.labels)})]


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


def _limits(digits: bool, place: str) -> str:
    if digits:
        return "it knows ten handwritten digits of 8x8 pixels; it is the model of the test suite."
    return (
        f"it is small and learned for minutes on {place}: its numbers are far below those\n"
        "  of a network of the literature."
    )
