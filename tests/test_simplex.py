import numpy as np
import pytest
from scipy.optimize import minimize

from diffzero.errors import InputError
from diffzero.scoring.simplex import simplex_gap, simplex_objective, simplex_weights


def problem(seed, k, d, copies=0):
    """Predictions near the noise they predict, as a denoiser's are: (predictions, eps, G, b)."""
    generator = np.random.default_rng(seed)
    eps = generator.standard_normal(d)
    size = 10 ** generator.uniform(-3, 0.5)
    predictions = (
        eps + size * generator.standard_normal((k, d)) + 0.5 * generator.standard_normal(d)
    )
    predictions = np.concatenate([predictions, predictions[:copies]])
    return predictions, eps, predictions @ predictions.T, predictions @ eps


def slsqp(gram, cross):
    k = len(cross)
    return minimize(
        lambda w: w @ gram @ w - 2 * cross @ w,
        np.full(k, 1 / k),
        jac=lambda w: 2 * (gram @ w - cross),
        bounds=[(0, 1)] * k,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )


@pytest.mark.parametrize("k,d", [(2, 50), (3, 3), (10, 200), (10, 4), (30, 12)])
@pytest.mark.parametrize("seed", range(6))
def test_it_is_on_the_simplex_and_not_above_slsqp(seed, k, d):
    _, _, gram, cross = problem(seed, k, d)
    w = simplex_weights(gram, cross)
    assert (w >= 0).all() and w.sum() == pytest.approx(1, abs=1e-12)
    scale = np.abs(gram).max()
    other = slsqp(gram, cross)
    assert simplex_objective(gram, cross, w) <= other.fun + 1e-8 * scale


@pytest.mark.parametrize("seed", range(20))
def test_the_conditions_of_optimality_hold(seed):
    """The gradient is one number on classes with weight, and nowhere less (KKT)."""
    _, _, gram, cross = problem(seed, 12, 40)
    w = simplex_weights(gram, cross)
    slope = gram @ w - cross
    scale = np.abs(gram).max()
    assert np.ptp(slope[w > 0]) <= 1e-8 * scale
    assert slope.min() >= slope[w > 0].max() - 1e-8 * scale
    assert simplex_gap(gram, cross, w) <= 1e-8 * scale


def test_the_objective_is_the_distance_to_the_noise_and_random_weights_do_worse():
    predictions, eps, gram, cross = problem(3, 8, 30)
    w = simplex_weights(gram, cross)
    best = ((eps - w @ predictions) ** 2).sum()
    assert simplex_objective(gram, cross, w) + eps @ eps == pytest.approx(best)
    for other in np.random.default_rng(0).dirichlet(np.ones(8) * 0.3, 500):
        gap = ((eps - other @ predictions) ** 2).sum() - best
        assert gap >= -1e-9
        assert gap <= simplex_gap(gram, cross, other) + 1e-9  # the gap bounds what is lost


def test_a_mixture_is_recovered_where_the_noise_is_one():
    generator = np.random.default_rng(5)
    predictions = generator.standard_normal((6, 100))
    truth = np.array([0.5, 0, 0.3, 0, 0.2, 0])
    eps = truth @ predictions
    w = simplex_weights(predictions @ predictions.T, predictions @ eps)
    np.testing.assert_allclose(w, truth, atol=1e-9)


def test_two_classes_have_a_closed_form():
    generator = np.random.default_rng(2)
    for _ in range(50):
        a, b, eps = generator.standard_normal((3, 5))
        p = np.stack([a, b])
        share = np.clip((eps - b) @ (a - b) / ((a - b) @ (a - b)), 0, 1)
        np.testing.assert_allclose(
            simplex_weights(p @ p.T, p @ eps), [share, 1 - share], atol=1e-9
        )


def test_equal_predictions_are_no_trouble():
    """Labels that a network cannot tell apart make G singular."""
    predictions, eps, gram, cross = problem(1, 5, 40, copies=5)
    w = simplex_weights(gram, cross)
    once = simplex_weights(gram[:5, :5], cross[:5])
    np.testing.assert_allclose(w @ predictions, once @ predictions[:5], atol=1e-6)
    same = np.ones((4, 4))
    assert simplex_weights(same, np.ones(4)).sum() == pytest.approx(1)
    assert simplex_weights(np.zeros((3, 3)), np.zeros(3)).sum() == pytest.approx(1)


def test_the_scale_of_predictions_does_not_matter():
    _, _, gram, cross = problem(4, 9, 60)
    w = simplex_weights(gram, cross)
    for scale in (1e-12, 1e9):
        np.testing.assert_allclose(simplex_weights(gram * scale, cross * scale), w, atol=1e-7)


def test_many_classes():
    _, _, gram, cross = problem(7, 300, 64)
    w = simplex_weights(gram, cross)
    assert simplex_gap(gram, cross, w) <= 1e-8 * np.abs(gram).max()


@pytest.mark.parametrize(
    "gram,cross",
    [
        (np.eye(3), np.ones(2)),
        (np.eye(0), np.ones(0)),
        (np.full((2, 2), np.nan), np.ones(2)),
        (np.eye(2), np.array([1, np.inf])),
    ],
)
def test_bad_input_is_refused(gram, cross):
    with pytest.raises(InputError):
        simplex_weights(gram, cross)
