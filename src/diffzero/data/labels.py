"""From the cells of a label column to classes: one cell that fits none is one bad row."""

from __future__ import annotations

import ast
import math
import numbers
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from ..prompts import is_text
from ..words import bare
from .dataset import Example
from .matching import Spellings, composed

# As pandas, R, spreadsheets and databases write what is not there.
MISSING = ("", "nan", "NaN", "<NA>", "NaT", "NA", "N/A", "n/a", "#N/A", "NULL", "null")
BETWEEN = re.compile(r"[;|]")  # signs between several labels in one cell


def class_of(cell: Any, names: Sequence[str] | None = None) -> str | None:
    """The class that a label cell means.

    Args:
        cell: A class name, as text or UTF-8 bytes, or the number of one; whole floats such as
            0.0 are numbers (a column of numbers with a gap becomes one of floats).
        names: Classes that the data declare; a number is a place among them. None where the
            labels are the classes.

    Returns:
        The class, or None where the cell holds no label (None, NaN, blank text).

    Raises:
        InputError: anything else; the sentence says what the cell holds.
    """
    return _Cells(names).read(cell)


class _Cells:
    """`class_of` for many cells of the same names.

    Args:
        names: Classes that the data declare, or None.
    """

    def __init__(self, names: Sequence[str] | None) -> None:
        self._names = names
        self._spellings = Spellings((n, n) for n in names or ())

    def read(self, cell: Any) -> str | None:
        if isinstance(cell, str) and cell in (self._names or ()):
            return cell  # a declared class may be called NA
        value = plain(cell)
        if self._names is None or value is None:
            return None if value is None else _as_class(value)
        if isinstance(value, str):
            name = self._spellings.find(value)
            if name is not None:
                return name
            if re.fullmatch(r"[0-9]{1,9}(\.0{1,9})?", value):
                value = int(float(value))
        if isinstance(value, int) and 0 <= value < len(self._names):
            return self._names[int(value)]
        raise InputError(f"its label {_short(cell)} is not among the {len(self._names)} classes.")


def _as_class(value: str | int | bool) -> str:
    """A class of data that declare none.

    Raises:
        InputError: a negative number, which stands for what is not labelled, or no word.
    """
    if isinstance(value, int) and value < 0:
        raise InputError(f"its label is {value}, and a negative number is no class.")
    if isinstance(value, str) and not is_text(value):
        raise InputError(
            f"its label {_short(value)} is no word: it is longer than any, or holds signs that "
            "are no text."
        )
    return str(value)


def plain(cell: Any) -> str | int | bool | None:
    """A label cell as text or a whole number; None where it holds no label.

    Raises:
        InputError: it holds neither.
    """
    if isinstance(cell, np.generic):
        cell = cell.item()
    if cell is None or type(cell).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(cell, bytes | bytearray | memoryview):
        try:
            cell = bytes(cell).decode("utf-8-sig")
        except UnicodeDecodeError:
            raise InputError(f"its label is {len(cell)} bytes that are no UTF-8 text.") from None
    if isinstance(cell, str):
        text = bare(composed(cell))
        return None if text in MISSING else text
    if isinstance(cell, bool | int):
        return cell
    if isinstance(cell, numbers.Real) or type(cell).__name__ == "Decimal":
        number = float(cell)
        if math.isnan(number):
            return None
        if math.isfinite(number) and number == int(number):
            return int(number)
        raise InputError(f"its label {cell} is no whole number, so it is no class.")
    raise InputError(f"its label is of type {type(cell).__name__}, neither text nor a number.")


