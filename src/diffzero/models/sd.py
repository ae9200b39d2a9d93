"""Stable Diffusion 1.x and 2.x, and everything else in their format: LoRA and fine-tunes included.

References:
    Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, 2021.
    https://arxiv.org/abs/2112.10752
"""

from __future__ import annotations

from ..errors import InputError
from .attention import cross_attention_modules
from .backbone import Backbone
from .cards import Card
from .codec import latents_for
from .conditioner import Text, TextStream
from .denoiser import UNet
from .family import Family, Parts

OTHER_INPUTS = (
    "addition_embed_type",
    "class_embed_type",
    "num_class_embeds",
    "time_cond_proj_dim",
    "encoder_hid_dim_type",
)


def build(parts: Parts, card: Card) -> Backbone:
    """A Stable Diffusion model of its parts.

    Raises:
        InputError: a U-Net that takes more than latents and text (inpainting, editing, SDXL,
            distilled guidance), or that does not fit the VAE.
    """
    unet, config = parts["unet"], parts["unet"].config
    for name in OTHER_INPUTS:
        if getattr(config, name, None) is not None:
            raise InputError(
                f"its U-Net wants more than noisy latents and text ({name} is "
                f"{getattr(config, name)!r}): models with image prompts, distilled guidance or "
                "sizes as input are not supported yet."
            )
    codec = latents_for(unet, parts["vae"])
    masked = bool(getattr(parts["text_encoder"].config, "use_attention_mask", False))
    stream = TextStream(parts, masked=masked)
    denoiser = UNet(unet, parts["scheduler"], card.prediction)
    text, maps = Text([stream], denoiser), cross_attention_modules(unet)
    halvings = len(config.block_out_channels) - 1
    return Backbone(card.name, codec, text, denoiser, attention=maps, halvings=halvings)


FAMILY = Family(
    "stable-diffusion",
    (
        "StableDiffusionPipeline",
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionInpaintPipeline",
        "StableDiffusionPipelineSafe",
    ),
    {
        "unet": ("UNet2DConditionModel",),
        "vae": ("AutoencoderKL", "AutoencoderTiny"),
        "text_encoder": ("CLIPTextModel",),
        "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
        "scheduler": (),
    },
    build,
)
