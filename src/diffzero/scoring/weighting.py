"""Where in time draws lie, in which order, and what each is worth.

A weight w(t) changes the question: classes are compared by the mean of `w(t) e`. A density q(t)
does not, as long as each draw is divided by it: the mean of `e / q` over `t ~ q` is the mean of e
over uniform t, and only its variance changes. An order changes neither.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

from ..errors import InputError
from ..noise import radical_inverse

DEGREES = (0, 1, 2)  # of the polynomial in a fitted log w


def ordered_places(draws: np.ndarray, total: int, start: float, shift: float) -> np.ndarray:
    """Places of nested draws whose first lies at `start`, for a grid of `total`.

    `(bit-reversed i + (floor(start N) + shift) / N) mod 1`: the N places together are the even
    grid with offset `shift / N`, whatever `start` is, so that the order is free and the mean over
    all N draws remains unbiased over the random shift.

    Args:
        draws: Numbers of the draws.
        total: N, a power of two.
        start: Where in [0, 1) the first draw lies, to within 1 / N.
        shift: Uniform in [0, 1), the image's own.

    Raises:
        InputError: `total` is no power of two.
    """
    if total < 1 or total & (total - 1):
        raise InputError(f"total must be a power of two; got {total}.")
    cell = np.floor(start * total)
    return (radical_inverse(draws) + (cell + shift) / total) % 1.0


def block_places(draws: np.ndarray, size: int, shifts: np.ndarray) -> np.ndarray:
    """Places of draws in blocks of `size` nested ones, each block with a shift of its own.

    The means of blocks are then independent and unbiased, which nested draws of one shift are not.

    Args:
        draws: Numbers of the draws.
        size: Draws a block, a power of two for even grids.
        shifts: Uniform in [0, 1), one a block.
    """
    draws = np.asarray(draws)
    return (radical_inverse(draws % size) + np.asarray(shifts)[draws // size]) % 1.0


def antithetic(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pair `i // 2` of each draw, whose time and noise it takes, and the sign of its noise.

    Noise enters a denoising error mostly linearly, and cancels in the mean of eps and -eps.

    Args:
        draws: Numbers of the draws.

    Returns:
        Pairs, int64, and signs, +1 for even draws and -1 for odd ones.

    References:
        Hammersley and Morton, A new Monte Carlo technique: antithetic variates, 1956.
    """
    draws = np.asarray(draws, dtype=np.int64)
    return draws // 2, np.where(draws % 2, -1.0, 1.0)


