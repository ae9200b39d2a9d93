"""`diffzero demo`: real images, a bundled model, a table and a picture."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .errors import InputError
from .evaluate.metrics import percent
from .images import load_image

SHOWN = 24
RIGHT, WRONG, OWN, QUIET = "#2a7f62", "#c2410c", "#3b5b92", "#c9ced6"


def run(
    model: str,
    own: list[str],
    words: list[str] | None,
    *,
    limit: int,
    draws: int,
    out: Path,
    seed: int,
    device: str,
    dtype: str | None,
    batch_size: int | None,
    progress: Callable[[int], Any],
) -> None:
    """Classify held-out handwritten digits, and the user's own images, with ELBO and CLIP.

    Args:
        model: What `load` takes.
        own: Paths of the user's images.
        words: Labels for them; the digits' if None.
        limit: Number of digits, 1 to 360.
        draws: Noise draws a class.
        out: The picture.
        seed: Of the noise.
        device: For the model.
        dtype: For the model.
        batch_size: Rows a network call.
        progress: Opens a progress bar for a number of evaluations.

    Raises:
        InputError: an unreadable image, a limit out of range, a folder that is not there.
    """
    from .cli import note
    from .data import caption_words, digits_split
    from .loading import load
    from .methods.clip import CLIP
    from .methods.elbo import ELBO

    if not 1 <= limit <= 360:
        raise InputError(f"--limit must lie between 1 and 360; got {limit}.")
    if not out.parent.is_dir():
        raise InputError(f"{out}: the folder {out.parent} does not exist. Create it first.")
    loaded = [load_image(path) for path in own]
    _, (digits, truths) = digits_split()
    images, labels = list(digits[:limit]), truths[:limit]
    names = caption_words()["digits"]["classes"]
    options: dict[str, Any] = {"seed": seed, "batch_size": batch_size}
    elbo = ELBO(load(model, device=device, dtype=dtype), draws=draws, **options).fit(names)
    evals = elbo.count_evals(len(names)) * limit
    note(
        f"{limit} handwritten digits (scikit-learn's, not trained on), 10 phrases, "
        f"{draws} noise draws each: {evals:,} evaluations of {elbo.backbone_.name}"
    )
    began = time.perf_counter()
    with progress(evals) as advance:
        scores = elbo.scores(images, progress=advance)
    seconds = time.perf_counter() - began
    proba = elbo.probabilities(scores)
    rows = [_row("elbo", elbo.backbone_.name, proba, labels, scores, seconds)]
    clip = CLIP(load("tiny-clip", device=device, dtype=dtype), **options).fit(names)
    began = time.perf_counter()
    rival = clip.scores(images)
    seconds = time.perf_counter() - began
    rival_row = clip.probabilities(rival)
    rows.append(_row("clip", "tiny-clip", rival_row, labels, rival, seconds))
    _print(rows, proba, labels, names)
    short = [n.removeprefix("handwritten digit ") for n in names]
    panels = _choose(images, proba, labels, short)
    if loaded:
        panels = _own_panels(elbo, loaded, own, words or names) + panels
    picture(panels[:SHOWN], _title(rows, draws), out)
    print(f"picture: {out}")


def _row(
    method: str, model: str, proba: np.ndarray, labels: np.ndarray, scores: Any, seconds: float
) -> tuple[str, ...]:
    correct = int((proba.argmax(1) == labels).sum())
    return (
        method,
        model,
        percent(correct, len(labels)),
        f"{scores.evals.sum():,}",
        f"{seconds:.1f}",
    )


def _print(rows: list[tuple], proba: np.ndarray, labels: np.ndarray, names: list[str]) -> None:
    from .cli import print_table

    header = ["method", "model", "accuracy [95 % interval]", "evaluations", "seconds"]
    print_table(header, rows)
    ranked = []
    for i in _hardest(proba, labels)[:6]:
        best = np.argsort(-proba[i])[:3]
        words = [
            f"{names[j].removeprefix('handwritten digit ')} {100 * proba[i, j]:.1f} %"
            for j in best
        ]
        mark = "" if best[0] == labels[i] else "wrong"
        truth = names[labels[i]].removeprefix("handwritten digit ")
        ranked.append((str(i), truth, *words, mark))
    print_table(["hardest", "truth", "first", "second", "third", ""], ranked)


def _title(rows: list[tuple], draws: int) -> str:
    elbo, clip = rows
    return (
        f"Held-out handwritten digits by diffusion ({elbo[1]}, ELBO, {draws} draws): {elbo[2]}\n"
        f"CLIP on the same images ({clip[1]}): {clip[2]}. The least certain are shown first."
    )


def _hardest(proba: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Images by the probability of their true label, the smallest first: wrong ones lead."""
    return np.argsort(proba[np.arange(len(labels)), labels], kind="stable")


def _choose(
    images: list[np.ndarray], proba: np.ndarray, labels: np.ndarray, names: list[str]
) -> list[dict[str, Any]]:
    """Panels of the hardest images: a row of certainties would show nothing."""
    return [
        {"image": images[i], "proba": proba[i], "names": names, "truth": int(labels[i])}
        for i in _hardest(proba, labels)[:SHOWN]
    ]


def _own_panels(
    elbo: Any, loaded: list[np.ndarray], paths: list[str], words: list[str]
) -> list[dict[str, Any]]:
    from sklearn.base import clone

    classifier = clone(elbo).set_params(backbone=elbo.backbone_).fit(words)
    proba = classifier.predict_proba(loaded)
    for path, row in zip(paths, proba, strict=True):
        best = int(row.argmax())
        print(f"{path}:  {words[best]} {100 * row[best]:.1f} %")
    return [
        {"image": i, "proba": p, "names": words, "truth": None, "caption": Path(f).name}
        for i, p, f in zip(loaded, proba, paths, strict=True)
    ]


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
    best = np.argsort(-proba)[:5]
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
