"""Parquet files: labels first, images when their turn comes, one row group held at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from .cells import encoded
from .columns import image_column, label_column
from .dataset import Dataset
from .labels import declared_names, labelled_rows
from .matching import some
from .parts import EVALUATED, WORDS, kind_of, named_for

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
    known = [declared_names(features_of(source, f.schema_arrow).get(label)) for f in opened]
    for path, own in zip(files, known, strict=True):
        if sorted(own or []) != sorted(names or []):
            raise InputError(
                f"{path}: declares other classes ({some(own or [])}) than {files[0].name} "
                f"({some(names or [])}), so that its labels mean something else. Give files of "
                "one data set."
            )
    rows = (
        (f"{files[f].name}#{number}", _as_first(cell, known[f], names), (f, g, r))
        for f, file in enumerate(opened)
        for number, cell, g, r in _cells(files[f], file, label)
    )
    examples, classes = labelled_rows(rows, names, source, label)
    stem = len(files) == 1 and Path(source).suffix.lower() == ".parquet"
    name = Path(source).stem if stem else Path(source).name
    reader = ParquetReader(files, image)
    return Dataset(name, source, split, list(classes), examples, reader, names is not None)


def _as_first(cell: Any, own: list[str] | None, names: list[str] | None) -> Any:
    """A label as a place among the first file's names: shards may order theirs otherwise."""
    place = isinstance(cell, int) and not isinstance(cell, bool)
    if own is None or names is None or own == names or not place or not 0 <= cell < len(own):
        return cell
    return names.index(own[cell])


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
    """The files of a part, by their names without the numbers of shards.

    Args:
        files: All of a folder.
        split: The part; if None, the first of test, validation and eval there is, else all files
            where none is named for a part.

    Returns:
        The files, and the part's name, empty where there are no parts to evaluate.

    Raises:
        InputError: no file of this part, several parts that it may be, or training files alone.
    """
    parts = _by_name(files)
    if split:
        wanted, kind = split.lower(), kind_of(split)
        found = [f for f in files if wanted in (f.stem.lower(), _shardless(f).lower())]
        found = found or [f for name, own in parts.items() if name.lower() == wanted for f in own]
        found = found or (files_of_kind(files, kind) if kind is not None else [])
        if found:
            return found, split
        raise InputError(
            f"{files[0].parent}: no file of split {split!r}; has "
            f"{', '.join(f.name for f in files[:5])}."
        )
    for kind in EVALUATED:
        if found := files_of_kind(files, kind):
            return found, _name(found[0])
    trained = [name for name in parts if named_for(name) == "train"]
    if trained:
        raise InputError(
            f"{files[0].parent}: its files are parts to train on ({', '.join(trained)}). Name the "
            "part to use with --split."
        )
    return files, ""


def files_of_kind(files: Sequence[Path], kind: str) -> list[Path]:
    """The files that are named for a kind of part, `train-00000-of-00002` for `train`.

    Raises:
        InputError: several parts of this kind.
    """
    parts = _by_name(files)
    found = [name for name in parts if named_for(name) == kind]
    plain = [kind] if kind in found else [n for n in found if n.lower() in WORDS[kind]]
    if len(found) > 1 and len(plain) != 1:
        raise InputError(
            f"{files[0].parent}: {kind} may be {', '.join(found)}. Name one of them with --split, "
            "or give a folder that holds one of them."
        )
    return parts[(plain or found)[0]] if found else []


def _by_name(files: Sequence[Path]) -> dict[str, list[Path]]:
    """Files by the name of their part."""
    parts: dict[str, list[Path]] = {}
    for file in files:
        parts.setdefault(_name(file), []).append(file)
    return parts


def _shardless(file: Path) -> str:
    """A file's name without the number of its shard, and the hub's letters behind it: `test` of
    `test-00000-of-00002-9a1b2c`."""
    return re.sub(r"(^|[-_.])\d+[-_.]of[-_.]\d+.*$", "", file.stem, flags=re.IGNORECASE)


def _name(file: Path) -> str:
    """The same without a running number at the end, which no year is: `test` of `test-1`."""
    return re.sub(r"(?<!\d)[-_.]?(?!(?:19|20)\d\d$)\d+$", "", _shardless(file))


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
