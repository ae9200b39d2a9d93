"""Conditioners: from prompts to what the network is conditioned on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, takewhile
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..options import short
from .family import Parts
from .hooks import output_replaced, output_seen

Encoded = tuple[Tensor, Any, Tensor]  # states, pooled vectors if the encoder makes any, mask
PROMPTS_AT_ONCE = 256
SHOWN = 20  # names of classes in a message


@dataclass(frozen=True)
class Condition:
    """What the network is conditioned on: named tensors with one row per prompt.

    Indexing with a tensor of row numbers gives the condition of a batch; `+` puts the rows of one
    after those of another.

    Attributes:
        tensors: Each `[rows, ...]`: of a model that reads text the encoder's states
            `[rows, tokens, width]` and what else its network takes, of a class-conditional one
            the numbers of the classes `[rows]`.
    """

    tensors: dict[str, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, rows: Tensor | slice) -> Condition:
        return Condition({k: v[rows] for k, v in self.tensors.items()})

    def __add__(self, other: Condition) -> Condition:
        return Condition({k: torch.cat([v, other.tensors[k]]) for k, v in self.tensors.items()})


class Conditioner(ABC):
    """From prompts to conditions.

    Attributes:
        classes: Names of the classes of a class-conditional model; None for one that reads text.
    """

    classes: list[str] | None = None

    @abstractmethod
    def embed(self, prompts: list[str]) -> Condition:
        """One condition row per prompt; the empty prompt is the unconditional model.

        Raises:
            InputError: a prompt that the model cannot take.
        """

    def signature(self, prompts: list[str]) -> list[object]:
        """Equal for two prompts exactly when the model cannot tell them apart."""
        return list(prompts)

    def mix(self, cond: Condition, weights: Tensor) -> Condition:
        """Soft conditions `sum_c w_c cond_c`, one row for each row of weights.

        Differentiable in the weights. Every tensor of the condition is averaged.

        Args:
            cond: Conditions of the k classes.
            weights: `[b, k]`, rows on the simplex.
        """
        return Condition(
            {
                name: torch.einsum("bk,k...->b...", weights.to(rows.dtype), rows)
                for name, rows in cond.tensors.items()
            }
        )


class ClassTable(Conditioner):
    """The classes of a class-conditional network, by name.

    Args:
        classes: Names in the order of the embedding; "0", "1", ... if None.
        rows: Rows of the network's class embedding; one more than there are classes is the null
            class of classifier-free guidance.
        device: Where the network is.
        embedding: The network's class embedding, of which soft conditions are made.

    Raises:
        InputError: names that do not fit the number of rows.
    """

    def __init__(
        self, classes: Sequence[str] | None, rows: int, device: torch.device, embedding: Any
    ) -> None:
        self.classes: list[str] = (
            [str(i) for i in range(rows)] if classes is None else list(classes)
        )
        if rows - len(self.classes) not in (0, 1):
            raise InputError(
                f"The network embeds {rows} classes and the card names {len(self.classes)}; name "
                "all, or all but the null class."
            )
        self.numbers = {name: i for i, name in reversed([*enumerate(self.classes)])}
        self.null_class = len(self.classes) if rows > len(self.classes) else None
        self.device, self.embedding = device, embedding

    def embed(self, prompts: list[str]) -> Condition:
        """Class numbers `[n]`; the null class for the empty prompt.

        Raises:
            InputError: a word that is not one of the classes, or no null class.
        """
        known = {"": self.null_class} | self.numbers
        rows = [known.get(prompt) for prompt in prompts]
        if None in rows:
            prompt = prompts[rows.index(None)]
            if prompt == "":
                raise InputError("This model has no null class, so guidance must stay 1 (none).")
            more = ", ..." if len(self.classes) > SHOWN else ""
            raise InputError(
                f"This model has no class {prompt!r}; it has "
                f"{', '.join(self.classes[:SHOWN])}{more}."
            )
        return Condition({"class": torch.tensor(rows, dtype=torch.long, device=self.device)})

    def signature(self, prompts: list[str]) -> list[object]:
        """Numbers of classes."""
        return [self.numbers.get(prompt, prompt) for prompt in prompts]

    def mix(self, cond: Condition, weights: Tensor) -> Condition:
        """`sum_c w_c e_c` of the class embeddings, which stand in for a class number.

        Raises:
            InputError: a network whose class embedding is not a table.
        """
        if not isinstance(self.embedding, torch.nn.Embedding):
            raise InputError("This model embeds classes by a function, which cannot be mixed.")
        table = self.embedding.weight.detach()[cond.tensors["class"]]
        return Condition({"embedding": weights.to(table.dtype) @ table})


class TextStream:
    """One text encoder with its tokenizer.

    Args:
        parts: The checkpoint's, a `tokenizer` and a `text_encoder` among them, whose weights are
            used in place.
        end: How the names of the two end, such as `_2`.
        window: Tokens of a prompt, special ones and padding included; what tokenizer and encoder
            allow if None.
        start: Prompts begin with the tokenizer's start token.
        lower: Prompts are lower-cased and stripped first.
        masked: The encoder is told which tokens are padding.
        layer: Which hidden state is the condition: None for the encoder's own last output, or a
            number such as -2 for the output of the block before the last.

    Attributes:
        first_token: Place of a prompt's first own token: 1 after a start token.
        room: Own tokens that fit a prompt, special ones apart.
    """

    def __init__(
        self,
        parts: Parts,
        end: str = "",
        *,
        window: int | None = None,
        start: bool = True,
        lower: bool = False,
        masked: bool = False,
        layer: int | None = None,
    ) -> None:
        self.tokenizer = parts[f"tokenizer{end}"]
        self.encoder = parts[f"text_encoder{end}"].eval()
        self.window = window or text_window(self.tokenizer, self.encoder.config)
        self.start, self.lower, self.masked, self.layer = start, lower, masked, layer
        self.first_token = int(start)
        self.room = self.window - 1 - self.first_token

    def pieces(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text by itself, without special tokens."""
        known = self.tokenizer.get_added_vocab()
        texts = [vectors_spelled_out(text, known) for text in texts]
        if self.lower:
            texts = [text.lower().strip() for text in texts]
        return [list(i) for i in self.tokenizer(texts, add_special_tokens=False).input_ids]

    def read(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids of whole prompts.

        Raises:
            InputError: a prompt of more tokens than there is room for.
        """
        rows = self.pieces(prompts)
        for prompt, ids in zip(prompts, rows, strict=True):
            check_fits(prompt, ids, self.room)
        return rows

    def vectors(self, ids: list[int]) -> Tensor:
        """Input embeddings of token ids, `[n, d]`."""
        table = self.encoder.get_input_embeddings().weight
        return table[torch.tensor(ids, device=table.device)].detach()

    def embed(
        self, rows: list[list[int]], vectors: Tensor | None = None, places: Any = None
    ) -> Encoded:
        """Hidden states of prompts given as token ids, special tokens and padding added.

        Args:
            rows: Ids of each prompt, at most `room` of them, as `pieces` gives.
            vectors: `[n, d]`, input embeddings that replace one token of each row; gradients flow
                to them.
            places: Which token of each row they replace.

        Returns:
            States `[n, window, d]`, the pooled vectors `[n, d']` if the encoder makes any, and
            the mask of own and special tokens `[n, window]`.

        Raises:
            InputError: a row of more than `room` ids.
        """
        ids, mask = self._with_special(rows)
        if vectors is None:
            some = zip(ids.split(PROMPTS_AT_ONCE), mask.split(PROMPTS_AT_ONCE), strict=True)
            with torch.no_grad():
                parts = [self._encode(i, m) for i, m in some]
            states = torch.cat([states for states, _ in parts])
            pooled = None if parts[0][1] is None else torch.cat([pooled for _, pooled in parts])
            return states, pooled, mask.to(states.device)
        where = torch.tensor(places) + self.first_token

        def replace(output: Tensor) -> Tensor:
            place = torch.arange(output.shape[1], device=output.device)
            chosen = (place == where.to(output.device)[:, None])[..., None]
            return torch.where(chosen, vectors.to(output)[:, None], output)

        with output_replaced(self._embedding(), replace):
            states, pooled = self._encode(ids, mask)
        return states, pooled, mask.to(states.device)

    def _embedding(self) -> Any:
        """The module that embeds tokens. T5's encoder may hold one of its own for the shared
        table, and that is the one that runs."""
        inner = getattr(self.encoder, "encoder", None)
        return getattr(inner, "embed_tokens", None) or self.encoder.get_input_embeddings()

    def _blocks(self) -> torch.nn.ModuleList:
        """The encoder's layers, its longest list of modules."""
        lists = [m for m in self.encoder.modules() if isinstance(m, torch.nn.ModuleList)]
        return max(lists, key=len)

    def _encode(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Any]:
        device = self.encoder.device
        given = mask.to(device) if self.masked else None
        if self.layer is None:
            out = self.encoder(ids.to(device), attention_mask=given)
            states = out[0]
        else:  # `output_hidden_states` would leave hooks behind that cannot be pickled
            with output_seen(self._blocks()[self.layer]) as seen:
                out = self.encoder(ids.to(device), attention_mask=given)
            states = seen[0]
        pooled = getattr(out, "text_embeds", None)
        return states, getattr(out, "pooler_output", None) if pooled is None else pooled

    def _with_special(self, rows: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Ids and mask `[n, window]`, with start, end and padding as the tokenizer's.

        Raises:
            InputError: a row of more than `room` ids.
        """
        for row in rows:
            if len(row) > self.room:
                raise InputError(
                    f"A prompt of {len(row)} tokens does not fit the text encoder's {self.room}. "
                    "Use shorter or fewer words."
                )
        tokens = self.tokenizer
        head = [tokens.bos_token_id] if self.start else []
        whole = [[*head, *row, tokens.eos_token_id] for row in rows]
        return padded(whole, self.window, tokens.pad_token_id)


class Text(Conditioner):
    """Text of one encoder or several: a subclass says what the network is given of them.

    Each encoder has its own tokenizer, padding and window. Attention maps and learned words deal
    in the tokens of the first one. Encoders that share its vocabulary read the same tokens, and a
    learned word has a vector for each, side by side. An encoder of another vocabulary reads the
    words that those tokens spell, and where a word is learned, the prompt without it.

    Args:
        streams: The encoders; the network attends to the states of the first.
        reader: The denoiser, in whose precision and place conditions are given.

    Attributes:
        streams: All of them; empty when the encoders were released.
        stream: The first.
        alike: Those that share its vocabulary.

    Raises:
        InputError: a CLIP encoder and a tokenizer that mean different ends of a prompt.
    """

    def __init__(self, streams: Sequence[TextStream], reader: Any) -> None:
        self.stream, self.streams = streams[0], list(streams)
        self.dtype, self.device = reader.dtype, reader.device
        self.first_token, self.room = self.stream.first_token, self.stream.room
        own = self.stream.tokenizer.get_vocab()
        self.alike = [s for s in streams if s.tokenizer.get_vocab() == own]
        if len(streams) > 1:  # networks of several encoders read vectors of whole prompts, too
            for stream in streams:
                check_end(stream.tokenizer, stream.encoder.config)

    def embed(self, prompts: list[str]) -> Condition:
        """Conditions of whole prompts.

        Raises:
            InputError: a prompt of more tokens than one of the encoders has room for.
        """
        return self._condition([stream.embed(stream.read(prompts)) for stream in self.streams])

    def join(self, found: list[Encoded]) -> dict[str, Tensor]:
        """The network's conditions of what each encoder said: its states `[n, window, d]` must be
        `text`, those of the first encoder first."""
        return {"text": found[0][0]}

    def pieces(self, texts: Sequence[str]) -> list[list[int]]:
        """The first encoder's token ids of each text by itself, without special tokens."""
        return self.stream.pieces(texts)

    def fits(self, ids: list[int]) -> bool:
        """Whether a prompt of these token ids, special ones apart, is not too long to be read;
        encoders of another vocabulary may need more tokens for the words."""
        others = [stream for stream in self.streams if stream not in self.alike]
        return len(ids) <= self.room and all(
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

    def _condition(self, found: list[Encoded]) -> Condition:
        return Condition(self.join([tuple(self._here(t) for t in one) for one in found]))  # type: ignore[misc]

    def _here(self, tensor: Tensor | None) -> Tensor | None:
        """States in the network's precision, masks in whole numbers, both where it is."""
        if tensor is None:
            return None
        return tensor.to(self.device, self.dtype if tensor.is_floating_point() else tensor.dtype)

    def text_states(self, cond: Condition) -> Tensor:
        """The text encoder's hidden states within a condition, `[n, window, d]`."""
        return cond.tensors["text"]

    def signature(self, prompts: list[str]) -> list[Any]:
        """Token ids of every encoder."""
        each = [[tuple(ids) for ids in stream.pieces(prompts)] for stream in self.streams]
        return list(zip(*each, strict=True))


def padded(rows: Sequence[Sequence[int]], width: int, filler: int) -> tuple[Tensor, Tensor]:
    """Token ids `[n, width]`, filled up, and their mask.

    Tokenizers that pad keep how they do it in a state, which threads would share.
    """
    ids = torch.full((len(rows), width), filler)
    mask = torch.zeros_like(ids)
    for line, on, row in zip(ids, mask, rows, strict=True):
        line[: len(row)], on[: len(row)] = torch.tensor(row), 1
    return ids, mask


def check_fits(prompt: str, ids: list[int], room: int) -> None:
    """Refuse a prompt that the text encoder would cut.

    Raises:
        InputError: more than `room` tokens, special ones apart.
    """
    if len(ids) > room:
        raise InputError(
            f"The model reads at most {room} tokens; {prompt[:60]!r}... has {len(ids)}. Shorten "
            "the label or the template."
        )


def text_window(tokenizer: Any, config: Any) -> int:
    """Tokens that a prompt may have: the tokenizer's maximum, or the encoder's if that is less.

    A tokenizer whose files say nothing has a maximum beyond any encoder's.

    Raises:
        InputError: neither says how long a text may be.
    """
    most = [tokenizer.model_max_length, getattr(config, "max_position_embeddings", None)]
    known = [n for n in most if isinstance(n, int | float) and 2 < n < 10**6]
    if not known:
        raise InputError(
            "Neither tokenizer (model_max_length) nor text encoder (max_position_embeddings) says "
            "how many tokens a text may have; put the number into tokenizer_config.json."
        )
    return int(min(known))


def check_end(tokenizer: Any, config: Any) -> None:
    """Refuse a CLIP text encoder that looks for another end token than its tokenizer writes.

    Its vector of a prompt is the one at that token; where it finds none it would take the first,
    which is the same for all prompts. A 2 stands for the highest number, as old files have it.

    Raises:
        InputError: naming both numbers.
    """
    end = getattr(config, "eos_token_id", None)
    if "clip" in config.model_type and end not in (2, tokenizer.eos_token_id):
        raise InputError(
            f"its text encoder takes the token {short(end)} for the end of a prompt "
            f"(eos_token_id in config.json), and its tokenizer writes {tokenizer.eos_token_id}; "
            "the two do not belong together."
        )


def vectors_spelled_out(text: str, added: dict[str, int]) -> str:
    """A learned token of several vectors, written as all of them.

    `load_textual_inversion` files the vectors of `<mine>` under `<mine>`, `<mine>_1`, ...

    Args:
        text: A prompt.
        added: The tokenizer's added tokens.
    """
    for token in added:
        more = takewhile(added.__contains__, (f"{token}_{n}" for n in count(1)))
        whole = " ".join([token, *more])
        if token in text and whole not in text:
            text = text.replace(token, whole)
    return text
