"""Files of results: CSV, Parquet or JSON lines, a row as soon as it is known.

A file that is there is gone on with: its rows are kept, but for those with errors, which are tried
again, and a last one that was cut off. A row carries the run it belongs to, so that answers of
other words or models are never mixed into one file. Parquet cannot grow, so that its rows wait in
`NAME.parquet.part`, which is kept on an interruption and gone once the file is whole.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError, storable

BOM = b"\xef\xbb\xbf"  # Excel's
KINDS = (".csv", ".parquet", ".jsonl")
SHOWN = 3  # best words in a row, if the user names no number
PATH = "path"
DECIMALS = 6  # of probabilities, ratios and seconds in a table
NUMBERS = ("ratio", "threshold", "seconds")
OPENED = ("labels", "ratio", "threshold")  # columns of --none and --multi alone


def fingerprint(*parts: Any) -> str:
    """Eight letters for what decides an answer: model, method, settings and words."""
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:8]


def flat(record: dict[str, Any], k: int) -> dict[str, Any]:
    """A record with its k best words as columns of a table."""
    row: dict[str, Any] = {PATH: storable(record[PATH]), "label": record.get("label")}
    best = sorted(record.get("scores", {}).items(), key=lambda item: -item[1])
    for place in range(1, k + 1):
        label, p = best[place - 1] if place <= len(best) else (None, None)
        row |= {f"label_{place}": label, f"p_{place}": p}
    row |= {n: "; ".join(record[n]) if n in record else None for n in ("labels", "unknown")}
    others = ("ratio", "threshold", "evals", "seconds", "model", "method", "seed", "run", "error")
    row |= {name: record.get(name) for name in others}
    row["error"] = storable(row["error"]) if row["error"] else row["error"]
    return {n: round(v, DECIMALS) if isinstance(v, float) else v for n, v in row.items()}


def unknown_in(row: Mapping[str, Any]) -> list[str]:
    """The labels of a flat row, or of a record, whose words the model never saw."""
    found = row.get("unknown") or []
    return found.split("; ") if isinstance(found, str) else list(found)


class Results:
    """A file of results that grows row by row.

    Args:
        path: Its name ends in .csv, .parquet or .jsonl.
        run: See `fingerprint`.
        k: Best words in a row.
        opened: Whether an answer may be none of the words, or several: two columns more.

    Attributes:
        rows: What is done, one flat row for each image.

    Raises:
        InputError: another ending, a folder that is not there, a file that this command did not
            write or that holds another run's answers.
    """

    def __init__(self, path: Path, run: str, k: int, opened: bool = False) -> None:
        check_place(path)
        path = path.resolve()  # a link stays one, and what it leads to is written
        self.path, self.run, self.k = path, run, k
        self.columns = columns(k, opened)
        self.kind = path.suffix.lower()
        self.journal = path.with_name(path.name + ".part") if self.kind == ".parquet" else path
        self.lock = _locked(path)
        try:
            found = {r[PATH]: r for r in self._found() if not r.get("error")}
            self._check(list(found.values()))
            if self.kind != ".jsonl":  # columns that the user has added stay
                own = [name for row in found.values() if not _is_record(row) for name in row]
                self.columns += [n for n in dict.fromkeys(own) if n not in self.columns]
        except InputError:
            self.lock.release()
            Path(self.lock.lock_file).unlink(missing_ok=True)
            raise
        self.rows = [flat(r, k) if _is_record(r) else r for r in found.values()]
        self._rewrite(list(found.values()))
        self.file = self.journal.open("a", encoding="utf-8", newline="")

    @property
    def done(self) -> set[str]:
        """Keys of the images that have an answer."""
        return {row[PATH] for row in self.rows if not row.get("error")}

    def add(self, record: dict[str, Any]) -> None:
        """Write the row of an image."""
        record = record | {"run": self.run}
        row = flat(record, self.k)
        self.rows.append(row)
        self.file.write(self._line(record | {PATH: row[PATH]} if self.kind == ".jsonl" else row))
        self.file.flush()

    def close(self, whole: bool = True) -> None:
        """Leave the file as it should be found; Parquet is put together if the work is whole."""
        self.file.close()
        if self.kind == ".parquet" and whole:
            _write_parquet(self.rows, self.path, self.columns)
            self.journal.unlink()
        Path(self.lock.lock_file).unlink(missing_ok=True)
        self.lock.release()

    def _found(self) -> Iterator[dict[str, Any]]:
        if self.kind == ".csv":
            yield from _read_csv(self.path)
            return
        if self.kind == ".parquet" and self.path.is_file():
            yield from _read_parquet(self.path)
        yield from _read_lines(self.journal)

    def _check(self, rows: list[dict[str, Any]]) -> None:
        other = next((r for r in rows if r.get("run") != self.run), None)
        if other is not None:
            raise InputError(
                f"{self.path}: holds answers of other words, another model or other settings "
                f"({other.get('method')} on {other.get('model')}). Give another file to --out, "
                "or the same command as before to go on."
            )

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        """The rows alone, by way of another file, so that a crash loses nothing."""
        fresh = self.journal.with_name(self.journal.name + ".new")
        with fresh.open("w", encoding="utf-8", newline="") as file:
            if self.kind == ".csv":
                file.write(_csv_line(self.columns))
            file.writelines(self._line(row) for row in rows)
        os.replace(fresh, self.journal)  # noqa: PTH105

    def _line(self, row: dict[str, Any]) -> str:
        if self.kind == ".csv":
            return _csv_line([row.get(name) for name in self.columns])
        return json.dumps(row, default=str) + "\n"  # columns that were added hold anything


def _is_record(row: Mapping[str, Any]) -> bool:
    """Whether this is a line of JSON as it was written, not a row of a table."""
    return isinstance(row.get("scores"), dict)


def check_place(path: Path) -> None:
    """Refuse a name that results cannot be written to.

    Raises:
        InputError: another ending, a folder that is not there, or no file in its place.
    """
    if path.suffix.lower() not in KINDS:
        raise InputError(f"--out takes a file ending in {', '.join(KINDS)}; got {path}.")
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist. Create it first.")
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is no file, but a folder, device or pipe. Give another name.")


def _locked(path: Path) -> Any:
    """Held as long as rows are written; the system frees it when the process ends.

    Raises:
        InputError: another process writes to the same file.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(
            f"{path}: another diffzero is writing to it. Wait for it, or give another --out."
        ) from None
    return lock


