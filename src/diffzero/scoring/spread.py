"""How much paired differences vary, and what may be taken out of them first.

Differences are `[n, k]`: of n draws, for k rivals to the leader.
"""

from __future__ import annotations

from collections.abc import Sequence

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


def trend_removed(
    differences: np.ndarray, places: np.ndarray, profile: Sequence[float]
) -> np.ndarray:
    """Differences without the part that their place in time explains (a control variate).

    Differences of most images and classes grow and shrink over time alike: `D_i` is about
    `a g(t_i)` with one profile g of mean 1, known from kept draws, and a size a of its own. With
    `a = mean(D) / mean(g(t_i))`, the ratio estimator of the mean of D,

        D'_i = D_i - a (g(t_i) - 1)

    has mean a, and varies less than D wherever the profile is right. Where it is wrong the mean is
    off by a factor that tends to 1 as draws fill time evenly, never by its sign.

    Args:
        differences: `[n, k]`.
        places: Places in [0, 1) `[n]`.
        profile: Relative size of differences in even bins of [0, 1), joined by straight lines.

    References:
        Cochran, Sampling Techniques, 1977, chapter 6.
    """
    heights = np.asarray(profile, dtype=np.float64)
    centres = (np.arange(len(heights)) + 0.5) / len(heights)
    g = np.interp(places, centres, heights / heights.mean())
    size = differences.mean(0) / g.mean()
    return differences + size * (1 - g[:, None])


def rivals_trend_removed(differences: np.ndarray) -> np.ndarray:
    """Differences of each rival without the part that the other rivals' explain.

    Whatever makes one draw tell classes apart better than another, its time or its noise, does so
    for many rivals at once: `D_b,i` is about `a_b g_i`. With `g_i` the mean over the other rivals,
    scaled to mean 1 over draws, and `a_b = max(mean(D_b), 0)`,

        D'_b,i = D_b,i - a_b (g_i - 1)

    has the mean of D_b and varies less wherever g is right. A rival close to the leader has a
    small `a_b` and is left as it is, and so is one that is alone or whose fellows are on average
    not behind the leader. It assumes that g keeps its sign over the draws still to come. Where
    classes overlap it does not, and a race that counts on it errs more often than delta.

    Args:
        differences: `[n, k]`.
    """
    n, k = differences.shape
    if k < 2 or n < 2:
        return differences
    others = (differences.sum(1, keepdims=True) - differences) / (k - 1)
    mean = others.mean(0)
    g = np.where(mean > 0, others / np.where(mean > 0, mean, 1), 1)
    return differences - np.maximum(differences.mean(0), 0) * (g - 1)


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
