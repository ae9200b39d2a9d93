"""Section 4.1: the exact log-likelihood of each label, with probes paired and unpaired.

The paper found the likelihoods of all labels "almost the same". Differences between labels are a
few hundredths of a nat a dimension; the noise of one Hutchinson probe is larger. With the same
probe for every label the noise is common and cancels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..evaluate.metrics import percent
from ..methods.likelihood import Likelihood
from . import Setting, figure, short, write

STEPS, SHOWN = 12, 12
KINDS = ("paired", "unpaired")


def run(setting: Setting, path: Path) -> dict[str, Any]:
    """Accuracy and margins of both, on the same images."""
    model, data = setting.model, setting.data
    labels, n = data.labels, len(data.labels)
    names = [short(c) for c in model.classes]
    dims = int(np.prod(model.shape))
    result: dict[str, Any] = {"n": n, "steps": STEPS, "probes": 1}
    shown = {}
    for kind in KINDS:
        classifier = Likelihood(model, steps=STEPS, paired=kind == "paired", seed=setting.seed)
        scores = classifier.fit(model.classes).scores(list(data.images))
        logits = scores.logits
        right = int((logits.argmax(1) == labels).sum())
        own = logits[np.arange(n), labels]
        unit = next(u for u in ("bits_per_dim", "nats_per_dim") if u in scores.details)
        rest = np.where(np.eye(logits.shape[1], dtype=bool)[labels], -np.inf, logits).max(1)
        result[kind] = {
            "accuracy": percent(right, n),
            "correct": right,
            "margin_mean": float((own - rest).mean()),
            "margin_std": float((own - rest).std()),
            f"{unit}_true": float(scores.details[unit][np.arange(n), labels].mean()),
            "evals": int(scores.evals[0]),
            "vjps": int(scores.vjps[0]) if scores.vjps is not None else 0,
        }
        shown[kind] = (logits - logits.max(1, keepdims=True))[:SHOWN] / dims
    low = min(2 * float(np.median(values)) for values in shown.values())
    fig, axes = figure(12, 0.34 * min(n, SHOWN) + 2.2, ncols=2, sharey=True)
    for axis, (kind, values) in zip(axes, shown.items(), strict=True):
        image = axis.imshow(values, aspect="auto", cmap="viridis", vmin=low, vmax=0)
        for row, ours in enumerate(values):
            best = int(ours.argmax())
            hit = best == labels[row]
            axis.text(best, row, "✓" if hit else "✗", ha="center", va="center",
                      color="black" if hit else "#c2410c", fontweight="bold")  # fmt: skip
        axis.set_xticks(range(len(names)), names, rotation=45, ha="right")
        axis.set_yticks(range(len(values)), [f"truth: {names[t]}" for t in labels[: len(values)]])
        axis.tick_params(length=0)
        axis.set_title(f"{kind} probes: {result[kind]['accuracy']}", fontsize=10)
    fig.colorbar(image, ax=axes, label="log p minus the best, nats a dimension", fraction=0.03)
    fig.suptitle(f"Exact log-likelihood of each label, {model.name}: ✓ and ✗ mark the best")
    write(fig, path)
    return result
