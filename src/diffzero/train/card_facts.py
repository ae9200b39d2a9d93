"""What the cards of all recipes say alike: terms of the data, licence of the weights, machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from ..evaluate.config import machine
from ..models.cards import card_of_folder, cards
from . import parallel

LICENCE = "Apache-2.0"  # of what diffzero's own recipes make of the sets below

TERMS = {  # of the sets that the bundled models learned from
    "fashion-mnist": "Fashion-MNIST is MIT-licensed",
    "digits": "scikit-learn's digits are BSD-3",
    "cifar10": "CIFAR's authors state no terms",
    "cifar100": "CIFAR's authors state no terms",
    "scenes": "scenes are diffzero's own",
}


def terms(names: Sequence[str]) -> str:
    """The terms of data sets, one phrase each, as the end of a sentence."""
    known = dict.fromkeys(TERMS[name] for name in names if name in TERMS)
    own = [name for name in names if name not in TERMS]
    return "; ".join([*known, *(f"of {name} they are not known here" for name in own)])


def licence(names: Sequence[str], init: str | None = None) -> str | None:
    """The licence of weights learned from these sets; None where whoever trained must state it.

    Args:
        names: Of the sets.
        init: The model that training started from, if any: a card's name or a folder.
    """
    if init is not None:
        own = cards().get(init) or card_of_folder(Path(init), "", name=init)
        if own.licence != LICENCE:
            return None
    return LICENCE if all(name in TERMS for name in names) else None


def licence_line(names: Sequence[str], init: str | None = None) -> str:
    """The card's line about it; see `licence`."""
    own = "yours to state, here and as `licence` in `card.yaml`"
    return f"* **Licence**: {licence(names, init) or own}. Weights are fp16 safetensors."


def place(device: str) -> str:
    """The processor that numbers were measured on, as part of a sentence.

    Args:
        device: `cpu` or `cuda`.
    """
    facts = machine(torch.device(device))
    if facts["gpu"]:
        return str(facts["gpu"])
    n = facts["threads"]
    return f"{n} thread{'s' * (n > 1)} of a CPU ({facts['cpu']})"


def places(device: str) -> str:
    """The same for the training, which may run in several processes."""
    n = parallel.asked()
    return place(device) if n == 1 else f"{n} processes, each on {place(device)}"
