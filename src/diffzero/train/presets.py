"""Which size a recipe has: that for one CPU core, or that for a GPU."""

from __future__ import annotations

import torch

from ..errors import InputError

NAMES = ("cpu", "gpu")


def preset_of(device: str, preset: str | None) -> str:
    """The preset's name, the one made for the device if None was given.

    Args:
        device: Where the training is to run, `cpu` or `cuda`.
        preset: As the user gave it.

    Raises:
        InputError: an unknown name.
    """
    if preset is None:
        return "cpu" if torch.device(device).type == "cpu" else "gpu"
    if preset not in NAMES:
        raise InputError(f"preset must be one of {', '.join(NAMES)}; got {preset!r}.")
    return preset
