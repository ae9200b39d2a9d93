"""Photos into one folder per word: copied or linked, moved only when told, never overwritten."""

from __future__ import annotations

import filecmp
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from ..errors import InputError

How = Literal["copy", "link", "move"]
HOW = ("copy", "link", "move")
LONGEST = 80  # characters of a folder's name


class Sorter:
    """Puts each photo into the folder of its word.

    Args:
        folder: Where the folders of the words go; made if it is not there.
        how: `copy`, `link` (a symbolic link to the photo), or `move`.
        labels: All words.
        sources: What is being classified, which must not hold `folder`: photos sorted into their
            own folder would be classified again.

    Raises:
        InputError: another way, or a folder among the sources.
    """

    def __init__(
        self, folder: Path, how: str, labels: Sequence[str], sources: Sequence[str]
    ) -> None:
        if how not in HOW:
            raise InputError(f"--sort-how takes {', '.join(HOW)}; got {how!r}.")
        if folder.exists() and not folder.is_dir():
            raise InputError(f"--sort-into {folder}: is a file. Give a folder, there or not.")
        for source in sources:
            if Path(source).is_dir() and folder.resolve().is_relative_to(Path(source).resolve()):
                raise InputError(
                    f"--sort-into {folder} lies inside {source}, and its photos would be "
                    "classified again. Give a folder beside it."
                )
        self.folder, self.how = folder, how
        self.names = folder_names(labels)

    def __call__(self, photo: Path, label: str) -> Path:
        """Put a photo into the folder of its word.

        Returns:
            Where it is now; the place it already had if the same photo lies there.

        Raises:
            OSError: it cannot be written there.
        """
        place = self.folder / self.names[label]
        try:
            place.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError:  # where the system allows no folders, as in /proc
            raise InputError(f"{place}: no folder can be made there. Give another.") from None
        if place.samefile(photo.parent):  # sorted already
            return place / photo.name
        number = 1
        while True:
            name = photo.name if number == 1 else f"{photo.stem}-{number}{photo.suffix}"
            target = place / name
            if self._put(photo, target):
                return target
            number += 1

    def _put(self, photo: Path, target: Path) -> bool:
        """Whether the photo is there now; False if another file has that name."""
        if os.path.lexists(target):
            return self.how != "move" and _same(photo, target)
        if self.how == "link":
            target.symlink_to(photo.resolve())
            return True
        handle, part_name = tempfile.mkstemp(prefix=".", dir=target.parent)
        os.close(handle)
        part = Path(part_name)
        try:
            shutil.copy2(photo, part)
            _name(part, target)
        except FileExistsError:
            return False
        finally:
            part.unlink()
        if self.how == "move":
            photo.unlink()
        return True


def _name(part: Path, target: Path) -> None:
    """Let a whole file be found under its name.

    Raises:
        FileExistsError: another file has come to be there, which renaming would replace.
        OSError: it cannot be written there, and nothing is there.
    """
    with suppress(OSError):
        os.link(part, target)
        return
    # Another file, or a file system without hard links.
    with part.open("rb") as whole:
        copy = target.open("xb")
        try:
            with copy:  # what is left in its buffer may not fit either
                shutil.copyfileobj(whole, copy)
        except BaseException:
            target.unlink()
            raise
    shutil.copystat(part, target)


def _same(photo: Path, target: Path) -> bool:
    if target.is_symlink():
        return target.resolve() == photo.resolve()
    return target.is_file() and filecmp.cmp(photo, target, shallow=False)


def folder_names(labels: Sequence[str]) -> dict[str, str]:
    """A folder's name for every word: none leads elsewhere, no two are alike on any system."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for label in labels:
        plain = re.sub(r'[\x00-\x1f\x7f/\\:*?"<>|]', "_", label).strip(" .")[:LONGEST].strip(" .")
        name, number = plain or "_", 2
        while name.casefold() in taken:
            name, number = f"{plain}-{number}", number + 1
        taken.add(name.casefold())
        found[label] = name
    return found
