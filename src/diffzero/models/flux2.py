"""Flux.2 [klein]: a flow transformer on normalised 2 x 2 patches of latents under Qwen's text.

Qwen reads the prompt as a user's turn of a chat; the network is given the outputs of its 9th, 18th
and 27th blocks side by side, padding and all. `x_0` are the patches, each channel normalised by
the running statistics that the autoencoder keeps. As Flux.1's, the network casts time to its own
precision before it multiplies it by 1000. [dev], whose prompts Mistral reads, is not supported
yet.

References:
    Black Forest Labs, https://github.com/black-forest-labs/flux2
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .backbone import Backbone
from .cards import Card
from .codec import Latents, check_channels
from .conditioner import Condition
from .family import Family, Parts
from .flux import FluxTransformer
from .language import ChatText

WINDOW = 512  # tokens of Qwen, the chat's included
SIDE = 64  # of x_0 where the card says no resolution: 1024 pixels


class PatchLatents(Latents):
    """Patches of the posterior's mean, `(unshuffle(E(image)) - mean) / std` of each channel."""

    patch = 2

    def __init__(self, vae: Any, side: int) -> None:
        config = vae.config
        self.vae, self.tiny, self.most = vae.eval(), False, None
        self.factor = 2 ** len(config.block_out_channels)  # the patch's 2 included
        self.shape, self.image_size = (4 * config.latent_channels, side, side), side * self.factor
        variance = vae.bn.running_var + config.batch_norm_eps
        self.shift = vae.bn.running_mean.detach().view(-1, 1, 1)
        self.scale = 1 / variance.detach().sqrt().view(-1, 1, 1)


class Flux2Text(ChatText):
    """Three of Qwen's layers, whose padding the network reads."""

    layers, masked, thinking = (8, 17, 26), False, False


class Flux2Transformer(FluxTransformer):
    """Flux.2's network, which is given patches as a sequence, and places of patches and tokens."""

    def _run(self, x: Tensor, s: Tensor, cond: Condition) -> Tensor:
        text, (h, w) = cond.tensors["text"], x.shape[-2:]
        zero, *axes = (torch.arange(n, device=x.device) for n in (1, h, w, text.shape[1]))
        output = self.network(
            hidden_states=x.flatten(2).transpose(1, 2),
            encoder_hidden_states=text,
            timestep=s.to(self.dtype),
            img_ids=torch.cartesian_prod(zero, axes[0], axes[1], zero),
            txt_ids=torch.cartesian_prod(zero, zero, zero, axes[2]),
            return_dict=False,
        )[0]
        return output.transpose(1, 2).unflatten(2, (h, w))


def build(parts: Parts, card: Card) -> Backbone:
    """Flux.2 [klein] of its parts.

    Raises:
        InputError: a network that sees an image in its input.
    """
    network, codec = parts["transformer"], PatchLatents(parts["vae"], SIDE)
    check_channels(network.config.in_channels // 4, parts["vae"])
    denoiser = Flux2Transformer(network)
    text = Flux2Text(parts, card.window or WINDOW, denoiser)
    model = Backbone(card.name, codec, text, denoiser)
    if parts.get("pipeline", {}).get("is_distilled"):
        model.distilled = True
        model.unguided = "It is distilled, without an unconditional branch: guidance must stay 1."
    return model


FAMILY = Family(
    "flux2",
    ("Flux2KleinPipeline",),
    {
        "transformer": ("Flux2Transformer2DModel",),
        "vae": ("AutoencoderKLFlux2",),
        "text_encoder": ("Qwen3ForCausalLM", "Qwen3Model"),
        "tokenizer": ("Qwen2Tokenizer", "Qwen2TokenizerFast"),
        "scheduler": (),
    },
    build,
    flow=True,
)
