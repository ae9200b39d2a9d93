"""Reading `records.jsonl`: the whole lines of it, as arrays, an image once."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError

BLOCK = 1 << 24  # bytes a JSON block; the longest line has to fit into one


def cut_torn_line(path: Path) -> None:
    """Drop what follows the last line feed: the record a dying process was writing."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        file.truncate(_whole_size(file))


def _whole_size(file: Any) -> int:
    """Bytes up to and including the last line feed."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - 65536)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def batches(path: Path, schema: Any) -> Iterator[Any]:
    """The whole lines of `records.jsonl` as Arrow record batches with the columns of `schema`.

    Raises:
        InputError: a line in the middle is damaged.
    """
    import pyarrow as pa
    from pyarrow import json as pj

    if not path.exists():
        return
    with path.open("rb") as file:
        size = _whole_size(file)
    if size == 0:
        return
    parse = pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    options = pj.ReadOptions(block_size=BLOCK, use_threads=False)
    with pa.memory_map(str(path)) as mapped:
        whole = pa.BufferReader(mapped.read_buffer(size))
        try:
            yield from pj.open_json(whole, read_options=options, parse_options=parse)
        except pa.ArrowInvalid as error:
            raise _damaged(path, f"not JSON of one form: {error}") from None


def _damaged(path: Path, why: str, classes: list[str] | None = None) -> InputError:
    """What to say of a file with a line that is no record of the run; the first is named."""
    where = "somewhere"
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip() and not _is_record(line, classes):
                where = f"in line {number:,}"
                break
    return InputError(
        f"{path}: damaged {where} ({why}), or of another run. Remove that line and run the same "
        "command again."
    )


def _is_record(line: bytes, classes: list[str] | None) -> bool:
    """Whether a line is a record: an error, or numbers for every class."""
    try:
        record = json.loads(line)
        if not isinstance(record["id"], str) or len(line) > BLOCK:
            return False
        if record.get("error") is not None:
            return isinstance(record["error"], str)
        tables = [record["probabilities"], record["logits"]]
        numbers = all(isinstance(v, int | float) and v - v == 0 for t in tables for v in t)
        fits = classes is None or (
            record["label"] in classes and all(len(t) == len(classes) for t in tables)
        )
        return numbers and fits and isinstance(record["label"], str)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def finished_ids(path: Path, retry_errors: bool = False) -> set[str]:
    """Images that need not be done again."""
    import pyarrow as pa

    schema = pa.schema([("id", pa.string()), ("error", pa.string())])
    last: dict[str, bool] = {}
    for batch in batches(path, schema):
        good = batch.column("error").is_null().to_pylist()
        last.update(zip(batch.column("id").to_pylist(), good, strict=True))
    return {name for name, good in last.items() if good or not retry_errors}


@dataclass(frozen=True)
class Records:
    """The records of a run as arrays, an image once, errors apart.

    Attributes:
        ids: Of the images that were classified, `[n]`.
        labels: True class of each, an index into the run's classes, int64 `[n]`.
        proba: float64 `[n, k]`.
        logits: float64 `[n, k]`.
        evals: int64 `[n]`.
        vjps: int64 `[n]`, zero where the method takes none.
        seconds: float64 `[n]`.
        errors: Sentence of each image that has no other record, by id.
    """

    ids: np.ndarray
    labels: np.ndarray
    proba: np.ndarray
    logits: np.ndarray
    evals: np.ndarray
    vjps: np.ndarray
    seconds: np.ndarray
    errors: dict[str, str]


def check_records(path: Path, classes: list[str]) -> None:
    """Go through all records, in bounded memory.

    Raises:
        InputError: naming the first line that is no record of this run.
    """
    for batch in batches(path, _schema()):
        _arrays(batch.filter(batch.column("error").is_null()), classes, path)
        if batch.column("id").null_count:
            raise _damaged(path, "a record has no id", classes)


def _schema() -> Any:
    """Columns of a record."""
    import pyarrow as pa

    numbers = pa.list_(pa.float64())
    return pa.schema(
        [("id", pa.string()), ("label", pa.string()), ("probabilities", numbers)]
        + [("logits", numbers), ("evals", pa.int64()), ("vjps", pa.int64())]
        + [("seconds", pa.float64()), ("error", pa.string())]
    )


def read_records(folder: Path, classes: list[str]) -> Records:
    """All records; of an image done twice (an error, then a retry) the last counts.

    Args:
        folder: The run.
        classes: Its classes, the order of the columns.

    Raises:
        InputError: a damaged line, or one that does not fit the classes.
    """
    import pyarrow as pa

    schema, path = _schema(), Path(folder) / "records.jsonl"
    chunks: list[list[np.ndarray]] = []
    errors: dict[str, str] = {}
    for batch in batches(path, schema):
        bad = batch.filter(batch.column("error").is_valid())
        names = bad.column("id").to_pylist()
        errors.update(zip(names, bad.column("error").to_pylist(), strict=True))
        chunks.append(_arrays(batch.filter(batch.column("error").is_null()), classes, path))
    if not chunks:
        chunks = [_arrays(pa.RecordBatch.from_pylist([], schema=schema), classes, path)]
    parts: list[Any] = [np.concatenate(column) for column in zip(*chunks, strict=True)]
    keep = _last_of_each(parts[0])
    parts = [p if keep is None else p[keep] for p in parts]
    good = set(parts[0]) if errors else set()
    parts.append({k: v for k, v in errors.items() if k not in good})
    return Records(*parts)


def _arrays(batch: Any, classes: list[str], path: Path) -> list[np.ndarray]:
    import pyarrow.compute as pc

    n, k = len(batch), len(classes)
    label = pc.index_in(batch.column("label"), pc.cast(list(classes), "string"))
    both = [batch.column(c) for c in ("probabilities", "logits")]
    tables = [column.flatten().to_numpy(zero_copy_only=False) for column in both]
    odd = label.null_count + batch.column("id").null_count + sum(c.null_count for c in both)
    if odd or not all(len(t) == n * k and np.isfinite(t).all() for t in tables):
        raise _damaged(path, f"it does not fit the {k} classes of config.json", classes)
    try:
        names = batch.column("id").to_numpy(zero_copy_only=False)
    except UnicodeDecodeError:
        raise _damaged(path, "a record's id is no text", classes) from None
    counts = [
        pc.fill_null(batch.column(c), 0).to_numpy(zero_copy_only=False)
        for c in ("evals", "vjps", "seconds")
    ]
    shaped = [t.reshape(n, k) for t in tables]
    return [names, label.to_numpy(zero_copy_only=False).astype(np.int64), *shaped, *counts]


def _last_of_each(ids: np.ndarray) -> np.ndarray | None:
    """Positions of the last record of every image, in order; None where no image repeats."""
    last = dict(zip(ids.tolist(), range(len(ids)), strict=True))
    return None if len(last) == len(ids) else np.sort(np.fromiter(last.values(), np.int64))
