"""Weights that are there and say nothing: the blanks of a download that was never finished.

Programs that fetch a file in pieces first reserve its whole length. What they did not get to is
zeros, in a file of the right size with a sound header.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, plain

SAMPLED = 256  # numbers of a tensor that are looked at first
LEAST = 16  # numbers of a tensor that may well be alike by chance below
ALLOWED = 0.01  # share of a network's matrices that may be blank, for those that train some so
NOTHING = 1e-30  # what halves and doubles are when they are read as each other


def check_filled(networks: Mapping[str, Any]) -> None:
    """Refuse networks of which several matrices hold one number throughout.

    Args:
        networks: The parts that have weights, by name.

    Raises:
        InputError: naming the part and its blank tensors; weights that are not in memory.
    """
    for part, network in networks.items():
        pairs = [(n, t.detach()) for n, t in network.named_parameters() if _is_matrix(n, t)]
        if lost := [name for name, tensor in pairs if tensor.is_meta]:
            raise InputError(
                f"its {part} has no numbers ({lost[0]} is on the device meta); load its weights."
            )
        blank = [name for name, tensor in pairs if _is_blank(tensor)]
        if len(blank) > max(1, ALLOWED * len(pairs)):
            shown = ", ".join(plain(name)[:100] for name in blank[:3])
            raise InputError(
                f"{len(blank)} of {len(pairs)} matrices of its {part} hold one number throughout "
                f"({shown}{', ...' if len(blank) > 3 else ''}), as files do that were not fetched "
                "to their end; fetch it again."
            )


def _is_matrix(name: str, tensor: Any) -> bool:
    """Whether a tensor holds weights that training changes: no scale or bias, whose rows may well
    be alike, no adapter, which begins at zero, and no tensor of a quantiser's own kind."""
    usual = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.is_floating_point()
    return usual and tensor.ndim > 1 and tensor.numel() >= LEAST and "lora_" not in name


def _is_blank(tensor: Tensor) -> bool:
    """Whether all numbers of a tensor are alike, or next to nothing."""
    flat = tensor.reshape(-1)
    step = -(-len(flat) // SAMPLED)
    return _alike(flat[::step]) and _alike(flat)


def _alike(numbers: Tensor) -> bool:
    low, high = numbers.float().aminmax()
    return bool(low == high) or bool(max(-low, high) < NOTHING)
