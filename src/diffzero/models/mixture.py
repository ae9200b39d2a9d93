"""The closed-form oracle: class-conditional mixtures of isotropic Gaussians.

With `x_0 | c ~ sum_j w_cj N(mu_cj, s_cj^2 I)` everything is known. At time t,

    x_t | c, j ~ N(alpha mu_cj, v_cj I),   v_cj = alpha^2 s_cj^2 + sigma^2,

so the responsibilities `r_cj(x_t)`, the score, the density and the posterior have closed forms,
and every method that estimates one of them can be tested against the truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import InputError
from ..schedule import Schedule
from .backbone import Backbone
from .codec import Codec
from .conditioner import Condition, Conditioner
from .denoiser import Denoiser, Prediction


class RawPixels(Codec):
    """Pixels as they are, in float64, of any number of channels."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape, self.image_size = shape, shape[-1]

    def encode(self, images: Tensor) -> Tensor:
        """The pixels themselves."""
        return images

    def decode(self, x: Tensor) -> Tensor:
        """The pixels themselves."""
        return x


class Weights(Conditioner):
    """A condition is a row of weights on classes: one-hot for a class, uniform for none.

    A soft row mixes the classes' densities, `r_cj ~ w_c p(c, j, x_t)`.
    """

    def __init__(self, classes: list[str], device: torch.device) -> None:
        self.classes: list[str] = classes
        self.device = device

    def embed(self, prompts: list[str]) -> Condition:
        """One-hot rows for class names, the uniform row for the empty prompt."""
        k = len(self.classes)
        rows = torch.zeros(len(prompts), k, dtype=torch.float64, device=self.device)
        for row, prompt in zip(rows, prompts, strict=True):
            if prompt == "":
                row[:] = 1 / k
            elif prompt in self.classes:
                row[self.classes.index(prompt)] = 1
            else:
                raise InputError(
                    f"The mixture has no class {prompt!r}; it has {', '.join(self.classes)}."
                )
        return Condition({"weights": rows})


class ExactDenoiser(Denoiser):
    """`E[x_0|x_t] = sum_cj r_cj (mu_cj + alpha s_cj^2 / v_cj (x_t - alpha mu_cj))`.

    Args:
        weights: `[k, m]`.
        means: `[k, m, c, h, w]`.
        stds: `[k, m]`.
        schedule: Any.
    """

    dtype = torch.float64

    def __init__(self, weights: Tensor, means: Tensor, stds: Tensor, schedule: Schedule) -> None:
        self.schedule, self.device = schedule, means.device
        self.k, self.m = weights.shape
        self.log_w = weights.double().log().flatten()  # [k m]
        self.mu = means.double().flatten(2).flatten(0, 1)  # [k m, d]
        self.var = stds.double().square().flatten()  # [k m]

    def __call__(self, x_t: Tensor, t: Tensor, cond: Condition) -> Prediction:
        """The exact prediction."""
        alpha, sigma = self.schedule(t)
        flat = x_t.double().flatten(1)  # [b, d]
        a, var = alpha[:, None], alpha[:, None] ** 2 * self.var + sigma[:, None] ** 2
        w = cond.tensors["weights"]
        # A weight of zero has no finite gradient through its logarithm, and needs none.
        log_w = torch.where(w > 0, torch.where(w > 0, w, 1.0).log(), -math.inf)
        prior = log_w.repeat_interleave(self.m, 1)
        r = torch.softmax(self._log_joint(flat, a, var) + prior, 1)  # [b, k m]
        shrink = r * a * self.var / var
        x = (r - shrink * a) @ self.mu + shrink.sum(1, keepdim=True) * flat
        return Prediction(x_t, x.view_as(x_t), alpha, sigma, "sample")

    def _log_joint(self, flat: Tensor, alpha: Tensor | float, var: Tensor) -> Tensor:
        """`log w_cj + log N(x; alpha mu_cj, var_cj I)` `[b, k m]`."""
        distance = (
            flat.square().sum(1, keepdim=True)
            - 2 * alpha * flat @ self.mu.T
            + alpha**2 * self.mu.square().sum(1)
        )
        d = flat.shape[1]
        return self.log_w - 0.5 * distance / var - 0.5 * d * torch.log(2 * math.pi * var)

    def log_prob(self, x: Tensor, s: float = 0.0) -> Tensor:
        """`log p(x | c)` in nats, `[b, k]`, see `MixtureBackbone.log_prob`."""
        joint = self._log_joint(x.double().flatten(1), 1.0, self.var + s**2)
        return torch.logsumexp(joint.view(len(x), self.k, self.m), 2)

    def log_terminal(self, xbar: Tensor, s_max: float, cond: Condition) -> Tensor:
        """`log p(xbar(s_max) | c)` `[b]` of the condition's own row: the exact end of the flow."""
        return torch.logsumexp(self.log_prob(xbar, s_max) + cond.tensors["weights"].log(), 1)


class MixtureBackbone(Backbone):
    """Exact model of a mixture for each class.

    Args:
        weights: `[k, m]`, each row sums to 1.
        means: `[k, m, c, h, w]`, pixels in [-1, 1].
        stds: `[k, m]`, positive.
        schedule: Any.
        classes: Names of the k classes; "0", "1", ... if None.

    Raises:
        InputError: shapes that do not fit each other, or rows that do not sum to 1.
    """

    def __init__(
        self,
        weights: Tensor,
        means: Tensor,
        stds: Tensor,
        schedule: Schedule,
        classes: Sequence[str] | None = None,
    ) -> None:
        k, m = weights.shape
        if means.shape[:2] != (k, m) or means.ndim != 5 or stds.shape != (k, m):
            raise InputError(
                f"weights [k, m], means [k, m, c, h, w] and stds [k, m] disagree: "
                f"{list(weights.shape)}, {list(means.shape)}, {list(stds.shape)}."
            )
        if not torch.allclose(weights.sum(1).double(), torch.ones(k, dtype=torch.float64)):
            raise InputError("Each row of weights must sum to 1.")
        names = [str(i) for i in range(k)] if classes is None else list(classes)
        self._exact = ExactDenoiser(weights, means, stds, schedule)
        codec, table = RawPixels(tuple(means.shape[2:])), Weights(names, means.device)
        super().__init__("mixture", codec, table, self._exact, template="{}")

    def log_prob(self, x: Tensor, s: float = 0.0) -> Tensor:
        """`log p(x | c)` in nats, `[b, k]`, of images `[b, *shape]`, clean or with noise of std s.

        At s > 0 it is the density of `xbar = x_t / alpha` where `sigma / alpha = s`.
        """
        return self._exact.log_prob(x, s)

    def posterior(self, x: Tensor) -> Tensor:
        """`p(c | x)` under equal priors, `[b, k]`."""
        return torch.softmax(self.log_prob(x), 1)
