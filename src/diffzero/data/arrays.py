"""Whole data sets as arrays, for training and experiments; the readers are those of `open_data`.

Every image passes through the preprocessing that classification uses, so that a network never
sees at test time what it did not see in training.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..images import fit_square
from .dataset import Dataset, decode
from .digits import open_digits
from .folders import listed, open_folder, parts_of
from .hub import open_hub
from .labelled import Labelled, caption_words
from .matching import match_names
from .names import ClassSet
from .parquet import (
    ParquetReader,
    files_of_kind,
    open_parquet,
    opened_files,
    parquet_files,
    places,
)
from .parts import kinds_of

# A set without a validation part is measured on its test part.
INSTEAD = {"validation": ("validation", "test", "eval")}


def load(source: str, size: int | None, split: str = "train") -> Labelled:
    """Read a labelled set.

    Images that lie in the order of their classes, as folders give them, are dealt out class by
    class, so that the first and the last of them hold every class.

    Args:
        source: `digits` (scikit-learn's), a folder of Parquet files named after their split, an
            ImageFolder (one folder per class), or a hub id; `NAME=SOURCE` names it, otherwise the
            last part of the path does. Sets named in `captions.yaml` use its words. Parquet files
            with a column `captions` give every image its own, see `scenes`.
        size: Side in pixels the images are brought to; None leaves them as they are.
        split: `train` or `validation`; for the latter a set without a validation part gives its
            test part. All images of a folder that is not divided are in both.

    Raises:
        InputError: nothing readable there, or an image that cannot be read.

    Warns:
        UserWarning: rows without a usable label are left out.
    """
    name, _, location = source.rpartition("=")
    name = name or Path(location).name
    files = part_files(location, split)
    if _captions(location, files):
        return _captioned(name, location, files, size)
    opened = _open(location, split)
    usable = [e for e in opened.examples if e.problem is None and e.label is not None]
    left = [e.problem for e in opened.examples if e.problem is not None]
    if not usable:
        raise InputError(f"{source}: no image can be used. The first: {left[0] if left else ''}")
    if left:
        warnings.warn(
            f"{source}: {len(left)} of {len(opened.examples)} images are left out. The first: "
            f"{left[0]}",
            stacklevel=2,
        )
    numbered = bool(files) and not opened.ordered and all(c.isdecimal() for c in opened.classes)
    classes, names, place = _words(name, location, opened, numbered)
    labels = np.array([place[str(e.label)] for e in usable], dtype=np.int64)
    if np.count_nonzero(np.diff(labels)) == len(np.unique(labels)) - 1:  # class after class
        order = np.argsort(labels, kind="stable")
        order = order[dealt(labels[order])]
        usable, labels = [usable[i] for i in order], labels[order]
    images = [decode(opened.read(e), e.id) for e in usable]
    return Labelled(name, _sized(images, size), labels, classes, names)


def check_validation(source: str, remedy: str = "give another data set") -> None:
    """Make sure that a set has images to measure on which are not those to train on.

    Sets of captions pass: what is measured of them is scenes alone.

    Args:
        source: As for `load`.
        remedy: What else the user can do, for the message.

    Raises:
        InputError: no validation or test part, one without labels, with one class or with classes
            that the training part does not have, or a folder that is not divided.
    """
    location = source.rpartition("=")[2]
    if location == "digits" or _captions(location, part_files(location, "train")):
        return
    opened = _open(location, "validation")
    if not opened.split and Path(location).is_dir():
        raise InputError(
            f"{location}: is not divided into train and validation, so that accuracies would be "
            "measured on images that were learned or tuned on. Make two folders of these names in "
            f"it, or {remedy}."
        )
    known, told = (
        dict.fromkeys(e.label for e in one.examples if e.problem is None and e.label is not None)
        for one in (_open(location, "train"), opened)
    )
    strange = [label for label in told if label not in known]
    wrong = None
    if not told:
        problem = next((e.problem for e in opened.examples if e.problem), "no image")
        wrong = f"none that can be used ({problem})"
    elif strange:
        wrong = f"the class {strange[0]!r}, which the training part has not"
    elif len(told) == 1:
        wrong = f"one class alone, {next(iter(told))!r}"
    if wrong is not None:
        raise InputError(
            f"{location}: its part {opened.split or 'to measure on'} has {wrong}. Give it a part "
            f"validation with labels, or {remedy}."
        )


def dealt(labels: np.ndarray) -> np.ndarray:
    """Places `[n]` of sorted labels `[n]`, in an order where each class keeps its share."""
    _, first, counts = np.unique(labels, return_index=True, return_counts=True)
    within = np.arange(len(labels)) - np.repeat(first, counts)
    return np.argsort((within + 0.5) / np.repeat(counts, counts), kind="stable")


def part_files(location: str, split: str) -> list[Path]:
    """Parquet files of a part of a local folder; none where it holds other data.

    Args:
        location: A folder; anything else has no such files.
        split: See `load`.
    """
    return _part(location, split)[0]


def _part(location: str, split: str) -> tuple[list[Path], str | None]:
    """Parquet files of a part, and the part's name, None where a folder is not divided.

    Of each kind in turn Parquet files are looked for, then class folders.
    """
    if location == "digits" or not Path(location).is_dir():
        return [], split
    files, folder = parquet_files(Path(location)), Path(location)
    kinds = kinds_of([f.name for f in listed(folder)[0]])
    there = {kinds[part.name] for part in parts_of(folder)}
    for kind in INSTEAD.get(split, (split,)):
        if found := files_of_kind(files, kind):
            return found, kind
        if kind in there:
            return [], kind
    return [], split if there else None


def _captions(location: str, files: list[Path]) -> bool:
    """Whether these Parquet files hold images with captions of their own."""
    return bool(files) and "captions" in opened_files(location, files[:1])[0].schema_arrow.names


def _open(location: str, split: str) -> Dataset:
    if location == "digits":
        return open_digits("train" if split == "train" else "test", [str(d) for d in range(10)])
    files, part = _part(location, split)
    if files:
        return open_parquet(location, files, part or split)
    folder = Path(location)
    if folder.is_file():
        raise InputError(
            f"{location}: one file has no parts to train and to measure on. Give a folder of "
            "train*.parquet and validation*.parquet, or an ImageFolder."
        )
    if not folder.is_dir():
        return open_hub(location, kinds=INSTEAD.get(split, (split,)))
    try:
        return open_folder(folder, part)
    except InputError as error:
        raise InputError(
            f"{folder}: neither {split}*.parquet nor one folder per class with images in it "
            f"({error})"
        ) from None


def _words(
    name: str, location: str, opened: Dataset, numbered: bool
) -> tuple[list[str], list[list[str]], dict[str, int]]:
    """Class names, the names captions use, and the place of each class of the data among them.

    Args:
        name: Of the set; `captions.yaml` may have words for it.
        location: Of the data, for messages.
        opened: The data.
        numbered: Whether labels are numbers without declared names, so places.
    """
    words = caption_words().get(name)
    classes = opened.classes
    if numbered:
        most = max(map(int, classes)) + 1
        classes = [str(i) for i in range(max(most, len(words["classes"]) if words else 0))]
    places = {c: i for i, c in enumerate(classes)}
    if words is None:
        return classes, [[c] for c in classes], places
    own = words["classes"]
    if location == "digits" or (numbered and len(classes) == len(own)):
        return own, words["names"], places
    aliases = {c: list(n) for c, n in zip(own, words["names"], strict=True)}
    chosen = ClassSet(name, name, "of the data's labels", own, [], aliases=aliases)
    found = match_names(classes, chosen, opened.ordered, location)
    strange = [c for c in classes if found[c] is None]
    if strange:
        raise InputError(
            f"{location}: its class {strange[0]!r} is none of the classes of {name} "
            f"({', '.join(own)}). Give the set another name: NAME={location}."
        )
    return own, words["names"], {c: own.index(str(found[c])) for c in classes}


def _captioned(name: str, location: str, files: list[Path], size: int | None) -> Labelled:
    """Images with captions of their own, one class per image."""
    opened = opened_files(location, files)
    own = _column(opened, "captions")
    reader = ParquetReader(files, "image")
    images = [decode(reader(where), f"row {i}") for i, where in enumerate(places(opened))]
    columns = opened[0].schema_arrow.names
    contrasts: list[list[str]] = []
    if {"candidates", "label"} <= set(columns):
        rows = zip(_column(opened, "candidates"), _column(opened, "label"), strict=True)
        contrasts = [by_likeness(texts, texts[label]) for texts, label in rows]
    first = [texts[0] for texts in own]
    kept = _sized(images, size)
    order = np.arange(len(own))
    return Labelled(name, kept, order, first, own, whole=True, contrasts=contrasts)


def _column(opened: list[Any], name: str) -> list[Any]:
    return [cell for f in opened for cell in f.read([name])[name].to_pylist()]


def by_likeness(texts: Sequence[str], true: str) -> list[str]:
    """The true text first, then the others by how many words they do not share with it."""

    def apart(text: str) -> int:
        return sum((Counter(text.split()) - Counter(true.split())).values())

    return sorted(texts, key=lambda text: (text != true, apart(text)))


def _sized(images: Sequence[np.ndarray], size: int | None) -> np.ndarray:
    """One array, or with no size an array of the images as they are."""
    if size is not None:
        return np.stack([fit_square(image, size) for image in images])
    kept = np.empty(len(images), dtype=object)
    kept[:] = list(images)
    return kept
