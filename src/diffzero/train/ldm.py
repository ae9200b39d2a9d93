"""`cifar10-ldm`: class-conditional latent diffusion of photographs, and nothing but diffusion.

No label is seen before the last stage, and there it is a condition alone: nothing asks a network
to tell classes apart, so that accuracies say what denoising has learned. In two stages:

1. The autoencoder maps 32-pixel images to latents z of 8 x 8 x `CHANNELS`. With s their standard
   deviation in the batch,

       L = mean (x - D(z_u))^2 + mean |x - D(z_u)| + kl_weight * KL(q(z|x) || N(0, 1)) / dim z,
       z_u = (1 - u) z + u s eps,

   u = 0 for half of a batch and uniform below `MOST_NOISE` for the others: latents that are still
   read when they are a little noisy. More noise makes latents that repeat themselves, of which the
   U-Net told classes apart less well (docs/training.md).
2. It stays as it is. The U-Net learns `v = alpha_t eps - sigma_t z` with

       L = E ||v - v_theta(alpha_t z + sigma_t eps, t, c)||^2,

   under the null class one time in ten. Half of the times are uniform under the cosine schedule,
   half of them about its middle.

The schedule is `alpha_t = sech(C t)`, `sigma_t = tanh(C t)`. Under it the plain mean of errors of
eps over uniform times is that of errors of v weighed by alpha over uniform times u of the cosine:
`||eps - eps_theta||^2 = alpha^2 ||v - v_theta||^2`, and `dt` is `du / alpha` up to a constant. Of
the powers of alpha and sigma that were tried on held-out images this told classes apart best
(docs/training.md). More noise than at its end tells nothing: the draws there were wasted.

References:
    Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, 2021.
    https://arxiv.org/abs/2112.10752
    Salimans and Ho, Progressive Distillation for Fast Sampling, 2022 (v).
    https://arxiv.org/abs/2202.00512
    Yang et al., Latent Denoising Makes Good Visual Tokenizers, 2025 (noise in the first stage).
    https://arxiv.org/abs/2507.15856
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .. import data
from ..data import held_out
from ..errors import InputError
from . import loop, parallel
from .compiled import Compiled
from .convolutions import faster_convolutions
from .photographs import encoded, moved, to_input, vary
from .presets import preset_of
from .stable_diffusion import start_from

SIDE, CHANNELS = 32, 8
CODEC_SHARE = 0.25  # of the minutes
MOST_NOISE = 0.3
KL_WEIGHT = 2e-4
RATE = 2e-3
NULL_SHARE = 0.1
STEPS, C = 600, 3.456  # alpha ends at 0.063, as Stable Diffusion's does at 0.068
MOVED = 2  # moved copies of every image, beside itself and its mirror image


@dataclass(frozen=True)
class Preset:
    """What differs between one CPU core and a GPU.

    Attributes:
        vae: Channels of the autoencoder's levels; three levels make 8x8 latents.
        unet: Channels of the U-Net's levels.
        vae_batch: Images a step of the autoencoder.
        batch: Images a step of the U-Net.
        fast: torch.compile, and bfloat16 whatever the machine.
    """

    vae: tuple[int, ...]
    unet: tuple[int, ...]
    vae_batch: int
    batch: int
    fast: bool

    def precision(self, device: str) -> AbstractContextManager:
        """bfloat16 where that is faster."""
        lower = self.fast or loop.bfloat16_pays()
        return (
            torch.autocast(torch.device(device).type, torch.bfloat16) if lower else nullcontext()
        )


PRESETS = {
    "cpu": Preset((16, 64, 128), (96, 192), 64, 128, fast=False),
    "gpu": Preset((64, 128, 256), (192, 256), 512, 1024, fast=True),
}


def alphas_cumprod() -> Tensor:
    """`sech(C i / STEPS)^2` of every step i, float64 `[STEPS]`."""
    return 1 / torch.cosh(C * torch.arange(1, STEPS + 1, dtype=torch.float64) / STEPS) ** 2


def noise_scheduler() -> Any:
    """The schedule as betas, and v."""
    from diffusers import DDPMScheduler

    bars = alphas_cumprod()
    before = torch.cat([torch.ones(1, dtype=torch.float64), bars[:-1]])
    return DDPMScheduler(
        num_train_timesteps=STEPS,
        trained_betas=(1 - bars / before).tolist(),
        prediction_type="v_prediction",
        clip_sample=False,
    )


def steps_of_cosine(u: Tensor) -> Tensor:
    """The steps at which this schedule has the noise of the cosine's times u in (0, 1), int64."""
    sigma = torch.sin((u.double() + 0.008) / 1.008 * math.pi / 2)
    t = torch.atanh(sigma.clamp(0, 1 - 1e-9)) / C
    return (t * STEPS).long().clamp(0, STEPS - 1)


