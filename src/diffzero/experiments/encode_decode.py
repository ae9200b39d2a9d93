"""Figures 2, 3 and 7 to 10: an image encoded under every label, decoded under every label.

Every cell of the diagonal undoes its own encoding and returns the original; the true label is one
row among the others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..images import to_tensor
from ..scoring.ode import flow, log_grid, s_range
from . import Setting, figure, sheet, short, write

STEPS = 30


def grid_of(model: Any, image: np.ndarray, steps: int) -> tuple[Tensor, Tensor]:
    """`(x_0 [1, *shape], decoded [k, k, *shape])`, rows by encoding label, Heun's steps."""
    x_0 = model.encode(to_tensor([image], model.image_size).to(model.device, model.dtype))
    k = len(model.classes)
    cond = model.embed(model.classes)
    low, high = s_range(model.schedule)
    latents = flow(
        model, x_0.expand(k, *model.shape).contiguous(), cond, log_grid(low, high, steps)
    )
    rows = torch.arange(k, device=model.device).repeat_interleave(k)
    columns = torch.arange(k, device=model.device).repeat(k)
    back = flow(model, latents[rows], cond[columns], log_grid(high, low, steps))
    return x_0, back.view(k, k, *model.shape)


def run(setting: Setting, path: Path) -> dict[str, Any]:
    """Grids of two images of different classes."""
    model, data = setting.model, setting.data
    first = setting.seed % len(data.labels)
    other = next(
        (i for i in range(len(data.labels)) if data.labels[i] != data.labels[first]), first
    )
    picks = [first, other]
    k = len(model.classes)
    fig, axes = figure(2 * (0.62 * k + 1.6), 0.62 * k + 1.2, ncols=2)
    numbers = []
    for axis, pick in zip(axes, picks, strict=True):
        x_0, cells = grid_of(model, data.images[pick], STEPS)
        label = int(data.labels[pick])
        distance = (cells - x_0).flatten(2).square().mean(2).sqrt()
        own = distance.diagonal()
        numbers.append(
            {
                "image": pick,
                "truth": model.classes[label],
                "diagonal_rms": [float(v) for v in own],
                "off_diagonal_rms": float((distance.sum() - own.sum()) / (k * k - k)),
                "row_rms": [float(v) for v in distance.sum(1) / (k - 1)],
            }
        )
        _paint(axis, model, cells, label)
    fig.suptitle(f"Encode and decode under every label, {model.name}", y=0.93)
    write(fig, path)
    worst = max(max(n["diagonal_rms"]) for n in numbers)
    return {
        "images": numbers,
        "steps": STEPS,
        "evals": 2 * 2 * STEPS * (k + k * k),
        "verdict": f"the diagonal returns the original to within {worst:.3f} RMS of [-1, 1]",
    }


def _paint(axis: Any, model: Any, cells: torch.Tensor, label: int) -> None:
    """The grid of one image whose true class is `label`, its diagonal framed."""
    from matplotlib.patches import Rectangle

    k, names = len(model.classes), [short(c) for c in model.classes]
    shown = model.decode(cells.flatten(0, 1)).unflatten(0, (k, k))
    pixels, rows, columns = sheet(shown.permute(0, 1, 3, 4, 2).float().cpu().numpy() / 2 + 0.5)
    axis.imshow(pixels, interpolation="nearest")
    side = shown.shape[-1]  # of pixels, which latents have more of
    for y, x in zip(rows, columns, strict=True):  # the diagonal
        box = (x - side / 2, y - side / 2)
        axis.add_patch(Rectangle(box, side, side, fill=False, color="#2a7f62", linewidth=1.5))
    axis.set_xticks(columns, names, rotation=45, ha="right")
    axis.set_yticks(rows, names)
    axis.get_yticklabels()[label].set_color("#2a7f62")
    axis.get_yticklabels()[label].set_fontweight("bold")
    axis.set(xlabel="decoded under", ylabel="encoded under")
    axis.set_title(f"truth: {names[label]}; the framed diagonal returns the original", size=9)
    axis.tick_params(length=0)
