"""Image files of a folder, without what systems and tools leave behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import InputError

SUFFIXES = {
    *(".png", ".jpg", ".jpeg", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".heic", ".heif", ".avif", ".jpe", ".mpo", ".dib", ".jp2"),
}
"""Files of a folder that are called images, read or not: one that is not read gets a message."""
JUNK = {"__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "lost+found"}
JUNK |= {"System Volume Information"}


def image_files(folder: str | Path) -> list[Path]:
    """The image files in a folder and the folders below it, sorted, see `walk`.

    Raises:
        InputError: a folder without images, or one that cannot be listed.
    """
    found = sorted(f for f in walk(Path(folder)) if f.is_file())
    if not found:
        raise InputError(f"{folder}: no image files in this folder.")
    return found


def walk(folder: Path) -> Iterator[Path]:
    """What is named like an image in a folder and the folders below it.

    Links to folders are followed, each folder once, and never one that holds the folder itself.

    Raises:
        InputError: a folder below that cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename or folder}: cannot be listed ({error.strerror}).")

    seen = {_identity(p) for p in (folder.resolve(), *folder.resolve().parents)}
    seen |= {_identity(p) for p in folder.absolute().parents}
    for place, below, files in os.walk(folder, followlinks=True, onerror=refuse):
        kept = []
        for name in sorted(below):
            identity = _identity(Path(place, name))
            if not is_junk(name) and identity not in seen:
                seen.add(identity)
                kept.append(name)
        below[:] = kept
        yield from (Path(place, f) for f in files if is_image(Path(f)))


def is_junk(name: str) -> bool:
    """Whether a name is one that systems and tools leave behind, or begins with a dot."""
    return name.startswith(".") or name in JUNK


def is_image(path: Path) -> bool:
    """Whether a file is named like an image."""
    return path.suffix.lower() in SUFFIXES and not is_junk(path.name)


def _identity(path: Path) -> tuple[int, int] | str:
    """What is the same for all ways to a folder."""
    try:
        found = path.stat()
    except OSError:
        return str(path)
    return found.st_dev, found.st_ino
