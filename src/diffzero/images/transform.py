"""Pixels to the square that a network takes, and small motions of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

SLENDER = 16
"""Images whose sides are further apart are cropped before they are resized."""


def fit_square(image: np.ndarray, size: int) -> np.ndarray:
    """Resize the shorter side to `size` (bicubic, antialiased) and crop the centre.

    Args:
        image: uint8 `[h, w, 3]`.
        size: Side in pixels of the network's images.

    Returns:
        uint8 `[size, size, 3]`.
    """
    from PIL import Image

    if image.shape[:2] == (size, size):
        return image
    image = trim(image, size)
    height, width = image.shape[:2]
    scale = size / min(height, width)
    new_w, new_h = max(size, round(width * scale)), max(size, round(height * scale))
    resized = Image.fromarray(image).resize((new_w, new_h), Image.Resampling.BICUBIC)
    left, top = (new_w - size) // 2, (new_h - size) // 2
    return np.asarray(resized.crop((left, top, left + size, top + size)))


def trim(image: np.ndarray, size: int) -> np.ndarray:
    """The middle of an image whose sides lie more than 16 to 1 apart; any other image as it is.

    Resized whole to a shorter side of `size`, such an image would take memory without bound
    (4,000 x 1 pixels at 512 take 4 GB) for a square of its middle. What is cut off lies beyond
    the reach of that square, whatever filter makes it.

    Args:
        image: uint8 `[h, w, 3]`.
        size: Side in pixels of the network's images.

    Returns:
        uint8 `[h, w, 3]`, a view.
    """
    height, width = image.shape[:2]
    if max(height, width) <= SLENDER * min(height, width):
        return image
    axis = int(width > height)
    length, across = image.shape[axis], image.shape[1 - axis]
    # An odd length keeps an odd remainder, so that the middle stays the middle.
    kept = 8 * across + 8 * math.ceil(across / size)
    kept += (length - kept) % 2
    start = (length - kept) // 2
    part = slice(start, start + kept)
    return image[:, part] if axis else image[part]


def to_tensor(images: Sequence[np.ndarray], size: int) -> torch.Tensor:
    """uint8 RGB images `[h, w, 3]` of any size to float32 `[b, 3, size, size]` in [-1, 1]."""
    import torch

    pixels = np.stack([fit_square(image, size) for image in images])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def affine(
    images: torch.Tensor, angle: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor
) -> torch.Tensor:
    """Rotate, scale and shift `[b, c, h, w]` about the centre; the border is repeated.

    Args:
        images: Any range.
        angle: Radians, `[b]`.
        scale: Above 1 shows more of the surroundings, `[b]`.
        shift: Horizontal and vertical, in halves of the side, `[b, 2]`.
    """
    import torch
    from torch.nn import functional

    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    row_x = torch.stack([cos, -sin, shift[:, 0]], 1)
    row_y = torch.stack([sin, cos, shift[:, 1]], 1)
    matrix = torch.stack([row_x, row_y], 1).to(images)  # drawn on the CPU, for any device
    grid = functional.affine_grid(matrix, list(images.shape), False)
    return functional.grid_sample(images, grid, "bilinear", "border", False)
