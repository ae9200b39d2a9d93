"""Section 4.2: where pixel distance fails and CLIP distance helps.

The paper found the pixel distance useless for its text model and took CLIP's, which then cannot
be better than CLIP by much. The same reconstructions are judged by both, and by CLIP alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..evaluate.metrics import mcnemar, percent
from ..methods.clip import CLIP
from . import Setting, bars, canvas, parted, write
from .noise_level import distances_by_level

LEVEL, STEPS, GUIDANCE, SHOWN = 0.8, 10, 7.5, 4


def run(setting: Setting, path: Path) -> dict[str, Any]:
    """Accuracy of both distances and of CLIP on the same images, with the images they part on."""
    data, labels, n = setting.data, setting.data.labels, len(setting.data.labels)
    tables = distances_by_level(setting, (LEVEL,), STEPS, GUIDANCE)
    guesses = {f"{metric} distance": t[:, :, 0].argmin(1) for metric, t in tables.items()}
    rival = CLIP(setting.clip).fit(data.classes)
    guesses["CLIP alone"] = rival.scores(list(data.images)).logits.argmax(1)
    right = {name: guess == labels for name, guess in guesses.items()}
    pixel, clip = right["pixel distance"], right["CLIP distance"]
    only = {"pixel": int((pixel & ~clip).sum()), "CLIP": int((clip & ~pixel).sum())}
    p = mcnemar(only["pixel"], only["CLIP"])
    groups = {"only CLIP distance right": np.flatnonzero(clip & ~pixel),
              "only pixel distance right": np.flatnonzero(pixel & ~clip)}  # fmt: skip
    judged = {m: guesses[f"{m} distance"] for m in ("pixel", "CLIP")}
    fig = canvas(12, 4.8)
    grid = fig.add_gridspec(2, SHOWN + 4, wspace=0.35)
    axis = fig.add_subplot(grid[:, :3])
    bars(axis, right, ["#3b5b92", "#2a7f62", "#888888"], [r.replace(" ", "\n") for r in right])
    axis.axhline(1 / len(data.classes), color="grey", linestyle=":")
    axis.set_ylabel(f"accuracy, n = {n}, 95 % intervals")
    axis.set_title(f"McNemar, pixel against CLIP distance: p = {p:.2g}", size=9)
    parted(fig, grid, 4, setting, groups, judged)
    fig.suptitle(f"Distances of the same reconstructions, {setting.model.name}, level {LEVEL:g}")
    write(fig, path)
    return {
        "n": n,
        "level": LEVEL,
        "steps": STEPS,
        "guidance": GUIDANCE,
        "accuracy": {name: percent(int(r.sum()), n) for name, r in right.items()},
        "only_right": only,
        "mcnemar_p": p,
        "verdict": f"pixel {percent(int(pixel.sum()), n)}, CLIP distance "
        f"{percent(int(clip.sum()), n)}, McNemar p = {p:.2g}",
    }
