"""Predictions out of the score matrix: other weights, reductions, temperatures, fewer draws.

What a draw is worth and how draws become a logit stands in `reduction`; here are the runs that
they are read from and written to. Races may be run over kept draws, see `races`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import log_softmax

from ..errors import InputError
from .draws import Matrix, read_matrix
from .metrics import mcnemar, wilson
from .races import Replayed, drawn, race_settings, replayed, scale
from .reduction import draw_weights, join_templates, read_calibration, reduce_draws
from .store import RunStore
from .summary import Run, metrics_of, read_run, summarise


@dataclass(frozen=True)
class Scored:
    """A run whose score matrix was read beside its records.

    Attributes:
        run: The run.
        matrix: Its draws, of the images that have records.
        labels: True class of each image, int64 `[n]`.
        cut: Draws that were left of more, see `cut_to`; None if all are there.
    """

    run: Run
    matrix: Matrix
    labels: np.ndarray
    cut: int | None = None

    def take(self, index: np.ndarray) -> Scored:
        """The same of some images."""
        return replace(self, matrix=self.matrix.take(index), labels=self.labels[index])

    def cut_to(self, draws: int) -> Scored:
        """The first draws, as if the run had had no more: their temperature is that of so many.

        Raises:
            InputError: more draws than there are.
        """
        return replace(self, matrix=self.matrix.first(draws), cut=draws)

    @property
    def whole(self) -> int:
        """Draws that the run would give every class; a race may have needed fewer."""
        return int(self.run.config["draws"].get("whole", self.matrix.t.shape[1]))

    def first(self, draws: int | None) -> tuple[Matrix, int]:
        """The first draws and their number; all there are if None."""
        if draws is None:
            return self.matrix, self.cut or self.whole
        return self.matrix.first(draws), draws


def read_scored(folder: Path) -> Scored:
    """Matrix and labels, matched by image.

    Raises:
        InputError: not a run, or one without a matrix.
    """
    run, matrix = read_run(folder), read_matrix(folder)
    label_of = dict(zip(run.records.ids, run.records.labels, strict=True))
    keep = np.array([i for i, name in enumerate(matrix.ids) if name in label_of], dtype=np.int64)
    matrix = matrix.take(keep)
    return Scored(run, matrix, np.array([label_of[name] for name in matrix.ids], dtype=np.int64))


def temperature_for(config: dict[str, Any], draws: int) -> float:
    """What a run with so many draws would have used: the user's, else the card's."""
    return float(config["draws"]["temperatures"][str(draws)])


def rescored_logits(
    scored: Scored, weights: str, reduction: str, draws: int | None, temperature: float | None
) -> tuple[np.ndarray, float]:
    """Logits `[n, k]` under other settings, and the temperature that divides them."""
    ranges = scored.run.config["draws"]
    matrix, whole = scored.first(draws)
    t = temperature or temperature_for(scored.run.config, whole)
    if weights.endswith(".json") and temperature is None:
        t = 1.0  # fitted weights hold the temperature
    weighted = matrix.errors * draw_weights(matrix, weights, ranges)[:, :, None, None]
    logits = join_templates(reduce_draws(weighted, reduction), t)
    if race_settings(scored.run.config) is not None:
        logits = logits * scale(scored.run.config, whole, drawn(weighted))[:, None]
    return logits, t


def probabilities(scored: Scored, logits: np.ndarray, temperature: float) -> np.ndarray:
    """Softmax with the run's priors, `[n, k]`."""
    return np.exp(log_softmax(logits / temperature + log_priors(scored), axis=1))


def log_priors(scored: Scored) -> np.ndarray | float:
    """Logarithms of the run's priors, `[k]`; 0 if it had none."""
    priors = scored.run.config["settings"].get("priors")
    if isinstance(priors, dict):
        priors = [priors[name] for name in scored.run.classes]
    return 0.0 if priors is None else np.log(np.array(priors) / np.sum(priors))


def evaluations(scored: Scored, draws: int) -> np.ndarray:
    """Network evaluations of each image for the first draws that were kept of it, int64 `[n]`."""
    kept = ~np.isnan(scored.matrix.errors)
    return per_draw(scored) * kept[:, :draws].sum((1, 2, 3))


