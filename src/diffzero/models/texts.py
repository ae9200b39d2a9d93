"""Prompts side by side, and prompts of text encoders that were let go."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .conditioner import Condition, Conditioner

MASKED = -10_000.0  # what diffusers adds to scores of padding
LEAST = 1e-30  # a weight, of which the logarithm must be finite


def side_by_side(cond: Condition, weights: Tensor) -> Condition:
    """Soft conditions of a network that attends to text under a mask.

    Masks cannot be averaged: the states of all K prompts stand side by side, `[b, K window, d]`,
    and the mask becomes a bias `[b, 1, K window]`, which adds `log w_c` to the scores of prompt
    c's tokens.

    Args:
        cond: `text` and `mask` of the K prompts.
        weights: `[b, K]`, rows on the simplex.
    """
    text, mask = cond.tensors["text"], cond.tensors["mask"]
    bias = weights.clamp(min=LEAST).log()[:, :, None] + (1 - mask) * MASKED
    side = text.flatten(0, 1).expand(len(weights), -1, -1)
    return Condition({"text": side, "mask": bias.flatten(1)[:, None].to(text.dtype)})


class Remembered(Conditioner):
    """Prompts that were embedded before the text encoders were released.

    Args:
        inner: What embedded them; the encoders are dropped from a copy of it.
        prompts: All that the model will be able to read.

    Raises:
        InputError: a conditioner without text encoders, or a prompt that it cannot take.
    """

    def __init__(self, inner: Any, prompts: Sequence[str]) -> None:
        if not getattr(inner, "streams", None):
            raise InputError("This model has no text encoders to release.")
        known = list(dict.fromkeys(prompts))
        self.table, self.signatures = inner.embed(known), inner.signature(known)
        self.rows = {prompt: i for i, prompt in enumerate(known)}
        self.inner = copy(inner)
        self.inner.streams, self.inner.stream, self.inner.alike = [], None, []

    def embed(self, prompts: list[str]) -> Condition:
        """The remembered conditions.

        Raises:
            InputError: a prompt that was not embedded in time.
        """
        return self.table[torch.tensor(self._places(prompts))]

    def signature(self, prompts: list[str]) -> list[Any]:
        """As it was before the release."""
        return [self.signatures[i] for i in self._places(prompts)]

    def mix(self, cond: Condition, weights: Tensor) -> Condition:
        """As the model's own conditioner mixes."""
        return self.inner.mix(cond, weights)

    def _places(self, prompts: Sequence[str]) -> list[int]:
        for prompt in prompts:
            if prompt not in self.rows:
                raise InputError(
                    f"The text encoders were released before {prompt!r} was embedded; load the "
                    "model again, and name all prompts when you release them."
                )
        return [self.rows[prompt] for prompt in prompts]
