"""`diffzero models` and `diffzero methods`: what there is."""

from __future__ import annotations

from typing import Any

from .console import print_table


def models() -> None:
    """List the models that have a card."""
    from ..loading import cards

    rows = [
        (c.name, c.family, "bundled" if c.bundled else c.source, c.licence, "\n".join(c.accuracy))
        for c in cards().values()
    ]
    print_table(["model", "family", "where", "licence", "measured"], rows)


def methods() -> None:
    """List the methods: what each needs and costs."""
    from ..methods import METHODS, method_class

    rows = [(name, *described(method_class(name))) for name in METHODS]
    header = ["method", "class", "what", "needs", "cost"]
    shown = [i for i, name in enumerate(header) if name != "needs" or any(r[i] for r in rows)]
    print_table([header[i] for i in shown], [tuple(row[i] for i in shown) for row in rows])


def described(cls: type) -> tuple[str, str, str, str]:
    """Class name, what it does, what it needs (if it says so) and what it costs."""
    parts = [" ".join(part.split()) for part in (cls.__doc__ or "").split("\n\n")]
    written = next((p.removeprefix("Cost: ") for p in parts if p.startswith("Cost:")), "")
    cost: Any = getattr(cls, "cost", written)
    return cls.__name__, parts[0], str(getattr(cls, "needs", "")), str(cost)
