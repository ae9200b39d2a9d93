import pytest
import torch

import diffzero as dz
from conftest import as_x0, oracle_problem

SCHEDULES = [
    dz.DiscreteSchedule.linear(),
    dz.LogSNRLinearSchedule(),
    dz.RectifiedFlowSchedule(),
]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_eps_is_minus_sigma_times_the_score(schedule):
    """`eps_hat = -sigma grad log p_t(x_t | c)`, against autograd of the density at time t."""
    backbone, pixels, _ = oracle_problem(schedule, n=6)
    t = torch.tensor([0.05, 0.2, 0.4, 0.6, 0.8, 0.95], dtype=torch.float64)
    alpha, sigma = schedule(t)
    x_t = torch.randn(6, *backbone.shape).double().requires_grad_()
    rows = []
    for i, c in enumerate([0, 1, 2, 3, 0, 1]):
        var = alpha[i] ** 2 * backbone._exact.var + sigma[i] ** 2
        joint = backbone._exact._log_joint(x_t[i : i + 1].flatten(1), alpha[i], var)
        rows.append(torch.logsumexp(joint.view(4, 2)[c], 0))
    (score,) = torch.autograd.grad(sum(rows), x_t)
    eps = backbone.forward(x_t, t, backbone.embed(["0", "1", "2", "3", "0", "1"])).eps
    assert torch.allclose(eps, -sigma.view(-1, 1, 1, 1) * score, atol=1e-8)


def test_log_prob_is_that_of_torch_distributions():
    from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

    backbone, pixels, _ = oracle_problem(SCHEDULES[0], n=5)
    x = as_x0(pixels)
    k, m = 4, 2
    for c in range(k):
        part = slice(c * m, c * m + m)
        std = backbone._exact.var[part].sqrt()[:, None].expand(m, 48)
        normal = Independent(Normal(backbone._exact.mu[part], std), 1)
        mixture = MixtureSameFamily(Categorical(logits=backbone._exact.log_w[part]), normal)
        assert torch.allclose(backbone.log_prob(x)[:, c], mixture.log_prob(x.flatten(1)))


def test_posterior_classifies_better_than_chance_and_sums_to_one():
    backbone, pixels, labels = oracle_problem(SCHEDULES[0], n=300)
    posterior = backbone.posterior(as_x0(pixels))
    assert torch.allclose(posterior.sum(1), torch.ones(300, dtype=torch.float64))
    accuracy = (posterior.argmax(1).numpy() == labels).mean()
    assert 0.6 < accuracy < 0.99  # overlapping on purpose


def test_unknown_class_and_wrong_shapes_are_refused():
    backbone, *_ = oracle_problem(SCHEDULES[0], n=1)
    with pytest.raises(dz.InputError, match="has no class 'cat'; it has 0, 1, 2, 3"):
        backbone.embed(["cat"])
    with pytest.raises(dz.InputError, match="disagree"):
        dz.MixtureBackbone(torch.ones(2, 1), torch.ones(3, 1, 3, 2, 2), torch.ones(2, 1), None)
    with pytest.raises(dz.InputError, match="sum to 1"):
        dz.MixtureBackbone(
            torch.ones(2, 2), torch.ones(2, 2, 3, 2, 2), torch.ones(2, 2), SCHEDULES[0]
        )
