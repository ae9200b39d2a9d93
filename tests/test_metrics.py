import numpy as np
import pytest
from scipy.stats import binomtest

import diffzero as dz
from diffzero.evaluate.metrics import (
    expected_calibration_error,
    fit_temperature,
    mcnemar,
    percent,
    wilson,
)


@pytest.mark.parametrize(("correct", "n"), [(0, 10), (10, 10), (892, 1000), (3, 7)])
def test_wilson_is_that_of_scipy(correct, n):
    expected = binomtest(correct, n).proportion_ci(method="wilson")
    assert np.allclose(wilson(correct, n), [expected.low, expected.high])


def test_percent_and_no_images():
    assert percent(892, 1000) == "89.2 % [87.1, 91.0] of 1,000"
    with pytest.raises(dz.InputError, match="at least one image"):
        wilson(0, 0)


def test_calibration_error_of_a_calibrated_and_of_a_boastful_classifier():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.2, 1, 20_000)
    assert expected_calibration_error(p, rng.uniform(size=20_000) < p) < 0.02
    assert expected_calibration_error(np.ones(100), np.arange(100) < 60) == pytest.approx(0.4)


def test_temperature_is_recovered():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 5)) * 2
    proba = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (proba.cumsum(1) > rng.uniform(size=(20_000, 1))).argmax(1)
    assert fit_temperature([(logits * 37, labels)]) == pytest.approx(37, rel=0.05)


def test_smooth_temperature_stays_sane_where_every_image_is_right():
    logits = np.eye(3)[[0, 1, 2] * 20] * 5 + np.random.default_rng(0).normal(size=(60, 3)) * 0.3
    labels = np.array([0, 1, 2] * 20)
    assert (logits.argmax(1) == labels).all()
    hard = fit_temperature([(logits, labels)])
    soft = fit_temperature([(logits, labels)], smooth=True)
    assert hard < 0.1 < soft < 3


def test_mcnemar_is_the_binomial_test_of_the_discordant():
    assert mcnemar(0, 0) == 1 and mcnemar(7, 7) == 1
    assert mcnemar(10, 0) == pytest.approx(2 * 0.5**10)
    assert mcnemar(3, 9) == mcnemar(9, 3) == pytest.approx(2 * 299 / 4096)  # sum of C(12, 0..3)


def test_intervals_of_none_and_all_stay_within_zero_and_one():
    for n in range(1, 200):
        assert wilson(0, n)[0] == 0.0 and "-0" not in percent(0, n)
        assert wilson(n, n)[1] == 1.0
