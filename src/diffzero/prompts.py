"""Labels and templates: what the user says, checked, and the prompts made of it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any, Protocol

from .errors import InputError


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
        labels: The label set.
        least: The smallest number of them that makes sense.

    Raises:
        InputError: a bare string, fewer than `least`, blank or repeated labels.
    """
    if isinstance(labels, str):
        raise InputError(
            f"Labels are a list of words; got the single string {labels!r}. "
            f"Write {[w.strip() for w in labels.split(',')]!r}."
        )
    names = [str(label) for label in labels]
    if not names:
        raise InputError("The list of labels is empty. Give at least two words.")
    for position, name in enumerate(names):
        if not name.strip():
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


def check_templates(template: str | Sequence[str] | None, default: str) -> list[str]:
    """Templates as a list; `default` if None.

    Raises:
        InputError: no template, or one without exactly one `{}`.
    """
    templates = [template or default] if isinstance(template, str | None) else list(template)
    if not templates:
        raise InputError("The list of templates is empty. Give at least one, such as 'a {}'.")
    for one in templates:
        if one.count("{}") != 1:
            raise InputError(
                f"A template holds one {{}} where the label goes; got {one!r}. "
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
    unknown = sorted({w for label in labels for w in unknown_words(reader, label)})
    if unknown:
        warnings.warn(
            f"{reader.name} never saw the words {', '.join(unknown)} in training; labels with "
            "them are guesses. It knows the words of its model card.",
            stacklevel=2,
        )


_ARTICLE = re.compile(r"(a|an|the)\s", re.IGNORECASE)
_BEFORE_LABEL = re.compile(r"\b(a|an|the)\s+\{\}", re.IGNORECASE)


def unknown_words(reader: Reader, label: str) -> list[str]:
    """Words of a label that a model with a closed vocabulary never saw."""
    if reader.vocabulary is None:
        return []
    return [w for w in re.findall(r"[^\W\d_]+|\d", label.lower()) if w not in reader.vocabulary]
