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

`optimizer="simplex"` mixes what the network says of each class instead of the conditions, and
solves for the weights exactly (`diffzero.scoring.simplex`):

    min over the simplex of  mean over draws of  lambda_t ||eps - sum_c w_c eps_hat(x_t, t, c)||^2.

It needs every class's answer, and no gradient.

As printed, Algorithm 7 repeats Algorithm 6; this is what its text describes.

References:
    Prabhudesai et al., Diffusion-TTA, 2023. https://arxiv.org/abs/2311.16102
    Kivinen and Warmuth, Exponentiated Gradient versus Gradient Descent, 1997.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from ..noise import quantiles
from ..options import (
    ANYTHING,
    DRAWS,
    LOG_SNR,
    NOTHING,
    STEPS,
    TEMPLATES,
    interval,
    number,
    one_of,
    option,
)
from ..scoring.denoising import distance, noised
from ..scoring.engine import Batch, Jobs, Outcome, Program, Results, Subject
from ..scoring.simplex import simplex_weights
from ..scoring.times import Times, Weights
from .common import Classes, DiffusionMethod, gradient

LEAST = -50.0  # smallest log-weight


@dataclass(kw_only=True, eq=False, repr=False)
class Weighted(DiffusionMethod):
    """Descend the denoising loss in the weights of the classes.

    A logit is `log w_c` of the final weights.

    Args:
        backbone: A diffusion model, or what `diffzero.load` takes.
        steps: Descents; 1 ranks the classes by the gradient at uniform weights (with `mirror`;
            Adam's first step keeps the order alone).
        draws: Noise draws per step; successive steps continue one nested sequence.
        optimizer: `mirror` (exponentiated gradient), `adam` on the logits v, w = softmax(v), or
            `simplex`, an exact solution over all `steps * draws` draws of every class.
        rate: Step size. The loss is a mean over draws of errors summed over dimensions.
        weights: `uniform` draws t uniformly with weight 1; `elbo` draws lambda uniformly, with
            the weight that makes the loss a bound on `-log p`.
        t_range: `(min, max)` of t for `weights="uniform"`; `[t_min, 1]` if None.
        log_snr_range: `(min, max)` of lambda for `weights="elbo"`; the schedule's if None.
        template: One prompt with `{}` for the label; the model's own if None.
        temperature: See `Classifier`.
        priors: See `Classifier`.
        seed: See `Classifier`.
        batch_size: See `Classifier`.
        value_range: See `Classifier`.
    """

    method: ClassVar[str] = "weighted"
    cost: ClassVar[str] = (
        "steps * draws, and as many vector-Jacobian products, whatever the number of classes; "
        "with simplex steps * draws * classes and none"
    )
    draw_arguments: ClassVar[tuple[str, ...]] = ("steps", "draws")

    backbone: Any = option("tiny-sd", ANYTHING, positional=True)
    steps: int = option(16, STEPS)
    draws: int = option(4, DRAWS)
    optimizer: Literal["mirror", "adam", "simplex"] = option(
        "mirror", one_of("mirror", "adam", "simplex")
    )
    rate: float = option(0.03, number(0, 1e6, above=True))
    weights: Weights = option("uniform", one_of("uniform", "elbo"))
    t_range: tuple[float, float] | None = option(None, interval(0, 1) | NOTHING)
    log_snr_range: tuple[float, float] | None = option(None, LOG_SNR | NOTHING)
    template: str | None = option(None, TEMPLATES)

    def count_evals(self, n_labels: int) -> int:
        """`steps * draws`, with `simplex` times classes."""
        return self.steps * self.draws * (n_labels if self.optimizer == "simplex" else 1)

    def _check_options(self) -> None:
        schedule = self.backbone_.schedule
        self.times_ = Times(schedule, self.weights, self.t_range, self.log_snr_range)

    def gradient(self, images: Any, candidates: Sequence[Sequence[str]] | None = None) -> Any:
        """`dL/dw_c` at uniform weights, float64 `[b, k]`, over `steps * draws` draws.

        A mean over draws of one sequence, so that more steps refine the same gradient.

        Raises:
            InputError: see `scores`.
        """
        loaded, labels = self._inputs(images, candidates)
        classes = replace(self._classes(len(loaded), labels), still=True)
        found = [o.extra for o in self._outcomes(loaded, classes)]
        out = np.full((len(found), max(map(len, found))), np.nan)
        for row, slope in zip(out, found, strict=True):
            row[: len(slope)] = slope
        return out

    def _classes(self, n: int, labels: list[list[str]] | None) -> WeightedClasses:
        """Images with the same classes share a lane, since a soft condition mixes one set."""
        classes = super()._classes(n, labels)
        lanes: dict[tuple[int, ...], int] = {}
        lane = [lanes.setdefault(tuple(rows), len(lanes)) for rows in classes.rows]
        return WeightedClasses(**vars(classes), lane=lane, sets=[*lanes])

    def _program(self, subject: Subject, classes: Classes, image: int) -> Program:
        assert isinstance(classes, WeightedClasses)
        if self._exact(classes):
            return (yield from self._solved(subject, classes.rows[image]))
        v = torch.zeros(len(classes.rows[image]), dtype=torch.float64)
        adam, total = torch.optim.Adam([v], lr=self.rate), torch.zeros_like(v)
        for step in range(self.steps):
            w = v.softmax(0)
            draws = np.arange(step * self.draws, (step + 1) * self.draws)
            t = self.times_.at(quantiles(subject.key, draws))
            lane = classes.lane[image]
            slopes = yield Jobs(np.zeros_like(draws), draws, t, lane=lane, state=w)
            slope = torch.from_numpy(slopes).mean(0)
            total += slope / self.steps
            if classes.still:
                continue
            if self.optimizer == "mirror":
                # A weight never reaches zero: from there no gradient leads back.
                v = (v - self.rate * slope).log_softmax(0).clamp(min=LEAST)
            else:  # through the softmax: dL/dv_c = w_c (dL/dw_c - sum_j w_j dL/dw_j)
                v.grad = w * (slope - (w * slope).sum())
                adam.step()
        return Outcome(v.log_softmax(0).numpy(), extra=total.numpy())

    def _exact(self, classes: WeightedClasses) -> bool:
        return self.optimizer == "simplex" and not classes.still

    def _solved(self, subject: Subject, rows: np.ndarray) -> Program:
        """Weights from inner products of the residuals of all classes, summed step by
        step: residuals of all draws at once may not fit in memory."""
        gram = np.zeros((len(rows), len(rows)))
        for step in range(self.steps):
            draws = np.arange(step * self.draws, (step + 1) * self.draws)
            t = self.times_.at(quantiles(subject.key, draws))
            said = yield Jobs.dense(rows, draws, t)
            residuals = said.reshape(len(draws), len(rows), -1).astype(np.float64)
            gram += np.einsum("n,nkd,nld->kl", self.times_.weight(t), residuals, residuals)
        w = simplex_weights(gram)
        return Outcome(np.log(np.maximum(w, np.exp(LEAST))))

    def _evaluate(self, batch: Batch, classes: Classes) -> Results:
        """`dL/dw` of each row's own loss, float64 `[n, k]`; for `simplex` what the network says of
        the noise less the noise, `[n, d]`."""
        assert isinstance(classes, WeightedClasses) and classes.table is not None
        model, x_0 = self.model_, batch.x_0
        if self._exact(classes):
            x_t, t, eps = noised(model, x_0, batch.t, batch.keys, batch.draw)
            with torch.inference_mode():
                said = model.forward(x_t, t, classes.of(batch)).eps
            return Results((said - eps).flatten(1).cpu().numpy(), model.denoiser.cost)
        cond = classes.table[torch.tensor(classes.sets[batch.lane], device=x_0.device)]
        x_t, t, eps = noised(model, x_0, batch.t, batch.keys, batch.draw)
        w: Tensor = torch.stack(batch.states)[torch.from_numpy(batch.subject)]
        leaf = w.to(x_0.device).requires_grad_()
        with torch.enable_grad():
            eps_hat = model.forward(x_t, t, model.conditioner.mix(cond, leaf)).eps
            weight = batch.on_device(self.times_.weight(batch.t))
            loss = (weight * distance(eps_hat, eps)).sum()  # the sum of every row's own loss
            slopes = gradient(loss, leaf)
        return Results(slopes.double().cpu().numpy(), model.denoiser.cost, 1)


@dataclass(frozen=True)
class WeightedClasses(Classes):
    """Classes, with the lane of each image.

    Attributes:
        lane: Number of each image's set of classes.
        sets: Rows of the table in each set.
        still: The weights stay uniform: the gradient alone is wanted.
    """

    lane: list[int]
    sets: list[tuple[int, ...]]
    still: bool = False
