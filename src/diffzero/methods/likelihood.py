"""Exact likelihood (Algorithm 1): the class under which the image is most probable.

    logit_c = log p(x | c) = log p_T(xbar(s_max)) + integral of tr(d eps_hat / d xbar) ds

along the probability-flow ODE `d xbar / ds = eps_hat(x_t, t, c)` that starts at the image; see
`diffzero.ode`. The trace is Hutchinson's `v^T J v`, with the same probes v for every class: the
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
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..classifier import Progress
from ..errors import InputError
from ..noise import dequantisation, probe
from ..ode import Terminal, log_density
from .common import RowMethod, Rows

EXACT_LIMIT = 1024  # dimensions up to which an exact trace is accepted


class Likelihood(RowMethod):
    """Exact log-likelihood of every class by the probability-flow ODE.

    Cost: `classes * (2 steps + 1)` evaluations an image, twice that with guidance, and
    `classes * (steps + 1) * probes` vector-Jacobian products; adaptive solvers report theirs.

    A logit is `log p(x | c)` in nats at the noise level s_min. `details` holds `bits_per_dim` (or
    `nats_per_dim` of latents) and `stderr`, the standard error over probes in nats.

    Args:
        backbone: A diffusion backbone, or what `diffzero.load` takes.
        steps: Intervals of the fixed grid, even in log s.
        solver: `heun` (fixed steps) or `adaptive` (Dormand-Prince of torchdiffeq; each image and
            class is a solve, so that a score does not depend on its neighbours).
        rtol: Of the adaptive solver.
        atol: Of the adaptive solver.
        probes: Hutchinson probes an image.
        probe: `rademacher` or `gaussian`.
        trace: `hutchinson`, or `exact` for inputs of at most 1,024 dimensions.
        paired: All classes of an image see the same probes. False reproduces the paper's result.
        dequantise: Add uniform noise within a grey step; only pixel models have any.
        s_range: `(s_min, s_max)` of sigma / alpha; the schedule's own range if None.
        template: One prompt with `{}` for the label; the backbone's own if None.
        guidance: Scale of classifier-free guidance; 1 is none.
        temperature: See `Classifier`.
        priors: See `Classifier`.
        seed: See `Classifier`.
        batch_size: See `Classifier`.
        value_range: See `Classifier`.
    """

    method = "likelihood"

    def __init__(
        self,
        backbone: Any = "digits-ddpm",
        *,
        steps: int = 25,
        solver: Literal["heun", "adaptive"] = "heun",
        rtol: float = 1e-4,
        atol: float = 1e-4,
        probes: int = 1,
        probe: Literal["rademacher", "gaussian"] = "rademacher",
        trace: Literal["hutchinson", "exact"] = "hutchinson",
        paired: bool = True,
        dequantise: bool = True,
        s_range: tuple[float, float] | None = None,
        template: str | None = None,
        guidance: float = 1.0,
        temperature: float | None = None,
        priors: Mapping[str, float] | Sequence[float] | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        self.backbone = backbone
        self.steps = steps
        self.solver = solver
        self.rtol = rtol
        self.atol = atol
        self.probes = probes
        self.probe = probe
        self.trace = trace
        self.paired = paired
        self.dequantise = dequantise
        self.s_range = s_range
        self.template = template
        self.guidance = guidance
        self.temperature = temperature
        self.priors = priors
        self.seed = seed
        self.batch_size = batch_size
        self.value_range = value_range

    def count_evals(self, n_labels: int) -> int:
        """`classes * (2 steps + 1)`, twice that with guidance; what Heun takes."""
        return n_labels * (2 * self.steps + 1) * self._per_call()

    def _vjps(self, n_labels: list[int]) -> np.ndarray:
        each = (self.steps + 1) * self._traces()
        return np.array([n * each for n in n_labels])

    def _traces(self) -> int:
        """Vector-Jacobian products of a trace."""
        if self.trace == "exact":
            return int(torch.Size(self.backbone_.shape).numel())
        return self.probes

    def _check_options(self) -> None:
        self._check_choices(
            solver=("heun", "adaptive"),
            probe=("rademacher", "gaussian"),
            trace=("hutchinson", "exact"),
        )
        self._check_at_least_one("steps", "probes")
        if self.s_range is not None and not 0 < self.s_range[0] < self.s_range[1]:
            raise InputError(f"s_range takes 0 < s_min < s_max; got {self.s_range}.")
        d = int(torch.Size(self.backbone_.shape).numel())
        if self.trace == "exact" and d > EXACT_LIMIT:
            raise InputError(
                f"An exact trace takes one vector-Jacobian product a dimension; "
                f"{self.backbone_.name} has {d:,}, the limit is {EXACT_LIMIT:,}. "
                "Use trace='hutchinson'."
            )

    def _terminal(self) -> Terminal | None:
        """The density at s_max: a unit Gaussian's, unless the backbone knows its own."""
        return getattr(self.backbone_, "terminal", None)

    def _values(self, rows: Rows, progress: Progress | None) -> np.ndarray:
        """`[r, p]`: log p by each probe, then evaluations and vjps as counted `[r, p + 2]`."""
        if self.solver == "heun":
            return self._solve(rows, np.arange(len(rows.image)), progress)
        # Step sizes are common to the rows of a solve, so each row is solved by itself.
        parts = [self._solve(rows, np.array([i]), progress) for i in range(len(rows.image))]
        return np.concatenate(parts)

    def _solve(self, rows: Rows, index: np.ndarray, progress: Progress | None) -> np.ndarray:
        at = torch.from_numpy(index).to(rows.x_0.device)
        backbone = self.backbone_
        x = rows.x_0[at]
        keys = [rows.keys[i] for i in index]
        if self.dequantise and backbone.grey_step is not None:
            noise = np.stack([dequantisation(k, backbone.shape) for k in keys])
            x = x + backbone.grey_step * torch.from_numpy(noise).to(x)
        vectors = None
        if self.trace == "hutchinson":
            vectors = self._probes(keys, rows.column[index], x)
        result = log_density(
            backbone,
            x,
            rows.cond[at],
            vectors,
            steps=self.steps,
            solver=self.solver,
            rtol=self.rtol,
            atol=self.atol,
            guidance=self.guidance,
            empty=self._empty,
            limits=self.s_range,
            terminal=self._terminal(),
        )
        if progress is not None:
            progress(result.evals * len(index))
        cost = np.tile([result.evals, result.vjps], (len(index), 1))
        return np.concatenate([result.log_p.cpu().numpy(), cost], 1)

    def _probes(self, keys: list[int], column: np.ndarray, like: Tensor) -> Tensor:
        """`[r, p, *shape]`: those of the image, or, unpaired, those of image and class."""
        first = np.zeros_like(column) if self.paired else column * self.probes
        vectors = [
            [probe(key, int(f) + p, self.backbone_.shape, self.probe) for p in range(self.probes)]
            for key, f in zip(keys, first, strict=True)
        ]
        return torch.from_numpy(np.array(vectors)).to(like)

    def _combine(self, values: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        log_p, evals, vjps = values[:, :-2], values[:, -2], values[:, -1]
        logits = log_p.mean(1)
        p, d = log_p.shape[1], int(torch.Size(self.backbone_.shape).numel())
        stderr = log_p.std(1, ddof=1) / math.sqrt(p) if p > 1 else np.full(len(logits), np.nan)
        details = {"stderr": stderr, "evals": evals, "vjps": vjps}
        step = self.backbone_.grey_step
        if step is None:
            details["nats_per_dim"] = -logits / d
        else:
            details["bits_per_dim"] = -logits / (d * math.log(2)) - math.log2(step)
        return logits, details
