"""Which way a network's convolutions go while it trains on a CPU.

torch leaves them to oneDNN. Two ways are faster for wide kernels of 3 x 3 on few pixels, as the
networks of latents have them, each on its kind of CPU: Winograd's in float32, and gradients by
patches in bfloat16 (`winograd.py` and `patches.py` say what and why).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from . import patches, winograd
from .loop import bfloat16_pays

FEWEST = 64  # channels: moving pixels about costs as much for each, products more the more there


@contextmanager
def faster_convolutions(module: nn.Module) -> Iterator[None]:
    """Let the module's wide convolutions of 3 x 3 go the faster way on this CPU.

    The weights, their names and, but for rounding, every answer and gradient stay what they are.
    Nothing is done on a GPU, nor under several threads: Winograd's many small products gain
    nothing of them, and of gradients by patches that was not measured.
    """
    pays = next(module.parameters()).device.type == "cpu" and torch.get_num_threads() == 1
    way = patches.Convolution if bfloat16_pays() else winograd.Convolution
    chosen = [m for m in module.modules() if pays and _is_wide(m)]
    for convolution in chosen:
        convolution.__class__ = way
    try:
        yield
    finally:
        for convolution in chosen:
            convolution.__class__ = nn.Conv2d


def _is_wide(module: nn.Module) -> bool:
    return (
        type(module) is nn.Conv2d
        and module.kernel_size == (3, 3)
        and module.stride == module.padding == module.dilation == (1, 1)
        and module.groups == 1
        and module.padding_mode == "zeros"
        and min(module.in_channels, module.out_channels) >= FEWEST
    )
