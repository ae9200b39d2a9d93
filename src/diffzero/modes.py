"""Networks that score while they train: in evaluation mode for so long, then as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def evaluating(*networks: Any) -> Iterator[None]:
    """Modules without dropout and the like; each submodule's mode is put back afterwards.

    Args:
        networks: What is no module, such as a tokenizer, is left alone.
    """
    training = [
        module
        for network in networks
        if getattr(network, "training", False)
        for module in network.modules()
        if module.training
    ]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
