"""Image cells of tables: encoded bytes, paths, or the two in a structure."""

from __future__ import annotations

import stat
import unicodedata
from pathlib import Path
from typing import Any

from ..errors import InputError


def encoded(cell: Any, folder: Path) -> bytes:
    """The encoded image that a cell holds or names.

    Args:
        cell: Bytes, a path, or a dictionary with `bytes` or `path`, as `datasets` keeps images.
        folder: What paths are relative to.

    Raises:
        InputError: the cell holds neither, or names something that is no file.
        OSError: the file it names cannot be read.
    """
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, bytes | bytearray | memoryview):
        return bytes(cell)
    if isinstance(cell, str) and cell.strip():
        return read_file(folder / named(cell))
    if cell is None or cell == "" or (isinstance(cell, float) and cell != cell):
        raise InputError("the image is missing.")
    kind = "a list" if isinstance(cell, list | tuple) else f"{type(cell).__name__} {cell!r}"
    raise InputError(f"the image cell holds {kind[:60]}, neither an encoded image nor a path.")


def named(path: str) -> str:
    """A path out of a cell.

    Raises:
        InputError: a URL, or a text that no path can be.
    """
    if path.startswith(("http://", "https://")):
        raise InputError(f"{path}: image URLs are not fetched. Download it and give the path.")
    if "\0" in path:
        raise InputError(f"the path {path!r} holds a NUL character, so it names no file.")
    return path


def read_file(path: Path) -> bytes:
    """The bytes of a regular file; its name may be composed or decomposed Unicode.

    Raises:
        InputError: something else than a file, a pipe for example.
        OSError: it cannot be read.
    """
    if not path.exists():
        forms = [unicodedata.normalize(form, path.name) for form in ("NFC", "NFD")]
        whole = [Path(unicodedata.normalize(form, str(path))) for form in ("NFC", "NFD")]
        others = [*map(path.with_name, forms), *whole] if path.name else []
        others += [Path(str(path).replace("\\", "/"))]  # as Windows writes it
        path = next((p for p in others if p.exists()), path)
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError(f"{path}: not a regular file.")
    return path.read_bytes()
