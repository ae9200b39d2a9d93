"""Class names and templates of well-known data sets, as data files in `sets/`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import yaml

from ..errors import InputError
from ..options import short
from ..prompts import check_labels
from .word_lists import read_phrases, read_words

SETS = Path(__file__).parent / "sets"


@dataclass(frozen=True)
class ClassSet:
    """The words of a data set.

    Attributes:
        name: What `--classes` and `--templates` take.
        title: What people call it.
        order: What the order of the classes follows.
        classes: One word or phrase per class.
        templates: Prompts with `{}` for the class.
        hub: Ids of hub data sets that have these labels in this order.
        aliases: Other spellings that data use, by class.
    """

    name: str
    title: str
    order: str
    classes: list[str]
    templates: list[str]
    hub: list[str] = field(default_factory=list)
    aliases: dict[str, list[str]] = field(default_factory=dict)


def known_sets() -> list[str]:
    """Names of the bundled class sets."""
    return sorted(p.stem for p in SETS.glob("*.yaml"))


def class_set(name: str) -> ClassSet:
    """A bundled class set.

    Raises:
        InputError: an unknown name.
    """
    path = SETS / f"{name}.yaml"
    if name not in known_sets():
        raise InputError(f"No class set {name!r}; there are {', '.join(known_sets())}.")
    return ClassSet(name=name, **yaml.safe_load(path.read_text(encoding="utf-8")))


def read_names(given: str) -> ClassSet:
    """A bundled class set, or a text file with one name per line.

    Raises:
        InputError: neither, or unusable names.
    """
    if given in known_sets():
        return class_set(given)
    words = read_words(_file(given, "class names", "--classes"))
    return ClassSet(given, given, "of the file", check_labels(words), [])


def set_of_hub(source: str) -> ClassSet | None:
    """The class set that belongs to a hub id, if there is one."""
    return next((s for s in map(class_set, known_sets()) if source in s.hub), None)


def read_templates(given: list[str] | None, model_default: str) -> list[str] | None:
    """Templates from prompts with `{}`, from a class set's name, or from a file of prompts.

    Raises:
        InputError: something that is none of these.
    """
    if not given:
        return None
    if len(given) > 1 or "{}" in given[0]:
        return list(given)
    if given[0] in known_sets():
        return class_set(given[0]).templates or [model_default]
    return read_phrases(_file(given[0], "templates", "--template"))


def _file(given: str, what: str, option: str) -> Path:
    """The path of a file that is there.

    Raises:
        InputError: there is none.
    """
    path = Path(given)
    try:
        usable = path.exists() and not path.is_dir()
    except (OSError, ValueError):  # too long for a name, or a text that is none
        usable = False
    if not usable:
        raise InputError(
            f"{option} {short(given)}: neither a readable file of {what}, one per line, nor "
            f"one of {', '.join(known_sets())}."
        )
    return path
