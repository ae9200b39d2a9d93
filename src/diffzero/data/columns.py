"""Which column of a table holds the images, and which the labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import InputError

IMAGE_COLUMNS = ("image", "img", "image_path", "path", "file", "file_name", "filename")
LABEL_COLUMNS = ("label", "fine_label", "labels", "class", "category")


def image_column(source: Any, columns: Sequence[str], given: str | None) -> str:
    """The column of the images: the one given, or the first usual name there is.

    Raises:
        InputError: no such column.
    """
    return _column(source, columns, given, IMAGE_COLUMNS, "--image-column")


def label_column(source: Any, columns: Sequence[str], given: str | None) -> str:
    """The column of the labels: the one given, or the first usual name there is.

    Raises:
        InputError: no such column, or one of places among candidates that each image has itself.
    """
    if "candidates" in columns and given is None:
        raise InputError(
            f"{source}: every image has its own candidates there, and its label is a place among "
            "them, so there are no classes to evaluate. Give clf.scores(images, candidates=...) "
            "both in Python, or name a column of classes with --label-column."
        )
    return _column(source, columns, given, LABEL_COLUMNS, "--label-column")


def _column(
    source: Any, columns: Sequence[str], given: str | None, usual: Sequence[str], option: str
) -> str:
    lowered = {c.strip().lower(): c for c in reversed(columns)}
    wanted = [given] if given else usual
    exact = next((c for c in wanted if c in columns), None)
    name = exact or next((lowered[c.lower()] for c in wanted if c.lower() in lowered), None)
    if name is None:
        shown = ", ".join(columns[:12]) + (", ..." if len(columns) > 12 else "")
        raise InputError(
            f"{source}: needs a column {given or ' or '.join(usual[:2])}; has {shown}. "
            f"Name it with {option}."
        )
    return name
