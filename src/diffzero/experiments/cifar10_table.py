"""Sections 4.1 and 4.2: every method on the same images, with the paper's numbers beside ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..data import held_out
from ..evaluate.pixel_methods import Line, best_denoise, denoise_choices, measure_all
from ..images import digest
from . import Setting, figure, write
from .text_table import keep

PAPER = {"noise-denoise": 0.92, "latent-knn": 0.81}  # likelihood: "almost the same" for all labels
HELD = 100  # images held out of training that settings and units of latent kNN are taken from


def run(setting: Setting, path: Path) -> dict[str, Any]:
    """Accuracy, evaluations and seconds of each method."""
    held = held_out(setting.train)[1].subset(slice(0, HELD))
    kept = keep(setting, path.with_suffix(".partial"), setting.model)
    chosen_on = {"held out": digest(held.images), "among": denoise_choices(setting.model)}

    def once(name: str, make: Callable[[], Any]) -> Any:
        return kept.get(name, chosen_on, make)

    chosen = once(
        "settings of noise-denoise",
        lambda: best_denoise(setting.model, held, lambda line: None, setting.seed),
    )
    lines = measure_all(
        setting.model, chosen, held, setting.data, lambda line: None, once, setting.seed
    )
    numbers = draw(setting, path, lines)
    kept.remove()
    return numbers


def draw(setting: Setting, path: Path, lines: list[Line]) -> dict[str, Any]:
    """The picture of measured lines."""
    n = len(setting.data.labels)
    fig, axis = figure(10, 0.5 * len(lines) + 1.4)
    place = np.arange(len(lines))
    values = [line.correct / n for line in lines]
    errors = [[v - line.low for v, line in zip(values, lines, strict=True)],
              [line.high - v for v, line in zip(values, lines, strict=True)]]  # fmt: skip
    axis.barh(place, values, xerr=errors, color="#3b5b92", height=0.6, ecolor="#222222", capsize=3)
    for y, line in enumerate(lines):
        cost = f"{line.evals:,} evaluations" + (f", {line.vjps:,} VJPs" if line.vjps else "")
        axis.text(1.02, y, f"{line.correct / n:.2f}   {cost}, {line.seconds:.2f} s", va="center",
                  fontsize=8)  # fmt: skip
        if line.method in PAPER:
            axis.plot(PAPER[line.method], y, marker="D", color="#c2410c", markersize=6)
    axis.plot([], [], "D", color="#c2410c", label="the paper, on CIFAR-10")
    axis.axvline(1 / len(setting.model.classes), color="grey", linestyle=":", label="chance")
    axis.set_yticks(place, [f"{line.method} ({line.settings})" for line in lines])
    axis.set(xlim=(0, 1), xlabel=f"accuracy, n = {n}, 95 % Wilson intervals")
    axis.invert_yaxis()
    axis.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=2)
    axis.set_title(f"{setting.model.name} on {setting.data.name}", loc="left", fontsize=10, pad=24)
    write(fig, path)
    return {"n": n, "lines": [asdict(line) for line in lines], "paper": PAPER}
