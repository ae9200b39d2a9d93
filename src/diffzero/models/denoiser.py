"""Denoisers: the network as one function, `(x_t, t, condition) -> E[x_0|x_t], E[eps|x_t]`.

Networks are trained to predict eps, x_0, v or a flow velocity; `Prediction` converts each here,
once, and nothing downstream knows which it was. Guidance is a wrapper, `Guided`, which owns the
factor of two in the number of evaluations.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..errors import InputError
from ..options import check_value, one_of
from ..schedule import DiscreteSchedule, RectifiedFlowSchedule, Schedule
from .codec import clamp
from .conditioner import Condition
from .limits import check_values

Parametrisation = Literal["epsilon", "sample", "v_prediction", "flow"]
PARAMETRISATIONS = get_args(Parametrisation)
Target = Literal["eps", "x", "v"]
OTHER_NOISE = {  # how names of schedulers begin, and what the networks that they belong to are
    "LCM": "distilled to draw in few steps (a latent consistency model, or its LoRA)",
    "TCD": "distilled to draw in few steps (trajectory consistency, or its LoRA)",
    "CMStochastic": "distilled to draw in one step (a consistency model)",
    "SCM": "distilled to draw in few steps (Sana Sprint)",
    "EDM": "trained with EDM's preconditioning, as Playground 2.5 is",
    "CosineDPMSolver": "trained with EDM's preconditioning, as Stable Audio is",
    "Flow": "trained by flow matching",
}
WITHOUT_BETAS = (  # of their own, or with betas that are changed afterwards
    *OTHER_NOISE, "RePaint", "VQDiffusion", "IPNDM", "ScoreSde", "KarrasVe", "UnCLIP", "CogVideoX",
    "DDPMWuerstchen", "Helios", "LTX",
)  # fmt: skip


def as_column(scale: Tensor, like: Tensor) -> Tensor:
    """One number per row `[b]`, shaped and typed to multiply `like` `[b, ...]`."""
    return scale.to(like.dtype).view(-1, *[1] * (like.ndim - 1))


class Prediction:
    """What a network says about `x_t = alpha x_0 + sigma eps`: E[x_0 | x_t] and E[eps | x_t].

    Each is worked out when asked for. With `o` the network's output, `n = alpha^2 + sigma^2`
    and `m = alpha + sigma`:

    | `o` is                          | x                         | eps                       |
    |---------------------------------|---------------------------|---------------------------|
    | epsilon                         | (x_t - sigma o) / alpha   | o                         |
    | sample                          | o                         | (x_t - alpha o) / sigma   |
    | v = alpha eps - sigma x_0       | (alpha x_t - sigma o) / n | (sigma x_t + alpha o) / n |
    | flow = eps - x_0                | (x_t - sigma o) / m       | (x_t + alpha o) / m       |

    Only `epsilon` divides by alpha and only `sample` by sigma: at zero terminal SNR (alpha = 0)
    a v network's x is finite. Half precision is left behind here: numbers are float32 at least.

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
        wide = torch.promote_types(output.dtype, torch.float32)
        self._x_t, self._out, self._kind = x_t.to(wide), output.to(wide), parametrisation
        self._alpha, self._sigma = (as_column(s, self._out) for s in (alpha, sigma))

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

    @property
    def v(self) -> Tensor:
        """E[alpha eps - sigma x_0 | x_t]."""
        if self._kind == "v_prediction":
            return self._out
        return self._alpha * self.eps - self._sigma * self.x

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
            x = x + 0 * x  # infinity becomes NaN
            # Half precision has neither quantiles nor, on a CPU, clamps with tensors.
            flat = x.flatten(1).to(torch.promote_types(x.dtype, torch.float32))
            s = torch.quantile(flat.abs(), self.quantile, dim=1).clamp(1, self.most)[:, None]
            return (flat.clamp(-s, s) / s).view(x.shape).to(x.dtype)
        return x if self.clip is None else clamp(x, self.clip)


