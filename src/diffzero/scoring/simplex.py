"""Mixing proportions of classes that predict the noise best: an exact quadratic programme.

Given the predictions `eps_c` of K classes for one noised image, the weights that explain its noise
need only inner products of the residuals, since weights add up to one:

    min over w >= 0, sum w = 1 of  ||eps - sum_c w_c eps_c||^2 = w^T G w,
    G_cd = <eps_c - eps, eps_d - eps>.

Over several draws G is a mean over draws. No gradient passes through the network.
"""

from __future__ import annotations

import numpy as np

from ..errors import InputError

TINY = float(np.finfo(np.float64).tiny)
TOLERANCE = 1e-10  # of a violated condition, in units of the largest entry


def simplex_weights(gram: np.ndarray) -> np.ndarray:
    """The w on the simplex that minimises `w^T G w`, exactly.

    An active set: start at the best single class, add the class along which the objective falls
    most steeply, solve for the classes with weight, and drop those that would turn negative on
    the way. Every set is visited at most once, because the objective falls.

    Args:
        gram: G, symmetric and positive semidefinite, `[k, k]`; it may be singular.

    Returns:
        w, float64 `[k]`.

    Raises:
        InputError: not a square, or numbers that are not finite.

    References:
        Lawson and Hanson, Solving Least Squares Problems, 1974, chapter 23.
        Wolfe, Finding the nearest point in a polytope, 1976.
    """
    gram = np.asarray(gram, dtype=np.float64)
    k = len(gram)
    if gram.shape != (k, k) or k == 0 or not np.isfinite(gram).all():
        raise InputError(f"gram must be finite numbers [k, k]; got {gram.shape}.")
    gram = gram / max(float(np.abs(gram).max()), TINY)
    w = np.zeros(k)
    w[int(np.diag(gram).argmin())] = 1
    for _ in range(10 * k + 10):
        slope = gram @ w
        entering = int(slope.argmin())
        if slope[entering] >= slope @ w - TOLERANCE:
            break
        better = _descend(gram, w, entering)
        if better @ gram @ better >= w @ gram @ w:
            break  # rounding: nothing left to gain
        w = better
    return w / w.sum()


def _descend(gram: np.ndarray, w: np.ndarray, entering: int) -> np.ndarray:
    """The minimum over classes that have weight and the one that enters."""
    support = w > 0
    support[entering] = True
    while True:
        target = np.zeros(len(w))
        target[support] = _on_plane(gram[np.ix_(support, support)])
        blocked = support & (target <= 0)
        if not blocked.any():
            return target
        steps = np.full(len(w), np.inf)
        steps[blocked] = w[blocked] / np.maximum(w[blocked] - target[blocked], TINY)
        step = steps.min()
        w = np.maximum(w + step * (target - w), 0)
        support &= ~(blocked & (steps <= step))
        w[~support] = 0


def _on_plane(gram: np.ndarray) -> np.ndarray:
    """Minimum over `sum w = 1`, signs free: one linear system with Lagrange's multiplier."""
    k = len(gram)
    system = np.ones((k + 1, k + 1))
    system[:k, :k], system[k, k] = gram, 0
    return np.linalg.lstsq(system, np.eye(k + 1)[k], rcond=None)[0][:k]
