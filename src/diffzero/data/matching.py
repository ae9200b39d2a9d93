"""Which class of the data is which of the chosen names."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from ..errors import InputError
from .names import ClassSet


def composed(text: str) -> str:
    """Text in Unicode's composed form (NFC), in which equal-looking names are equal."""
    return unicodedata.normalize("NFC", text)


def normal(name: str) -> str:
    """A name without case, punctuation and underscores, for comparison."""
    kept = (
        c if c.isalnum() or unicodedata.category(c)[0] == "M" else " "
        for c in composed(name).lower()
    )
    return " ".join("".join(kept).split())


class Spellings:
    """Finds names by the spellings people use for them.

    Args:
        table: Pairs of a spelling and its name, of equal spellings the last counts. One that,
            without case and punctuation, is that of two names is found as it is written only.
    """

    def __init__(self, table: Iterable[tuple[str, str]]) -> None:
        self._exact: dict[str, str] = {}
        self._loose: dict[str, set[str]] = {}
        for spelling, name in table:
            self._exact[composed(spelling)] = name
            self._loose.setdefault(normal(spelling), set()).add(name)

    def find(self, given: str) -> str | None:
        """The name that is spelled so, None if there is none."""
        exact = self._exact.get(composed(given))
        if exact is not None:
            return exact
        key = normal(given)
        found = self._loose.get(key, set()) if key else set()
        return next(iter(found)) if len(found) == 1 else None


def match_names(
    declared: list[str],
    chosen: ClassSet,
    ordered: bool,
    source: str,
) -> dict[str, str | None]:
    """For every class of the data the name that prompts use, or None for a class left out.

    Names are matched by spelling. Only where not all are spelled alike does the order count: if
    the data declare an order of their own, or their classes are numbers, as many as there are
    names.

    Args:
        declared: Classes of the data, in their order.
        chosen: The names to use, and their other spellings.
        ordered: Whether the order of `declared` is the data's own (a schema's), not the alphabet.
        source: Of the data, for the message.

    Raises:
        InputError: the two cannot be brought together, or spelling contradicts the order.
    """
    classes, found = chosen.classes, _spelled(declared, chosen)
    hits = sum(v is not None for v in found.values())
    if hits == len(declared):
        return found
    if ordered and len(declared) == len(classes):
        return _by_order(declared, classes, found, source)
    if hits == 0 and all(d.isdecimal() for d in declared):
        return _by_number(declared, classes, source)
    if hits == 0:
        raise InputError(
            f"{source}: none of its classes ({some(declared)}) is among the class names "
            f"({some(classes)}). Give the names of this data with --classes."
        )
    return found


def _spelled(declared: Iterable[str], chosen: ClassSet) -> dict[str, str | None]:
    """For every class of the data the name that is spelled like it, or None."""
    aliases = [(spelling, name) for name, own in chosen.aliases.items() for spelling in own]
    spellings = Spellings([*aliases, *((name, name) for name in chosen.classes)])
    return {d: spellings.find(d) for d in declared}


def spelled_alike(declared: Iterable[str], chosen: ClassSet) -> bool:
    """Whether every class of the data is spelled like one of the names."""
    return None not in _spelled(declared, chosen).values()


def _by_order(
    declared: list[str], classes: list[str], found: dict[str, str | None], source: str
) -> dict[str, str | None]:
    """Each class by its place, unless a class that is spelled like a name lies at another."""
    for place, own in enumerate(declared):
        name = found[own]
        if name is not None and name != classes[place]:
            raise InputError(
                f"{source}: its class {own!r} is number {place}, and {name!r} is number "
                f"{classes.index(name)} of the class names, while other classes are spelled like "
                "no name, so neither spelling nor order tells which is which. Give the names in "
                f"the order of the data ({some(declared)}) with --classes."
            )
    return dict(zip(declared, classes, strict=True))


def _by_number(declared: list[str], classes: list[str], source: str) -> dict[str, str | None]:
    """Classes that are numbers without a gap, from 0 or 1, as the names in their order."""
    numbers = sorted(declared, key=int)
    first = int(numbers[0])
    whole = [int(n) for n in numbers] == list(range(first, first + len(classes)))
    if first not in (0, 1) or not whole:
        raise InputError(
            f"{source}: its {len(declared)} classes are numbers ({some(numbers)}), and "
            f"{len(classes)} class names were given ({some(classes)}). Numbers stand for names "
            f"only where they run from 0 to {len(classes) - 1} or from 1 to {len(classes)}, each "
            "once. Name the classes in the data, or give as many names as there are numbers with "
            "--classes."
        )
    return dict(zip(numbers, classes, strict=True))


def some(names: list[str]) -> str:
    """The first names of a list, for a message."""
    return ", ".join(names[:4]) + (f", ... {len(names)} in all" if len(names) > 4 else "")
