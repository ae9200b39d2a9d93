"""Schedules: how signal and noise are mixed at time t.

Every diffusion is

    x_t = alpha(t) x_0 + sigma(t) eps,    eps ~ N(0, I),    t in [0, 1],

with a signal-to-noise ratio alpha^2 / sigma^2 that strictly decreases. Its logarithm

    lambda(t) = log(alpha(t)^2 / sigma(t)^2)

is the natural clock: integrals over lambda do not depend on the schedule.

References:
    Kingma et al., Variational Diffusion Models, 2021. https://arxiv.org/abs/2107.00630
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from .errors import InputError


class Schedule(ABC):
    """A map t -> (alpha, sigma), used on `[t_min, 1]`.

    Attributes:
        t_min: Smallest time that the network was trained for.
    """

    t_min: float

    @abstractmethod
    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """`(alpha, sigma)`, float64 with the shape of `t`."""

    @abstractmethod
    def log_snr(self, t: Tensor) -> Tensor:
        """lambda(t), float64; minus infinity where alpha is zero."""

    @abstractmethod
    def time(self, log_snr: Tensor) -> Tensor:
        """The inverse of `log_snr`: the time at which lambda has this value."""

    def log_snr_range(self) -> tuple[float, float]:
        """`(lambda_min, lambda_max)`: lambda at t = 1 and at t_min, the first finite.

        Where alpha(1) = 0, lambda_min is set to -12: below it no signal is left to tell classes
        apart (the variance of x_0 times e^-12).
        """
        ends = self.log_snr(torch.tensor([1.0, self.t_min], dtype=torch.float64))
        return max(float(ends[0]), -12.0), float(ends[1])

    def reaches(self, low: float, high: float) -> bool:
        """Whether there are times of all log signal-to-noise ratios from `low` to `high`. Discrete
        steps have ends; continuous clocks, as of flows, have a time for every ratio."""
        wanted = torch.tensor([low, high], dtype=torch.float64)
        return bool(torch.allclose(self.log_snr(self.time(wanted)), wanted, rtol=0, atol=0.02))


class DiscreteSchedule(Schedule):
    """A DDPM of T discrete steps, in continuous time.

    Step n (from 0) lies at `t = (n + 1) / T`, and lambda is linear in t between steps. A network
    trained on steps is given the fractional step `T t - 1`.

    Args:
        alphas_cumprod: `alpha_bar` of each step, strictly decreasing in [0, 1); only the last
            may be 0 (zero terminal SNR), and alpha_bar is then linear over the last step.

    Raises:
        InputError: `alphas_cumprod` does not decrease.

    References:
        Ho et al., Denoising Diffusion Probabilistic Models, 2020.
        https://arxiv.org/abs/2006.11239
    """

    def __init__(self, alphas_cumprod: Tensor | Sequence[float]) -> None:
        bar = torch.as_tensor(alphas_cumprod).detach().cpu().double()
        if len(bar) < 2 or not bool((bar[1:] < bar[:-1]).all()) or not 0 <= bar[-1] < bar[0] < 1:
            raise InputError(
                "alphas_cumprod must strictly decrease within (0, 1); got "
                f"{bar[0]:.4g} ... {bar[-1]:.4g} over {len(bar)} steps."
            )
        self.alphas_cumprod = bar
        self.steps = len(bar)
        self.t_min = 1 / self.steps
        self._lambda = torch.log(bar) - torch.log1p(-bar)

    @classmethod
    def linear(cls, steps: int = 1000, start: float = 1e-4, end: float = 0.02) -> DiscreteSchedule:
        """The linear betas of Ho et al. (2020)."""
        betas = torch.linspace(start, end, steps, dtype=torch.float64)
        return cls(torch.cumprod(1 - betas, 0))

    @classmethod
    def scaled_linear(
        cls, steps: int = 1000, start: float = 0.00085, end: float = 0.012
    ) -> DiscreteSchedule:
        """The betas of Stable Diffusion 1 and 2: linear in their square root."""
        betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64).square()
        return cls(torch.cumprod(1 - betas, 0))

    def step(self, t: Tensor) -> Tensor:
        """The network's fractional step `T t - 1`, in [0, T - 1]."""
        return (t.double() * self.steps - 1).clamp(0, self.steps - 1)

    def log_snr(self, t: Tensor) -> Tensor:
        """lambda(t), linear between steps."""
        position = self.step(t)
        low = position.floor().long().clamp(max=self.steps - 2)
        part = position - low
        left, right = self._lambda.to(t.device)[low], self._lambda.to(t.device)[low + 1]
        between = left + part * (right - left)
        bar = (1 - part) * self.alphas_cumprod.to(t.device)[low]
        terminal = torch.log(bar) - torch.log1p(-bar)
        return torch.where(torch.isinf(right), terminal, between)

    def time(self, log_snr: Tensor) -> Tensor:
        """The time at which lambda has this value, clamped to `[t_min, 1]`."""
        grid = -self._lambda.to(log_snr.device)  # increasing, as searchsorted wants
        target = -log_snr.double()
        high = torch.searchsorted(grid, target.contiguous()).clamp(1, self.steps - 1)
        left, right = grid[high - 1], grid[high]
        part = ((target - left) / (right - left)).clamp(0, 1)
        bar = torch.sigmoid(-target) / self.alphas_cumprod.to(log_snr.device)[high - 1]
        part = torch.where(torch.isinf(right), (1 - bar).clamp(0, 1), part)
        return (high - 1 + part + 1) / self.steps

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """`alpha = sigmoid(lambda)^(1/2)`, `sigma = sigmoid(-lambda)^(1/2)`."""
        lam = self.log_snr(t)
        return torch.sigmoid(lam).sqrt(), torch.sigmoid(-lam).sqrt()


