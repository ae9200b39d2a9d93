import numpy as np
import pytest

from diffzero.noise import gaussian, image_key, quantiles, radical_inverse


def test_radical_inverse_is_bit_reversal():
    assert radical_inverse(np.arange(8)).tolist() == [
        0,
        0.5,
        0.25,
        0.75,
        0.125,
        0.625,
        0.375,
        0.875,
    ]


@pytest.mark.parametrize("n", [1, 2, 8, 64, 1024])
def test_draws_form_an_even_grid_at_every_power_of_two(n):
    places = np.sort(quantiles(12345, np.arange(n)))
    gaps = np.diff(np.append(places, places[0] + 1))
    assert np.allclose(gaps, 1 / n)


def test_draws_nest():
    assert np.array_equal(quantiles(7, np.arange(8)), quantiles(7, np.arange(64))[:8])


def test_key_depends_on_seed_pixels_and_shape_only():
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    key = image_key(0, pixels)
    assert key == image_key(0, pixels.copy(order="F"))
    assert len({key, image_key(1, pixels), image_key(0, pixels.reshape(2, 8, 3))}) == 3


def test_noise_is_standard_normal_and_draws_are_independent():
    z = np.stack([gaussian(99, d, (3, 16, 16)) for d in range(64)])
    assert abs(z.mean()) < 0.02 and abs(z.std() - 1) < 0.02
    flat = z.reshape(64, -1)
    correlation = np.corrcoef(flat)[np.triu_indices(64, 1)]
    assert np.abs(correlation).max() < 5 / np.sqrt(flat.shape[1])
    assert np.array_equal(gaussian(99, 5, (3, 16, 16)), z[5])


def test_jitter_belongs_to_the_image_and_its_number():
    from diffzero.noise import jitter

    assert np.array_equal(jitter(7, 3), jitter(7, 3))
    many = np.stack([jitter(7, i) for i in range(400)])
    assert (np.abs(many) <= 1).all() and np.abs(many.mean(0)).max() < 0.12
    assert not np.array_equal(jitter(7, 3), jitter(8, 3))
