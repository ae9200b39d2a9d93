"""`tiny-flow`: Stable Diffusion 3's classes, small enough to train on one CPU core.

Its autoencoder is `tiny-sd`'s and stays as it is; latents are moved to mean 0 and scaled to
standard deviation 1 (`shift_factor`, `scaling_factor`). The first text encoder is `tiny-sd`'s,
which has read: its two layers give the states that the network attends to, and stay as they are,
while a third one, new, gives the vector of the whole prompt. A second CLIP encoder, T5 and the
transformer are new. They learn the velocity by flow matching (Lipman et al. 2023), on
`x_t = (1 - s) x_0 + s eps`:

    L = E ||(eps - x_0) - v_theta(x_t, s, text(c))||^2,   logit s ~ N(0, 1),

as Esser et al. draw s, with a caption drawn anew for every image and step, and the empty one at
times for guidance. Half of a batch is also given a false caption at the same noise, with s uniform
on `CONTRASTED`. With e the squared error summed over the D dimensions,

    L = ... + w (2 / D) E -log sigmoid((e(c_false) - e(c_true)) / 2),     w = 8,

see `stable_diffusion`. Where data are classes without captions to tell apart, the false caption is
that of another class, and the more often the nearer its mean image is. The transformer is thus
told what is *not* in an image, as a classifier would be: its accuracies say what the flow path of
this package can carry, not what flow matching alone learns.

Matrices of the blocks learn with Muon, the rest with AdamW; no other optimizer was tried.

References:
    Lipman et al., Flow Matching for Generative Modeling, 2023. https://arxiv.org/abs/2210.02747
    Esser et al., Scaling Rectified Flow Transformers, 2024. https://arxiv.org/abs/2403.03206
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from .. import data
from ..data import all_captions, held_out
from . import loop, tokenizer
from .captions import Captions, jitter
from .presets import preset_of
from .stable_diffusion import (
    CONTRAST_WEIGHT,
    DROPOUT,
    adopt,
    contrast_loss,
    parts_of,
    rows_of_words,
)

SIZE, WINDOW = 32, 16  # pixels; tokens of CLIP and of T5
WIDTH, BLOCKS, SECOND = 128, 4, 32  # of the transformer and the first encoder; of the second
JOINT = WIDTH + SECOND  # of T5, and so of the network's text
BATCH = {"cpu": 96, "gpu": 1024}
RATE = 2e-3
CONTRASTED = (0.1, 0.9)  # noise at which false captions are given
SHARES = {"digits": 0.2, "whole": 0.5}  # of a batch, where other sets have 1
STATISTICS = 2048  # images whose latents say shift and scale


def components(tokens: Any, t5_tokens: Any) -> dict[str, nn.Module]:
    """The networks that are new: transformer, text_encoder, text_encoder_2 and text_encoder_3."""
    from diffusers import SD3Transformer2DModel
    from transformers import CLIPTextModelWithProjection, T5Config, T5EncoderModel

    transformer = SD3Transformer2DModel(
        sample_size=SIZE // 4,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=BLOCKS,
        attention_head_dim=32,
        num_attention_heads=WIDTH // 32,
        caption_projection_dim=WIDTH,
        joint_attention_dim=JOINT,
        pooled_projection_dim=JOINT,
        pos_embed_max_size=8,
        qk_norm="rms_norm",
    )
    for name, module in transformer.named_modules():  # each block begins as the identity
        if isinstance(module, nn.Linear) and (".norm" in f".{name}" or name == "proj_out"):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    t5 = T5EncoderModel(
        T5Config(
            vocab_size=len(t5_tokens),
            d_model=JOINT,
            d_kv=40,
            d_ff=JOINT,
            num_layers=1,
            num_heads=4,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            pad_token_id=t5_tokens.pad_token_id,
            eos_token_id=t5_tokens.eos_token_id,
        )
    )
    return {
        "transformer": transformer,
        "text_encoder": CLIPTextModelWithProjection(clip_config(tokens, WIDTH, 3)),
        "text_encoder_2": CLIPTextModelWithProjection(clip_config(tokens, SECOND, 2)),
        "text_encoder_3": t5,
    }


def clip_config(tokens: Any, width: int, layers: int) -> Any:
    """A CLIP text encoder of this width, which projects to as many numbers."""
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=WINDOW,
        projection_dim=width,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )


@torch.no_grad()
def keep_reading(text: Any, old: Any, tokens: Any, known: Any) -> None:
    """Copy an encoder that has read into the first layers of `text`.

    Args:
        text: CLIPTextModelWithProjection of one layer more.
        old: CLIPTextModel.
        tokens: The tokenizer of `text`.
        known: That of `old`, whose words keep their embeddings.
    """
    inner, state = text.text_model, dict(old.state_dict())
    words, places = "embeddings.token_embedding.weight", "embeddings.position_embedding.weight"
    state[words] = rows_of_words(
        inner.embeddings.token_embedding.weight, state[words], tokens, known
    )
    state[places] = state[places][:WINDOW]
    inner.load_state_dict(state, strict=False)
    nn.init.eye_(text.text_projection.weight)


def freeze_reading(text: Any) -> None:
    """Nothing of `text` learns but its last layer and what follows."""
    inner = text.text_model
    for module in (inner.embeddings, *inner.encoder.layers[:-1]):
        module.requires_grad_(False)


class Network(nn.Module):
    """Transformer and text encoders, as `StableDiffusion3Pipeline` joins them."""

    def __init__(self, nets: dict[str, nn.Module]) -> None:
        super().__init__()
        self.nets = nn.ModuleDict(nets)

    def text(self, ids: Tensor, t5_ids: Tensor) -> tuple[Tensor, Tensor]:
        """States `[n, 2 WINDOW, JOINT]` and vectors `[n, JOINT]` of token ids `[n, WINDOW]`.

        The second CLIP encoder pads with token 0, as the pipeline's does.
        """
        nets: Any = self.nets
        first, second, third = (nets[f"text_encoder{k}"] for k in ("", "_2", "_3"))
        after = ids.eq(second.config.eos_token_id).cumsum(1) > 1
        found = [
            first(ids, output_hidden_states=True),
            second(ids.masked_fill(after, 0), output_hidden_states=True),
        ]
        clip = torch.cat([out.hidden_states[-2] for out in found], -1)
        clip = pad(clip, (0, JOINT - clip.shape[-1]))
        states = torch.cat([clip, third(t5_ids).last_hidden_state], 1)
        return states, torch.cat([out.text_embeds for out in found], -1)

    def forward(self, x: Tensor, s: Tensor, text: Tensor, pooled: Tensor) -> Tensor:
        """The velocity `[b, 4, h, w]` at noise `s` `[b]`."""
        return self.nets["transformer"](
            hidden_states=x,
            timestep=1000 * s,
            encoder_hidden_states=text,
            pooled_projections=pooled,
            return_dict=False,
        )[0]


def with_contrasts(labelled: data.Labelled) -> data.Labelled:
    """The set with captions to tell apart for each class: its own, then those of the others, the
    nearest mean image first."""
    if labelled.contrasts or labelled.whole:
        return labelled
    of_class = [labelled.labels == k for k in range(len(labelled.classes))]
    means = np.stack(  # a class without images is as near as the whole set
        [labelled.images[chosen if chosen.any() else ...].mean(0) for chosen in of_class]
    ).reshape(len(of_class), -1)
    order = np.square(means[:, None] - means[None]).sum(-1).argsort(1, kind="stable")
    said = [f"a photo of a {name}" for name in labelled.classes]
    return replace(labelled, contrasts=[[said[j] for j in row] for row in order])


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
        sources: Data sets, see `data.load`; `SHARES` says how they share a batch.
        out: Folder of the pipeline; progress is kept in `out/.train`.
        minutes: Budget.
        device: `cpu` or `cuda`.
        seed: Of initial weights and batches.
        preset: `cpu` or `gpu`, the size of batches; the one made for the device if None.
        init: Model of this recipe to go on from, or of the recipe `tiny-sd`, whose autoencoder
            and text encoder are taken; `tiny-sd` if None.
        log: Called with lines of progress.

    Raises:
        InputError: an unknown preset, or data that cannot be read.
    """
    from ..models.load import load

    batch = BATCH[preset_of(device, preset)]
    torch.manual_seed(seed)
    sets = [with_contrasts(held_out(data.load(s, SIZE))[0]) for s in sources]
    texts = all_captions(sets)
    tokens = [
        tokenizer.build(texts, out / "tokenizer", WINDOW, loop.has_begun(out)),
        tokenizer.build_t5(texts, out / "tokenizer_3", WINDOW, loop.has_begun(out)),
    ]
    old = parts_of(load(init or "tiny-sd", device="cpu", dtype="float32"))
    nets = components(*tokens)
    if init is None or {"unet", "text_encoder"} <= set(old):
        keep_reading(nets["text_encoder"], old["text_encoder"], tokens[0], old["tokenizer"])
    else:
        readers = {"": tokens[0], "_2": tokens[0], "_3": tokens[1]}
        words = {f"text_encoder{k}": (own, old.get(f"tokenizer{k}")) for k, own in readers.items()}
        adopt(nets, old, words, init)
    freeze_reading(nets["text_encoder"])
    vae = old["vae"].to(device).requires_grad_(False)
    network = Network(nets).to(device)
    log("  ".join(f"{k} {sum(p.numel() for p in m.parameters()):,}" for k, m in nets.items()))
    pixels = [torch.from_numpy(s.images).permute(0, 3, 1, 2) for s in sets]
    measure(vae, pixels, log)
    loss = flow_loss(network, vae, pixels, sets, Captions(sets, tokens[0]), tokens[1], batch)
    fit = loop.fit(
        network, loss, out / ".train" / "flow.pt", minutes, seed=seed, log=log,
        lr=RATE, ema_decay=0.9995, muon="transformer_blocks", warmup=50,
    )  # fmt: skip
    log(f"{fit['steps']:.0f} steps in {fit['seconds']:.0f} s, loss {fit['loss']:.4f}")
    save(nets, vae, tokens, out)


