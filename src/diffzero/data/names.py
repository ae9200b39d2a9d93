"""Class names and templates of well-known data sets, as data files in `sets/`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError
from ..prompts import check_labels

SETS = Path(__file__).parent / "sets"


@dataclass(frozen=True)
class ClassSet:
    """The words of a data set.

    Attributes:
        name: What `--classes` and `--templates` take.
        title: What people call it.
        order: What the order of the classes follows.
        classes: One word or phrase a class.
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
    """A bundled class set, or a text file with one name a line.

    Raises:
        InputError: neither, or unusable names.
    """
    if given in known_sets():
        return class_set(given)
    lines = _lines(given, "class names", "--classes")
    return ClassSet(given, given, "of the file", check_labels(lines), [])


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
    return _lines(given[0], "templates", "--template")


def _lines(given: str, what: str, option: str) -> list[str]:
    path = Path(given)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise InputError(
            f"{option} {given}: neither a readable file of {what}, one a line, nor one of "
            f"{', '.join(known_sets())}."
        ) from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def normal(name: str) -> str:
    """A name without case, punctuation and underscores, for comparison."""
    return " ".join(re.sub(r"[\W_]+", " ", name.lower()).split())


def match_names(declared: list[str], chosen: ClassSet, ordered: bool, source: str) -> dict:
    """For every class of the data the name that prompts use, or None for a class left out.

    Args:
        declared: Classes of the data, in their order.
        chosen: The names to use.
        ordered: Whether the order of `declared` is the data's own (a schema's), not the alphabet.
        source: Of the data, for the message.

    Raises:
        InputError: the two cannot be brought together.
    """
    table: dict[str, str] = {}
    for name in chosen.classes:
        for spelling in [name, *chosen.aliases.get(name, [])]:
            table[normal(spelling)] = name
    found: dict[str, Any] = {d: table.get(normal(d)) for d in declared}
    hits = sum(v is not None for v in found.values())
    same_length = len(declared) == len(chosen.classes)
    if hits < len(declared) and ordered and same_length:
        return dict(zip(declared, chosen.classes, strict=True))
    if hits == 0:
        raise InputError(
            f"{source}: none of its classes ({_some(declared)}) is among the class names "
            f"({_some(chosen.classes)}). Give the names of this data with --classes."
        )
    return found


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f", ... {len(names)} in all" if len(names) > 4 else "")
