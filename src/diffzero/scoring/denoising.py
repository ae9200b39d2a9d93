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
from .control import NOISES
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


@torch.inference_mode()
def errors_and_products(
    model: Backbone, batch: Batch, cond: Condition, target: Target = "eps"
) -> np.ndarray:
    """Squared errors of every row, and what `control` needs of the network's answers.

    Args:
        model: As for `denoising_errors`.
        batch: As for `denoising_errors`.
        cond: As for `denoising_errors`.
        target: As for `denoising_errors`.

    Returns:
        float64 `[n, 1 + NOISES]`: the error, and the products of the predicted noise with the
        noise of each of the image's first draws, times what makes an error of eps one of the
        target.
    """
    x_t, t, eps = noised(model, batch.x_0, batch.t, batch.keys, batch.draw)
    prediction = model.forward(x_t, t, cond)
    found = torch.empty(len(batch), 1 + NOISES, dtype=torch.float64, device=x_t.device)
    found[:, 0] = distance(*pair_of(model, prediction, target, batch.x_0, eps, t))
    said = prediction.eps.flatten(1).double()
    for number, subject in enumerate(batch.subjects):
        if "noises" not in subject.memo:
            noises = [gaussian(subject.key, draw, model.shape) for draw in range(NOISES)]
            subject.memo["noises"] = torch.from_numpy(np.stack(noises)).flatten(1).to(said.device)
        rows = batch.on_device(np.flatnonzero(batch.subject == number))
        found[rows, 1:] = said[rows] @ subject.memo["noises"].double().T
    found[:, 1:] *= ratio_of_errors(model, target, t)[:, None]
    return found.cpu().numpy()


def ratio_of_errors(model: Backbone, target: Target, t: Tensor) -> Tensor:
    """What a squared error of eps is multiplied by to be one of the target, float64 `[n]`:
    `x - x_hat = -(sigma / alpha) (eps - eps_hat)`, and `v = alpha eps - sigma x`."""
    alpha, sigma = model.scales(t)
    if target == "eps":
        return torch.ones_like(alpha)
    ratio = (sigma / alpha) ** 2 if target == "x" else ((alpha**2 + sigma**2) / alpha) ** 2
    # Without signal, as a time that was rounded to 1 has it, every class has the same eps.
    return torch.where(alpha > 0, ratio, 0.0)


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
