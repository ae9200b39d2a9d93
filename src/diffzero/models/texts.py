"""Several text encoders, and text encoders that were let go."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .conditioner import Condition, Conditioner, Encoded, Text, TextStream, check_end

MASKED = -10_000.0  # what diffusers adds to scores of padding
LEAST = 1e-30  # a weight, of which the logarithm must be finite


class Texts(Text):
    """Text of several encoders: a subclass says what the network is given of them.

    Each encoder has its own tokenizer, padding and window. Attention maps and learned words deal
    in the tokens of the first one. Encoders that share its vocabulary read the same tokens, and a
    learned word has a vector for each, side by side. An encoder of another vocabulary reads the
    words that those tokens spell, and where a word is learned, the prompt without it.

    Args:
        streams: The encoders.
        dtype: Of the network that reads the conditions.
        device: Of that network.

    Raises:
        InputError: a CLIP encoder and a tokenizer that mean different ends of a prompt.
    """

    def __init__(
        self, streams: Sequence[TextStream], dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__(streams[0], dtype, device)
        self.streams = list(streams)
        for stream in self.streams:
            check_end(stream.tokenizer, stream.encoder.config)
        own = streams[0].tokenizer.get_vocab()
        self.alike = [s for s in streams if s.tokenizer.get_vocab() == own]

    @abstractmethod
    def join(self, found: list[Encoded]) -> dict[str, Tensor]:
        """See `Text.join`."""

    def fits(self, ids: list[int]) -> bool:
        """See `Text.fits`; encoders of another vocabulary may need more tokens for the words."""
        others = [stream for stream in self.streams if stream not in self.alike]
        return super().fits(ids) and all(
            len(stream.pieces([self._spelled(ids)])[0]) <= stream.room for stream in others
        )

    def token_vectors(self, ids: list[int]) -> Tensor:
        """Input embeddings of token ids, `[n, d]`: those of all encoders that share the first
        one's vocabulary, side by side."""
        return torch.cat([stream.vectors(ids) for stream in self.alike], 1)

    def embed_tokens(
        self,
        rows: list[list[int]],
        vectors: Tensor | None = None,
        places: list[int] | None = None,
    ) -> Condition:
        """Conditions of prompts given as the first encoder's token ids, see `TextStream.embed`."""
        parts: list[Any] = [None] * len(self.alike)
        known = rows
        if vectors is not None and places is not None:
            widths = [stream.vectors([0]).shape[1] for stream in self.alike]
            parts = list(vectors.split(widths, dim=1))
            known = [[*r[:p], *r[p + 1 :]] for r, p in zip(rows, places, strict=True)]
        found = []
        for stream in self.streams:
            if stream in self.alike:
                found.append(stream.embed(rows, parts[self.alike.index(stream)], places))
            else:
                found.append(stream.embed(stream.pieces([self._spelled(ids) for ids in known])))
        return self._condition(found)

    def _spelled(self, ids: list[int]) -> str:
        """The words of the first encoder's token ids."""
        text = self.stream.tokenizer.decode(ids)
        return text.replace("</w>", " ").strip()  # CLIP's ends of words, if nothing decodes them

    def signature(self, prompts: list[str]) -> list[Any]:
        """Token ids of every encoder."""
        each = [[tuple(ids) for ids in stream.pieces(prompts)] for stream in self.streams]
        return list(zip(*each, strict=True))


def side_by_side(cond: Condition, weights: Tensor) -> Condition:
    """Soft conditions of a network that attends to text under a mask.

    Masks cannot be averaged: the states of all K prompts stand side by side, `[b, K window, d]`,
    and a bias `[b, 1, K window]` adds `log w_c` to the scores of prompt c's tokens.

    Args:
        cond: `text` and `mask` of the K prompts.
        weights: `[b, K]`, rows on the simplex.
    """
    text, mask = cond.tensors["text"], cond.tensors["mask"]
    bias = weights.clamp(min=LEAST).log()[:, :, None] + (1 - mask) * MASKED
    side = text.flatten(0, 1).expand(len(weights), -1, -1)
    return Condition({"text": side, "bias": bias.flatten(1)[:, None]})


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
        self.inner.streams, self.inner.stream = [], None
        if isinstance(self.inner, Texts):
            self.inner.alike = []

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
