import numpy as np
import pytest
from scipy.optimize import minimize

import diffzero as dz
from conftest import as_x0, oracle_problem
from diffzero.errors import InputError
from diffzero.scoring.simplex import simplex_weights


def problem(seed, k, d, copies=0):
    """Residuals of predictions near the noise, as a denoiser's are, and their inner products."""
    generator = np.random.default_rng(seed)
    size = 10 ** generator.uniform(-3, 0.5)
    residuals = size * generator.standard_normal((k, d)) + 0.5 * generator.standard_normal(d)
    residuals = np.concatenate([residuals, residuals[:copies]])
    return residuals, residuals @ residuals.T


def gap(gram, w):
    """Frank and Wolfe's duality gap, an upper bound of what w loses against the best."""
    slope = gram @ w
    return 2 * (slope @ w - slope.min())


def slsqp(gram):
    k = len(gram)
    return minimize(
        lambda w: w @ gram @ w,
        np.full(k, 1 / k),
        jac=lambda w: 2 * gram @ w,
        bounds=[(0, 1)] * k,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )


@pytest.mark.parametrize("k,d", [(2, 50), (3, 3), (10, 200), (10, 4), (30, 12)])
@pytest.mark.parametrize("seed", range(6))
def test_it_is_on_the_simplex_and_not_above_slsqp(seed, k, d):
    gram = problem(seed, k, d)[1]
    w = simplex_weights(gram)
    assert (w >= 0).all() and w.sum() == pytest.approx(1, abs=1e-12)
    assert w @ gram @ w <= slsqp(gram).fun + 1e-8 * np.abs(gram).max()


@pytest.mark.parametrize("seed", range(20))
def test_the_conditions_of_optimality_hold(seed):
    """The gradient is one number on classes with weight, and nowhere less (KKT)."""
    gram = problem(seed, 12, 40)[1]
    w = simplex_weights(gram)
    slope, scale = gram @ w, np.abs(gram).max()
    assert np.ptp(slope[w > 0]) <= 1e-8 * scale
    assert slope.min() >= slope[w > 0].max() - 1e-8 * scale


def test_random_weights_do_worse():
    residuals, gram = problem(3, 8, 30)
    best = ((simplex_weights(gram) @ residuals) ** 2).sum()
    for other in np.random.default_rng(0).dirichlet(np.ones(8) * 0.3, 500):
        lost = ((other @ residuals) ** 2).sum() - best
        assert -1e-9 <= lost <= gap(gram, other) + 1e-9


def test_a_mixture_is_recovered_where_the_noise_is_one():
    predictions = np.random.default_rng(5).standard_normal((6, 100))
    truth = np.array([0.5, 0, 0.3, 0, 0.2, 0])
    residuals = predictions - truth @ predictions
    np.testing.assert_allclose(simplex_weights(residuals @ residuals.T), truth, atol=1e-7)


def test_two_classes_have_a_closed_form():
    generator = np.random.default_rng(2)
    for _ in range(50):
        a, b = generator.standard_normal((2, 5))
        r = np.stack([a, b])
        share = np.clip(-b @ (a - b) / ((a - b) @ (a - b)), 0, 1)
        np.testing.assert_allclose(simplex_weights(r @ r.T), [share, 1 - share], atol=1e-9)


def test_equal_predictions_are_no_trouble():
    """Labels that a network cannot tell apart make G singular."""
    residuals, gram = problem(1, 5, 40, copies=5)
    w, once = simplex_weights(gram), simplex_weights(gram[:5, :5])
    np.testing.assert_allclose(w @ residuals, once @ residuals[:5], atol=1e-6)
    for same in (np.ones((4, 4)), np.zeros((3, 3))):
        assert simplex_weights(same).sum() == pytest.approx(1)


def test_the_scale_of_residuals_does_not_matter():
    gram = problem(4, 9, 60)[1]
    w = simplex_weights(gram)
    for scale in (1e-12, 1e9):
        np.testing.assert_allclose(simplex_weights(gram * scale), w, atol=1e-7)


def test_many_classes():
    gram = problem(7, 300, 64)[1]
    assert gap(gram, simplex_weights(gram)) <= 1e-8 * np.abs(gram).max()


@pytest.mark.parametrize("gram", [np.ones((3, 2)), np.eye(0), np.full((2, 2), np.nan)])
def test_bad_input_is_refused(gram):
    with pytest.raises(InputError):
        simplex_weights(gram)


def test_weighted_solves_for_the_mixture_without_a_gradient():
    backbone, pixels, labels = oracle_problem(dz.LogSNRLinearSchedule(), n=40, spread=0.6)
    assert (backbone.posterior(as_x0(pixels)).argmax(1).numpy() == labels).all()
    exact = dz.Weighted(backbone, steps=2, draws=16, optimizer="simplex").fit(backbone.classes)
    scores = exact.scores(pixels)
    assert (scores.logits.argmax(1) == labels).all()
    assert np.allclose(np.exp(scores.logits).sum(1), 1)
    assert (scores.evals == exact.count_evals(4)).all() and scores.vjps is None
    whole = dz.Weighted(backbone, steps=1, draws=32, optimizer="simplex").fit(backbone.classes)
    assert np.allclose(whole.scores(pixels).logits, scores.logits, atol=1e-6)  # the same draws
    uniform = exact.gradient(pixels[:3])  # the descent's gradient, whatever the optimizer
    assert np.allclose(
        uniform,
        dz.Weighted(backbone, steps=2, draws=16).fit(backbone.classes).gradient(pixels[:3]),
    )
