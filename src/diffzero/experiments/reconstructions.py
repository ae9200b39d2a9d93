"""Figure 1: an image noised and denoised under the right caption and under wrong ones.

The wrong caption shown is the one whose reconstruction lies nearest to the image: the rival that
classification has to beat.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..evaluate.metrics import percent
from ..images import to_tensor
from ..methods.noise_denoise import NoiseDenoise, pixel_l2
from ..models.denoiser import as_column
from ..noise import gaussian, image_key
from . import Setting, figure, picture, short, spread, write

LEVEL, STEPS, GUIDANCE, SHOWN = 0.8, 25, 7.5, 6


def run(setting: Setting, path: Path) -> dict[str, Any]:
    """Rows of original, noised, right and wrong reconstruction; how often the right is nearer."""
    model, data = setting.model, setting.data
    images, labels, n = list(data.images), data.labels, len(data.labels)
    classifier = NoiseDenoise(
        model, level=LEVEL, steps=STEPS, guidance=GUIDANCE, draws=1, seed=setting.seed
    ).fit(data.classes)
    shown = spread(labels, SHOWN)
    distances = []
    pictures: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for i, image in enumerate(images):  # one at a time: few are shown
        original, (returned,) = classifier.reconstructions([image])
        own_view = returned[:, 0, 0]
        distances.append(pixel_l2(original.expand_as(own_view), own_view).cpu().numpy())
        if i in shown:
            pictures[i] = original[0], own_view
    table = np.stack(distances)
    own = table[np.arange(n), labels]
    others = np.where(np.eye(len(data.classes), dtype=bool)[labels], np.inf, table)
    rival = others.argmin(1)
    nearer = int((own < others.min(1)).sum())
    _paint(setting, pictures, table, rival, path)
    return {
        "n": n,
        "level": LEVEL,
        "steps": STEPS,
        "guidance": GUIDANCE,
        "evals": classifier.count_evals(len(data.classes)),
        "right_is_nearest": percent(nearer, n),
        "distance_right_mean": float(own.mean()),
        "distance_best_wrong_mean": float(others.min(1).mean()),
        "verdict": f"the right caption comes back nearest of all: {percent(nearer, n)}",
    }


def _paint(
    setting: Setting,
    pictures: dict[int, tuple[torch.Tensor, torch.Tensor]],
    distances: np.ndarray,
    rival: np.ndarray,
    path: Path,
) -> None:
    """Of each image shown: the original, noised, and what came back under truth and rival."""
    model, images, labels = setting.model, setting.data.images, setting.data.labels
    classes = setting.data.classes
    fig, axes = figure(8.4, 2.1 * len(pictures) + 0.9, nrows=len(pictures), ncols=4, squeeze=False)
    for row, (i, (original, returned)) in zip(axes, pictures.items(), strict=True):
        right, wrong = returned[labels[i]], returned[rival[i]]
        if setting.enlarge is not None:
            prompts = [model.template.format(classes[c]) for c in (labels[i], rival[i])]
            right, wrong = setting.enlarge.enlarge(
                torch.stack([right, wrong]), prompts, model, seed=setting.seed
            )
        cells = (original, _noised(model, images[i], setting.seed), right, wrong)
        for axis, cell in zip(row, cells, strict=True):
            axis.imshow(picture(cell), interpolation="nearest")
            axis.set(xticks=[], yticks=[])
        row[0].set_title(f"truth: {short(classes[labels[i]])}", size=9)
        row[1].set_title(f"noised to level {LEVEL:g}", size=9)
        good = distances[i, labels[i]] < distances[i, rival[i]]
        for axis, c, colour in (
            (row[2], labels[i], "#2a7f62" if good else "#222222"),
            (row[3], rival[i], "#222222" if good else "#c2410c"),
        ):
            said = textwrap.fill(f"“{model.template.format(classes[c])}”", 30)
            axis.set_title(f"{said}\ndistance {distances[i, c]:.3f}", size=8, color=colour)
    fig.suptitle(
        f"Denoised under the right caption and under the best wrong one, {model.name}\n"
        f"guidance {GUIDANCE:g}; the nearer is coloured (green: the right one)",
        size=10,
    )
    fig.tight_layout(rect=(0, 0, 1, 0.985))
    write(fig, path)


@torch.no_grad()
def _noised(model: Any, image: np.ndarray, seed: int) -> torch.Tensor:
    x_0 = model.encode(to_tensor([image], model.image_size).to(model.device, model.dtype))
    eps = torch.from_numpy(gaussian(image_key(seed, image), 0, model.shape)).to(x_0)[None]
    t = torch.tensor([LEVEL], device=x_0.device, dtype=torch.float64)
    alpha, sigma = (as_column(s, eps) for s in model.scales(t))
    return model.decode(alpha * x_0 + sigma * eps)[0]
