"""A run on disk: configuration first, one line per image, summary last.

    RUN/config.json      everything needed to repeat the run; written before the first image
    RUN/records.jsonl    one JSON object an image, appended
    RUN/sessions.jsonl   one line per call: machine, versions, images, peak memory
    RUN/draws/           the score matrix, with `--keep-draws`
    RUN/summary.json     metrics; written last, so its existence means the run is done

A process may die at any moment. Every record goes to the kernel in one write; a line torn by the
death is cut off when the run goes on. Two processes on one run are kept apart by a lock that
dies with its process.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from ..errors import DiffzeroError, InputError, storable
from .records import check_records, cut_torn_line, finished_ids

COMPARED = ("format", "data", "model", "method", "settings", "classes", "seed", "keep_draws")

NEEDED = {"data", "model", "method", "settings", "classes"}


class RunStore:
    """Writes a run; use as a context manager.

    Args:
        folder: The run's folder, made if missing.
        config: What the run is; see `COMPARED` for the parts that must not change on resume.
        retry_errors: Do images again whose record is an error.

    Raises:
        InputError: the folder cannot be written, another process writes to it, it holds a run
            with another configuration, or files that are no run.
    """

    def __init__(self, folder: Path, config: dict[str, Any], retry_errors: bool = False) -> None:
        self.folder, self.config, self.retry_errors = Path(folder), config, retry_errors

    def __enter__(self) -> Self:
        from filelock import FileLock, Timeout

        with as_sentence(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.folder / ".lock", timeout=0)
            try:
                self._lock.acquire()
            except Timeout:
                raise InputError(
                    f"{self.folder}: another process is writing to this run. Wait for it, or give "
                    "another --out."
                ) from None
        try:
            self._open()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._lock.release()

    def _open(self) -> None:
        path = self.folder / "config.json"
        with as_sentence(self.folder):
            if path.exists():
                refuse_difference(self.folder, read_config(self.folder), self.config)
            else:
                self._refuse_strangers()
                write_json(path, self.config)
            records = self.folder / "records.jsonl"
            cut_torn_line(records)
            check_records(records, self.config["classes"])
            self.done = finished_ids(records, self.retry_errors)
            # Unbuffered: a record is one write, so that none can be half-kept in a buffer.
            self._file = records.open("ab", buffering=0)
        self._size = records.stat().st_size

    def _refuse_strangers(self) -> None:
        for name in ("records.jsonl", "summary.json", "sessions.jsonl", "draws"):
            if (self.folder / name).exists():
                raise InputError(
                    f"{self.folder}: has {name} and no config.json, so what it belongs to is "
                    "unknown. Give another --out."
                )

    def append(self, record: dict[str, Any]) -> None:
        """Write one record.

        Raises:
            DiffzeroError: the disk is full or gone; what was written before is whole.
        """
        texts = {k: storable(v) for k, v in record.items() if isinstance(v, str)}
        line = (json.dumps(record | texts, allow_nan=False) + "\n").encode()
        with as_sentence(self.folder):
            try:
                written = self._file.write(line)
                if written != len(line):
                    raise OSError(28, os.strerror(28))  # a short write is a full disk
            except OSError:
                os.ftruncate(self._file.fileno(), self._size)
                raise
        self._size += len(line)

    def sync(self) -> None:
        """Ask the disk to keep what was appended, against loss of power."""
        os.fsync(self._file.fileno())

    def session(self, entry: dict[str, Any]) -> None:
        """Append a line about this call to `sessions.jsonl`."""
        with (
            as_sentence(self.folder),
            (self.folder / "sessions.jsonl").open("a", encoding="utf-8") as file,
        ):
            file.write(json.dumps(entry) + "\n")

    def finish(self, summary: dict[str, Any]) -> None:
        """Write `summary.json`: the run is done."""
        with as_sentence(self.folder):
            write_json(self.folder / "summary.json", summary)


@contextmanager
def as_sentence(folder: Path) -> Iterator[None]:
    """Failures of the file system as one sentence that says what to do."""
    try:
        yield
    except OSError as error:
        what = error.strerror or str(error)
        if error.errno == 28:
            raise DiffzeroError(
                f"{folder}: the disk is full. Every record so far is kept; free some space and "
                "run the same command again."
            ) from None
        raise InputError(
            f"{folder}: cannot be written ({what}). Give a folder that can, with --out."
        ) from None


def write_json(path: Path, value: Any) -> None:
    """Write a file whole or not at all."""
    draft = path.with_name(path.name + ".part")
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    # Halves of characters, as in names that are no text, become escapes, which JSON has too.
    draft.write_bytes(text.encode("utf-8", "backslashreplace"))
    draft.replace(path)


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a run.

    Raises:
        InputError: not a run, or a damaged one.
    """
    path = Path(folder) / "config.json"
    try:
        there = path.is_file()
    except (OSError, ValueError):  # too long for a name, or a text that is none
        there = False
    if not there:
        raise InputError(
            f"{str(folder)[:200]}: not a run (no config.json). Make one with diffzero evaluate."
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise InputError(f"{path}: damaged. Restore it, or run into another folder.") from None
    if not isinstance(found, dict) or not found.keys() >= NEEDED:
        raise InputError(
            f"{str(folder)[:200]}: not a run (its config.json belongs to something else). Give a "
            "folder that diffzero evaluate made, or run into another."
        )
    return found


def refuse_difference(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to go on with a run under another configuration.

    Raises:
        InputError: naming every difference.
    """
    old, new = (
        flatten({k: c.get(k) for k in COMPARED}) for c in (before, json.loads(json.dumps(now)))
    )
    names = [k for k in {**old, **new} if old.get(k) != new.get(k)]
    if names:
        parts = "; ".join(f"{k} was {_short(old.get(k))}, now {_short(new.get(k))}" for k in names)
        raise InputError(
            f"{folder}: holds a run with another configuration: {parts}. Give the same arguments "
            "to go on with it, or another --out."
        )


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, keys joined by dots."""
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, part in value.items():
        flat |= flatten(part, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
