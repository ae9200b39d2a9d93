"""Folders of images: one folder per class, in parts or not."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..errors import InputError, storable
from ..images.files import is_image, is_junk, walk
from .cells import read_file
from .dataset import Dataset, Example
from .matching import composed
from .parts import choose_part, kinds_of, part_to_evaluate

NOT_READ = (".tsv", ".txt", ".json", ".jsonl", ".zip", ".tar", ".gz", ".xlsx", ".npz", ".npy")
READ = (
    "Read are folders with one folder of images per class, CSV (.csv) and Parquet (.parquet) "
    "files with an image and a label column, folders of Parquet files, hub ids, and digits"
)


def open_folder(path: Path, split: str | None) -> Dataset:
    """A data set of one folder per class; links to folders are followed.

    Args:
        path: The folder of the class folders, or of parts that hold these.
        split: The part to use; if None, the first of test, validation and eval there is, or the
            folder itself where it is not divided.

    Raises:
        InputError: no class folders, no such part, or a folder that cannot be listed.
    """
    root = part_folder(path, split)
    part = "" if root == path else os.path.relpath(root, path)
    folders, files = listed(root)
    if part and [f.name for f in folders] == [root.name] and not any(map(is_image, files)):
        folders, files = listed(folders[0])  # seg_train/seg_train, as some archives unpack
    examples = [
        Example(_key(f, path), class_name(folder), f)
        for folder in folders
        for f in sorted(walk(folder))
    ]
    if not examples:
        raise InputError(_no_images(path, root))
    for f in files:
        gone = f.is_symlink() and not f.exists()
        if is_image(f) or gone:
            fault = "a link to nothing" if gone else "lies in no class folder"
            problem = f"{_key(f, path)}: {fault}."
            examples.append(Example(_key(f, path), None, f, problem))
    classes = list(dict.fromkeys(class_name(f) for f in folders))
    name = composed(path.resolve().name)
    return Dataset(name, str(path), part, classes, examples, read_file, False)


def part_folder(path: Path, split: str | None) -> Path:
    """The folder of the class folders.

    Raises:
        InputError: no such part, or none that is meant for evaluation.
    """
    if split is not None and (path / split).is_dir():
        return path / split
    folders, _ = listed(path)
    kinds = kinds_of([f.name for f in folders])
    named = [f for f in folders if f.name in kinds]
    parts = parts_of(path)
    if split is not None:
        return choose_part(parts or named, split, path)
    if parts:
        return part_to_evaluate(parts, path)
    # A single folder "train" with images beside other classes is the vehicle.
    if named and (len(set(kinds.values())) > 1 or len(named) == len(folders)):
        names = ", ".join(f.name for f in named)
        raise InputError(
            f"{path}: its folders {names} are named for parts of a data set and hold no class "
            "folders. Put one folder per class into each part, and name the part with --split."
        )
    _refuse_parts_below(path, folders)
    _refuse_numbered(path, folders)
    return path


def _refuse_parts_below(path: Path, folders: list[Path]) -> None:
    """Refuse class folders that are divided into parts, and a folder around a divided one.

    Raises:
        InputError: training images would be counted as others.
    """
    for folder in folders:
        kinds = kinds_of([f.name for f in listed(folder)[0]])
        if len(set(kinds.values())) > 1 or (kinds and len(folders) == 1):
            raise InputError(
                f"{path}: its folder {folder.name} is divided into parts ({', '.join(kinds)}), so "
                "it is no class. Give the folder whose folders are the parts, with the classes "
                "below them, and name a part with --split."
            )


def _refuse_numbered(path: Path, folders: list[Path]) -> None:
    """Refuse folders that differ in their numbers alone and hold the same folders: folds.

    Raises:
        InputError: such folders.
    """
    stems = {re.sub(r"\d+", "", folder.name) for folder in folders}
    below = {tuple(f.name for f in listed(folder)[0]) for folder in folders}
    if len(folders) > 1 and len(stems) == 1 and len(below) == 1 and len(below.pop()) > 1:
        raise InputError(
            f"{path}: its folders {', '.join(f.name for f in folders[:4])} differ in their "
            "numbers alone and hold the same folders, so they are parts of a data set, not "
            "classes. Name the part to use with --split."
        )


def parts_of(path: Path) -> list[Path]:
    """Folders that are named for a part of a data set and hold class folders with images."""
    folders = listed(path)[0]
    kinds = kinds_of([f.name for f in folders])
    named = [f for f in folders if f.name in kinds]
    return [f for f in named if any(next(walk(c), None) for c in listed(f)[0])]


def listed(folder: Path) -> tuple[list[Path], list[Path]]:
    """Folders and other entries of a folder, sorted, without what systems leave behind.

    Raises:
        InputError: it cannot be listed.
    """
    try:
        entries = sorted(p for p in folder.iterdir() if not is_junk(p.name))
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error.strerror}).") from None
    folders = [p for p in entries if p.is_dir()]
    return folders, [p for p in entries if not p.is_dir()]


def class_name(folder: Path) -> str:
    """The class that a folder is named for, as prompts want it."""
    return composed(folder.name).replace("_", " ")


def _key(file: Path, root: Path) -> str:
    return storable(str(file.relative_to(root)))


def _no_images(path: Path, root: Path) -> str:
    """What is wrong with a folder without images in class folders, and what lies there instead."""
    _, files = listed(root)
    tables = [f.name for f in files if f.suffix.lower() in (".csv", ".parquet")]
    others = [f.name for f in files if f.suffix.lower() in NOT_READ]
    there = ""
    if tables:
        there = f" There is {', '.join(tables[:3])}: give that file to use it."
    elif others:
        there = f" There is {', '.join(others[:3])}, which is not read."
    elif any(is_image(f) for f in files):
        there = " There are images, but they lie in no class folder."
    return f"{path}: no images found in class folders.{there} {READ}."
