"""The picture of `diffzero demo`: each image beside the bars of its best labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass

RIGHT, WRONG, OWN, QUIET = "#2a7f62", "#c2410c", "#3b5b92", "#c9ced6"


def picture(panels: list[dict[str, Any]], title: str, out: Path) -> None:
    """Each image beside the bars of its five best labels; wrong ones framed and marked.

    Args:
        panels: Dictionaries with `image`, `proba`, `names`, `truth` (an index or None) and
            perhaps a `caption`.
        title: Above all.
        out: PNG file.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure = plt.figure(figsize=(3.9 * columns, 1.55 * rows + 1.0), dpi=110, facecolor="white")
    top = 1 - 0.85 / (1.55 * rows + 1.0)
    grid = figure.add_gridspec(
        rows,
        2 * columns,
        width_ratios=[1, 1.15] * columns,
        left=0.015,
        right=0.985,
        top=top,
        bottom=0.03,
        wspace=0.55,
        hspace=0.42,
    )
    for position, panel in enumerate(panels):
        row, column = divmod(position, columns)
        picture_axis = figure.add_subplot(grid[row, 2 * column])
        bars_axis = figure.add_subplot(grid[row, 2 * column + 1])
        _panel(picture_axis, bars_axis, panel)
    figure.suptitle(title, fontsize=12, x=0.015, ha="left", y=1 - 0.12 / (1.55 * rows + 1.0))
    figure.savefig(out)
    plt.close(figure)


def _panel(picture_axis: Any, bars_axis: Any, panel: dict[str, Any]) -> None:
    proba, names, truth = panel["proba"], panel["names"], panel["truth"]
    best = (-proba).argsort()[:5]
    right = truth is None or best[0] == truth
    colour = OWN if truth is None else RIGHT if right else WRONG
    picture_axis.imshow(panel["image"], interpolation="nearest")
    picture_axis.set(xticks=[], yticks=[])
    for spine in picture_axis.spines.values():
        spine.set(color=colour, linewidth=1 if right else 3)
    caption = panel.get("caption") or ("" if truth is None else f"truth: {names[truth]}")
    mark = "" if right else "   WRONG"
    picture_axis.set_title(
        caption[:26] + mark, fontsize=8.5, color="black" if right else WRONG, loc="left", pad=3
    )
    heights = proba[best]
    colours = [
        (RIGHT if j == truth else colour if position == 0 else QUIET)
        for position, j in enumerate(best)
    ]
    bars_axis.barh(range(len(best)), heights, color=colours, height=0.72)
    for y, p in enumerate(heights):
        inside = p > 0.6
        bars_axis.text(
            p - 0.03 if inside else p + 0.03,
            y,
            f"{100 * p:.0f} %",
            va="center",
            ha="right" if inside else "left",
            fontsize=7.5,
            color="white" if inside else "black",
        )
    bars_axis.set(xlim=(0, 1), ylim=(len(best) - 0.4, -0.6), xticks=[])
    bars_axis.set_yticks(range(len(best)), [names[j][:16] for j in best], fontsize=8)
    bars_axis.tick_params(length=0, pad=2)
    for side in ("top", "right", "bottom"):
        bars_axis.spines[side].set_visible(False)
