"""Weighted optimisation (Algorithm 7): the mixture of the classes that explains the image best.

The network is conditioned on `sum_c w_c embed(c)` and its loss descends in w over the simplex,

    L(w) = mean over draws of  lambda_t ||eps - eps_hat(x_t, t, sum_c w_c embed(c))||^2,
    answer = argmax w.

One backward pass gives the derivative for every class at once, so the cost does not grow with
the number of classes. Mirror descent keeps w on the simplex without a projection,

    log w <- log w - rate * dL/dw,    normalised,

and its first step from the uniform w ranks the classes by `-dL/dw_c` alone: `steps=1` is that
screen. On the oracle, where a soft condition mixes densities, L with `weights="elbo"` is
`-log sum_c w_c p(x|c) + log sum_c w_c` up to a constant, so that at uniform w over K classes

    dL/dw_c = 1 - K p(c | x).

As printed, Algorithm 7 repeats Algorithm 6; this is what its text describes.

References:
    Prabhudesai et al., Diffusion-TTA, 2023. https://arxiv.org/abs/2311.16102
    Kivinen and Warmuth, Exponentiated Gradient versus Gradient Descent, 1997.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..backbone import Condition
from ..classifier import Progress, Scores, unique_prompts
from ..errors import InputError
from ..noise import image_key, quantiles
from ..prompts import fill
from ..scoring import Times, Weights, noised
from .common import DiffusionMethod

LEAST = -50.0  # smallest log-weight


class Weighted(DiffusionMethod):
    """Descend the denoising loss in the weights of the classes.

    Cost: `steps * draws` evaluations an image and as many vector-Jacobian products, whatever the
    number of classes.

    A logit is `log w_c` of the final weights.

    Args:
        backbone: A diffusion backbone, or what `diffzero.load` takes.
        steps: Descents; 1 ranks the classes by the gradient at uniform weights (with `mirror`;
            Adam's first step keeps the order alone).
        draws: Noise draws a step; successive steps continue one nested sequence.
        optimizer: `mirror` (exponentiated gradient) or `adam` on the logits v, w = softmax(v).
        rate: Step size. The loss is a mean over draws of errors summed over dimensions.
        weights: `uniform` draws t uniformly with weight 1; `elbo` draws lambda uniformly, with
            the weight that makes the loss a bound on `-log p`.
        t_range: `(min, max)` of t for `weights="uniform"`; `[t_min, 1]` if None.
        log_snr_range: `(min, max)` of lambda for `weights="elbo"`; the schedule's if None.
        template: One prompt with `{}` for the label; the backbone's own if None.
        temperature: See `Classifier`.
        priors: See `Classifier`.
        seed: See `Classifier`.
        batch_size: See `Classifier`.
        value_range: See `Classifier`.
    """

    method = "weighted"

    def __init__(
        self,
        backbone: Any = "tiny-sd",
        *,
        steps: int = 16,
        draws: int = 4,
        optimizer: Literal["mirror", "adam"] = "mirror",
        rate: float = 0.03,
        weights: Weights = "uniform",
        t_range: tuple[float, float] | None = None,
        log_snr_range: tuple[float, float] | None = None,
        template: str | None = None,
        temperature: float | None = None,
        priors: Mapping[str, float] | Sequence[float] | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        self.backbone = backbone
        self.steps = steps
        self.draws = draws
        self.optimizer = optimizer
        self.rate = rate
        self.weights = weights
        self.t_range = t_range
        self.log_snr_range = log_snr_range
        self.template = template
        self.temperature = temperature
        self.priors = priors
        self.seed = seed
        self.batch_size = batch_size
        self.value_range = value_range

    def count_evals(self, n_labels: int) -> int:
        """`steps * draws`."""
        return self.steps * self.draws

    def _check_options(self) -> None:
        self._check_choices(optimizer=("mirror", "adam"), weights=("uniform", "elbo"))
        self._check_at_least_one("steps", "draws")
        if not self.rate > 0:
            raise InputError(f"rate must be positive; got {self.rate}.")
        schedule = self.backbone_.schedule
        self._times = Times(schedule, self.weights, self.t_range, self.log_snr_range)

    def _fitted_temperature(self) -> float | None:
        """The card's, by evaluations, for settings that are the defaults but for their number."""
        changed = self._changed("steps", "draws")
        fitted = self.backbone_.temperatures.get(self.method, {})
        return None if changed else fitted.get(self.steps * self.draws)

    def gradient(self, images: Any, candidates: Sequence[Sequence[str]] | None = None) -> Any:
        """`dL/dw_c` at uniform weights, float64 `[b, k]`, over `steps * draws` draws.

        A mean over draws of one sequence, so that more steps refine the same gradient.

        Raises:
            InputError: see `scores`.
        """
        loaded, labels = self._inputs(images, candidates)
        out = np.full((len(loaded), max(map(len, labels or [self.names_]))), np.nan)
        for chosen, x_0, keys, cond in self._groups(loaded, labels):
            uniform = torch.full((len(x_0), len(cond)), 1 / len(cond), dtype=torch.float64)
            steps = [self._derivative(x_0, keys, cond, uniform, s) for s in range(self.steps)]
            out[chosen, : len(cond)] = torch.stack(steps).mean(0).numpy()
        return out

    def _score(
        self,
        images: list[np.ndarray],
        labels: list[list[str]] | None,
        progress: Progress | None,
    ) -> Scores:
        logits = np.full((len(images), max(map(len, labels or [self.names_]))), -np.inf)
        for chosen, x_0, keys, cond in self._groups(images, labels):
            logits[chosen, : len(cond)] = self._descend(x_0, keys, cond, progress).numpy()
        cost = np.full(len(images), self.count_evals(0))
        return Scores(logits, cost, cost.copy())

    def _groups(
        self, images: list[np.ndarray], labels: list[list[str]] | None
    ) -> Iterator[tuple[list[int], Tensor, list[int], Condition]]:
        """Images that share their classes, a batch at a time: positions, x_0, keys, conditions."""
        if labels is not None:
            self._check_candidates(labels)
        size = max(1, self._rows_a_call() // self.draws)
        if labels is None:
            sets = [(list(range(len(images))), self._class_conditions)]
        else:
            prompts, rows = unique_prompts([fill(self.templates_, one) for one in labels])
            table = self.backbone_.embed(prompts)
            same: dict[tuple[int, ...], list[int]] = {}
            for i, own in enumerate(rows):
                same.setdefault(tuple(own), []).append(i)
            sets = [(who, table[torch.tensor(r)]) for r, who in same.items()]
        for who, cond in sets:
            for start in range(0, len(who), size):
                chosen = who[start : start + size]
                part = [images[i] for i in chosen]
                keys = [image_key(self.seed, image) for image in part]
                yield chosen, self._encode(part), keys, cond

    def _descend(
        self, x_0: Tensor, keys: list[int], cond: Condition, progress: Progress | None
    ) -> Tensor:
        """`log w` after all steps, float64 `[b, k]` on the CPU."""
        v = torch.zeros(len(x_0), len(cond), dtype=torch.float64)
        adam = torch.optim.Adam([v], lr=self.rate)
        for step in range(self.steps):
            w = v.softmax(1)
            slope = self._derivative(x_0, keys, cond, w, step)
            if self.optimizer == "mirror":
                # A weight never reaches zero: from there no gradient leads back.
                v = (v - self.rate * slope).log_softmax(1).clamp(min=LEAST)
            else:  # through the softmax: dL/dv_c = w_c (dL/dw_c - sum_j w_j dL/dw_j)
                v.grad = w * (slope - (w * slope).sum(1, keepdim=True))
                adam.step()
            if progress is not None:
                progress(self.draws * len(x_0))
        return v.log_softmax(1)

    def _derivative(
        self, x_0: Tensor, keys: list[int], cond: Condition, w: Tensor, step: int
    ) -> Tensor:
        """`dL/dw` `[b, k]` over the draws of one step, float64 on the CPU."""
        numbers = np.arange(step * self.draws, (step + 1) * self.draws)
        most = max(1, self._rows_a_call() // len(x_0))
        slope = torch.zeros(w.shape, dtype=torch.float64)
        for start in range(0, self.draws, most):
            part = numbers[start : start + most]
            slope += self._slope(x_0, keys, cond, w, part) * len(part) / self.draws
        return slope

    def _slope(
        self, x_0: Tensor, keys: list[int], cond: Condition, w: Tensor, numbers: np.ndarray
    ) -> Tensor:
        """`dL/dw` `[b, k]` of the mean over these draws, in one call."""
        backbone, m = self.backbone_, len(numbers)
        t = np.stack([self._times.at(quantiles(key, numbers)) for key in keys]).ravel()
        repeated = [key for key in keys for _ in numbers]
        rows = torch.arange(len(x_0), device=x_0.device).repeat_interleave(m)
        x_t, t_rows, eps = noised(backbone, x_0[rows], t, repeated, np.tile(numbers, len(keys)))
        leaf = w.to(x_0.device).requires_grad_()
        with torch.enable_grad():
            soft = backbone.mix(cond, leaf)
            eps_hat = backbone.forward(x_t, t_rows, soft[rows]).eps
            error = (eps - eps_hat).float().flatten(1).square().sum(1, dtype=torch.float64)
            loss = self._times.weight * error.sum() / m  # the sum of every image's own loss
            (slope,) = torch.autograd.grad(loss, leaf)
        return slope.detach().double().cpu()
