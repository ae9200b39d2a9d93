"""95 % intervals of what is not a simple proportion: mean recall, likelihood, calibration.

Each was chosen by its coverage on simulated data (`tests/test_intervals.py`): plain percentile
bootstraps of skewed losses and of the calibration error, which is biased, miss the truth too often
on a hundred images.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.stats import t as student_t

from .metrics import BINS, bin_of, expected_calibration_error, mean_per_class, wilson

LEVELS = (0.025, 0.975)
SMALL = 20  # images below which the bootstrap alone is not trusted


def resampled_counts(n: int, seed: int = 0, resamples: int | None = None) -> Iterator[np.ndarray]:
    """How often each of n images is in a resample, float64 `[n]`, resample after resample.

    Args:
        n: Images.
        seed: Of the resampling: the same run has the same interval.
        resamples: How many; if None 1,000, fewer (at least 100) above 50,000 images, whose
            intervals are narrow.
    """
    generator = np.random.default_rng(seed)
    for _ in range(resamples or int(np.clip(50_000_000 // max(1, n), 100, 1000))):
        yield np.bincount(generator.integers(0, n, n), minlength=n).astype(np.float64)


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """Bootstrap-t interval of a mean: resampled means in units of their own standard errors.

    Args:
        values: float64 `[n]`, in any order; one value has no interval and gives (value, value).

    References:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 12.
    """
    values = np.sort(values)  # resampled by place: the order of a run's images must not matter
    n, mean = len(values), float(values.mean())
    spread = float(values.std())
    if n < 2 or spread == 0:
        return mean, mean
    squares = values**2
    t = []
    for counts in resampled_counts(n):
        resampled = counts @ values / n
        error = np.sqrt(max(counts @ squares / n - resampled**2, 0.0) / (n - 1))
        if error > 0:
            t.append((resampled - mean) / error)
    low, high = np.quantile(t, LEVELS)
    if n < SMALL:  # so few values resample to a handful of means; never narrower than Student's
        student = float(student_t.ppf(LEVELS[1], n - 1))
        low, high = min(low, -student), max(high, student)
    scale = spread / np.sqrt(n - 1)
    # Losses lie above 0, and so does their mean.
    floor = 0.0 if values.min() >= 0 else -np.inf
    return max(floor, mean - float(high) * scale), mean - float(low) * scale


def mean_per_class_interval(right: np.ndarray, labels: np.ndarray, k: int) -> tuple[float, float]:
    """Wilson's interval with the number of images that a mean over classes is worth.

    The variance of a mean of recalls is `sum over classes of p (1 - p) / n_c / K^2` where recalls
    are alike, that of a proportion of `K^2 / sum(1 / n_c)` images: n where classes are even, fewer
    where they are not. Classes without images do not count.
    """
    counts = np.bincount(labels, minlength=k)
    counts = counts[counts > 0]
    worth = len(counts) ** 2 / (1 / counts).sum()
    return wilson(mean_per_class(right, labels, k) * worth, worth)


def calibration_interval(confidence: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    """Of the expected calibration error, which a finite number of images makes too large; within
    [0, 1].

    The union of the percentile and the basic (bias-reversing) bootstrap interval; it begins at 0
    where so large an error is found in 5 % or more of the cases with perfect calibration.
    """
    order = np.lexsort((right, confidence))  # as above
    confidence, right = confidence[order], right[order]
    n = len(right)
    found = expected_calibration_error(confidence, right)
    index, gap = bin_of(confidence), confidence - right
    errors = [
        np.abs(np.bincount(index, counts * gap, minlength=BINS)).sum() / n
        for counts in resampled_counts(n)
    ]
    low, high = np.quantile(errors, LEVELS)
    generator = np.random.default_rng(0)
    ideal = [
        expected_calibration_error(confidence, generator.random(n) < confidence) for _ in errors
    ]
    from_zero = found <= np.quantile(ideal, 0.95)
    lower = 0.0 if from_zero else min(float(low), 2 * found - float(high))
    return max(0.0, lower), min(1.0, max(float(high), 2 * found - float(low)))
