"""Language models as text encoders: a prompt is read whole, within an instruction or a chat."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .conditioner import Condition, Conditioner, padded
from .family import Parts
from .hooks import output_seen

AT_ONCE = 32  # prompts


@dataclass(frozen=True)
class LanguageStream:
    """A language model with its tokenizer."""

    tokenizer: Any
    encoder: Any


class LanguageText(Conditioner):
    """Text that a language model reads: its states `[n, window, d]` and their mask `[n, window]`.

    Single words have no places of their own in an instruction or a chat, so that methods that make
    prompts out of tokens (attention maps, learned words) cannot use it.

    Args:
        parts: A checkpoint's `tokenizer`, and its language model as `text_encoder`, of which the
            weights are used in place, and the head is not run.
        window: Tokens that the network is given, padding included.
        reader: The denoiser, in whose precision and place conditions are given.

    Attributes:
        layers: Blocks whose outputs are the states, side by side; the model's own last states if
            empty.
        masked: The network is told which tokens are padding.
        mixes: States of several prompts can be averaged. They cannot where prompts of their own
            lengths stand in one sequence with the image.
        streams: The language model; empty when it was released.
    """

    layers: tuple[int, ...] = ()
    masked: bool = True
    mixes: bool = True

    def __init__(self, parts: Parts, window: int, reader: Any) -> None:
        self.stream = LanguageStream(parts["tokenizer"], parts["text_encoder"].eval())
        self.streams, self.window = [self.stream], window
        self.dtype, self.device = reader.dtype, reader.device

    def framed(self, prompt: str) -> str:
        """What the language model reads of a prompt."""
        return prompt

    def cut(self, prompt: str) -> int:
        """Tokens of the frame that the network is not given, after the first one."""
        return 0

    def embed(self, prompts: list[str]) -> Condition:
        """States of whole prompts.

        Raises:
            InputError: a prompt of more tokens than there is room for.
        """
        rows: list[tuple[Tensor, Tensor]] = [None] * len(prompts)  # type: ignore[list-item]
        for cut in sorted({self.cut(prompt) for prompt in prompts}):
            places = [i for i, prompt in enumerate(prompts) if self.cut(prompt) == cut]
            for at in range(0, len(places), AT_ONCE):
                some = places[at : at + AT_ONCE]
                states, mask = self._read([prompts[i] for i in some], cut)
                for i, *row in zip(some, states, mask, strict=True):
                    rows[i] = (row[0], row[1])
        states, mask = (torch.stack(tensors) for tensors in zip(*rows, strict=True))
        text = {"text": states.to(self.device, self.dtype)}
        return Condition(text | ({"mask": mask.to(self.device)} if self.masked else {}))

    @torch.no_grad()
    def _read(self, prompts: list[str], cut: int) -> tuple[Tensor, Tensor]:
        """States and mask of prompts whose frames are equally long."""
        length, found = self.window + cut, self.signature(prompts)
        if max(map(len, found)) > length:
            long = max(prompts, key=len)
            raise InputError(
                f"The model reads {self.window} tokens with what stands around a prompt; "
                f"{long[:60]!r}... has more. Shorten the label or the template."
            )
        ids, mask = padded(found, length, self.stream.tokenizer.pad_token_id)
        inner = self.stream.encoder
        inner = getattr(inner, "model", inner)  # without the head, which predicts words
        mask = mask.to(inner.device)
        with ExitStack() as stack:
            seen = [stack.enter_context(output_seen(inner.layers[k])) for k in self.layers]
            out = inner(ids.to(inner.device), attention_mask=mask, use_cache=False)
        states = torch.cat([s[0] for s in seen], -1) if seen else out[0]
        kept = [0, *range(cut + 1, length)]
        return states[:, kept], mask[:, kept]

    def signature(self, prompts: list[str]) -> list[Any]:
        """Token ids of what is read."""
        ids = self.stream.tokenizer([self.framed(p) for p in prompts]).input_ids
        return [tuple(row) for row in ids]

    def mix(self, cond: Condition, weights: Tensor) -> Condition:
        """As elsewhere.

        Raises:
            InputError: a model whose prompts cannot be averaged.
        """
        if not self.mixes:
            raise InputError(
                "Prompts of their own lengths stand in one sequence with the image here, which "
                "cannot be mixed; use another method than weighted."
            )
        return super().mix(cond, weights)


class ChatText(LanguageText):
    """Prompts as a user's turn of a chat.

    Attributes:
        thinking: The answer may begin with thoughts; else it begins after none.

    Raises:
        InputError: a tokenizer without a chat template.
    """

    thinking: bool

    def __init__(self, parts: Parts, window: int, reader: Any) -> None:
        super().__init__(parts, window, reader)
        if not getattr(parts["tokenizer"], "chat_template", None):
            raise InputError(
                "its tokenizer has no chat template, within which this model reads prompts: "
                "tokenizer/chat_template.jinja is missing, or chat_template in "
                "tokenizer/tokenizer_config.json. Fetch the checkpoint again."
            )

    def framed(self, prompt: str) -> str:
        """A user's turn, and the beginning of the answer."""
        return self.stream.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=self.thinking,
        )