def labelled_rows(
    rows: Iterable[tuple[str, Any, Any]], names: list[str] | None, source: Any, column: str
) -> tuple[list[Example], list[str]]:
    """Examples of the rows of a table, and their classes.

    Args:
        rows: For each row its id, its label cell and what the reader of images takes.
        names: Classes that the data declare, or None.
        source: Of the data, for messages.
        column: Name of the label column, for messages.

    Returns:
        Examples, those with an unusable label as problems; `names`, or the labels in numeric or
        alphabetical order.

    Raises:
        InputError: a row with several labels.
    """
    cells = _Cells(names)
    known: dict[tuple[type, Any], str | None] = {}
    numeric, examples = True, []
    for key, cell, where in rows:
        refuse_several(cell, source, column)
        label, problem, short = None, None, (type(cell), cell)
        try:
            if not _hashable(cell) or short not in known:
                label = cells.read(cell)
                if _hashable(cell):
                    known[short] = label
            else:
                label = known[short]
        except InputError as error:
            problem = f"{key}: {error}"
        if label is None and problem is None:
            problem = f"{key}: the row has no label."
        numeric = numeric and (label is None or not isinstance(cell, str | bytes))
        examples.append(Example(key, label, where, problem))
    found = {e.label for e in examples if e.label is not None}
    if names is None:
        _refuse_joined(found, source, column)
    return examples, names or (sorted(found, key=_number) if numeric else sorted(found))


def _refuse_joined(labels: Iterable[str], source: Any, column: str) -> None:
    """Refuse cells that join several labels by `;` or `|`: parts of them are labels elsewhere.

    Raises:
        InputError: naming such a cell.
    """
    parts = {one: {p.strip() for p in BETWEEN.split(one)} - {""} for one in labels}
    counts = Counter(part for own in parts.values() for part in own)
    for label, own in sorted(parts.items()):
        if len(own) > 1 and any(counts[part] > 1 for part in own):
            raise _several(label, source, column)


def table_numbers(cells: Sequence[str | None]) -> list[Any]:
    """Text cells of a column of numbers as numbers, where text would mean something else.

    That is a column with a number that is negative or has a point (`0.0`), or with the word
    `None`. A column of anything else stays as it is, and so does one of numbers such as `007`.
    """
    texts = [None if c is None or c.strip() in MISSING else c.strip() for c in cells]
    written = [t for t in texts if t not in (None, "None")]
    odd = "None" in texts or any(t.startswith("-") or "." in t for t in written if t)
    number = re.compile(r"-?(0|[1-9][0-9]{0,8})(\.[0-9]{1,9})?")
    if not odd or not written or not all(number.fullmatch(t) for t in written if t):
        return list(cells)
    return [None if t in (None, "None") else float(str(t)) for t in texts]


def refuse_several(cell: Any, source: Any, column: str) -> None:
    """Refuse data whose rows have lists of labels, in a list column or as the text of a list.

    Raises:
        InputError: such a cell.
    """
    value = cell
    if isinstance(cell, str) and cell.strip()[:1] in ("[", "{", "("):
        try:
            value = ast.literal_eval(cell.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return
    if isinstance(value, list | tuple | set | frozenset | dict | np.ndarray):
        raise _several(cell, source, column)


def _several(cell: Any, source: Any, column: str) -> InputError:
    return InputError(
        f"{source}: the column {column} holds {_short(cell)}, several labels in a row, and an "
        "evaluation needs one class per image. Name another column with --label-column, or keep "
        "the rows and the label that count."
    )


def declared_names(feature: Any) -> list[str] | None:
    """Class names that a schema declares, as prompts want them; None if it declares none.

    Underscores become spaces, unless that makes two names alike.
    """
    names = feature.get("names") if isinstance(feature, dict) else getattr(feature, "names", None)
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        return None
    names = [composed(n) for n in names]
    spaced = [n.replace("_", " ") for n in names]
    return spaced if len(set(spaced)) == len(spaced) else names


def _hashable(cell: Any) -> bool:
    return isinstance(cell, str | int | bytes)


def _number(text: str) -> tuple[int, str]:
    return (int(text), text) if text.lstrip("-").isdecimal() else (0, text)


def _short(cell: Any) -> str:
    text = repr(cell)
    return text if len(text) <= 60 else text[:59] + "…"
