"""Labelled images for the recipes: local Parquet, ImageFolder or hub id, and the digits.

Every image passes through the preprocessing that classification uses, so that a network never
sees at test time what it did not see in training.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import yaml

from ..errors import InputError
from ..images import fit_square, load_image

HELD_OUT = {"digits": 137}  # the last of train, never trained on: for temperatures and settings


@dataclass(frozen=True)
class Labelled:
    """Images with labels and words.

    Attributes:
        name: What the set is called.
        images: uint8 `[n, size, size, 3]`, or an object array of images of their own sizes.
        labels: int64 `[n]`.
        classes: One name a class, the one accuracy is measured with.
        names: For each class the names its captions use, repeats weigh more.
        whole: The names are whole captions, one class an image; templates are not filled.
        contrasts: For each class (here, image) captions to tell apart, the true one first;
            empty where the data have none.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    classes: list[str]
    names: list[list[str]]
    whole: bool = False
    contrasts: list[list[str]] = field(default_factory=list)

    def captions(self) -> list[list[str]]:
        """For each class, every caption that training can draw."""
        if self.whole:
            return self.names
        templates = caption_words()["templates"]
        return [[t.format(name) for t in templates for name in names] for names in self.names]

    def subset(self, index: np.ndarray | slice) -> Labelled:
        """The chosen images, with the same words."""
        return replace(self, images=self.images[index], labels=self.labels[index])


def caption_words() -> dict:
    """Templates and class words, from `captions.yaml`."""
    return yaml.safe_load((Path(__file__).parent / "captions.yaml").read_text())


def load(source: str, size: int | None, split: str = "train") -> Labelled:
    """Read a labelled set.

    Args:
        source: `digits` (scikit-learn's), a folder of Parquet files named after their split, an
            ImageFolder (one folder a class), or a hub id; `NAME=SOURCE` names it, otherwise the
            last part of the path does. Sets named in `captions.yaml` use its words. Parquet files
            with a column `captions` give every image its own, see `scenes`.
        size: Side in pixels the images are brought to; None leaves them as they are.
        split: `train` or `validation`.

    Raises:
        InputError: nothing readable there.
    """
    name, _, location = source.rpartition("=")
    name = name or Path(location).name
    if location == "digits":
        images, labels, classes = _digits(split)
    elif Path(location).is_dir():
        folder = Path(location)
        files = sorted(folder.glob(f"{split}*.parquet"))
        if own := _own_captions(files):
            kept = _sized(_images(files), size)
            first = [texts[0] for texts in own]
            order = np.arange(len(own))
            return Labelled(name, kept, order, first, own, whole=True, contrasts=_contrasts(files))
        images, labels, classes = _parquet(files) if files else _folder(folder, split)
    else:
        images, labels, classes = _hub(location, split)
    words = caption_words().get(name, {})
    classes = words.get("classes", classes)
    names = words.get("names", [[c] for c in classes])
    kept = _sized(images, size)
    return Labelled(name, kept, np.asarray(labels, dtype=np.int64), classes, names)


def _sized(images: list[np.ndarray], size: int | None) -> np.ndarray:
    """One array, or with no size an array of the images as they are."""
    if size is not None:
        return np.stack([fit_square(image, size) for image in images])
    kept = np.empty(len(images), dtype=object)
    kept[:] = list(images)
    return kept


def _digits(split: str) -> tuple[list[np.ndarray], np.ndarray, list[str]]:
    """The 1,437 training digits or the 360 held out, 8x8 in 0..16 as uint8 RGB."""
    train, test = digits_split()
    images, labels = train if split == "train" else test
    return list(images), labels, [str(d) for d in range(10)]


