import numpy as np

from diffzero.scoring.control import NOISES, adjusted, centred, shrinkage, squared_distances


def test_gaussian_classes_of_one_variance_lose_their_noise_and_tell_their_distance():
    """Closed form: D_i = const - 2 f <eps_i, delta>, with one delta at all times."""
    generator = np.random.default_rng(0)
    n, k, dims = 32, 4, 200
    eps, said = generator.standard_normal((NOISES, dims)), generator.standard_normal((k, dims))
    f = shrinkage(np.full(n, 8.0))  # nearly 1
    errors = -2 * f[:, None] * (eps[:n] @ said.T)
    products = centred(np.broadcast_to(said @ eps.T, (n, k, NOISES)))
    better = adjusted(errors, products, np.arange(n) / n, f)
    left = np.var(better - better[:, :1], axis=0)[1:] / np.var(errors - errors[:, :1], axis=0)[1:]
    assert np.allclose(left, (1 - 1.3 * (1 - 2 / n) / 2) ** 2, rtol=1e-2)
    truth = ((said - said[0]) ** 2).sum(1)[1:]
    assert np.allclose(squared_distances(products, 0).mean(0)[1:], truth, rtol=0.6)
    assert (adjusted(errors[:2], products[:2], np.arange(2) / 2, f[:2]) == errors[:2]).all()
