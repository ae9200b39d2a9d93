import numpy as np
import pytest
import torch
from sklearn.base import clone

import diffzero as dz
from conftest import as_x0, oracle_problem

NAMES = ["0", "1", "2", "3"]


@pytest.fixture(scope="module")
def problem():
    return oracle_problem(dz.LogSNRLinearSchedule(-10, 8), n=40)


def test_logits_are_the_log_density_of_the_oracle(problem):
    backbone, pixels, _ = problem
    classifier = dz.Likelihood(backbone, steps=160, trace="exact").fit(NAMES)
    scores = classifier.scores(pixels[:10])
    wanted = backbone.log_prob(as_x0(pixels[:10]), s=np.exp(-4)).numpy()
    assert np.abs(scores.logits - wanted).max() / 48 < 1e-3


def test_posterior_of_the_oracle(problem):
    backbone, pixels, _ = problem
    proba = dz.Likelihood(backbone, steps=50, trace="exact").fit(NAMES).predict_proba(pixels)
    wanted = backbone.posterior(as_x0(pixels)).numpy()
    assert np.abs(proba - wanted).mean() < 0.02


def test_paired_probes_leave_less_noise_in_the_differences(problem):
    backbone, pixels, _ = problem

    def noise(paired):
        runs = [
            dz.Likelihood(backbone, steps=20, paired=paired, seed=s).fit(NAMES).scores(pixels[:12])
            for s in range(6)
        ]
        return np.stack([np.diff(r.logits, axis=1) for r in runs]).std(0).mean()

    assert noise(True) < 0.95 * noise(False)


def test_batches_and_order_do_not_matter(problem):
    backbone, pixels, _ = problem
    whole = dz.Likelihood(backbone, steps=5).fit(NAMES).scores(pixels[:9]).logits
    for size in (1, 7):
        part = dz.Likelihood(backbone, steps=5, batch_size=size).fit(NAMES)
        assert np.allclose(part.scores(pixels[:9]).logits, whole, rtol=0, atol=1e-6)
    turned = dz.Likelihood(backbone, steps=5).fit(NAMES).scores(pixels[8::-1]).logits
    assert np.allclose(turned[::-1], whole, rtol=0, atol=1e-6)


def test_costs_are_those_the_docstring_predicts(problem):
    backbone, pixels, _ = problem
    calls = []
    forward = backbone.forward
    backbone.forward = lambda x, t, c: calls.append(len(x)) or forward(x, t, c)
    try:
        fixed = dz.Likelihood(backbone, steps=6, probes=3).fit(NAMES)
        scores = fixed.scores(pixels[:3])
        assert sum(calls) == scores.evals.sum() == 3 * fixed.count_evals(4) == 3 * 4 * 19
        assert list(scores.vjps) == [4 * 7 * 3] * 3
        calls.clear()
        second = dz.Likelihood(backbone, steps=6, solver="heun").fit(NAMES)
        scores = second.scores(pixels[:3])
        assert sum(calls) == scores.evals.sum() == 3 * second.count_evals(4) == 3 * 4 * 13
        calls.clear()
        adaptive = dz.Likelihood(backbone, solver="adaptive", rtol=1e-2, atol=1e-2).fit(NAMES)
        scores = adaptive.scores(pixels[:2])
        assert sum(calls) == scores.evals.sum() and scores.evals.min() > 4 * 6
        calls.clear()
        scores = dz.Likelihood(backbone, steps=2, guidance=2.0).fit(NAMES).scores(pixels[:2])
        # Guidance asks the network itself twice for a row, of which the backbone sees one.
        assert 2 * sum(calls) == scores.evals.sum() == 2 * 4 * 7 * 2
    finally:
        del backbone.forward


def test_own_candidates(problem):
    backbone, pixels, _ = problem
    classifier = dz.Likelihood(backbone, steps=5)
    scores = classifier.scores(pixels[:2], candidates=[["1", "3"], ["0", "1", "2"]])
    dense = dz.Likelihood(backbone, steps=5).fit(NAMES).scores(pixels[:2]).logits
    assert np.allclose(scores.logits[0, :2], dense[0, [1, 3]])
    assert scores.logits[0, 2] == -np.inf and np.allclose(scores.logits[1], dense[1, :3])


def test_clone_shares_the_network(problem):
    backbone = problem[0]
    original = dz.Likelihood(backbone, probes=2)
    assert clone(original).backbone is backbone and clone(original).probes == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "rk4"}, "solver must be one of heun3, heun, adaptive; got 'rk4'"),
        ({"probes": 0}, "probes must be a whole number from 1 to 1,024 .*got 0"),
        ({"s_range": (2, 1)}, "s_range must be \\(min, max\\) with min < max"),
        ({"template": ["{}", "a {}"]}, "takes one template; got 2"),
        ({"probe": "uniform"}, "probe must be one of"),
    ],
)
def test_bad_options(problem, options, message):
    with pytest.raises(dz.InputError, match=message):
        dz.Likelihood(problem[0], **options).fit(NAMES)


def test_exact_trace_of_a_large_input_is_refused():
    ones = torch.ones(2, 1)
    big = dz.MixtureBackbone(ones, torch.zeros(2, 1, 3, 32, 32), ones, dz.LogSNRLinearSchedule())
    with pytest.raises(dz.InputError, match="has 3,072, the limit is 1,024"):
        dz.Likelihood(big, trace="exact").fit(["0", "1"])


def test_noise_that_the_model_does_not_know_is_refused():
    """Beyond the schedule's ends the network was told another noise than the image had."""
    ones = torch.ones(2, 1)
    model = dz.MixtureBackbone(
        ones, torch.zeros(2, 1, 3, 2, 2), ones, dz.DiscreteSchedule.linear()
    )
    for wrong in ((1e-4, 100.0), (0.02, 1e3)):
        with pytest.raises(dz.InputError, match=r"s_range must lie within .*\(0.01, 157\.4\)"):
            dz.Likelihood(model, s_range=wrong).fit(["0", "1"])
    for known in ((0.02, 100.0), (0.01, 157.4)):  # the second is what the message says
        dz.Likelihood(model, s_range=known).fit(["0", "1"])
    with pytest.raises(dz.InputError, match="log_snr_range must lie within the noise"):
        dz.ELBO(model, weights="elbo", log_snr_range=(-20, 5)).fit(["0", "1"])
