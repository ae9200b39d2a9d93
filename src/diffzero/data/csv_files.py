"""CSV files: an image and a label column, whatever separates them."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

from ..errors import InputError
from .cells import named, read_file
from .columns import IMAGE_COLUMNS, LABEL_COLUMNS, image_column, label_column
from .dataset import Dataset
from .labels import labelled_rows, whole_numbers
from .text_files import read_text

SEPARATORS = ",;\t\uff0c\uff1b|"


def open_csv(path: Path, image: str | None = None, label: str | None = None) -> Dataset:
    """A data set from a CSV file whose first line names the columns.

    Args:
        path: The file; its image paths are relative to its folder. UTF-8, or UTF-16 with a mark.
        image: Column of the image paths; if None, the first usual name there is.
        label: Column of the labels; if None, the first usual name there is.

    Raises:
        InputError: not readable, or without such columns.
    """
    header, rows = _rows(path, image, label)
    image = image_column(path, header, image)
    label = label_column(path, header, label)
    files, labels = header.index(image), header.index(label)
    keys, names, problems, seen = [], [], {}, set()
    for number, row in enumerate(rows):
        name = row[files].strip() if files < len(row) else ""
        key = name if name and name not in seen else f"{name}#{number}"
        seen.add(key)
        problem = _problem(header, row, name)
        if problem is not None:
            problems[key] = f"{key}: {problem}"
        keys.append(key)
        names.append(name)
    cells = whole_numbers([row[labels] if labels < len(row) else None for row in rows])
    table = zip(keys, cells, names, strict=True)
    examples, classes = labelled_rows(table, None, path, label)
    examples = [replace(e, problem=problems[e.id]) if e.id in problems else e for e in examples]

    def read(name: str) -> bytes:
        return read_file(path.parent / named(name))

    return Dataset(path.stem, str(path), "", classes, examples, read, False)


def _rows(path: Path, image: str | None, label: str | None) -> tuple[list[str], list[list[str]]]:
    """The names of the columns, and the rows below them that are not empty."""
    text = read_text(path)
    first = (text.splitlines() or [""])[0]
    if len(first) == 5 and first.lower().startswith("sep="):  # as Excel writes it
        text, separator = text[5:].lstrip("\r\n"), first[4]
    else:
        separator = _separator(first, image, label)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
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