@torch.no_grad()
def measure(vae: Any, pixels: list[Tensor], log: Callable[[str], None]) -> None:
    """Put the mean and the inverse standard deviation of latents into the VAE's configuration."""
    each = STATISTICS // len(pixels)
    some = [p[torch.linspace(0, len(p) - 1, min(each, len(p))).long()] for p in pixels]
    z = torch.cat([vae.encode(to_input(p, vae)).latent_dist.mean.flatten() for p in some])
    log(f"latents of mean {float(z.mean()):.3f} and standard deviation {float(z.std()):.3f}")
    vae.register_to_config(scaling_factor=1 / float(z.std()), shift_factor=float(z.mean()))


def to_input(pixels: Tensor, vae: Any) -> Tensor:
    """uint8 to [-1, 1], where the VAE is."""
    return pixels.to(vae.device).float() / 127.5 - 1


def shares(sets: list[data.Labelled]) -> Tensor:
    """Share of a batch that each set gets: scenes half of what other sets get, digits a fifth."""
    share = torch.tensor([SHARES.get("whole" if s.whole else s.name, 1.0) for s in sets])
    return share / share.sum()


@torch.no_grad()
def latents_of(
    vae: Any,
    sets: list[data.Labelled],
    pixels: list[Tensor],
    index: list[Tensor],
    generator: torch.Generator,
) -> Tensor:
    """Posterior means of the chosen images of each set; the digits, which are few, jittered."""
    x = [to_input(p[i], vae) for p, i in zip(pixels, index, strict=True)]
    x = [jitter(p, generator) if s.name == "digits" else p for p, s in zip(x, sets, strict=True)]
    means = vae.encode(torch.cat(x)).latent_dist.mean.float()
    return (means - vae.config.shift_factor) * vae.config.scaling_factor


