"""Section 5.1: accuracy of latent kNN against k, under both readings of Algorithm 2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..evaluate.metrics import wilson
from ..methods.latent_knn import LatentKNN, neighbour_logits
from . import Setting, figure, write

PAPER_BEST = 0.81


def run(setting: Setting, path: Path) -> dict[str, Any]:
    """One encoding of every image under every label serves all k and both readings."""
    model, data = setting.model, setting.data
    n, classes = len(data.labels), len(model.classes)
    classifier = LatentKNN(model, seed=setting.seed).fit(model.classes)
    latents = classifier.latents(list(data.images))
    table: dict[str, dict[int, Any]] = {}
    fig, axis = figure(7.5, 4.5)
    for pick, colour in (("outlier", "#2a7f62"), ("inlier", "#c2410c")):
        ks = list(range(1 if pick == "outlier" else 2, classes))
        lines: dict[int, Any] = {}
        for k in ks:
            best = [neighbour_logits(z, k, pick, "mean").argmax() for z in latents]
            correct = int((np.array(best) == data.labels).sum())
            lines[k] = {"accuracy": correct / n, "interval": list(wilson(correct, n))}
        table[pick] = lines
        values = [lines[k]["accuracy"] for k in ks]
        bounds = np.array([lines[k]["interval"] for k in ks]).T
        axis.plot(ks, values, marker="o", color=colour, label=f"{pick}: best {max(values):.2f}")
        axis.fill_between(ks, bounds[0], bounds[1], color=colour, alpha=0.15, linewidth=0)
    axis.axhline(1 / classes, color="grey", linestyle=":", label="chance")
    axis.axhline(PAPER_BEST, color="black", linestyle="--", label="the paper's best on CIFAR-10")
    axis.set(xlabel="k nearest latents", ylabel="accuracy", ylim=(0, 1))
    axis.set_title(f"Latent kNN, {model.name}, n = {n}, bands: 95 % Wilson intervals", fontsize=10)
    axis.legend(frameon=False, loc="upper right", bbox_to_anchor=(1, 0.79))
    write(fig, path)
    return {"n": n, "evals": classifier.count_evals(classes), **table}
