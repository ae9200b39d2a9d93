"""What is an image, what is many, and where its pixels come from."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote_to_bytes

import numpy as np

from ..errors import InputError
from .arrays import Range, array_to_rgb, tensor_to_array, tensor_to_rgb
from .decode import limit, open_image, open_path, pil_to_rgb, pillow, short

STREAM = 2**29
"""Bytes that are read of an open file."""
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_BASE64 = re.compile(r"(iVBORw0KGgo|/9j/|R0lGOD|UklGR)[A-Za-z0-9+/\s]*=*|[A-Za-z0-9+/\s]{200,}=*")


def load_image(source: Any, value_range: Range | None = None) -> np.ndarray:
    """One image as pixels.

    Files may be JPEG, PNG, WebP, GIF, BMP and TIFF, AVIF where Pillow has it, HEIC where
    `pillow-heif` is installed, of at most 89,478,485 pixels (WebP, AVIF and HEIC 50,000,000).
    JPEGs above that, up to 200,000,000, are decoded at a half, a quarter or an eighth of their
    width and height; the noise of such an image belongs to the smaller one's pixels.

    Args:
        source: A path; encoded bytes; an open binary file or `BytesIO`, read from its start and
            put back to where it stood; a `data:` URL; a data set's `{"bytes": ..., "path": ...}`;
            a `PIL.Image`, at the frame it stands on; a NumPy array `[h, w]`, `[h, w, 1|3|4]`; or
            a torch tensor `[1|3|4, h, w]`. Integer arrays are uint8 in 0..255.
        value_range: What black and white are in a float array, for example `(0, 1)` or
            `(-1, 1)`; floats are rounded to the nearest of 256 steps.

    Returns:
        uint8 array `[h, w, 3]`, upright (EXIF rotation applied), the first frame of an animated
        file, transparency laid over white.

    Raises:
        InputError: the source is missing, not an image, truncated, too large, of zero size,
            holds NaN, or is a float array without a range.
    """
    source = _unwrapped(source)
    if isinstance(source, str | os.PathLike):
        return _load_named(os.fsdecode(source))
    if isinstance(source, bytes | bytearray | memoryview):
        return _load_bytes(bytes(source))
    if _is_pil(source):
        return _load_pil(source)
    if isinstance(source, Mapping):
        return _load_cell(source)
    if hasattr(source, "read"):
        return _load_stream(source)
    if hasattr(source, "detach"):  # a torch tensor, without importing torch
        return tensor_to_rgb(source, value_range)
    if _is_array(source):
        return array_to_rgb(_checked_dtype(np.asanyarray(source)), value_range)
    raise InputError(
        "An image is a file's bytes, an open file, a path, a PIL image, an array or a tensor; got "
        f"{type(source).__name__}{_hint(source)}."
    )


def load_images(sources: Any, value_range: Range | None = None) -> list[np.ndarray]:
    """One image or many, as a list of uint8 RGB arrays `[h, w, 3]`.

    Args:
        sources: See `split_images`.
        value_range: See `load_image`.

    Raises:
        InputError: an image that cannot be read, named by its position.
    """
    loaded = []
    for position, source in enumerate(split_images(sources)):
        try:
            loaded.append(load_image(source, value_range))
        except InputError as error:
            raise InputError(f"Image {position}: {error}") from None
    return loaded


def digest(images: Iterable[np.ndarray]) -> str:
    """Of the pixels: the same name may come to hold other images."""
    found = hashlib.blake2b(digest_size=8)
    for image in images:
        found.update(repr(image.shape).encode() + image.tobytes())
    return found.hexdigest()


def is_one(sources: Any) -> bool:
    """Whether this is one image rather than a collection; nothing is loaded or consumed.

    A collection of one is a collection, whatever it is made of.

    Raises:
        InputError: an array whose axes could be read either way, or that has none.
    """
    try:
        return _is_one(sources)
    except InputError:
        raise
    except Exception as error:  # a nested tensor, for one, has no shape
        raise InputError(
            f"A {type(sources).__name__} without one shape is no image and no batch "
            f"({type(error).__name__}). Give a list of images."
        ) from None


def _is_one(sources: Any) -> bool:
    single = str | os.PathLike | bytes | bytearray | memoryview | Mapping
    if isinstance(sources, single) or _is_pil(sources) or hasattr(sources, "read"):
        return True
    if hasattr(sources, "detach") or _is_array(sources):
        return _array_is_one(sources)
    return not isinstance(sources, Iterable)


def split_images(sources: Any) -> list[Any]:
    """Tell one image from many, without loading any.

    A list, a tuple, a column of a data frame, another iterable, an array of paths, or an array or
    tensor with a batch axis is many. So are the frames of a `PIL.ImageSequence.Iterator`.

    Args:
        sources: What `load_image` takes, or a collection of it. Grey images in a batch need a
            channel axis, `[b, h, w, 1]`.

    Raises:
        InputError: an array whose axes could be read either way, a whole data frame, or a set of
            several images, which has no order.
    """
    one = is_one(sources)
    _refuse_tables(sources)
    if one:
        return [sources]
    if isinstance(sources, set | frozenset) and len(sources) > 1:
        raise InputError(
            f"A set has no order, so that nobody could tell which of its {len(sources)} answers "
            "belongs to which image. Give a list."
        )
    if _is_frames(sources):
        return _frames(sources)
    if isinstance(sources, np.ndarray):
        sources = sources.ravel() if sources.shape[1:] == (1,) else sources
        return [sources[i] for i in range(len(sources))]
    if isinstance(sources, list | tuple):
        _refuse_one_for_many(sources)
        return list(sources)
    try:
        steps = iter(sources)
    except Exception as error:  # an object of anybody's making
        raise InputError(
            f"A {type(sources).__name__} cannot be gone through for images "
            f"({type(error).__name__}). Give a list."
        ) from None
    return [_held(source, i) for i, source in enumerate(steps)]


# -- telling kinds apart -------------------------------------------------------------------


def _is_pil(source: Any) -> bool:
    pil = sys.modules.get("PIL.Image")  # without it there is no image of its making
    return pil is not None and isinstance(source, pil.Image)


def _is_frames(source: Any) -> bool:
    sequence = sys.modules.get("PIL.ImageSequence")
    return sequence is not None and isinstance(source, sequence.Iterator)


def _is_array(source: Any) -> bool:
    """NumPy's, or another library's of two axes or more; columns of tables have one."""
    if isinstance(source, np.ndarray):
        return True
    foreign = hasattr(source, "__array__") and hasattr(source, "shape")
    return foreign and getattr(source, "ndim", 0) >= 2 and not hasattr(source, "columns")


def _array_is_one(array: Any) -> bool:
    shape = list(array.shape)
    if isinstance(array, np.ndarray) and array.dtype.kind in "OSUT":
        if len(shape) > 1 and array.dtype.kind != "O" and shape[1:] != [1]:
            raise InputError(f"An array of paths has one axis; got shape {shape}.")
        return not shape
    if len(shape) == 2:
        _refuse_flat(array)
    if len(shape) != 3:
        return len(shape) < 3
    if shape[0 if hasattr(array, "detach") else 2] in (1, 3, 4):
        return True
    raise InputError(
        f"An array of shape {shape} is neither one image nor a batch. Give one image as "
        "[height, width, 3] (tensors: [3, height, width]), many with a batch axis in front; grey "
        "images need a channel axis of 1."
    )


def _refuse_flat(array: Any) -> None:
    """Refuse `[n, 784]`: images as rows of numbers, which would pass for one grey image.

    Width alone does not tell, since 256 and 1024 are squares too. Rows of one picture resemble
    the rows above them; in a row that holds a whole image, pixels resemble those one line of that
    image before.
    """
    count, width = array.shape
    sides = [(round((width / c) ** 0.5), c) for c in (1, 3)]
    sides = [(side, c) for side, c in sides if side >= 8 and side * side * c == width]
    if not sides or count == width or count == 0:
        return
    side, channels = sides[0]
    if max(count, width) <= 4 * min(count, width):
        values = tensor_to_array(array) if hasattr(array, "detach") else np.asarray(array)
        values = values[:512].astype(np.float64)
        above = np.abs(np.diff(values, axis=0)).mean()
        lines = (side, side * channels)
        within = min(np.abs(values[:, lag:] - values[:, :-lag]).mean() for lag in lines)
        if not above > 0.9 * within:
            return
    each = [side, side] if channels == 1 else [side, side, channels]
    raise InputError(
        f"An array of shape {[count, width]} looks like rows of numbers, each an image of "
        f"{each}. Give them their shape with array.reshape({count}, {side}, {side}, {channels}); "
        "if it is one grey image, give it a channel axis with array[..., None]."
    )


def _refuse_tables(sources: Any) -> None:
    names = getattr(sources, "column_names", None)
    if names is None and hasattr(sources, "shape"):
        names = getattr(sources, "columns", None)
    if names is None or isinstance(sources, Mapping) or not isinstance(names, Iterable):
        return
    known = list(map(str, names))
    raise InputError(
        f"A table ({type(sources).__name__}) with the columns {', '.join(known[:8]) or '(none)'} "
        f"is not a list of images. Give the column that holds them, such as "
        f"table[{(known or ['image'])[0]!r}]."
    )


def _refuse_one_for_many(sources: list[Any] | tuple[Any, ...]) -> None:
    """Refuse `list(ImageSequence.Iterator(image))`: one image, at its last frame, many times."""
    seen: set[int] = set()
    for source in sources:
        if _is_pil(source) and id(source) in seen and getattr(source, "is_animated", False):
            raise InputError(
                "The list holds one animated PIL image several times, which stands on one frame. "
                "Give the iterator of its frames itself, or a copy() of each frame."
            )
        seen.add(id(source))


def _checked_dtype(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind in "OSUT":
        raise InputError(
            f"An image array holds numbers; this one of shape {list(array.shape)} holds "
            f"{'objects' if array.dtype.kind == 'O' else 'text'}. Convert it with "
            "array.astype(np.uint8), or give paths in an array of one axis."
        )
    return array


def _hint(source: Any) -> str:
    if source is None:
        return " (nothing)"
    if isinstance(source, tuple) and len(source) == 2:
        return ": of pairs, such as an image and its label, give the images alone"
    if isinstance(source, list | tuple | set | frozenset):
        return ": collections do not nest; make a list of numbers an array of uint8"
    if isinstance(source, float) and source != source:
        return " (NaN, a missing value)"
    return ""


# -- from each kind to pixels --------------------------------------------------------------


def _unwrapped(source: Any) -> Any:
    """What arrays without axes and cells of Arrow columns hold."""
    if isinstance(source, np.ndarray) and source.ndim == 0:
        return source.item()
    return source.as_py() if hasattr(source, "as_py") else source


def _load_named(name: str) -> np.ndarray:
    """A path, or a text that is something else."""
    if name[:5].lower() == "data:":
        return open_image(io.BytesIO(_data_url(name)), "The data: URL")
    if not name:
        raise InputError("The path of the image is empty.")
    if _URL.match(name) and not _exists(name):
        raise InputError(
            f"{short(name)}: image URLs are not fetched. Download it and give the path."
        )
    if _BASE64.fullmatch(name) and not _exists(name):
        raise InputError(
            f"{short(name)}: this looks like an image in base64. Decode it with "
            "base64.b64decode, or put data:image/png;base64, in front of it."
        )
    return open_path(Path(name), short(name))


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # too long, or not a file name at all
        return False


def _data_url(url: str) -> bytes:
    header, comma, payload = url.partition(",")
    if not comma:
        raise InputError(f"{short(url)}: a data: URL holds a comma before its data.")
    raw = unquote_to_bytes(payload)
    if not header.lower().endswith(";base64"):
        return raw
    try:
        packed = b"".join(raw.split()).rstrip(b"=")
        return base64.b64decode(packed + b"=" * (-len(packed) % 4), validate=True)
    except binascii.Error as error:
        raise InputError(
            f"The data: URL holds damaged base64 ({error}). Encode it again."
        ) from None


def _load_bytes(raw: bytes) -> np.ndarray:
    """Encoded bytes; a path or base64 in their place is named."""
    if 0 < len(raw) < 4096 and b"\0" not in raw and _exists(os.fsdecode(raw)):
        raise InputError(
            f"Bytes are an encoded image; {short(os.fsdecode(raw))} is a file. Give its path as "
            "text, with os.fsdecode(path)."
        )
    if raw[:5].lower() == b"data:":
        raise InputError("Bytes are an encoded image; these are a data: URL. Give it as text.")
    if _BASE64.fullmatch(raw[:400].decode("latin-1")):
        raise InputError(
            "Bytes are an encoded image; these look like one in base64. Decode them with "
            "base64.b64decode."
        )
    return open_image(io.BytesIO(raw), "The encoded bytes")


def _load_cell(cell: Mapping[Any, Any]) -> np.ndarray:
    """A data set's `{"bytes": ..., "path": ...}`, either of which may be None."""
    if not set(cell) & {"bytes", "path"}:
        keys = ", ".join(map(repr, list(cell)[:8])) or "none"
        raise InputError(
            f"A dictionary is an image if it has 'bytes' or 'path'; got the keys {keys}. Give the "
            "image alone."
        )
    raw, path = cell.get("bytes"), cell.get("path")
    if isinstance(raw, bytes | bytearray | memoryview):
        name = short(path) if isinstance(path, str) and path else "The encoded bytes"
        return open_image(io.BytesIO(bytes(raw)), name)
    if raw is None and isinstance(path, str | os.PathLike):
        return _load_named(os.fsdecode(path))
    raise InputError(
        "A dictionary that is an image has encoded bytes under 'bytes' or a file's name under "
        f"'path'; got {type(raw).__name__} and {type(path).__name__}."
    )


