"""Metrics of a run, in the schema of CLIP_benchmark and with an interval on each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .intervals import calibration_interval, mean_interval, mean_per_class_interval
from .metrics import (
    expected_calibration_error,
    likelihood_losses,
    mean_per_class,
    per_class,
    reorder,
    top_k,
    wilson,
)
from .races import facts_of, race_settings, summary_of
from .records import Records, read_records
from .store import read_config


@dataclass(frozen=True)
class Run:
    """A run read back.

    Attributes:
        folder: Where it is.
        config: Its configuration.
        records: Its records as arrays, columns in the order of `classes`.
        classes: Class names.
        end: As much of its path's end as tells it apart from the others that are shown; if None,
            the name of its folder.
    """

    folder: Path
    config: dict[str, Any]
    records: Records
    classes: list[str]
    end: str | None = None

    @property
    def label(self) -> str:
        """What tells it apart from the others that are shown."""
        return self.folder.resolve().name if self.end is None else self.end

    @property
    def name(self) -> str:
        """What tables call it."""
        return f"{self.config['model']['name']}, {self.config['method']}"

    def in_order(self, classes: list[str]) -> Run:
        """The same with columns in another order, matched by name.

        Raises:
            InputError: other classes.
        """
        columns = reorder(self.classes, classes)
        place = np.empty(len(columns), dtype=np.int64)
        place[columns] = np.arange(len(columns))
        r = self.records
        moved = Records(
            r.ids, place[r.labels], r.proba[:, columns], r.logits[:, columns],
            r.evals, r.vjps, r.seconds, r.errors,
        )  # fmt: skip
        return replace(self, records=moved, classes=list(classes))


def read_run(folder: Path) -> Run:
    """A run from its folder, finished or not.

    Raises:
        InputError: not a run, or a damaged one.
    """
    config = read_config(folder)
    classes = config["classes"]
    return Run(Path(folder), config, read_records(folder, classes), classes)


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Several runs, each labelled by as much of its path's end as tells them apart.

    Raises:
        InputError: see `read_run`.
    """
    once: dict[Path, Path] = {}
    for folder in folders:
        once.setdefault(Path(folder).resolve(), folder)
    ends = [place.parts for place in once]
    runs = []
    for own, folder in zip(ends, once.values(), strict=True):
        shown = next(
            n for n in range(1, len(own) + 1) if sum(e[-n:] == own[-n:] for e in ends) == 1
        )
        runs.append(replace(read_run(folder), end=str(Path(*own[-shown:]))))
    return runs


def metrics_of(proba: np.ndarray, labels: np.ndarray, k: int) -> dict[str, Any]:
    """All metrics: `{name: {"value", "low", "high"}}`, 95 % intervals.

    Args:
        proba: float64 `[n, k]`.
        labels: int64 `[n]`.
        k: Classes.
    """
    n = len(labels)
    if n == 0:
        return {}
    hits = {"acc1": top_k(proba, labels, 1)}
    if k > 5:
        hits["acc5"] = top_k(proba, labels, 5)
    table: dict[str, Any] = {}
    for name, right in hits.items():
        low, high = wilson(int(right.sum()), n)
        table[name] = {"value": float(right.mean()), "low": low, "high": high}
    right, confidence = hits["acc1"], proba.max(1)
    losses = likelihood_losses(proba, labels)
    for name, value, (low, high) in (
        (
            "mean_per_class_recall",
            mean_per_class(right, labels, k),
            mean_per_class_interval(right, labels, k),
        ),
        ("nll", float(losses.mean()), mean_interval(losses)),
        (
            "ece",
            expected_calibration_error(confidence, right),
            calibration_interval(confidence, right),
        ),
    ):
        table[name] = {"value": value, "low": low, "high": high}
    return table


def summarise(run: Run) -> dict[str, Any]:
    """What `summary.json` holds."""
    r, config = run.records, run.config
    table = metrics_of(r.proba, r.labels, len(run.classes))
    right = top_k(r.proba, r.labels, 1) if len(r.labels) else np.zeros(0, bool)
    names = ("acc1", "acc5", "mean_per_class_recall")
    return {
        "dataset": config["data"]["name"],
        "model": config["model"]["name"],
        "pretrained": config["model"]["revision"],
        "task": "zeroshot_classification",
        "metrics": {k: table[k]["value"] if k in table else None for k in names}
        | {k: v["value"] for k, v in table.items() if k not in names},
        "language": "en",
        "method": config["method"],
        "intervals": {k: [v["low"], v["high"]] for k, v in table.items()},
        "images": len(r.labels),
        "errors": len(r.errors),
        "expected": config["data"]["images"],
        "per_class": {
            name: {"recall": value, "images": count}
            for name, (value, count) in zip(
                run.classes, per_class(right, r.labels, len(run.classes)), strict=True
            )
        },
        "cost": cost_of(run),
    } | ({} if race_settings(config) is None else {"race": summary_of(facts_of(run.folder))})


def cost_of(run: Run) -> dict[str, float | None]:
    """Evaluations, vector-Jacobian products and seconds per image; peak memory of the runs."""
    r = run.records
    some = len(r.labels) > 0
    return {
        "evaluations_per_image": float(r.evals.mean()) if some else None,
        "vjps_per_image": float(r.vjps.mean()) if some else None,
        "seconds_per_image": float(r.seconds.mean()) if some else None,
        "peak_memory_bytes": peak_of(run.folder),
    }


def peak_of(folder: Path) -> int | None:
    """The largest peak that any finished call wrote down."""
    path = Path(folder) / "sessions.jsonl"
    if not path.exists():
        return None
    peaks = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            peaks.append(json.loads(line)["peak_memory_bytes"])
        except (ValueError, KeyError):
            continue  # a line torn by a kill says nothing
    return max(peaks, default=None)
