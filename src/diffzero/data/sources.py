"""Where labelled images come from: folders, CSV, Parquet, the hub, and the bundled digits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..images import SUFFIXES
from .dataset import Dataset, Example

IMAGE_COLUMNS = ("image", "img", "image_path", "path", "file", "file_name", "filename")
LABEL_COLUMNS = ("label", "fine_label", "labels", "class", "category")
SPLITS = ("test", "validation", "val", "valid", "eval")


def open_data(
    source: str,
    split: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
) -> Dataset:
    """A data set from what the user names.

    Args:
        source: `digits` (scikit-learn's, held out of the bundled models' training), a folder of
            Parquet files or of one folder a class, a CSV or Parquet file, or a hub id.
        split: Part of the data; if None, the first of test, validation, val there is, else all.
        image_column: Column of the images; if None, the first usual name there is.
        label_column: Column of the labels; if None, the first usual name there is.

    Raises:
        InputError: nothing usable there.
    """
    path = Path(source).expanduser()
    if source == "digits":
        return _digits(split)
    if path.is_dir():
        files = sorted(path.glob("*.parquet")) or sorted(path.glob("data/*.parquet"))
        opened = (
            _parquet(source, *_split_files(files, split), image_column, label_column)
            if files
            else _folder(path, split)
        )
    elif path.suffix.lower() == ".csv":
        opened = _csv(path, image_column, label_column)
    elif path.suffix.lower() == ".parquet":
        opened = _parquet(source, [_existing(path)], "", image_column, label_column)
    elif source.count("/") <= 1 and not source.startswith((".", "/", "~")):
        opened = _hub(source, split, image_column, label_column)
    else:
        raise InputError(f"{source}: no such file or folder.")
    if not opened.examples:
        raise InputError(f"{source}: holds no images. Check the path and --split.")
    if len(opened.classes) < 2:
        raise InputError(
            f"{source}: has {len(opened.classes)} classes, and there is nothing to choose "
            "between. An ImageFolder holds one folder a class."
        )
    return opened


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"{path}: no such file.")
    return path


def _digits(split: str | None) -> Dataset:
    from .labelled import caption_words, digits_split

    names = caption_words()["digits"]["classes"]
    train, test = digits_split()
    if split not in (None, "test", "train"):
        raise InputError(f"digits has the splits train and test; got {split!r}.")
    images, labels = train if split == "train" else test
    part = split or "test"
    examples = [Example(f"{part}#{i}", names[y], i) for i, y in enumerate(labels)]
    return Dataset("digits", "digits", part, names, examples, images.__getitem__)


def _folder(path: Path, split: str | None) -> Dataset:
    part = split or next((s for s in SPLITS if (path / s).is_dir()), "")
    root = path / part
    if not root.is_dir():
        raise InputError(f"{path}: has no part {part!r}.")
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    examples = [
        Example(str(f.relative_to(path)), folder.name.replace("_", " "), f)
        for folder in folders
        for f in sorted(folder.rglob("*"))
        if f.suffix.lower() in SUFFIXES
    ]
    stray = [f for f in sorted(root.iterdir()) if f.suffix.lower() in SUFFIXES]
    if not examples:
        raise InputError(
            f"{path}: no images found. An ImageFolder holds one folder a class with image files "
            "in it; Parquet files end in .parquet."
        )
    examples += [
        Example(
            str(f.relative_to(path)), None, f, f"{f.relative_to(path)}: lies in no class folder."
        )
        for f in stray
    ]
    classes = [f.name.replace("_", " ") for f in folders]
    return Dataset(path.resolve().name, str(path), part, classes, examples, Path.read_bytes, False)


def _csv(path: Path, image_column: str | None, label_column: str | None) -> Dataset:
    import csv

    try:
        with _existing(path).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns, rows = list(reader.fieldnames or []), list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV ({error}).") from None
    image = _column(path, columns, image_column, IMAGE_COLUMNS, "--image-column")
    label = _column(path, columns, label_column, LABEL_COLUMNS, "--label-column")
    examples, seen = [], set()
    for number, row in enumerate(rows):
        name = (row[image] or "").strip()
        key = name if name and name not in seen else f"{name}#{number}"
        seen.add(key)
        examples.append(_row(key, (row[label] or "").strip() or None, path.parent / name, name))
    classes = sorted({e.label for e in examples if e.label is not None})
    return Dataset(path.stem, str(path), "", classes, examples, Path.read_bytes, False)


def _row(key: str, label: str | None, where: Any, image: Any) -> Example:
    problem = None
    if not image:
        problem = f"{key}: the row names no image."
    elif label is None:
        problem = f"{key}: the row has no label."
    return Example(key, label, where, problem)


def _column(
    path: Any, columns: list[str], given: str | None, usual: Sequence[str], option: str
) -> str:
    name = given or next((c for c in usual if c in columns), None)
    if name is None or name not in columns:
        raise InputError(
            f"{path}: needs a column {given or ' or '.join(usual[:2])}; has {', '.join(columns)}. "
            f"Name it with {option}."
        )
    return name


def _split_files(files: list[Path], split: str | None) -> tuple[list[Path], str]:
    for part in [split] if split else SPLITS:
        found = [f for f in files if f.name.startswith(f"{part}")]
        if found:
            return found, str(part)
    if split:
        raise InputError(
            f"{files[0].parent}: no file of split {split!r}; has "
            f"{', '.join(f.name for f in files[:5])}."
        )
    return files, ""


class ParquetReader:
    """Encoded images out of Parquet files, one row group held at a time.

    Args:
        files: The files.
        column: Of the images: bytes, structs with bytes and path, or paths.
    """

    def __init__(self, files: list[Path], column: str) -> None:
        self.files, self.column = files, column
        self._held: tuple[int, int] | None = None
        self._values: Any = None

    def __call__(self, where: tuple[int, int, int]) -> bytes:
        """The image at (file, row group, row of the group)."""
        import pyarrow.parquet as pq

        file, group, row = where
        if self._held != (file, group):
            table = pq.ParquetFile(self.files[file]).read_row_group(group, [self.column])
            self._values, self._held = table[self.column].combine_chunks(), (file, group)
        value = self._values[row].as_py()
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, str):
            return (self.files[file].parent / value).read_bytes()
        if value is None:
            raise InputError(f"row {row}: the image is missing.")
        return value


def _parquet(
    source: str, files: list[Path], split: str, image: str | None, label: str | None
) -> Dataset:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        opened = [pq.ParquetFile(f) for f in files]
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{source}: not readable as Parquet ({error}).") from None
    columns = opened[0].schema_arrow.names
    _refuse_candidates(source, columns, label)
    image = _column(source, columns, image, IMAGE_COLUMNS, "--image-column")
    label = _column(source, columns, label, LABEL_COLUMNS, "--label-column")
    metadata = opened[0].schema_arrow.metadata or {}
    features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    declared = _spaced(features.get(label, {}).get("names"))
    examples, found = [], set()
    for f, file in enumerate(opened):
        row = 0
        for g in range(file.num_row_groups):
            values = file.read_row_group(g, [label])[label].to_pylist()
            for r, value in enumerate(values):
                key = f"{files[f].name}#{row}"
                examples.append(_labelled(key, value, declared, (f, g, r)))
                found.add(value)
                row += 1
    classes = declared or [str(v) for v in sorted(v for v in found if v is not None)]
    name = Path(source).stem if len(files) == 1 and source.endswith("t") else Path(source).name
    reader = ParquetReader(files, image)
    return Dataset(name, source, split, list(classes), examples, reader, declared is not None)


def _refuse_candidates(source: str, columns: list[str], label: str | None) -> None:
    """Refuse a set whose labels are places in each image's own candidates, and no classes.

    Raises:
        InputError: a column of candidates, and no column of labels named by the user.
    """
    if "candidates" in columns and label is None:
        raise InputError(
            f"{source}: every image has its own candidates there, and its label is a place among "
            "them, so there are no classes to evaluate. Give clf.scores(images, candidates=...) "
            "both in Python, or name a column of classes with --label-column."
        )


def _spaced(names: list[str] | None) -> list[str] | None:
    """Names as prompts want them, unless that makes two of them alike."""
    spaced = None if names is None else [n.replace("_", " ") for n in names]
    return spaced if spaced is None or len(set(spaced)) == len(spaced) else names


def _labelled(key: str, value: Any, declared: list[str] | None, where: Any) -> Example:
    """A row whose label is a name or the number of one."""
    if declared is None or isinstance(value, str) or value is None:
        return _row(key, None if value is None else str(value), where, True)
    if not 0 <= value < len(declared):
        text = f"{key}: its label {value} is not among the {len(declared)} classes."
        return Example(key, None, where, text)
    return Example(key, declared[value], where)


def _hub(source: str, split: str | None, image: str | None, label: str | None) -> Dataset:
    import datasets

    try:
        parts = [split] if split else datasets.get_dataset_split_names(source)
        part = next((s for s in SPLITS if s in parts), parts[0])
        table = datasets.load_dataset(source, split=part)
    except Exception as error:  # the hub client raises a dozen types for "not there"
        raise InputError(
            f"{source}: neither a local file or folder nor a data set that the hub could give "
            f"({type(error).__name__}). Without a network give local data, or digits."
        ) from None
    return from_table(source, part, table, image, label)


def from_table(
    source: str, split: str, table: Any, image: str | None = None, label: str | None = None
) -> Dataset:
    """A data set from a `datasets.Dataset` with an image and a label column."""
    import datasets

    image = _column(source, table.column_names, image, IMAGE_COLUMNS, "--image-column")
    label = _column(source, table.column_names, label, LABEL_COLUMNS, "--label-column")
    declared = _spaced(getattr(table.features[label], "names", None))
    values = table[label][:]
    examples = [_labelled(f"{split}#{i}", v, declared, i) for i, v in enumerate(values)]
    classes = declared or sorted({str(v) for v in values if v is not None})
    encoded = table.cast_column(image, datasets.Image(decode=False))

    def read(i: int) -> bytes:
        cell = encoded[i][image]
        return cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()

    name = source.rpartition("/")[2]
    return Dataset(name, source, split, list(classes), examples, read, declared is not None)
