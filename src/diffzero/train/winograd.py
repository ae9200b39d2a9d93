"""Convolutions of 3 x 3 by Winograd's minimal filtering, for training on a CPU in float32.

A tile of 4 x 4 of what a convolution answers hangs on 6 x 6 of what it was given. With d that tile
of the input and g the kernel, Winograd's F(4 x 4, 3 x 3) is

    Y = A^T [ sum over channels of (G g G^T) * (B^T d B) ] A,

36 products a tile and a pair of channels where the sum itself takes 144. Its three linear maps are
written here as Kronecker products, so that over all tiles and channels each is one product of
matrices, and the sum over channels is 36 of them. The gradient of the input is a convolution with
the turned kernel; that of the kernel is

    dL/dg = G^T [ sum over tiles of (B^T d B) * (A (dL/dY) A^T) ] G.

oneDNN's own convolutions multiply as fast as plain products of matrices in float32, so that fewer
products are what is left to gain: forwards and backwards about half of the time at 4 x 4 pixels, a
third at 8 x 8, a fifth of whole steps of `cifar10-ldm` (`benchmarks/train_step.py`).
`convolutions.py` says where it is used.

References:
    Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2015.
    https://arxiv.org/abs/1509.09308
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

TILE = 4
WIDEST = 16  # pixels: of 64 channels at 32 pixels a step took longer than oneDNN's


def _squared(rows: list[list[float]]) -> Tensor:
    """The map X -> M X M^T of matrices written in a row, float32."""
    matrix = torch.tensor(rows, dtype=torch.float64)
    return torch.kron(matrix, matrix).float()


INPUT = _squared(  # of B^T, [36, 36]
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
KERNEL = _squared(  # of G, [36, 9]
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
OUTPUT = _squared(  # of A^T, [16, 36]
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
)


def _tiles(x: Tensor, border: int) -> Tensor:
    """Every tile of `[b, c, h, w]` with a border of so many pixels, `[side^2, tiles * c]`."""
    b, c, h, w = x.shape
    side = TILE + 2 * border
    wide = functional.pad(x.permute(0, 2, 3, 1), (0, 0) + (border,) * 4).contiguous()
    image, row, pixel, channel = wide.stride()
    tiles = wide.as_strided(
        (side, side, b, h // TILE, w // TILE, c),
        (row, pixel, image, TILE * row, TILE * pixel, channel),
    )
    return tiles.reshape(side**2, -1)


def _transformed_input(x: Tensor) -> Tensor:
    """`B^T d B` of every tile, `[36, tiles, c]`."""
    return (INPUT @ _tiles(x, 1)).view(36, -1, x.shape[1])


def _convolved(transformed: Tensor, kernel: Tensor, size: torch.Size) -> Tensor:
    """Y of tiles that are transformed already, as `[b, c_out, h, w]` in channels_last.

    Args:
        transformed: `B^T d B`, `[36, tiles, c_in]`.
        kernel: g, `[c_out, c_in, 3, 3]`.
        size: Of the input, `(b, c_in, h, w)`.
    """
    b, c_in, h, w = size
    c_out = len(kernel)
    weights = (KERNEL @ kernel.permute(2, 3, 1, 0).reshape(9, -1)).view(36, c_in, c_out)
    y = OUTPUT @ torch.bmm(transformed, weights).view(36, -1)
    y = y.view(TILE, TILE, b, h // TILE, w // TILE, c_out).permute(2, 3, 0, 4, 1, 5)
    return y.reshape(b, h, w, c_out).permute(0, 3, 1, 2)


class Winograd(torch.autograd.Function):
    """A convolution of 3 x 3 with padding 1 and stride 1, of float32 `[b, c, h, w]` with `h` and
    `w` multiples of 4."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor) -> Tensor:
        """Y, `[b, c_out, h, w]`."""
        transformed = _transformed_input(x)
        ctx.save_for_backward(transformed, kernel)
        ctx.size = x.shape
        return _convolved(transformed, kernel, x.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor]:
        """Gradients of the input and of the kernel."""
        (dy,) = gradients
        transformed, kernel = ctx.saved_tensors
        c_out, c_in = kernel.shape[:2]
        dm = (OUTPUT.T @ _tiles(dy, 0)).view(36, -1, c_out)
        dg = (KERNEL.T @ torch.bmm(transformed.transpose(1, 2), dm).view(36, -1)).view(
            3, 3, c_in, c_out
        )
        dg = dg.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
        if not ctx.needs_input_grad[0]:
            return None, dg
        turned = kernel.flip(2, 3).transpose(0, 1)
        return _convolved(_transformed_input(dy), turned, dy.shape), dg


class Convolution(nn.Conv2d):
    """A `Conv2d` that goes Winograd's way where that is possible and faster."""

    def forward(self, input: Tensor) -> Tensor:
        """The same as `Conv2d`'s, `[b, c_out, h, w]`."""
        h, w = input.shape[2:]
        fits = h % TILE == w % TILE == 0 and max(h, w) <= WIDEST
        if not fits or input.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        y = Winograd.apply(input, self.weight)
        return y if self.bias is None else y + self.bias.view(-1, 1, 1)
