"""Temperature and weights over time, fitted on one half of a run and reported on the other.

    logit_c / T = - sum over bins b of  u_b S_bc,    S_bc = (sum of v e over draws in b) / draws

with one weight `u_b >= 0` for every bin of t, where `v e` is the run's own weighted error: all u
equal to 1 / T is the run at temperature T. The weights minimise the negative log-likelihood, which
is convex in u for one template, with Platt's smoothing (see `fit_temperature`). Where the run has
priors, their logarithms are added in the fit and in what is reported, as in the run.

References:
    Li et al., Your Diffusion Model is Secretly a Zero-Shot Classifier, 2023 (which times tell
    classes apart). https://arxiv.org/abs/2303.16203
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp, softmax

from ..errors import InputError
from ..noise import generator
from .metrics import fit_temperature, mcnemar
from .races import drawn as races_drawn
from .races import filled, race_settings, scale
from .reduction import draw_weights
from .rescore import Scored, log_priors, rescored_logits
from .store import as_sentence, write_json
from .summary import metrics_of

LEAST = 20  # images of a half
MOST_BINS = 8  # where none are asked for


def halves(ids: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of two random halves that depend on the names alone, not on their order."""
    order = np.argsort(ids.astype(str), kind="stable")
    shuffled = order[generator(seed).permutation(len(ids))]
    middle = len(ids) // 2
    return np.sort(shuffled[:middle]), np.sort(shuffled[middle:])


def binned(scored: Scored, edges: np.ndarray) -> np.ndarray:
    """`S`, float64 `[n, bins, k, m]`."""
    matrix = scored.matrix
    config = scored.run.config
    v = draw_weights(matrix, "as-run", config["draws"])
    weighted = filled(matrix.errors * v[:, :, None, None])
    if race_settings(config) is not None:
        own = scale(config, scored.whole, races_drawn(weighted))
        weighted = weighted * own[:, None, None, None]
    which, drawn = np.digitize(matrix.t, edges), (~np.isnan(weighted)).sum(1)
    parts = [
        np.nansum(weighted * (which == b)[:, :, None, None], axis=1) / drawn
        for b in range(len(edges) + 1)
    ]
    return np.stack(parts, axis=1)


def joined(sums: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`logit / T` `[n, k]` and the share of each template in it `[n, k, m]`."""
    each = -np.einsum("b,nbkm->nkm", u, sums)
    return logsumexp(each, axis=2) - np.log(each.shape[2]), softmax(each, axis=2)


def fit_weights(
    sums: np.ndarray, labels: np.ndarray, start: float, shift: np.ndarray | float = 0.0
) -> np.ndarray:
    """The weights `[bins]` of least smoothed negative log-likelihood.

    Args:
        sums: `[n, bins, k, m]`.
        labels: int64 `[n]`.
        start: 1 / T, where all weights begin.
        shift: Logarithms of the priors, `[k]`.
    """
    n, bins, k, _ = sums.shape
    smooth = 1 / (n + 2)
    target = np.full((n, k), smooth / k)
    target[np.arange(n), labels] += 1 - smooth

    def loss(relative: np.ndarray) -> tuple[float, np.ndarray]:
        z, share = joined(sums, relative * start)
        z = z + shift
        slope = softmax(z, axis=1) - target
        gradient = -np.einsum("nk,nkm,nbkm->b", slope, share, sums) * start / n
        return float(-(target * log_softmax(z, axis=1)).sum() / n), gradient

    found = minimize(
        loss, np.ones(bins), jac=True, method="L-BFGS-B", bounds=[(0, None)] * bins,
        options={"maxiter": 500},
    )  # fmt: skip
    return found.x * start


def fit(scored: Scored, bins: int | None, seed: int) -> dict[str, Any]:
    """Fit on one half, measure on the other.

    Args:
        scored: A run with its score matrix.
        bins: Weights over time; as many as draws, 8 at most, if None.
        seed: Of the halves.

    Raises:
        InputError: too few images, or bins out of range.
    """
    draws = scored.matrix.t.shape[1]
    bins = min(MOST_BINS, draws) if bins is None else bins
    if not 1 <= bins <= draws:
        raise InputError(f"--bins takes 1 to the number of draws, {draws}; got {bins}.")
    if len(scored.labels) < 2 * LEAST:
        raise InputError(
            f"{scored.run.folder}: {len(scored.labels)} images; fitting needs {2 * LEAST}."
        )
    own, other = (scored.take(i) for i in halves(scored.matrix.ids, seed))
    edges = np.nanquantile(own.matrix.t, np.arange(1, bins) / bins)
    logits, t_run = rescored_logits(own, "as-run", "mean", None, None)
    shift = log_priors(scored)
    temperature = fit_temperature([(logits, own.labels)], smooth=True, log_priors=shift)
    u = fit_weights(binned(own, edges), own.labels, 1 / temperature, shift)
    measured, right = {}, {}
    plain, _ = rescored_logits(other, "as-run", "mean", None, None)
    for name, logit in (
        ("as run", plain / t_run),
        ("temperature", plain / temperature),
        ("weights", joined(binned(other, edges), u)[0]),
    ):
        z = logit + shift
        measured[name] = metrics_of(softmax(z, axis=1), other.labels, z.shape[1])
        right[name] = z.argmax(1) == other.labels
    first, second = right["as run"], right["weights"]
    return {
        "temperature": temperature,
        "edges": edges.tolist(),
        "weights": u.tolist(),
        "relative_weights": (u * temperature).tolist(),
        "draws": scored.matrix.t.shape[1],
        "seed": seed,
        "held_out": measured,
        "mcnemar_p": mcnemar(int((first & ~second).sum()), int((second & ~first).sum())),
        "images_fitted": len(own.labels),
        "images_held_out": len(other.labels),
        "fitted_on": own.matrix.ids.tolist(),
    }


def write_calibration(result: dict[str, Any], folder: Path) -> Path:
    """Write what `fit` found as `calibration.json` into the folder of its run."""
    path = Path(folder) / "calibration.json"
    with as_sentence(Path(folder)):
        write_json(path, result)
    return path
