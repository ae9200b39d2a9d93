"""Ranked words with intervals.

The interval of a probability says how far it may lie from what infinitely many draws would give.
With e_c the weighted error of word c, L the best word (for L itself: the second), s the standard
error of the paired difference e_c - e_L over the draws that both saw, and T the temperature,

    log odds of c  +-  1.96 s / T.

The times of draws are spread evenly, so that s is rather too large than too small.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import expit, logit

Z = 1.96


def ranked(
    classifier: Any, photo: Any, progress: Callable[[int], None], began: float
) -> dict[str, Any]:
    """The `answer` event of one photo.

    Args:
        classifier: Fitted.
        photo: uint8 `[h, w, 3]`.
        progress: See `Classifier.scores`.
        began: `time.perf_counter()` when the work began.
    """
    cube = None
    if classifier.method in ("race", "elbo"):
        scores, drawn = classifier.scores_and_draws([photo], progress=progress)
        cube = drawn[0][:, :, 0]
    else:
        scores = classifier.scores([photo], progress=progress)
    proba = classifier.probabilities(scores)[0]
    ends = None if cube is None else intervals(cube, proba, _scale(classifier, cube))
    return {
        "event": "answer",
        "rows": _rows(classifier.names_, proba, ends),
        "evals": int(scores.evals[0]),
        "seconds": round(time.perf_counter() - began, 3),
        "model": classifier.backbone_.name,
        "method": classifier.method,
        "calibrated": bool(classifier.calibrated),
    } | (scores.facts[0] if scores.facts else {})


def between(classifier: Any, look: Any) -> list[dict[str, Any]]:
    """Ranked words of a race that goes on; those that left are marked."""
    logits = look.logits / classifier.temperature_in_use()
    proba = np.exp(logits - np.logaddexp.reduce(logits))
    alive = {classifier.names_[i] for i in look.alive}
    rows = _rows(classifier.names_, proba, None)
    return [row | {"left": row["word"] not in alive} for row in rows]


def intervals(cube: np.ndarray, proba: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends `[k]`.

    Args:
        cube: Errors `[draws, k]`, NaN where a word had left the race.
        proba: Probabilities `[k]`.
        scale: What turns a difference of mean errors into one of log odds, 1 / T.
    """
    order = np.argsort(-proba, kind="stable")
    rival = np.full(len(proba), order[0])
    rival[order[0]] = order[1]
    difference = cube - cube[:, rival]
    n = np.isfinite(difference).sum(0)
    deviation = np.array([
        np.nanstd(difference[:, c], ddof=1) if n[c] > 1 else np.inf for c in range(len(proba))
    ])  # fmt: skip
    half = Z * scale * deviation / np.sqrt(np.maximum(n, 1))
    odds = logit(np.clip(proba, 1e-12, 1 - 1e-12))
    return expit(odds - half), expit(odds + half)


def _scale(classifier: Any, cube: np.ndarray) -> float:
    """`1 / T`, for a race with what brings few draws to the scale of all."""
    scale = classifier.scale(len(cube)) if classifier.method == "race" else 1.0
    return float(scale / classifier.temperature_in_use())


def _rows(
    names: list[str], proba: np.ndarray, ends: tuple[np.ndarray, np.ndarray] | None
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for i in np.argsort(-proba, kind="stable"):
        row: dict[str, Any] = {"word": names[i], "p": float(proba[i])}
        if ends is not None:
            row |= {"low": float(ends[0][i]), "high": float(ends[1][i])}
        rows.append(row)
    return rows
