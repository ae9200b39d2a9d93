"""How much paired differences vary.

Differences are `[n, k]`: of n draws, for k rivals to the leader.
"""

from __future__ import annotations

import numpy as np

from ..errors import InputError

# Of `distance_variance`, fitted on 300 images held out of the training of `tiny-sd`.
KAPPA = 2.7
TAKEN_OUT = 0.4  # share of the variance that `control.adjusted` takes out of many draws
CERTAINTY = 64.0


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


def distance_variance(
    differences: np.ndarray,
    places: np.ndarray,
    distances: np.ndarray,
    prior: float,
    share: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """The variance that goes with the distance between two classes' predictions.

    `s^2 = kappa q`, q the mean over draws of the squared distance. kappa is 4 f^2 for Gaussian
    classes (see `control`), and nearly the same for all rivals of an image: it is estimated from
    all of them, beginning from `KAPPA` as if `CERTAINTY` draws had told it. So the first draws
    already know how noisy a rival is, of which their own differences say little.

    Args:
        differences: `[n, k]`.
        places: Place of each draw in [0, 1).
        distances: Squared, of each draw's predictions, `[n, k]`.
        prior: See `shared_variance`.
        share: Of kappa that is expected to be left in these differences, see `variance_left`.

    Returns:
        Variances and degrees of freedom, `[k]` each.
    """
    q = distances.mean(0)
    variance, freedom = successive_variance(differences, places)
    ratio = np.divide(variance, q, out=np.zeros_like(q), where=q > 0)
    pooled, nu = shared_variance(ratio, freedom, prior)
    kappa = (CERTAINTY * KAPPA * share + nu * pooled) / (CERTAINTY + nu)
    return q * kappa, CERTAINTY + nu


def variance_left(n: int) -> float:
    """Share of a difference's variance that `control.adjusted` is expected to leave."""
    return 1 - TAKEN_OUT * max(0.0, 1 - 2 / n)


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
