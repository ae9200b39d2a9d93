"""LDM: latent diffusion under a class, a `UNet2DModel` with class labels on a VAE's latents.

diffusers' `LDMPipeline` itself samples without a class; the class is in the U-Net. As with pixel
models, the names of the classes live in the card.

References:
    Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, 2021.
    https://arxiv.org/abs/2112.10752
"""

from __future__ import annotations

from .backbone import Backbone
from .cards import Card
from .codec import latents_for
from .ddpm import class_unet
from .family import Family, Parts


def build(parts: Parts, card: Card) -> Backbone:
    """A class-conditional latent model of its parts.

    Raises:
        InputError: parts that do not fit each other, a U-Net without class labels, or names that
            do not fit their number.
    """
    network = parts["unet"]
    codec = latents_for(network, parts["vqvae"])
    table, unet = class_unet(network, parts["scheduler"], card)
    halvings = len(network.config.block_out_channels) - 1
    return Backbone(card.name, codec, table, unet, template="{}", halvings=halvings)


FAMILY = Family(
    "ldm",
    ("LDMPipeline",),
    {
        "unet": ("UNet2DModel",),
        "vqvae": ("AutoencoderKL", "AutoencoderTiny"),
        "scheduler": (),
    },
    build,
)
