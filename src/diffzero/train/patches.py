"""Convolutions whose kernels' gradients are one product, for training on a CPU in bfloat16.

With d the 3 x 3 pixels about every pixel, as rows of a matrix `[images * h * w, 9 c_in]`, and
dL/dY the gradient of a convolution's answer, as `[images * h * w, c_out]`, that of its kernel is

    dL/dg = (dL/dY)^T d.

Where a CPU has units for products of bfloat16 matrices (AMX), oneDNN's answers and gradients of
inputs use them well; but on 4 x 4 pixels its gradient of a kernel takes five times as long as
either. To write d down and multiply takes less than half of that. On 8 x 8 pixels it gains
nothing, and oneDNN's stays.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDEST = 4  # pixels


def neighbourhoods(x: Tensor) -> Tensor:
    """d of `[b, c, h, w]`, zero beyond the border, `[b h w, 9 c]`."""
    b, c, h, w = x.shape
    wide = functional.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    shifted = [wide[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
    return torch.cat(shifted, -1).reshape(b * h * w, 9 * c)


class ByPatches(torch.autograd.Function):
    """A convolution of 3 x 3 with padding 1 and stride 1 of `[b, c, h, w]`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor) -> Tensor:
        """Y, `[b, c_out, h, w]`."""
        ctx.save_for_backward(x, kernel)
        return functional.conv2d(x, kernel, None, 1, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor]:
        """Gradients of the input and of the kernel."""
        (dy,) = gradients
        x, kernel = ctx.saved_tensors
        c_out, c_in = kernel.shape[:2]
        rows = dy.permute(0, 2, 3, 1).reshape(-1, c_out)
        dg = (rows.T @ neighbourhoods(x)).view(c_out, 3, 3, c_in).permute(0, 3, 1, 2)
        if not ctx.needs_input_grad[0]:
            return None, dg
        turned = kernel.flip(2, 3).transpose(0, 1)
        return functional.conv2d(dy, turned, None, 1, 1), dg


class Convolution(nn.Conv2d):
    """A `Conv2d` that goes this way where that is faster: under autocast, on few pixels."""

    def forward(self, input: Tensor) -> Tensor:
        """The same as `Conv2d`'s, `[b, c_out, h, w]`."""
        if max(input.shape[2:]) > WIDEST or not torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        lower = torch.get_autocast_dtype("cpu")
        y = ByPatches.apply(input.to(lower), self.weight.to(lower))
        return y if self.bias is None else y + self.bias.to(lower).view(-1, 1, 1)
