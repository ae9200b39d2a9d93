"""From the errors of draws to logits: what each draw is worth, and how draws are reduced.

A logit is minus a reduction over draws of `v(t) e`, where e is the error of a draw and v makes the
mean over draws an integral over t. Draws of `weights="uniform"` have the density `1 / (b - a)` on
`t_range = (a, b)`, those of `weights="elbo"` the density `|d lambda / dt| / (lambda range)`;

| weights    | integral                      | v(t)                                           |
|------------|-------------------------------|------------------------------------------------|
| `uniform`  | mean of e over t              | `1 / ((b - a) density)`                        |
| `elbo`     | `1/2 of e |d lambda / dt| dt` | `|d lambda / dt| / (2 density)`                |
| `exp:RATE` | mean of `exp(-RATE t) e`      | `exp(-RATE t) / ((b - a) density)`             |

`as-run` is whichever of the first two the run was made with. Errors that a race did not draw are
filled in as `races` says, so that the draws of a race rescore to its own logits.

References:
    Clark and Jaini, Text-to-Image Diffusion Models are Zero-Shot Classifiers, 2023 (exp:7).
    https://arxiv.org/abs/2303.15233
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import logsumexp

from ..errors import InputError
from ..options import short
from .draws import Matrix
from .races import filled

REDUCTIONS = ("mean", "median", "trimmed")
TRIM = 0.1  # of the draws at either end
EDGE = 1e-4  # of lambda, for the rounding of draws that lie at an end


def draw_weights(matrix: Matrix, kind: str, ranges: dict[str, Any]) -> np.ndarray:
    """v of every draw, float64 `[n, draws]`; see the table of this module.

    Args:
        matrix: The draws.
        kind: `as-run`, `uniform`, `elbo`, `exp:RATE`, or the path of a `calibration.json`.
        ranges: `draws` of the run's configuration.

    Raises:
        InputError: another kind, or an unreadable calibration.
    """
    (a, b), (low, high) = ranges["t_range"], ranges["log_snr_range"]
    uniform = ranges["weights"] == "uniform"
    density = np.full_like(matrix.t, 1 / (b - a)) if uniform else matrix.slope / (high - low)
    if kind == "as-run":
        kind = ranges["weights"]
    if kind == "uniform":
        return 1 / ((b - a) * density)
    if kind == "elbo":
        # The bound integrates over this range of lambda, and draws may lie beyond it.
        known = (matrix.log_snr >= low - EDGE) & (matrix.log_snr <= high + EDGE)
        return np.where(known, matrix.slope / (2 * density), 0.0)
    if kind.startswith("exp:"):
        return np.exp(-_rate(kind) * matrix.t) / ((b - a) * density)
    if kind.endswith(".json"):
        found = read_calibration(Path(kind))
        own = draw_weights(matrix, "as-run", ranges)
        return own * np.array(found["weights"])[np.digitize(matrix.t, found["edges"])]
    raise InputError(
        f"--weights takes as-run, uniform, elbo, exp:RATE or a calibration.json; got {kind!r}."
    )


def _rate(kind: str) -> float:
    try:
        return float(kind.removeprefix("exp:"))
    except ValueError:
        raise InputError(f"exp: takes a number, such as exp:7; got {kind!r}.") from None


def read_calibration(path: Path) -> dict[str, Any]:
    """What `diffzero calibrate` wrote.

    Raises:
        InputError: no such file, or another kind of file.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {k: found[k] for k in ("weights", "edges", "fitted_on", "draws")}
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path}: not a calibration; make one with diffzero calibrate.") from None


def reduce_draws(weighted: np.ndarray, reduction: str) -> np.ndarray:
    """Weighted errors `[n, draws, k, m]` to minus their reduction over draws, `[n, k, m]`.

    The median and the trimmed mean are taken of differences from the mean over classes, draw by
    draw: what the classes have in common would otherwise decide which draws count.

    Raises:
        InputError: an unknown reduction.
    """
    weighted = filled(weighted)
    if reduction == "mean":
        return -np.nanmean(weighted, axis=1)
    seen = np.isfinite(weighted).sum((2, 3), keepdims=True)  # none of draws after a race's end
    paired = weighted - np.nansum(weighted, axis=(2, 3), keepdims=True) / np.maximum(seen, 1)
    if reduction == "median":
        return -np.nanmedian(paired, axis=1)
    if reduction == "trimmed":
        return -_trimmed(paired)
    raise InputError(f"--reduction takes {', '.join(REDUCTIONS)}; got {short(reduction)}.")


def _trimmed(paired: np.ndarray) -> np.ndarray:
    """Mean over draws `[n, draws, k, m]` without the smallest and largest tenth of each class."""
    ordered = np.sort(paired, axis=1)  # NaN last
    count = (~np.isnan(ordered)).sum(1, keepdims=True)
    cut = (TRIM * count).astype(int)
    place = np.arange(ordered.shape[1])[None, :, None, None]
    return np.nanmean(np.where((place >= cut) & (place < count - cut), ordered, np.nan), axis=1)


def join_templates(logits: np.ndarray, temperature: float) -> np.ndarray:
    """`T (logsumexp(l / T) - log M)` over the templates: `[n, k, m]` to `[n, k]`."""
    m = logits.shape[2]
    if m == 1:
        return logits[:, :, 0]
    return temperature * (logsumexp(logits / temperature, axis=2) - np.log(m))
