"""Figure 6: where in the image each class's words are found, all classes in one prompt.

Every image is asked about its own class and three others. The number over a map is what is
compared: the class with the largest wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluate.metrics import percent
from ..methods.cross_attention import CrossAttention
from ..noise import generator as seeded
from . import Setting, figure, seen, short, spread, write
from .text_table import PLAN

ASKED, SHOWN = 4, 6


def run(setting: Setting, path: Path) -> dict[str, Any]:
    """Heat maps over images of different classes; accuracy among four classes for all images."""
    model, data = setting.model, setting.data
    n, k = len(data.labels), len(data.classes)
    asked = min(ASKED, k)
    generator = seeded(setting.seed)
    lists = []
    for label in data.labels:  # the true class stands at a random place
        others = generator.permutation([c for c in range(k) if c != label])[: asked - 1]
        lists.append(generator.permutation([int(label), *map(int, others)]))
    names = [[data.classes[c] for c in own] for own in lists]
    classifier = CrossAttention(model, seed=setting.seed, **PLAN["cross-attention"][1])
    images = list(data.images)
    scores = classifier.scores(images, candidates=names)
    truth = np.array([list(own).index(t) for own, t in zip(lists, data.labels, strict=True)])
    right = scores.logits.argmax(1) == truth
    picks = spread(data.labels, SHOWN)
    shown = classifier.heat_maps([images[i] for i in picks], [names[i] for i in picks])
    _paint(setting, picks, shown, names, scores.logits, truth, path)
    verdict = (
        f"among {asked} classes the largest map is the true one: {percent(int(right.sum()), n)}"
    )
    return {
        "n": n,
        "classes_asked": asked,
        "chance": 1 / asked,
        "accuracy": percent(int(right.sum()), n),
        "evals": int(scores.evals[0]),
        "verdict": verdict,
    }


def _paint(
    setting: Setting,
    picks: list[int],
    shown: Sequence[np.ndarray],
    names: list[list[str]],
    logits: np.ndarray,
    truth: np.ndarray,
    path: Path,
) -> None:
    """A row for each image of `picks`: the image, then its map for each class asked about."""
    data, asked = setting.data, len(names[0])
    size = (1.75 * (asked + 1), 1.95 * len(picks) + 0.9)
    fig, axes = figure(*size, nrows=len(picks), ncols=asked + 1, squeeze=False)
    for row, i, maps in zip(axes, picks, shown, strict=True):
        pixels = seen(setting, i)
        row[0].imshow(pixels, interpolation="nearest")
        row[0].set_title(f"truth: {short(data.classes[data.labels[i]])}", size=9)
        top = np.abs(maps).max()
        best = int(logits[i].argmax())
        for c, (axis, heat) in enumerate(zip(row[1:], maps, strict=True)):
            axis.imshow(pixels.mean(2), cmap="gray", extent=(0, 1, 0, 1), interpolation="nearest")
            axis.imshow(heat, cmap="RdBu_r", vmin=-top, vmax=top, alpha=0.65, extent=(0, 1, 0, 1))
            mark = " ◀" if c == best else ""
            colour = "#2a7f62" if c == truth[i] else "#222222"
            title = f"{short(names[i][c])}{mark}\n{1000 * logits[i, c]:+.2f} ‰"
            weight = "bold" if c == truth[i] else None
            axis.set_title(title, size=8, color=colour, fontweight=weight)
        for axis in row:
            axis.set(xticks=[], yticks=[])
    fig.suptitle(
        f"Attention to each class's words less that of pure noise, {setting.model.name}\n"
        f"green: the truth; ◀: the answer; red: more than noise draws",
        size=10,
    )
    fig.tight_layout(rect=(0, 0, 1, 0.985))
    write(fig, path)
