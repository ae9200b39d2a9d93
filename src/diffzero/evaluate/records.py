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
            raise InputError(
                f"{path}: damaged in line {_damaged_line(path)} ({error}). Remove that line and "
                "run the same command again."
            ) from None


def _damaged_line(path: Path) -> str:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                json.loads(line)
            except ValueError:
                return f"{number:,}"
    return "unknown"


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


def read_records(folder: Path, classes: list[str]) -> Records:
    """All records; of an image done twice (an error, then a retry) the last counts.

    Args:
        folder: The run.
        classes: Its classes, the order of the columns.

    Raises:
        InputError: a damaged line, or one that does not fit the classes.
    """
    import pyarrow as pa

    numbers = pa.list_(pa.float64())
    schema = pa.schema(
        [("id", pa.string()), ("label", pa.string()), ("probabilities", numbers)]
        + [("logits", numbers), ("evals", pa.int64()), ("vjps", pa.int64())]
        + [("seconds", pa.float64()), ("error", pa.string())]
    )
    chunks: list[list[np.ndarray]] = []
    errors: dict[str, str] = {}
    for batch in batches(Path(folder) / "records.jsonl", schema):
        bad = batch.filter(batch.column("error").is_valid())
        names = bad.column("id").to_pylist()
        errors.update(zip(names, bad.column("error").to_pylist(), strict=True))
        chunks.append(_arrays(batch.filter(batch.column("error").is_null()), classes, folder))
    if not chunks:
        chunks = [_arrays(pa.RecordBatch.from_pylist([], schema=schema), classes, folder)]
    parts: list[Any] = [np.concatenate(column) for column in zip(*chunks, strict=True)]
    keep = _last_of_each(parts[0])
    parts = [p if keep is None else p[keep] for p in parts]
    good = set(parts[0]) if errors else set()
    parts.append({k: v for k, v in errors.items() if k not in good})
    return Records(*parts)


def _arrays(batch: Any, classes: list[str], folder: Path) -> list[np.ndarray]:
    import pyarrow.compute as pc

    n, k = len(batch), len(classes)
    label = pc.index_in(batch.column("label"), pc.cast(list(classes), "string"))
    tables = [batch.column(c).flatten().to_numpy() for c in ("probabilities", "logits")]
    if label.null_count or any(len(t) != n * k for t in tables):
        raise InputError(
            f"{folder}: records.jsonl does not fit the {k} classes of config.json. The two are "
            "from different runs."
        )
    names = batch.column("id").to_numpy(zero_copy_only=False)
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
