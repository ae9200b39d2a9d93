"""`diffzero fetch`: a model onto this machine, checked."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError
from . import options
from .advice import needs
from .console import note, say

if TYPE_CHECKING:
    from ..models.cards import Card

SHA256 = re.compile(r"[0-9a-f]{64}")
SPARE = 1.1  # times the size of what is fetched, to be free on the disk


def fetch(
    model: Annotated[str, typer.Argument(help="A card's name, or a hub id.")],
    allow_pickle: options.AllowPickle = False,
) -> None:
    """Fetch a model from the hub, with progress, and check every file of weights."""
    from ..models.cards import Card, cards
    from ..models.checkpoint import check_folder, family_of_folder
    from ..models.hub import fetch_card

    known = cards()
    if model not in known and (model.count("/") != 1 or model.startswith((".", "/", "~"))):
        raise InputError(
            f"No model {model!r} to fetch: give one of {', '.join(known)}, or a hub id of the "
            "form owner/name."
        )
    card = known.get(model) or Card(name=model, family="", source=model)
    if card.bundled:
        say(f"{model} comes with diffzero: {card.source}")
        return
    check_room(card)
    note(f"{model}: {needs(card)}, from https://huggingface.co/{card.source}")
    folder = fetch_card(card, allow_pickle)
    check_folder(folder, family_of_folder(folder), allow_pickle)
    note(f"{checked(folder)} files of weights are what the hub says they are")
    say(str(folder))


def check_room(card: Card) -> None:
    """Refuse a model that the disk has no room for.

    Raises:
        InputError: naming what is free.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    place = Path(HF_HUB_CACHE)
    while not place.is_dir():
        place = place.parent
    free = shutil.disk_usage(place).free / 1e9
    if card.gigabytes and free < SPARE * card.gigabytes:
        raise InputError(
            f"{card.name} takes {card.gigabytes:g} GB, and {place} has {free:.1f} GB free. Free "
            "some space, or let HF_HOME name a folder on a larger disk."
        )


def checked(folder: Path) -> int:
    """How many files have the SHA-256 that their name in the hub's cache promises.

    Raises:
        InputError: a file that has another.
    """
    found = 0
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        blob = path.resolve()
        if not SHA256.fullmatch(blob.name):
            continue
        with blob.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != blob.name:
            raise InputError(
                f"{path}: damaged (its SHA-256 is not the hub's). Delete {blob} and fetch again."
            )
        found += 1
    return found
