"""Accuracy with its interval, calibration, and the temperature that mends it.

Predictions are columns of an array; `reorder` brings the columns of two classifiers together by
name.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from scipy.stats import binomtest

from ..errors import InputError

BINS = 15


def wilson(correct: float, n: float, z: float = 1.959964) -> tuple[float, float]:
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
    low, high = (middle - half) / (1 + zz), (middle + half) / (1 + zz)
    # Rounding must leave neither p outside nor the interval outside [0, 1].
    return float(max(0.0, min(low, p))), float(min(1.0, max(high, p)))


def bin_of(proba: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Number of the equal-width bin over [0, 1] of each probability, int64 `[n]`."""
    return np.clip(np.ceil(proba * bins).astype(int) - 1, 0, bins - 1)


def expected_calibration_error(proba: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """Mean gap between confidence and accuracy over equal-width bins, weighted by their counts.

    Args:
        proba: Probability of the predicted class, `[n]`.
        correct: Whether it was right, bool `[n]`.
        bins: Number of bins over [0, 1].

    References:
        Guo et al., On Calibration of Modern Neural Networks, 2017.
        https://arxiv.org/abs/1706.04599
    """
    gap = np.bincount(bin_of(proba, bins), proba - correct, minlength=bins)
    return float(np.abs(gap).sum() / len(proba))


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    """Mean `-log softmax(logits / T)[label]` in nats."""
    log_p = log_softmax(logits / temperature, axis=1)
    return float(-log_p[np.arange(len(labels)), labels].mean())


def fit_temperature(
    groups: list[tuple[np.ndarray, np.ndarray]],
    *,
    smooth: bool = False,
    log_priors: np.ndarray | float = 0.0,
) -> float:
    """The temperature of least negative log-likelihood.

    Args:
        groups: `(logits [n, k], labels [n])` of each label set; all images weigh the same.
        smooth: Take one image in n + 2 as labelled at random (Platt's targets). Where every image
            is classified rightly, the optimum is otherwise 0: certainty that no n can justify.
        log_priors: Added to what the temperature divides, `[k]`.

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
        value = (
            sum(negative_log_likelihood(z / t + log_priors, y, 1.0) * len(y) for z, y in groups)
            / total
        )
        if not smooth:
            return value
        anyone = (
            sum(-log_softmax(z / t + log_priors, axis=1).mean(1).sum() for z, _ in groups) / total
        )
        return value + (anyone - value) / (total + 2)

    found = minimize_scalar(loss, bounds=(middle - 10, middle + 3), method="bounded")
    return float(np.exp(found.x))


def percent(correct: int, n: int) -> str:
    """`89.2 % [87.1, 91.0] of 1,000`."""
    low, high = wilson(correct, n)
    return f"{100 * correct / n:.1f} % [{100 * low:.1f}, {100 * high:.1f}] of {n:,}"


def reorder(classes: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """Columns of `classes` in the order of `wanted`: `table[:, reorder(a, b)]`, int64 `[k]`.

    Raises:
        InputError: the two name different classes.
    """
    place = {name: i for i, name in enumerate(classes)}
    if set(place) != set(wanted):
        odd = sorted(set(place) ^ set(wanted))
        raise InputError(
            f"The two have different classes: {', '.join(odd[:5])}"
            f"{', ...' if len(odd) > 5 else ''} are in one only. Compare runs of the same classes."
        )
    return np.array([place[name] for name in wanted], dtype=np.int64)


def top_k(proba: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Whether the label is among the k most probable classes, bool `[n]`.

    Of classes with equal probability the later columns rank first, as in scikit-learn's
    `top_k_accuracy_score`; for k = 1 the first does, as in `argmax`.
    """
    if k == 1:
        return proba.argmax(1) == labels
    best = np.argsort(proba, axis=1, kind="stable")[:, -k:]
    return (best == labels[:, None]).any(1)


def per_class(right: np.ndarray, labels: np.ndarray, k: int) -> list[tuple[float | None, int]]:
    """Recall and number of images of each class; recall is None without images."""
    counts = np.bincount(labels, minlength=k)
    hits = np.bincount(labels, right.astype(float), minlength=k)
    return [(float(h / c) if c else None, int(c)) for h, c in zip(hits, counts, strict=True)]


def mean_per_class(right: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Mean recall over the classes that have images: balanced accuracy."""
    counts = np.bincount(labels, minlength=k)
    hits = np.bincount(labels, right.astype(float), minlength=k)
    return float((hits[counts > 0] / counts[counts > 0]).mean())


def confusion(labels: np.ndarray, predicted: np.ndarray, k: int) -> np.ndarray:
    """Counts of (true, predicted), int64 `[k, k]`."""
    from sklearn.metrics import confusion_matrix

    return confusion_matrix(labels, predicted, labels=np.arange(k))


def likelihood_losses(proba: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """`-log p[label]` of every image in nats, clipped at the smallest float64."""
    chosen = proba[np.arange(len(labels)), labels]
    return -np.log(np.maximum(chosen, np.finfo(float).tiny))


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
