"""The one inner loop: a flat table of (image, class, draw) jobs through the network.

Every error-based method scores through `denoising_errors`. Rows of many images share a batch, so
that the network always sees full ones, whether scoring is dense, pruned or racing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .backbone import Backbone, Condition, as_column, guided
from .errors import InputError
from .noise import gaussian
from .schedule import Schedule

Loss = Literal["l2", "l1"]
Weights = Literal["uniform", "elbo"]


@dataclass(frozen=True)
class Times:
    """Where draws lie in time, and the weight w of an error there.

    `uniform`: t uniform on its range with w = 1, the field's default. `elbo`: lambda = log SNR
    uniform on its range, which with `w = 1/2 |d lambda / dt|` makes the mean error a bound on
    `-log p`: w is then the same for all draws, half the range.

    Args:
        schedule: Of the backbone.
        weights: `uniform` or `elbo`.
        t_range: `(min, max)` of t; `[t_min, 1]` if None.
        log_snr_range: `(min, max)` of lambda; the schedule's own if None.

    Raises:
        InputError: an empty range, or times outside [0, 1].

    References:
        Kingma et al., Variational Diffusion Models, 2021. https://arxiv.org/abs/2107.00630
    """

    schedule: Schedule
    weights: Weights
    t_range: tuple[float, float] | None = None
    log_snr_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name, ends in (("t_range", self._t), ("log_snr_range", self._log_snr)):
            if not ends[0] < ends[1]:
                raise InputError(f"{name} must satisfy min < max; got {ends}.")
        if not 0 <= self._t[0] < self._t[1] <= 1:
            raise InputError(f"t_range must lie within [0, 1]; got {self.t_range}.")

    @property
    def _t(self) -> tuple[float, float]:
        return self.t_range or (self.schedule.t_min, 1.0)

    @property
    def _log_snr(self) -> tuple[float, float]:
        return self.log_snr_range or self.schedule.log_snr_range()

    @property
    def weight(self) -> float:
        """w of every draw: 1, or half the range of lambda."""
        low, high = self._log_snr
        return 1.0 if self.weights == "uniform" else 0.5 * (high - low)

    def at(self, place: np.ndarray) -> np.ndarray:
        """Times of places in [0, 1), see `noise.quantiles`."""
        if self.weights == "uniform":
            low, high = self._t
            return low + place * (high - low)
        low, high = self._log_snr
        return self.schedule.time(torch.from_numpy(high - place * (high - low))).numpy()


def noised(
    backbone: Backbone, x_0: Tensor, t: np.ndarray, keys: list[int], numbers: np.ndarray
) -> tuple[Tensor, Tensor, Tensor]:
    """`x_t = alpha x_0 + sigma eps` of rows, each with a draw of its image.

    Args:
        backbone: For its schedule.
        x_0: `[r, *shape]`.
        t: Times, `[r]`.
        keys: Randomness of each row's image.
        numbers: Number of each row's draw, `[r]`.

    Returns:
        `(x_t, t, eps)` on the backbone's device.
    """
    noise = np.stack(
        [gaussian(k, int(n), backbone.shape) for k, n in zip(keys, numbers, strict=True)]
    )
    eps = torch.from_numpy(noise).to(x_0)
    times = torch.from_numpy(t).to(x_0.device)
    alpha, sigma = (as_column(s, eps) for s in backbone.schedule(times))
    return alpha * x_0 + sigma * eps, times, eps


@dataclass(frozen=True)
class Jobs:
    """A table of network evaluations, one row each.

    Rows that share an image and a draw should be neighbours: their `x_t` is then made once.

    Attributes:
        image: Row of `x_0`, int64 `[n]`.
        cond: Row of the condition table, int64 `[n]`.
        draw: Number of the draw, int64 `[n]`.
    """

    image: np.ndarray
    cond: np.ndarray
    draw: np.ndarray

    def __len__(self) -> int:
        return len(self.image)

    @classmethod
    def dense(cls, conds: list[np.ndarray], draws: int, first: int = 0) -> Jobs:
        """All `draws` of all the conditions of each image; `conds[i]` are those of image i."""
        image, cond, draw = [], [], []
        for i, own in enumerate(conds):
            image.append(np.full(len(own) * draws, i))
            cond.append(np.tile(own, draws))
            draw.append(np.repeat(np.arange(first, first + draws), len(own)))
        return cls(np.concatenate(image), np.concatenate(cond), np.concatenate(draw))


@torch.inference_mode()
def denoising_errors(
    backbone: Backbone,
    x_0: Tensor,
    cond: Condition,
    jobs: Jobs,
    time_of: Callable[[np.ndarray, np.ndarray], np.ndarray],
    keys: list[int],
    *,
    loss: Loss = "l2",
    guidance: float = 1.0,
    batch_size: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """`||eps - eps_hat(alpha x_0 + sigma eps, t, c)||` of every job, summed over dimensions.

    Args:
        backbone: The network.
        x_0: Encoded images `[b, *shape]`.
        cond: Condition table.
        jobs: What to evaluate.
        time_of: `(image, draw) -> t`, arrays of equal length in and out.
        keys: Randomness of each image, see `noise.image_key`.
        loss: `l2` is the squared error, `l1` the absolute one.
        guidance: 1 is none; any other value doubles the evaluations.
        batch_size: Rows a network call; the backbone's own number if None. With guidance, a row
            and its unconditional twin count as two.
        progress: Called with the evaluations of each batch.

    Returns:
        float64 `[n]`, in the order of the jobs.
    """
    rows = batch_size or backbone.default_batch_size()
    per_job = 1 if guidance == 1.0 else 2
    rows = max(1, rows // per_job)
    empty = backbone.embed([""]) if per_job == 2 else None
    errors = torch.empty(len(jobs), dtype=torch.float64)
    for chunk, pairs, expand in _batches(jobs, rows):
        draws = np.stack([gaussian(keys[i], d, backbone.shape) for i, d in pairs])
        eps = torch.from_numpy(draws).to(backbone.device, backbone.dtype)
        image, draw = pairs.T
        t = torch.from_numpy(time_of(image, draw)).to(backbone.device)
        alpha, sigma = (as_column(s, eps) for s in backbone.schedule(t))
        x_t = alpha * x_0[torch.from_numpy(image).to(x_0.device)] + sigma * eps
        index = torch.from_numpy(expand).to(backbone.device)
        x_rows, t_rows = x_t[index], t[index]
        c = cond[torch.from_numpy(jobs.cond[chunk]).to(backbone.device)]
        if empty is None:
            eps_hat = backbone.forward(x_rows, t_rows, c).eps
        else:
            blank = empty[torch.zeros(len(index), dtype=torch.long, device=backbone.device)]
            eps_hat = guided(backbone, x_rows, t_rows, c, blank, guidance).eps
        errors[chunk] = _distance(eps_hat, eps[index], loss).cpu()
        if progress is not None:
            progress(per_job * len(index))
    return errors.numpy()


def _batches(jobs: Jobs, rows: int) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Slices of the table, their distinct (image, draw) pairs `[p, 2]`, and each row's pair."""
    for start in range(0, len(jobs), rows):
        chunk = slice(start, min(start + rows, len(jobs)))
        both = np.stack([jobs.image[chunk], jobs.draw[chunk]], 1)
        fresh = np.ones(len(both), dtype=bool)
        fresh[1:] = (both[1:] != both[:-1]).any(1)  # neighbours share their x_t
        yield chunk, both[fresh], np.cumsum(fresh) - 1


def _distance(eps_hat: Tensor, eps: Tensor, loss: Loss) -> Tensor:
    """Summed over dimensions in float64, so that batches cannot change the sum."""
    difference = (eps_hat - eps).flatten(1)
    elements = difference.square() if loss == "l2" else difference.abs()
    return elements.sum(1, dtype=torch.float64)
