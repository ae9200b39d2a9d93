"""Weights that are there and say nothing: the blanks of a download that was never finished.

Programs that fetch a file in pieces first reserve its whole length. What they did not get to is
zeros, in a file of the right size with a sound header. Networks have blank matrices by right, too:
those that training begins at zero and that were never trained on, such as the connections that
control adds to every block. They are blank in all places that they stand in, whereas what a
download lacks is there in other blocks.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any
from zlib import crc32

import torch
from torch import Tensor

from ..errors import InputError, plain

SAMPLED = 256  # numbers of a tensor that are looked at first
LEAST = 16  # numbers of a tensor that may well be alike by chance below
ALLOWED = 0.01  # share of a network's matrices that may be blank, for those that train some so
FEW = 3  # that may be in a network of few matrices
NOTHING = 1e-30  # what halves and doubles are when they are read as each other


def checksum(network: Any, start: int = 0) -> int:
    """CRC-32 of every weight of a network, going on from that of others."""
    for weight in network.state_dict().values():
        flat = weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        start = crc32(flat.numpy(), start)
    return start


def check_filled(networks: Mapping[str, Any]) -> None:
    """Refuse networks of which matrices hold one number throughout, that should not.

    Of matrices that have one place each in several blocks, and are blank in all of them, one
    counts.

    Args:
        networks: The parts that have weights, by name.

    Raises:
        InputError: naming the part and its blank tensors; weights that are not in memory.
    """
    for part, network in networks.items():
        pairs = _matrices(network)
        if lost := [name for name, tensor in pairs if tensor.is_meta]:
            raise InputError(
                f"its {part} has no numbers ({lost[0]} is on the device meta); load its weights."
            )
        blank = [name for name, tensor in pairs if _is_blank(tensor)]
        if 2 * len(blank) > len(pairs) or _counted(blank, pairs) > max(FEW, ALLOWED * len(pairs)):
            shown = ", ".join(plain(name)[:100] for name in blank[:3])
            raise InputError(
                f"{len(blank)} of {len(pairs)} matrices of its {part} hold one number throughout "
                f"({shown}{', ...' if len(blank) > 3 else ''}), as files do that were not fetched "
                "to their end; fetch it again."
            )


def _matrices(network: Any) -> list[tuple[str, Tensor]]:
    """A network's weights that training changes, by name: no scale or bias, of numbers that may
    well be alike, no adapter beside a layer, which begins at zero, and no tensor of a quantiser's
    own kind."""
    named = dict(network.named_parameters())
    # An adapted layer is kept whole within what stands in its place, whatever the adapter's kind.
    adapted = {name.partition(".base_layer.")[0] for name in named if ".base_layer." in name}

    def beside_a_layer(name: str) -> bool:
        parts = name.split(".")
        above = (".".join(parts[:i]) for i in range(1, len(parts)))
        return ".base_layer." not in name and not adapted.isdisjoint(above)

    return [(n, t.detach()) for n, t in named.items() if _is_matrix(t) and not beside_a_layer(n)]


def _is_matrix(tensor: Any) -> bool:
    usual = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.is_floating_point()
    axes = sum(side > 1 for side in tensor.shape)  # of a scale by channel, one
    return usual and axes > 1 and tensor.numel() >= LEAST


def _counted(blank: list[str], pairs: list[tuple[str, Tensor]]) -> int:
    """How many blanks tell of damage: all of a place that is filled in some block, else one."""
    places: dict[str, list[bool]] = defaultdict(list)
    for name, _ in pairs:
        places[re.sub(r"\d+", "#", name)].append(name in blank)
    return sum(1 if all(found) else sum(found) for found in places.values() if any(found))


def _is_blank(tensor: Tensor) -> bool:
    """Whether all numbers of a tensor are alike, or next to nothing."""
    flat = tensor.reshape(-1)
    step = -(-len(flat) // SAMPLED)
    return _alike(flat[::step]) and _alike(flat)


def _alike(numbers: Tensor) -> bool:
    low, high = numbers.float().aminmax()
    return bool(low == high) or bool(max(-low, high) < NOTHING)
