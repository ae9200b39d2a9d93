"""The plots of the report, as SVG text sized for a phone's width."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np

from .metrics import BINS, bin_of, confusion, wilson

COLOURS = ("#2f5d8a", "#c2410c", "#2a7f62", "#7c3aed", "#a16207", "#475569")
WIDTH, HEIGHT = 4.7, 3.5
STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#94a3b8",
    "axes.grid": True,
    "grid.color": "#e8ecf1",
    "axes.axisbelow": True,
}


def draw(paint: Any, salt: str, width: float = WIDTH, height: float = HEIGHT) -> str:
    """A figure as a data URI for an `<img>`; `paint` gets its axes."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({**STYLE, "svg.hashsalt": salt}):
        figure = Figure(figsize=(width, height), layout="constrained")
        paint(figure.add_subplot())
        text = io.BytesIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(text.getvalue()).decode()


def colour(i: int) -> str:
    """Of the i-th run."""
    return COLOURS[i % len(COLOURS)]


def cost_plot(points: list[dict[str, Any]]) -> str:
    """Accuracy with its interval against evaluations per image.

    Args:
        points: `name`, `cost`, `accuracy`, `low`, `high` each.
    """

    def paint(axis: Any) -> None:
        for i, p in enumerate(points):
            errors = [[p["accuracy"] - p["low"]], [p["high"] - p["accuracy"]]]
            axis.errorbar(
                p["cost"], p["accuracy"], errors, fmt="o", color=colour(i), capsize=3,
                label=p["name"],
            )  # fmt: skip
        axis.set(xscale="log", xlabel="network evaluations per image", ylabel="accuracy")
        costs = [p["cost"] for p in points]
        axis.set_xlim(min(costs) / 2.5, max(costs) * 2.5)
        _legend(axis, len(points))

    return draw(paint, "cost", height=HEIGHT + 0.2 * len(points))


def _legend(axis: Any, count: int) -> None:
    axis.legend(
        frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=9,
        ncols=1 if count > 2 else max(1, count),
    )  # fmt: skip


def draws_plot(curves: dict[str, list[dict[str, float]]]) -> str:
    """Accuracy against draws, bands: Wilson's intervals."""

    def paint(axis: Any) -> None:
        for i, (name, points) in enumerate(curves.items()):
            x = [p["draws"] for p in points]
            axis.plot(x, [p["accuracy"] for p in points], "-o", color=colour(i), label=name)
            axis.fill_between(
                x, [p["low"] for p in points], [p["high"] for p in points],
                color=colour(i), alpha=0.15, linewidth=0,
            )  # fmt: skip
        axis.set_xscale("log", base=2)
        ticks = sorted({p["draws"] for points in curves.values() for p in points})
        axis.set_xticks(ticks, [str(t) for t in ticks])
        axis.minorticks_off()
        axis.set(xlabel="draws of noise", ylabel="accuracy")
        _legend(axis, len(curves))

    return draw(paint, "draws", height=HEIGHT + 0.2 * len(curves))


def survival_plot(left: np.ndarray, salt: str) -> str:
    """Mean number of classes that still draw, against the draw: `[most draws]`."""

    def paint(axis: Any) -> None:
        axis.step(np.arange(1, len(left) + 1), left, where="mid", color=COLOURS[0])
        axis.set(xlabel="draw of noise", ylabel="classes that see it, mean", ylim=(0, None))

    return draw(paint, "survival" + salt)


def reliability_plot(confidence: np.ndarray, right: np.ndarray, salt: str) -> str:
    """Accuracy against confidence in 15 bins; the area of a dot is the share of images."""

    def paint(axis: Any) -> None:
        index = bin_of(confidence)
        axis.plot([0, 1], [0, 1], color="#94a3b8", linewidth=1, linestyle="--")
        for b in range(BINS):
            inside = index == b
            n = int(inside.sum())
            if n == 0:
                continue
            hits = int(right[inside].sum())
            middle, (low, high) = hits / n, wilson(hits, n)
            x = float(confidence[inside].mean())
            axis.plot([x, x], [low, high], color=COLOURS[0], alpha=0.4, linewidth=1.5)
            axis.scatter(x, middle, s=18 + 260 * n / len(right), color=COLOURS[0], alpha=0.85,
                         linewidths=0)  # fmt: skip
        axis.set(xlim=(0, 1.03), ylim=(0, 1.03), xlabel="probability given", ylabel="accuracy")

    return draw(paint, "reliability" + salt)


def confusion_plot(labels: np.ndarray, predicted: np.ndarray, names: list[str], salt: str) -> str:
    """Share of each true class (a row) that went to each class, counts written in."""
    table = confusion(labels, predicted, len(names))
    share = table / np.maximum(1, table.sum(1, keepdims=True))
    k = len(names)

    def paint(axis: Any) -> None:
        axis.pcolormesh(share[::-1], cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=1)
        size = 8.5 if k <= 12 else 6
        for row in range(k):
            for column in range(k):
                if table[row, column] and k <= 20:
                    axis.text(
                        column + 0.5, k - row - 0.5, f"{table[row, column]:,}", ha="center",
                        va="center", fontsize=size,
                        color="white" if share[row, column] > 0.5 else "#1e293b",
                    )  # fmt: skip
        words = [n if len(n) <= 18 else n[:17] + "…" for n in names]
        axis.set_xticks(np.arange(k) + 0.5, words, rotation=90, fontsize=size)
        axis.set_yticks(np.arange(k) + 0.5, words[::-1], fontsize=size)
        axis.tick_params(length=0)
        axis.grid(False)
        for side in ("left", "bottom"):
            axis.spines[side].set_visible(False)
        axis.set(xlabel="predicted", ylabel="truth", aspect="equal")

    side = min(8.0, WIDTH + 0.14 * max(0, k - 10))
    return draw(paint, "confusion" + salt, side, side)
