"""The bundled sample: scikit-learn's handwritten digits."""

from __future__ import annotations

import numpy as np

from ..errors import InputError
from .dataset import Dataset, Example

Part = tuple[np.ndarray, np.ndarray]


def digits_split() -> tuple[Part, Part]:
    """scikit-learn's digits, in the parts that the bundled models were and were not trained on.

    Returns:
        Images and labels to train on, uint8 `[1437, 8, 8, 3]` in 0..255 and int64 `[1437]`, and
        those held out, `[360, 8, 8, 3]` and `[360]`.
    """
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


def open_digits(split: str | None, names: list[str]) -> Dataset:
    """The digits as a data set.

    Args:
        split: `train` or `test`; if None, `test`.
        names: Ten class names.

    Raises:
        InputError: another split.
    """
    train, test = digits_split()
    if split not in (None, "test", "train"):
        raise InputError(f"digits has the splits train and test; got {split!r}.")
    images, labels = train if split == "train" else test
    part = split or "test"
    examples = [Example(f"{part}#{i}", names[y], i) for i, y in enumerate(labels)]
    return Dataset("digits", "digits", part, names, examples, images.__getitem__)
