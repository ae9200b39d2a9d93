"""The contact sheet: every photo small, with its words, the doubtful ones first; one HTML file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from .records import marked
from .results import unknown_in

SHOWN = 1000  # photos on a sheet at most: some 5 KB each


def check_sheet(out: Path, option: str = "--html", like: str = "contact.html") -> None:
    """Refuse a name that a page cannot be written to, before any work.

    Raises:
        InputError: another ending, or a folder that is not there.
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"{option} takes a file such as {like}; got {out}.")
    if not out.parent.is_dir():
        raise InputError(f"{out}: the folder {out.parent} does not exist. Create it first.")


def write_sheet(
    rows: Sequence[Mapping[str, Any]], files: Mapping[str, str], k: int, title: str, out: Path
) -> None:
    """One self-contained page.

    Args:
        rows: Flat rows, see `results.flat`.
        files: Where each row's photo lies, by the row's path.
        k: Words of a row.
        title: What was asked of which model.
        out: The page.
    """
    from ..evaluate.page import template

    answered = sorted((r for r in rows if not r.get("error")), key=doubt, reverse=True)
    text = template("contact.html.j2", Path(__file__).parent).render(
        title=title,
        photos=[_photo(row, files, k) for row in answered[:SHOWN]],
        left_out=len(answered[SHOWN:]),
        counts=Counter(marked(row["label"], unknown_in(row)) for row in answered).most_common(),
        unknown=sorted({label for row in answered for label in unknown_in(row)}),
        failed=[row for row in rows if row.get("error")],
    )
    fresh = out.with_name(out.name + ".new")
    fresh.write_text(text, encoding="utf-8")
    os.replace(fresh, out)  # noqa: PTH105


def doubt(row: Mapping[str, Any]) -> float:
    """How near the second word comes to the first: 0 for certainty, 1 for a tie."""
    return 1 - ((row["p_1"] or 0.0) - (row.get("p_2") or 0.0))


def _photo(row: Mapping[str, Any], files: Mapping[str, str], k: int) -> dict[str, Any]:
    unknown, places = unknown_in(row), range(1, k + 1)
    words = [
        (marked(row[f"label_{i}"], unknown), row[f"p_{i}"]) for i in places if row[f"label_{i}"]
    ]
    return {
        "name": Path(row["path"]).name,
        "path": row["path"],
        "label": marked(row["label"], unknown),
        "words": words,
        "labels": row.get("labels"),
        "picture": _picture(files.get(row["path"], row["path"])),
    }


def _picture(path: str) -> str | None:
    """The photo as a small data URL; None if it is gone."""
    from ..evaluate.pictures import thumbnail
    from ..images import load_image

    try:
        return thumbnail(load_image(path))
    except InputError:
        return None
