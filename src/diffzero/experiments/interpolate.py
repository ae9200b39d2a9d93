"""Figure 4: spherical interpolation between the latents of two images of one class.

Four rows: encoded under the true or a false label, decoded under the true or a false label.

References:
    Song et al., Denoising Diffusion Implicit Models, 2021. https://arxiv.org/abs/2010.02502
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..images import to_tensor
from ..scoring.ode import flow, log_grid, s_range
from . import Setting, figure, short, write

STEPS, FRAMES = 30, 9


def slerp(a: Tensor, b: Tensor, u: Tensor) -> Tensor:
    """`(sin((1 - u) w) a + sin(u w) b) / sin w`, w the angle between a and b; `[f, *shape]`."""
    angle = torch.arccos(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), 0))
    u = u.view(-1, *[1] * a.ndim)
    if angle.abs() < 1e-4:  # parallel: the straight line is the arc
        return (1 - u) * a + u * b
    return (torch.sin((1 - u) * angle) * a + torch.sin(u * angle) * b) / torch.sin(angle)


def run(setting: Setting, path: Path) -> dict[str, Any]:
    """One pair of images."""
    model, data = setting.model, setting.data
    truth = int(data.labels[setting.seed % len(data.labels)])
    pair = np.flatnonzero(data.labels == truth)[:2]
    if len(pair) < 2:
        raise InputError("interpolate needs two images of one class; raise --limit.")
    false = (truth + 1) % len(model.classes)
    x_0 = model.encode(
        to_tensor([data.images[i] for i in pair], model.image_size).to(model.device, model.dtype)
    )
    low, high = s_range(model.schedule)
    up, down = log_grid(low, high, STEPS), log_grid(high, low, STEPS)
    frames = torch.linspace(0, 1, FRAMES, device=model.device, dtype=model.dtype)
    fig, axes = figure(FRAMES * 0.95 + 2.4, 4.4, nrows=4)
    ends = {}
    cases = [(truth, truth), (truth, false), (false, truth), (false, false)]
    for axis, (encoded, decoded) in zip(axes, cases, strict=True):
        latents = flow(model, x_0, model.embed([model.classes[encoded]] * 2), up)
        path_of = slerp(latents[0], latents[1], frames)
        images = flow(model, path_of, model.embed([model.classes[decoded]] * FRAMES), down)
        strip = torch.cat(list(model.decode(images).float().cpu()), 2).permute(1, 2, 0)
        axis.imshow((strip.numpy() + 1) / 2, interpolation="nearest")
        axis.set(xticks=[], yticks=[])
        kind = f"{_truth(encoded == truth)}-{_truth(decoded == truth)}"
        label = f"{kind}\n{short(model.classes[encoded])} → {short(model.classes[decoded])}"
        axis.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
        ends[kind] = float((images[[0, -1]] - x_0).square().mean().sqrt())
    fig.suptitle(
        f"Slerp between two images of class {short(model.classes[truth])}: "
        f"encoded-decoded under true or false labels, {model.name}",
        fontsize=10,
    )
    write(fig, path)
    return {
        "truth": model.classes[truth],
        "false": model.classes[false],
        "images": [int(i) for i in pair],
        "rms_of_the_ends": ends,
        "evals": 4 * 2 * STEPS * (2 + FRAMES),
    }


def _truth(value: bool) -> str:
    return "true" if value else "false"
