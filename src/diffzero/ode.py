"""The probability-flow ODE of any schedule, in the coordinates where it is simplest.

With `xbar = x_t / alpha` and `s = sigma / alpha` every diffusion becomes variance-exploding, and
its deterministic flow is

    d xbar / ds = eps_hat(x_t, t, c),        x_t = alpha xbar,   lambda(t) = -2 log s.

Along it the density obeys `d log p / ds = -tr(d eps_hat / d xbar)`, so that

    log p(xbar(s_min)) = log p_T(xbar(s_max)) + integral of tr(d eps_hat / d xbar) ds
                       = log p_T(xbar(s_max)) + integral of s tr(d eps_hat / d xbar) d log s,

where `p_T = N(0, 1 + s_max^2)` for data of unit variance. Grids are even in log s, and so is the
trace accumulated. Fixed steps keep nothing of earlier steps: memory does not grow with them.

References:
    Song et al., Score-Based Generative Modeling through SDEs, 2021.
    https://arxiv.org/abs/2011.13456
    Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, 2022.
    https://arxiv.org/abs/2206.00364
    Hutchinson, A Stochastic Estimator of the Trace of the Influence Matrix, 1990.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from .backbone import Backbone, Condition, as_column, guided
from .errors import InputError
from .schedule import Schedule

Terminal = Callable[[Tensor, float, Condition], Tensor]
Solver = Literal["heun", "euler", "adaptive"]


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


def eps_of(
    backbone: Backbone,
    xbar: Tensor,
    log_s: float,
    cond: Condition,
    guidance: float = 1.0,
    empty: Condition | None = None,
) -> Tensor:
    """`eps_hat` at `x_t = alpha xbar` and the time at which sigma / alpha is s."""
    lam = torch.full((len(xbar),), -2 * log_s, dtype=torch.float64, device=xbar.device)
    t = backbone.schedule.time(lam)
    alpha = as_column(backbone.schedule(t)[0], xbar)
    if guidance == 1.0 or empty is None:
        return backbone.forward(alpha * xbar, t, cond).eps
    blank = empty[torch.zeros(len(xbar), dtype=torch.long, device=xbar.device)]
    return guided(backbone, alpha * xbar, t, cond, blank, guidance).eps


@torch.no_grad()
def flow(
    backbone: Backbone,
    xbar: Tensor,
    cond: Condition,
    grid: list[float],
    *,
    solver: Solver = "heun",
    guidance: float = 1.0,
    empty: Condition | None = None,
) -> Tensor:
    """Carry `xbar` along a grid of log s, up to encode or down to decode.

    Args:
        backbone: The network.
        xbar: `[b, *shape]` at `s = exp(grid[0])`.
        cond: One row each.
        grid: See `log_grid`.
        solver: `euler` (DDIM: one evaluation a step) or `heun` (two).
        guidance: 1 is none.
        empty: The unconditional row, where there is guidance.

    Returns:
        `xbar` at `s = exp(grid[-1])`.
    """
    for here, there in pairwise(grid):
        xbar = _step(backbone, xbar, cond, here, there, solver, guidance, empty)[0]
    return xbar


def _step(
    backbone: Backbone,
    xbar: Tensor,
    cond: Condition,
    here: float,
    there: float,
    solver: Solver,
    guidance: float,
    empty: Condition | None,
    slope: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One step of Euler or of Heun in s; `slope` is eps_hat at `here` if known."""
    s, s_next = math.exp(here), math.exp(there)
    first = eps_of(backbone, xbar, here, cond, guidance, empty) if slope is None else slope
    if solver == "euler":
        return xbar + (s_next - s) * first, first
    # Heun in s, not in log s: where noise rules, xbar grows in proportion to s and eps_hat is
    # constant, so that a step in s is exact, and one in log s chases an exponential.
    second = eps_of(backbone, xbar + (s_next - s) * first, there, cond, guidance, empty)
    return xbar + (s_next - s) / 2 * (first + second), first


@dataclass(frozen=True)
class Density:
    """What `log_density` computed.

    Attributes:
        log_p: float64 `[b, p]`: log p(xbar(s_min)) in nats, by each probe.
        evals: Network evaluations of a row, the unconditional row of guidance included.
        vjps: Vector-Jacobian products of a row.
    """

    log_p: Tensor
    evals: int
    vjps: int


