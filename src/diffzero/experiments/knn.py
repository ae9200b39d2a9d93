"""Section 5.1: accuracy of latent kNN against k, under both readings of Algorithm 2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..evaluate.metrics import wilson
from ..methods.latent_knn import LatentKNN, neighbour_logits
from . import Setting, figure, write

PAPER_BEST = 0.81
GUIDANCES = (1.0, 3.0)


def run(setting: Setting, path: Path) -> dict[str, Any]:
    """One encoding of every image under every label serves all k and both readings."""
    model, data = setting.model, setting.data
    n, classes = len(data.labels), len(model.classes)
    guidances = GUIDANCES if getattr(model.conditioner, "null_class", None) is not None else (1.0,)
    fig, axis = figure(7.5, 4.5)
    table: dict[str, Any] = {}
    evals = {}
    for guidance, style in zip(guidances, ("--", "-"), strict=False):
        classifier = LatentKNN(model, guidance=guidance, seed=setting.seed).fit(model.classes)
        latents = classifier.latents(list(data.images))
        evals[f"{guidance:g}"] = classifier.count_evals(classes)
        for pick, colour in (("outlier", "#2a7f62"), ("inlier", "#c2410c")):
            lines = _against_k(latents, data.labels, pick)
            table[f"{pick}, guidance {guidance:g}"] = lines
            values = [line["accuracy"] for line in lines.values()]
            bounds = np.array([line["interval"] for line in lines.values()]).T
            label = f"{pick}, guidance {guidance:g}: best {max(values):.2f}"
            axis.plot(list(lines), values, style, marker="o", color=colour, label=label)
            axis.fill_between(list(lines), *bounds, color=colour, alpha=0.12, linewidth=0)
    axis.axhline(1 / classes, color="grey", linestyle=":", label="chance")
    axis.axhline(PAPER_BEST, color="black", linestyle=":", label="the paper's best, on CIFAR-10")
    axis.set(xlabel="k nearest latents", ylabel="accuracy", ylim=(0, 1))
    axis.set_title(f"Latent kNN, {model.name}, n = {n}, bands: 95 % Wilson intervals", fontsize=10)
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    write(fig, path)
    return {"n": n, "evals_by_guidance": evals, **table}


def _against_k(latents: np.ndarray, labels: np.ndarray, pick: str) -> dict[int, Any]:
    """Accuracy and interval for every k that the reading allows."""
    n, classes = latents.shape[:2]
    lines = {}
    for k in range(1 if pick == "outlier" else 2, classes):
        best = [neighbour_logits(z, k, pick, "mean").argmax() for z in latents]
        correct = int((np.array(best) == labels).sum())
        lines[k] = {"accuracy": correct / n, "interval": list(wilson(correct, n))}
    return lines
