"""Parts of a data set (train, validation, test), told by the names of folders and files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError

# Kinds in the order that an evaluation looks for them, with the words that name them.
WORDS = {
    "test": {"test", "tests", "testing"},
    "validation": {"validation", "val", "valid", "validate", "dev", "development"},
    "eval": {"eval", "evaluation"},
    "train": {"train", "training", "trn"},
}
_ALL = set().union(*WORDS.values())
EVALUATED = ("test", "validation", "eval")
BESIDE = {"set", "sets", "split", "data", "dataset", "images", "image", "imgs", "img", "part"}


def kind_of(name: str) -> str | None:
    """The kind of part that a folder or file is named for, None if it is named for none.

    `Test`, `test_set`, `TestImages2`, `01-testing` are `test`; `testbed` is none.
    """
    kind, others = _told(name)
    return None if others else kind


def kinds_of(names: Sequence[str]) -> dict[str, str]:
    """The kinds of those names that are parts; each by itself, or by what it shares with others.

    `seg_train` beside `seg_test` is a part: the two differ in nothing else.
    """
    told = {name: _told(name) for name in names}
    found: dict[str, str] = {}
    for name, (kind, others) in told.items():
        if kind is None:
            continue
        twins = {k for k, own in told.values() if k is not None and own == others}
        if not others or len(twins) > 1:
            found[name] = kind
    return found


def named_for(name: str) -> str | None:
    """The kind of part that a word of a name says, whatever its other words: `test_hard` too."""
    return _told(name)[0]


def _told(name: str) -> tuple[str | None, tuple[str, ...]]:
    """The kind that a word of a name says, and the other words but those that say nothing."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = [w for w in re.split(r"[\W_\d]+", parted.lower()) if w]
    words = [w.removesuffix("set") if w.removesuffix("set") in _ALL else w for w in words]
    left = [w for w in words if w not in BESIDE]
    word = next((w for w in left if w in _ALL), None)
    if word is None:
        return None, tuple(left)
    left.remove(word)
    return next(kind for kind, own in WORDS.items() if word in own), tuple(left)


def choose_part(parts: Sequence[Path], split: str, root: Path) -> Path:
    """The part of this name, else the only one of its kind.

    Args:
        parts: What there is to choose from.
        split: As the user says it.
        root: Of the data, for messages.

    Raises:
        InputError: no such part, or several.
    """
    exact = next((p for p in parts if p.name == split), None)
    if exact is not None:
        return exact
    kind = kind_of(split)
    found = [p for p in parts if p.name.lower() == split.lower()]
    found = found or [p for p in parts if kind is not None and _told(p.name)[0] == kind]
    if len(found) == 1:
        return found[0]
    names = ", ".join(p.name for p in found or parts)
    if found:
        raise InputError(f"{root}: {split!r} may be {names}. Name one of them with --split.")
    there = f"its parts are {names}" if parts else "it is not divided into parts"
    raise InputError(f"{root}: has no part {split!r}; {there}. Change --split, or leave it out.")


def part_to_evaluate(parts: Sequence[Path], root: Path) -> Path:
    """The first of test, validation and eval there is.

    Raises:
        InputError: only parts to train on, or several of the first kind.
    """
    for kind in EVALUATED:
        found = [p for p in parts if _told(p.name)[0] == kind]
        plain = [p for p in found if p.name in (kind, "val", "valid")]
        if plain or len(found) == 1:
            return (plain or found)[0]
        if found:
            break
    names = ", ".join(p.name for p in parts)
    raise InputError(
        f"{root}: its folders are parts of a data set ({names}), not classes. Name the part to "
        "use with --split."
    )
