"""The loop: images to records, wherever the scoring happens.

`Scorer` is the part that needs the network; it runs here or in the workers of `cluster.py`. All
else (reading, resuming, writing) stays in one process, so that a run has one writer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..data import Dataset, Example, decode
from ..errors import DiffzeroError, InputError
from .corrupt import Corruption
from .draws import draw_table
from .store import RunStore

LARGEST_CHUNK = 256
PART_BYTES = 1 << 27  # of pixels that are held at once, unless one image has more
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
        """Score a chunk; an image without an answer gives a record with its error."""
        waiting, results = iter(items), []
        while part := self._decode(waiting):
            results.append(self._part(part))
        return joined(results)

    def _decode(self, waiting: Iterator[Item]) -> list[tuple[Item, np.ndarray | str]]:
        """The next items with their pixels, or what is wrong with them, in bounded memory."""
        part: list[tuple[Item, np.ndarray | str]] = []
        held = 0
        while held < PART_BYTES and (item := next(waiting, None)) is not None:
            try:
                pixels = decode(item.raw, item.id)
                if self.corruption is not None:
                    pixels = self.corruption(pixels)
                part.append((item, pixels))
                held += pixels.nbytes
            except InputError as error:
                part.append((item, str(error)))
        return part

    def _part(self, part: list[tuple[Item, np.ndarray | str]]) -> Result:
        good = [(item, pixels) for item, pixels in part if not isinstance(pixels, str)]
        scored = self._answers(*map(list, zip(*good, strict=True))) if good else Result([])
        answers = iter(scored.records)
        records = [
            error_record(item.id, pixels) if isinstance(pixels, str) else next(answers)
            for item, pixels in part
        ]
        return Result(records, scored.draws)

    def _answers(self, items: list[Item], images: list[np.ndarray]) -> Result:
        """Of decoded images; one that cannot be scored takes no other with it."""
        began = time.perf_counter()
        try:
            scores, draws = self._score(images, [item.id for item in items])
        except DiffzeroError as error:
            if len(items) == 1:
                return Result([error_record(items[0].id, f"{items[0].id}: {error}")])
            each = zip(items, images, strict=True)
            return joined([self._answers([item], [image]) for item, image in each])
        seconds = (time.perf_counter() - began) / len(images)
        proba = self.classifier.probabilities(scores)
        records = [
            self._record(item, scores, proba, row, seconds) for row, item in enumerate(items)
        ]
        return Result(records, draws)

    def _score(
        self, images: list[np.ndarray], ids: list[str]
    ) -> tuple[Any, dict[str, np.ndarray]]:
        if not self.keep_draws:
            return self.classifier.scores(images), {}
        scores, errors = self.classifier.scores_and_draws(images)
        return scores, draw_table(self.classifier, images, ids, errors)

    def _record(
        self, item: Item, scores: Any, proba: np.ndarray, row: int, seconds: float
    ) -> dict[str, Any]:
        record = {
            "id": item.id,
            "label": item.label,
            "prediction": self.classifier.names_[int(proba[row].argmax())],
            "probabilities": proba[row].tolist(),
            "logits": scores.logits[row].tolist(),
            "evals": int(scores.evals[row]),
        }
        if scores.vjps is not None:
            record["vjps"] = int(scores.vjps[row])
        facts = scores.facts[row] if scores.facts else {}
        return record | facts | {"seconds": round(seconds, 6)}


def joined(results: list[Result]) -> Result:
    """Results of parts of a chunk as one."""
    tables = [result.draws for result in results if result.draws]
    draws = {name: np.concatenate([t[name] for t in tables]) for name in (tables or [{}])[0]}
    return Result([record for result in results for record in result.records], draws)


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
