"""From what the user names to a data set."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import InputError
from .csv_files import open_csv
from .dataset import Dataset
from .digits import open_digits
from .folders import NOT_READ, READ, open_folder
from .hub import open_hub
from .labelled import caption_words
from .parquet import open_parquet, parquet_files, split_files


def open_data(
    source: str,
    split: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
) -> Dataset:
    """A data set from what the user names.

    Args:
        source: `digits` (scikit-learn's, held out of the bundled models' training), a folder of
            Parquet files or of one folder per class, a CSV or Parquet file, or a hub id.
        split: Part of the data; if None, the first of test, validation, val there is, else all.
        image_column: Column of the images; if None, the first usual name there is.
        label_column: Column of the labels; if None, the first usual name there is.

    Raises:
        InputError: nothing usable there.
    """
    source = os.fspath(source)
    opened = _open(source, split, image_column, label_column)
    if not opened.examples:
        raise InputError(f"{source}: holds no images. Check the path and --split.")
    if len(opened.classes) < 2:
        first = next((e.problem for e in opened.examples if e.problem is not None), None)
        why = f" The first row that is left out: {first}" if first else ""
        if Path(source).expanduser().is_dir():
            why = " An ImageFolder holds one folder per class."
        raise InputError(
            f"{source}: has {len(opened.classes)} class{'es' * (len(opened.classes) != 1)}, and "
            f"there is nothing to choose between.{why}"
        )
    return opened


def _open(source: str, split: str | None, image: str | None, label: str | None) -> Dataset:
    path = Path(source).expanduser()
    if split is not None and not split.strip():
        raise InputError("--split is blank. Name a part of the data, or leave it out.")
    if source == "digits":
        return open_digits(split, caption_words()["digits"]["classes"])
    try:
        there, folder = path.exists(), path.is_dir()
    except OSError:  # too long
        there = folder = False
    if "\0" in source or len(source) > 4096:
        raise InputError(f"{source[:60]!r}: no path can be so named. {READ}.")
    if folder:
        files = parquet_files(path)
        if files:
            return open_parquet(source, *split_files(files, split), image, label)
        return open_folder(path, split)
    if path.suffix.lower() in (".csv", ".parquet"):
        return _file(source, path, split, image, label)
    if there:
        raise InputError(f"{source}: this kind of file is not read. {READ}.")
    local = path.suffix.lower() in NOT_READ or source.startswith((".", "/", "~"))
    if local or source.count("/") > 1:
        raise InputError(f"{source}: no such file or folder.")
    return open_hub(source, split, image, label)


def _file(
    source: str, path: Path, split: str | None, image: str | None, label: str | None
) -> Dataset:
    """A CSV or Parquet file."""
    if not path.is_file():
        raise InputError(f"{path}: no such file.")
    if path.suffix.lower() == ".csv":
        return open_csv(path, image, label, split)
    if split:
        raise InputError(
            f"{path}: one file has no parts, so there is no part {split!r}. Leave --split out, or "
            "give the folder of all files."
        )
    return open_parquet(source, [path], "", image, label)
