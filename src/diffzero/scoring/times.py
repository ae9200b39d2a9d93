"""Where draws lie in time, and what an error there weighs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from ..errors import InputError
from ..schedule import Schedule

Weights = Literal["uniform", "elbo"]
STEP = 1e-4  # of t, for the slope of lambda


@dataclass(frozen=True)
class Times:
    """Where draws lie in time, and the weight w of an error there.

    `uniform`: t uniform on its range with w = 1, the field's default. `elbo`: lambda = log SNR
    uniform on its range, which with `w = 1/2 |d lambda / dt|` makes the mean error a bound on
    `-log p`: w is then the same for all draws, half the range.

    Args:
        schedule: Of the model.
        weights: `uniform` or `elbo`.
        t_range: `(min, max)` of t; `[t_min, 1]` if None.
        log_snr_range: `(min, max)` of lambda; the schedule's own if None.

    Raises:
        InputError: an empty range, times outside [0, 1], or noise that the model does not know.

    References:
        Kingma et al., Variational Diffusion Models, 2021. https://arxiv.org/abs/2107.00630
    """

    schedule: Schedule
    weights: Weights
    t_range: tuple[float, float] | None = None
    log_snr_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name, ends in (("t_range", self.t_ends), ("log_snr_range", self.log_snr_ends)):
            if not ends[0] < ends[1]:
                raise InputError(f"{name} must satisfy min < max; got {ends}.")
        if not 0 <= self.t_ends[0] < self.t_ends[1] <= 1:
            raise InputError(f"t_range must lie within [0, 1]; got {self.t_range}.")
        if self.log_snr_range is not None and not self.schedule.reaches(*self.log_snr_range):
            low, high = self.schedule.log_snr_range()
            raise InputError(
                "log_snr_range must lie within the noise that the model was trained on, "
                f"({low:.4g}, {high:.4g}); got {self.log_snr_range}."
            )

    @property
    def t_ends(self) -> tuple[float, float]:
        """Range of t of `uniform`."""
        return self.t_range or (self.schedule.t_min, 1.0)

    @property
    def log_snr_ends(self) -> tuple[float, float]:
        """Range of lambda of `elbo`."""
        return self.log_snr_range or self.schedule.log_snr_range()

    def weight(self, t: np.ndarray) -> np.ndarray:
        """w of errors at times t `[n]`: 1, or half the range of lambda."""
        low, high = self.log_snr_ends
        return np.full(np.shape(t), 1.0 if self.weights == "uniform" else 0.5 * (high - low))

    def at(self, place: np.ndarray) -> np.ndarray:
        """Times of places in [0, 1), see `noise.quantiles`."""
        if self.weights == "uniform":
            low, high = self.t_ends
            return low + place * (high - low)
        low, high = self.log_snr_ends
        return self.schedule.time(torch.from_numpy(high - place * (high - low))).numpy()


def slopes(schedule: Schedule, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`lambda(t)` and `|d lambda / dt|` by a central difference within the schedule's range, of
    which the end, where lambda may be minus infinity, is left out."""
    low = np.clip(t - STEP, schedule.t_min, 1.0 - 2 * STEP)
    high = np.minimum(low + 2 * STEP, 1 - STEP**2)
    at = [schedule.log_snr(torch.from_numpy(x)).numpy() for x in (t, low, high)]
    return at[0], np.abs(at[2] - at[1]) / (high - low)
