"""Denoising errors: what the network gets wrong of an image that it is told the class of."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..models.backbone import Backbone
from ..models.conditioner import Condition
from ..models.denoiser import Prediction, Target, as_column
from ..noise import gaussian
from .engine import Batch

Loss = Literal["l2", "l1"]


def noised(
    model: Backbone, x_0: Tensor, t: np.ndarray, keys: list[int], draws: np.ndarray
) -> tuple[Tensor, Tensor, Tensor]:
    """`x_t = alpha x_0 + sigma eps` of rows, each with a draw of its image.

    Neighbours with the same image, draw and time are made once.

    Args:
        model: For its noise at times that its network really reads.
        x_0: `[r, *shape]`.
        t: Times, float64 `[r]`.
        keys: Randomness of each row's image.
        draws: Number of each row's draw, `[r]`.

    Returns:
        `(x_t, t, eps)`, one row each, on the model's device.
    """
    fresh = [0] + [
        i
        for i in range(1, len(keys))
        if keys[i] != keys[i - 1] or draws[i] != draws[i - 1] or t[i] != t[i - 1]
    ]
    place = np.zeros(len(keys), np.int64)
    place[fresh[1:]] = 1
    noise = np.stack([gaussian(keys[i], int(draws[i]), model.shape) for i in fresh])
    eps = torch.from_numpy(noise).to(x_0)
    times = torch.from_numpy(t[fresh]).to(x_0.device)
    # Half precision would round alpha and sigma, and so the noise level of a whole image.
    wide = eps.to(torch.promote_types(eps.dtype, torch.float32))
    alpha, sigma = (as_column(s, wide) for s in model.scales(times))
    x_t = alpha * x_0[torch.tensor(fresh, device=x_0.device)] + sigma * wide
    x_t = x_t.to(x_0.dtype)
    rows = torch.from_numpy(np.cumsum(place)).to(x_0.device)
    return x_t[rows], times[rows], eps[rows]


@torch.inference_mode()
def denoising_errors(
    model: Backbone,
    batch: Batch,
    cond: Condition,
    *,
    target: Target = "eps",
    loss: Loss = "l2",
) -> np.ndarray:
    """`||eps - eps_hat(alpha x_0 + sigma eps, t, c)||` of every row, summed over dimensions.

    Args:
        model: The model, under guidance if there is to be any.
        batch: The rows.
        cond: Condition of each row.
        target: Which of the network's answers is compared: `eps`, `x` (x_0), or `v`
            (`alpha eps - sigma x_0`).
        loss: `l2` is the squared error, `l1` the absolute one.

    Returns:
        float64 `[n]`.
    """
    x_0 = batch.x_0
    x_t, t, eps = noised(model, x_0, batch.t, batch.keys, batch.draw)
    prediction = model.forward(x_t, t, cond)
    return distance(*pair_of(model, prediction, target, x_0, eps, t), loss).cpu().numpy()


def pair_of(
    model: Backbone, prediction: Prediction, target: Target, x_0: Tensor, eps: Tensor, t: Tensor
) -> tuple[Tensor, Tensor]:
    """What the network said of the target, and what the target is, `[n, *shape]` each."""
    if target == "eps":
        return prediction.eps, eps
    if target == "x":
        return prediction.x, x_0
    alpha, sigma = (as_column(s, prediction.x) for s in model.scales(t))
    return prediction.v, alpha * eps - sigma * x_0


def distance(said: Tensor, truth: Tensor, loss: Loss = "l2") -> Tensor:
    """`elementwise`, summed over dimensions, float64 `[n]`."""
    return elementwise(said, truth, loss).flatten(1).sum(1)


def elementwise(said: Tensor, truth: Tensor, loss: Loss = "l2") -> Tensor:
    """Squared or absolute differences `[n, *shape]`, in double precision, so that neither batches
    nor half precision change their sum. Differentiable."""
    difference = said.double() - truth.double()
    return difference.square() if loss == "l2" else difference.abs()