class Denoiser(ABC):
    """A frozen network as a function of noisy input, time and condition.

    Attributes:
        schedule: alpha and sigma of time.
        device: Where the network is.
        dtype: Of its weights and of `x_t`.
        limits: What samplers do to a predicted x_0, guidance included: clamp it, threshold it or
            leave it alone, as the checkpoint's scheduler does.
        cost: Network evaluations per row of a call.
    """

    schedule: Schedule
    device: torch.device
    dtype: torch.dtype
    limits: Limits = Limits()
    cost: int = 1

    @abstractmethod
    def __call__(self, x_t: Tensor, t: Tensor, cond: Condition) -> Prediction:
        """The prediction for `x_t` `[b, *shape]` at times `t` `[b]` in [0, 1]."""

    def rounded(self, t: Tensor) -> Tensor:
        """The times that the network really reads when it is called with `t`.

        Most read time in float32. One that casts it to half precision first sees another time
        than it was told, and its input must have the noise of that one.
        """
        return t

    def log_terminal(self, xbar: Tensor, s_max: float, cond: Condition) -> Tensor:
        """`log N(xbar; 0, (1 + s_max^2) I)` `[b]`: data of unit variance, all but drowned in
        noise."""
        var = 1 + s_max**2
        flat = xbar.flatten(1).double()
        return -0.5 * (flat.square().sum(1) / var + flat.shape[1] * math.log(2 * math.pi * var))


class DiscreteNetwork(Denoiser):
    """A diffusers network on discrete steps, called at the fractional step `T t - 1`.

    Channels of the output beyond those of `x_t` are a variance for samplers that learned one; no
    method needs it, and it is dropped before anything else happens, so that guidance never mixes
    variances.

    Args:
        network: Its weights are used in place, not copied.
        scheduler: Config of any diffusers scheduler with betas: samplers differ, the noise they
            undo does not.
        parametrisation: What the network predicts; read from the scheduler's config if None.

    Raises:
        InputError: a scheduler without betas, an unknown parametrisation, or eps prediction at
            zero terminal SNR, which would divide by zero.
    """

    layout: torch.memory_format = torch.contiguous_format

    def __init__(
        self, network: Any, scheduler: Mapping[str, Any], parametrisation: str | None = None
    ) -> None:
        self.network = network.eval().to(memory_format=self.layout)
        self.schedule: DiscreteSchedule = discrete_schedule(scheduler)
        kind = parametrisation or scheduler.get("prediction_type", "epsilon")
        self.parametrisation = check_parametrisation(kind)
        if kind == "epsilon" and self.schedule.alphas_cumprod[-1] == 0:
            raise InputError(
                "The scheduler ends at zero signal (rescale_betas_zero_snr), where a network that "
                "predicts epsilon says nothing about the image. Use a v-prediction model, or the "
                "scheduler that this one was trained with."
            )
        self.limits = Limits.of(scheduler)
        self.device, self.dtype = network.device, network.dtype

    def __call__(self, x_t: Tensor, t: Tensor, cond: Condition) -> Prediction:
        """The network at the fractional step `T t - 1`, its variance dropped."""
        alpha, sigma = self.schedule(t)
        step = self.schedule.step(t).to(torch.float32)
        x = x_t.to(self.dtype).contiguous(memory_format=self.layout)
        output = self._run(x, step, cond)[:, : x_t.shape[1]]
        return Prediction(x_t, output, alpha, sigma, self.parametrisation)

    @abstractmethod
    def _run(self, x: Tensor, step: Tensor, cond: Condition) -> Tensor:
        """The network's raw output."""


class UNet(DiscreteNetwork):
    """A U-Net that attends to text, or that a family gives other conditions."""

    layout = torch.channels_last

    def _run(self, x: Tensor, step: Tensor, cond: Condition) -> Tensor:
        """The network's raw output under text."""
        text = cond.tensors["text"]
        return self.network(x, step, encoder_hidden_states=text, return_dict=False)[0]


