"""Labelled images as arrays, with the words that captions call their classes by."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import yaml

from ..errors import InputError

HELD_OUT = {"digits": 137}  # the last of train, never trained on: for temperatures and settings


@dataclass(frozen=True)
class Labelled:
    """Images with labels and words.

    Attributes:
        name: What the set is called.
        images: uint8 `[n, size, size, 3]`, or an object array of images of their own sizes.
        labels: int64 `[n]`.
        classes: One name per class, the one accuracy is measured with.
        names: For each class the names that its captions use; repeats weigh more.
        whole: The names are whole captions, one class per image; templates are not filled.
        contrasts: For each class (here, image) captions to tell apart, the true one first;
            empty where the data have none.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    classes: list[str]
    names: list[list[str]]
    whole: bool = False
    contrasts: list[list[str]] = field(default_factory=list)

    def captions(self) -> list[list[str]]:
        """For each class, every caption that training can draw."""
        if self.whole:
            return self.names
        templates = caption_words()["templates"]
        return [[t.format(name) for t in templates for name in names] for names in self.names]

    def subset(self, index: np.ndarray | slice) -> Labelled:
        """The chosen images, with the same words."""
        return replace(self, images=self.images[index], labels=self.labels[index])


def caption_words() -> dict:
    """Templates and class words, from `captions.yaml`."""
    return yaml.safe_load((Path(__file__).parent / "captions.yaml").read_text(encoding="utf-8"))


def held_out(labelled: Labelled) -> tuple[Labelled, Labelled]:
    """Split a training set into (trained on, held out): the last tenth, 2,000 at most; 137 digits.

    Raises:
        InputError: fewer than two images.
    """
    n = len(labelled.labels)
    if n < 2:
        raise InputError(
            f"{labelled.name} has {n} training image{'s' * (n != 1)}; a recipe needs at least 2, "
            "since it holds some out."
        )
    cut = n - HELD_OUT.get(labelled.name, min(2000, max(1, n // 10)))
    return labelled.subset(slice(0, cut)), labelled.subset(slice(cut, None))


def all_captions(sets: list[Labelled]) -> list[str]:
    """Every caption that training can draw."""
    groups = [group for s in sets for group in (*s.captions(), *s.contrasts)]
    return sorted({text for group in groups for text in group})
