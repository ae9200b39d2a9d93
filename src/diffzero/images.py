"""Images in, pixels out: every source becomes one upright uint8 RGB array.

A file, a PIL image and an array that hold the same pixels give the same array, so that the
noise of an image (see `noise.py`), and with it every score, depends on the pixels alone.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from .errors import InputError

if TYPE_CHECKING:
    import torch
    from PIL import Image

Range = tuple[float, float]
SUFFIXES = {
    *(".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".heic", ".heif", ".avif"),
}


def load_image(source: Any, value_range: Range | None = None) -> np.ndarray:
    """One image as pixels.

    Args:
        source: A path, a `PIL.Image`, a NumPy array `[h, w]`, `[h, w, 1|3|4]`, or a torch tensor
            `[1|3|4, h, w]`. Integer arrays are uint8 in 0..255.
        value_range: What black and white are in a float array, for example `(0, 1)` or
            `(-1, 1)`; floats are rounded to the nearest of 256 steps.

    Returns:
        uint8 array `[h, w, 3]`, upright (EXIF rotation applied), the first frame of an animation,
        transparency laid over white.

    Raises:
        InputError: the source is missing, not an image, truncated, too large, of zero size,
            holds NaN, or is a float array without a range.
    """
    if isinstance(source, str | Path):
        return _load_file(source)
    if type(source).__module__.startswith("PIL."):
        return _pil_to_rgb(source, "the PIL image")
    if hasattr(source, "detach"):  # a torch tensor, without importing torch
        tensor = source.detach().cpu()
        if tensor.ndim == 3 and tensor.shape[0] in (1, 3, 4):
            return _array_to_rgb(tensor.permute(1, 2, 0).numpy(), value_range)
        if tensor.ndim == 2:
            return _array_to_rgb(tensor.numpy(), value_range)
        raise InputError(
            f"A tensor image has shape [channels, height, width] with 1, 3 or 4 channels; got "
            f"{list(tensor.shape)}. Permute it, or pass a NumPy array [height, width, channels]."
        )
    if isinstance(source, np.ndarray):
        return _array_to_rgb(source, value_range)
    raise InputError(
        f"An image is a path, a PIL image, an array or a tensor; got {type(source).__name__}."
    )


def load_images(sources: Any, value_range: Range | None = None) -> list[np.ndarray]:
    """One image or many, as a list of uint8 RGB arrays. See `load_image`."""
    return [load_image(s, value_range) for s in split_images(sources)]


def image_files(folder: str | Path) -> list[Path]:
    """The image files under a folder, sorted.

    Raises:
        InputError: a folder without images.
    """
    found = sorted(
        f for f in Path(folder).rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file()
    )
    if not found:
        raise InputError(f"{folder}: no image files in this folder.")
    return found


def digest(images: Iterable[np.ndarray]) -> str:
    """Of the pixels: the same name may come to hold other images."""
    found = hashlib.blake2b(digest_size=8)
    for image in images:
        found.update(repr(image.shape).encode() + image.tobytes())
    return found.hexdigest()


def split_images(sources: Any) -> list[Any]:
    """Tell one image from many, without loading any.

    A list, a tuple, another iterable, or an array or tensor with a batch axis is many.

    Raises:
        InputError: a three-axis array that could be either.
    """
    if isinstance(sources, str | Path) or type(sources).__module__.startswith("PIL."):
        return [sources]
    if isinstance(sources, np.ndarray) and sources.dtype == object:
        return list(sources)
    if isinstance(sources, np.ndarray) or hasattr(sources, "detach"):
        return _split_array(sources)
    if isinstance(sources, Iterable):
        return list(sources)
    return [sources]


def _split_array(array: Any) -> list[Any]:
    if array.ndim == 4:
        return list(array)
    if array.ndim <= 2:
        return [array]
    channel_axis = 0 if hasattr(array, "detach") else 2
    if array.ndim == 3 and array.shape[channel_axis] in (1, 3, 4):
        return [array]
    raise InputError(
        f"An array of shape {list(array.shape)} is neither one image nor a batch. Give one image "
        "as [height, width, 3] (tensors: [3, height, width]), many with a batch axis in front; "
        "grey images need a channel axis of 1."
    )


def _load_file(source: str | Path) -> np.ndarray:
    name = str(source)
    if name.startswith(("http://", "https://")):
        raise InputError(f"{name}: image URLs are not fetched. Download it and give the path.")
    path = Path(source)
    if not path.exists():
        raise InputError(f"{name}: no such file.")
    if path.is_dir():
        raise InputError(f"{name}: this is a folder. Give image files, or classify the folder.")
    return open_image(path, name)


def open_image(file: Path | IO[bytes], name: str) -> np.ndarray:
    """An image file, on disk or in memory, as upright uint8 RGB `[h, w, 3]`.

    Args:
        file: A path, or encoded bytes as a file object.
        name: For messages.

    Raises:
        InputError: not an image, truncated, too large, or of zero size.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                return _pil_to_rgb(image, name)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise InputError(
            f"{name}: the image declares more than {Image.MAX_IMAGE_PIXELS:,} pixels, a possible "
            "decompression bomb. Shrink it first."
        ) from None
    except UnidentifiedImageError:
        hint = (
            " HEIC is not read; convert it to JPEG or PNG."
            if name.lower().endswith((".heic", ".heif"))
            else " Give a JPEG, PNG, WebP, GIF, BMP or TIFF file."
        )
        raise InputError(f"{name}: not an image that can be read.{hint}") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{name}: the image is damaged or truncated ({error}). Fetch or save it again."
        ) from None


