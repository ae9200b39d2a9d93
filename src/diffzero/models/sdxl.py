"""Stable Diffusion XL and its fine-tunes.

The U-Net attends to the last states but one of two CLIP encoders side by side, 768 + 1280 numbers
a token. It is also told the second encoder's vector of the whole prompt, and six sizes: original
height and width, the crop's corner, height and width wanted: `(s, s, 0, 0, s, s)` for s pixels.

References:
    Podell et al., SDXL, 2023. https://arxiv.org/abs/2307.01952
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .attention import cross_attention_modules
from .backbone import Backbone
from .cards import Card
from .codec import latents_for
from .conditioner import Condition, Encoded, Text, TextStream
from .denoiser import UNet
from .family import Family, Parts


class XLText(Text):
    """Two CLIP encoders. With `zeros` the empty prompt is zeros, not what they make of it."""

    zeros = True

    def join(self, found: list[Encoded]) -> dict[str, Tensor]:
        """States of both, the second's vector."""
        return {"text": torch.cat([f[0] for f in found], -1), "pooled": found[1][1]}

    def embed(self, prompts: list[str]) -> Condition:
        """Conditions of whole prompts."""
        cond = super().embed(prompts)
        empty = torch.tensor([self.zeros and prompt == "" for prompt in prompts])
        for tensor in cond.tensors.values():
            tensor[empty.to(tensor.device)] = 0
        return cond


class XLUNet(UNet):
    """SDXL's U-Net, which is told the size of images: `factor` pixels a place of `x_0`."""

    factor = 8

    def _run(self, x: Tensor, step: Tensor, cond: Condition) -> Tensor:
        h, w = (n * self.factor for n in x.shape[-2:])
        # In float32: half precision does not hold every size, and the network casts later.
        sizes = torch.tensor([[h, w, 0, 0, h, w]], dtype=torch.float32, device=x.device)
        more = {"text_embeds": cond.tensors["pooled"], "time_ids": sizes.expand(len(x), -1)}
        text = cond.tensors["text"]
        return self.network(x, step, text, added_cond_kwargs=more, return_dict=False)[0]


def build(parts: Parts, card: Card) -> Backbone:
    """Stable Diffusion XL of its parts.

    Raises:
        InputError: the refiner, editing and consistency models, image prompts.
    """
    unet, pipeline = parts["unet"], parts.get("pipeline", {})
    if "text_encoder" not in parts or pipeline.get("requires_aesthetics_score"):
        raise InputError("this is SDXL's refiner, which knows only weak noise; load the base.")
    codec = latents_for(unet, parts["vae"])
    streams = [TextStream(parts, end, layer=-2) for end in ("", "_2")]
    check_conditions(unet.config, parts["text_encoder_2"].config.projection_dim)
    denoiser = XLUNet(unet, parts["scheduler"], card.prediction)
    denoiser.factor = codec.factor
    text = XLText(streams, denoiser)
    text.zeros = bool(pipeline.get("force_zeros_for_empty_prompt", True))
    model = Backbone(card.name, codec, text, denoiser, attention=cross_attention_modules(unet))
    model.halvings = len(unet.config.block_out_channels) - 1
    return model


def check_conditions(config: Any, pooled: int) -> None:
    """Refuse a U-Net of other conditions than two encoders' and six sizes.

    Raises:
        InputError: naming what it wants.
    """
    if config.time_cond_proj_dim is not None:
        raise InputError(
            "its U-Net is told its guidance (time_cond_proj_dim), as latent consistency models "
            "are; they draw in few steps and are not supported yet."
        )
    if config.encoder_hid_dim_type is not None or config.addition_embed_type != "text_time":
        raise InputError("its U-Net wants an image prompt (IP-Adapter), or is not SDXL's.")
    width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    if width != pooled:
        raise InputError(
            f"its U-Net wants {width} numbers of the prompt beside six sizes, and the second text "
            f"encoder gives {pooled}; they do not belong together."
        )


FAMILY = Family(
    "sdxl",
    tuple(f"StableDiffusionXL{kind}Pipeline" for kind in ("", "Img2Img", "Inpaint")),
    {
        "unet": ("UNet2DConditionModel",),
        "vae": ("AutoencoderKL", "AutoencoderTiny"),
        "text_encoder": ("CLIPTextModel",),
        "text_encoder_2": ("CLIPTextModelWithProjection",),
        "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
        "tokenizer_2": ("CLIPTokenizer", "CLIPTokenizerFast"),
        "scheduler": (),
    },
    build,
    optional=("text_encoder", "tokenizer"),  # which the refiner lacks, to be refused by name
)
