import math

import numpy as np
import pytest
import torch

import diffzero as dz
from conftest import oracle_problem
from diffzero.scoring.ode import flow, log_density, log_grid, s_range, slope_and_trace

SCHEDULES = {
    "ddpm": dz.DiscreteSchedule.linear(),
    "log-snr": dz.LogSNRLinearSchedule(-10, 8),
    "rectified": dz.RectifiedFlowSchedule(t_min=0.01),
}


@pytest.fixture(params=SCHEDULES)
def problem(request):
    backbone, pixels, _ = oracle_problem(SCHEDULES[request.param], n=8)
    x = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).double() / 127.5 - 1
    cond = backbone.embed([str(i % 4) for i in range(len(x))])
    return backbone, x, cond


def truth(backbone, x, cond, s):
    return backbone.denoiser.log_terminal(x, s, cond)


def test_exact_trace_gives_the_density(problem):
    backbone, x, cond = problem
    result = log_density(backbone, x, cond, None, steps=200)
    wanted = truth(backbone, x, cond, s_range(backbone.schedule)[0])
    error = (result.log_p[:, 0] - wanted).abs() / x[0].numel()
    assert error.max() < 1e-3
    assert result.evals == 601 and result.vjps == 201 * x[0].numel()


def test_adaptive_solver_agrees(problem):
    backbone, x, cond = problem
    result = log_density(
        backbone, x, cond, None, solver="adaptive", rtol=1e-6, atol=1e-6,
    )  # fmt: skip
    wanted = truth(backbone, x, cond, s_range(backbone.schedule)[0])
    assert ((result.log_p[:, 0] - wanted).abs() / x[0].numel()).max() < 1e-3


def test_hutchinson_lies_within_its_standard_error_which_falls_as_one_over_the_root():
    backbone, pixels, _ = oracle_problem(dz.LogSNRLinearSchedule(-10, 8), n=6, spread=0.3)
    x = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).double() / 127.5 - 1
    cond = backbone.embed([""] * len(x))  # a mixture of all: its Jacobian is not diagonal
    g = torch.Generator().manual_seed(0)
    probes = torch.randint(0, 2, (len(x), 256, *backbone.shape), generator=g).double() * 2 - 1
    options = {"steps": 100}
    values = log_density(backbone, x, cond, probes, **options).log_p
    exact = log_density(backbone, x, cond, None, **options).log_p[:, 0]
    error = values.std(1) / math.sqrt(256)
    assert (error > 0).all() and ((values.mean(1) - exact).abs() < 4 * error).all()
    # Means of groups of 16 scatter four times less than single probes.
    groups = values.view(len(x), 16, 16).mean(2).std(1)
    assert 0.15 < (groups / values.std(1)).mean() < 0.4


def test_encode_then_decode_returns(problem):
    backbone, x, cond = problem
    low, high = s_range(backbone.schedule)
    up = flow(backbone, x, cond, log_grid(low, high, 200))
    back = flow(backbone, up, cond, log_grid(high, low, 200))
    assert (back - x).abs().max() < 1e-3


def test_solvers_are_of_their_orders(problem):
    backbone, x, cond = problem
    low, high = s_range(backbone.schedule)

    def error(solver, steps):
        exact = flow(backbone, x, cond, log_grid(low, high, 800), solver="heun3")
        got = flow(backbone, x, cond, log_grid(low, high, steps), solver=solver)
        return float((got - exact).abs().max())

    assert 1.5 < error("euler", 100) / error("euler", 200) < 3
    assert error("heun", 50) / error("heun", 100) > 3
    assert error("heun3", 50) / error("heun3", 100) > 6


def test_a_dozen_steps_of_third_order_are_near_the_density():
    """Pixel models' noise goes up to 157 times the signal, where few steps had nats of error."""
    backbone, pixels, _ = oracle_problem(dz.DiscreteSchedule.linear(), n=8)
    x = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).double() / 127.5 - 1
    cond = backbone.embed([str(i % 4) for i in range(len(x))])
    wanted = truth(backbone, x, cond, s_range(backbone.schedule)[0])

    def error(steps, solver):
        found = log_density(backbone, x, cond, None, steps=steps, solver=solver)
        return float((found.log_p[:, 0] - wanted).abs().mean()), found.evals

    (third, evals), (second, more) = error(16, "heun3"), error(25, "heun")
    assert evals < more and third < 0.2 * second and third < 0.2


def test_trace_of_one_gaussian_is_known():
    backbone = dz.MixtureBackbone(
        torch.ones(1, 1), torch.zeros(1, 1, 3, 2, 2), torch.full((1, 1), 0.5),
        dz.LogSNRLinearSchedule(),
    )  # fmt: skip
    x, s = torch.randn(5, 3, 2, 2, dtype=torch.float64), 0.7
    _, trace = slope_and_trace(backbone, x, math.log(s), backbone.embed(["0"] * 5), None)
    assert torch.allclose(trace, torch.full_like(trace, 12 * s / (0.25 + s**2)))


def test_bad_arguments_are_refused(problem):
    backbone, x, cond = problem
    with pytest.raises(dz.InputError, match="solver must be heun3, heun or adaptive"):
        log_density(backbone, x, cond, None, solver="rk4")
    with pytest.raises(dz.InputError, match="steps must be at least 1"):
        log_grid(0.1, 1, 0)
