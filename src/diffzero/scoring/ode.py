"""The probability-flow ODE of any schedule, in the coordinates where it is simplest.

With `xbar = x_t / alpha` and `s = sigma / alpha` every diffusion becomes variance-exploding, and
its deterministic flow is

    d xbar / ds = eps_hat(x_t, t, c),        x_t = alpha xbar,   lambda(t) = -2 log s.

Along it the density obeys `d log p / ds = -tr(d eps_hat / d xbar)`, so that

    log p(xbar(s_min)) = log p_T(xbar(s_max)) + integral of tr(d eps_hat / d xbar) ds
                       = log p_T(xbar(s_max)) + integral of s tr(d eps_hat / d xbar) d log s,

where `p_T = N(0, 1 + s_max^2)` for data of unit variance. Grids are even in log s, and so is the
trace accumulated. Fixed steps keep nothing of earlier steps: memory does not grow with them.

What a density is off by at few steps is the error of the path, of which `log p_T` asks the square.
Heun's method of third order had a fifth to a sixteenth of that of second order where measured
(`benchmarks/likelihood_steps.py`), at half as many evaluations more;
the trapezoid rule for the trace is good enough beside it. Differences of classes gain less: a
network's trace is rough, and a sum over few places of it is off by about as much for any solver.

References:
    Song et al., Score-Based Generative Modeling through SDEs, 2021.
    https://arxiv.org/abs/2011.13456
    Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, 2022.
    https://arxiv.org/abs/2206.00364
    Hutchinson, A Stochastic Estimator of the Trace of the Influence Matrix, 1990.
    Heun, Neue Methode zur approximativen Integration der Differentialgleichungen einer
    unabhängigen Veränderlichen, 1900 (both methods).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from ..errors import InputError
from ..models.backbone import Backbone
from ..models.conditioner import Condition
from ..models.denoiser import as_column
from ..schedule import Schedule

Solver = Literal["heun3", "heun", "euler", "adaptive"]
EVALUATIONS = {"euler": 1, "heun": 2, "heun3": 3}  # of a fixed step
MOST_CALLS = 400  # of the adaptive solver, which never ends where rounding is above its tolerance
SlopeAndTrace = Callable[[Tensor, float], tuple[Tensor, Tensor]]


def s_range(schedule: Schedule) -> tuple[float, float]:
    """`(s_min, s_max)` of a schedule: the noise levels that its network was trained on."""
    low, high = schedule.log_snr_range()
    return math.exp(-high / 2), math.exp(-low / 2)


def log_grid(s_from: float, s_to: float, steps: int) -> list[float]:
    """`steps + 1` values of log s, evenly from `log s_from` to `log s_to`.

    Raises:
        InputError: no step at all.
    """
    if steps < 1:
        raise InputError(f"steps must be at least 1; got {steps}.")
    a, b = math.log(s_from), math.log(s_to)
    return [a + (b - a) * i / steps for i in range(steps + 1)]


def eps_of(model: Backbone, xbar: Tensor, log_s: float, cond: Condition) -> Tensor:
    """`eps_hat` at `x_t = alpha xbar` and the time at which sigma / alpha is s."""
    lam = torch.full((len(xbar),), -2 * log_s, dtype=torch.float64, device=xbar.device)
    t = model.schedule.time(lam)
    alpha = as_column(model.scales(t)[0], xbar)
    return model.forward(alpha * xbar, t, cond).eps


@torch.no_grad()
def flow(
    model: Backbone, xbar: Tensor, cond: Condition, grid: list[float], solver: Solver = "heun"
) -> Tensor:
    """Carry `xbar` along a grid of log s, up to encode or down to decode.

    Args:
        model: The model, under guidance if there is to be any.
        xbar: `[b, *shape]` at `s = exp(grid[0])`.
        cond: One row each.
        grid: See `log_grid`.
        solver: `euler` (DDIM: one evaluation per step), `heun` (two, second order) or `heun3`
            (three, third order).

    Returns:
        `xbar` at `s = exp(grid[-1])`.
    """
    for here, there in pairwise(grid):
        xbar = _step(model, xbar, cond, here, there, solver)
    return xbar


def _step(
    model: Backbone,
    xbar: Tensor,
    cond: Condition,
    here: float,
    there: float,
    solver: Solver,
    slope: Tensor | None = None,
) -> Tensor:
    """One step of width w in s; `slope` is the first of the eps_hat e if known.

        euler   x + w e_1
        heun    x + w (e_1 + e_2) / 2,      e_2 at s + w of x + w e_1
        heun3   x + w (e_1 + 3 e_3) / 4,    e_2 at s + w / 3 of x + w e_1 / 3,
                                            e_3 at s + 2 w / 3 of x + 2 w e_2 / 3

    In s, not in log s: where noise rules, xbar grows in proportion to s and eps_hat is constant,
    so that a step in s is exact, and one in log s chases an exponential.
    """
    s, width = math.exp(here), math.exp(there) - math.exp(here)
    first = eps_of(model, xbar, here, cond) if slope is None else slope
    if solver == "euler":
        return xbar + width * first
    if solver == "heun":
        second = eps_of(model, xbar + width * first, there, cond)
        return xbar + width / 2 * (first + second)
    third = width / 3
    second = eps_of(model, xbar + third * first, math.log(s + third), cond)
    last = eps_of(model, xbar + 2 * third * second, math.log(s + 2 * third), cond)
    return xbar + width / 4 * (first + 3 * last)


@dataclass(frozen=True)
class Density:
    """What `log_density` computed.

    Attributes:
        log_p: float64 `[b, p]`: log p(xbar(s_min)) in nats, by each probe.
        evals: Network evaluations per row, the unconditional row of guidance included.
        vjps: Vector-Jacobian products per row.
    """

    log_p: Tensor
    evals: int
    vjps: int


def log_density(
    model: Backbone,
    x: Tensor,
    cond: Condition,
    probes: Tensor | None,
    *,
    steps: int = 25,
    solver: Solver = "heun3",
    rtol: float = 1e-4,
    atol: float = 1e-4,
    limits: tuple[float, float] | None = None,
) -> Density:
    """log p(x | c) by the probability-flow ODE.

    `heun3` takes `3 steps + 1` evaluations, `heun` `2 steps + 1`, and both `steps + 1` traces per
    row: the trapezoid rule needs the trace at the grid points alone. A trace is one
    vector-Jacobian product per probe, or one per dimension where it is exact. The adaptive solver
    (Dormand-Prince, torchdiffeq) takes what it needs, and steps for all rows together.

    Args:
        model: The model, under guidance if there is to be any.
        x: `[b, *shape]`, what stands at s_min.
        cond: One row each.
        probes: Hutchinson's `[b, p, *shape]`; None for the exact trace.
        steps: Of the fixed grid.
        solver: `heun3`, `heun` or `adaptive`.
        rtol: Of the adaptive solver.
        atol: Of the adaptive solver.
        limits: `(s_min, s_max)`; the schedule's own range if None.

    Raises:
        InputError: an unknown solver, or an adaptive one that does not come to an end.
    """
    if solver not in ("heun3", "heun", "adaptive"):
        raise InputError(f"solver must be heun3, heun or adaptive; got {solver!r}.")
    s_min, s_max = limits or s_range(model.schedule)
    n_probes = x[0].numel() if probes is None else probes.shape[1]
    calls = 0

    def both(xbar: Tensor, log_s: float) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        if solver == "adaptive" and calls > MOST_CALLS:
            raise InputError(
                f"the adaptive solver did not reach rtol={rtol:g} and atol={atol:g} within "
                f"{MOST_CALLS:,} evaluations for one class of an image. Allow it more error, or "
                "use solver='heun' with as many steps as you like."
            )
        return slope_and_trace(model, xbar, log_s, cond, probes)

    if solver != "adaptive":
        xbar, total = _fixed(model, x, cond, log_grid(s_min, s_max, steps), both, solver)
        evals = EVALUATIONS[solver] * steps + 1
    else:
        width = 1 if probes is None else n_probes
        xbar, total = _adaptive(both, x, width, (s_min, s_max), rtol, atol)
        evals = calls
    end = model.denoiser.log_terminal(xbar, s_max, cond).double()
    return Density(end[:, None] + total, evals * model.denoiser.cost, calls * n_probes)


def _fixed(
    model: Backbone,
    x: Tensor,
    cond: Condition,
    grid: list[float],
    both: SlopeAndTrace,
    solver: Solver,
) -> tuple[Tensor, Tensor]:
    """`xbar` at the end of the grid, and the integral of the trace `[b, p]` along it."""
    xbar, total = x, torch.zeros(1, 1, dtype=torch.float64, device=x.device)
    last = len(grid) - 1
    for i, here in enumerate(grid):
        eps, trace = both(xbar, here)
        left = here - grid[i - 1] if i else 0.0
        right = grid[i + 1] - here if i < last else 0.0
        total = total + 0.5 * (left + right) * math.exp(here) * trace
        if i < last:
            with torch.no_grad():
                xbar = _step(model, xbar, cond, here, grid[i + 1], solver, eps)
    return xbar, total


def slope_and_trace(
    model: Backbone, xbar: Tensor, log_s: float, cond: Condition, probes: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`eps_hat` `[b, *shape]` and `tr(d eps_hat / d xbar)`, float64 `[b, p]`.

    By Hutchinson `v^T J v` for each probe v, or, without probes, the exact sum over dimensions
    (p = 1).
    """
    with torch.enable_grad():
        live = xbar.detach().requires_grad_(True)
        eps = eps_of(model, live, log_s, cond)
        if probes is None:
            trace = torch.zeros(len(xbar), 1, dtype=torch.float64, device=xbar.device)
            flat = eps.flatten(1)
            d = flat.shape[1]
            for i in range(d):
                (g,) = torch.autograd.grad(flat[:, i].sum(), live, retain_graph=i < d - 1)
                trace[:, 0] += g.flatten(1)[:, i].double()
        else:
            columns = []
            for p in range(probes.shape[1]):
                v = probes[:, p].to(eps.dtype)
                last = p == probes.shape[1] - 1
                (g,) = torch.autograd.grad(eps, live, v, retain_graph=not last)
                columns.append((g * v).flatten(1).sum(1, dtype=torch.float64))
            trace = torch.stack(columns, 1)
    return eps.detach(), trace


def _adaptive(
    both: SlopeAndTrace,
    x: Tensor,
    width: int,
    ends: tuple[float, float],
    rtol: float,
    atol: float,
) -> tuple[Tensor, Tensor]:
    from torchdiffeq import odeint

    def right_hand_side(log_s: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        s = math.exp(float(log_s))
        eps, trace = both(state[0].to(x.dtype), float(log_s))
        return s * eps.double(), s * trace

    start = torch.zeros(len(x), width, dtype=torch.float64, device=x.device)
    span = torch.tensor([math.log(s) for s in ends], dtype=torch.float64, device=x.device)
    with torch.no_grad():
        path, total = odeint(
            right_hand_side, (x.double(), start), span, rtol=rtol, atol=atol, method="dopri5"
        )
    return path[-1].to(x.dtype), total[-1]
