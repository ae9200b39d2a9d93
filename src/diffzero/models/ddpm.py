"""Class-conditional pixel diffusion: a `UNet2DModel` with class labels.

The words such a model knows are the names of its classes. They live in the card (`classes` in
`card.yaml`), since the network's own config has only their number.

References:
    Ho et al., Denoising Diffusion Probabilistic Models, 2020. https://arxiv.org/abs/2006.11239
    Ho and Salimans, Classifier-Free Diffusion Guidance, 2022. https://arxiv.org/abs/2207.12598
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .backbone import Backbone
from .cards import Card
from .codec import Pixels, square_side
from .conditioner import ClassTable, Condition
from .denoiser import UNet
from .family import Family, Parts
from .hooks import output_replaced


class ClassUNet(UNet):
    """A `UNet2DModel` with class labels; soft conditions replace what its embedding gives."""

    def _run(self, x: Tensor, step: Tensor, cond: Condition) -> Tensor:
        soft = cond.tensors.get("embedding")
        if soft is None:
            return self.network(x, step, cond.tensors["class"], return_dict=False)[0]
        with output_replaced(self.network.class_embedding, lambda output: soft):
            return self.network(x, step, torch.zeros_like(step).long(), return_dict=False)[0]


def build(parts: Parts, card: Card) -> Backbone:
    """A class-conditional model of its parts.

    Raises:
        InputError: a network without class labels, or names that do not fit their number.
    """
    config, patch = parts["unet"].config, card.patch
    step = 2 / 255 if card.grey_step is None else card.grey_step
    side = square_side(config.sample_size) * patch
    codec = Pixels(config.in_channels // patch**2, side, step, patch)
    table, unet = class_unet(parts["unet"], parts["scheduler"], card)
    return Backbone(card.name, codec, table, unet, template="{}")


def class_unet(network: Any, scheduler: Any, card: Card) -> tuple[ClassTable, ClassUNet]:
    """The table of classes and the denoiser of a `UNet2DModel`.

    Raises:
        InputError: a network without class labels, or names that do not fit their number.
    """
    if not network.config.num_class_embeds:
        raise InputError(
            "the U-Net has no class labels (num_class_embeds), so it cannot tell classes apart. "
            "Use a class-conditional model."
        )
    unet = ClassUNet(network, scheduler, card.prediction)
    rows = network.config.num_class_embeds
    return ClassTable(card.classes, rows, unet.device, network.class_embedding), unet


FAMILY = Family(
    "ddpm",
    ("DDPMPipeline", "DDIMPipeline"),
    {"unet": ("UNet2DModel",), "scheduler": ()},
    build,
)
