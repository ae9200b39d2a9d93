"""A data set: the labels of its images, and a reader for each.

Labels are read first and pictures only when their turn comes, so that a large data set costs the
memory of its labels. One bad row never stops a run: it becomes an example with a `problem`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import InputError
from ..noise import generator
from .matching import match_names
from .names import ClassSet


@dataclass(frozen=True)
class Example:
    """One image of a data set.

    Attributes:
        id: Names it within the data set, whatever the order.
        label: Its class, None if it has none.
        where: What the data set's reader takes.
        problem: Why it cannot be used, None if it can.
    """

    id: str
    label: str | None
    where: Any
    problem: str | None = None


@dataclass(frozen=True)
class Dataset:
    """Labelled images.

    Attributes:
        name: What the set is called.
        source: What it was opened with.
        split: Part of the data set, empty if it has no parts.
        classes: Class names, in the data's order.
        examples: The images.
        reader: An example's `where` to encoded bytes, or uint8 pixels `[h, w, 3]`.
        ordered: Whether the order of the classes is the data's own, not the alphabet's.
    """

    name: str
    source: str
    split: str
    classes: list[str]
    examples: Sequence[Example]
    reader: Callable[[Any], bytes | np.ndarray]
    ordered: bool = True

    def read(self, example: Example) -> bytes | np.ndarray:
        """The encoded image, or its pixels.

        Raises:
            InputError: the file is gone or the example has a problem.
        """
        if example.problem is not None:
            raise InputError(example.problem)
        try:
            return self.reader(example.where)
        except InputError as error:
            said = str(error)
            own = said.startswith(example.id)
            raise InputError(said if own else f"{example.id}: {said}") from None
        except (OSError, ValueError, TypeError, NotImplementedError) as error:
            what = getattr(error, "strerror", None) or error  # Arrow's errors are among these
            raise InputError(f"{example.id}: cannot be read ({what}).") from None

    def rename(self, chosen: ClassSet | None) -> Dataset:
        """The same images under other class names; classes without a name become problems.

        Raises:
            InputError: no class has a name.
        """
        if chosen is None:
            return self
        names = match_names(self.classes, chosen, self.ordered, self.source)

        def renamed(example: Example) -> Example:
            if example.label is None:
                return example
            name = names.get(example.label)
            if name is None:
                problem = (
                    f"{example.id}: its label {example.label!r} is not among the "
                    f"{len(chosen.classes)} class names."
                )
                return replace(example, label=None, problem=example.problem or problem)
            return replace(example, label=name)

        return replace(self, classes=chosen.classes, examples=[renamed(e) for e in self.examples])

    def choose(self, limit: int | None, balanced: int | None, seed: int) -> Dataset:
        """A random part, in the data's order; smaller parts are contained in larger ones.

        Args:
            limit: Images at most; None for all.
            balanced: Images of every class at most; None for no such limit.
            seed: Of the random choice.
        """
        order = generator(seed).permutation(len(self.examples))
        if balanced is not None:
            taken: dict[str | None, int] = {}
            kept = []
            for i in order:
                label = self.examples[i].label
                taken[label] = taken.get(label, 0) + 1
                if label is not None and taken[label] <= balanced:
                    kept.append(i)
            order = np.array(kept, dtype=int)
        chosen = np.sort(order[:limit])
        return replace(self, examples=[self.examples[i] for i in chosen])


def parse_subset(text: str | None) -> int | None:
    """`balanced:N` as N.

    Raises:
        InputError: anything else.
    """
    if text is None:
        return None
    kind, _, number = text.partition(":")
    if kind != "balanced" or not number.isdigit() or int(number) < 1:
        raise InputError(f"--subset takes balanced:N, N images of every class; got {text!r}.")
    return int(number)


def decode(raw: bytes | np.ndarray, name: str) -> np.ndarray:
    """Encoded bytes or pixels as upright uint8 RGB `[h, w, 3]`.

    Raises:
        InputError: not an image, damaged, or too large.
    """
    from ..images import load_image, open_image

    return load_image(raw) if isinstance(raw, np.ndarray) else open_image(io.BytesIO(raw), name)
