"""Control variates and distances of predictions: closed forms, real models, what is refused."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import diffzero as dz
from conftest import as_x0
from diffzero.noise import gaussian
from diffzero.scoring.control import NOISES, adjusted, centred, shrinkage, squared_distances
from diffzero.scoring.denoising import denoising_errors, errors_and_products, noised
from diffzero.scoring.engine import Batch, Subject
from diffzero.scoring.racing import Race
from diffzero.scoring.rules import Rule


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


def test_the_mean_of_errors_stays_whatever_the_network_says():
    """Predictions are any function of their own draw's noise; the mean of what is added is 0."""
    generator = np.random.default_rng(1)
    n, k, dims, repeats = 8, 3, 6, 4000
    places, f = (np.arange(n) + 0.3) / n, shrinkage(np.linspace(-6, 6, n))
    own = generator.standard_normal((k, dims))
    added = np.zeros((repeats, n, k))
    for i in range(repeats):
        eps = generator.standard_normal((NOISES, dims))
        said = np.tanh(own + eps[:n, None] ** 2) * (1 + eps[:n, None, :1])
        products = centred(said @ eps.T)
        added[i] = adjusted(np.zeros((n, k)), products, places, f)
    error = added.std(0) / np.sqrt(repeats)
    assert (np.abs(added.mean(0)) < 4.5 * error).all() and (error > 0).all()


@pytest.mark.parametrize("target", ["eps", "x", "v"])
def test_products_are_those_of_the_predictions_in_units_of_the_errors(oracle, target):
    backbone, images, _ = oracle
    subjects = [Subject(x_0, 7 + i) for i, x_0 in enumerate(as_x0(images[:2]))]
    t, draw = np.array([0.2, 0.2, 0.7, 0.4]), np.array([0, 0, 3, 80])
    subject, condition, tag = np.array([0, 0, 1, 1]), np.arange(4), np.zeros(4, int)
    batch = Batch(subjects, [None] * 2, subject, condition, draw, t, tag, 0)
    cond = backbone.embed(backbone.classes)
    found = errors_and_products(backbone, batch, cond, target)
    assert np.allclose(found[:, 0], denoising_errors(backbone, batch, cond, target=target))
    x_t, times, _ = noised(backbone, batch.x_0, t, batch.keys, draw)
    said = backbone.forward(x_t, times, cond)
    noise = np.stack([gaussian(8, i, backbone.shape) for i in range(NOISES)])
    noise = torch.from_numpy(noise).flatten(1).double()
    products = said.eps[2].flatten().double() @ noise.T
    alpha, sigma = (s.numpy() for s in backbone.scales(times))
    unit = {"eps": 1 + 0 * t, "x": (sigma / alpha) ** 2, "v": (alpha + sigma**2 / alpha) ** 2}
    assert np.allclose(found[2, 1:], products * unit[target][2])
    apart, own = (getattr(said, name).double() for name in (target, "eps"))
    distance, own = (float((two[0] - two[1]).square().sum()) for two in (apart, own))
    assert np.isclose(distance, own * unit[target][0], rtol=1e-6)


@pytest.mark.parametrize("weights", ["uniform", "elbo"])
def test_a_race_to_the_end_gives_the_plain_answer_of_all_draws(oracle, weights):
    backbone, images, _ = oracle
    shared = {"weights": weights, "delta": 1e-6, "max_draws": 16}
    race = dz.Race(backbone, **shared).fit(backbone.classes).scores(images)
    dense = dz.ELBO(backbone, weights=weights, draws=16).fit(backbone.classes).scores(images)
    whole = race.details["draws"] == 16  # classes that saw all draws
    assert whole.sum() >= 6
    assert np.allclose(race.logits[whole], dense.logits[whole])
    assert (race.logits.argmax(1) == dense.logits.argmax(1)).all()


def test_control_and_distances_take_fewer_draws_on_a_real_model():
    pixels = load_digits().images[:20, ..., None].repeat(3, 3)
    images = [np.kron(p, np.ones((4, 4, 1))).astype(np.uint8) * 15 for p in pixels]
    model, cost = dz.load("digits-ddpm"), {}
    for name, options in {
        "both": {},
        "neither": {"control": False, "variance": "successive", "min_draws": 4},
    }.items():
        race = dz.Race(model, max_draws=32, **options).fit(model.classes)
        cost[name] = race.scores(images).evals.mean()
    assert cost["both"] < 0.95 * cost["neither"]


def test_what_does_not_fit_is_refused():
    with pytest.raises(dz.InputError, match="needs products"):
        Race(3, Rule(), control=True).update(np.ones((4, 3)), np.arange(4) / 4)
    with pytest.raises(dz.InputError, match="needs distances"):
        Rule(variance="distance").evidence(np.ones((4, 2)), np.arange(4) / 4, "dense")
    with pytest.raises(dz.InputError, match="single draws"):
        Rule(variance="distance", group=4)


@pytest.mark.parametrize("target", ["v", "x"])
def test_a_time_that_is_rounded_to_pure_noise_tells_nothing(target):
    """Half precision rounds the last times of Flux to 1, where products were infinite."""
    from diffzero.scoring.denoising import ratio_of_errors

    schedule = dz.RectifiedFlowSchedule()
    model = type("M", (), {"scales": staticmethod(schedule)})
    found = ratio_of_errors(model, target, torch.tensor([0.5, 1.0], dtype=torch.float64))
    assert found[1] == 0 and found[0] == (1.0 if target == "x" else (0.5 / 0.5) ** 2)
