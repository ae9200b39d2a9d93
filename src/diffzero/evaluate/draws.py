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

STEP = 1e-4  # of t, for the slope


def draw_times(classifier: Any, images: list[np.ndarray]) -> np.ndarray:
    """The times of an ELBO classifier's draws, float64 `[images, draws]`.

    Args:
        classifier: A fitted `ELBO`.
        images: uint8 `[h, w, 3]` each.
    """
    import torch

    from ..noise import image_key, quantiles

    draws = np.arange(classifier.draws)
    keys = [image_key(classifier.seed, image) for image in images]
    place = np.stack([quantiles(key, draws) for key in keys])
    schedule = classifier.backbone_.schedule
    if classifier.weights == "uniform":
        low, high = classifier.t_range or (schedule.t_min, 1.0)
        return low + place * (high - low)
    low, high = classifier.log_snr_range or schedule.log_snr_range()
    return schedule.time(torch.from_numpy(high - place * (high - low))).numpy()


def draw_ranges(classifier: Any) -> dict[str, Any]:
    """How the draws were spread, and the temperature that each number of draws would have."""
    schedule = classifier.backbone_.schedule
    fewer = copy.copy(classifier)
    temperatures = {}
    for n in range(1, classifier.draws + 1):
        fewer.draws = n
        temperatures[str(n)] = fewer.temperature_in_use()
    return {
        "weights": classifier.weights,
        "t_range": list(classifier.t_range or (schedule.t_min, 1.0)),
        "log_snr_range": list(classifier.log_snr_range or schedule.log_snr_range()),
        "temperatures": temperatures,
    }


def slopes(schedule: Any, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`lambda(t)` and `|d lambda / dt|` by a central difference within the schedule's range."""
    import torch

    low = np.clip(t - STEP, schedule.t_min, 1.0 - 2 * STEP)
    high = low + 2 * STEP
    at = [schedule.log_snr(torch.from_numpy(x)).numpy() for x in (t, low, high)]
    return at[0], np.abs(at[2] - at[1]) / (high - low)


def draw_table(
    classifier: Any, images: list[np.ndarray], ids: list[str], errors: list[np.ndarray]
) -> dict[str, np.ndarray]:
    """Columns of the score matrix.

    Args:
        classifier: A fitted `ELBO`.
        images: uint8 `[h, w, 3]` each.
        ids: Of the images.
        errors: `[draws, k, templates]` each, from `draw_errors`.
    """
    table = np.stack(errors)
    b, d, k, m = table.shape
    t = draw_times(classifier, images)
    log_snr, slope = slopes(classifier.backbone_.schedule, t)

    def spread(values: np.ndarray) -> np.ndarray:
        return np.repeat(values.reshape(-1), k * m)

    return {
        "image": np.repeat(np.array(ids, dtype=object), d * k * m),
        "class": np.tile(np.repeat(np.arange(k, dtype=np.int16), m), b * d),
        "template": np.tile(np.arange(m, dtype=np.int16), b * d * k),
        "draw": spread(np.tile(np.arange(d, dtype=np.int16), (b, 1))),
        "t": spread(t),
        "log_snr": spread(log_snr),
        "slope": spread(slope),
        "error": table.reshape(-1),
    }


class DrawParts:
    """The matrix as it grows: one Parquet file a chunk, joined when the run is done.

    Args:
        folder: Of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder) / "draws"

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
        errors: float64 `[n, draws, k, templates]`.
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
    k, m, d = (int(pa.compute.max(table[c]).as_py()) + 1 for c in ("class", "template", "draw"))
    first = np.arange(0, len(table), d * k * m)
    names = table["image"].take(first).to_numpy()
    if len(table) != len(names) * d * k * m:
        raise InputError(f"{folder}/draws: damaged: {len(table):,} rows make no whole images.")
    # A chunk that died between matrix and records was scored twice; either copy serves.
    ids, once = np.unique(names.astype(str), return_index=True)
    shaped = {
        c: table[c].to_numpy().reshape(len(names), d, k, m)[once]
        for c in ("t", "log_snr", "slope", "error")
    }
    times = [shaped[c][:, :, 0, 0] for c in ("t", "log_snr", "slope")]
    return Matrix(ids.astype(object), shaped["error"], *times)
