"""Files to records, in order, each as soon as it is known, in bounded memory.

Scores belong to images, so how the files are grouped changes nothing but speed: a group is as few
images as keep the network busy for a moment, and never many bytes of pixels. Files are opened when
their turn comes and their pixels are gone before the next group is opened.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import DiffzeroError, InputError
from ..prompts import unknown_words
from .build import network_rows
from .console import Estimate, printable

NONE = "none of these"

if TYPE_CHECKING:
    import numpy as np

GROUP_SECONDS = 1.0  # between lines, where an image takes less
GROUP_BYTES = 1 << 27  # of pixels in one group, unless one image has more
GROUP_BATCHES = 4  # full network batches in one group: the last one of a group is seldom full
GROUP_IMAGES = 256


@dataclass
class Pace:
    """How many images the next group takes: one at first, then what the measured time allows.

    Attributes:
        most: Images in a group at most.
        size: Images in the next group.
    """

    most: int
    size: int = 1

    @classmethod
    def of(cls, classifier: Any) -> Pace:
        """Of a fitted classifier."""
        rows = GROUP_BATCHES * network_rows(classifier)
        evals = max(1, classifier.count_evals(len(classifier.names_)))
        return cls(max(1, min(GROUP_IMAGES, -(-rows // evals))))

    def learn(self, images: int, seconds: float) -> None:
        """A group of so many images took so long."""
        wished = GROUP_SECONDS * images / max(seconds, 1e-6)
        self.size = max(1, min(self.most, 2 * self.size, int(wished)))


def records(classifier: Any, files: Sequence[str], progress: Estimate) -> Iterator[dict[str, Any]]:
    """One record per file, in order; a file that gives no answer gives a record with its error.

    Args:
        classifier: Fitted.
        files: Paths of images.
        progress: Told of evaluations as they are done.
    """
    waiting, pace = iter(files), Pace.of(classifier)
    while True:
        began = time.perf_counter()
        done = next_group(classifier, waiting, pace.size, progress)
        if not done:
            return
        pace.learn(len(done), time.perf_counter() - began)
        yield from done


def next_group(
    classifier: Any, waiting: Iterator[str], size: int, progress: Estimate
) -> list[dict[str, Any]]:
    """The records of the next files, none if there are no more."""
    from ..images import load_image

    paths: list[str] = []
    images: list[np.ndarray] = []
    found: list[dict[str, Any]] = []
    while len(found) < size and sum(image.nbytes for image in images) < GROUP_BYTES:
        path = next(waiting, None)
        if path is None:
            break
        found.append({"path": path})
        try:
            images.append(load_image(path))
            paths.append(path)
        except InputError as error:
            found[-1]["error"] = str(error)
            progress.skip(classifier.count_evals(len(classifier.names_)))
    scores = score(classifier, paths, images, progress) if images else []
    for record in scores:
        if "evals" in record:
            progress.finished(classifier.count_evals(len(classifier.names_)), record["evals"])
    scored = iter(scores)
    return [record if "error" in record else next(scored) for record in found]


def score(
    classifier: Any, paths: list[str], images: list[np.ndarray], progress: Estimate
) -> list[dict[str, Any]]:
    """The records of decoded images; an image that cannot be scored takes none with it."""
    began = time.perf_counter()
    try:
        scores = classifier.scores(images, progress=progress)
    except DiffzeroError as error:
        if len(images) == 1:
            return [{"path": paths[0], "error": f"{paths[0]}: {error}"}]
        alone = zip(paths, images, strict=True)
        return [r for p, image in alone for r in score(classifier, [p], [image], progress)]
    seconds = (time.perf_counter() - began) / len(images)
    return [record_of(classifier, path, scores, row, seconds) for row, path in enumerate(paths)]


def record_of(classifier: Any, path: str, scores: Any, row: int, seconds: float) -> dict[str, Any]:
    """The line of one image, as `--json` prints it."""
    names, logits = classifier.names_, scores.logits[row]
    proba = classifier.probabilities(scores)[row]
    record = {
        "path": path,
        "label": names[int(proba.argmax())],
        "scores": {n: float(p) for n, p in zip(names, proba, strict=True)},
        "logits": {n: float(v) for n, v in zip(names, logits, strict=True)},
        "evals": int(scores.evals[row]),
        "seconds": round(seconds, 6),
        "model": classifier.backbone_.name,
        "method": classifier.method,
        "seed": classifier.seed,
    } | (scores.facts[row] if scores.facts else {})
    unknown = [n for n in names if unknown_words(classifier.backbone_, n)]
    record |= {"unknown": unknown} if unknown else {}
    return record | (_ratios(classifier, scores, row) if "ratio" in scores.details else {})


def _ratios(classifier: Any, scores: Any, row: int) -> dict[str, Any]:
    """What an `OpenSet` knows beside: the ratios, and which words reach the threshold."""
    ratios, there = scores.details["ratio"][row], classifier.present(scores)[row]
    best = int(scores.logits[row].argmax())
    return {
        "ratio": float(ratios[best]),
        "threshold": classifier.threshold_in_use(),
        "ratios": {n: float(v) for n, v in zip(classifier.names_, ratios, strict=True)},
        "present": [n for n, is_there in zip(classifier.names_, there, strict=True) if is_there],
    }


@dataclass(frozen=True)
class Wish:
    """What the user wants of an answer.

    Attributes:
        top: Words shown; None for three of them as text, and all in JSON.
        none: Whether the answer may be "none of these".
        multi: Whether the answer is every word that the image shows.
    """

    top: int | None = None
    none: bool = False
    multi: bool = False

    def of(self, record: dict[str, Any]) -> dict[str, Any]:
        """The record as it was wished."""
        if "error" in record:
            return record
        record = dict(record)
        there = record.pop("present", [])
        if self.none and record["label"] not in there:
            record["label"] = NONE
        if self.multi:
            record["labels"] = sorted(there, key=lambda n: -record["ratios"][n])
            record["label"] = record["labels"][0] if there else NONE
        if self.top is not None:
            kept = sorted(record["scores"], key=lambda n: -record["scores"][n])[: self.top]
            for name in ("scores", "logits", "ratios"):
                if name in record:
                    record[name] = {n: record[name][n] for n in kept}
        return record


def marked(label: str, unknown: Collection[str]) -> str:
    """A label, and whether the model never saw its words: then its probability means nothing."""
    return f"{label} (unknown word)" if label in unknown else label


def text_of(record: dict[str, Any], top: int | None = None) -> str:
    """The best words of an image on one line, three if no number is wished."""
    guessed = record.get("unknown", ())
    best = sorted(record["scores"].items(), key=lambda item: -item[1])[: top or 3]
    words = "   ".join(
        printable(marked(label, guessed)) + ("" if label in guessed else f" {100 * p:.1f} %")
        for label, p in best
    )
    if "labels" in record:
        there = (printable(marked(label, guessed)) for label in record["labels"])
        words = "   ".join(there) or f"{NONE}   (nearest: {words})"
    elif record["label"] == NONE:
        words = f"{NONE}   (nearest: {words})"
    return f"{printable(record['path'])}:  {words}"
