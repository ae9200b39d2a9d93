"""Arrays and tensors to pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import InputError, said
from .decode import PIXELS, STRIP

Range = tuple[float, float]
ENCODED = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")


def tensor_to_array(tensor: Any) -> np.ndarray:
    """A torch tensor of any device and precision as an array of the same axes.

    Raises:
        InputError: the tensor holds no numbers that an array can (sparse, meta, quantised).
    """
    import torch

    try:
        plain = tensor.detach().cpu()
        if plain.is_floating_point() and plain.dtype not in (torch.float32, torch.float64):
            plain = plain.float()
        return plain.numpy()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise InputError(
            f"The tensor ({tensor.dtype}, {tensor.layout}, on {tensor.device}) cannot be read: "
            f"{said(error)}. Pass a dense tensor of uint8 or floats."
        ) from None


def tensor_to_rgb(tensor: Any, value_range: Range | None) -> np.ndarray:
    """A tensor `[1|3|4, h, w]` or `[h, w]` as uint8 RGB `[h, w, 3]`.

    Raises:
        InputError: another shape, or see `array_to_rgb`.
    """
    array = tensor_to_array(tensor)
    if array.ndim == 3 and array.shape[0] in (1, 3, 4):
        return array_to_rgb(array.transpose(1, 2, 0), value_range)
    if array.ndim == 2:
        return array_to_rgb(array, value_range)
    if array.ndim == 1:
        _check_shape(array)  # which says what to do with it
    raise InputError(
        f"A tensor image has shape [channels, height, width] with 1, 3 or 4 channels; got "
        f"{list(array.shape)}. Permute it, or pass a NumPy array [height, width, channels]."
    )


def array_to_rgb(array: np.ndarray, value_range: Range | None) -> np.ndarray:
    """An array `[h, w]` or `[h, w, 1|3|4]` as uint8 RGB `[h, w, 3]`.

    Args:
        array: uint8 in 0..255, or floats within `value_range`.
        value_range: What black and white are in floats.

    Raises:
        InputError: another shape or type, empty, too large, NaN, or values outside the range.
    """
    if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        raise InputError("The image array is masked in places. Fill them with array.filled(0).")
    array = np.asarray(array)
    if array.ndim == 2:
        array = array[..., None]
    _check_shape(array)
    floats = np.issubdtype(array.dtype, np.floating)
    if floats:
        value_range = _check_range(array, value_range)
    elif array.dtype != np.uint8:
        raise InputError(
            f"Integer images are uint8 in 0..255; got {array.dtype}. {_conversion(array)}, or "
            "give floats with value_range=(black, white)."
        )
    elif array.shape[2] == 3:
        return np.ascontiguousarray(array)
    pixels = np.empty((*array.shape[:2], 3), dtype=np.uint8)
    rows = max(1, STRIP // array.shape[1])
    for top in range(0, len(array), rows):
        part = array[top : top + rows]
        if value_range is not None and floats:
            part = _round_floats(part, value_range)
        pixels[top : top + rows] = _over_white(part) if part.shape[2] == 4 else part
    return pixels


def _conversion(array: np.ndarray) -> str:
    """How to make uint8 of an array of whole numbers without losing what it shows."""
    if array.dtype == bool:
        return "Give array.astype(np.uint8) * 255"
    if array.dtype.kind in "iu" and array.min() >= 0 and 255 < array.max() <= 65535:
        return "Give (array / 257).round().astype(np.uint8) if 65535 is white"
    return "Convert the array"


def _check_shape(array: np.ndarray) -> None:
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        hint = ""
        if array.ndim == 1 and array.size:
            hint = " Give a flat array its height and width with reshape."
            if array.dtype == np.uint8 and array[:8].tobytes().startswith(ENCODED):
                hint = " These are an encoded file's bytes: give array.tobytes()."
        elif array.ndim == 3 and array.shape[0] in (1, 3, 4):
            hint = " Move the channels to the end with array.transpose(1, 2, 0)."
        raise InputError(
            f"An array image has shape [height, width] or [height, width, 1|3|4]; got "
            f"{list(array.shape)}.{hint}"
        )
    if 0 in array.shape:
        raise InputError(f"The image array is empty: shape {list(array.shape)}.")
    if array.shape[0] * array.shape[1] > PIXELS:
        raise InputError(
            f"The image array has more than {PIXELS:,} pixels: shape {list(array.shape)}. "
            "Shrink it first."
        )


def _check_range(array: np.ndarray, value_range: Any) -> Range:
    """The range as two floats, after a look at the values."""
    least, most = float(array.min()), float(array.max())  # both NaN where any value is
    if not (math.isfinite(least) and math.isfinite(most)):
        raise InputError("The image array holds NaN or infinity. Clean it before classifying.")
    if value_range is None:
        raise InputError(
            f"A float image does not say what black and white are (values from {least:.3g} "
            f"to {most:.3g} here). Set value_range=(0, 1) or (-1, 1), or pass uint8."
        )
    low, high = _pair(value_range)
    slack = 1e-3 * (high - low)
    if least < low - slack or most > high + slack:
        raise InputError(
            f"Values run from {least:.3g} to {most:.3g}, outside value_range=({low:g}, {high:g})."
        )
    return low, high


def _pair(value_range: Sequence[float]) -> Range:
    try:
        low, high = map(float, value_range)
    except (TypeError, ValueError):
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(
            f"value_range is what black and what white is, such as (0, 1); got {value_range!r}."
        )
    return low, high


def _round_floats(array: np.ndarray, value_range: Range) -> np.ndarray:
    low, high = value_range
    unit = (array.astype(np.float64) - low) / (high - low)
    return np.round(np.clip(unit, 0, 1) * 255).astype(np.uint8)


def _over_white(array: np.ndarray) -> np.ndarray:
    alpha = array[..., 3:].astype(np.float64) / 255
    return np.round(array[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