def digits_split() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """scikit-learn's digits: (train images uint8 [1437, 8, 8, 3], labels), (test [360, ...])."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, target = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(
        pixels, target, test_size=360, random_state=0, stratify=target
    )

    def rgb(flat: np.ndarray) -> np.ndarray:
        grey = np.round(flat.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
        return np.repeat(grey, 3, axis=3)

    return (rgb(x_train), y_train), (rgb(x_test), y_test)


def _parquet(files: list[Path]) -> tuple[list[np.ndarray], np.ndarray, list[str]]:
    import pyarrow.parquet as pq

    tables = [pq.read_table(f) for f in files]
    column = next((c for c in ("label", "fine_label") if c in tables[0].column_names), None)
    if column is None or "image" not in tables[0].column_names:
        raise InputError(
            f"{files[0]}: needs columns image and label; has {tables[0].column_names}."
        )
    labels = np.concatenate([t[column].to_numpy() for t in tables])
    metadata = tables[0].schema.metadata or {}
    features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    classes = features.get(column, {}).get("names") or [str(i) for i in range(labels.max() + 1)]
    return _images(files), labels, list(classes)


def _images(files: list[Path]) -> list[np.ndarray]:
    import pyarrow.parquet as pq
    from PIL import Image

    columns = [pq.read_table(f, columns=["image"])["image"] for f in files]
    encoded = [row["bytes"] for c in columns for row in c.to_pylist()]
    return [load_image(Image.open(io.BytesIO(b))) for b in encoded]


def _own_captions(files: list[Path]) -> list[list[str]]:
    """Captions of each image where the files have them, else nothing."""
    import pyarrow.parquet as pq

    if not files or "captions" not in pq.read_schema(files[0]).names:
        return []
    tables = [pq.read_table(f, columns=["captions"]) for f in files]
    return [texts for t in tables for texts in t["captions"].to_pylist()]


def _contrasts(files: list[Path]) -> list[list[str]]:
    """Candidates of each image where the files have them, the true one first, then by likeness."""
    import pyarrow.parquet as pq

    columns = ["candidates", "label"]
    if not set(columns) <= set(pq.read_schema(files[0]).names):
        return []
    rows = (row for f in files for row in pq.read_table(f, columns=columns).to_pylist())
    found = []
    for row in rows:
        true = row["candidates"][row["label"]]
        found.append(
            sorted(row["candidates"], key=lambda text: (text != true, _apart(text, true)))
        )
    return found


def _apart(one: str, other: str) -> int:
    """How many words one text has that the other has not; none if only their order differs."""
    return sum((Counter(one.split()) - Counter(other.split())).values())


def _folder(folder: Path, split: str) -> tuple[list[np.ndarray], np.ndarray, list[str]]:
    root = folder / split if (folder / split).is_dir() else folder
    classes = sorted(p.name for p in root.iterdir() if p.is_dir())
    pairs = [(f, i) for i, c in enumerate(classes) for f in sorted((root / c).iterdir())]
    if not pairs:
        raise InputError(
            f"{folder}: neither {split}*.parquet nor one folder a class with images in it."
        )
    return (
        [load_image(f) for f, _ in pairs],
        np.array([i for _, i in pairs]),
        [c.replace("_", " ") for c in classes],
    )


def _hub(location: str, split: str) -> tuple[list[np.ndarray], np.ndarray, list[str]]:
    import datasets

    try:
        table = datasets.load_dataset(location, split=split)
    except Exception as error:  # the hub client raises a dozen types for "not there"
        raise InputError(
            f"{location}: neither a local folder nor a data set the hub could give "
            f"({type(error).__name__}). Give a folder of Parquet files or an ImageFolder."
        ) from None
    column = "label" if "label" in table.column_names else "fine_label"
    image = "image" if "image" in table.column_names else "img"
    classes = list(table.features[column].names)
    return [load_image(i) for i in table[image]], np.array(table[column]), classes


def held_out(labelled: Labelled) -> tuple[Labelled, Labelled]:
    """Split a training set into (trained on, held out): the last tenth, 2,000 at most; 137 digits.

    Raises:
        InputError: fewer than two images.
    """
    n = len(labelled.labels)
    if n < 2:
        raise InputError(
            f"{labelled.name} has {n} training image{'s' * (n != 1)}; a recipe needs at least 2, "
            "since it holds some out."
        )
    cut = n - HELD_OUT.get(labelled.name, min(2000, max(1, n // 10)))
    return labelled.subset(slice(0, cut)), labelled.subset(slice(cut, None))


def all_captions(sets: list[Labelled]) -> list[str]:
    """Every caption that training can draw."""
    groups = [group for s in sets for group in (*s.captions(), *s.contrasts)]
    return sorted({text for group in groups for text in group})
