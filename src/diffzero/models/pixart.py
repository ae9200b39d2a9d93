"""PixArt alpha and Sigma: a transformer on latents that attends to T5's last states.

T5 and the network are told which tokens are padding. Masks cannot be averaged: a soft condition
puts the states of all K prompts side by side, and adds `log w_c` to the scores of prompt c's
tokens,

    A = softmax([Q K_1^T / sqrt(d) + log w_1, ..., Q K_K^T / sqrt(d) + log w_K]),

which is prompt c itself at `w_c = 1`, and differentiable. Prompts are lower-cased and stripped, as
the pipelines do. Half of the output channels are a variance, which no method needs.

References:
    Chen et al., PixArt-alpha, 2023. https://arxiv.org/abs/2310.00426
    Chen et al., PixArt-Sigma, 2024. https://arxiv.org/abs/2403.04692
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError
from .attention import cross_attention_modules
from .backbone import Backbone
from .cards import Card
from .codec import latents_for
from .conditioner import Condition, Encoded, Text, TextStream
from .denoiser import DiscreteNetwork
from .family import Family, Parts
from .texts import side_by_side

WINDOWS = {True: 300, False: 120}  # tokens of T5: of Sigma, and of alpha


class PixArtText(Text):
    """T5's states and its mask."""

    def join(self, found: list[Encoded]) -> dict[str, Tensor]:
        """Both, of the one encoder."""
        ((states, _, mask),) = found
        return {"text": states, "mask": mask}

    def mix(self, cond: Condition, weights: Tensor) -> Condition:
        """All prompts side by side, see `texts.side_by_side`."""
        return side_by_side(cond, weights)


class PixArtTransformer(DiscreteNetwork):
    """PixArt's network. Some are told the size of images: `factor` pixels a place of `x_0`."""

    factor = 8

    def _run(self, x: Tensor, step: Tensor, cond: Condition) -> Tensor:
        sizes: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if self.network.use_additional_conditions:
            side = torch.tensor(x.shape[-2:], device=x.device, dtype=x.dtype) * self.factor
            sizes["resolution"] = side.expand(len(x), 2)
            sizes["aspect_ratio"] = (side[:1] / side[1:]).expand(len(x), 1)
        return self.network(
            x,
            encoder_hidden_states=cond.tensors["text"],
            timestep=step,
            added_cond_kwargs=sizes,
            encoder_attention_mask=cond.tensors["mask"],
            return_dict=False,
        )[0]


def build(parts: Parts, card: Card) -> Backbone:
    """PixArt of its parts.

    Raises:
        InputError: a network that sees an image in its input, or a Sigma that wants sizes.
    """
    network = parts["transformer"]
    codec = latents_for(network, parts["vae"])
    new = "Sigma" in str(parts.get("pipeline", {}).get("_class_name", ""))
    if new and network.use_additional_conditions:
        raise InputError(
            "its config does not say that use_additional_conditions is false, so that the network "
            "was built with embeddings of sizes that no Sigma has; set it in "
            "transformer/config.json."
        )
    stream = TextStream(parts, window=WINDOWS[new], start=False, lower=True, masked=True)
    denoiser = PixArtTransformer(network, parts["scheduler"], card.prediction)
    denoiser.factor = codec.factor
    text = PixArtText([stream], denoiser)
    maps = cross_attention_modules(network)
    return Backbone(card.name, codec, text, denoiser, attention=maps, halvings=1)


FAMILY = Family(
    "pixart",
    ("PixArtAlphaPipeline", "PixArtSigmaPipeline", "PixArtSigmaPAGPipeline"),
    {
        "transformer": ("PixArtTransformer2DModel",),
        "vae": ("AutoencoderKL", "AutoencoderTiny"),
        "text_encoder": ("T5EncoderModel",),
        "tokenizer": ("T5Tokenizer", "T5TokenizerFast"),
        "scheduler": (),
    },
    build,
    packages={"sentencepiece": "T5 reads its vocabulary with it"},
    aliases={"Transformer2DModel": "PixArtTransformer2DModel"},
)
