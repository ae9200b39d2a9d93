"""Data sets of the hub, and tables of the `datasets` library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError, said
from ..reach import ask, hub_client, is_away, trouble
from .cells import encoded
from .columns import image_column, label_column
from .dataset import Dataset
from .labels import declared_names, labelled_rows
from .parts import EVALUATED, kind_of


def open_hub(
    source: str,
    split: str | None = None,
    image: str | None = None,
    label: str | None = None,
    kinds: Sequence[str] | None = None,
) -> Dataset:
    """A data set of the hub, downloaded by `datasets`.

    Args:
        source: Its id.
        split: Part of the data; if None, the first of test, validation and eval there is, else
            the first of all.
        image: Column of the images; if None, the first usual name there is.
        label: Column of the labels; if None, the first usual name there is.
        kinds: With no `split`, the kinds of part to look for in turn, of `parts.WORDS`; there
            must be one of them.

    Raises:
        InputError: no such data set or part, no network, or a table without such columns.
    """
    import datasets

    against = ask("dataset", source)
    try:
        with hub_client(cached=against is not None):
            names = [] if split else datasets.get_dataset_split_names(source)
            part = split or (_of_kinds(source, names, kinds) if kinds else _evaluated(names))
            table = datasets.load_dataset(source, split=part)
    except InputError:
        raise
    except Exception as error:  # the libraries raise dozens of types for "not there"
        raise InputError(_why(source, against, error)) from None
    return from_table(source, part, table, image, label)


def _why(source: str, against: Exception | None, error: Exception) -> str:
    """Why there is no data set."""
    if against is None:
        return f"{source}: the hub has it, and it cannot be read: {said(error)}."
    local = f"{source}: neither a local file or folder nor a data set that the hub could give. "
    if not is_away(against):
        return local + trouble(source, against)
    return (
        f"{local}{trouble(source, against)} Give local data (a folder of Parquet files, or of one "
        "folder per class), or digits."
    )


def _evaluated(names: list[str]) -> str:
    return _first(names, EVALUATED) or names[0]


def _first(names: Sequence[str], kinds: Sequence[str]) -> str | None:
    return next((n for kind in kinds for n in names if kind_of(n) == kind), None)


def _of_kinds(source: str, names: Sequence[str], kinds: Sequence[str]) -> str:
    """The first part of the first of these kinds.

    Raises:
        InputError: none of them is there.
    """
    found = _first(names, kinds)
    if found is None:
        raise InputError(
            f"{source}: has no part {' or '.join(kinds)}; its parts are {', '.join(names)}. Give "
            "a data set that has one."
        )
    return found


def from_table(
    source: str, split: str, table: Any, image: str | None = None, label: str | None = None
) -> Dataset:
    """A data set from a `datasets.Dataset` with an image and a label column.

    Args:
        source: What the user named.
        split: Part of the data.
        table: The table.
        image: Column of the images; if None, the first usual name there is.
        label: Column of the labels; if None, the first usual name there is.

    Raises:
        InputError: no such columns, or several labels in a row.
    """
    import datasets

    label = label_column(source, table.column_names, label)
    image = image_column(source, table.column_names, image)
    names = declared_names(table.features[label])
    rows = ((f"{split}#{i}", cell, i) for i, cell in enumerate(table[label][:]))
    examples, classes = labelled_rows(rows, names, source, label)
    if isinstance(table.features[image], datasets.Image):
        table = table.cast_column(image, datasets.Image(decode=False))

    images = table.select_columns([image])

    def read(i: int) -> bytes:
        return encoded(images[i][image], Path())

    name = source.rpartition("/")[2]
    return Dataset(name, source, split, list(classes), examples, read, names is not None)
