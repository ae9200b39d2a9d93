"""The paper's two kinds of text-to-image model side by side: Imagen's, of pixels, and Stable
Diffusion's, of latents.

Both answer the same images by every method, with the settings of `text-table`, which were chosen
for the latent model; the pixel model's noise schedule is another, so that a level is not the same
signal-to-noise ratio in both.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..evaluate.metrics import mcnemar
from . import Setting, discordant, figure, write
from .text_table import PLAN, keep, lines_of

BESIDE = "tiny-sd"
COLOURS = ("#2a7f62", "#3b5b92")


def run(setting: Setting, path: Path) -> dict[str, Any]:
    """Accuracy with intervals and evaluations of every method on both models.

    Raises:
        InputError: the model is the one that it is set beside.
    """
    from ..models.load import load

    if setting.model.name == BESIDE:
        raise InputError(
            f"imagen-table sets a model of pixels beside {BESIDE}; got {BESIDE} itself. Give "
            "another --model, such as tiny-if."
        )
    plan = {k: v for k, v in PLAN.items() if v[0] != "clip"}
    latent = load(BESIDE, device=str(setting.model.device))
    kept = keep(setting, path.with_suffix(".partial"), setting.model, setting.clip, latent)
    tables = {
        one.name: lines_of(replace(setting, model=one), plan, kept)
        for one in (setting.model, latent)
    }
    clip = lines_of(setting, {"clip": PLAN["clip"]}, kept)["clip"]
    _paint(setting, tables, clip, path)
    kept.remove()
    pixel, other = tables.values()
    tests = {k: mcnemar(*discordant(pixel[k]["right"], other[k]["right"])) for k in plan}
    return {
        "n": len(setting.data.labels),
        "tables": tables,
        "clip": clip,
        "mcnemar_p_between_models": tests,
    }


def _paint(setting: Setting, tables: dict[str, Any], clip: dict[str, Any], path: Path) -> None:
    n, names = len(setting.data.labels), list(next(iter(tables.values())))
    fig, axis = figure(10.5, 0.62 * len(names) + 1.4)
    for (model, lines), colour, shift in zip(tables.items(), COLOURS, (-0.19, 0.19), strict=True):
        place = np.arange(len(names)) + shift
        values = np.array([line["correct"] / n for line in lines.values()])
        low, high = np.array([line["interval_95"] for line in lines.values()]).T
        axis.barh(place, values, xerr=[values - low, high - values], height=0.34, capsize=2,
                  color=colour, label=model, error_kw={"linewidth": 1})  # fmt: skip
        for y, value, line in zip(place, values, lines.values(), strict=True):
            axis.text(1.02, y, f"{value:.2f}   {line['evals']:,} evals, {line['seconds']:.2g} s",
                      va="center", fontsize=7.5)  # fmt: skip
    axis.axvline(clip["correct"] / n, color="#888888", label=setting.clip.name)
    axis.axvline(1 / len(setting.data.classes), color="grey", linestyle=":", label="chance")
    axis.set_yticks(np.arange(len(names)), names)
    axis.set(xlim=(0, 1), xlabel=f"accuracy, n = {n}, 95 % Wilson intervals")
    axis.invert_yaxis()
    axis.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, fontsize=8)
    axis.set_title(f"{' and '.join(tables)} on {setting.data.name}", loc="left", size=10, pad=24)
    write(fig, path)
