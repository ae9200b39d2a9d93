"""CLIP: the rival, as a pair of encoders. Any transformers CLIP checkpoint.

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

from .stable_diffusion import check_room


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
        self.temperatures: dict[str, dict[int, float]] = {}
        self.vocabulary: frozenset[str] | None = None

    @torch.no_grad()
    def image_features(self, images: Sequence[np.ndarray]) -> Tensor:
        """uint8 RGB images `[h, w, 3]` to unit vectors `[b, d]`."""
        from PIL import Image

        pixels = self.processor([Image.fromarray(i) for i in images], return_tensors="pt")
        values = pixels["pixel_values"].to(self.device, self.dtype)
        return functional.normalize(as_vectors(self.model.get_image_features(values)), dim=-1)

    @torch.no_grad()
    def text_features(self, prompts: list[str]) -> Tensor:
        """Prompts to unit vectors `[n, d]`."""
        room = self.tokenizer.model_max_length - self.tokenizer.num_special_tokens_to_add()
        check_room(self.tokenizer, prompts, self.name, room)
        batch = self.tokenizer(
            prompts,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            return_tensors="pt",
        ).to(self.device)
        features = self.model.get_text_features(batch.input_ids, batch.attention_mask)
        return functional.normalize(as_vectors(features), dim=-1)

    def signature(self, prompts: list[str]) -> list[Any]:
        """Token ids."""
        return [tuple(ids) for ids in self.tokenizer(prompts).input_ids]


def as_vectors(features: Any) -> Tensor:
    """transformers 5 wraps features in an output object, transformers 4 gives the tensor."""
    return features if isinstance(features, Tensor) else features.pooler_output
