"""Accuracy with its interval, calibration, and the temperature that mends it."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from scipy.stats import binomtest

from ..errors import InputError


def wilson(correct: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion, in [0, 1].

        (p + z^2/2n -+ z sqrt(p (1-p) / n + z^2 / 4n^2)) / (1 + z^2 / n)

    References:
        Wilson, Probable Inference, 1927.

    Raises:
        InputError: no trials.
    """
    if n < 1:
        raise InputError(f"An interval needs at least one image; got n = {n}.")
    p, zz = correct / n, z * z / n
    middle, half = p + zz / 2, z * np.sqrt(p * (1 - p) / n + zz / (4 * n))
    return (middle - half) / (1 + zz), (middle + half) / (1 + zz)


def expected_calibration_error(proba: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over equal-width bins, weighted by their counts.

    Args:
        proba: Probability of the predicted class, `[n]`.
        correct: Whether it was right, bool `[n]`.
        bins: Number of bins over [0, 1].

    References:
        Guo et al., On Calibration of Modern Neural Networks, 2017.
        https://arxiv.org/abs/1706.04599
    """
    index = np.clip(np.ceil(proba * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(index, proba - correct, minlength=bins)
    return float(np.abs(gap).sum() / len(proba))


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    """Mean `-log softmax(logits / T)[label]` in nats."""
    log_p = log_softmax(logits / temperature, axis=1)
    return float(-log_p[np.arange(len(labels)), labels].mean())


def fit_temperature(groups: list[tuple[np.ndarray, np.ndarray]], *, smooth: bool = False) -> float:
    """The temperature of least negative log-likelihood.

    Args:
        groups: `(logits [n, k], labels [n])` of each label set; all images weigh the same.
        smooth: Take one image in n + 2 as labelled at random (Platt's targets). Where every image
            is classified rightly, the optimum is otherwise 0: certainty that no n can justify.

    References:
        Platt, Probabilistic Outputs for Support Vector Machines, 1999.
        Guo et al., On Calibration of Modern Neural Networks, 2017.
        https://arxiv.org/abs/1706.04599
    """
    total = sum(len(labels) for _, labels in groups)
    spread = np.median(np.concatenate([np.ptp(logits, axis=1) for logits, _ in groups]))
    middle = np.log(max(spread, 1e-6))

    def loss(log_t: float) -> float:
        t = float(np.exp(log_t))
        value = sum(negative_log_likelihood(z, y, t) * len(y) for z, y in groups) / total
        if not smooth:
            return value
        anyone = sum(-log_softmax(z / t, axis=1).mean(1).sum() for z, _ in groups) / total
        return value + (anyone - value) / (total + 2)

    found = minimize_scalar(loss, bounds=(middle - 10, middle + 3), method="bounded")
    return float(np.exp(found.x))


def percent(correct: int, n: int) -> str:
    """`89.2 % [87.1, 91.0] of 1,000`."""
    low, high = wilson(correct, n)
    return f"{100 * correct / n:.1f} % [{100 * low:.1f}, {100 * high:.1f}] of {n:,}"


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p of McNemar's test: are two classifiers equally often right?

    Args:
        only_first: Images that only the first has right.
        only_second: Images that only the second has right.

    References:
        McNemar, Note on the Sampling Error of the Difference Between Correlated Proportions, 1947.
    """
    n = only_first + only_second
    return float(binomtest(only_first, n).pvalue) if n else 1.0
