"""`tiny-if`: text-conditional diffusion of pixels in DeepFloyd IF's format, Imagen's in small.

T5's encoder and the U-Net learn together (Imagen's T5 is frozen; one that has read nothing cannot
be) to predict the noise and, as IF does, the variance of a sampler's step, between its smallest
and largest sensible value:

    L = E ||eps - eps_theta(alpha_t x + sigma_t eps, t, text(c))||^2
        + E KL(q(x_{n-1} | x_n, x_0) || N(mu_theta, Sigma_theta)),   mu_theta without gradient,

each a mean over dimensions, with a caption drawn anew for every image and step, and the empty
caption one time in ten for classifier-free guidance. Nothing in diffzero reads the variance;
diffusers' own pipeline does.

References:
    Saharia et al., 2022. https://arxiv.org/abs/2205.11487
    Nichol and Dhariwal, 2021, equations 14 to 16 (the hybrid loss at its weight of 0.001 T).
    https://arxiv.org/abs/2102.09672
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import data
from ..data import all_captions, held_out
from ..models.deepfloyd import WINDOW
from . import loop, tokenizer
from .captions import Captions, jitter, mix, pick
from .compiled import Compiled
from .presets import preset_of
from .stable_diffusion import start_from

DROPOUT = 0.1  # of captions
GREY_STEP = 2 / 255


@dataclass(frozen=True)
class Preset:
    """What differs between two CPU cores and a GPU.

    Attributes:
        side: Of the images, in pixels. IF's own first stage works small, too, for the same reason:
            a quarter of the pixels, four times the images a second.
        channels: Of the U-Net's levels; the first does not attend, the others do.
        blocks: Residual blocks a level.
        attended: Width of the text that the U-Net attends to.
        width: Of the text encoder.
        layers: Of the text encoder; what tells "a red circle and a blue square" from its swap.
        batch: Images a step.
        fast: bfloat16 autocast and torch.compile.
    """

    side: int
    channels: tuple[int, ...]
    blocks: int
    attended: int
    width: int
    layers: int
    batch: int
    fast: bool

    def precision(self, device: str) -> AbstractContextManager:
        """Autocast where the preset is fast."""
        kind = torch.device(device).type
        return torch.autocast(kind, torch.bfloat16) if self.fast else nullcontext()


PRESETS = {
    "cpu": Preset(16, (32, 64, 96), 1, 64, width=96, layers=2, batch=64, fast=False),
    "gpu": Preset(32, (64, 96, 112), 2, 128, width=160, layers=3, batch=512, fast=True),
}


def components(tokens: Any, preset: Preset) -> dict[str, Any]:
    """The networks of the pipeline, untrained: unet and text_encoder, IF's own classes."""
    from diffusers import UNet2DConditionModel
    from transformers import T5Config, T5EncoderModel

    attending = len(preset.channels) - 1
    unet = UNet2DConditionModel(
        sample_size=preset.side,
        in_channels=3,
        out_channels=6,
        block_out_channels=preset.channels,
        down_block_types=(
            "ResnetDownsampleBlock2D",
            *("SimpleCrossAttnDownBlock2D",) * attending,
        ),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=(*("SimpleCrossAttnUpBlock2D",) * attending, "ResnetUpsampleBlock2D"),
        layers_per_block=preset.blocks,
        cross_attention_dim=preset.attended,
        encoder_hid_dim=preset.width,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        attention_head_dim=16,
        norm_num_groups=8,
        resnet_time_scale_shift="scale_shift",
        act_fn="gelu",
    )
    text = T5EncoderModel(
        T5Config(
            vocab_size=len(tokens),
            d_model=preset.width,
            d_kv=preset.width // 4,
            d_ff=2 * preset.width,
            num_layers=preset.layers,
            num_heads=4,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            pad_token_id=tokens.pad_token_id,
            eos_token_id=tokens.eos_token_id,
        )
    )
    return {"unet": unet, "text_encoder": text}


def noise_scheduler() -> Any:
    """IF's own: cosine betas, a learned variance, dynamic thresholding."""
    from diffusers import DDPMScheduler

    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        variance_type="learned_range",
        thresholding=True,
        dynamic_thresholding_ratio=0.95,
        sample_max_value=1.5,
        prediction_type="epsilon",
    )


def train(
    sources: Sequence[str],
    out: Path,
    minutes: float,
    *,
    device: str = "cpu",
    seed: int = 0,
    preset: str | None = None,
    init: str | None = None,
    log: Callable[[str], None] = print,
) -> None:
    """Train and save an `IFPipeline` folder under `out`; run again to resume.

    Args:
        sources: Data sets, see `data.load`; `diffzero scenes` makes one. Batches draw from each
            in equal parts, except that the digits get a fifth of what the others get.
        out: Folder of the pipeline; progress is kept in `out/.train`.
        minutes: Budget.
        device: `cpu` or `cuda`.
        seed: Of initial weights and batches.
        preset: A name in `PRESETS`; the one made for the device if None.
        init: Card name or folder of a model of this recipe and preset to start from; words that
            it knows keep their embeddings.
        log: Called with lines of progress.

    Raises:
        InputError: an unknown preset, data that cannot be read, weights that do not fit.
    """
    size = PRESETS[preset_of(device, preset)]
    torch.manual_seed(seed)
    sets = [lowered(held_out(data.load(s, size.side))[0]) for s in sources]
    tokens = tokenizer.build_t5(all_captions(sets), out / "tokenizer", WINDOW, loop.has_begun(out))
    nets = components(tokens, size)
    if init is not None:
        start_from(nets, init, tokens)
    nets = {k: m.to(device) for k, m in nets.items()}
    log("  ".join(f"{k} {sum(p.numel() for p in m.parameters()):,}" for k, m in nets.items()))
    nets["unet"].to(memory_format=torch.channels_last)
    denoiser = nn.ModuleDict({"unet": nets["unet"], "text": nets["text_encoder"]})
    result = loop.fit(
        denoiser,
        _loss(denoiser, sets, tokens, device, size),
        out / ".train" / "unet.pt",
        minutes,
        seed=seed,
        log=log,
        ema_decay=0.9995,
    )
    log(f"{result['steps']:.0f} steps in {result['seconds']:.0f} s, loss {result['loss']:.4f}")
    save(nets, tokens, out)


