"""How much paired differences vary.

Differences are `[n, k]`: of n draws, for k rivals to the leader.
"""

from __future__ import annotations

import numpy as np

from ..errors import InputError


def sample_variance(differences: np.ndarray) -> tuple[np.ndarray, float]:
    """The usual variance of `[n, k]` over n, and its n - 1 degrees of freedom."""
    n = len(differences)
    if n < 2:
        return np.zeros(differences.shape[1]), 0.0
    return differences.var(0, ddof=1), n - 1.0


def successive_variance(differences: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, float]:
    """Variance about a smooth trend in time, and about 2 n / 3 degrees of freedom.

    `s^2 = mean_j (D_(j+1) - D_(j))^2 / 2` over draws in the order of their places, the last next
    to the first. Nested draws are spread evenly over time, so that the trend of D in time hardly
    moves their mean; the usual variance counts that trend as noise and waits too long.

    Args:
        differences: `[n, k]`.
        places: Place of each draw in [0, 1), see `noise.quantiles`.

    References:
        von Neumann et al., The mean square successive difference, 1941.
        Cranley and Patterson, Randomization of number theoretic methods for multiple integration,
        1976 (why a randomly shifted even grid is unbiased).
    """
    n = len(differences)
    if n < 2:
        return np.zeros(differences.shape[1]), 0.0
    ordered = differences[np.argsort(places, kind="stable")]
    steps = np.roll(ordered, -1, axis=0) - ordered
    return 0.5 * (steps**2).mean(0), min(n - 1, 2 * n / 3)


def shared_variance(
    variance: np.ndarray, freedom: float, prior: float
) -> tuple[np.ndarray, np.ndarray]:
    """Each class's variance drawn towards the mean of the other classes'.

    `(prior s0^2 + nu s^2) / (prior + nu)`, with s0^2 the mean variance of the other rivals: the
    differences of one image are noisy together, and two to four draws say little about a variance.
    `prior` counts as at most the degrees of freedom which the other rivals have between them.

    Args:
        variance: `s^2` of each rival, `[k]`.
        freedom: nu of each.
        prior: Degrees of freedom of s0^2.

    Returns:
        Variances and degrees of freedom, `[k]` each.
    """
    others = len(variance) - 1
    weight = min(prior, freedom * others)
    if weight <= 0:
        return variance, np.full(len(variance), freedom)
    mean = (variance.sum() - variance) / others
    return (weight * mean + freedom * variance) / (weight + freedom), np.full(
        len(variance), weight + freedom
    )


def grouped(values: np.ndarray, size: int) -> np.ndarray:
    """Means of `size` successive draws: antithetic pairs, or blocks with a shift of their own.

    Args:
        values: `[n, ...]`, n a multiple of `size`.
        size: Draws a group.

    Raises:
        InputError: draws that do not fill their groups.
    """
    if len(values) % size:
        raise InputError(f"{len(values)} draws do not fill groups of {size}.")
    return values.reshape(-1, size, *values.shape[1:]).mean(1)
