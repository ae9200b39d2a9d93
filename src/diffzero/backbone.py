"""Backbones: a frozen network with its encoders, seen as one function.

A backbone answers one question: given `x_t`, the time and a condition, what are the expected
clean image and the expected noise? Networks are trained to predict eps, x_0, v or a flow
velocity; `Prediction` converts each here, once, and nothing downstream knows which it was.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .errors import InputError
from .schedule import Schedule

Parametrisation = Literal["epsilon", "sample", "v_prediction", "flow"]
PARAMETRISATIONS = ("epsilon", "sample", "v_prediction", "flow")


class Prediction:
    """What a network says about `x_t = alpha x_0 + sigma eps`: E[x_0 | x_t] and E[eps | x_t].

    Both are worked out when asked for. With `o` the network's output, `n = alpha^2 + sigma^2`
    and `m = alpha + sigma`:

    | `o` is                          | x                         | eps                       |
    |---------------------------------|---------------------------|---------------------------|
    | epsilon                         | (x_t - sigma o) / alpha   | o                         |
    | sample                          | o                         | (x_t - alpha o) / sigma   |
    | v = alpha eps - sigma x_0       | (alpha x_t - sigma o) / n | (sigma x_t + alpha o) / n |
    | flow = eps - x_0                | (x_t - sigma o) / m       | (x_t + alpha o) / m       |

    Only `epsilon` divides by alpha and only `sample` by sigma: at zero terminal SNR (alpha = 0)
    a v network's x is finite.

    Args:
        x_t: Noisy input `[b, ...]`.
        output: The network's output, same shape.
        alpha: Signal scale, `[b]`.
        sigma: Noise scale, `[b]`.
        parametrisation: What the output is.
    """

    def __init__(
        self,
        x_t: Tensor,
        output: Tensor,
        alpha: Tensor,
        sigma: Tensor,
        parametrisation: Parametrisation,
    ) -> None:
        shape = (-1,) + (1,) * (x_t.ndim - 1)
        self._x_t, self._out, self._kind = x_t, output, parametrisation
        self._alpha = alpha.to(output.dtype).view(shape)
        self._sigma = sigma.to(output.dtype).view(shape)

    @property
    def x(self) -> Tensor:
        """E[x_0 | x_t]."""
        alpha, sigma = self._alpha, self._sigma
        match self._kind:
            case "epsilon":
                return (self._x_t - sigma * self._out) / alpha
            case "sample":
                return self._out
            case "v_prediction":
                return (alpha * self._x_t - sigma * self._out) / (alpha**2 + sigma**2)
            case _:
                return (self._x_t - sigma * self._out) / (alpha + sigma)

    @property
    def eps(self) -> Tensor:
        """E[eps | x_t]."""
        alpha, sigma = self._alpha, self._sigma
        match self._kind:
            case "epsilon":
                return self._out
            case "sample":
                return (self._x_t - alpha * self._out) / sigma
            case "v_prediction":
                return (sigma * self._x_t + alpha * self._out) / (alpha**2 + sigma**2)
            case _:
                return (self._x_t + alpha * self._out) / (alpha + sigma)

    def guided(self, guidance: float) -> Prediction:
        """`o_u + g (o_c - o_u)` of a batch whose first half is conditional, its second half not.

        x and eps are affine in the output with the same x_t, so this is guidance of both, and
        unlike guidance of eps it needs no division by alpha.
        """
        n = len(self._out) // 2
        o_c, o_u = self._out.chunk(2)
        out = o_u + guidance * (o_c - o_u)
        alpha, sigma = self._alpha[:n].flatten(), self._sigma[:n].flatten()
        return Prediction(self._x_t[:n], out, alpha, sigma, self._kind)


@dataclass(frozen=True)
class Condition:
    """What the network is conditioned on: named tensors with one row a prompt.

    Indexing with a tensor of row numbers gives the condition of a batch.
    """

    tensors: dict[str, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, rows: Tensor | slice) -> Condition:
        return Condition({k: v[rows] for k, v in self.tensors.items()})

    def __add__(self, other: Condition) -> Condition:
        return Condition({k: torch.cat([v, other.tensors[k]]) for k, v in self.tensors.items()})


@dataclass(frozen=True)
class Limits:
    """How a checkpoint's scheduler keeps a predicted x_0 within its range.

    Attributes:
        clip: Clamp to `[-clip, clip]`; None leaves x_0 alone.
        quantile: Threshold dynamically: s is this quantile of an image's |x_0|, at least 1 and
            at most `most`, and x_0 becomes `clamp(x_0, -s, s) / s`. It rules out `clip`.
        most: The largest s.

    References:
        Saharia et al., 2022, section 2.3. https://arxiv.org/abs/2205.11487
    """

    clip: float | None = None
    quantile: float | None = None
    most: float = 1.0

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Limits:
        """As the config of a diffusers scheduler says."""
        if config.get("thresholding"):
            ratio = config.get("dynamic_thresholding_ratio", 0.995)
            return cls(quantile=ratio, most=config.get("sample_max_value", 1.0))
        return cls(config.get("clip_sample_range", 1.0) if config.get("clip_sample") else None)

    def __call__(self, x: Tensor) -> Tensor:
        """`x_0` `[b, ...]` within the limits."""
        if self.quantile is not None:
            # Half precision has neither quantiles nor, on a CPU, clamps with tensors.
            flat = x.flatten(1).to(torch.promote_types(x.dtype, torch.float32))
            s = torch.quantile(flat.abs(), self.quantile, dim=1).clamp(1, self.most)[:, None]
            return (flat.clamp(-s, s) / s).view(x.shape).to(x.dtype)
        return x if self.clip is None else x.clamp(-self.clip, self.clip)


class Backbone(ABC):
    """A frozen diffusion network with its encoders.

    Attributes:
        name: For messages and records.
        schedule: alpha and sigma of time.
        image_size: Side in pixels that `encode` wants.
        shape: Of `x_0`, without the batch axis.
        device: Where the network is.
        dtype: Of its weights and of `x_t`.
        template: Prompt of a class when the user names none.
        temperatures: Fitted temperatures by method and number of draws, if the card has them.
        grey_step: Width of a grey step in [-1, 1] of a pixel model's images; None in a latent
            space.
        restrict: What samplers do to a predicted x_0, guidance included: clamp it, threshold it
            or leave it alone, as the checkpoint's scheduler does.
        vocabulary: Words the model was trained with, or None when it knows more than can be
            listed.
    """

    name: str
    schedule: Schedule
    image_size: int
    shape: tuple[int, ...]
    device: torch.device
    dtype: torch.dtype
    template: str = "a photo of a {}"
    temperatures: dict[str, dict[int, float]] = {}
    grey_step: float | None = None
    restrict: Limits = Limits()
    vocabulary: frozenset[str] | None = None

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Images `[b, 3, s, s]` in [-1, 1] to `x_0` `[b, *shape]`."""

    @abstractmethod
    def decode(self, x: Tensor) -> Tensor:
        """`x_0` `[b, *shape]` to images `[b, 3, s, s]` in [-1, 1]."""

    @abstractmethod
    def embed(self, prompts: list[str]) -> Condition:
        """One condition row a prompt; the empty prompt is the unconditional model.

        Raises:
            InputError: a prompt that the model cannot take.
        """

    @abstractmethod
    def forward(self, x_t: Tensor, t: Tensor, cond: Condition) -> Prediction:
        """One network evaluation a row: `x_t` `[b, *shape]`, `t` `[b]` in [0, 1]."""

    def mix(self, cond: Condition, weights: Tensor) -> Condition:
        """Soft conditions `sum_c w_c cond_c`, one row for each row of weights.

        Differentiable in the weights. Every tensor of the condition is averaged.

        Args:
            cond: Conditions of the k classes.
            weights: `[b, k]`, rows on the simplex.
        """
        return Condition(
            {
                name: torch.einsum("bk,k...->b...", weights.to(rows.dtype), rows)
                for name, rows in cond.tensors.items()
            }
        )

    def signature(self, prompts: list[str]) -> list[object]:
        """Equal for two prompts exactly when the model cannot tell them apart."""
        return list(prompts)

    def default_batch_size(self) -> int:
        """Rows per network call when the user names no number."""
        numel = int(torch.Size(self.shape).numel())
        return max(8, min(64, 2**15 // numel))


class TextBackbone(Backbone):
    """A backbone that reads text: what attention maps and inversion need beside the rest.

    Attributes:
        first_token: Place of a prompt's first own token in the condition: 1 after a start token.
        room: Own tokens that fit a prompt, special ones apart.
    """

    first_token: int
    room: int

    @abstractmethod
    def pieces(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text by itself, without special tokens."""

    @abstractmethod
    def token_vectors(self, ids: list[int]) -> Tensor:
        """Input embeddings of token ids, `[n, d]`."""

    @abstractmethod
    def embed_tokens(
        self,
        rows: list[list[int]],
        vectors: Tensor | None = None,
        places: list[int] | None = None,
    ) -> Condition:
        """Conditions of prompts given as token ids, special tokens and padding added.

        Args:
            rows: Ids of each prompt, at most `room` of them, as `pieces` gives.
            vectors: `[n, d]`, input embeddings that replace one token of each row; gradients flow
                to them.
            places: Which token of each row they replace.

        Raises:
            InputError: a row of more than `room` ids.
        """

    @abstractmethod
    def text_states(self, cond: Condition) -> Tensor:
        """The text encoder's last hidden states within a condition, `[n, window, d]`."""

    @abstractmethod
    def attention_modules(self) -> dict[str, Any]:
        """The network's attention over text, by name, in the order of `named_modules`."""


def as_column(scale: Tensor, like: Tensor) -> Tensor:
    """One number a row `[b]`, shaped and typed to multiply `like` `[b, ...]`."""
    return scale.to(like.dtype).view(-1, *[1] * (like.ndim - 1))


def guided(
    backbone: Backbone, x_t: Tensor, t: Tensor, cond: Condition, empty: Condition, guidance: float
) -> Prediction:
    """Classifier-free guidance `eps_u + g (eps_c - eps_u)`: two evaluations a row.

    References:
        Ho and Salimans, Classifier-Free Diffusion Guidance, 2022.
        https://arxiv.org/abs/2207.12598
    """
    both = backbone.forward(torch.cat([x_t, x_t]), torch.cat([t, t]), cond + empty)
    return both.guided(guidance)


def check_parametrisation(value: str) -> Parametrisation:
    """The parametrisation of this name.

    Raises:
        InputError: an unknown one.
    """
    if value not in PARAMETRISATIONS:
        raise InputError(
            f"prediction type must be one of {', '.join(PARAMETRISATIONS)}; got {value!r}."
        )
    return value  # type: ignore[return-value]
