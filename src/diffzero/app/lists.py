"""`diffzero models` and `diffzero methods`: what there is."""

from __future__ import annotations

from typing import Any

from .console import print_table


def models() -> None:
    """List the models that have a card."""
    from ..models.cards import cards

    rows = [
        (c.name, c.family, "bundled" if c.bundled else c.source, c.licence, "\n".join(c.accuracy))
        for c in cards().values()
    ]
    print_table(["model", "family", "where", "licence", "measured"], rows)


def methods() -> None:
    """List the methods: what each needs and costs."""
    from ..methods import METHODS, method_class

    rows = [(name, *described(method_class(name))) for name in METHODS]
    print_table(["method", "class", "what", "needs", "evaluations per image"], rows)


def described(cls: Any) -> tuple[str, str, str, str]:
    """Class name, what it does, what it needs and what it costs."""
    what = (cls.__doc__ or "").split("\n\n")[0]
    return cls.__name__, " ".join(what.split()), cls.needs, cls.cost
