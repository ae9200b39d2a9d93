"""Labels and templates: what the user says, checked, and the prompts made of it."""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from enum import Enum
from itertools import islice
from typing import Any, Protocol

import numpy as np

from .errors import InputError
from .options import short
from .words import bare

MOST_LABELS, MOST_CHARACTERS = 100_000, 1_000


class Reader(Protocol):
    """The part of a model that reads prompts."""

    name: str
    vocabulary: frozenset[str] | None

    def signature(self, prompts: list[str]) -> list[Any]:
        """Equal for two prompts exactly when the model cannot tell them apart."""
        ...


def check_labels(labels: Any, *, least: int = 2) -> list[str]:
    """Labels as a list of strings.

    Args:
        labels: The label set: words, or whole numbers, in an order.
        least: The smallest number of them that makes sense.

    Returns:
        The labels in Unicode's composed form (NFC).

    Raises:
        InputError: no collection in an order, fewer than `least`, missing, blank or repeated
            labels, or labels that are neither words nor whole numbers.
    """
    names = [_name(label, i) for i, label in enumerate(label_list(labels))]
    if not names:
        raise InputError("The list of labels is empty. Give at least two words.")
    for position, name in enumerate(names):
        if not bare(name):
            raise InputError(f"Label {position + 1} of {len(names)} is blank. Remove or fill it.")
    folded = [" ".join(n.lower().split()) for n in names]
    repeated = sorted({n for n in names if folded.count(" ".join(n.lower().split())) > 1})
    if repeated:
        raise InputError(f"Labels repeat: {', '.join(map(repr, repeated))}. Give each label once.")
    if len(names) < least:
        raise InputError(
            f"Only one label given ({names[0]!r}): there is nothing to choose between. "
            "Add another, for example what it could be mistaken for."
        )
    return names


def label_list(labels: Any) -> list[Any]:
    """A collection of labels as a list, whatever they are.

    Raises:
        InputError: one text, nothing to go through, nothing in an order, a table, or too many.
    """
    if isinstance(labels, str):
        words = [w.strip() for w in labels[:200].split(",")]
        raise InputError(
            f"Labels are a list of words; got the single string {short(labels)}. "
            f"Write {short(words)}."
        )
    if isinstance(labels, set | frozenset | Mapping):
        raise InputError(
            f"Labels are a list of words in an order, which a {type(labels).__name__} has not; "
            f"got {short(labels)}. Give a list."
        )
    if getattr(labels, "ndim", 1) != 1:
        raise InputError(
            f"Labels are one list of words; got {type(labels).__name__} of shape "
            f"{short(getattr(labels, 'shape', '?'))}. Several labels per image are not read."
        )
    try:
        if isinstance(labels, bytes | bytearray | memoryview):
            raise TypeError
        found = list(islice(labels, MOST_LABELS + 1))
    except Exception:  # whatever going through it raises, it is no list
        raise InputError(f"Labels are a list of words; got {short(labels)}.") from None
    if len(found) > MOST_LABELS:
        raise InputError(f"At most {MOST_LABELS:,} labels are read; these are more.")
    return found


def distinct(labels: Any, images: Any = None) -> list[Any]:
    """The sorted distinct labels of images.

    Args:
        labels: One label per image.
        images: The images, for their number.

    Raises:
        InputError: missing labels, several per image, or labels of different kinds.
    """
    if getattr(labels, "ndim", 1) == 2 and getattr(labels, "shape", ())[1:] == (1,):
        labels = np.asarray(labels).ravel()  # a column is one label per image
    found = label_list(labels)
    check_each(found)
    if isinstance(images, list | tuple) and len(images) != len(found):
        raise InputError(
            f"y holds one label per image; got {len(found)} labels for {len(images)} images."
        )
    if len({isinstance(label, str) for label in found}) > 1:
        raise InputError("y holds words and numbers side by side; make them one kind.")
    return sorted(set(found))


def check_each(labels: Sequence[Any]) -> None:
    """Refuse labels of images that are no words or whole numbers.

    Raises:
        InputError: naming the first.
    """
    for position, label in enumerate(labels):
        _name(label, position)


