import numpy as np
import pytest
from scipy.special import softmax

from diffzero.errors import InputError
from diffzero.noise import radical_inverse
from diffzero.scoring.weighting import (
    Density,
    antithetic,
    block_places,
    cross_entropy,
    difference_profile,
    fit_weights,
    least_variance_density,
    ordered_places,
    polynomial_weights,
)

# Orders


@pytest.mark.parametrize("start", [0.0, 0.37, 0.99])
def test_an_order_begins_where_it_should_and_ends_with_the_same_grid(start):
    draws = np.arange(64)
    places = ordered_places(draws, 64, start, 0.25)
    assert abs(places[0] - start) <= 1 / 64
    np.testing.assert_allclose(np.sort(places), (draws + 0.25) / 64)
    for n in (2, 8, 32):  # every power of two is an even grid
        np.testing.assert_allclose(np.diff(np.sort(places[:n])), 1 / n)


def test_the_mean_over_all_draws_is_unbiased_over_the_shift():
    shifts = (np.arange(200) + 0.5) / 200
    means = [(ordered_places(np.arange(8), 8, 0.6, s) ** 3).mean() for s in shifts]
    assert np.mean(means) == pytest.approx(0.25, abs=1e-5)


def test_a_grid_that_does_not_nest_is_refused():
    with pytest.raises(InputError, match="power of two"):
        ordered_places(np.arange(3), 12, 0.5, 0.1)


def test_blocks_are_even_grids_with_shifts_of_their_own_and_independent_means():
    shifts = np.random.default_rng(0).random(4000)
    places = block_places(np.arange(4 * 4000), 4, shifts).reshape(-1, 4)
    np.testing.assert_allclose(np.diff(np.sort(places, 1), axis=1), 0.25)
    np.testing.assert_allclose(places[3], (radical_inverse(np.arange(4)) + shifts[3]) % 1)
    means = np.exp(places).mean(1)
    assert abs(np.corrcoef(means[1:], means[:-1])[0, 1]) < 0.05
    assert means.mean() == pytest.approx(np.e - 1, abs=0.005)


def test_antithetic_pairs_cancel_what_is_odd_in_the_noise():
    pair, sign = antithetic(np.arange(6))
    np.testing.assert_array_equal(pair, [0, 0, 1, 1, 2, 2])
    noise = np.random.default_rng(1).standard_normal(3)[pair] * sign
    values = 2 + 5 * noise
    np.testing.assert_allclose(values.reshape(-1, 2).mean(1), 2)


# Weights


def test_weights_have_mean_one_and_the_shape_of_their_coefficients():
    t = (np.arange(500) + 0.5) / 500
    for a in ([], [-7.0], [3.0, -2.0]):
        assert polynomial_weights(t, np.array(a)).mean() == pytest.approx(1, rel=1e-4)
    falling = polynomial_weights(t, np.array([-7.0]))
    np.testing.assert_allclose(falling[100] / falling[300], np.exp(-7 * (t[100] - t[300])))
    np.testing.assert_array_equal(polynomial_weights(t, np.array([])), np.ones(500))


