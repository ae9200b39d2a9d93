"""Class-conditional pixel diffusion: any diffusers `UNet2DModel` with class labels.

The words such a model knows are the names of its classes. They live in the card (`classes` in
`card.yaml`), since the network's own config has only their number.

References:
    Ho et al., Denoising Diffusion Probabilistic Models, 2020. https://arxiv.org/abs/2006.11239
    Ho and Salimans, Classifier-Free Diffusion Guidance, 2022. https://arxiv.org/abs/2207.12598
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from ..errors import InputError
from .backbone import Backbone
from .cards import Card
from .codec import Pixels
from .conditioner import ClassTable, Condition
from .denoiser import UNet
from .family import Family, Parts
from .hooks import output_replaced


class ClassUNet(UNet):
    """A `UNet2DModel` with class labels; soft conditions replace what its embedding gives."""

    def _run(self, x: Tensor, step: Tensor, cond: Condition) -> Tensor:
        soft = cond.tensors.get("embedding")
        rows = cond.tensors["class"] if soft is None else torch.zeros_like(step, dtype=torch.long)
        embedded = (
            nullcontext()
            if soft is None
            else output_replaced(self.network.class_embedding, lambda output: soft)
        )
        with embedded:
            return self.network(x, step, class_labels=rows, return_dict=False)[0]


def build(parts: Parts, card: Card) -> Backbone:
    """A class-conditional model of its parts.

    Raises:
        InputError: a network without class labels, or names that do not fit their number.
    """
    unet = parts["unet"]
    if not unet.config.num_class_embeds:
        raise InputError(
            "the U-Net has no class labels (num_class_embeds), so it cannot tell classes apart. "
            "Use a class-conditional model."
        )
    channels, patch = unet.config.in_channels, card.patch
    side = unet.config.sample_size
    step = 2 / 255 if card.grey_step is None else card.grey_step
    codec = Pixels(
        channels // patch**2, side * patch if isinstance(side, int) else side, step, patch
    )
    denoiser = ClassUNet(unet, parts["scheduler"], card.prediction)
    rows, embedding = unet.config.num_class_embeds, unet.class_embedding
    table = ClassTable(card.classes, rows, denoiser.device, embedding)
    return Backbone(card.name, codec, table, denoiser, template="{}")


FAMILY = Family(
    "ddpm",
    ("DDPMPipeline", "DDIMPipeline"),
    {"unet": ("UNet2DModel",), "scheduler": ()},
    build,
)
