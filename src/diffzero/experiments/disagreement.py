"""Section 4.2's "disensembling": CLIP right or wrong against diffusion right or wrong.

Where the two err on different images, together they can do better than either: `Blend` averages
their log-probabilities, `HandOver` asks diffusion where CLIP's answer is not stable over templates
and augmentations, in the manner of Ge et al. (2022).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..evaluate.metrics import mcnemar, percent
from ..methods.clip import CLIP
from ..methods.compose import Blend, HandOver
from ..methods.elbo import ELBO
from . import Setting, bars, canvas, parted, write

DRAWS, SHOWN = 16, 5


def run(setting: Setting, path: Path) -> dict[str, Any]:
    """The two-by-two table, McNemar's test, and what combining gains over CLIP."""
    data, labels, n = setting.data, setting.data.labels, len(setting.data.labels)
    elbo, clip = ELBO(setting.model, draws=DRAWS, seed=setting.seed), CLIP(setting.clip)
    members = {
        "CLIP": clip,
        "ELBO": elbo,
        "Blend": Blend([clip, elbo]),
        "HandOver": HandOver(clip, elbo),
    }
    scores = {name: m.fit(data.classes).scores(list(data.images)) for name, m in members.items()}
    right = {name: s.logits.argmax(1) == labels for name, s in scores.items()}
    a, b = right["CLIP"], right["ELBO"]
    table = {
        "both": int((a & b).sum()),
        "only CLIP": int((a & ~b).sum()),
        "only ELBO": int((~a & b).sum()),
        "neither": int((~a & ~b).sum()),
    }
    handed = float(scores["HandOver"].details["handed_over"][:, 0].mean())
    tests = {
        name: mcnemar(int((right[name] & ~a).sum()), int((a & ~right[name]).sum()))
        for name in ("ELBO", "Blend", "HandOver")
    }
    _draw(setting, path, table, right, scores, tests, handed)
    gain = {name: float(right[name].mean() - a.mean()) for name in ("Blend", "HandOver")}
    return {
        "n": n,
        "draws": DRAWS,
        "table": table,
        "accuracy": {name: percent(int(r.sum()), n) for name, r in right.items()},
        "either_right": percent(int((a | b).sum()), n),
        "mcnemar_p_against_clip": tests,
        "gain_over_clip": gain,
        "handed_over": handed,
        "evals": {name: float(s.evals.mean()) for name, s in scores.items()},
        "verdict": f"Blend {percent(int(right['Blend'].sum()), n)} against CLIP's "
        f"{percent(int(a.sum()), n)}: McNemar p = {tests['Blend']:.2g}",
    }


def _draw(
    setting: Setting,
    path: Path,
    table: dict[str, int],
    right: dict[str, np.ndarray],
    scores: dict[str, Any],
    tests: dict[str, float],
    handed: float,
) -> None:
    n = len(setting.data.labels)
    guesses = {who: scores[who].logits.argmax(1) for who in ("CLIP", "ELBO")}
    fig = canvas(12, 5)
    grid = fig.add_gridspec(2, SHOWN + 4, wspace=0.35, hspace=0.55)
    cells = np.array([[table["both"], table["only CLIP"]], [table["only ELBO"], table["neither"]]])
    axis = fig.add_subplot(grid[0, :2])
    axis.imshow(cells, cmap="Blues", vmax=1.6 * cells.max())
    for (y, x), count in np.ndenumerate(cells):
        axis.text(x, y, f"{count}\n{100 * count / n:.0f} %", ha="center", va="center")
    axis.set_xticks([0, 1], ["ELBO right", "ELBO wrong"], size=8)
    axis.set_yticks([0, 1], ["CLIP right", "CLIP wrong"], size=8)
    axis.set_title(f"n = {n}, McNemar p = {tests['ELBO']:.2g}", size=9)
    axis = fig.add_subplot(grid[1, :3])
    names = [f"{name}\n{s.evals.mean():,.0f} evals" for name, s in scores.items()]
    bars(axis, right, ["#888888", "#3b5b92", "#2a7f62", "#c2410c"], names)
    axis.tick_params(axis="x", labelsize=7)
    axis.set_title(f"accuracy; {100 * handed:.0f} % of images handed over", size=9)
    groups = {
        "only ELBO right": np.flatnonzero(right["ELBO"] & ~right["CLIP"]),
        "only CLIP right": np.flatnonzero(right["CLIP"] & ~right["ELBO"]),
    }
    parted(fig, grid, 4, setting, groups, guesses)
    fig.suptitle(f"{setting.model.name} and CLIP on {setting.data.name}")
    write(fig, path)