def _name(label: Any, position: int) -> str:
    """A label as words.

    Raises:
        InputError: a missing one, or what is neither a text nor a whole number.
    """
    if isinstance(label, str):
        name = str(label.value) if isinstance(label, Enum) else str(label)
        if not is_text(name):
            raise InputError(
                f"Label {position + 1} is no word: it has {len(name):,} characters, or some that "
                f"are no text; got {short(name)}."
            )
        return composed(name)
    if isinstance(label, int | np.integer) and not isinstance(label, bool):
        if abs(int(label)) < 10**18:
            return str(int(label))
    elif _is_missing(label):
        raise InputError(
            f"Label {position + 1} is missing ({short(label)}), and a missing label is no class. "
            "Drop it first."
        )
    raise InputError(
        f"Label {position + 1} is a {type(label).__name__}: labels are words or whole numbers; "
        f"got {short(label)}. Several labels per image are not read."
    )


def is_text(name: str) -> bool:
    """Whether a tokenizer can be given it: of bounded length, without halves of characters and
    without control characters but those that part words."""
    return len(name) <= MOST_CHARACTERS and not any(
        unicodedata.category(c) in ("Cs", "Cc") and not c.isspace() for c in name
    )


def _is_missing(label: Any) -> bool:
    """None, NaN of any library, NaT, or a masked value."""
    if label is None or label is np.ma.masked or type(label).__name__ in ("NAType", "NaTType"):
        return True
    real = isinstance(label, float | np.floating)
    return (real and bool(np.isnan(label))) or (isinstance(label, np.generic) and label != label)


def composed(name: Any) -> Any:
    """A text in Unicode's composed form (NFC); anything else as it is."""
    return unicodedata.normalize("NFC", name) if isinstance(name, str) else name


def check_templates(template: str | Sequence[str] | None, default: str) -> list[str]:
    """Templates as a list; `default` if None.

    Raises:
        InputError: no template, or one without exactly one `{}`.
    """
    template = default if template is None else template
    templates = [template] if isinstance(template, str) else list(template)
    if not templates:
        raise InputError("The list of templates is empty. Give at least one, such as 'a {}'.")
    for one in templates:
        if not isinstance(one, str) or not is_text(one):
            raise InputError(
                f"A template is a text of at most {MOST_CHARACTERS:,} characters; got "
                f"{short(one)}."
            )
        if one.count("{}") != 1:
            raise InputError(
                f"A template holds one {{}} where the label goes; got {short(one)}. "
                "Write for example 'a photo of a {}'."
            )
    return templates


def fill(templates: Sequence[str], labels: Sequence[str]) -> list[str]:
    """Every template with every label: all templates of the first label, then of the second."""
    return [t.replace("{}", label) for label in labels for t in templates]


def check_readable(reader: Reader, labels: Sequence[str], templates: Sequence[str]) -> None:
    """Make sure that the model can tell the labels apart.

    Raises:
        InputError: two labels become the same tokens.

    Warns:
        UserWarning: a bundled model meets words that it was not trained with, or template and
            labels both bring an article.
    """
    seen: dict[Any, str] = {}
    for label, signature in zip(
        labels, reader.signature(fill(templates[:1], labels)), strict=True
    ):
        other = seen.setdefault(signature, label)
        if other is not label:
            raise InputError(
                f"{reader.name} reads the labels {other!r} and {label!r} as the same tokens. "
                "Reword one of them."
            )
    if any(_ARTICLE.match(label) for label in labels):
        twice = [one for one in templates if _BEFORE_LABEL.search(one)]
        if twice:
            warnings.warn(
                f"Labels that begin with an article get another from the template {twice[0]!r}; "
                "for whole captions give the template '{}'.",
                stacklevel=2,
            )
    spoken = {word for label in labels for word in _SPOKEN.findall(label.lower())}
    unknown = sorted(word for word in spoken if unknown_words(reader, word))
    if unknown:
        warnings.warn(
            f"{reader.name} never saw the words {', '.join(unknown)} in training; labels with "
            "them are guesses. `diffzero models NAME` lists the words that a model knows.",
            stacklevel=2,
        )


_SPOKEN = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*|\S")  # colt's is one word
_ARTICLE = re.compile(r"(a|an|the)\s", re.IGNORECASE)
_BEFORE_LABEL = re.compile(r"\b(a|an|the)\s+\{\}", re.IGNORECASE)


def unknown_words(reader: Reader, label: str) -> list[str]:
    """Words of a label that a model with a closed vocabulary never saw."""
    if reader.vocabulary is None:
        return []
    return [w for w in words_in(label) if w not in reader.vocabulary]


def words_in(label: str) -> list[str]:
    """The words of a label in lower case; a digit, a sign or an emoji is one too."""
    return re.findall(r"[^\W\d_]+|\S", label.lower())