class LogSNRLinearSchedule(Schedule):
    """Variance-preserving with lambda linear in t, from `log_snr_max` down to `log_snr_min`.

    Args:
        log_snr_min: lambda at t = 1, in nats: the log of alpha^2 over sigma^2.
        log_snr_max: lambda at t = 0, likewise.

    Raises:
        InputError: a minimum that is not below the maximum.

    References:
        Kingma et al., Variational Diffusion Models, 2021. https://arxiv.org/abs/2107.00630
    """

    def __init__(self, log_snr_min: float = -12.0, log_snr_max: float = 12.0) -> None:
        if not log_snr_min < log_snr_max:
            raise InputError(
                f"log_snr_min must lie below log_snr_max; got {log_snr_min} and {log_snr_max}."
            )
        self.log_snr_min, self.log_snr_max = log_snr_min, log_snr_max
        self.t_min = 0.0

    def log_snr(self, t: Tensor) -> Tensor:
        """`lambda_max + t (lambda_min - lambda_max)`."""
        return self.log_snr_max + t.double() * (self.log_snr_min - self.log_snr_max)

    def time(self, log_snr: Tensor) -> Tensor:
        """The inverse of `log_snr`, clamped to [0, 1]."""
        span = self.log_snr_min - self.log_snr_max
        return ((log_snr.double() - self.log_snr_max) / span).clamp(0, 1)

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """`alpha = sigmoid(lambda)^(1/2)`, `sigma = sigmoid(-lambda)^(1/2)`."""
        lam = self.log_snr(t)
        return torch.sigmoid(lam).sqrt(), torch.sigmoid(-lam).sqrt()


class RectifiedFlowSchedule(Schedule):
    """Straight lines between data and noise: `alpha = 1 - u`, `sigma = u`.

    Args:
        shift: `u = shift t / (1 + (shift - 1) t)`, as Stable Diffusion 3 warps its clock.
        t_min: Smallest time used; at t = 0 there is no noise to predict.

    Raises:
        InputError: a shift that is not positive, or a `t_min` outside (0, 1).

    References:
        Esser et al., Scaling Rectified Flow Transformers, 2024. https://arxiv.org/abs/2403.03206
    """

    def __init__(self, shift: float = 1.0, t_min: float = 1e-3) -> None:
        if shift <= 0 or not 0 < t_min < 1:
            raise InputError(
                f"shift must be positive and t_min in (0, 1); got {shift} and {t_min}."
            )
        self.shift, self.t_min = shift, t_min

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """`(1 - u, u)`."""
        t = t.double()
        u = self.shift * t / (1 + (self.shift - 1) * t)
        return 1 - u, u

    def log_snr(self, t: Tensor) -> Tensor:
        """`2 log((1 - u) / u)`."""
        alpha, sigma = self(t)
        return 2 * (torch.log(alpha) - torch.log(sigma))

    def time(self, log_snr: Tensor) -> Tensor:
        """`u = 1 / (1 + e^(lambda / 2))`, then the shift undone."""
        u = torch.sigmoid(-log_snr.double() / 2)
        return u / (self.shift - (self.shift - 1) * u)