class FlowNetwork(Denoiser):
    """A diffusers transformer that was trained by flow matching.

    Its input is `x_t = (1 - s) x_0 + s eps`, its output the velocity `eps - x_0`. Our time t is
    s itself: warped clocks and shifts of diffusers' flow schedulers are matters of sampling, and
    no table of theirs is used, since they cannot noise an image at any time.

    Args:
        network: Its weights are used in place, not copied.

    References:
        Esser et al., Scaling Rectified Flow Transformers, 2024. https://arxiv.org/abs/2403.03206
    """

    def __init__(self, network: Any) -> None:
        self.network = network.eval()
        self.schedule: Schedule = RectifiedFlowSchedule()
        self.device, self.dtype = network.device, network.dtype

    def __call__(self, x_t: Tensor, t: Tensor, cond: Condition) -> Prediction:
        """The network's velocity, converted with the noise of the time that it reads."""
        alpha, sigma = self.schedule(self.rounded(t))
        output = self._run(x_t.to(self.dtype), t, cond)
        return Prediction(x_t, output, alpha, sigma, "flow")

    @abstractmethod
    def _run(self, x: Tensor, s: Tensor, cond: Condition) -> Tensor:
        """The velocity `eps - x_0` at noise s `[b]`, float64 in [0, 1]."""


class Guided(Denoiser):
    """Classifier-free guidance `eps_u + g (eps_c - eps_u)`: two evaluations per row.

    Args:
        inner: The denoiser.
        empty: Its unconditional condition, one row.
        guidance: The scale g; 1 would be no guidance.

    References:
        Ho and Salimans, Classifier-Free Diffusion Guidance, 2022.
        https://arxiv.org/abs/2207.12598
    """

    def __init__(self, inner: Denoiser, empty: Condition, guidance: float) -> None:
        self.inner, self.empty, self.guidance = inner, empty, guidance
        self.schedule, self.limits = inner.schedule, inner.limits
        self.device, self.dtype = inner.device, inner.dtype
        self.cost = 2 * inner.cost

    def rounded(self, t: Tensor) -> Tensor:
        """As without guidance."""
        return self.inner.rounded(t)

    def log_terminal(self, xbar: Tensor, s_max: float, cond: Condition) -> Tensor:
        """As without guidance."""
        return self.inner.log_terminal(xbar, s_max, cond)

    def __call__(self, x_t: Tensor, t: Tensor, cond: Condition) -> Prediction:
        """Conditional and unconditional rows in one call."""
        blank = self.empty[torch.zeros(len(x_t), dtype=torch.long, device=x_t.device)]
        both = self.inner(torch.cat([x_t, x_t]), torch.cat([t, t]), cond + blank)
        return both.guided(self.guidance)


def discrete_schedule(config: Mapping[str, Any]) -> DiscreteSchedule:
    """The betas of a diffusers scheduler's config.

    Raises:
        InputError: a scheduler of another kind (flow matching, EDM, consistency), which has no
            betas that the network learned with.
    """
    from diffusers import DDPMScheduler

    name = str(config.get("_class_name", ""))
    kind = "Flow" if config.get("use_flow_sigmas") else name
    if config.get("timestep_type") == "continuous":  # the network is told log sigma / 4
        kind = "EDM"
    if kind.startswith(WITHOUT_BETAS) or not (
        config.get("beta_schedule") or config.get("trained_betas")
    ):
        said = next((text for key, text in OTHER_NOISE.items() if kind.startswith(key)), None)
        raise InputError(
            f"its scheduler, {name or 'of no class'}, has no betas that say how this network's "
            f"noise was scheduled{f'; it belongs to networks {said}' if said else ''}. Give the "
            "model the scheduler it was trained with, for example DDPMScheduler or "
            "DDIMScheduler, and no LoRA that changes what it predicts."
        )
    check_values("scheduler", "scheduler_config.json", config)
    # A scheduler in memory lists what nobody gave it, and from_config puts DDPM's in its place.
    betas = {key: value for key, value in config.items() if key != "_use_default_values"}
    return DiscreteSchedule(DDPMScheduler.from_config(betas).alphas_cumprod)


def check_parametrisation(value: str) -> Parametrisation:
    """The parametrisation of this name.

    Raises:
        InputError: an unknown one.
    """
    check_value("prediction type", value, one_of(*PARAMETRISATIONS))
    return value  # type: ignore[return-value]