def times(n: int, generator: torch.Generator) -> Tensor:
    """`n` steps: half of them uniform under the cosine, half `sigmoid(N(0.2, 0.7^2))`."""
    u = (torch.arange(n) + torch.rand(n, generator=generator)) / n
    u = u[torch.randperm(n, generator=generator)]
    middle = torch.sigmoid(torch.randn(n, generator=generator) * 0.7 + 0.2)
    return steps_of_cosine(torch.where(torch.rand(n, generator=generator) < 0.5, middle, u))


def autoencoder(preset: Preset) -> Any:
    """The untrained autoencoder."""
    from diffusers import AutoencoderKL

    levels = len(preset.vae)
    return AutoencoderKL(
        block_out_channels=preset.vae,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=16,
        sample_size=SIDE,
    )


def denoiser(preset: Preset, classes: int) -> Any:
    """The untrained U-Net: convolutions, scaled and shifted by time and class, and attention at
    its coarsest level alone."""
    from diffusers import UNet2DModel

    levels = len(preset.unet)
    return UNet2DModel(
        sample_size=SIDE // 2 ** (len(preset.vae) - 1),
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        layers_per_block=1,
        block_out_channels=preset.unet,
        down_block_types=("DownBlock2D",) * levels,
        up_block_types=("UpBlock2D",) * levels,
        norm_num_groups=16,
        attention_head_dim=32,
        num_class_embeds=classes + 1,
        resnet_time_scale_shift="scale_shift",
    )


def codec_loss(
    vae: Any, pixels: Tensor, device: str, preset: Preset
) -> Callable[[torch.Generator], Tensor]:
    """The first stage's L of a batch drawn with the generator."""
    n, side = preset.vae_batch, SIDE // 2 ** (len(preset.vae) - 1)

    def loss(generator: torch.Generator) -> Tensor:
        index = torch.randint(len(pixels), (n,), generator=generator)
        x = to_input(vary(pixels[index], generator)).to(device)
        u = torch.rand(n, 1, 1, 1, generator=generator) * 2 * MOST_NOISE - MOST_NOISE
        u = u.clamp_min(0).to(device)
        noise, eps = torch.randn(2, n, CHANNELS, side, side, generator=generator).to(device)
        with preset.precision(device):
            mean, log_var = vae.quant_conv(vae.encoder(x)).float().chunk(2, 1)
            log_var = log_var.clamp(-30, 20)
            z = mean + torch.exp(0.5 * log_var) * noise
            z_u = (1 - u) * z + u * z.detach().std() * eps
            back = vae.decoder(vae.post_quant_conv(z_u)).float()
        kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).mean()
        return functional.mse_loss(back, x) + functional.l1_loss(back, x) + KL_WEIGHT * kl

    return loss


@torch.no_grad()
def centre(vae: Any, pixels: Tensor, device: str, preset: Preset) -> None:
    """Make the means of latent channels zero, in the convolutions beside the latents, and
    `scaling_factor` one over their common standard deviation."""
    z = encoded(vae, pixels, device, preset)
    mean = z.mean((0, 2, 3))
    vae.register_to_config(scaling_factor=1 / float((z - mean.view(-1, 1, 1)).std()))
    mean = mean.to(device)
    vae.post_quant_conv.bias += vae.post_quant_conv.weight.flatten(1) @ mean
    vae.quant_conv.bias[:CHANNELS] -= mean


