"""`diffzero demo`: real images, a bundled model, a table and a picture."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from . import options
from .build import expand, read_labels
from .console import note, print_table, printable, progress_bar, say

if TYPE_CHECKING:
    import numpy as np

SHOWN = 24
# Chelsea the cat, photographed by Stefan van der Walt, CC0 (scikit-image distributes her whole).
PHOTO, PHOTO_MODEL = Path(__file__).parent / "chelsea.jpg", "photos-sd"


def demo(
    paths: Annotated[list[str] | None, typer.Argument(help="Your own images to add.")] = None,
    labels: Annotated[str | None, typer.Option(help="Words for your own images.")] = None,
    model: options.Model = "tiny-sd",
    limit: Annotated[int, typer.Option(help="Digits to classify, up to 360.")] = 100,
    draws: Annotated[int, typer.Option(help="Noise draws per class.")] = 16,
    out: Annotated[Path, typer.Option(help="Where the picture goes.")] = Path("diffzero-demo.png"),
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = None,
    batch_size: options.BatchSize = None,
) -> None:
    """Classify real images with the bundled model; print a table, write a picture."""
    from ..methods.clip import CLIP
    from ..methods.elbo import ELBO
    from ..models.load import load
    from .picture import picture

    if not 1 <= limit <= 360:
        raise InputError(f"--limit must lie between 1 and 360; got {limit}.")
    if not out.parent.is_dir():
        raise InputError(f"{out}: the folder {out.parent} does not exist. Create it first.")
    own = Own.read(paths, labels)
    digits = Digits.read(limit)
    settings: dict[str, Any] = {"seed": seed, "batch_size": batch_size}
    place: dict[str, Any] = {"device": device, "dtype": dtype}
    elbo = ELBO(load(model, **place), draws=draws, **settings).fit(digits.names)
    note(
        f"{limit} handwritten digits (scikit-learn's, not trained on), 10 phrases, {draws} noise "
        f"draws each: {elbo.count_evals(len(digits.names)) * limit:,} evaluations of "
        f"{elbo.backbone_.name}"
    )
    row, proba = measured(elbo, digits)
    baseline, _ = measured(CLIP(load("tiny-clip", **place), **settings).fit(digits.names), digits)
    print_table(
        ["method", "model", "accuracy [95 % interval]", "evaluations", "seconds"], [row, baseline]
    )
    print_table(["hardest", "truth", "first", "second", "third", ""], digits.hardest_rows(proba))
    cat = photograph(place, draws=draws, **settings)
    panels = (own.panels(elbo, digits.names) + cat + digits.panels(proba))[:SHOWN]
    picture(panels, _title(row, baseline, draws), out)
    say(f"picture: {out}")


def photograph(place: dict[str, Any], **settings: Any) -> list[dict[str, Any]]:
    """Classify the photograph that comes along, and print its line.

    Args:
        place: Device and dtype of the model.
        settings: Arguments of `ELBO`.
    """
    from ..data import caption_words
    from ..methods.elbo import ELBO
    from ..models.load import load

    words = list(caption_words()["cifar10"]["classes"])
    note(
        f"a photograph (Chelsea, by Stefan van der Walt, CC0), {len(words)} words that "
        f"{PHOTO_MODEL} knows"
    )
    elbo = ELBO(load(PHOTO_MODEL, **place), **settings).fit(words)
    return Own([str(PHOTO)], words).panels(elbo, words)


@dataclass(frozen=True)
class Digits:
    """Held-out handwritten digits with their classes."""

    images: list[np.ndarray]
    labels: np.ndarray
    names: list[str]

    @classmethod
    def read(cls, limit: int) -> Digits:
        """The first ones of scikit-learn's held-out part."""
        from ..data import caption_words, digits_split

        _, (images, truths) = digits_split()
        return cls(
            list(images[:limit]), truths[:limit], list(caption_words()["digits"]["classes"])
        )

    def hardest(self, proba: np.ndarray) -> np.ndarray:
        """Images by the probability of their true label, the smallest first: wrong ones lead."""
        return proba[range(len(self.labels)), self.labels].argsort(kind="stable")

    def hardest_rows(self, proba: np.ndarray) -> list[tuple[str, ...]]:
        """Lines of the table: number, truth, the three best words, whether it is wrong."""
        rows = []
        for i in self.hardest(proba)[:6]:
            best = (-proba[i]).argsort()[:3]
            words = [f"{_short(self.names[j])} {100 * proba[i, j]:.1f} %" for j in best]
            mark = "" if best[0] == self.labels[i] else "wrong"
            rows.append((str(i), _short(self.names[self.labels[i]]), *words, mark))
        return rows

    def panels(self, proba: np.ndarray) -> list[dict[str, Any]]:
        """Panels of the hardest images: a row of certainties would show nothing."""
        names = [_short(name) for name in self.names]
        return [
            {"image": self.images[i], "proba": proba[i], "names": names,
             "truth": int(self.labels[i])}
            for i in self.hardest(proba)[:SHOWN]
        ]  # fmt: skip


