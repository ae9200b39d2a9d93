"""`diffzero models` and `diffzero methods`: what there is, in short, and each one whole."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from ..options import nearest, short
from .advice import ROOM, needs, rounded
from .console import print_table, say

if TYPE_CHECKING:
    from ..models.cards import Card

Name = Annotated[str | None, typer.Argument(help="One of them, to see all that is known of it.")]
MB = 10**6


def models(name: Name = None) -> None:
    """List the models that have a card, or show one card whole."""
    from ..models.cards import cards

    known = cards()
    if name is not None:
        _whole_card(_chosen(name, known, "model"))
        return
    own = [c for c in known.values() if c.bundled]
    others = sorted((c for c in known.values() if not c.bundled), key=lambda c: c.gigabytes or 0)
    say("Bundled, for any CPU:\n")
    for c in own:
        first = f"{c.name:14} {size(c):>5}   "
        say(fill(c.knows, 80, initial_indent=first, subsequent_indent=" " * 23))
        say(f"{'':23}{best_accuracy(c)}")
    say("\nTo fetch over the internet; not measured here:\n")
    rows = [(c.name, size(c), memory(c), c.knows, licence(c)) for c in others]
    print_table(["model", "fetch", "needs", "knows", "licence"], rows, narrow=True)
    say("diffzero models NAME shows a card whole; fetch NAME gets what is not bundled.")


def methods(name: Name = None) -> None:
    """List the methods, or show what one does, takes and needs."""
    from ..methods import METHODS, method_class

    if name is not None:
        _chosen(name, METHODS, "method")
        _whole_method(name, method_class(name))
        return
    rows = [(n, described(method_class(n))[1], method_class(n).needs) for n in METHODS]
    print_table(["method", "what", "needs"], rows, narrow=True)
    say(
        "Without --method classify takes race, or elbo with --none, --multi, draws or\n"
        "several templates; evaluate takes elbo; and both take clip on a CLIP model.\n"
        "diffzero methods NAME shows its evaluations per image and its arguments."
    )


def _chosen(name: str, known: Any, kind: str) -> Any:
    if name not in known:
        raise InputError(f"No {kind} {short(name)}; {nearest(name, known)}{', '.join(known)}.")
    return known[name]


def size(card: Card) -> str:
    """Of a bundled model's files, or what is to be fetched."""
    if card.bundled:
        total = sum(p.stat().st_size for p in Path(card.source).rglob("*") if p.is_file())
        return f"{total / MB:.0f} MB"
    return f"{card.gigabytes:g} GB" if card.gigabytes else "not known"


def memory(card: Card) -> str:
    """What it runs on."""
    if card.bundled:
        return "any CPU"
    if not card.weights_gb:
        return "not known"
    return f"{rounded(ROOM * card.weights_gb)} {'RAM' if card.family == 'clip' else 'GPU'}"


def licence(card: Card) -> str:
    """A licence's name at the length that a table has room for."""
    return (
        card.licence.split(" (")[0]
        .split("; ")[0]
        .replace("CreativeML ", "")
        .replace(" License", "")
    )


def best_accuracy(card: Card) -> str:
    """The measured accuracy with the highest lower end, without its circumstances."""
    found = []
    for line in card.accuracy:
        match = re.match(r"(.*): ([\d.]+ % \[([\d.]+), [\d.]+\] of [\d,]+)", line)
        if match:
            name = match[1].partition(" (")[0]
            found.append((float(match[3]), f"{match[2]} {name}"))
    return max(found)[1] if found else "not here"


def _whole_card(card: Card) -> None:
    source = "bundled" if card.bundled else f"https://huggingface.co/{card.source}"
    rows = [
        ("family", card.family),
        ("knows", card.knows),
        ("where", ", or ".join([source, *card.mirrors])),
        ("needs", needs(card)),
        ("size", size(card)),
        ("images", f"{card.resolution} pixels" if card.resolution else ""),
        ("licence", card.licence),
        ("prompt", card.template or ""),
        ("words", ", ".join(card.vocabulary or card.classes or ["any"])),
        ("calibrated", ", ".join(f"{t['method']} ({_draws(t)} draws)" for t in card.temperatures)),
        ("none below", "" if card.none_threshold is None else f"ratio {card.none_threshold:g}"),
        ("measured", "\n".join(card.accuracy) or "not here"),
    ]
    print_table([card.name, ""], [(name, value) for name, value in rows if value])
    if not card.bundled:
        say(f"diffzero fetch {card.name}")


def _draws(temperature: dict[str, Any]) -> str:
    return ", ".join(map(str, temperature["fitted"]))


def _whole_method(name: str, cls: Any) -> None:
    kind, what, needed, cost = described(cls)
    rows = [("does", what), ("class", f"diffzero.{kind}"), ("needs", needed),
            ("evaluations per image", cost)]  # fmt: skip
    print_table([name, ""], rows)
    say("--set takes:")
    for argument, text in arguments_of(cls).items():
        if argument != "backbone":  # that is --model
            say(f"    {argument}: {text}")


def arguments_of(cls: Any) -> dict[str, str]:
    """What each argument of a class is, as its docstring says, or that of the class it names."""
    from inspect import getdoc

    import diffzero

    listed = (getdoc(cls) or "").partition("Args:\n")[2].partition("\n\n")[0]
    found = dict(re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", listed, re.MULTILINE))
    for argument, text in found.items():
        if other := re.fullmatch(r"See `(\w+)`\.", text):
            found[argument] = arguments_of(getattr(diffzero, other[1])).get(argument, text)
    return found


def described(cls: Any) -> tuple[str, str, str, str]:
    """Class name, what it does, what it needs and what it costs."""
    what = (cls.__doc__ or "").split("\n\n")[0]
    return cls.__name__, " ".join(what.split()), cls.needs, cls.cost
