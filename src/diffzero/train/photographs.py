"""`photos-sd`: a StableDiffusionPipeline of photographs, for an hour or two of one CPU core.

A purely generative network at this size and time names fewer CIFAR-10 photographs rightly
(`cifar10-ldm`). What is lost is lost in seeing, so here the autoencoder learns to see: it is told
the classes. This is the way of representation autoencoders (Zheng et al. 2025, whose encoders come
from elsewhere; ours learns its own). In two stages:

1. The autoencoder maps 32-pixel images to latents z of 8 x 8 x `CHANNELS`. With s their standard
   deviation in the batch and h a linear map to classes that is thrown away,

       L = mean (x - D(z))^2 + mean |x - D(z)| + kl_weight * KL(q(z|x) || N(0, 1)) / dim z
           - log softmax(h(sqrt(bar_t) z / s + sqrt(1 - bar_t) eps))[y],

   t uniform below `CONTRAST_STEPS`: latents in which the class can be read at the noises of
   diffusion. Images are mirrored and shifted at random; a quarter of a batch is also decoded.
2. It stays as it is. The U-Net and the text encoder learn to predict the noise, as `tiny-sd`'s do,
   with false captions at the same noise for half of a batch; the classes whose mean images are
   near come most often (`flow.with_contrasts`). At w = 30 the U-Net named 59.0 % [53.4, 64.4] of
   300 held-out images (8 draws) after 99 steps on an early autoencoder, at w = 8 54.0 %
   [48.3, 59.6].

Matrices and kernels learn with Muon: in 90 seconds of one core the classes of 1,000 held-out
images were read at a cross-entropy of 1.39, with AdamW at 1.55 (batches of 128 at 2e-3); in 150
seconds, the rate then at zero, at 1.24 with Muon at 2e-3, 1.16 at 4e-3, and 1.15 at 2e-3 in
batches of 64.

So its accuracy says what a latent diffusion model can read from latents that were made to be read,
not what denoising alone learns of photographs.

References:
    Zheng et al., Diffusion Transformers with Representation Autoencoders, 2025.
    https://arxiv.org/abs/2510.11690
    Yao et al., Reconstruction vs. Generation, 2025 (latents aligned with a vision
    model's).
    https://arxiv.org/abs/2501.01423
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .. import data
from ..data import all_captions, held_out
from ..errors import InputError
from . import loop, tokenizer
from .captions import Captions, mirrored, pick
from .flow import with_contrasts
from .presets import preset_of
from .stable_diffusion import (
    CONTRAST_STEPS,
    Preset,
    components,
    denoising_loss,
    noise_scheduler,
    save,
    start_from,
)

SIZE, WINDOW, CHANNELS = 32, 16, 8
CODEC_SHARE = 0.57  # of the minutes
SHIFT = 3  # most pixels an image is moved by, to each side
TOLD_RATE, RATE = 4e-3, 2e-3  # of the autoencoder; of the U-Net
CONTRAST_WEIGHT = 30.0
SMOOTHING = 0.05  # of the told classes
KL_WEIGHT = 2e-4
PRESETS = {
    "cpu": Preset((16, 64, 128), (64, 96), 128, 128, fast=False, latents=CHANNELS, half=True),
    "gpu": Preset((64, 128, 256), (96, 128), 512, 1024, fast=True, latents=CHANNELS),
}


class Told(nn.Module):
    """The autoencoder, and the map from its noisy latents to classes.

    Args:
        vae: AutoencoderKL.
        classes: How many.
    """

    def __init__(self, vae: Any, classes: int) -> None:
        super().__init__()
        self.vae = vae
        side = SIZE // 2 ** (len(vae.config.block_out_channels) - 1)
        self.head = nn.Linear(vae.config.latent_channels * side**2, classes)

    def forward(self, x: Tensor, decoded: int, bar: Tensor, eps: Tensor, noise: Tensor) -> Any:
        """Class logits, decoded images, and the KL divergence.

        Args:
            x: Images `[b, 3, SIZE, SIZE]` in [-1, 1].
            decoded: How many of the first are decoded.
            bar: alpha^2 of the diffusion, `[b, 1, 1, 1]`.
            eps: Its noise, of the latents' shape.
            noise: The posterior's, likewise.
        """
        mean, log_var = self.vae.quant_conv(self.vae.encoder(x)).float().chunk(2, 1)
        log_var = log_var.clamp(-30, 20)
        z = mean + torch.exp(0.5 * log_var) * noise
        z_t = bar.sqrt() * z / z.detach().std() + (1 - bar).sqrt() * eps
        back = self.vae.decoder(self.vae.post_quant_conv(z[:decoded]))
        kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).mean()
        return self.head(z_t.flatten(1)).float(), back.float(), kl


def vary(x: Tensor, generator: torch.Generator) -> Tensor:
    """Images mirrored at random and moved by up to `SHIFT` pixels, the border mirrored.

    Eighths of the batch share a shift, which makes it a slice instead of a gather.
    """
    side = x.shape[-1]
    wide = functional.pad(x, (SHIFT,) * 4, mode="reflect")
    parts = []
    for part in wide.chunk(8):
        i, j = torch.randint(2 * SHIFT + 1, (2,), generator=generator).tolist()
        parts.append(part[..., i : i + side, j : j + side])
    return mirrored(torch.cat(parts), generator)


def to_input(pixels: Tensor) -> Tensor:
    """uint8 to [-1, 1], laid out as convolutions on CPUs like it."""
    return (pixels.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def told_loss(
    told: Told, pixels: list[Tensor], labels: list[Tensor], device: str, preset: Preset
) -> Callable[[torch.Generator], Tensor]:
    """The first stage's L of a batch drawn with the generator; `labels` count over all sets."""
    n, bars = preset.vae_batch, noise_scheduler().alphas_cumprod
    weights = torch.full((len(pixels),), 1 / len(pixels))
    side = SIZE // 2 ** (len(preset.vae) - 1)

    def loss(generator: torch.Generator) -> Tensor:
        index = pick([len(p) for p in pixels], weights, n, generator)
        order = torch.randperm(n, generator=generator)  # not always the same set is decoded
        x = torch.cat([p[i] for p, i in zip(pixels, index, strict=True)])[order]
        y = torch.cat([y[i] for y, i in zip(labels, index, strict=True)])[order].to(device)
        x = to_input(vary(x, generator)).to(device)
        bar = bars[torch.randint(CONTRAST_STEPS, (n,), generator=generator)].view(-1, 1, 1, 1)
        eps, noise = torch.randn(2, n, preset.latents, side, side, generator=generator).to(device)
        with preset.precision(device):
            said, back, kl = told(x, n // 4, bar.to(device), eps, noise)
        shown = x[: len(back)]
        error = functional.mse_loss(back, shown) + functional.l1_loss(back, shown)
        told_error = functional.cross_entropy(said, y, label_smoothing=SMOOTHING)
        return error + KL_WEIGHT * kl + told_error

    return loss


def latents_of(vae: Any, pixels: Tensor, device: str, preset: Preset, seed: int) -> Tensor:
    """Posterior means of the images as they are, and of as many mirrored and moved."""
    copies = (pixels, moved(pixels, torch.Generator().manual_seed(seed)))
    return torch.cat([encoded(vae, copy, device, preset) for copy in copies])


@torch.no_grad()
def encoded(vae: Any, pixels: Tensor, device: str, preset: Any) -> Tensor:
    """Posterior means of uint8 images `[n, 3, SIZE, SIZE]`, on the CPU, not scaled."""
    kept = []
    for part in pixels.split(256):
        with preset.precision(device):
            moments = vae.quant_conv(vae.encoder(to_input(part).to(device)))
        kept.append(moments.float().chunk(2, 1)[0].cpu())
    return torch.cat(kept)


def moved(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """All images varied, 32 of them by one shift."""
    return torch.cat([vary(part, generator) for part in pixels.split(256)])


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
    """Train and save the pipeline under `out`; run again to resume.

    Args:
        sources: Data sets of classes, see `data.load`; batches draw from each in equal parts.
        out: Folder of the pipeline; progress is kept in `out/.train`.
        minutes: Budget of both stages.
        device: `cpu` or `cuda`.
        seed: Of initial weights and batches.
        preset: `cpu` or `gpu`; the one made for the device if None.
        init: Card name or folder of a model of this recipe and preset to start from; both stages
            then learn on, with a new map to classes.
        log: Called with lines of progress.

    Raises:
        InputError: an unknown preset, data that cannot be read, images without classes, weights
            that do not fit.
    """
    size = PRESETS[preset_of(device, preset)]
    torch.manual_seed(seed)
    sets = [with_contrasts(held_out(data.load(s, SIZE))[0]) for s in sources]
    for labelled in sets:
        if labelled.whole:
            raise InputError(
                f"{labelled.name}: its images have captions and no classes, which this recipe's "
                "autoencoder is told. Give data of classes, or train tiny-sd."
            )
    tokens = tokenizer.build(
        all_captions(sets), out / "tokenizer", WINDOW, loop.has_begun(out, "unet")
    )
    nets: dict[str, Any] = dict(components(tokens, size, WINDOW))
    if init is not None:
        start_from(nets, init, tokens)
    nets = {k: m.to(device) for k, m in nets.items()}
    log("  ".join(f"{k} {sum(p.numel() for p in m.parameters()):,}" for k, m in nets.items()))
    pixels = [torch.from_numpy(s.images).permute(0, 3, 1, 2) for s in sets]
    vae, states = nets["vae"], out / ".train"
    most = CODEC_SHARE * minutes
    spent = see(vae, pixels, sets, states / "vae.pt", most, device, size, seed, log)

    latents = [latents_of(vae, p, device, size, seed) for p in pixels]
    scale = 1 / float(torch.cat([z.flatten() for z in latents]).std())
    log(f"latents of standard deviation {1 / scale:.3f}")
    vae.register_to_config(scaling_factor=scale)
    unet: Any = nets["unet"]
    unet.to(memory_format=torch.channels_last)
    denoiser = nn.ModuleDict({"unet": unet, "text": nets["text_encoder"]})
    loss = denoising_loss(
        denoiser, latents, sets, Captions(sets, tokens), scale, device, size, CONTRAST_WEIGHT
    )
    # One long step of the first stage may have spent more than its share; not at this one's cost.
    rest = max(minutes - spent, (1 - CODEC_SHARE) * minutes)
    result = loop.fit(
        denoiser, loss, states / "unet.pt", rest, seed=seed + 1, log=log,
        lr=RATE, ema_decay=0.995, muon="unet", warmup=50,
    )  # fmt: skip
    log(f"{result['steps']:.0f} steps in {result['seconds']:.0f} s, loss {result['loss']:.4f}")
    save(nets, tokens, out)


def see(
    vae: Any,
    pixels: list[Tensor],
    sets: list[data.Labelled],
    state_path: Path,
    minutes: float,
    device: str,
    preset: Preset,
    seed: int,
    log: Callable[[str], None],
) -> float:
    """The first stage: train `vae` in place, and freeze it.

    Returns:
        The minutes that it has taken in all.
    """
    vae.to(memory_format=torch.channels_last)
    labels, classes = [], 0
    for labelled in sets:
        labels.append(torch.from_numpy(labelled.labels) + classes)
        classes += len(labelled.classes)
    told = Told(vae, classes).to(device)
    # A later stage that has begun knows these latents: no more is learned, whatever the budget.
    done = (state_path.parent / "unet.pt").exists()
    loss = told_loss(told, pixels, labels, device, preset)
    result = loop.fit(
        told, loss, state_path, 0 if done else minutes, seed=seed, log=log,
        lr=TOLD_RATE, ema_decay=0.99, muon="vae", warmup=50,
    )  # fmt: skip
    log(f"{result['steps']:.0f} steps of the autoencoder, loss {result['loss']:.4f}")
    vae.requires_grad_(False)
    return result["seconds"] / 60
