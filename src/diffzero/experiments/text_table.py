"""Every method of text-to-image models on the same images, and CLIP, with the paper's numbers.

Settings were chosen on images held out of training, see `docs/how-to-choose-a-method.md`.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..classifier import Scores
from ..evaluate.memory import peak_memory
from ..evaluate.metrics import percent, wilson
from ..images import digest
from ..methods import make
from . import Kept, Setting, figure, fingerprint, write

# The paper's own on other data: Stable Diffusion's noise-denoise and CLIP ViT-L/14 on Flowers-10.
PAPER = {"noise-denoise, the paper's": 0.7661, "clip": 0.9189}
LAYERS = ("up_blocks.*.attentions.0*",)
PLAN: dict[str, tuple[str, dict[str, Any]]] = {
    "elbo, 16 draws": ("elbo", {"draws": 16}),
    "noise-denoise": ("noise-denoise", {"level": 0.6, "steps": 8, "draws": 1, "guidance": 7.5}),
    "noise-denoise, the paper's": (
        "noise-denoise",
        {"level": 0.8, "steps": 8, "draws": 1, "guidance": 7.5, "distance": "clip-l2"},
    ),
    "noise-denoise-vote": (
        "noise-denoise-vote",
        {"levels": (0.4, 0.5, 0.6, 0.7, 0.8), "steps": 2, "guidance": 7.5},
    ),
    "cross-attention": ("cross-attention", {"layers": LAYERS, "t": 0.8, "draws": 2}),
    "textual-inversion": ("textual-inversion", {"steps": 20, "rate": 0.02}),
    "weighted": ("weighted", {"steps": 16, "draws": 4}),
    "weighted, one step": ("weighted", {"steps": 1, "draws": 32, "t_range": (0.3, 1.0)}),
    "latent-knn, guidance 3": ("latent-knn", {"guidance": 3.0, "steps": 8}),
    "likelihood": ("likelihood", {"steps": 6, "solver": "heun"}),
    "clip": ("clip", {}),
}


def run(setting: Setting, path: Path) -> dict[str, Any]:
    """Accuracy with intervals, evaluations, VJPs, seconds and peak memory an image."""
    n = len(setting.data.labels)
    kept = keep(setting, path.with_suffix(".partial"), setting.model, setting.clip)
    lines = lines_of(setting, PLAN, kept)
    fig, axis = figure(10.5, 0.5 * len(lines) + 1.4)
    place = np.arange(len(lines))
    values = np.array([line["correct"] / n for line in lines.values()])
    low, high = np.array([line["interval_95"] for line in lines.values()]).T
    axis.barh(place, values, xerr=[values - low, high - values], height=0.6, capsize=3,
              color=["#888888" if name == "clip" else "#3b5b92" for name in lines])  # fmt: skip
    for y, (name, line) in enumerate(lines.items()):
        vjps = f", {line['vjps']:,} VJPs" if line["vjps"] else ""
        axis.text(1.02, y, f"{values[y]:.2f}   {line['evals']:,} evals{vjps}, "
                  f"{line['seconds']:.2g} s, {line['peak_mib']:.0f} MiB", va="center",
                  fontsize=8)  # fmt: skip
        if name in PAPER:
            axis.plot(PAPER[name], y, marker="D", color="#c2410c", markersize=6)
    axis.plot([], [], "D", color="#c2410c", label="the paper, SD 1.5 and ViT-L/14 on Flowers-10")
    axis.axvline(1 / len(setting.data.classes), color="grey", linestyle=":", label="chance")
    axis.set_yticks(place, list(lines))
    axis.set(xlim=(0, 1), xlabel=f"accuracy, n = {n}, 95 % Wilson intervals")
    axis.invert_yaxis()
    axis.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize=8)
    axis.set_title(f"{setting.model.name} on {setting.data.name}", loc="left", fontsize=10, pad=24)
    write(fig, path)
    kept.remove()
    return {"n": n, "lines": lines, "paper": PAPER}


def keep(setting: Setting, path: Path, *models: Any) -> Kept:
    """Where lines are kept that were measured with these models on the setting's images."""
    images = digest(setting.data.images)
    return Kept(path, [*map(fingerprint, models), setting.data.name, setting.seed, images])


def lines_of(
    setting: Setting, plan: dict[str, tuple[str, dict[str, Any]]], kept: Kept
) -> dict[str, dict[str, Any]]:
    """Every line of the plan."""
    return {
        name: kept.get(
            f"{setting.model.name}, {name}",
            options,
            partial(measure, setting, method, options),
        )
        for name, (method, options) in plan.items()
    }


def measure(setting: Setting, method: str, options: dict[str, Any]) -> dict[str, Any]:
    """One method on all images; memory is what one image needs beyond the loaded model."""
    data, n = setting.data, len(setting.data.labels)
    classifier = classifier_of(setting, method, options).fit(data.classes)
    images = list(data.images)
    with peak_memory(setting.model.device) as peak:
        classifier.scores(images[0])
    began = time.perf_counter()
    scores = classifier.scores(images)
    seconds = (time.perf_counter() - began) / n
    return {
        "method": method,
        "settings": options,
        **outcome(scores, data.labels),
        "seconds": seconds,
        "peak_mib": peak.mib,
    }


def classifier_of(setting: Setting, method: str, options: dict[str, Any]) -> Any:
    """The method on the setting's model, or on its baseline; CLIP's distance is the baseline's."""
    model = setting.clip if method == "clip" else setting.model
    if options.get("distance") == "clip-l2":
        options = {**options, "clip": setting.clip}
    return make(method, model, {"seed": setting.seed, **options})


def outcome(scores: Scores, labels: np.ndarray) -> dict[str, Any]:
    """Accuracy with its interval, right or wrong image by image, mean evaluations and VJPs."""
    right = scores.logits.argmax(1) == labels
    correct, n = int(right.sum()), len(right)
    return {
        "accuracy": percent(correct, n),
        "correct": correct,
        "right": "".join("01"[int(r)] for r in right),
        "interval_95": list(map(float, wilson(correct, n))),
        "evals": round(float(scores.evals.mean())),
        "vjps": 0 if scores.vjps is None else round(float(scores.vjps.mean())),
    }
