"""Algorithm 6 against its steps: the loss of the learned token, and the accuracy it gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..evaluate.metrics import percent, wilson
from ..methods.textual_inversion import TextualInversion
from . import Setting, figure, write

CHECKS, RATE, WINDOW = (0, 5, 10, 20, 50, 100), 0.02, 10


def run(setting: Setting, path: Path) -> dict[str, Any]:
    """One run of the most steps; the tokens are read on the way."""
    model, data = setting.model, setting.data
    labels, n = data.labels, len(data.labels)
    classifier = TextualInversion(model, steps=max(CHECKS), rate=RATE, seed=setting.seed)
    classifier.fit(data.classes)
    learned = classifier.learn(list(data.images), checks=CHECKS)
    right = [int((classifier.distances(v).argmin(1) == labels).sum()) for v in learned.vectors]
    accuracy = np.array(right) / n
    low, high = np.array([wilson(r, n) for r in right]).T
    loss = learned.losses.mean(1)
    smooth = np.convolve(loss, np.ones(WINDOW) / WINDOW, mode="valid")
    fig, axes = figure(10, 4, ncols=2)
    axes[0].plot(np.arange(1, len(loss) + 1), loss, color="#b8c4d9", linewidth=1)
    axes[0].plot(
        np.arange(len(smooth)) + WINDOW, smooth, color="#3b5b92", label=f"mean of {WINDOW}"
    )
    axes[0].set(
        xlabel="step", ylabel="loss, mean squared error", title="Loss of the learned token"
    )
    axes[0].legend(frameon=False)
    axes[1].errorbar(CHECKS, accuracy, yerr=[accuracy - low, high - accuracy], marker="o",
                     capsize=3, color="#2a7f62")  # fmt: skip
    axes[1].axhline(1 / len(data.classes), color="grey", linestyle=":", label="chance")
    axes[1].set(
        xscale="symlog",
        xlim=(-0.5, None),
        ylim=(0, 1),
        xlabel="steps of inversion",
        ylabel="accuracy",
    )
    axes[1].set_xticks(CHECKS, [str(c) for c in CHECKS])
    axes[1].minorticks_off()
    axes[1].set_title(f"Nearest class, n = {n}, 95 % intervals")
    axes[1].legend(frameon=False)
    fig.suptitle(
        f"Textual inversion, {model.name}, rate {RATE:g}, {classifier.draws} draws per step"
    )
    fig.tight_layout()
    write(fig, path)
    return {
        "n": n,
        "rate": RATE,
        "draws": classifier.draws,
        "accuracy": {c: percent(r, n) for c, r in zip(CHECKS, right, strict=True)},
        "loss_first": float(smooth[0]),
        "loss_last": float(smooth[-1]),
        "evals": classifier.count_evals(0),
        "vjps": classifier.count_evals(0),
    }
