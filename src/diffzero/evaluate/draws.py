"""The score matrix: every denoising error, so that nothing has to be computed twice.

One row of `RUN/draws/*.parquet` is one network evaluation:

    image, class, template, draw, t, log_snr, slope, error

with `slope = |d lambda / dt|` at t. Weights, reductions, temperatures and fewer draws are then
arithmetic on a table.
"""

from __future__ import annotations

import copy
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from .store import as_sentence

COLUMNS = ("image", "class", "template", "draw", "t", "log_snr", "slope", "error")


def draw_times(classifier: Any, image: np.ndarray, draws: int) -> np.ndarray:
    """The times of an image's draws, float64 `[draws]`.

    Args:
        classifier: A fitted method that keeps draws.
        image: uint8 `[h, w, 3]`.
        draws: Their number.
    """
    from ..noise import image_key

    return classifier.times_of(image_key(classifier.seed, image), np.arange(draws))


def draw_ranges(classifier: Any) -> dict[str, Any]:
    """How the draws were spread, and what temperature each number of draws would have.

    `fitted` are the card's temperatures where it has any: they bring a race's logits to one scale.
    """
    from ..temperature import fitted_by_draws

    fewer, times = copy.copy(classifier), classifier.times_
    (argument,) = classifier.draw_arguments
    temperatures = {}
    for n in range(1, classifier.draws + 1):
        setattr(fewer, argument, n)
        temperatures[str(n)] = fewer.temperature_in_use()
    own = fitted_by_draws(classifier.backbone_.temperatures, "elbo", classifier.settings())
    return {
        "whole": classifier.draws,
        "fitted": {str(n): t for n, t in own.items()},
        "weights": times.weights,
        "t_range": list(times.t_ends),
        "log_snr_range": list(times.log_snr_ends),
        "temperatures": temperatures,
    }


def draw_table(
    classifier: Any, images: list[np.ndarray], ids: list[str], errors: list[np.ndarray]
) -> dict[str, np.ndarray]:
    """Columns of the score matrix; draws that a class was not given have no row.

    Args:
        classifier: A fitted method that keeps draws.
        images: uint8 `[h, w, 3]` each.
        ids: Of the images.
        errors: `[draws, k, templates]` each, from `draw_errors`, NaN where there was no draw.
    """
    from ..scoring.times import slopes

    columns: dict[str, list[np.ndarray]] = {name: [] for name in COLUMNS}
    for image, name, cube in zip(images, ids, errors, strict=True):
        draw, cls, template = np.nonzero(~np.isnan(cube))
        t = draw_times(classifier, image, len(cube))
        log_snr, slope = slopes(classifier.backbone_.schedule, t)
        columns["image"].append(np.full(len(draw), name, dtype=object))
        columns["class"].append(cls.astype(np.int16))
        columns["template"].append(template.astype(np.int16))
        columns["draw"].append(draw.astype(np.int16))
        for column, values in (("t", t), ("log_snr", log_snr), ("slope", slope)):
            columns[column].append(values[draw])
        columns["error"].append(cube[draw, cls, template])
    return {name: np.concatenate(parts) for name, parts in columns.items()}


class DrawParts:
    """The matrix as it grows: one Parquet file a chunk, joined when the run is done.

    Args:
        folder: Of the run.
    """

    def __init__(self, folder: Path) -> None:
        # Relative, a name with a colon would be an address to Arrow.
        self.folder = Path(folder).absolute() / "draws"

    def write(self, columns: dict[str, np.ndarray]) -> None:
        """Add a part, whole or not at all."""
        import pyarrow as pa

        with as_sentence(self.folder):
            self.folder.mkdir(exist_ok=True)
            self._save(pa.table(columns), f"part-{uuid.uuid4().hex}.parquet")

    def join(self) -> None:
        """Make one file of all parts; images of a chunk that was scored twice stay once."""
        import pyarrow.parquet as pq

        parts = sorted(self.folder.glob("part-*.parquet"))
        if not parts:
            return
        draft = self.folder / "all.parquet.draft"
        seen: set[str] = set()
        with as_sentence(self.folder):
            schema = pq.read_schema(parts[0])
            with pq.ParquetWriter(draft, schema, compression="zstd") as writer:
                for path in [*self.folder.glob("all.parquet"), *parts]:
                    seen |= _append_unseen(writer, path, seen)
            draft.replace(self.folder / "all.parquet")
            for path in parts:
                path.unlink()

    def _save(self, table: Any, name: str) -> None:
        import pyarrow.parquet as pq

        draft = self.folder / (name + ".draft")
        try:
            pq.write_table(table, draft, compression="zstd", use_dictionary=["image", "class"])
        except OSError:
            draft.unlink(missing_ok=True)
            raise
        draft.replace(self.folder / name)


