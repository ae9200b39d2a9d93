"""Parquet files: labels first, images when their turn comes, one row group held at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import InputError
from .cells import encoded
from .columns import image_column, label_column
from .dataset import Dataset
from .labels import declared_names, labelled_rows
from .parts import EVALUATED, kind_of

Place = tuple[int, int, int]  # file, row group, row of the group


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

    def __call__(self, where: Place) -> bytes:
        """The image at (file, row group, row of the group).

        Raises:
            InputError: the cell holds no image and no path.
            OSError: a file cannot be read.
        """
        import pyarrow.parquet as pq

        file, group, row = where
        if self._held != (file, group):
            table = pq.ParquetFile(self.files[file]).read_row_group(group, [self.column])
            self._values, self._held = table[self.column].combine_chunks(), (file, group)
        return encoded(self._values[row].as_py(), self.files[file].parent)


def open_parquet(
    source: str, files: list[Path], split: str, image: str | None = None, label: str | None = None
) -> Dataset:
    """A data set from Parquet files of the same columns.

    Args:
        source: What the user named; a single file names the set by itself.
        files: The files, in order.
        split: What part of the data they are, empty if it has no parts.
        image: Column of the images; if None, the first usual name there is.
        label: Column of the labels; if None, the first usual name there is.

    Raises:
        InputError: not readable, without such columns, or with several labels in a row.
    """
    opened = opened_files(source, files)
    schema = opened[0].schema_arrow
    label = label_column(source, schema.names, label)
    image = image_column(source, schema.names, image)
    for file, path in zip(opened, files, strict=True):
        _check_columns(file.schema_arrow, path, image, label)
    _refuse_nested(source, schema.field(label))
    names = declared_names(features_of(source, schema).get(label))
    rows = (
        (f"{files[f].name}#{number}", cell, (f, g, r))
        for f, file in enumerate(opened)
        for number, cell, g, r in _cells(files[f], file, label)
    )
    examples, classes = labelled_rows(rows, names, source, label)
    stem = len(files) == 1 and Path(source).suffix.lower() == ".parquet"
    name = Path(source).stem if stem else Path(source).name
    reader = ParquetReader(files, image)
    return Dataset(name, source, split, list(classes), examples, reader, names is not None)


def opened_files(source: str, files: list[Path]) -> list[Any]:
    """`pyarrow.parquet.ParquetFile` of each.

    Raises:
        InputError: one that is no Parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return [pq.ParquetFile(f) for f in files]
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{source}: not readable as Parquet ({error}).") from None


def places(opened: list[Any]) -> list[Place]:
    """Of every row of opened files, in order."""
    return [
        (f, g, r)
        for f, file in enumerate(opened)
        for g in range(file.num_row_groups)
        for r in range(file.metadata.row_group(g).num_rows)
    ]


def parquet_files(folder: Path) -> list[Path]:
    """The Parquet files of a folder, or of `data` in it, sorted."""
    found = sorted(folder.glob("*.parquet")) or sorted(folder.glob("data/*.parquet"))
    return [f for f in found if not f.name.startswith(".")]


def split_files(files: list[Path], split: str | None) -> tuple[list[Path], str]:
    """The files of a part, by the beginning of their names.

    Args:
        files: All of a folder.
        split: The part; if None, the first of test, validation and eval there is, else all files.

    Returns:
        The files, and the part's name, empty where there are no parts to evaluate.

    Raises:
        InputError: no file of this part.
    """
    if split:
        found = [f for f in files if f.name.startswith(split)]
        kind = kind_of(split)
        found = found or [f for f in files if kind is not None and kind_of_file(f) == kind]
        if found:
            return found, split
        raise InputError(
            f"{files[0].parent}: no file of split {split!r}; has "
            f"{', '.join(f.name for f in files[:5])}."
        )
    for kind in EVALUATED:
        words = [_word(f) for f in files if kind_of_file(f) == kind]
        if words:
            word = kind if kind in words else words[0]
            return [f for f in files if _word(f) == word], word
    return files, ""


def _word(file: Path) -> str:
    """The word that a file's name begins with."""
    found = re.match(r"[A-Z]?[a-z]+|[A-Z]+", file.stem)
    return found[0] if found else ""


def kind_of_file(file: Path) -> str | None:
    """The kind of part that a file is named for: `train-00000-of-00002` is `train`."""
    return kind_of(_word(file))


def features_of(source: str, schema: Any) -> dict[str, Any]:
    """The features that `datasets` writes into a schema, by column; empty if there are none.

    Raises:
        InputError: damaged ones.
    """
    written = (schema.metadata or {}).get(b"huggingface")
    if written is None:
        return {}
    try:
        features = json.loads(written).get("info", {}).get("features", {})
        return dict(features)
    except (ValueError, AttributeError, TypeError):
        raise InputError(
            f"{source}: the description of its columns (huggingface, in the schema's metadata) "
            "is damaged. Write the file again."
        ) from None


def _check_columns(schema: Any, path: Path, *columns: str) -> None:
    missing = [c for c in columns if c not in schema.names]
    if missing:
        raise InputError(
            f"{path}: has no column {', '.join(missing)}, as the files beside it have; it has "
            f"{', '.join(schema.names)}. Keep files of other columns in another folder."
        )


def _refuse_nested(source: str, field: Any) -> None:
    """Refuse a label column of lists or structures, whatever its cells hold."""
    import pyarrow.types as kinds

    if kinds.is_nested(field.type):
        raise InputError(
            f"{source}: the column {field.name} holds {field.type}, several labels in a row, and "
            "an evaluation needs one class per image. Name another column with --label-column, "
            "or keep the rows and the label that count."
        )


def _cells(path: Path, file: Any, column: str) -> Iterator[tuple[int, Any, int, int]]:
    """(row of the file, cell, row group, row of the group) of a column."""
    import pyarrow as pa

    number = 0
    for g in range(file.num_row_groups):
        try:
            cells = file.read_row_group(g, [column])[column].to_pylist()
        except (pa.ArrowException, OSError, ValueError) as error:
            said = str(error).strip().splitlines()[0]
            raise InputError(
                f"{path}: the column {column} cannot be read ({said}). The file is damaged; fetch "
                "or write it again."
            ) from None
        for r, cell in enumerate(cells):
            yield number, cell, g, r
            number += 1
