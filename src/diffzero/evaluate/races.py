"""Races in runs: what their records say, and races out of draws that were kept.

A class that left a race has no errors from there on. What stands for them is what the race itself
concludes with: the leader's error of that draw plus the mean paired difference that was seen,

    e_c,j := e_leader,j + mean over the draws of c of (e_c,i - e_leader,i),

so that the plain mean over the leader's draws is minus the race's own logit.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..scoring.replay import simulate
from ..scoring.rules import Rule
from ..temperature import temperatures_at
from .intervals import mean_interval
from .records import batches


def race_settings(config: dict[str, Any]) -> dict[str, Any] | None:
    """Arguments of the race of a run, its own or that behind a shortlist; None without a race."""
    if config["method"] == "race":
        return dict(config["settings"])
    then = config["settings"].get("then")
    return dict(then) if isinstance(then, dict) and then.get("method") == "race" else None


def filled(errors: np.ndarray) -> np.ndarray:
    """Errors `[n, draws, k, m]` with those of classes that had left, see the module.

    Draws that the leader of an image did not see stay NaN. Errors without gaps come back as they
    are.
    """
    gaps = np.isnan(errors)
    if not gaps.any():
        return errors
    seen = (~gaps).sum(1, keepdims=True)
    last = seen == seen.max((2, 3), keepdims=True)
    mean = np.nanmean(errors, axis=1, keepdims=True)
    flat = np.where(last, mean, np.inf).reshape(len(errors), -1)
    leader = flat.argmin(1)[:, None, None]
    led = np.take_along_axis(errors.reshape(*errors.shape[:2], -1), leader, 2)[..., None]
    return np.where(gaps, led + np.nanmean(errors - led, axis=1, keepdims=True), errors)


def drawn(errors: np.ndarray) -> np.ndarray:
    """Draws of each image `[n]`, of errors `[n, draws, k, m]`."""
    return (~np.isnan(errors)).any((2, 3)).sum(1)


def scale(config: dict[str, Any], whole: int, own: np.ndarray) -> np.ndarray:
    """What brings logits of `own` draws `[n]` to the scale of `whole`, see `methods.race`."""
    fitted = {int(n): t for n, t in config["draws"].get("fitted", {}).items()}
    if not fitted:
        return np.ones(len(own))
    return temperatures_at(np.array(whole), fitted) / temperatures_at(own, fitted)


@dataclass(frozen=True)
class Replayed:
    """Races over the draws of a run.

    Attributes:
        settings: Arguments of the race that say when classes leave.
        logits: Before any scaling, float64 `[n, k]`.
        draws: Of each class, int64 `[n, k]`.
        facts: As in the records of `methods.race`, but for `label_set`, whose classes are numbers.
    """

    settings: dict[str, Any]
    logits: np.ndarray
    draws: np.ndarray
    facts: list[dict[str, Any]]


def replayed(
    errors: np.ndarray, t: np.ndarray, draws: int, config: dict[str, Any], delta: float
) -> Replayed:
    """Race every image of a run over its kept errors.

    Predictions are not kept, so that these races know differences of errors alone: `control` is
    off, and the variance `successive` stands for `distance`. A class whose kept draws end leaves
    there, since the race that kept them had let it go.

    Args:
        errors: Weighted, float64 `[n, draws, k, m]`.
        t: Times of the draws, `[n, draws]`.
        draws: At which a race ends: those kept, or more where races ended earlier.
        config: Of the run.
        delta: Of the race; its other arguments are the run's own, or the default.

    Raises:
        InputError: several templates, or a delta that kept draws of a race cannot answer for.
    """
    if errors.shape[3] > 1 or errors.shape[1] < 2:
        raise InputError(
            "--race takes a run with one template and at least two draws; this one has "
            f"{errors.shape[3]} and {errors.shape[1]}."
        )
    own = config["settings"] if config["method"] == "race" else {}
    if not own.get("delta", 0) <= delta <= 0.5:
        raise InputError(
            f"--race takes a delta from {own.get('delta', 0):g} (the least that the run's draws "
            f"can answer for) to 0.5; got {delta:g}."
        )
    variance = own.get("variance", "successive")
    settings = {
        "delta": delta,
        "min_draws": min(own.get("min_draws", 4), draws),
        "max_draws": draws,
        "boundary": own.get("boundary", "predictive"),
        "variance": "successive" if variance == "distance" else variance,
        "block": own.get("block"),
    }
    rule = Rule.blocked(**settings)
    settings["control"] = False
    order = np.argsort(np.argsort(t, axis=1), axis=1) / t.shape[1]  # of which the order counts
    found = [simulate(e[:, :, 0], p, rule) for e, p in zip(errors, order, strict=True)]
    facts = [
        {"stopped": race.standing.reason, "draws": race.draws.tolist(),
         "label_set": race.label_set().tolist()}
        for race in found
    ]  # fmt: skip
    return Replayed(
        settings, np.stack([r.logits() for r in found]), np.stack([r.draws for r in found]), facts
    )


def facts_of(folder: Path) -> list[dict[str, Any]]:
    """`evals`, `stopped`, `draws` and `label_set` of the images of a run; the last of each counts.

    Raises:
        InputError: a damaged line.
    """
    import pyarrow as pa

    words, numbers = pa.list_(pa.string()), pa.list_(pa.int64())
    schema = pa.schema(
        [("id", pa.string()), ("evals", pa.int64()), ("stopped", pa.string()),
         ("draws", numbers), ("label_set", words)]
    )  # fmt: skip
    found: dict[str, dict[str, Any]] = {}
    for batch in batches(Path(folder) / "records.jsonl", schema):
        found |= {row.pop("id"): row for row in batch.to_pylist() if row["stopped"] is not None}
    return list(found.values())


def summary_of(facts: list[dict[str, Any]]) -> dict[str, Any]:
    """What `summary.json` says of the races of a run.

    `decided` is the share that ended with one class; `evaluations` holds median, nine tenths and
    most; `survivors` are the classes that never left, and `label_set` those that hold the answer
    of infinitely many draws with probability 1 - delta: means with 95 % intervals.
    """
    if not facts:
        return {}
    evals = np.array([f["evals"] for f in facts])
    left = np.array([sum(d == max(f["draws"]) for d in f["draws"]) for f in facts], float)
    left[[f["stopped"] == "decided" for f in facts]] = 1
    sets = np.array([len(f["label_set"]) for f in facts], float)
    median, most = (float(np.quantile(evals, q, method="inverted_cdf")) for q in (0.5, 0.9))
    return {
        "decided": float(np.mean([f["stopped"] == "decided" for f in facts])),
        "evaluations": {"median": median, "nine_tenths": most, "most": int(evals.max())},
        "survivors": _mean(left),
        "label_set": _mean(sets),
    }


def _mean(values: np.ndarray) -> dict[str, float]:
    low, high = mean_interval(values)
    return {"value": float(values.mean()), "low": low, "high": high}


def survival(facts: list[dict[str, Any]]) -> np.ndarray:
    """Mean number of classes that see draw 1, 2, ...: float64 `[most draws]`."""
    draws = [np.array(f["draws"]) for f in facts]
    most = max(int(d.max()) for d in draws)
    return np.mean([(d[:, None] > np.arange(most)).sum(0) for d in draws], axis=0)