def denoising_loss(
    unet: Any, latents: Tensor, labels: Tensor, null: int, device: str, preset: Preset
) -> Callable[[torch.Generator], Tensor]:
    """The second stage's L of a batch drawn with the generator.

    Args:
        unet: The network.
        latents: Scaled, `[n, CHANNELS, side, side]`.
        labels: Class of each, int64 `[n]`.
        null: Number of the null class.
        device: Where the network is.
        preset: Its size.
    """
    network: Any = Compiled(unet) if preset.fast else unet
    bars, n = alphas_cumprod().float(), preset.batch

    def loss(generator: torch.Generator) -> Tensor:
        index = torch.randint(len(latents), (n,), generator=generator)
        z, classes = latents[index].float(), labels[index].clone()
        classes[torch.rand(n, generator=generator) < NULL_SHARE] = null
        t = times(n, generator)
        eps = torch.randn(z.shape, generator=generator)
        bar = bars[t].view(-1, 1, 1, 1)
        z_t = (bar.sqrt() * z + (1 - bar).sqrt() * eps).to(device)
        z_t = z_t.contiguous(memory_format=torch.channels_last)
        v = (bar.sqrt() * eps - (1 - bar).sqrt() * z).to(device)
        with preset.precision(device):
            said = network(z_t, t.to(device), class_labels=classes.to(device)).sample
        return functional.mse_loss(said.float(), v)

    return loss


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
    """Train and save an `LDMPipeline` folder under `out`; run again to resume.

    Args:
        sources: One data set, see `data.load`.
        out: Folder of the model; progress is kept in `out/.train`.
        minutes: Budget of both stages.
        device: `cpu` or `cuda`.
        seed: Of initial weights and batches.
        preset: `cpu` or `gpu`; the one made for the device if None.
        init: Card name or folder of a model of this recipe and preset to start from; both stages
            then learn on, the U-Net on the latents as they have become.
        log: Called with lines of progress.

    Raises:
        InputError: more than one data set, an unknown preset, weights that do not fit.
    """
    size = PRESETS[preset_of(device, preset)]
    if len(sources) != 1:
        raise InputError(f"cifar10-ldm learns from one data set; got {len(sources)}.")
    torch.manual_seed(seed)
    labelled = held_out(data.load(sources[0], SIDE))[0]
    pixels = torch.from_numpy(labelled.images).permute(0, 3, 1, 2).contiguous()
    nets = {"vae": autoencoder(size), "unet": denoiser(size, len(labelled.classes))}
    if init is not None:
        start_from(nets, init)
    vae, unet = (n.to(device, memory_format=torch.channels_last) for n in nets.values())
    log("  ".join(f"{k} {sum(p.numel() for p in m.parameters()):,}" for k, m in nets.items()))
    most = CODEC_SHARE * minutes
    spent = encode(vae, pixels, out / ".train", most, device, size, seed, log)
    latents = varied(vae, pixels, device, size, seed)
    labels = torch.from_numpy(labelled.labels).repeat(len(latents) // len(pixels))
    with faster_convolutions(unet):
        result = loop.fit(
            unet,
            denoising_loss(unet, latents, labels, len(labelled.classes), device, size),
            out / ".train" / "unet.pt",
            max(minutes - spent, (1 - CODEC_SHARE) * minutes),
            seed=seed + 1, log=log, lr=RATE, ema_decay=0.9995, muon="block", warmup=100, level=0.4,
        )  # fmt: skip
    log(f"{result['steps']:.0f} steps in {result['seconds']:.0f} s, loss {result['loss']:.4f}")
    save(vae, unet, out)


def encode(
    vae: Any, pixels: Tensor, states: Path, minutes: float, device: str, preset: Preset, seed: int,
    log: Callable[[str], None],
) -> float:  # fmt: skip
    """The first stage: train `vae` in place, and bring its latents to mean 0.

    Returns:
        The minutes that it has taken in all.
    """
    done = (states / "unet.pt").exists()  # a U-Net that has begun knows these latents
    result = loop.fit(
        vae, codec_loss(vae, pixels, device, preset), states / "vae.pt", 0 if done else minutes,
        seed=seed, log=log, lr=RATE, ema_decay=0.99, muon="", warmup=50,
    )  # fmt: skip
    log(f"{result['steps']:.0f} steps of the autoencoder, loss {result['loss']:.4f}")
    vae.requires_grad_(False)
    centre(vae, pixels, device, preset)
    return result["seconds"] / 60


def varied(vae: Any, pixels: Tensor, device: str, preset: Preset, seed: int) -> Tensor:
    """Scaled latents of the images, of their mirror images, and of `MOVED` moved copies."""
    generator = torch.Generator().manual_seed(seed)
    copies = [pixels, pixels.flip(-1), *(moved(pixels, generator) for _ in range(MOVED))]
    found = torch.cat([encoded(vae, copy, device, preset).bfloat16() for copy in copies])
    return found * vae.config.scaling_factor


def save(vae: Any, unet: Any, out: Path) -> None:
    """Write an `LDMPipeline` folder, fp16 safetensors."""
    from diffusers import LDMPipeline

    if parallel.rank():  # of several processes the first writes
        return
    pipeline = LDMPipeline(vqvae=vae, unet=unet, scheduler=noise_scheduler())
    pipeline.to(torch.float16).save_pretrained(out, safe_serialization=True)
