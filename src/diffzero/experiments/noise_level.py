"""Figure 11: how the distance to each class's reconstruction grows with the noise level.

Little noise leaves nothing to decide, much noise leaves nothing of the image; between them lies
the level at which classes stand apart. Distances are drawn for one image, accuracies for all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..evaluate.metrics import wilson
from ..methods.noise_denoise import NoiseDenoiseVote, clip_features, feature_l2, pixel_l2
from ..models.load import load
from . import Setting, figure, seen, short, write

LEVELS, STEPS, GUIDANCE = (0.2, 0.4, 0.6, 0.8, 0.95), 10, 7.5


def run(setting: Setting, path: Path) -> dict[str, Any]:
    """Distances by level, class and metric; accuracy by level and metric."""
    data, n = setting.data, len(setting.data.labels)
    distances = distances_by_level(setting, LEVELS, STEPS, GUIDANCE)
    fig, axes = figure(12.5, 4.4, ncols=3, width_ratios=[1, 1, 0.9])
    accuracy: dict[str, list[float]] = {}
    intervals: dict[str, list[list[float]]] = {}
    first = int(data.labels[0])
    for axis, (metric, table) in zip(axes, distances.items(), strict=False):
        for c, name in enumerate(data.classes):
            true = c == first
            axis.plot(LEVELS, table[0, c], label=short(name), zorder=3 if true else 2,
                      color="#c2410c" if true else None, linewidth=3 if true else 1,
                      alpha=1 if true else 0.7)  # fmt: skip
        axis.set(xlabel="noise level", ylabel=f"{metric} distance to the reconstruction")
        axis.set_title(f"one image, {metric}; bold: truth ({short(data.classes[first])})", size=9)
        right = [int((table[:, :, i].argmin(1) == data.labels).sum()) for i in range(len(LEVELS))]
        accuracy[metric] = [r / n for r in right]
        intervals[metric] = [list(map(float, wilson(r, n))) for r in right]
        low, high = np.array(intervals[metric]).T
        mean = np.array(accuracy[metric])
        axes[2].errorbar(LEVELS, mean, yerr=[mean - low, high - mean], marker="o", capsize=3,
                         label=metric)  # fmt: skip
    axes[2].axhline(1 / len(data.classes), color="grey", linestyle=":", label="chance")
    axes[2].set(xlabel="noise level", ylabel="accuracy", ylim=(0, 1))
    axes[2].set_title(f"all images, n = {n}, 95 % intervals", size=9)
    axes[2].legend(frameon=False, fontsize=8)
    inset = axes[0].inset_axes([0.03, 0.62, 0.34, 0.34])
    inset.imshow(seen(setting, 0), interpolation="nearest")
    inset.set(xticks=[], yticks=[])
    fig.suptitle(f"Distance against noise level, {setting.model.name}, guidance {GUIDANCE:g}")
    names = axes[1].get_legend_handles_labels()
    fig.legend(*names, loc="lower center", ncols=len(data.classes), frameon=False, fontsize=8)
    fig.tight_layout(rect=(0, 0.06, 1, 1))
    write(fig, path)
    return {
        "n": n,
        "levels": LEVELS,
        "steps": STEPS,
        "guidance": GUIDANCE,
        "accuracy": accuracy,
        "intervals_95": intervals,
        "first_image": {m: t[0].tolist() for m, t in distances.items()},
    }


def distances_by_level(
    setting: Setting, levels: tuple[float, ...], steps: int, guidance: float
) -> dict[str, np.ndarray]:
    """`[n, classes, levels]` of one draw, by metric, of the same reconstructions."""
    clip = load(setting.clip)
    classifier = NoiseDenoiseVote(
        setting.model, levels=levels, steps=steps, guidance=guidance, draws=1, seed=setting.seed
    ).fit(setting.data.classes)
    tables: dict[str, list[np.ndarray]] = {"pixel": [], "CLIP": []}
    for image in setting.data.images:
        original, (returned,) = classifier.reconstructions([image])
        flat = returned[:, :, 0].flatten(0, 1)
        k = len(setting.data.classes)
        pixel = pixel_l2(original.expand_as(flat), flat)
        features = clip_features(clip, flat)
        embedded = feature_l2(clip_features(clip, original).expand_as(features), features)
        for metric, values in (("pixel", pixel), ("CLIP", embedded)):
            tables[metric].append(values.view(k, len(levels)).cpu().numpy())
    return {metric: np.stack(t) for metric, t in tables.items()}