def log_density(
    backbone: Backbone,
    x: Tensor,
    cond: Condition,
    probes: Tensor | None,
    *,
    steps: int = 25,
    solver: Solver = "heun",
    rtol: float = 1e-4,
    atol: float = 1e-4,
    guidance: float = 1.0,
    empty: Condition | None = None,
    limits: tuple[float, float] | None = None,
    terminal: Terminal | None = None,
) -> Density:
    """log p(x | c) by the probability-flow ODE.

    Heun takes `2 steps + 1` evaluations and `steps + 1` traces a row: the trapezoid rule needs the
    trace at the grid points alone. A trace is one vector-Jacobian product a probe, or one a
    dimension where it is exact. The adaptive solver (Dormand-Prince, torchdiffeq) takes what it
    needs, and steps for all rows together.

    Args:
        backbone: The network.
        x: `[b, *shape]`, what stands at s_min.
        cond: One row each.
        probes: Hutchinson's `[b, p, *shape]`; None for the exact trace.
        steps: Of Heun's fixed grid.
        solver: `heun` or `adaptive`.
        rtol: Of the adaptive solver.
        atol: Of the adaptive solver.
        guidance: 1 is none.
        empty: The unconditional row, where there is guidance.
        limits: `(s_min, s_max)`; the schedule's own range if None.
        terminal: `(xbar, s_max, cond) -> log p [b]`; `N(0, 1 + s_max^2)` if None.

    Raises:
        InputError: an unknown solver.
    """
    if solver not in ("heun", "adaptive"):
        raise InputError(f"solver must be heun or adaptive; got {solver!r}.")
    s_min, s_max = limits or s_range(backbone.schedule)
    per_call = 1 if guidance == 1.0 else 2
    n_probes = x[0].numel() if probes is None else probes.shape[1]
    calls = 0

    def both(xbar: Tensor, log_s: float) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        return slope_and_trace(backbone, xbar, log_s, cond, probes, guidance, empty)

    if solver == "heun":
        xbar, total = x, torch.zeros(1, 1, dtype=torch.float64, device=x.device)
        grid = log_grid(s_min, s_max, steps)
        for i, here in enumerate(grid):
            eps, trace = both(xbar, here)
            left = here - grid[i - 1] if i else 0.0
            right = grid[i + 1] - here if i < steps else 0.0
            total = total + 0.5 * (left + right) * math.exp(here) * trace
            if i < steps:
                with torch.no_grad():
                    xbar = _step(
                        backbone, xbar, cond, here, grid[i + 1], "heun", guidance, empty, eps
                    )[0]
        evals = (2 * steps + 1) * per_call
    else:
        xbar, total = _adaptive(both, x, n_probes, probes is None, s_min, s_max, rtol, atol)
        evals = calls * per_call
    end = (terminal or gaussian_terminal)(xbar, s_max, cond).double()
    return Density(end[:, None] + total, evals, calls * n_probes)


def gaussian_terminal(xbar: Tensor, s_max: float, cond: Condition) -> Tensor:
    """`log N(xbar; 0, (1 + s_max^2) I)`: data of unit variance, all but drowned in noise."""
    var = 1 + s_max**2
    flat = xbar.flatten(1).double()
    return -0.5 * (flat.square().sum(1) / var + flat.shape[1] * math.log(2 * math.pi * var))


def slope_and_trace(
    backbone: Backbone,
    xbar: Tensor,
    log_s: float,
    cond: Condition,
    probes: Tensor | None,
    guidance: float = 1.0,
    empty: Condition | None = None,
) -> tuple[Tensor, Tensor]:
    """`eps_hat` `[b, *shape]` and `tr(d eps_hat / d xbar)`, float64 `[b, p]`.

    By Hutchinson `v^T J v` for each probe v, or, without probes, the exact sum over dimensions
    (p = 1).
    """
    with torch.enable_grad():
        live = xbar.detach().requires_grad_(True)
        eps = eps_of(backbone, live, log_s, cond, guidance, empty)
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
    both: Callable[[Tensor, float], tuple[Tensor, Tensor]],
    x: Tensor,
    n_probes: int,
    exact: bool,
    s_min: float,
    s_max: float,
    rtol: float,
    atol: float,
) -> tuple[Tensor, Tensor]:
    from torchdiffeq import odeint

    def right_hand_side(log_s: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        s = math.exp(float(log_s))
        eps, trace = both(state[0].to(x.dtype), float(log_s))
        return s * eps.double(), s * trace

    width = 1 if exact else n_probes
    start = torch.zeros(len(x), width, dtype=torch.float64, device=x.device)
    ends = torch.tensor([math.log(s_min), math.log(s_max)], dtype=torch.float64, device=x.device)
    with torch.no_grad():
        path, total = odeint(
            right_hand_side, (x.double(), start), ends, rtol=rtol, atol=atol, method="dopri5"
        )
    return path[-1].to(x.dtype), total[-1]
