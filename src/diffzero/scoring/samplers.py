"""Deterministic samplers that start at any time: from noisy images to clean ones.

DDIM is one line for every schedule,

    x_s = alpha_s x_hat(x_t, t, c) + sigma_s eps_hat(x_t, t, c),

DPM-Solver++ is diffusers' own scheduler, and needs discrete steps.

References:
    Song et al., Denoising Diffusion Implicit Models, 2021. https://arxiv.org/abs/2010.02502
    Lu et al., DPM-Solver++, 2022. https://arxiv.org/abs/2211.01095
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..errors import InputError
from ..models.backbone import Backbone
from ..models.conditioner import Condition
from ..models.denoiser import as_column
from ..schedule import DiscreteSchedule

Sampler = Literal["ddim", "dpm++"]
SAMPLERS = ("ddim", "dpm++")


def executed_steps(level: float, steps: int) -> int:
    """`max(1, round(level * steps))`: what is left of a full run that starts at `level`."""
    return max(1, round(level * steps))


def _prediction(model: Backbone, x_t: Tensor, t: float, cond: Condition) -> tuple[Tensor, Tensor]:
    """`(x_hat, eps_hat)`, x_hat restricted as the checkpoint's scheduler does."""
    times = torch.full((len(x_t),), t, dtype=torch.float64, device=x_t.device)
    prediction = model.forward(x_t, times, cond)
    return model.denoiser.limits(prediction.x), prediction.eps


@torch.no_grad()
def denoise(
    model: Backbone,
    x_t: Tensor,
    cond: Condition,
    level: float,
    steps: int,
    sampler: Sampler = "ddim",
) -> Tensor:
    """From `x_t` at time `level` to a clean `x_0`, in `steps` evaluations per row.

    The times are `level, level (steps - 1) / steps, ...`; the last evaluation gives x_hat.

    Args:
        model: The model, under guidance if there is to be any.
        x_t: `[b, *shape]`.
        cond: One row each.
        level: Time of `x_t`, in (0, 1].
        steps: Calls of the network.
        sampler: `ddim` or `dpm++`.

    Raises:
        InputError: `dpm++` on a schedule without discrete steps.
    """
    first = max(level, model.schedule.t_min)
    times = [max(first * (steps - i) / steps, model.schedule.t_min) for i in range(steps)]
    if sampler == "dpm++":
        return _dpm(model, x_t, cond, times)
    for here, there in zip(times, [*times[1:], None], strict=True):
        x, eps = _prediction(model, x_t, here, cond)
        if there is None:
            return x
        alpha, sigma = model.scales(torch.tensor([there], device=x_t.device))
        x_t = as_column(alpha, x) * x + as_column(sigma, x) * eps
    raise AssertionError("steps is at least 1")


def _dpm(model: Backbone, x_t: Tensor, cond: Condition, times: list[float]) -> Tensor:
    from diffusers import DPMSolverMultistepScheduler

    schedule = model.schedule
    if not isinstance(schedule, DiscreteSchedule):
        raise InputError(f"sampler='dpm++' needs discrete steps; {model.name} has none.")
    bar = schedule.alphas_cumprod
    betas = 1 - bar / torch.cat([torch.ones(1, dtype=bar.dtype), bar[:-1]])
    scheduler = DPMSolverMultistepScheduler(
        num_train_timesteps=schedule.steps,
        trained_betas=betas.numpy(),
        algorithm_type="dpmsolver++",
        solver_order=2,
        prediction_type="sample",
        final_sigmas_type="zero",
        lower_order_final=True,
    )
    # Distinct whole steps, as the scheduler wants them.
    whole = list(dict.fromkeys(round(float(schedule.step(torch.tensor(t)))) for t in times))
    scheduler.set_timesteps(timesteps=whole, device=x_t.device)
    for n in scheduler.timesteps:
        x, _ = _prediction(model, x_t, (int(n) + 1) / schedule.steps, cond)
        x_t = scheduler.step(x, n, x_t).prev_sample
    return x_t
