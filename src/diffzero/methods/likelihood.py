"""Exact likelihood (Algorithm 1): the class under which the image is most probable.

    logit_c = log p(x | c) = log p_T(xbar(s_max)) + integral of tr(d eps_hat / d xbar) ds

along the probability-flow ODE `d xbar / ds = eps_hat(x_t, t, c)` that starts at the image; see
`diffzero.scoring.ode`.

The trace is Hutchinson's `v^T J v`, with the same probes v for every class: the
noise of the estimate, tens of nats, is then common to all classes and cancels from their
differences. With probes of their own (`paired=False`) the differences drown in it.

What is estimated is the density at s_min. For pixel models the image is dequantised with uniform
noise one grey step wide, and `details["bits_per_dim"]` is

    -log p / (D log 2) - log2(grey step),

the cost of storing the grey values; for latent models `details["nats_per_dim"]` is `-log p / D`.

References:
    Li et al., Your Diffusion Model is Secretly a Zero-Shot Classifier, 2023.
    https://arxiv.org/abs/2303.16203
    Song et al., Score-Based Generative Modeling through SDEs, 2021.
    https://arxiv.org/abs/2011.13456
    Zimmermann et al., Score-Based Generative Classifiers, 2021. https://arxiv.org/abs/2110.00473
    Theis et al., A note on the evaluation of generative models, 2015.
    https://arxiv.org/abs/1511.01844
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..noise import dequantisation, probe
from ..options import (
    ANYTHING,
    DRAWS,
    FLAG,
    GUIDANCE,
    NOTHING,
    STEPS,
    TEMPLATES,
    interval,
    number,
    one_of,
    option,
)
from ..scoring.engine import Batch, Jobs, Outcome, Program, Results, Subject
from ..scoring.ode import EVALUATIONS, log_density, s_range
from .common import Classes, DiffusionMethod

EXACT_LIMIT = 1024  # dimensions up to which an exact trace is accepted


@dataclass(kw_only=True, eq=False, repr=False)
class Likelihood(DiffusionMethod):
    """Exact log-likelihood of every class by the probability-flow ODE.

    A logit is `log p(x | c)` in nats at the noise level s_min. `details` holds `bits_per_dim` (or
    `nats_per_dim` of latents) and `stderr`, the standard error over probes in nats.

    Args:
        backbone: A diffusion model, or what `diffzero.load` takes.
        steps: Intervals of the fixed grid, even in log s.
        solver: `heun3` (fixed steps of third order), `heun` (of second order), or `adaptive`
            (Dormand-Prince of torchdiffeq; each image and class is a solve, so that a score does
            not depend on its neighbours).
        rtol: Of the adaptive solver.
        atol: Of the adaptive solver.
        probes: Hutchinson probes per image.
        probe: `rademacher` or `gaussian`.
        trace: `hutchinson`, or `exact` for inputs of at most 1,024 dimensions.
        paired: All classes of an image see the same probes. False reproduces the paper's result.
        dequantise: Add uniform noise within a grey step; only pixel models have any.
        s_range: `(s_min, s_max)` of sigma / alpha; the schedule's own range if None.
        template: One prompt with `{}` for the label; the model's own if None.
        guidance: Scale of classifier-free guidance; 1 is none.
        temperature: See `Classifier`.
        priors: See `Classifier`.
        seed: See `Classifier`.
        batch_size: See `Classifier`.
        value_range: See `Classifier`.
    """

    method: ClassVar[str] = "likelihood"
    cost: ClassVar[str] = (
        "classes * (3 steps + 1), twice that with guidance, and classes * (steps + 1) * probes "
        "vector-Jacobian products; what the adaptive solver took is counted"
    )
    draw_arguments: ClassVar[tuple[str, ...]] = ("probes",)

    backbone: Any = option("digits-ddpm", ANYTHING, positional=True)
    steps: int = option(25, STEPS)
    solver: Literal["heun3", "heun", "adaptive"] = option(
        "heun3", one_of("heun3", "heun", "adaptive")
    )
    rtol: float = option(1e-4, number(1e-12, 1))
    atol: float = option(1e-4, number(1e-12, 1))
    probes: int = option(1, DRAWS)
    probe: Literal["rademacher", "gaussian"] = option(
        "rademacher", one_of("rademacher", "gaussian")
    )
    trace: Literal["hutchinson", "exact"] = option("hutchinson", one_of("hutchinson", "exact"))
    paired: bool = option(True, FLAG)
    dequantise: bool = option(True, FLAG)
    s_range: tuple[float, float] | None = option(None, interval(1e-9, 1e9) | NOTHING)
    template: str | None = option(None, TEMPLATES)
    guidance: float = option(1.0, GUIDANCE)

    def count_evals(self, n_labels: int) -> int:
        """`classes * (3 steps + 1)`, or 2 for 3 with `heun`; twice that with guidance."""
        each = EVALUATIONS.get(self.solver, 3) * self.steps + 1
        return n_labels * each * (1 if self.guidance == 1 else 2)

    def _check_options(self) -> None:
        if self.s_range is not None:
            low, high = (-2 * math.log(s) for s in reversed(self.s_range))
            if not self.backbone_.schedule.reaches(low, high):
                known = s_range(self.backbone_.schedule)
                raise InputError(
                    f"s_range must lie within the noise that {self.backbone_.name} was trained "
                    f"on, ({known[0]:.4g}, {known[1]:.4g}); got {self.s_range}."
                )
        d = int(torch.Size(self.backbone_.shape).numel())
        if self.trace == "exact" and d > EXACT_LIMIT:
            raise InputError(
                f"An exact trace takes one vector-Jacobian product per dimension; "
                f"{self.backbone_.name} has {d:,}, the limit is {EXACT_LIMIT:,}. "
                "Use trace='hutchinson'."
            )

    def _program(self, subject: Subject, classes: Classes, image: int) -> Program:
        rows = classes.rows[image]
        # The first probe of each class: its own where they are not paired.
        first = np.arange(len(rows)) * (0 if self.paired else self.probes)
        log_p = yield Jobs(rows, first, np.zeros(len(rows)))
        logits = log_p.mean(1)
        p, d = log_p.shape[1], int(torch.Size(self.backbone_.shape).numel())
        stderr = log_p.std(1, ddof=1) / math.sqrt(p) if p > 1 else np.full(len(logits), np.nan)
        details = {"stderr": stderr}
        step = self.backbone_.grey_step
        if step is None:
            details["nats_per_dim"] = -logits / d
        else:
            details["bits_per_dim"] = -logits / (d * math.log(2)) - math.log2(step)
        return Outcome(logits, details)

    def _evaluate(self, batch: Batch, classes: Classes) -> Results:
        """log p of each row by each probe, `[n, probes]`."""
        keys, model = batch.keys, self.model_
        x, cond = batch.x_0, classes.of(batch)
        if self.dequantise and model.grey_step is not None:
            noise = np.stack([dequantisation(k, model.shape) for k in keys])
            x = x + model.grey_step * torch.from_numpy(noise).to(x)
        probes = None
        if self.trace == "hutchinson":
            probes = self._probes(keys, batch.draw, x)
        # Adaptive steps are common to the rows of a solve, so each row is solved by itself.
        size = 1 if self.solver == "adaptive" else len(batch)
        found = [
            log_density(
                model,
                x[i : i + size],
                cond[slice(i, i + size)],
                None if probes is None else probes[i : i + size],
                steps=self.steps,
                solver=self.solver,
                rtol=self.rtol,
                atol=self.atol,
                limits=self.s_range,
            )
            for i in range(0, len(batch), size)
        ]
        values = np.concatenate([one.log_p.cpu().numpy() for one in found])
        cost = [np.repeat([getattr(one, c) for one in found], size) for c in ("evals", "vjps")]
        return Results(values, *cost)

    def _probes(self, keys: list[int], first: np.ndarray, like: Tensor) -> Tensor:
        """`[n, p, *shape]`, from the number of each row's first probe."""
        vectors = [
            [probe(key, int(f) + p, self.backbone_.shape, self.probe) for p in range(self.probes)]
            for key, f in zip(keys, first, strict=True)
        ]
        return torch.from_numpy(np.array(vectors)).to(like)