def polynomial_weights(t: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """`w(t) = exp(a_1 t + a_2 t^2 + ...)`, scaled to mean 1 over t in [0, 1].

    One coefficient gives `exp(a t)`, two a bump or its opposite, none weight 1 everywhere.

    Args:
        t: Times in [0, 1].
        coefficients: `a_1, a_2, ...`.
    """

    def raw(at: np.ndarray) -> np.ndarray:
        powers = np.arange(1, len(coefficients) + 1)
        return np.exp(np.power.outer(at, powers) @ np.asarray(coefficients, dtype=np.float64))

    grid = (np.arange(1000) + 0.5) / 1000
    return raw(np.asarray(t, dtype=np.float64)) / raw(grid).mean()


def cross_entropy(
    errors: np.ndarray, t: np.ndarray, labels: np.ndarray, parameters: np.ndarray
) -> float:
    """Mean `-log p(label)` of `softmax(-mean_i w(t_i) e_i / T)`.

    Args:
        errors: `[n, draws, k]`.
        t: `[n, draws]`.
        labels: Column of each image's class, `[n]`.
        parameters: `log T`, then the coefficients of `polynomial_weights`.
    """
    weights = polynomial_weights(t, parameters[1:])
    logits = -np.einsum("nd,ndk->nk", weights, errors) / errors.shape[1]
    rows = log_softmax(logits * np.exp(-parameters[0]), axis=1)
    return float(-rows[np.arange(len(labels)), labels].mean())


@dataclass(frozen=True)
class FittedWeights:
    """Weights over time, and what they gained.

    Attributes:
        coefficients: Of `polynomial_weights`; none is uniform.
        temperature: That goes with them.
        held_out: Cross-entropy on images left out of the fit, by degree.
    """

    coefficients: np.ndarray
    temperature: float
    held_out: dict[int, float]


def fit_weights(
    errors: np.ndarray, t: np.ndarray, labels: np.ndarray, folds: int = 5, seed: int = 0
) -> FittedWeights:
    """Weights of the degree that names left-out images best, then fitted on all.

    A higher degree must beat the lower ones on images left out, so that weights are uniform where
    nothing else is learnt.

    Args:
        errors: Kept errors `[n, draws, k]`.
        t: Their times `[n, draws]`.
        labels: Column of each image's class, `[n]`.
        folds: Parts, each left out once.
        seed: Of the parts.

    Raises:
        InputError: fewer images than parts.
    """
    if len(labels) < folds or folds < 2:
        raise InputError(f"{len(labels)} images do not make {folds} parts.")
    part = np.random.default_rng(seed).permutation(len(labels)) % folds
    held_out = {}
    for degree in DEGREES:
        total = 0.0
        for fold in range(folds):
            out = part == fold
            fitted = _fit(errors[~out], t[~out], labels[~out], degree)
            total += out.sum() * cross_entropy(errors[out], t[out], labels[out], fitted)
        held_out[degree] = total / len(labels)
    best = min(DEGREES, key=held_out.__getitem__)
    fitted = _fit(errors, t, labels, best)
    return FittedWeights(fitted[1:], float(np.exp(fitted[0])), held_out)


def _fit(errors: np.ndarray, t: np.ndarray, labels: np.ndarray, degree: int) -> np.ndarray:
    relative = errors - errors.min(2, keepdims=True)  # same softmax, better conditioned
    start = np.zeros(degree + 1)
    start[0] = np.log(relative.mean() + np.finfo(np.float64).tiny)

    def objective(parameters: np.ndarray) -> float:
        return cross_entropy(relative, t, labels, np.clip(parameters, -30, 30))

    corners = start + np.vstack([np.zeros(degree + 1), np.eye(degree + 1)])
    options = {"initial_simplex": corners, "maxiter": 400 * (degree + 1)}
    return np.clip(minimize(objective, start, method="Nelder-Mead", options=options).x, -30, 30)


@dataclass(frozen=True)
class Density:
    """A density of draws on [0, 1) that is constant within even bins.

    Args:
        heights: Positive, one a bin; scaled to mean 1.

    Raises:
        InputError: heights that are not positive.
    """

    heights: np.ndarray

    def __post_init__(self) -> None:
        heights = np.asarray(self.heights, dtype=np.float64)
        if heights.ndim != 1 or not len(heights) or not (heights > 0).all():
            raise InputError("A density needs positive heights, one a bin.")
        object.__setattr__(self, "heights", heights / heights.mean())

    def quantile(self, place: np.ndarray) -> np.ndarray:
        """The inverse distribution function: even places become draws of this density."""
        edges = np.linspace(0, 1, len(self.heights) + 1)
        mass = np.append(0, np.cumsum(self.heights)) / len(self.heights)
        return np.interp(place, mass, edges)

    def at(self, place: np.ndarray) -> np.ndarray:
        """Its height; a draw's error is divided by this."""
        bins = np.floor(np.asarray(place) * len(self.heights)).astype(int)
        return self.heights[np.clip(bins, 0, len(self.heights) - 1)]


def least_variance_density(
    differences: np.ndarray, places: np.ndarray, bins: int = 10, floor: float = 0.1
) -> Density:
    """The density that makes the mean difference least variable, from kept draws.

    `q(t) ~ sqrt(E[D^2 | t])`, the optimum of importance sampling, with D in units of each image's
    own root mean square so that no image rules, and a uniform part that keeps every weight
    `1 / q` below `1 / floor`.

    Args:
        differences: Of a rival to the leader, `[n, draws]`.
        places: Uniform places of the draws in [0, 1), `[n, draws]`.
        bins: Even bins.
        floor: Share of draws that stay uniform.

    References:
        Kahn and Marshall, Methods of reducing sample size in Monte Carlo computations, 1953.
    """
    size = np.sqrt((differences**2).mean(1, keepdims=True))
    squares = (differences / np.where(size > 0, size, 1)) ** 2
    which = np.minimum((np.asarray(places) * bins).astype(int), bins - 1)
    sums = np.bincount(which.ravel(), squares.ravel(), bins)
    counts = np.bincount(which.ravel(), minlength=bins)
    root = np.sqrt(sums / np.maximum(counts, 1))
    root = root / root.mean() if root.any() else np.ones(bins)
    return Density((1 - floor) * root + floor)


def difference_profile(errors: np.ndarray, places: np.ndarray, bins: int = 10) -> np.ndarray:
    """How large differences to the best class are over time, relative to their mean, `[bins]`.

    Each image counts alike. It is what `Rule.profile` takes.

    Args:
        errors: Kept errors, weighted as they will be, `[n, draws, k]`.
        places: Uniform places of the draws in [0, 1), `[n, draws]`.
        bins: Even bins.
    """
    lead = errors.mean(1).argmin(1)
    differences = (errors - np.take_along_axis(errors, lead[:, None, None], 2)).sum(2)
    size = differences.mean(1, keepdims=True)
    relative = differences / np.where(size > 0, size, 1)
    which = np.minimum((np.asarray(places) * bins).astype(int), bins - 1)
    sums = np.bincount(which.ravel(), relative.ravel(), bins)
    heights = sums / np.maximum(np.bincount(which.ravel(), minlength=bins), 1)
    heights = np.maximum(heights, 0.05 * heights.max())
    return heights / heights.mean() if heights.any() else np.ones(bins)