def _load_stream(file: Any) -> np.ndarray:
    """An open file, read from its start, left open and where it stood."""
    name = getattr(file, "name", None)
    name = short(name) if isinstance(name, str) else f"The open file ({type(file).__name__})"
    if isinstance(file, io.TextIOBase):
        raise InputError(f"{name}: opened as text. Open it with mode 'rb'.")
    try:
        raw = _read_from_start(file)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{name}: cannot be read ({error}).") from None
    if not isinstance(raw, bytes | bytearray | memoryview):
        if hasattr(raw, "close"):
            raw.close()  # a coroutine that nobody will await
        raise InputError(f"{name}: reading gave {type(raw).__name__}, not bytes.")
    if len(raw) > STREAM:
        raise InputError(f"{name}: holds more than {STREAM:,} bytes. Shrink the image first.")
    return open_image(io.BytesIO(raw), name)


def _read_from_start(file: IO[bytes]) -> Any:
    """Bytes from the start; of what cannot seek, such as a download, those that are left."""
    if not getattr(file, "seekable", lambda: hasattr(file, "seek"))():
        return file.read(STREAM + 1)
    stood = file.tell()
    try:
        file.seek(0)
        return file.read(STREAM + 1)
    finally:
        file.seek(stood)


def _load_pil(image: Any) -> np.ndarray:
    """A PIL image; a very large JPEG that is not yet decoded is opened anew, to be read small."""
    with pillow("The PIL image"):
        waiting, file = getattr(image, "tile", None), getattr(image, "fp", None)
        large = image.size[0] * image.size[1] > limit(image.format)
        again = large and waiting and image.format in ("JPEG", "MPO") and image.tell() == 0
        stood = file.tell() if again and file is not None else None
    if waiting and file is None:
        raise InputError("The PIL image was closed before it was read. Keep it open.")
    if file is None or stood is None:
        return pil_to_rgb(image, "The PIL image")
    try:
        return open_image(file, "The PIL image")
    finally:
        file.seek(stood)


def _frames(frames: Any) -> list[Any]:
    """Copies of the frames of a `PIL.ImageSequence.Iterator`, whose image is put back after."""
    image = frames.im
    with pillow("The PIL image"):
        stood = image.tell()
        copies = [frame.copy() for frame in frames]
        image.seek(stood)
    return copies


def _held(source: Any, position: int) -> Any:
    """An item of an iterator, copied if the next step would turn it into another frame."""
    if isinstance(source, int | float | complex):  # at once: ranges have no end to speak of
        raise InputError(
            f"Image {position}: a number is no image; got {type(source).__name__}{_hint(source)}."
        )
    if not _is_pil(source):
        return source
    with pillow(f"Image {position}"):
        return source.copy() if getattr(source, "is_animated", False) else source