def lowered(labelled: data.Labelled) -> data.Labelled:
    """The set with its words as `DeepFloyd` and diffusers will read them: in lower case."""
    return replace(labelled, names=[[n.lower() for n in group] for group in labelled.names])


def _loss(
    denoiser: nn.ModuleDict, sets: list[data.Labelled], tokens: Any, device: str, preset: Preset
) -> Callable[[torch.Generator], Tensor]:
    unet: Any = Compiled(denoiser["unet"]) if preset.fast else denoiser["unet"]
    batch, weights, captions = preset.batch, mix(sets), Captions(sets, tokens)
    pixels = [torch.from_numpy(s.images).permute(0, 3, 1, 2) for s in sets]
    labels = [
        torch.from_numpy(s.labels) + int(k)
        for s, k in zip(sets, captions.first_class, strict=False)
    ]
    bars = noise_scheduler().alphas_cumprod

    def loss(generator: torch.Generator) -> Tensor:
        index = pick([len(p) for p in pixels], weights, batch, generator)
        parts = []
        for own, rows, labelled in zip(pixels, index, sets, strict=True):
            x = own[rows].float() / 127.5 - 1
            parts.append(jitter(x, generator) if labelled.name == "digits" else x)
        x = torch.cat(parts)
        x += (torch.rand(x.shape, generator=generator) - 0.5) * GREY_STEP
        classes = torch.cat([y[i] for y, i in zip(labels, index, strict=True)])
        rows = captions.draw(classes, generator)
        rows[torch.rand(batch, generator=generator) < DROPOUT] = captions.empty
        unique, inverse = rows.unique(return_inverse=True)
        # Times are stratified: one in each of `batch` slices of [0, 1000).
        t = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch * 1000
        t = t.long()[torch.randperm(batch, generator=generator)]
        eps = torch.randn(x.shape, generator=generator)
        bar = bars[t].view(-1, 1, 1, 1)
        x_t = (bar.sqrt() * x + (1 - bar).sqrt() * eps).to(device)
        x_t = x_t.contiguous(memory_format=torch.channels_last)
        ids, mask = captions.ids[unique].to(device), captions.mask[unique].to(device)
        with preset.precision(device):
            text = denoiser["text"](ids, attention_mask=mask).last_hidden_state
            output = unet(x_t, t.to(device), text[inverse.to(device)]).sample
        predicted, variance = output.float().chunk(2, 1)
        error = predicted - eps.to(device)
        return error.square().mean() + variance_loss(variance, error, t, bars)

    return loss


def variance_loss(variance: Tensor, error: Tensor, t: Tensor, bars: Tensor) -> Tensor:
    """Mean over dimensions of KL(q(x_{n-1} | x_n, x_0) || p(x_{n-1} | x_n)), in nats.

    Both are Gaussians, of log-variances `log beta~` and `v log beta + (1 - v) log beta~` with
    `v = (variance + 1) / 2`, whose means differ by `beta / sqrt(a (1 - bar)) error`. The first
    step, whose term is a decoder's and no KL, is left out.

    Args:
        variance: The network's last channels, `[b, c, h, w]`.
        error: Of the predicted noise, same shape; no gradient flows to it.
        t: Steps `[b]`, from 0.
        bars: `alpha_bar` of every step.
    """
    n = t.clamp(min=1)
    bar, before = bars.double()[n], bars.double()[n - 1]
    a = bar / before
    beta, smallest = 1 - a, (1 - before) / (1 - bar) * (1 - a)
    shape = (-1, 1, 1, 1)
    largest, least, scale = (
        value.to(error).view(shape)
        for value in (beta.log(), smallest.log(), beta**2 / (a * (1 - bar)))
    )
    v = (variance + 1) / 2
    own = v * largest + (1 - v) * least
    kl = 0.5 * (
        own - least - 1 + (least - own).exp() + scale * error.detach().square() * (-own).exp()
    )
    return (kl.mean((1, 2, 3)) * (t > 0).to(kl)).mean()


def save(nets: dict[str, Any], tokens: Any, out: Path) -> None:
    """Write the pipeline in diffusers' folder format, fp16 safetensors."""
    from diffusers import IFPipeline

    pipeline = IFPipeline(
        tokenizer=tokens,
        text_encoder=nets["text_encoder"],
        unet=nets["unet"],
        scheduler=noise_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(out, safe_serialization=True)