def _append_unseen(writer: Any, path: Path, seen: set[str]) -> set[str]:
    """Copy the rows of images that earlier files lack, a row group at a time; all its images."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    file, found = pq.ParquetFile(path), set()
    for group in range(file.num_row_groups):
        table = file.read_row_group(group)
        names = set(table["image"].unique().to_pylist())
        found |= names
        if names & seen:
            table = table.filter(
                pc.is_in(table["image"], pa.array(sorted(names - seen), "string"))
            )
        writer.write_table(table.cast(writer.schema))
    return found


@dataclass(frozen=True)
class Matrix:
    """The score matrix of a run as arrays.

    Attributes:
        ids: Of the images, `[n]`.
        errors: float64 `[n, draws, k, templates]`, NaN where a class was not given a draw.
        t: Time of every draw, `[n, draws]`.
        log_snr: lambda of every draw, `[n, draws]`.
        slope: `|d lambda / dt|` of every draw, `[n, draws]`.
    """

    ids: np.ndarray
    errors: np.ndarray
    t: np.ndarray
    log_snr: np.ndarray
    slope: np.ndarray

    def first(self, draws: int) -> Matrix:
        """The same with fewer draws.

        Raises:
            InputError: more draws than there are.
        """
        if not 1 <= draws <= self.t.shape[1]:
            raise InputError(f"The run has {self.t.shape[1]} draws; got draws = {draws}.")
        cut = slice(0, draws)
        return Matrix(
            self.ids, self.errors[:, cut], self.t[:, cut], self.log_snr[:, cut], self.slope[:, cut]
        )

    def take(self, index: np.ndarray) -> Matrix:
        """The same of some images."""
        return Matrix(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


def has_matrix(folder: Path) -> bool:
    """Whether a run kept its draws."""
    return any((Path(folder) / "draws").glob("*.parquet"))


def read_matrix(folder: Path) -> Matrix:
    """The score matrix of a run, finished or not.

    Raises:
        InputError: the run kept none, or what it kept is damaged.
    """
    import pyarrow as pa
    import pyarrow.dataset as pd

    files = sorted(str(p) for p in (Path(folder) / "draws").glob("*.parquet"))
    if not files:
        raise InputError(
            f"{folder}: kept no score matrix. Run diffzero evaluate with --keep-draws into a new "
            "folder."
        )
    try:
        table = pd.dataset(files).to_table()
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{folder}/draws: damaged ({error}).") from None
    number = {c: table[c].to_numpy() for c in ("class", "template", "draw")}
    names, image = np.unique(table["image"].to_numpy().astype(str), return_inverse=True)
    d, k, m = (int(number[c].max()) + 1 for c in ("draw", "class", "template"))
    # A chunk that died between matrix and records was scored twice; either copy serves.
    errors = np.full((len(names), d, k, m), np.nan)
    errors[image, number["draw"], number["class"], number["template"]] = table["error"].to_numpy()
    times = np.full((3, len(names), d), np.nan)
    for row, column in zip(times, ("t", "log_snr", "slope"), strict=True):
        row[image, number["draw"]] = table[column].to_numpy()
    if np.isnan(errors[:, 0]).any():
        raise InputError(f"{folder}/draws: damaged: {len(table):,} rows make no whole images.")
    return Matrix(names.astype(object), errors, *times)
