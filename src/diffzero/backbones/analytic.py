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

from ..backbone import Backbone, Condition, Prediction
from ..errors import InputError
from ..schedule import Schedule


class MixtureBackbone(Backbone):
    """Exact denoiser of a mixture for each class.

    A condition is a row of weights on classes: one-hot for a class, the uniform row for the empty
    prompt; a soft row mixes the classes' densities, `r_cj ~ w_c p(c, j, x_t)`.

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
        self.name = "mixture"
        self.schedule = schedule
        self.shape = tuple(means.shape[2:])
        self.image_size = self.shape[-1]
        self.device, self.dtype = means.device, torch.float64
        self.template = "{}"
        self.classes = [str(i) for i in range(k)] if classes is None else list(classes)
        self._log_w = weights.double().log().flatten()  # [k m]
        self._mu = means.double().flatten(2).flatten(0, 1)  # [k m, d]
        self._var = stds.double().square().flatten()  # [k m]
        self._k, self._m = k, m

    def encode(self, images: Tensor) -> Tensor:
        """The pixels themselves."""
        return images.double()

    def decode(self, x: Tensor) -> Tensor:
        """The pixels themselves."""
        return x

    def embed(self, prompts: list[str]) -> Condition:
        """One-hot rows for class names, the uniform row for the empty prompt."""
        rows = torch.zeros(len(prompts), self._k, dtype=torch.float64, device=self.device)
        for row, prompt in zip(rows, prompts, strict=True):
            if prompt == "":
                row[:] = 1 / self._k
            elif prompt in self.classes:
                row[self.classes.index(prompt)] = 1
            else:
                raise InputError(
                    f"The mixture has no class {prompt!r}; it has {', '.join(self.classes)}."
                )
        return Condition({"weights": rows})

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition) -> Prediction:
        """`E[x_0|x_t] = sum_cj r_cj (mu_cj + alpha s_cj^2 / v_cj (x_t - alpha mu_cj))`."""
        alpha, sigma = self.schedule(t)
        flat = x_t.double().flatten(1)  # [b, d]
        a, var = alpha[:, None], alpha[:, None] ** 2 * self._var + sigma[:, None] ** 2
        prior = cond.tensors["weights"].log().repeat_interleave(self._m, 1)
        r = torch.softmax(self._log_joint(flat, a, var) + prior, 1)  # [b, k m]
        shrink = r * a * self._var / var
        x = (r - shrink * a) @ self._mu + shrink.sum(1, keepdim=True) * flat
        return Prediction(x_t, x.view_as(x_t), alpha, sigma, "sample")

    def _log_joint(self, flat: Tensor, alpha: Tensor | float, var: Tensor) -> Tensor:
        """`log w_cj + log N(x; alpha mu_cj, var_cj I)` `[b, k m]`."""
        distance = (
            flat.square().sum(1, keepdim=True)
            - 2 * alpha * flat @ self._mu.T
            + alpha**2 * self._mu.square().sum(1)
        )
        d = flat.shape[1]
        return self._log_w - 0.5 * distance / var - 0.5 * d * torch.log(2 * math.pi * var)

    def log_prob(self, x: Tensor, s: float = 0.0) -> Tensor:
        """`log p(x | c)` in nats, `[b, k]`, of images `[b, *shape]`, clean or with noise of std s.

        At s > 0 it is the density of `xbar = x_t / alpha` where `sigma / alpha = s`.
        """
        joint = self._log_joint(x.double().flatten(1), 1.0, self._var + s**2)
        return torch.logsumexp(joint.view(len(x), self._k, self._m), 2)

    def terminal(self, xbar: Tensor, s: float, cond: Condition) -> Tensor:
        """`log p(xbar(s) | c)` `[b]` of the condition's own row: the exact end of the flow."""
        per_class = self.log_prob(xbar, s) + cond.tensors["weights"].log()
        return torch.logsumexp(per_class, 1)

    def posterior(self, x: Tensor) -> Tensor:
        """`p(c | x)` under equal priors, `[b, k]`."""
        return torch.softmax(self.log_prob(x), 1)
