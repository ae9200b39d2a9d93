"""Mixing proportions of classes that predict the noise best: an exact quadratic programme.

Given the predictions `eps_c` of K classes for one noised image, the weights that explain its noise

    min over w >= 0, sum w = 1 of  ||eps - sum_c w_c eps_c||^2 = w^T G w - 2 b^T w + ||eps||^2,
    G_cd = <eps_c, eps_d>,    b_c = <eps, eps_c>,

need only inner products of the predictions, which a classifier makes anyway. Over several draws G
and b are means over draws. No gradient passes through the network.
"""

from __future__ import annotations

import numpy as np

from ..errors import InputError

TINY = float(np.finfo(np.float64).tiny)
TOLERANCE = 1e-10  # of a violated condition, in units of the largest entry


def simplex_objective(gram: np.ndarray, cross: np.ndarray, w: np.ndarray) -> float:
    """`w^T G w - 2 b^T w`."""
    return float(w @ gram @ w - 2 * cross @ w)


def simplex_gap(gram: np.ndarray, cross: np.ndarray, w: np.ndarray) -> float:
    """How far w is from optimal: an upper bound of `f(w) - min f`.

    `2 max_c g^T (w - e_c)` with `g = G w - b` (Frank and Wolfe's duality gap). It is zero exactly
    where the conditions of Karush, Kuhn and Tucker hold: g is the same on all classes with
    weight, and nowhere less.

    References:
        Jaggi, Revisiting Frank-Wolfe, 2013.
    """
    slope = gram @ w - cross
    return float(2 * (slope @ w - slope.min()))


def simplex_weights(gram: np.ndarray, cross: np.ndarray) -> np.ndarray:
    """The w on the simplex that minimises `w^T G w - 2 b^T w`, exactly.

    An active set: start at the best single class, add the class along which the objective falls
    most steeply, solve for the classes with weight, and drop those that would turn negative on
    the way. Every set is visited at most once, because the objective falls.

    Args:
        gram: G, symmetric and positive semidefinite, `[k, k]`; it may be singular.
        cross: b, `[k]`.

    Returns:
        w, float64 `[k]`.

    Raises:
        InputError: shapes that disagree, or numbers that are not finite.

    References:
        Lawson and Hanson, Solving Least Squares Problems, 1974, chapter 23.
        Wolfe, Finding the nearest point in a polytope, 1976.
    """
    gram, cross = np.asarray(gram, dtype=np.float64), np.asarray(cross, dtype=np.float64)
    k = len(cross)
    if gram.shape != (k, k) or cross.ndim != 1 or k == 0:
        raise InputError(f"gram [k, k] and cross [k] disagree: {gram.shape}, {cross.shape}.")
    if not (np.isfinite(gram).all() and np.isfinite(cross).all()):
        raise InputError("gram and cross must be finite.")
    scale = max(float(np.abs(gram).max()), float(np.abs(cross).max()), TINY)
    gram, cross = gram / scale, cross / scale
    w = np.zeros(k)
    w[int((np.diag(gram) - 2 * cross).argmin())] = 1
    for _ in range(10 * k + 10):
        slope = gram @ w - cross
        entering = int(slope.argmin())
        if slope[entering] >= slope @ w - TOLERANCE:
            break
        better = _descend(gram, cross, w, entering)
        if simplex_objective(gram, cross, better) >= simplex_objective(gram, cross, w):
            break  # rounding: nothing left to gain
        w = better
    return w / w.sum()


def _descend(gram: np.ndarray, cross: np.ndarray, w: np.ndarray, entering: int) -> np.ndarray:
    """The minimum over classes that have weight and the one that enters."""
    support = w > 0
    support[entering] = True
    while True:
        target = np.zeros(len(w))
        target[support] = _on_plane(gram[np.ix_(support, support)], cross[support])
        blocked = support & (target <= 0)
        if not blocked.any():
            return target
        steps = np.full(len(w), np.inf)
        steps[blocked] = w[blocked] / np.maximum(w[blocked] - target[blocked], TINY)
        step = steps.min()
        w = np.maximum(w + step * (target - w), 0)
        support &= ~(blocked & (steps <= step))
        w[~support] = 0


def _on_plane(gram: np.ndarray, cross: np.ndarray) -> np.ndarray:
    """Minimum over `sum w = 1`, signs free: one linear system with Lagrange's multiplier."""
    k = len(cross)
    system = np.ones((k + 1, k + 1))
    system[:k, :k], system[k, k] = gram, 0
    return np.linalg.lstsq(system, np.append(cross, 1.0), rcond=None)[0][:k]