def per_draw(scored: Scored) -> int:
    """Network evaluations of one draw of one prompt: 2 with guidance."""
    prompts = scored.matrix.errors[0, 0].size
    return int(scored.run.config["evaluations_per_image"] // (scored.whole * prompts))


def curve_points(draws: int) -> list[int]:
    """1, 2, 4, ... and all."""
    return [n for n in (2**i for i in range(20)) if n < draws] + [draws]


def accuracy_curve(scored: Scored, weights: str = "as-run") -> list[dict[str, float]]:
    """Accuracy with its Wilson interval and evaluations per image, against the draws."""
    total = scored.matrix.t.shape[1]
    points = []
    for n in curve_points(total):
        found = probabilities(scored, *rescored_logits(scored, weights, "mean", n, None))
        right = int((found.argmax(1) == scored.labels).sum())
        low, high = wilson(right, len(scored.labels))
        points.append(
            {
                "draws": n,
                "evaluations": round(float(evaluations(scored, n).mean())),
                "accuracy": right / len(scored.labels),
            }
            | {"low": low, "high": high}
        )
    return points


@dataclass(frozen=True)
class Rescored:
    """Predictions under other settings, beside those of the run.

    Attributes:
        scored: The run and its score matrix.
        settings: `draws`, `weights`, `reduction` and the `temperature` that divides the logits.
        logits: float64 `[n, k]`.
        proba: float64 `[n, k]`.
        before: Metrics of the run itself.
        after: Metrics of these predictions.
        mcnemar_p: Probability of so unequal a number of discordant images by chance.
        evals: Network evaluations of each image, int64 `[n]`.
        race: The races whose logits these are, if they were run.
    """

    scored: Scored
    settings: dict[str, Any]
    logits: np.ndarray
    proba: np.ndarray
    before: dict[str, Any]
    after: dict[str, Any]
    mcnemar_p: float
    evals: np.ndarray
    race: Replayed | None = None


def rescore(
    scored: Scored,
    *,
    weights: str = "as-run",
    reduction: str = "mean",
    draws: int | None = None,
    temperature: float | None = None,
    race: float | None = None,
) -> Rescored:
    """Predict again from the score matrix.

    Args:
        scored: The run and its score matrix.
        weights: See `draw_weights`.
        reduction: See `reduce_draws`.
        draws: How many of the first draws count; all of them if None.
        temperature: Divides the logits; what the run would have used if None.
        race: Delta of a race that is run over the draws; none if None.

    Raises:
        InputError: a setting that is out of range or unknown, or settings that exclude each other.
    """
    if temperature is not None and not temperature > 0:
        raise InputError(f"--temperature must be positive; got {temperature}.")
    if race is not None and reduction != "mean":
        raise InputError(f"--race compares means over draws; leave out --reduction {reduction}.")
    logits, t = rescored_logits(scored, weights, reduction, draws, temperature)
    evals, raced = evaluations(scored, draws or scored.whole), None
    if race is not None:
        raced, logits, evals = _raced(scored, weights, draws, race)
    proba = probabilities(scored, logits, t)
    before, right_before = _as_run(scored)
    right = proba.argmax(1) == scored.labels
    p = mcnemar(int((right_before & ~right).sum()), int((right & ~right_before).sum()))
    settings = {
        "draws": draws or scored.whole, "weights": weights, "reduction": reduction,
        "temperature": t,
    }  # fmt: skip
    after = metrics_of(proba, scored.labels, len(scored.run.classes))
    return Rescored(scored, settings, logits, proba, before, after, p, evals, raced)


def _raced(
    scored: Scored, weights: str, draws: int | None, delta: float
) -> tuple[Replayed, np.ndarray, np.ndarray]:
    """Races over the first draws, with their scaled logits and the evaluations of each image."""
    config = scored.run.config
    matrix, whole = scored.first(draws)
    weighted = matrix.errors * draw_weights(matrix, weights, config["draws"])[:, :, None, None]
    found = replayed(weighted, matrix.t, whole, config, delta)
    own = scale(config, whole, found.draws.max(1))
    return found, found.logits * own[:, None], per_draw(scored) * found.draws.sum(1)


def without_fitted(scored: Scored, path: Path) -> Scored:
    """The images that a calibration was not fitted on.

    Raises:
        InputError: none is left, or the file is no calibration.
    """
    fitted = set(read_calibration(path)["fitted_on"])
    keep = np.array([name not in fitted for name in scored.matrix.ids])
    if not keep.any():
        raise InputError(f"{path}: was fitted on every image of this run; none is left.")
    return scored if keep.all() else scored.take(np.flatnonzero(keep))


def _as_run(scored: Scored) -> tuple[dict[str, Any], np.ndarray]:
    records = scored.run.records
    place = {name: i for i, name in enumerate(records.ids)}
    rows = np.array([place[name] for name in scored.matrix.ids])
    proba = records.proba[rows]
    right = proba.argmax(1) == scored.labels
    return metrics_of(proba, scored.labels, len(scored.run.classes)), right


def write_rescored(result: Rescored, out: Path, command: str) -> None:
    """The result as a run of its own, for `diffzero report`.

    Args:
        result: What to write.
        out: Folder of the new run.
        command: What the run's configuration names as its command.
    """
    scored = result.scored
    config = dict(scored.run.config)
    draws, race = result.settings["draws"], result.race
    cost = config["evaluations_per_image"] * draws // scored.whole
    config["settings"] = config["settings"] | result.settings
    if race is not None:
        config |= {"method": "race", "settings": config["settings"] | race.settings}
    config["data"] = config["data"] | {"images": len(scored.labels)}
    config |= {"keep_draws": False, "evaluations_per_image": cost, "command": command}
    config["rescored_from"] = str(scored.run.folder)
    names = scored.run.classes
    with RunStore(out, config) as store:
        for i, name in enumerate(scored.matrix.ids):
            if name in store.done:
                continue
            facts = {} if race is None else dict(race.facts[i])
            if facts:
                facts["label_set"] = [names[c] for c in facts["label_set"]]
            store.append(
                {"id": name, "label": names[scored.labels[i]],
                 "prediction": names[int(result.proba[i].argmax())],
                 "probabilities": result.proba[i].tolist(),
                 "logits": result.logits[i].tolist(),
                 "evals": int(result.evals[i])} | facts | {"seconds": 0.0}
            )  # fmt: skip
        store.finish(summarise(read_run(out)))
