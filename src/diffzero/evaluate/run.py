"""The loop: images to records, wherever the scoring happens.

`Scorer` is the part that needs the network; it runs here or in the workers of `cluster.py`. All
else (reading, resuming, writing) stays in one process, so that a run has one writer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..data import Dataset, Example, decode
from ..errors import InputError
from .corrupt import Corruption
from .draws import draw_table
from .store import RunStore

LARGEST_CHUNK = 256
WISHED_SECONDS = 4.0  # of a chunk: what a kill may cost


@dataclass(frozen=True)
class Item:
    """An image on its way to a scorer.

    Attributes:
        id: Of the example.
        label: True class.
        raw: Encoded bytes, or uint8 pixels.
    """

    id: str
    label: str
    raw: bytes | np.ndarray


@dataclass(frozen=True)
class Result:
    """What became of a chunk of items.

    Attributes:
        records: One an item, in their order.
        draws: Columns of the score matrix, empty without `keep_draws`.
    """

    records: list[dict[str, Any]]
    draws: dict[str, np.ndarray] = field(default_factory=dict)


class Scorer:
    """Items to records.

    Args:
        classifier: Fitted.
        corruption: Applied to every image before it is scored; None leaves them clean.
        keep_draws: Also return the score matrix; the method must have `draw_errors`.

    Raises:
        InputError: `keep_draws` with a method without draws.
    """

    def __init__(
        self, classifier: Any, corruption: Corruption | None = None, keep_draws: bool = False
    ) -> None:
        if keep_draws and not hasattr(classifier, "draw_errors"):
            raise InputError(
                f"--keep-draws serves methods that average errors over draws, such as elbo; "
                f"{classifier.method} does not."
            )
        self.classifier, self.corruption, self.keep_draws = classifier, corruption, keep_draws

    def __call__(self, items: list[Item]) -> Result:
        """Score a chunk; an unreadable image gives a record with its error."""
        images, good, records = [], [], {}
        for position, item in enumerate(items):
            try:
                pixels = decode(item.raw, item.id)
                if self.corruption is not None:
                    pixels = self.corruption(pixels)
                images.append(pixels)
                good.append(position)
            except InputError as error:
                records[position] = error_record(item.id, str(error))
        draws: dict[str, np.ndarray] = {}
        if images:
            began = time.perf_counter()
            scores, draws = self._score(images, [items[g].id for g in good])
            seconds = (time.perf_counter() - began) / len(images)
            proba = self.classifier.probabilities(scores)
            for row, position in enumerate(good):
                records[position] = self._record(items[position], scores, proba, row, seconds)
        return Result([records[i] for i in range(len(items))], draws)

    def _score(
        self, images: list[np.ndarray], ids: list[str]
    ) -> tuple[Any, dict[str, np.ndarray]]:
        if not self.keep_draws:
            return self.classifier.scores(images), {}
        from ..classifier import Scores

        errors = self.classifier.draw_errors(images)
        logits = np.stack([self.classifier.reduce(e) for e in errors])
        evals = np.full(len(images), self.classifier.count_evals(logits.shape[1]))
        return Scores(logits, evals), draw_table(self.classifier, images, ids, errors)

    def _record(
        self, item: Item, scores: Any, proba: np.ndarray, row: int, seconds: float
    ) -> dict[str, Any]:
        record = {
            "id": item.id,
            "label": item.label,
            "prediction": self.classifier.names_[int(proba[row].argmax())],
            "probabilities": _numbers(proba[row]),
            "logits": _numbers(scores.logits[row]),
            "evals": int(scores.evals[row]),
        }
        if scores.vjps is not None:
            record["vjps"] = int(scores.vjps[row])
        return record | {"seconds": round(seconds, 6)}


def _numbers(row: np.ndarray) -> list[float | None]:
    """JSON has no infinity: what is not finite becomes null."""
    return [float(v) if math.isfinite(v) else None for v in row]


def error_record(name: str, message: str) -> dict[str, Any]:
    """The record of an image that could not be used."""
    return {"id": name, "error": message}


def pending(dataset: Dataset, store: RunStore) -> list[Example]:
    """Examples that have no record yet, in the data's order."""
    return [e for e in dataset.examples if e.id not in store.done]


def read_items(
    dataset: Dataset, examples: Iterable[Example], failed: Callable[[dict[str, Any]], None]
) -> Iterator[Item]:
    """Items one by one; what cannot be read goes to `failed` as a record."""
    for example in examples:
        try:
            raw = dataset.read(example)
        except InputError as error:
            failed(error_record(example.id, str(error)))
            continue
        assert example.label is not None  # an example without one has a problem
        yield Item(example.id, example.label, raw)


def chunks(items: Iterable[Item], first: int, grow: bool = True) -> Iterator[list[Item]]:
    """Items in lists; where scoring happens between them, their size follows its speed."""
    size = first
    chunk: list[Item] = []
    began = time.perf_counter()
    for item in items:
        if not chunk:
            began = time.perf_counter()
        chunk.append(item)
        if len(chunk) < size:
            continue
        yield chunk
        chunk = []
        if grow:
            rate = size / max(1e-6, time.perf_counter() - began)
            size = max(1, min(LARGEST_CHUNK, 2 * size, int(rate * WISHED_SECONDS)))
    if chunk:
        yield chunk


def first_chunk(evals: int, rows: int) -> int:
    """Images that fill one network call, at least one."""
    return max(1, min(LARGEST_CHUNK, rows // max(1, evals)))


def run(
    dataset: Dataset,
    store: RunStore,
    score: Callable[[Iterable[list[Item]]], Iterable[Result]],
    *,
    first: int,
    grow: bool,
    advance: Callable[[int], None] = lambda n: None,
) -> int:
    """Score what has no record yet, and write it.

    Args:
        dataset: What to evaluate on.
        store: Opened; gets the records.
        score: Chunks of items to their results, in any order.
        first: Size of the first chunk.
        grow: Whether chunk sizes follow the speed of scoring.
        advance: Called with the number of images done.

    Returns:
        Number of error records written.

    Raises:
        DiffzeroError: the disk is full.
    """
    from .draws import DrawParts

    parts = DrawParts(store.folder)
    errors = 0

    def failed(record: dict[str, Any]) -> None:
        nonlocal errors
        errors += 1
        store.append(record)
        advance(1)

    items = read_items(dataset, pending(dataset, store), failed)
    for result in score(chunks(items, first, grow)):
        # The matrix before the records: an image with a record never lacks its draws.
        if result.draws:
            parts.write(result.draws)
        for record in result.records:
            store.append(record)
            errors += "error" in record
        advance(len(result.records))
        store.sync()
    return errors
