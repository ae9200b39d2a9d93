"""`digits-ddpm` and `cifar10-ddpm`: class-conditional diffusion of pixels.

The loss is that of Ho et al. (2020), equation 14, with the class in place of a caption,

    L = E ||eps - eps_theta(alpha_t x + sigma_t eps, t, c)||^2,   t uniform,

and the null class one time in ten for classifier-free guidance. Pixels are dequantised with
uniform noise one grey step wide, so that the density that is learned is the one that
`methods/likelihood.py` measures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from .. import data
from ..data import held_out
from ..errors import InputError
from . import loop, parallel
from .captions import jitter, mirrored
from .compiled import Compiled
from .presets import preset_of
from .stable_diffusion import start_from


@dataclass(frozen=True)
class Preset:
    """The network and its batches.

    Attributes:
        side: Pixels.
        in_channels: 1 for grey, 3 for colour.
        channels: Of the U-Net's levels.
        attention: Which levels attend, from the finest.
        batch: Images a step.
        lr: Peak learning rate.
        fast: bfloat16 autocast and torch.compile.
        flips: Mirror half of the images; wrong for digits.
        grey_step: Width of a grey step in [-1, 1].
    """

    side: int
    in_channels: int
    channels: tuple[int, ...]
    attention: tuple[bool, ...]
    batch: int
    lr: float = 1e-3
    fast: bool = False
    flips: bool = True
    grey_step: float = 2 / 255


PRESETS = {
    "digits-ddpm": {
        "cpu": Preset(8, 1, (32, 64), (False, True), 128, flips=False, grey_step=2 / 16),
        "gpu": Preset(8, 1, (32, 64), (False, True), 1024, flips=False, grey_step=2 / 16),
    },
    "cifar10-ddpm": {
        "cpu": Preset(32, 3, (32, 64, 96), (False, False, True), 64),
        # 9.3 M weights, 19 MB in fp16.
        "gpu": Preset(32, 3, (96, 160, 192), (False, True, True), 512, fast=True),
    },
}


def build_network(preset: Preset, n_classes: int) -> Any:
    """The network, untrained: one embedding row per class, and one for none."""
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=preset.side,
        in_channels=preset.in_channels,
        out_channels=preset.in_channels,
        layers_per_block=1,
        block_out_channels=preset.channels,
        down_block_types=tuple(
            "AttnDownBlock2D" if a else "DownBlock2D" for a in preset.attention
        ),
        up_block_types=tuple(
            "AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(preset.attention)
        ),
        norm_num_groups=16,
        attention_head_dim=32,
        num_class_embeds=n_classes + 1,
    )


def noise_scheduler() -> Any:
    """The linear betas of Ho et al."""
    from diffusers import DDPMScheduler

    return DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear", clip_sample=True)


def times(n: int, generator: torch.Generator) -> torch.Tensor:
    """`n` steps of 1,000, one of each n-th part of them."""
    t = (torch.arange(n) + torch.rand(n, generator=generator)) / n
    t = t[torch.randperm(n, generator=generator)]
    return (t * 1000).long().clamp(0, 999)


def train(
    recipe: str,
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
    """Train and save a `DDPMPipeline` folder under `out`; run again to resume.

    Args:
        recipe: A name in `PRESETS`.
        sources: One data set, see `data.load`.
        out: Folder of the model; progress is kept in `out/.train`.
        minutes: Budget.
        device: `cpu` or `cuda`.
        seed: Of initial weights and batches.
        preset: `cpu` or `gpu`; the one made for the device if None.
        init: Card name or folder of a model of this recipe and preset to start from.
        log: Called with lines of progress.

    Raises:
        InputError: more than one data set, an unknown preset, weights that do not fit.
    """
    size = PRESETS[recipe][preset_of(device, preset)]
    if len(sources) != 1:
        raise InputError(f"{recipe} learns from one data set; got {len(sources)}.")
    torch.manual_seed(seed)
    labelled = held_out(data.load(sources[0], size.side))[0]
    network = build_network(size, len(labelled.classes))
    network.to(device, memory_format=torch.channels_last)
    log(f"{sum(p.numel() for p in network.parameters()):,} weights")
    if init is not None:
        start_from({"unet": network}, init)
    result = loop.fit(
        network,
        _loss(network, labelled, size, device),
        out / ".train" / "unet.pt",
        minutes,
        lr=size.lr,
        seed=seed,
        log=log,
        ema_decay=0.9995,
    )
    log(f"{result['steps']:.0f} steps in {result['seconds']:.0f} s, loss {result['loss']:.4f}")
    save(network, out)


def _loss(unet: Any, labelled: data.Labelled, preset: Preset, device: str) -> Any:
    network: Any = Compiled(unet) if preset.fast else unet
    pixels = torch.from_numpy(labelled.images).permute(0, 3, 1, 2).contiguous()
    if preset.in_channels == 1:
        pixels = pixels[:, :1]
    labels, null = torch.from_numpy(labelled.labels), len(labelled.classes)
    bars, vary = noise_scheduler().alphas_cumprod, labelled.name == "digits"
    n, batch = len(pixels), preset.batch

    def loss(generator: torch.Generator) -> torch.Tensor:
        index = torch.randint(n, (batch,), generator=generator)
        x = pixels[index].float() / 127.5 - 1
        if vary:
            part = batch // 2  # the others as they are: a shift by part of a pixel blurs
            x[:part] = jitter(x[:part], generator)
        if preset.flips:
            x = mirrored(x, generator)
        x += (torch.rand(x.shape, generator=generator) - 0.5) * preset.grey_step
        classes = labels[index]
        classes[torch.rand(batch, generator=generator) < 0.1] = null
        t = times(batch, generator)
        eps = torch.randn(x.shape, generator=generator)
        bar = bars[t].view(-1, 1, 1, 1)
        x_t = (bar.sqrt() * x + (1 - bar).sqrt() * eps).to(device)
        x_t = x_t.contiguous(memory_format=torch.channels_last)
        with torch.autocast(torch.device(device).type, torch.bfloat16, preset.fast):
            predicted = network(x_t, t.to(device), class_labels=classes.to(device)).sample
        return functional.mse_loss(predicted.float(), eps.to(device))

    return loss


def save(network: Any, out: Path) -> None:
    """Write a `DDPMPipeline` folder, fp16 safetensors."""
    from diffusers import DDPMPipeline

    if parallel.rank():  # of several processes the first writes
        return
    pipeline = DDPMPipeline(unet=network, scheduler=noise_scheduler())
    pipeline.to(torch.float16).save_pretrained(out, safe_serialization=True)
