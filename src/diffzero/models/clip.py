"""CLIP: the baseline, as a pair of encoders. Any transformers CLIP checkpoint.

References:
    Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021.
    https://arxiv.org/abs/2103.00020
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..errors import InputError
from ..images import trim
from .backbone import Temperature, naming, running
from .cards import Card
from .conditioner import PROMPTS_AT_ONCE, check_end, check_fits, padded, text_window
from .family import Family, Parts


class ClipBackbone:
    """Image and text features of unit length.

    Args:
        model: A `CLIPModel`.
        tokenizer: Its tokenizer.
        processor: Its image processor.
        name: For messages and records.
    """

    template = "a photo of a {}"

    def __init__(self, model: Any, tokenizer: Any, processor: Any, name: str = "clip") -> None:
        self.model, self.tokenizer, self.processor = model.eval(), tokenizer, processor
        self.name = name
        self.device, self.dtype = model.device, model.dtype
        self.logit_scale = float(model.logit_scale.detach().exp())
        self.temperatures: tuple[Temperature, ...] = ()
        self.none_threshold: float | None = None
        self.vocabulary: frozenset[str] | None = None
        self.window = text_window(tokenizer, model.config.text_config)

    @torch.no_grad()
    def image_features(self, images: Sequence[np.ndarray]) -> Tensor:
        """uint8 RGB images `[h, w, 3]` to unit vectors `[b, d]`."""
        from PIL import Image

        side = self.model.config.vision_config.image_size
        with running(self.name, "image encoder"):
            if getattr(self.processor, "do_center_crop", True):  # else all of it becomes a square
                images = [trim(image, side) for image in images]
            pixels = self.processor([Image.fromarray(i) for i in images], return_tensors="pt")
            values = pixels["pixel_values"].to(self.device, self.dtype)
            return functional.normalize(as_vectors(self.model.get_image_features(values)), dim=-1)

    @torch.no_grad()
    def text_features(self, prompts: list[str]) -> Tensor:
        """Prompts to unit vectors `[n, d]`."""
        room = self.window - self.tokenizer.num_special_tokens_to_add()
        rows = self.tokenizer(prompts).input_ids
        with naming(self.name):
            for prompt, row in zip(prompts, rows, strict=True):
                check_fits(prompt, row[1:-1], room)
        # On the right whatever the tokenizer's file says: the encoder ends at the first end token.
        both = padded(rows, self.window, self.tokenizer.pad_token_id)
        ids, mask = (x.to(self.device).split(PROMPTS_AT_ONCE) for x in both)
        with running(self.name, "text encoder"):
            features = [
                as_vectors(self.model.get_text_features(*some))
                for some in zip(ids, mask, strict=True)
            ]
            return functional.normalize(torch.cat(features), dim=-1)

    def default_batch_size(self) -> int:
        """Images per network call when the user names no number."""
        return 256

    def networks(self) -> dict[str, Any]:
        """The parts that have weights, by name."""
        return {"network": self.model}

    def signature(self, prompts: list[str]) -> list[Any]:
        """Token ids."""
        return [tuple(ids) for ids in self.tokenizer(prompts).input_ids]


def as_vectors(features: Any) -> Tensor:
    """transformers 5 wraps features in an output object, transformers 4 gives the tensor."""
    return features if isinstance(features, Tensor) else features.pooler_output


def build(parts: Parts, card: Card) -> ClipBackbone:
    """A CLIP model of its parts.

    Raises:
        InputError: an image processor that makes images of another size than the model takes.
    """
    side = parts["model"].config.vision_config.image_size
    made = parts["processor"].crop_size or {}
    sides = {made.get("height", side), made.get("width", side)}
    if sides != {side} and getattr(parts["processor"], "do_center_crop", True):
        raise InputError(
            f"its preprocessor_config.json makes images of {max(sides)} pixels (crop_size), and "
            f"the model takes {side}; the two do not belong together."
        )
    if parts["model"].logit_scale.numel() != 1:
        raise InputError("its logit_scale is not one number; the weights are damaged.")
    check_end(parts["tokenizer"], parts["model"].config.text_config)
    return ClipBackbone(parts["model"], parts["tokenizer"], parts["processor"], card.name)


FAMILY = Family(
    "clip",
    (),
    {
        "model": ("CLIPModel",),
        "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
        "processor": ("CLIPImageProcessor", "CLIPImageProcessorFast"),
    },
    build,
)