def flow_loss(
    network: Network,
    vae: Any,
    pixels: list[Tensor],
    sets: list[data.Labelled],
    captions: Captions,
    t5_tokens: Any,
    batch: int,
) -> Callable[[torch.Generator], Tensor]:
    """The module's L of a batch drawn with the generator."""
    weights, device = shares(sets), vae.device
    labels = [torch.from_numpy(s.labels) for s in sets]
    t5_ids = t5_tokens(
        captions.texts, padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids
    half = device.type != "cpu" or loop.bfloat16_pays()

    def loss(generator: torch.Generator) -> Tensor:
        drawn = captions.batch(
            [len(p) for p in pixels], labels, weights, batch, generator, DROPOUT
        )
        chosen = drawn.chosen
        s = times(batch, generator)
        low, high = CONTRASTED
        s[chosen] = low + (high - low) * torch.rand(len(chosen), generator=generator)
        unique, inverse = torch.cat([drawn.rows, drawn.wrong]).unique(return_inverse=True)
        twice = torch.cat([torch.arange(batch), chosen])
        with (
            torch.autocast(device.type, torch.bfloat16, half),
            loop.attention_of_few_tokens(device.type),
        ):
            x = latents_of(vae, sets, pixels, drawn.index, generator)
            eps = torch.randn(x.shape, generator=generator).to(device)
            at = s.to(device).view(-1, 1, 1, 1)
            x_t, target = (1 - at) * x + at * eps, eps - x
            states, pooled = network.text(
                captions.ids[unique].to(device), t5_ids[unique].to(device)
            )
            rows = inverse.to(device)
            said = network(x_t[twice], s[twice].to(device), states[rows], pooled[rows])
        squared = (said.float() - target[twice]).square()
        error = squared[:batch].mean()
        if len(chosen):
            error = error + CONTRAST_WEIGHT * contrast_loss(squared[chosen], squared[batch:])
        return error

    return loss


def times(n: int, generator: torch.Generator) -> Tensor:
    """`n` times whose logits are normal, one in each of n slices of equal probability."""
    u = (torch.arange(n) + torch.rand(n, generator=generator)) / n
    normal = torch.special.ndtri(u.clamp(1e-4, 1 - 1e-4))
    return torch.sigmoid(normal)[torch.randperm(n, generator=generator)]


def save(nets: dict[str, Any], vae: Any, tokens: Sequence[Any], out: Path) -> None:
    """Write the pipeline in diffusers' folder format, fp16 safetensors."""
    from copy import deepcopy

    from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

    vae.register_to_config(_name_or_path="tiny-sd")  # not the folder of whoever trained it
    second = deepcopy(tokens[0])
    second.pad_token = second.convert_ids_to_tokens(0)
    pipeline = StableDiffusion3Pipeline(
        **nets,
        vae=vae,
        tokenizer=tokens[0],
        tokenizer_2=second,
        tokenizer_3=tokens[1],
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    pipeline.to(torch.float16).save_pretrained(out, safe_serialization=True)
