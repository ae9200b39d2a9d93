"""The pictures of `diffzero explain`: the map of errors over the photo, and maps of attention."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..methods.explain import resized

COLOURS = "PuOr_r"  # orange for the first word, purple for the second; told apart by all eyes
ATTENTION_DRAWS = 4  # of noise; maps differ little between draws
CLEAR = 2.0  # standard errors from zero at which a place counts as told


def picture(
    found: Any, photo: np.ndarray, proba: tuple[float, float], out: Path | IO[bytes]
) -> None:
    """The photo, the map over a pale grey of it, and the scale.

    The weaker a place speaks, the more of the photo shows through; places within two standard
    errors of zero have no colour.

    Args:
        found: A `methods.explain.Explanation`.
        photo: The square that the network saw, uint8 `[s, s, 3]`.
        proba: Probabilities of the first and the second word.
        out: PNG file, or an open one.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    whole = found.resized(photo.shape[0])
    most = float(np.abs(found.difference).max()) or 1.0
    clear = np.abs(whole.difference) > CLEAR * whole.error
    figure, axes = plt.subplots(
        1, 2, figsize=(9.6, 4.9), dpi=110, facecolor="white", gridspec_kw={"wspace": 0.06}
    )
    figure.subplots_adjust(left=0.02, right=0.83, top=0.8, bottom=0.12)
    axes[0].imshow(photo, interpolation="nearest" if photo.shape[0] < 128 else "auto")
    grey = photo.mean(2)
    axes[1].imshow(0.5 * grey + 127, cmap="gray", vmin=0, vmax=255)
    scale = plt.cm.ScalarMappable(plt.Normalize(-most, most), COLOURS)
    opacity = np.where(clear, np.minimum(1.0, 2 * np.abs(whole.difference) / most), 0.0)
    axes[1].imshow(whole.difference, cmap=COLOURS, norm=scale.norm, alpha=0.85 * opacity)
    for axis, text in zip(axes, _captions(found), strict=True):
        axis.set(xticks=[], yticks=[])
        axis.set_xlabel(text, fontsize=9, labelpad=6)
    bar = figure.colorbar(scale, cax=figure.add_axes((0.85, 0.12, 0.022, 0.68)))
    ends = [textwrap.fill(_short(label, 40), 14) for label in (found.second, found.first)]
    bar.set_ticks([-most, 0, most], labels=[ends[0], "no\ndifference", ends[1]])
    bar.ax.tick_params(labelsize=9, length=0)
    figure.suptitle(_title(found, proba), x=0.02, y=0.97, ha="left", fontsize=12)
    figure.savefig(out, format="png")
    plt.close(figure)


def looking(model: Any, words: Sequence[str], seed: int) -> Any:
    """The fitted `CrossAttention` whose maps are shown.

    Raises:
        InputError: a model without maps, or words that do not fit one prompt.
    """
    from ..methods.cross_attention import CrossAttention

    return CrossAttention(model, draws=ATTENTION_DRAWS, seed=seed).fit(words)


def attention_picture(
    maps: np.ndarray, words: Sequence[str], photo: np.ndarray, out: Path | IO[bytes]
) -> None:
    """Where the network looks for each word, over a pale grey of the photo.

    A place has colour as far as its attention, less that of pure noise, is above the mean over the
    photo: a word may have less of it everywhere than noise gives it, and still be looked for in
    one place. The scale is that of all maps together.

    Args:
        maps: `CrossAttention.heat_maps` of the photo, float64 `[k, s, s]`.
        words: k words.
        photo: The square that the network saw, uint8 `[s, s, 3]`.
        out: PNG file, or an open one.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    side = photo.shape[0]
    maps = maps - maps.mean(axis=(1, 2), keepdims=True)
    most = float(maps.max()) or 1.0  # above zero unless every map is flat
    figure, axes = plt.subplots(
        1, len(words), figsize=(4.3 * len(words), 4.9), dpi=110, facecolor="white", squeeze=False
    )
    figure.subplots_adjust(left=0.02, right=0.98, top=0.85, bottom=0.06, wspace=0.06)
    for axis, word, own in zip(axes[0], words, maps, strict=True):
        whole = resized(own, side)
        axis.imshow(0.5 * photo.mean(2) + 127, cmap="gray", vmin=0, vmax=255)
        strength = np.clip(whole / most, 0, 1)
        axis.imshow(strength, cmap="Oranges", vmin=0, vmax=1, alpha=0.85 * strength)
        axis.set(xticks=[], yticks=[])
        axis.set_xlabel(f"looked at for “{_short(word, 40)}”", fontsize=10, labelpad=6)
    title = (
        f"Attention less that of pure noise\ndarkest: {100 * most:.2g} % above the photo's mean"
    )
    figure.suptitle(title, x=0.02, y=0.97, ha="left", fontsize=12)
    figure.savefig(out, format="png")
    plt.close(figure)


def _title(found: Any, proba: tuple[float, float]) -> str:
    first, second = _short(found.first, 40), _short(found.second, 40)
    return (
        f"Orange speaks for “{first}” ({_percent(proba[0])}),\n"
        f"purple for “{second}” ({_percent(proba[1])})"
    )


def _captions(found: Any) -> tuple[str, str]:
    side = found.difference.shape[0]
    return (
        "the part of the photo that the model sees, at its own size",
        f"which word predicts the noise better in each of {side} x {side} places;\n"
        f"no colour where {found.draws} draws leave it open (two standard errors)",
    )


def _percent(p: float) -> str:
    if p >= 0.9995:
        return "over 99.9 %"
    return f"{100 * p:.1f} %" if p >= 0.0005 else "under 0.1 %"


def _short(text: str, width: int) -> str:
    return textwrap.shorten(text, width, placeholder="…") if len(text) > width else text
