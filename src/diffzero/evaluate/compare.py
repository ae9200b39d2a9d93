"""Two runs on the same images: who is right where, and whether the difference may be chance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError
from .metrics import mcnemar
from .summary import Run


@dataclass(frozen=True)
class Pair:
    """Two runs brought together by image.

    Attributes:
        first: A run.
        second: Another, its columns in the order of the first's classes.
        rows_first: Rows of the common images in the first, int64 `[n]`.
        rows_second: The same in the second.
    """

    first: Run
    second: Run
    rows_first: np.ndarray
    rows_second: np.ndarray

    @property
    def predictions(self) -> tuple[np.ndarray, np.ndarray]:
        """Predicted classes of the common images by each, int64 `[n]`."""
        one = self.first.records.proba[self.rows_first].argmax(1)
        two = self.second.records.proba[self.rows_second].argmax(1)
        return one, two

    @property
    def labels(self) -> np.ndarray:
        """True classes of the common images, int64 `[n]`."""
        return self.first.records.labels[self.rows_first]


def pair(first: Run, second: Run) -> Pair:
    """Match two runs by image and by class name.

    Raises:
        InputError: other classes, no common image, or another truth for the same image.
    """
    second = second.in_order(first.classes)
    place = {name: i for i, name in enumerate(second.records.ids)}
    rows = [(i, place[name]) for i, name in enumerate(first.records.ids) if name in place]
    if not rows:
        raise InputError(
            f"{first.folder} and {second.folder} have no image in common. Compare runs on the "
            "same data."
        )
    own, other = np.array(rows, dtype=np.int64).T
    if (first.records.labels[own] != second.records.labels[other]).any():
        raise InputError(
            f"{first.folder} and {second.folder} disagree about the truth of the same images. "
            "They are from different versions of the data."
        )
    return Pair(first, second, own, other)


def compare(found: Pair) -> dict[str, Any]:
    """Agreement table and McNemar's p."""
    one, two = found.predictions
    a, b = one == found.labels, two == found.labels
    return {
        "first": found.first.label,
        "second": found.second.label,
        "images": len(a),
        "both_right": int((a & b).sum()),
        "only_first_right": int((a & ~b).sum()),
        "only_second_right": int((~a & b).sum()),
        "both_wrong": int((~a & ~b).sum()),
        "same_answer": float((one == two).mean()),
        "mcnemar_p": mcnemar(int((a & ~b).sum()), int((~a & b).sum())),
    }


def verdict(c: dict[str, Any]) -> str:
    """The comparison in one sentence."""
    only, other = c["only_first_right"], c["only_second_right"]
    if c["mcnemar_p"] >= 0.05:
        return (
            f"These {c['images']:,} images do not tell the two apart "
            f"({only:,} against {other:,} that only one has right, p = {c['mcnemar_p']:.2g})."
        )
    better = c["first"] if only > other else c["second"]
    return (
        f"{better} is better on these {c['images']:,} images ({only:,} against {other:,} that "
        f"only one has right, p = {c['mcnemar_p']:.2g})."
    )


def most_different(found: Pair, count: int) -> np.ndarray:
    """Common images on which the two differ: those where just one is right, the surest first."""
    one, two = found.predictions
    differ = np.flatnonzero(one != two)
    p = found.first.records.proba[found.rows_first[differ]]
    q = found.second.records.proba[found.rows_second[differ]]
    each = np.arange(len(differ))
    sure = p[each, one[differ]] * q[each, two[differ]]
    lone = (one[differ] == found.labels[differ]) | (two[differ] == found.labels[differ])
    return differ[np.lexsort((-sure, ~lone))[:count]]


def confident_mistakes(run: Run, count: int) -> np.ndarray:
    """Rows of wrong predictions, the most probable first."""
    wrong = np.flatnonzero(run.records.proba.argmax(1) != run.records.labels)
    return wrong[np.argsort(-run.records.proba[wrong].max(1), kind="stable")[:count]]