def _pil_to_rgb(image: Image.Image, name: str) -> np.ndarray:
    from PIL import Image, ImageOps

    if 0 in image.size:
        raise InputError(f"{name}: the image has size {image.size[0]}x{image.size[1]}.")
    if getattr(image, "n_frames", 1) > 1 and image.tell() != 0:
        image.seek(0)
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I"):
        deep = np.asarray(image).astype(np.int64)
        # 16-bit files open as I or I;16: 65535 is white, and 257 of its steps are one of ours.
        grey = np.clip(np.round(deep / 257.0), 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode == "F":
        raise InputError(
            f"{name}: floating-point pixels carry no range. Pass a float array and value_range."
        )
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, rgba)
    return np.array(image.convert("RGB"), dtype=np.uint8)


def _array_to_rgb(array: np.ndarray, value_range: Range | None) -> np.ndarray:
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise InputError(
            f"An array image has shape [height, width] or [height, width, 1|3|4]; got "
            f"{list(array.shape)}."
        )
    if 0 in array.shape:
        raise InputError(f"The image array is empty: shape {list(array.shape)}.")
    if np.issubdtype(array.dtype, np.floating):
        array = _round_floats(array, value_range)
    elif array.dtype != np.uint8:
        raise InputError(
            f"Integer images are uint8 in 0..255; got {array.dtype}. Convert the array, or give "
            "floats with value_range=(black, white)."
        )
    if array.shape[2] == 4:
        alpha = array[..., 3:].astype(np.float64) / 255
        array = np.round(array[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    if array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    return np.ascontiguousarray(array)


def _round_floats(array: np.ndarray, value_range: Range | None) -> np.ndarray:
    if not np.isfinite(array).all():
        raise InputError("The image array holds NaN or infinity. Clean it before classifying.")
    if value_range is None:
        raise InputError(
            f"A float image does not say what black and white are (values from {array.min():.3g} "
            f"to {array.max():.3g} here). Set value_range=(0, 1) or (-1, 1), or pass uint8."
        )
    low, high = value_range
    unit = (array.astype(np.float64) - low) / (high - low)
    if unit.min() < -1e-3 or unit.max() > 1 + 1e-3:
        raise InputError(
            f"Values run from {array.min():.3g} to {array.max():.3g}, outside value_range="
            f"({low:g}, {high:g})."
        )
    return np.round(np.clip(unit, 0, 1) * 255).astype(np.uint8)


def fit_square(image: np.ndarray, size: int) -> np.ndarray:
    """Resize the shorter side to `size` (bicubic, antialiased) and crop the centre.

    Args:
        image: uint8 `[h, w, 3]`.
        size: Side in pixels of the network's images.

    Returns:
        uint8 `[size, size, 3]`.
    """
    from PIL import Image

    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    scale = size / min(height, width)
    new_w, new_h = max(size, round(width * scale)), max(size, round(height * scale))
    resized = Image.fromarray(image).resize((new_w, new_h), Image.Resampling.BICUBIC)
    left, top = (new_w - size) // 2, (new_h - size) // 2
    return np.asarray(resized.crop((left, top, left + size, top + size)))


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
    grid = functional.affine_grid(torch.stack([row_x, row_y], 1), list(images.shape), False)
    return functional.grid_sample(images, grid, "bilinear", "border", False)
