"""The compositional set as Parquet files, and as questions to a classifier."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from .scenes import TASKS, Split, example, render

COLUMNS = ("image", "task", "candidates", "label", "held_out")


def write(
    out: Path,
    split: Split,
    n: int,
    size: int,
    seed: int = 0,
    advance: Callable[[int], None] | None = None,
    tasks: Sequence[str] = tuple(TASKS),
) -> Path:
    """Write `n` rows as `SPLIT-00000-of-00001.parquet`, as `datasets` reads it.

    Columns: `image` (PNG), `caption`, `captions`, `task`, `candidates`, `label` (place of the true
    candidate), `held_out`, `scene` (its description as JSON).

    Args:
        out: Folder.
        split: `train` or `validation`.
        n: Rows.
        size: Side in pixels, at least 16.
        seed: Of everything.
        advance: Called with numbers of rows.
        tasks: Names in `TASKS` to take in turn.

    Returns:
        The file.

    Raises:
        InputError: too small a size, fewer than one row, an unknown split or task, or a folder
            that cannot be made.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if n < 1:
        raise InputError(f"{split} needs at least one row; got {n}.")
    _row(split, 0, size, seed, tasks)  # refuses what is wrong before anything is written
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or error
        raise InputError(
            f"{str(out)[:200]}: cannot be made ({what}). Give another --out."
        ) from None
    # Relative, a name with a colon would be an address to Arrow.
    path = out.absolute() / f"{split}-00000-of-00001.parquet"
    partial = path.with_suffix(".partial")
    schema = _schema()
    with pq.ParquetWriter(partial, schema) as writer:
        for start in range(0, n, 1000):
            part = [_row(split, i, size, seed, tasks) for i in range(start, min(n, start + 1000))]
            writer.write_table(pa.Table.from_pylist(part, schema=schema))
            if advance is not None:
                advance(len(part))
    partial.replace(path)  # a file that is there is whole
    return path


@dataclass(frozen=True)
class Questions:
    """The images of one task, all with or all without held-out combinations.

    Attributes:
        task: A name in `TASKS`.
        held_out: Whether they show combinations that training never shows.
        images: uint8 `[size, size, 3]` each.
        candidates: Captions to choose from, for each image.
        labels: Place of the true one, int64 `[n]`.
    """

    task: str
    held_out: bool
    images: list[np.ndarray]
    candidates: list[list[str]]
    labels: np.ndarray

    @property
    def name(self) -> str:
        """ "binding, held out"."""
        return f"{self.task}, {'held out' if self.held_out else 'seen'}"


def read(folder: Path, split: Split = "validation", limit: int | None = None) -> list[Questions]:
    """What `write` wrote, by task, seen combinations before held-out ones.

    Args:
        folder: Of the Parquet files.
        split: `train` or `validation`.
        limit: Images of each task and kind at most.

    Raises:
        InputError: no such file, or one without candidates.
    """
    files = sorted(folder.absolute().glob(f"{split}*.parquet"))
    if not are_scenes(files):
        raise InputError(
            f"{folder}: no {split}*.parquet with columns {', '.join(COLUMNS)}; "
            "make them with diffzero scenes."
        )
    return questions(files, limit)


def are_scenes(files: Sequence[Path]) -> bool:
    """Whether these are Parquet files as `write` makes them."""
    import pyarrow.parquet as pq

    return bool(files) and set(COLUMNS) <= set(pq.read_schema(files[0].absolute()).names)


def questions(files: Sequence[Path], limit: int | None = None) -> list[Questions]:
    """What such files hold, by task, seen combinations before held-out ones.

    Args:
        files: Parquet files for which `are_scenes`.
        limit: Images of each task and kind at most.
    """
    import pyarrow.parquet as pq
    from PIL import Image

    from ..images import load_image

    tables = [pq.read_table(f.absolute(), columns=list(COLUMNS)) for f in files]
    groups: dict[tuple[str, bool], list[dict]] = {(t, h): [] for t in TASKS for h in (False, True)}
    for row in (row for table in tables for row in table.to_pylist()):
        group = groups[row["task"], row["held_out"]]
        if limit is None or len(group) < limit:
            group.append(row)
    return [
        Questions(
            task,
            held_out,
            [load_image(Image.open(io.BytesIO(row["image"]["bytes"]))) for row in rows],
            [row["candidates"] for row in rows],
            np.array([row["label"] for row in rows]),
        )
        for (task, held_out), rows in groups.items()
        if rows
    ]


def ask(
    limit: int, size: int, seed: int = 0, tasks: Sequence[str] = tuple(TASKS)
) -> list[Questions]:
    """Validation images made on the spot, by task, seen combinations before held-out ones.

    The first of each are the first that `read` gives of a validation file of the same seed.

    Args:
        limit: Images of each task and kind.
        size: Side in pixels, at least 16.
        seed: Of everything.
        tasks: Names in `TASKS`.
    """
    found = []
    for task in tasks:
        place = list(TASKS).index(task)
        for held_out in (False, True):
            rows = (place + len(TASKS) * (2 * i + held_out) for i in range(limit))
            made = [example("validation", row, seed) for row in rows]
            found.append(
                Questions(
                    task,
                    held_out,
                    [render(one.scene, size) for one in made],
                    [list(one.candidates) for one in made],
                    np.array([one.label for one in made]),
                )
            )
    return found


def _row(split: Split, row: int, size: int, seed: int, tasks: Sequence[str]) -> dict[str, Any]:
    from PIL import Image

    made = example(split, row, seed, tasks)
    encoded = io.BytesIO()
    Image.fromarray(render(made.scene, size)).save(encoded, "PNG")
    return {
        "image": {"bytes": encoded.getvalue(), "path": f"{split}-{row:06d}.png"},
        "caption": made.caption,
        "captions": list(made.captions),
        "task": made.scene.task,
        "candidates": list(made.candidates),
        "label": made.label,
        "held_out": made.held_out,
        "scene": json.dumps(asdict(made.scene)),
    }


def _schema() -> Any:
    """Columns, and the features that `datasets` reads from the schema's metadata."""
    import pyarrow as pa

    texts = {"feature": {"dtype": "string", "_type": "Value"}, "_type": "Sequence"}
    text = {"dtype": "string", "_type": "Value"}
    columns: list[tuple[str, Any, dict]] = [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]), {"_type": "Image"}),
        ("caption", pa.string(), text),
        ("captions", pa.list_(pa.string()), texts),
        ("task", pa.string(), text),
        ("candidates", pa.list_(pa.string()), texts),
        ("label", pa.int64(), {"dtype": "int64", "_type": "Value"}),
        ("held_out", pa.bool_(), {"dtype": "bool", "_type": "Value"}),
        ("scene", pa.string(), text),
    ]
    features = {name: feature for name, _, feature in columns}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema([(name, kind) for name, kind, _ in columns], metadata=metadata)
