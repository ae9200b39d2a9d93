"""`tiny-sd`: a StableDiffusionPipeline small enough to train on two CPU cores.

In stages. The autoencoder maps 32-pixel images to 8x8x4 latents,

    L = mean (x - D(z))^2 + mean |x - D(z)| + kl_weight * KL(q(z|x) || N(0, 1)) / dim z,

and its latents are scaled to unit standard deviation. (A model that starts from another keeps
that one's autoencoder and scale.) Where images come with captions to tell apart, the text encoder
reads them once, see `reading`. Then the U-Net learns on the latents' posterior means to predict
the noise (Ho et al. 2020, equation 14):

    L = E ||eps - eps_theta(alpha_t z + sigma_t eps, t, text(c))||^2,   t uniform,

with a caption drawn anew for every image and step, and the empty caption one time in ten for
classifier-free guidance. An encoder that has read stays as it is while the U-Net learns to use it,
and then learns on with it; one that has not, and one that had read when its model was started
from, learns with it from the start.

Of the images with captions to tell apart (`diffzero scenes`), some of a batch are also given a
false one at the same noise. With e the squared error summed over the D dimensions, half of it the
one-draw bound on -log p(z | c), this adds

    L = w (2 / D) E -log sigmoid((e(c_false) - e(c_true)) / 2),     w = 8,

w times the negative log-posterior of the true one, in the unit of the first loss. Without it the
network learns which words an image holds long before it learns which belongs to which. After 1,520
steps at w = 1, of 24 single things in unseen combinations `tiny-sd` named the colour of 24 and the
shape of 7 (one in four is chance); it learned shapes once w was 8, half of a batch was contrasted,
at steps below 700, and the likest captions came most often. Which of the four did it is not known.
The opposite of a relation stayed a guess, until the encoder had read: of 60,000 scenes of two
things, with all of a batch contrasted, the odds at one draw of noise were right for 67 % of
opposites after 350 steps of 128 images with the encoder as it was, and for 96 % after 350 of 64
with one that had read for 6 minutes, both from the same U-Net.

Why the encoder first stays as it has read: learning on with a U-Net that did not use the order of
words yet, it unlearned it. After 1,235 steps on all data the states of captions that differ in
"above" and "below" alone lay 0.2 to 1.2 apart, where reading had put them 3 apart, and the U-Net's
errors under the two were the same.

Why it then learns on: from one model, data and seed, kept for 447 more steps it let `tiny-sd` name
55.0 % [46.1, 63.6] of 120 things in unseen combinations and tell 85.0 % [77.5, 90.3] of 120
bindings; learning on for 439 it made both 96.7 % [91.7, 98.7], and relations were at 100.0 %
[96.9, 100.0] of 120 either way (16 draws). Likely because reading shows images of 8 pixels, where
shapes are hard to see. `tiny-sd` went through these stages in several runs, each from the last
one's weights; in one run from nothing they are untried.

References:
    Krojer et al., Are Diffusion Models Vision-And-Language Reasoners?, 2023 (hard negatives).
    https://arxiv.org/abs/2305.16397
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from .. import data
from ..data import all_captions, held_out
from ..errors import InputError
from ..models.clip import ClipBackbone
from ..models.codec import Latents
from ..models.conditioner import Text
from ..models.denoiser import FlowNetwork
from . import loop, reading, tokenizer
from .captions import Captions, jitter, mix, pick
from .compiled import Compiled
from .presets import preset_of

SIZE, WINDOW, HIDDEN = 32, 32, 128
VAE_SHARE, READ_SHARE, KEPT_SHARE = 0.14, 0.14, 0.36  # of the minutes
DIGIT_VARIANTS = 24
EMBEDDINGS = ("token_embedding.weight", "shared.weight", "embed_tokens.weight")  # CLIP's, T5's
CONTRAST_WEIGHT = 8.0
DROPOUT = 0.1  # of captions, for classifier-free guidance
CONTRAST_STEPS = 700  # noise beyond which most scenes say nothing


@dataclass(frozen=True)
class Preset:
    """What differs between two CPU cores and a GPU.

    Attributes:
        vae: Channels of the autoencoder's levels; three levels make 8x8 latents.
        unet: Channels of the U-Net's levels.
        vae_batch: Images a step of the autoencoder.
        batch: Images a step of the U-Net.
        fast: bfloat16 autocast and torch.compile.
        latents: Channels of the latents.
        half: bfloat16 autocast alone, on CPUs where that pays.
    """

    vae: tuple[int, ...]
    unet: tuple[int, ...]
    vae_batch: int
    batch: int
    fast: bool
    latents: int = 4
    half: bool = False

    def precision(self, device: str) -> AbstractContextManager:
        """Autocast where the preset is fast, or halves and the CPU is faster so."""
        kind = torch.device(device).type
        lower = self.fast or (self.half and loop.bfloat16_pays())
        return torch.autocast(kind, torch.bfloat16) if lower else nullcontext()

    def compiled(self, module: Any) -> Any:
        """The module to call: compiled where the preset is fast."""
        return Compiled(module) if self.fast else module


PRESETS = {
    "cpu": Preset(vae=(32, 48, 64), unet=(64, 96), vae_batch=64, batch=128, fast=False),
    # 7.9 M weights, 16 MB in fp16. Sized for CIFAR-10, CIFAR-100 and Fashion-MNIST together.
    "gpu": Preset(vae=(64, 96, 128), unet=(96, 128), vae_batch=512, batch=1024, fast=True),
}


def components(
    tokens: Any, preset: Preset = PRESETS["cpu"], window: int = WINDOW
) -> dict[str, nn.Module]:
    """The networks of the pipeline, untrained: vae, unet and text_encoder."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    vae = AutoencoderKL(
        block_out_channels=preset.vae,
        down_block_types=("DownEncoderBlock2D",) * len(preset.vae),
        up_block_types=("UpDecoderBlock2D",) * len(preset.vae),
        layers_per_block=1,
        latent_channels=preset.latents,
        norm_num_groups=16,
        sample_size=SIZE,
    )
    unet = UNet2DConditionModel(
        sample_size=SIZE // 2 ** (len(preset.vae) - 1),
        in_channels=preset.latents,
        out_channels=preset.latents,
        block_out_channels=preset.unet,
        down_block_types=("CrossAttnDownBlock2D",) * len(preset.unet),
        up_block_types=("CrossAttnUpBlock2D",) * len(preset.unet),
        layers_per_block=1,
        cross_attention_dim=HIDDEN,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    text = CLIPTextModel(text_config(tokens, CLIPTextConfig, window))
    return {"vae": vae, "unet": unet, "text_encoder": text}


def text_config(tokens: Any, cls: type, window: int = WINDOW) -> Any:
    """The small text encoder shared by `tiny-sd` and `tiny-clip`."""
    return cls(
        vocab_size=len(tokens),
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=window,
        projection_dim=64,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )


def noise_scheduler() -> Any:
    """Stable Diffusion 1's own betas."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
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
    """Train and save the pipeline under `out`; run again to resume.

    Args:
        sources: Data sets, see `data.load`. Batches draw from each in equal parts, except that
            the digits get a fifth of what the others get.
        out: Folder of the pipeline; progress is kept in `out/.train`.
        minutes: Budget of all stages together.
        device: `cpu` or `cuda`.
        seed: Of initial weights and batches.
        preset: A name in `PRESETS`; the one made for the device if None.
        init: Card name or folder of a model of this recipe and preset to start from; words that
            it knows keep their embeddings, and an encoder that has read does not read again.
        log: Called with lines of progress.

    Raises:
        InputError: an unknown preset, data that cannot be read, weights that do not fit.
    """
    size = PRESETS[preset_of(device, preset)]
    torch.manual_seed(seed)
    sets = [held_out(data.load(s, SIZE))[0] for s in sources]
    known = loop.has_begun(out, "text", "kept", "unet")
    tokens = tokenizer.build(all_captions(sets), out / "tokenizer", WINDOW, known)
    nets = components(tokens, size)
    scale, text = None, nets["text_encoder"]
    if init is not None:
        old = start_from(nets, init, tokens)
        scale = old["vae"].config.scaling_factor
        has_read = getattr(old["text_encoder"].config, "has_read", False)
        cast(Any, text.config).has_read = has_read
    nets = {k: m.to(device) for k, m in nets.items()}
    log("  ".join(f"{k} {sum(p.numel() for p in m.parameters()):,}" for k, m in nets.items()))

    vae: Any = nets["vae"]
    vae.to(memory_format=torch.channels_last)
    pixels = [torch.from_numpy(s.images).permute(0, 3, 1, 2) for s in sets]
    weights = mix(sets)
    states, rest = out / ".train", minutes

    def budget(share: float, *later: str) -> float:
        """Minutes of a stage: none when a later one has begun, which would be undone."""
        return 0 if any((states / f"{name}.pt").exists() for name in later) else share * minutes

    if init is None:  # else the U-Net knows the latents of the autoencoder that it has
        vae_loss = _vae_loss(vae, pixels, weights, device, size)
        most = budget(VAE_SHARE, "text", "kept", "unet")
        result = loop.fit(vae, vae_loss, states / "vae.pt", most, seed=seed, log=log)
        rest -= result["seconds"] / 60
    vae.requires_grad_(False)
    captions = Captions(sets, tokens)
    most = budget(READ_SHARE, "kept", "unet")
    spent = reading.read(
        text, pixels, sets, captions, tokens.eos_token_id, states / "text.pt", most,
        seed=seed, log=log,
    )  # fmt: skip
    rest -= spent
    latents, scale = _scaled(vae, pixels, sets, scale, device, seed, log)
    denoiser = nn.ModuleDict({"unet": nets["unet"], "text": text})
    unet: Any = nets["unet"]
    unet.to(memory_format=torch.channels_last)
    loss = denoising_loss(denoiser, latents, sets, captions, scale, device, size)
    fit = partial(loop.fit, denoiser, loss, log=log, ema_decay=0.9995)
    if spent:
        rest -= _keeping(text, fit, states / "kept.pt", budget(KEPT_SHARE, "unet"), seed)
        seed += 1  # not the same batches again
    # One long step of an earlier stage may have spent more than its share; not at this one's cost.
    least = minutes * (1 - VAE_SHARE - READ_SHARE - KEPT_SHARE)
    result = fit(states / "unet.pt", max(rest, least), seed=seed)
    log(f"{result['steps']:.0f} steps in {result['seconds']:.0f} s, loss {result['loss']:.4f}")
    save(nets, tokens, out)


def _keeping(text: Any, fit: Callable[..., Any], state: Path, minutes: float, seed: int) -> float:
    """The minutes that a U-Net learned beside an encoder that keeps what it has read.

    What the U-Net does not use yet would be unlearned.
    """
    text.requires_grad_(False)
    result = fit(state, minutes, seed=seed)
    text.requires_grad_(True)
    return float(result["seconds"]) / 60


def _scaled(
    vae: Any,
    pixels: list[torch.Tensor],
    sets: list[data.Labelled],
    scale: float | None,
    device: str,
    seed: int,
    log: Callable[[str], None],
) -> tuple[list[torch.Tensor], float]:
    """Latents of each set, and the factor, of the VAE too, that brings them to deviation 1."""
    latents = [
        _latents(vae, p, s.name == "digits", device, seed)
        for p, s in zip(pixels, sets, strict=True)
    ]
    if scale is None:
        own = [z[: len(p)].flatten() for z, p in zip(latents, pixels, strict=True)]
        scale = 1 / float(torch.cat(own).std())
        log(f"latents of standard deviation {1 / scale:.3f}")
    vae.register_to_config(scaling_factor=scale)
    return latents, scale


def parts_of(model: Any) -> dict[str, Any]:
    """Networks and tokenizer of a loaded model, by the names that pipelines give them."""
    if isinstance(model, ClipBackbone):
        return {"model": model.model, "tokenizer": model.tokenizer}
    name = "transformer" if isinstance(model.denoiser, FlowNetwork) else "unet"
    parts = {name: model.denoiser.network}
    if isinstance(model.codec, Latents):
        parts["vae"] = model.codec.vae
    if isinstance(model.conditioner, Text):
        for end, stream in zip(("", "_2", "_3"), model.conditioner.streams, strict=False):
            parts |= {f"text_encoder{end}": stream.encoder, f"tokenizer{end}": stream.tokenizer}
    return parts


def rows_of_words(own: torch.Tensor, old: torch.Tensor, new: Any, known: Any) -> torch.Tensor:
    """Token embeddings `[words, d]`: those of `old` for the words that both tokenizers have."""
    words, there = new.get_vocab(), known.get_vocab()
    both = [word for word in words if word in there]
    rows = own.clone()
    rows[[words[w] for w in both]] = old[[there[w] for w in both]]
    return rows


@torch.no_grad()
def start_from(nets: dict[str, nn.Module], init: str, tokens: Any = None) -> Any:
    """Copy the weights of another model of the recipe, of token embeddings those of known words.

    Args:
        nets: By the name of the part.
        init: Card name or folder.
        tokens: The tokenizer of the recipes that read text.

    Returns:
        The other model's networks, by the same names.

    Raises:
        InputError: weights that do not fit.

    Warns:
        UserWarning: words that the other knows are not tokens of this one.
    """
    from ..models.load import load

    model = load(init, device="cpu", dtype="float32")
    old = parts_of(model)
    adopt(nets, old, dict.fromkeys(nets, (tokens, old.get("tokenizer"))), init)
    own = model.vocabulary or () if tokens else ()
    lost = sorted(word for word in own if len(tokens.tokenize(word)) > 1)
    if lost:
        warnings.warn(
            f"{init} knows {len(lost)} words that these captions do not have; they are not "
            f"kept: {', '.join(lost)}.",
            stacklevel=2,
        )
    return old


def adopt(
    nets: dict[str, nn.Module], old: dict[str, Any], words: dict[str, tuple[Any, Any]], init: str
) -> None:
    """Copy a model's weights, of token embeddings those of the words that both models know.

    Args:
        nets: By the name of the part.
        old: The other model's parts, see `parts_of`.
        words: The tokenizers, here and there, of the parts that read text.
        init: What messages call the other model.

    Raises:
        InputError: weights that do not fit.
    """
    try:
        for name, net in nets.items():
            state = dict(old[name].state_dict())
            for key, own in net.state_dict().items():
                if key.endswith(EMBEDDINGS):
                    state[key] = rows_of_words(own, state[key], *words[name])
            net.load_state_dict(state)
    except (AttributeError, KeyError, RuntimeError) as error:
        raise InputError(
            f"{init}: its weights do not fit this recipe's networks. Start from a model of the "
            f"same recipe and preset. ({str(error).splitlines()[0]})"
        ) from None


def _vae_loss(
    vae: Any, pixels: list[torch.Tensor], weights: torch.Tensor, device: str, preset: Preset
) -> Any:
    kl_weight = 2e-4
    encode, decode = preset.compiled(vae.encoder), preset.compiled(vae.decoder)

    def loss(generator: torch.Generator) -> torch.Tensor:
        index = pick([len(p) for p in pixels], weights, preset.vae_batch, generator)
        x = (
            torch.cat([p[i] for p, i in zip(pixels, index, strict=False)]).to(device).float()
            / 127.5
            - 1
        )
        x = x.contiguous(memory_format=torch.channels_last)
        with preset.precision(device):
            moments = vae.quant_conv(encode(x)).float()
            mean, log_var = moments.chunk(2, 1)
            log_var = log_var.clamp(-30, 20)
            noise = torch.randn(mean.shape, generator=generator).to(device)
            z = mean + torch.exp(0.5 * log_var) * noise
            decoded = decode(vae.post_quant_conv(z)).float()
        error = functional.mse_loss(decoded, x) + functional.l1_loss(decoded, x)
        kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).mean()
        return error + kl_weight * kl

    return loss


@torch.no_grad()
def _latents(vae: Any, pixels: torch.Tensor, vary: bool, device: str, seed: int) -> torch.Tensor:
    """Posterior means `[n, 4, 8, 8]` of the images, and of jittered copies where they are few."""
    generator = torch.Generator().manual_seed(seed)
    out = []
    for variant in range(1 + DIGIT_VARIANTS * vary):
        for chunk in pixels.split(256):
            x = chunk.float() / 127.5 - 1
            x = jitter(x, generator) if variant else x
            out.append(vae.encode(x.to(device)).latent_dist.mean.cpu())
    return torch.cat(out)


def denoising_loss(
    denoiser: nn.ModuleDict,
    latents: list[torch.Tensor],
    sets: list[data.Labelled],
    captions: Captions,
    scale: float,
    device: str,
    preset: Preset,
    weight: float = CONTRAST_WEIGHT,
) -> Any:
    """The module's L of a batch drawn with the generator, contrasts included.

    Args:
        denoiser: `unet` and `text`, the encoder.
        latents: Of each set `[n, c, h, w]`, unscaled; images in the order of the labels, again
            and again where there are several variants of each.
        sets: Their labels.
        captions: Theirs.
        scale: What latents are multiplied with.
        device: `cpu` or `cuda`.
        preset: Images a step, and precision.
        weight: w of the contrast.
    """
    batch, weights = preset.batch, mix(sets)
    unet = preset.compiled(denoiser["unet"])
    bars = noise_scheduler().alphas_cumprod
    labels = [
        torch.from_numpy(np.resize(s.labels, len(z))) for s, z in zip(sets, latents, strict=False)
    ]
    latents = [z * scale for z in latents]

    def loss(generator: torch.Generator) -> torch.Tensor:
        drawn = captions.batch(
            [len(z) for z in latents], labels, weights, batch, generator, DROPOUT
        )
        chosen = drawn.chosen
        x = torch.cat([z[i] for z, i in zip(latents, drawn.index, strict=True)])
        unique, inverse = torch.cat([drawn.rows, drawn.wrong]).unique(return_inverse=True)
        # Times are stratified: one in each of `batch` slices of [0, 1000).
        t = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch * 1000
        t = t.long()[torch.randperm(batch, generator=generator)]
        t[chosen] = torch.randint(CONTRAST_STEPS, (len(chosen),), generator=generator)
        eps = torch.randn(x.shape, generator=generator)
        bar = bars[t].view(-1, 1, 1, 1)
        x_t = bar.sqrt() * x + (1 - bar).sqrt() * eps
        twice = torch.cat([torch.arange(batch), chosen])
        x_t, t, eps = x_t[twice].to(device), t[twice].to(device), eps[twice].to(device)
        x_t = x_t.contiguous(memory_format=torch.channels_last)
        few = loop.attention_of_few_tokens(torch.device(device).type)
        with preset.precision(device), few:
            text = denoiser["text"](captions.ids[unique].to(device)).last_hidden_state
            predicted = unet(x_t, t, text[inverse.to(device)]).sample
        squared = (predicted.float() - eps).square()
        error = squared[:batch].mean()
        if len(chosen):
            false = squared[batch:]
            error = error + weight * contrast_loss(squared[chosen], false)
        return error

    return loss


def contrast_loss(true: torch.Tensor, false: torch.Tensor) -> torch.Tensor:
    """Negative log-posterior of the true caption of two, in nats over half the dimensions.

    Args:
        true: Squared errors of the noise predicted with the true captions, `[b, c, h, w]`.
        false: With the false ones, of the same images, noises and times.
    """
    odds = (false - true).sum((1, 2, 3)) / 2
    return 2 / true[0].numel() * functional.softplus(-odds).mean()


def save(nets: dict[str, Any], tokens: Any, out: Path) -> None:
    """Write the pipeline in diffusers' folder format, fp16 safetensors."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline(
        vae=nets["vae"],
        text_encoder=nets["text_encoder"],
        tokenizer=tokens,
        unet=nets["unet"],
        scheduler=noise_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(out, safe_serialization=True)