@dataclass(frozen=True)
class Own:
    """The user's images and words; the digits' words if there are none."""

    paths: list[str]
    words: list[str] | None

    @classmethod
    def read(cls, paths: list[str] | None, labels: str | None) -> Own:
        """Of the command's arguments; an unreadable image is refused before any work."""
        from ..images import load_image

        files = expand(paths) if paths else []
        for path in files:
            load_image(path)
        return cls(files, read_labels(labels, None) if labels is not None else None)

    def panels(self, elbo: Any, names: list[str]) -> list[dict[str, Any]]:
        """Classify each image, print its line, and keep it small for the picture."""
        from sklearn.base import clone

        from ..images import load_image

        if not self.paths:
            return []
        words = self.words or names
        classifier = clone(elbo).set_params(backbone=elbo.backbone_).fit(words)
        found = []
        for path in self.paths:
            pixels = load_image(path)
            proba = classifier.predict_proba([pixels])[0]
            best = int(proba.argmax())
            name = path if path != str(PHOTO) else PHOTO.name
            say(f"{printable(name)}:  {printable(words[best])} {100 * proba[best]:.1f} %")
            found.append(
                {"image": _thumbnail(pixels), "proba": proba, "names": words, "truth": None,
                 "caption": printable(Path(path).name)}
            )  # fmt: skip
        return found


def measured(classifier: Any, digits: Digits) -> tuple[tuple[str, ...], np.ndarray]:
    """Classify the digits: the classifier's line of the table, and its probabilities."""
    from ..evaluate.metrics import percent

    began = time.perf_counter()
    evals = classifier.count_evals(len(digits.names)) * len(digits.images)
    with progress_bar(evals) as progress:
        scores = classifier.scores(digits.images, progress=progress)
    seconds = time.perf_counter() - began
    proba = classifier.probabilities(scores)
    correct = int((proba.argmax(1) == digits.labels).sum())
    row = (
        *(classifier.method, classifier.backbone_.name, percent(correct, len(digits.labels))),
        *(f"{scores.evals.sum():,}", f"{seconds:.1f}"),
    )
    return row, proba


def _short(name: str) -> str:
    return name.removeprefix("handwritten digit ")


def _thumbnail(pixels: np.ndarray, side: int = 256) -> np.ndarray:
    import numpy as np
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((side, side))
    return np.asarray(image)


def _title(elbo: tuple[str, ...], clip: tuple[str, ...], draws: int) -> str:
    return (
        f"Held-out handwritten digits by diffusion ({elbo[1]}, ELBO, {draws} draws): {elbo[2]}\n"
        f"CLIP on the same images ({clip[1]}): {clip[2]}. "
        "Of the digits the least certain are shown first."
    )
