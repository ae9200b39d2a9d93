import math

import pytest
import torch

import diffzero as dz

SCHEDULES = {
    "ddpm": dz.DiscreteSchedule.linear(),
    "stable diffusion": dz.DiscreteSchedule.scaled_linear(),
    "zero terminal": dz.DiscreteSchedule(torch.linspace(0.999, 0, 50)),
    "log-snr linear": dz.LogSNRLinearSchedule(),
    "rectified flow": dz.RectifiedFlowSchedule(),
    "shifted flow": dz.RectifiedFlowSchedule(shift=3.0),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_snr_strictly_decreases_and_agrees_with_alpha_and_sigma(name):
    schedule = SCHEDULES[name]
    t = torch.linspace(schedule.t_min, 1, 777, dtype=torch.float64)
    alpha, sigma = schedule(t)
    assert ((alpha >= 0) & (sigma > 0)).all()
    assert (alpha[:-1] / sigma[:-1] > alpha[1:] / sigma[1:]).all()
    inner = slice(0, -1)
    expected = 2 * (alpha[inner].log() - sigma[inner].log())
    assert torch.allclose(schedule.log_snr(t)[inner], expected, atol=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
def test_time_inverts_log_snr(name):
    schedule = SCHEDULES[name]
    t = torch.linspace(schedule.t_min + 1e-4, 0.999, 500, dtype=torch.float64)
    assert torch.allclose(schedule.time(schedule.log_snr(t)), t, atol=1e-7)


@pytest.mark.parametrize("name", ["ddpm", "stable diffusion", "zero terminal", "log-snr linear"])
def test_variance_preserving(name):
    alpha, sigma = SCHEDULES[name](torch.linspace(0.05, 1, 99, dtype=torch.float64))
    assert torch.allclose(alpha**2 + sigma**2, torch.ones(99, dtype=torch.float64))


def test_discrete_steps_are_those_of_diffusers():
    from diffusers import DDPMScheduler

    bars = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    ).alphas_cumprod.double()
    schedule = dz.DiscreteSchedule(bars)
    n = torch.arange(1000)
    alpha, _ = schedule((n + 1) / 1000)
    assert torch.allclose(alpha**2, bars, atol=1e-6)
    assert torch.allclose(schedule.step((n + 1).double() / 1000), n.double(), atol=1e-9)


def test_zero_terminal_snr_ends_in_pure_noise_and_a_finite_range():
    schedule = SCHEDULES["zero terminal"]
    alpha, sigma = schedule(torch.tensor([1.0]))
    assert alpha.item() == 0 and sigma.item() == 1
    assert all(map(math.isfinite, schedule.log_snr_range()))


def test_bad_schedules_are_refused():
    with pytest.raises(dz.InputError, match="strictly decrease"):
        dz.DiscreteSchedule([0.5, 0.6, 0.1])
    with pytest.raises(dz.InputError, match="below log_snr_max"):
        dz.LogSNRLinearSchedule(3, 2)
    with pytest.raises(dz.InputError, match="shift must be positive"):
        dz.RectifiedFlowSchedule(shift=0)