def kept(seed, late_noise, n=160, draws=16, k=4):
    """Errors whose differences tell the class; late draws are noisier by a factor."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, k, n)
    t = (radical_inverse(np.arange(draws)) + generator.random((n, 1))) % 1
    noise = generator.standard_normal((n, draws, k)) * (1 + late_noise * t)[:, :, None]
    truth = 0.6 * (np.arange(k) != labels[:, None])[:, None, :]
    return 10 + truth + noise, t, labels


def test_cross_entropy_is_that_of_the_weighted_softmax():
    errors, t, labels = kept(0, 0.0)
    got = cross_entropy(errors, t, labels, np.array([np.log(0.2), -1.5]))
    w = polynomial_weights(t, np.array([-1.5]))
    p = softmax(-(w[:, :, None] * errors).mean(1) / 0.2, axis=1)
    assert got == pytest.approx(-np.log(p[np.arange(len(labels)), labels]).mean())


def test_weights_fall_where_draws_are_noise_and_stay_even_where_all_are_alike():
    errors, t, labels = kept(1, 12.0)
    fitted = fit_weights(errors, t, labels)
    assert len(fitted.coefficients) >= 1
    w = polynomial_weights(np.array([0.1, 0.9]), fitted.coefficients)
    assert w[0] > 2 * w[1]
    assert min(fitted.held_out[1], fitted.held_out[2]) < fitted.held_out[0] - 0.02

    def accuracy(errors, t, labels, coefficients):
        w = polynomial_weights(t, coefficients)
        return ((w[:, :, None] * errors).mean(1).argmin(1) == labels).mean()

    fresh = kept(2, 12.0, n=1000)
    assert accuracy(*fresh, fitted.coefficients) > accuracy(*fresh, np.array([])) + 0.05
    even = fit_weights(*kept(3, 0.0))
    assert min(even.held_out.values()) > even.held_out[0] - 0.02


def test_too_few_images_are_refused():
    errors, t, labels = kept(4, 0.0, n=3)
    with pytest.raises(InputError, match="3 images"):
        fit_weights(errors, t, labels)


# Densities


def test_draws_of_a_density_have_it_and_weights_undo_it():
    density = Density(np.array([1.0, 3.0, 0.5, 0.5]))
    place = (np.arange(40000) + 0.5) / 40000
    t = density.quantile(place)
    counts = np.histogram(t, 4, (0, 1))[0] / 10000
    np.testing.assert_allclose(counts, density.heights, atol=1e-3)
    assert density.heights.mean() == pytest.approx(1)
    for f in (np.sin, np.exp):
        truth = f((np.arange(40000) + 0.5) / 40000).mean()
        assert (f(t) / density.at(t)).mean() == pytest.approx(truth, abs=1e-3)
    with pytest.raises(InputError, match="positive"):
        Density(np.array([1.0, 0.0]))


def test_the_density_of_least_variance_is_where_differences_are_large():
    """Its variance is below that of uniform draws, by the ratio that theory gives."""
    generator = np.random.default_rng(5)
    spread = np.array([4.0, 2.0, 1.0, 0.2])

    def difference(t):
        return spread[np.minimum((t * 4).astype(int), 3)] * generator.standard_normal(t.shape)

    t = generator.random((200, 64))
    scale = 10 ** generator.uniform(-2, 2, (200, 1))  # images of all sizes count alike
    density = least_variance_density(scale * difference(t), t, bins=4, floor=0.01)
    np.testing.assert_allclose(density.heights, spread / spread.mean(), rtol=0.15)
    drawn = density.quantile(generator.random(200000))
    variance = (difference(drawn) / density.at(drawn)).var()
    assert variance == pytest.approx(spread.mean() ** 2, rel=0.1)
    assert variance < 0.7 * difference(generator.random(200000)).var()


def test_the_floor_bounds_the_weight_of_a_draw():
    t = (radical_inverse(np.arange(64))[None] + np.zeros((4, 1))) % 1
    density = least_variance_density((t > 0.5).astype(float), t, bins=2, floor=0.2)
    assert 1 / density.heights[0] == pytest.approx(1 / 0.2)


def test_a_density_without_differences_is_uniform():
    density = least_variance_density(np.zeros((3, 8)), np.random.default_rng(6).random((3, 8)))
    np.testing.assert_allclose(density.heights, 1)


def test_the_profile_is_the_shape_of_differences_over_time():
    generator = np.random.default_rng(7)
    t = (radical_inverse(np.arange(64)) + generator.random((100, 1))) % 1
    shape = np.array([0.5, 1.5, 1.5, 0.5])
    gaps = generator.uniform(0.1, 100, (100, 1, 1)) * np.array([0.0, 1, 2])  # of all sizes
    errors = 5 + gaps * shape[np.minimum((t * 4).astype(int), 3)][:, :, None]
    np.testing.assert_allclose(difference_profile(errors, t, bins=4), shape, rtol=1e-6)
    np.testing.assert_allclose(difference_profile(np.ones((2, 8, 3)), t[:2, :8]), 1)
