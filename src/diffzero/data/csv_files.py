"""CSV files: an image and a label column, whatever separates them."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import InputError
from .cells import named, read_file
from .columns import IMAGE_COLUMNS, LABEL_COLUMNS, image_column, label_column
from .dataset import Dataset
from .labels import labelled_rows, table_numbers
from .parts import EVALUATED, kind_of
from .text_files import read_text

PART_COLUMNS = ("split", "subset", "partition", "part", "set", "dataset")
SEPARATORS = ",;\t\uff0c\uff1b|"


def open_csv(
    path: Path, image: str | None = None, label: str | None = None, split: str | None = None
) -> Dataset:
    """A data set from a CSV file whose first line names the columns.

    Args:
        path: The file; its image paths are relative to its folder. UTF-8, or UTF-16 with a mark.
        image: Column of the image paths; if None, the first usual name there is.
        label: Column of the labels; if None, the first usual name there is.
        split: Part of the data, where a column such as `split` says of every row which it belongs
            to; if None, the first of test, validation and eval there is.

    Raises:
        InputError: not readable, or without such columns or such a part.
    """
    header, rows = _rows(path, image, label)
    image = image_column(path, header, image)
    label = label_column(path, header, label)
    _check_columns(path, header, image, label)
    rows, part = _of_part(path, header, rows, split, {image, label})
    files, labels = header.index(image), header.index(label)
    keys, problems, seen = [], {}, set()
    names = [row[files].strip() if files < len(row) else "" for row in rows]
    cells = table_numbers([row[labels].strip() if labels < len(row) else None for row in rows])
    contradicted = _contradicted(names, cells)
    for number, (row, name) in enumerate(zip(rows, names, strict=True)):
        key = name if name and name not in seen else f"{name}#{number}"
        seen.add(key)
        problem = _problem(header, row, name)
        if problem is None and name in contradicted:
            problem = f"the rows of this image have different labels ({contradicted[name]})."
        if problem is not None:
            problems[key] = f"{key}: {problem}"
        keys.append(key)
    table = zip(keys, cells, names, strict=True)
    examples, classes = labelled_rows(table, None, path, label)
    examples = [replace(e, problem=problems[e.id]) if e.id in problems else e for e in examples]

    def read(name: str) -> bytes:
        return read_file(path.parent / named(name))

    return Dataset(path.stem, str(path), part, classes, examples, read, False)


def _of_part(
    path: Path, header: list[str], rows: list[list[str]], split: str | None, taken: set[str]
) -> tuple[list[list[str]], str]:
    """The rows of a part, and its name; all of them where no column tells of parts.

    Parts of one kind are one, however they are spelled; rows of no part are left out.

    Args:
        path: For messages.
        header: Names of the columns.
        rows: Their cells.
        split: See `open_csv`.
        taken: Columns that hold something else.

    Raises:
        InputError: no such part, or rows to train on alone.
    """
    names = [column.lower() for column in header]
    for column in (names.index(name) for name in PART_COLUMNS if name in names):
        told = [row[column].strip() if column < len(row) else "" for row in rows]
        kinds = {cell: kind_of(cell) for cell in dict.fromkeys(filter(None, told))}
        known = {kind for kind in kinds.values() if kind is not None}
        # Cells that are no parts may stand beside those for training and for evaluation.
        whole = known and None not in kinds.values()
        if header[column] in taken or not (whole or ("train" in known and len(known) > 1)):
            continue
        chosen = {cell for cell in kinds if split and cell.lower() == split.lower()}
        if not chosen:
            wanted = (kind_of(split),) if split else EVALUATED
            kind = next((kind for kind in wanted if kind in known), None)
            chosen = {cell for cell, own in kinds.items() if own is not None and own == kind}
        if not chosen:
            why = f"has no part {split!r}" if split else "its rows are to train on"
            raise InputError(
                f"{path}: {why}; its column {header[column]} holds {', '.join(kinds)}. Name the "
                "part to use with --split."
            )
        kept = [row for row, cell in zip(rows, told, strict=True) if cell in chosen]
        return kept, split or min(chosen)
    if split:
        raise InputError(
            f"{path}: one file has no parts unless a column ({', '.join(PART_COLUMNS)}) tells "
            f"which rows are {split!r}. Leave --split out, or give the folder of all files."
        )
    return rows, ""


def _check_columns(path: Path, header: list[str], image: str, label: str) -> None:
    """Refuse one column for both, and a name that two columns have.

    Raises:
        InputError: such columns.
    """
    if image == label:
        raise InputError(f"{path}: the column {image} cannot hold both images and labels.")
    for name, what in ((image, "image"), (label, "label")):
        if header.count(name) > 1:
            raise InputError(
                f"{path}: {header.count(name)} columns are called {name}. Rename all but one, or "
                f"name another with --{what}-column."
            )


def _contradicted(names: list[str], labels: list[Any]) -> dict[str, str]:
    """Images that several rows give different labels, with these labels."""
    found: dict[str, set[Any]] = {}
    for name, label in zip(names, labels, strict=True):
        if name and label not in (None, ""):
            found.setdefault(name, set()).add(label)
    return {
        name: ", ".join(sorted(map(str, own))[:4])[:200]
        for name, own in found.items()
        if len(own) > 1
    }


def _rows(path: Path, image: str | None, label: str | None) -> tuple[list[str], list[list[str]]]:
    """The names of the columns, and the rows below them that are not empty."""
    text = read_text(path)
    first = (text.splitlines() or [""])[0]
    if len(first) == 5 and first.lower().startswith("sep="):  # as Excel writes it
        text, separator = text[5:].lstrip("\r\n"), first[4]
    else:
        separator = _separator(first, image, label)
    csv.field_size_limit(2**31 - 1)  # a cell that is too long costs its own row, not the file
    try:
        reader = csv.reader(
            io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=True
        )
        found = list(reader)
    except csv.Error as error:
        raise InputError(
            f"{path}: cannot be read as CSV (line {reader.line_num}: {error})."
        ) from None
    rows = [row for row in found if row]
    if not rows:
        raise InputError(f"{path}: is empty. Its first line names the columns: image,label.")
    header = [c.strip() for c in rows[0]]
    return header, rows[1:]


def _separator(line: str, image: str | None, label: str | None) -> str:
    """The sign that parts a header into the wanted columns, else into most of them."""
    wanted = [
        {image.lower()} if image else set(IMAGE_COLUMNS),
        {label.lower()} if label else set(LABEL_COLUMNS),
    ]

    def fits(sign: str) -> tuple[int, int]:
        try:
            cells = next(csv.reader([line], delimiter=sign), [])
        except csv.Error:
            cells = []
        names = {c.strip().lower() for c in cells}
        return sum(bool(names & among) for among in wanted), len(cells)

    return max(SEPARATORS, key=fits)


def _problem(header: list[str], row: list[str], name: str) -> str | None:
    """Why a row cannot be used, None if it can."""
    if len(row) > len(header) and any(cell.strip() for cell in row[len(header) :]):
        return (
            f"the row has {len(row)} cells for {len(header)} columns; put a cell that holds the "
            "separator in double quotes."
        )
    return None if name else "the row names no image."
