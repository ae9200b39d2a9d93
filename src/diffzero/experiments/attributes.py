"""Figure 5: two captions that differ in one attribute. Which one brings the image back?

The paper asks it of a face, with and without glasses. Here scenes with and without a white dot
are asked, whose truth is known: by ELBO and by CLIP on all of them, with examples of what the
model makes of an image under either caption.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..data.scene_files import ask
from ..evaluate.metrics import mcnemar, percent
from ..methods.clip import CLIP
from ..methods.elbo import ELBO
from ..methods.noise_denoise import NoiseDenoise, pixel_l2
from . import Setting, canvas, picture, write
from .binding import KINDS, SIDE

DRAWS, SHOWN = 32, 4
LEVEL, STEPS, GUIDANCE = 0.4, 8, 3.0  # of the reconstructions shown
WAYS = ("with", "without")
COLOURS = {"with": "#3b5b92", "without": "#c2410c"}


def run(setting: Setting, path: Path) -> dict[str, Any]:
    """Accuracy by truth and by kind of combination, log-odds, McNemar's test."""
    parts = ask(setting.limit, SIDE, tasks=("attribute",))
    images = [image for part in parts for image in part.images]
    kind = np.repeat(list(KINDS), setting.limit)
    texts = [sorted(c, key=_without) for part in parts for c in part.candidates]
    labels = np.concatenate(
        [[_without(c[i]) for c, i in zip(p.candidates, p.labels, strict=True)] for p in parts]
    ).astype(int)
    options: dict[str, Any] = {"seed": setting.seed, "template": "{}"}
    rivals: dict[str, Any] = {
        "ELBO": ELBO(setting.model, draws=DRAWS, **options),
        "CLIP": CLIP(setting.clip, **options),
    }
    logits = {who: c.scores(images, candidates=texts).logits for who, c in rivals.items()}
    odds = {who: value[:, 0] - value[:, 1] for who, value in logits.items()}
    right = {who: (value < 0).astype(int) == labels for who, value in odds.items()}
    lines = {
        who: {
            f"{way} a dot, {k}": _share(hits[(labels == i) & (kind == k)])
            for k in KINDS
            for i, way in enumerate(WAYS)
        }
        | {k: _share(hits[kind == k]) for k in KINDS}
        for who, hits in right.items()
    }
    ours = int((right["ELBO"] & ~right["CLIP"]).sum())
    theirs = int((right["CLIP"] & ~right["ELBO"]).sum())
    p = mcnemar(ours, theirs)
    _paint(setting, images, texts, labels, odds, right, path)
    n = len(images)
    scores = {who: percent(int(hits.sum()), n) for who, hits in right.items()}
    return {
        "n": n,
        "rival": setting.clip.name,
        "draws": DRAWS,
        "accuracy": scores,
        "by_truth": lines,
        "only_elbo_right": ours,
        "only_clip_right": theirs,
        "mcnemar_p": p,
        "verdict": f"With or without a dot, of {n} scenes: ELBO {scores['ELBO']}, "
        f"CLIP {scores['CLIP']}; McNemar p = {p:.2g}.",
    }


def _without(text: str) -> bool:
    return " without " in text


def _share(hits: np.ndarray) -> str:
    return percent(int(hits.sum()), len(hits)) if len(hits) else "no image"


def _paint(
    setting: Setting,
    images: list[np.ndarray],
    texts: list[list[str]],
    labels: np.ndarray,
    odds: dict[str, np.ndarray],
    right: dict[str, np.ndarray],
    path: Path,
) -> None:
    shown = [i for way in (0, 1) for i in np.flatnonzero(labels == way)[: SHOWN // 2]]
    classifier = NoiseDenoise(
        setting.model, level=LEVEL, steps=STEPS, guidance=GUIDANCE, draws=1, seed=setting.seed,
        template="{}",
    )  # fmt: skip
    originals, returned = classifier.reconstructions(
        [images[i] for i in shown], [texts[i] for i in shown]
    )
    fig = canvas(12.5, 1.75 * len(shown) + 0.9)
    grid = fig.add_gridspec(len(shown), 5, width_ratios=[1, 1, 1, 0.35, 2.6], hspace=0.3)
    for row, i in enumerate(shown):
        made = returned[row][:, 0, 0]
        distances = pixel_l2(originals[row].expand_as(made), made).tolist()
        cells = [originals[row], *made]
        titles = [f"truth: {WAYS[labels[i]]} a dot"]
        titles += [f"“{t}”\ndistance {d:.4f}" for t, d in zip(texts[i], distances, strict=True)]
        for column, (cell, title) in enumerate(zip(cells, titles, strict=True)):
            axis = fig.add_subplot(grid[row, column])
            axis.imshow(picture(cell), interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            nearest = column == 1 + int(np.argmin(distances))
            good = column == 1 + labels[i]
            colour = ("#2a7f62" if good else "#c2410c") if nearest else "#222222"
            axis.set_title(title, size=7, color=colour)
    beside = grid[:, 4].subgridspec(2, 1, hspace=0.35)
    for place, (who, values) in enumerate(odds.items()):
        name = setting.model.name if who == "ELBO" else setting.clip.name
        hits = percent(int(right[who].sum()), len(values))
        axis = fig.add_subplot(beside[place])
        _histogram(axis, values, labels)
        axis.set_title(f"{who}, {name}: {hits}", size=9)
    fig.suptitle(
        f"With or without a dot: denoised from level {LEVEL:g} under either caption (the nearer "
        "coloured, green where right), and the odds",
        size=10,
        y=1.0,
    )
    write(fig, path)


def _histogram(axis: Any, values: np.ndarray, labels: np.ndarray) -> None:
    """Log odds by truth; the half per cent at either end is shown at the edge."""
    low, high = np.quantile(values, [0.005, 0.995]).tolist()
    edges = np.linspace(low, high, 41)
    for way, colour in COLOURS.items():
        own = values[labels == WAYS.index(way)].clip(low, high)
        axis.hist(own, edges.tolist(), color=colour, alpha=0.6, label=f"truly {way}")
    axis.axvline(0, color="black", linewidth=1)
    axis.legend(frameon=False, fontsize=8)
    axis.set_xlabel("logit of “with” minus that of “without”", size=8)
