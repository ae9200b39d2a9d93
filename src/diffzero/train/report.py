"""What a recipe ends with: temperatures, measured accuracies, a sample sheet, the model card.

Temperatures are fitted on images held out of the training files; accuracies are measured on the
validation files, which nothing is tuned on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import torch
import yaml

from .. import data
from ..data import all_captions, held_out, scene_files
from ..data.scenes import TASKS
from ..evaluate.metrics import expected_calibration_error, fit_temperature, percent
from ..evaluate.page import template
from ..methods.clip import CLIP
from ..methods.cross_attention import CrossAttention
from ..methods.elbo import ELBO
from ..methods.weighted import Weighted
from ..models.backbone import Backbone
from ..models.load import load
from ..temperature import temperature_entry
from . import card_facts, flow
from .tokenizer import split_words

DRAWS = (1, 2, 4, 8, 16, 32)
FIT_IMAGES, METHOD_IMAGES = 400, 100  # for ELBO's temperatures, for those of other methods
SHEET_STEPS = 40
SHEET_SCENES = (  # on the sample sheet of a model that knows scenes
    "a red circle",
    "a blue circle",  # never seen in training
    "a large green square with a dot",
    "a small yellow cross without a dot",
    "a red square and a blue triangle",
    "a blue square and a red triangle",
    "a cyan circle to the left of a purple square",
    "a cyan circle above a purple square",
    "two green triangles",
    "four green triangles",
)
FAMILIES = {
    "tiny-sd": "stable-diffusion",
    "tiny-if": "deepfloyd",
    "tiny-clip": "clip",
    "tiny-flow": "sd3",
    "photos-sd": "stable-diffusion",
}


@dataclass(frozen=True)
class Measured:
    """One line of a card."""

    name: str
    draws: int
    accuracy: str
    ece: float
    evals: int
    seconds: float

    def text(self) -> str:
        """As the list of models shows it."""
        draws = f" at {self.draws} draws" if self.draws else ""
        return f"{self.name}: {self.accuracy}{draws}"


def begin_card(
    recipe: str, out: Path, sets: list[data.Labelled], init: str | None = None
) -> dict[str, Any]:
    """Write what a model is not used without into `card.yaml`: family, prompt, words, window."""
    card: dict[str, Any] = {
        "family": FAMILIES[recipe],
        "template": "a photo of a {}",
        "vocabulary": sorted({w for c in all_captions(sets) for w in split_words(c)}),
    }
    licence = card_facts.licence([s.name for s in sets], init)
    if licence is not None:
        card["licence"] = licence
    if recipe == "tiny-flow":  # its network reads T5's padding: 256 tokens would be another model
        card["window"] = flow.WINDOW
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
) -> None:
    """Fit temperatures, measure, and write `card.yaml`, `README.md` and `samples.png` in `out`.

    Args:
        recipe: A name in `FAMILIES`.
        out: The trained model.
        sources: The data sets it was trained on.
        minutes: Budget of training, for the card.
        seed: Of training, for the card.
        limit: Validation images to measure on, of each set.
        device: What it was trained on and is measured on, `cpu` or `cuda`.
        init: The model that training started from, if any.
        log: Called with lines of progress.
        more: Further options of the training command, for the card.
    """
    sets = [data.load(s, None) for s in sources]
    card = begin_card(recipe, out, sets, init)
    model = load(out, device=device)
    diffusion = isinstance(model, Backbone)
    side = model.image_size if diffusion else model.processor.crop_size["height"]
    card["resolution"] = side
    named = [s for s in sets if not s.whole]  # the others have candidates and no classes
    table = _logits_by_draws(model, [_tail(held_out(s)[1], FIT_IMAGES) for s in named], log)
    method = "clip" if recipe == "tiny-clip" else "elbo"
    fitted = {
        draws: float(f"{fit_temperature(groups, smooth=True):.5g}")
        for draws, groups in table.items()
    }
    fresh = ELBO(model) if method == "elbo" else CLIP(model)
    card["temperatures"] = [temperature_entry(fresh, fitted)] if fitted else []
    if method == "elbo" and named:
        tails = [_tail(held_out(s)[1], METHOD_IMAGES) for s in named]
        card["temperatures"] += method_temperatures(model, tails)
    log(f"temperatures {fitted}")
    measured = _measure_all(model, sources, sets, fitted, limit, log)
    card["accuracy"] = [m.text() for m in measured if m.draws in (0, max(DRAWS))]
    (out / "card.yaml").write_text(
        yaml.safe_dump(card, sort_keys=False, allow_unicode=True), encoding="utf-8"
    )
    if method == "elbo" and named:
        prompts = {c: card["template"].format(c) for s in named for c in s.classes}
        if len(named) < len(sets):
            prompts |= {text: text for text in SHEET_SCENES}
        sample_sheet(out, prompts, device=device)
    options = f"--minutes {minutes:g} --seed {seed}{more} --out DIR"
    text = template("card.md.j2", Path(__file__).parent, escape=False).render(
        recipe=recipe,
        what=fill(_what(recipe, side), 98),
        facts=_facts(sources, sets, side, f"diffzero train {recipe} {{}} {options}"),
        measured=measured,
        fitted=", ".join(f"{d}: {t:g}" for d, t in fitted.items()),
        minutes=minutes,
        licence=card_facts.licence_line([s.name for s in sets], init),
        trained_on=card_facts.places(device),
        measured_on=card_facts.place(device),
        drawn=method == "elbo" and bool(named),
    )
    (out / "README.md").write_text(text, encoding="utf-8")


def _measure_all(
    model: Any,
    sources: list[str],
    sets: list[data.Labelled],
    fitted: dict[int, float],
    limit: int,
    log: Callable[[str], None],
) -> list[Measured]:
    """Lines of every data set, on its validation images."""
    measured = []
    for source, labelled in zip(sources, sets, strict=True):
        if labelled.whole:
            files = data.part_files(source.rpartition("=")[2], "validation")
            if scene_files.are_scenes(files):  # some are made for training alone
                measured += _measure_tasks(model, labelled.name, files, fitted, limit, log)
            else:
                log(f"{labelled.name}: no scenes to measure on")
        else:
            test = data.load(source, None, "validation").subset(slice(0, limit))
            measured += _measure(model, test, fitted, log)
    return measured


def method_temperatures(model: Any, sets: list[data.Labelled]) -> list[dict[str, Any]]:
    """Entries of other methods at their default settings."""
    found = []
    for classifier, number in ((Weighted(model), 64), (CrossAttention(model), 1)):
        groups = []
        for labelled in sets:
            classifier.fit(labelled.classes)
            groups.append((classifier.scores(list(labelled.images)).logits, labelled.labels))
        best = float(f"{fit_temperature(groups, smooth=True):.5g}")
        found.append(temperature_entry(classifier, {number: best}))
    return found


def _tail(labelled: data.Labelled, n: int) -> data.Labelled:
    return labelled.subset(slice(-n, None))


def _logits_by_draws(
    model: Any, sets: list[data.Labelled], log: Callable[[str], None]
) -> dict[int, list[tuple[np.ndarray, np.ndarray]]]:
    """For each number of draws, `(logits, labels)` of every set. Nested draws: one pass."""
    table: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
    for labelled in sets:
        for draws, logits in _logits(model, labelled)[0].items():
            table.setdefault(draws, []).append((logits, labelled.labels))
        log(f"scored {len(labelled.labels)} held-out images of {labelled.name}")
    return table


def _logits(model: Any, labelled: data.Labelled) -> tuple[dict[int, np.ndarray], float, int]:
    """Logits by draws, seconds and evaluations at the largest number of draws (0: none drawn)."""
    began = time.perf_counter()
    images = list(labelled.images)
    if not isinstance(model, Backbone):
        scores = CLIP(model, temperature=1.0).fit(labelled.classes).scores(images)
        return {1: scores.logits}, time.perf_counter() - began, 1
    classifier = ELBO(model, draws=max(DRAWS), temperature=1.0).fit(labelled.classes)
    errors = classifier.draw_errors(images)
    logits = {d: np.stack([classifier.reduce(e[:d]) for e in errors]) for d in DRAWS}
    return logits, time.perf_counter() - began, classifier.count_evals(len(labelled.classes))


def _measure(
    model: Any,
    labelled: data.Labelled,
    temperatures: dict[int, float],
    log: Callable[[str], None],
) -> list[Measured]:
    from scipy.special import softmax

    table, seconds, evals = _logits(model, labelled)
    n, largest = len(labelled.labels), max(table)
    lines = []
    for draws, logits in table.items():
        proba = softmax(logits / temperatures[draws], axis=1)
        right = proba.argmax(1) == labelled.labels
        lines.append(
            Measured(
                labelled.name,
                draws if largest > 1 else 0,
                percent(int(right.sum()), n),
                expected_calibration_error(proba.max(1), right),
                evals * draws // largest,
                seconds / n * draws / largest,
            )
        )
        log(f"{lines[-1].text()}  ECE {lines[-1].ece:.3f}")
    return lines


def _measure_tasks(
    model: Any,
    name: str,
    files: list[Path],
    temperatures: dict[int, float],
    limit: int,
    log: Callable[[str], None],
) -> list[Measured]:
    """A line for each task of a compositional set, seen and held out, `limit` images in all."""
    from scipy.special import softmax

    lines = []
    most = max(1, limit // (2 * len(TASKS)))
    for part in scene_files.questions(files, most):
        diffusion = isinstance(model, Backbone)
        draws = max(DRAWS) if diffusion else 0
        options: dict[str, Any] = {"template": "{}", "temperature": 1.0}
        classifier = ELBO(model, draws=draws, **options) if diffusion else CLIP(model, **options)
        began = time.perf_counter()
        scores = classifier.scores(part.images, candidates=part.candidates)
        seconds = (time.perf_counter() - began) / len(part.labels)
        proba = softmax(scores.logits / temperatures.get(draws or 1, 1.0), axis=1)
        right = proba.argmax(1) == part.labels
        lines.append(
            Measured(
                f"{name}, {part.name}",
                draws,
                percent(int(right.sum()), len(right)),
                expected_calibration_error(proba.max(1), right),
                int(scores.evals.mean()),
                seconds,
            )
        )
        log(lines[-1].text())
    return lines


def sample_sheet(
    folder: Path, prompts: dict[str, str], guidance: float = 3.0, device: str = "cpu"
) -> None:
    """Eight samples of every prompt, drawn by diffusers' own pipeline, as `samples.png`.

    Args:
        folder: Of the pipeline; the picture goes there.
        prompts: By what stands beside their samples.
        guidance: Of the sampler.
        device: For the networks; the noise is drawn on the CPU.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from diffusers import DiffusionPipeline

    from ..models.quiet import quiet

    with quiet():
        pipeline = DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
        pipeline.to(device)
    pipeline.set_progress_bar_config(disable=True)
    own = getattr(pipeline, "unet", None) or pipeline.transformer
    side = own.config.sample_size * getattr(pipeline, "vae_scale_factor", 1)
    more = {} if hasattr(pipeline, "unet") else {"max_sequence_length": flow.WINDOW}
    names, each = list(prompts), [text for text in prompts.values() for _ in range(8)]
    generator = torch.Generator().manual_seed(0)
    with quiet():
        images = pipeline(
            each,
            height=side,
            width=side,
            num_inference_steps=SHEET_STEPS,
            guidance_scale=guidance,
            generator=generator,
            output_type="np",
            **more,
        ).images
    rows = -(-len(names) // 2)
    size = (11, 0.72 * rows + 0.6)
    figure, axes = plt.subplots(rows, 2, figsize=size, dpi=100, squeeze=False)
    for axis in np.ravel(axes):
        axis.axis("off")
    for i, name in enumerate(names):
        axis = axes[i % rows, i // rows]
        axis.imshow(np.concatenate(list(images[8 * i : 8 * i + 8]), 1), interpolation="nearest")
        label = fill(name.removeprefix("handwritten "), 17)
        axis.text(-4, side / 2, label, ha="right", va="center", fontsize=9)
    figure.suptitle(f"Samples: {SHEET_STEPS} steps, guidance {guidance:g}", fontsize=11)
    figure.subplots_adjust(
        left=0.13, right=0.99, top=1 - 0.5 / (0.72 * rows), bottom=0.01, wspace=0.32
    )
    figure.savefig(folder / "samples.png")
    plt.close(figure)


def _what(recipe: str, side: int) -> str:
    return {
        "tiny-sd": "A text-to-image latent diffusion model in Stable Diffusion's on-disk format: "
        "CLIPTextModel, AutoencoderKL (32 pixels to 8x8x4), UNet2DConditionModel, a small "
        "tokenizer.",
        "tiny-if": f"A text-to-image diffusion model of {side}-pixel images in DeepFloyd IF's "
        "on-disk format: T5EncoderModel, UNet2DConditionModel with a learned variance, a small "
        "tokenizer.",
        "tiny-flow": "A text-to-image flow matching model in Stable Diffusion 3's on-disk format: "
        "tiny-sd's AutoencoderKL (32 pixels to 8x8x4), SD3Transformer2DModel, two "
        "CLIPTextModelWithProjection, of which the first is tiny-sd's with a third layer, and "
        "T5EncoderModel. It saw false captions at the same noise, see `train/flow.py`.",
        "photos-sd": "A text-to-image latent diffusion model of photographs in Stable Diffusion's "
        "on-disk format: CLIPTextModel, AutoencoderKL (32 pixels to 8x8x8), UNet2DConditionModel, "
        "a small tokenizer. Its autoencoder was told the classes of the images and its U-Net saw "
        "false captions at the same noise, see `train/photographs.py`.",
        "tiny-clip": "A CLIPModel trained on the captions of tiny-sd: the baseline.",
    }[recipe]


def _facts(sources: list[str], sets: list[data.Labelled], side: int, command: str) -> str:
    """The card's first bullets: what was learned from, and the command."""
    flags = " ".join(
        f"--data {s.name}=PATH" for s, source in zip(sets, sources, strict=True)
        if source != "digits=digits"
    )  # fmt: skip
    counts = ", ".join(f"{len(held_out(s)[0].labels):,} images of {s.name}" for s in sets)
    texts = (
        f"* **Data**: {counts}, brought to {side} pixels; captions from `data/captions.yaml` "
        f"or the images' own. Terms: {card_facts.terms([s.name for s in sets])}.",
        f"* **Command**: `{command.format(flags)}`",
    )
    return "\n".join(
        fill(text, 98, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        for text in texts
    )
