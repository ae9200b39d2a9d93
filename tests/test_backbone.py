import pytest
import torch

import diffzero as dz
from conftest import oracle_problem
from diffzero.models.denoiser import PARAMETRISATIONS, check_parametrisation


@pytest.mark.parametrize("kind", PARAMETRISATIONS)
@pytest.mark.parametrize("schedule", [dz.DiscreteSchedule.linear(), dz.RectifiedFlowSchedule()])
def test_every_parametrisation_gives_back_x_and_eps(kind, schedule):
    g = torch.Generator().manual_seed(0)
    x_0, eps = torch.randn(2, 5, 3, 4, 4, generator=g, dtype=torch.float64)
    alpha, sigma = schedule(torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9]))
    a, s = alpha.view(-1, 1, 1, 1), sigma.view(-1, 1, 1, 1)
    output = {
        "epsilon": eps,
        "sample": x_0,
        "v_prediction": a * eps - s * x_0,
        "flow": eps - x_0,
    }[kind]
    prediction = dz.Prediction(a * x_0 + s * eps, output, alpha, sigma, kind)
    assert torch.allclose(prediction.x, x_0) and torch.allclose(prediction.eps, eps)


@pytest.mark.parametrize("kind", ["v_prediction", "flow", "sample"])
def test_no_division_by_alpha_where_it_is_zero(kind):
    x_t, out = torch.randn(2, 1, 3, 2, 2)
    prediction = dz.Prediction(x_t, out, torch.zeros(1), torch.ones(1), kind)
    assert torch.isfinite(prediction.x).all() and torch.isfinite(prediction.eps).all()


def test_unknown_parametrisation_is_refused():
    with pytest.raises(dz.InputError, match="prediction type must be one of .* got 'score'"):
        check_parametrisation("score")


def test_guidance_one_is_none_and_zero_is_unconditional():
    backbone, pixels, _ = oracle_problem(dz.LogSNRLinearSchedule(), n=3)
    x_t = torch.randn(3, *backbone.shape).double()
    t = torch.full((3,), 0.4)
    cond, empty = backbone.embed(["0", "1", "2"]), backbone.embed([""] * 3)
    plain = backbone.forward(x_t, t, cond).eps
    assert torch.allclose(backbone.guided(1.0).forward(x_t, t, cond).eps, plain)
    blank = backbone.forward(x_t, t, empty).eps
    assert torch.allclose(backbone.guided(0.0).forward(x_t, t, cond).eps, blank)
    thrice = backbone.guided(3.0).forward(x_t, t, cond)
    assert torch.allclose(thrice.eps, blank + 3 * (plain - blank))
    x_c, x_u = backbone.forward(x_t, t, cond).x, backbone.forward(x_t, t, empty).x
    assert torch.allclose(thrice.x, x_u + 3 * (x_c - x_u))