def columns(k: int, opened: bool) -> list[str]:
    """Names of a table's columns; those of `OPENED` only if the answer may be no word."""
    return [name for name in flat({PATH: ""}, k) if opened or name not in OPENED]


def _csv_line(values: Sequence[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(values)  # which quotes both signs
    return line.getvalue().removesuffix("\r\n") + "\n"


def _read_csv(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file() or not path.stat().st_size:
        return
    try:
        whole, _, last = path.read_bytes().removeprefix(BOM).rpartition(b"\n")
        lines = io.StringIO(whole.decode() + "\n", newline="")
        header, *rows = list(csv.reader(_whole(lines))) or [[]]
        # Editors take the last end of a line; a row that was cut off is short.
        cut = csv.reader([last.decode("utf-8", "replace")])
        rows += [row for row in cut if len(row) == len(header)]
    except (UnicodeDecodeError, ValueError, csv.Error):
        raise _foreign(path) from None
    if PATH not in header or "run" not in header:
        raise _foreign(path)
    for row in filter(None, rows):  # editors leave empty lines
        values = dict(zip(header, row, strict=False))
        yield {name: _typed(name, text) for name, text in values.items()}


def _whole(lines: Iterator[str]) -> Iterator[str]:
    """Lines of whole rows: what was cut off in the middle is left out."""
    held = ""
    for line in lines:
        held += line
        if held.endswith("\n") and held.count('"') % 2 == 0:
            yield from io.StringIO(held, newline="")  # not at U+2028 and other ends of lines
            held = ""


def _typed(name: str, text: str) -> Any:
    if text == "":
        return None
    if name in ("evals", "seed"):
        return int(float(text))  # tables with gaps become fractions elsewhere
    return float(text) if name in NUMBERS or re.fullmatch(r"p_\d+", name) else text


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    raw = path.read_bytes().removeprefix(BOM)
    *lines, last = raw.split(b"\n")
    if not lines and last and not last.startswith(b'{"path"'):  # else a first row that was cut off
        raise _foreign(path)
    for line in (*lines, last):
        if not line.strip():  # editors leave empty lines
            continue
        try:
            row = json.loads(line)
        except ValueError:
            if line is last:
                return  # cut off
            raise _foreign(path) from None
        if not isinstance(row, dict) or PATH not in row or "run" not in row:
            raise _foreign(path)
        yield row


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(path).to_pylist()
    except (pa.ArrowInvalid, OSError):
        raise _foreign(path) from None
    if rows and not {PATH, "run"} <= set(rows[0]):
        raise _foreign(path)
    return rows


def _write_parquet(rows: list[dict[str, Any]], path: Path, names: list[str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def kind(name: str) -> Any:
        if name in ("evals", "seed"):
            return pa.int64()
        number = name in NUMBERS or name.startswith("p_")
        return pa.float64() if number else pa.string()

    ours = set(columns(len(names), True))
    added = {n: pa.array([row.get(n) for row in rows]).type for n in names if n not in ours}
    schema = pa.schema([(name, added.get(name, kind(name))) for name in names])
    fresh = path.with_name(path.name + ".new")
    pq.write_table(pa.Table.from_pylist(rows, schema), fresh)
    os.replace(fresh, path)  # noqa: PTH105


def _foreign(path: Path) -> InputError:
    return InputError(
        f"{path}: is there, and is no file of results of this command. Give another to --out."
    )
