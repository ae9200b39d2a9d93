"""Intervals cover the truth as often as they say, on simulated classifiers of known truth."""

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import log_softmax
from scipy.stats import binom

from diffzero.evaluate.intervals import (
    calibration_interval,
    mean_interval,
    mean_per_class_interval,
)
from diffzero.evaluate.metrics import expected_calibration_error, mean_per_class, wilson

CLASSES = 10
ACCURACIES = (0.5, 0.9, 0.98)


def sample(rng, n, scale, temperature=1.0):
    """A ten-class Gaussian problem and its Bayes classifier: labels, hits, losses, confidence."""
    labels = rng.integers(0, CLASSES, n)
    z = rng.normal(size=(n, CLASSES))
    z[np.arange(n), labels] += scale
    log_p = log_softmax(scale * z / temperature, axis=1)
    return labels, log_p.argmax(1) == labels, -log_p[np.arange(n), labels], np.exp(log_p.max(1))


def scale_of(accuracy):
    """The separation at which the Bayes classifier has this accuracy."""

    def excess(scale):
        return sample(np.random.default_rng(0), 100_000, scale)[1].mean() - accuracy

    return brentq(excess, 0.3, 8, xtol=1e-3)


@pytest.mark.parametrize("n", [100, 1000])
@pytest.mark.parametrize("accuracy", ACCURACIES)
def test_wilson_covers_93_to_97_percent(accuracy, n):
    hits = np.random.default_rng(0).binomial(n, accuracy, 1000)
    bounds = np.array([wilson(x, n) for x in hits])
    simulated = ((bounds[:, 0] <= accuracy) & (accuracy <= bounds[:, 1])).mean()
    every = np.arange(n + 1)
    low, high = np.array([wilson(x, n) for x in every]).T
    exact = binom.pmf(every, n, accuracy)[(low <= accuracy) & (accuracy <= high)].sum()
    assert 0.93 <= simulated <= 0.97 and 0.93 <= exact <= 0.97


def covered(accuracy, n, repeats, temperature, seed=1):
    """Share of simulated data sets whose interval holds the truth, by metric."""
    scale = scale_of(accuracy)
    _, hits, losses, confidence = sample(np.random.default_rng(9), 1_000_000, scale, temperature)
    truth = (hits.mean(), losses.mean(), expected_calibration_error(confidence, hits))
    rng = np.random.default_rng(seed)
    inside = np.zeros(3)
    for _ in range(repeats):
        labels, right, losses, confidence = sample(rng, n, scale, temperature)
        intervals = (
            mean_per_class_interval(right, labels, CLASSES),
            mean_interval(losses),
            calibration_interval(confidence, right),
        )
        inside += [low <= t <= high for t, (low, high) in zip(truth, intervals, strict=True)]
    return dict(zip(("mean_per_class", "nll", "ece"), inside / repeats, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [1.0, 1.6])
@pytest.mark.parametrize("n", [100, 1000])
@pytest.mark.parametrize("accuracy", ACCURACIES)
def test_other_intervals_cover(accuracy, n, temperature, capsys):
    found = covered(accuracy, n, 400, temperature)
    with capsys.disabled():
        print(f"\naccuracy {accuracy}, n {n}, temperature {temperature}: {found}")
    assert 0.92 <= found["mean_per_class"] <= 0.975
    # A hundred images at 98 % hold two errors: no resampling tells how large losses can be.
    assert found["nll"] >= (0.88 if (accuracy, n) == (0.98, 100) else 0.92)
    assert found["ece"] >= 0.9


def test_mean_per_class_interval_is_wilsons_for_even_classes_and_wider_for_uneven_ones():
    labels = np.repeat(np.arange(10), 10)
    right = np.arange(100) % 10 < 9
    assert mean_per_class_interval(right, labels, 10) == pytest.approx(wilson(90, 100))
    uneven = np.concatenate([np.zeros(91, int), np.arange(1, 10)])
    low, high = mean_per_class_interval(np.arange(100) % 10 < 9, uneven, 10)
    assert high - low > 1.5 * (wilson(90, 100)[1] - wilson(90, 100)[0])
    assert mean_per_class(np.ones(3, bool), np.array([0, 2, 2]), 10) == 1.0


def test_intervals_hold_their_statistic_and_shrink():
    rng = np.random.default_rng(0)
    widths = []
    for n in (100, 10_000):
        _, right, losses, confidence = sample(rng, n, 1.5, 1.6)
        low, high = mean_interval(losses)
        assert low < losses.mean() < high
        widths.append(high - low)
        low, high = calibration_interval(confidence, right)
        assert low <= expected_calibration_error(confidence, right) <= high
    assert widths[1] < widths[0] / 5
    assert mean_interval(np.full(5, 0.3)) == (pytest.approx(0.3), pytest.approx(0.3))


def test_a_calibrated_classifier_may_have_no_calibration_error():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.3, 1, 300)
    assert calibration_interval(confidence, rng.random(300) < confidence)[0] == 0
    assert calibration_interval(np.ones(300), np.arange(300) % 2 == 0)[0] > 0.4


def test_few_values_get_students_interval_not_a_false_certainty():
    low, high = mean_interval(np.array([0.2, 0.4]))
    assert low == 0 and high == pytest.approx(0.3 + 12.7062 * 0.1, rel=1e-4)
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(300):
        low, high = mean_interval(rng.normal(size=5))
        inside += low <= 0 <= high
    assert inside / 300 >= 0.93


def test_the_order_of_images_does_not_matter():
    """Resumed runs and those of several workers have their records in another order."""
    generator = np.random.default_rng(3)
    losses, confidence = generator.exponential(size=60), generator.uniform(size=60)
    right = generator.random(60) < confidence
    order = generator.permutation(60)
    assert mean_interval(losses) == mean_interval(losses[order])
    assert calibration_interval(confidence, right) == calibration_interval(
        confidence[order], right[order]
    )


def test_the_interval_of_a_calibration_error_stays_below_one():
    low, high = calibration_interval(np.array([0.9, 0.95, 0.9, 0.92, 0.7]), np.zeros(5, bool))
    assert 0 <= low <= high <= 1
