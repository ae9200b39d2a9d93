"""Encoded images and PIL images to pixels, in bounded memory and with one kind of error.

Pillow opens some forty formats, a few of them with programs of their own, and its decoders raise
whatever a damaged file makes them stumble over. Here six formats are opened (AVIF and HEIC where
the libraries are there), every call into Pillow stands in `pillow(name)`, which turns whatever it
raises into an `InputError`, and sizes are checked before any pixel is decoded.
"""

from __future__ import annotations

import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from ..errors import InputError

if TYPE_CHECKING:
    from PIL import Image

PIXELS = 89_478_485
"""An image may have this many pixels: Pillow's own limit. JPEGs may have more, see below."""
HEAVY_PIXELS = 50_000_000
"""WebP, AVIF and HEIC hold several copies of the whole image while they decode."""
JPEG_PIXELS = 200_000_000
"""A JPEG above `PIXELS` is decoded at a half, a quarter or an eighth of its size."""
JPEG_SCANS = 1_200_000_000
"""A progressive JPEG passes over the whole image in every scan: its pixels times its scans."""
STRIP = 2**22
"""Pixels that are converted at a time: temporary arrays stay small beside the image."""

_ROTATED = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}
_SIGNATURES = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "BMP": (b"BM",),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"MM*\0", b"II\0*"),
}
_OTHERS = (  # in lower case
    (b"%!ps", "a PostScript file"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript file"),
    (b"%pdf", "a PDF file"),
    (b"8bps", "a Photoshop file"),
    (b"\0\0\0\x0cjp  ", "a JPEG 2000 file"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 file"),
    (b"\0\0\0\x0cjxl ", "a JPEG XL file"),
    (b"\xff\x0a", "a JPEG XL file"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an XML file, perhaps an SVG drawing"),
    (b"<!doctype html", "a web page, perhaps what a failed download left"),
    (b"<html", "a web page, perhaps what a failed download left"),
    (b"version https://git-lfs", "a pointer of Git LFS in place of the file"),
    (b"pk\3\4", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    *((b"p%d" % n, "a PPM or PGM file") for n in range(1, 8)),
)
_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}


@contextmanager
def pillow(name: str) -> Iterator[None]:
    """Nothing but calls into Pillow belongs in this context: what they raise is the image's fault.

    Args:
        name: Of the image, for messages.

    Raises:
        InputError: in place of any other exception.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except InputError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise InputError(_too_large(name, limit())) from None
    except UnidentifiedImageError:
        raise InputError(
            f"{name}: the image is damaged or truncated (its beginning cannot be read), or of a "
            "kind that Pillow does not read, such as TIFF of floats or of five bands. Fetch it "
            "again, or save it as PNG."
        ) from None
    except MemoryError:
        raise InputError(
            f"{name}: decoding takes more memory than there is; the image is very large, or "
            "damaged. Shrink it, or save it again."
        ) from None
    except Exception as error:  # decoders raise anything: IndexError, struct.error, RuntimeError
        said = " ".join(str(error).split())[:160] or type(error).__name__
        if isinstance(error, ValueError) and "closed" in said:
            raise InputError(f"{name}: its file was closed too early. Keep it open.") from None
        if "MAX_TEXT_CHUNK" in said:
            raise InputError(
                f"{name}: its metadata are larger than Pillow reads ({said}). Save it without "
                "them."
            ) from None
        raise InputError(
            f"{name}: the image is damaged or truncated ({said}). Fetch or save it again."
        ) from None


def limit(kind: str | None = None) -> int:
    """Pixels that an image of Pillow's format `kind` may have to be read at its full size.

    Lower where `PIL.Image.MAX_IMAGE_PIXELS` is.
    """
    from PIL import Image

    own = HEAVY_PIXELS if kind in ("WEBP", "AVIF", "HEIF") else PIXELS
    return min(own, Image.MAX_IMAGE_PIXELS or own)


def short(name: str) -> str:
    """A name that fits into a message, on one line."""
    name = "".join(repr(c)[1:-1] if c in "\n\r\v\f\x85\u2028\u2029" else c for c in name)
    return name if len(name) <= 300 else f"{name[:120]}...{name[-60:]}"


def open_path(path: Path, name: str) -> np.ndarray:
    """An image file on disk as upright uint8 RGB `[h, w, 3]`; see `open_image`.

    Raises:
        InputError: there is no such file, it is not a regular file, or it may not be read.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise InputError(
                f"{name}: this is a folder. Give image files, or classify the folder."
            )
        if not stat.S_ISREG(mode):
            raise InputError(f"{name}: not a regular file (a pipe, socket or device).")
        file = path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{name}: no such file.") from None
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror}).") from None
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name!r}: not a file name ({error}).") from None
    with file:
        return open_image(file, name)


def open_image(file: Path | IO[bytes], name: str) -> np.ndarray:
    """An image file, on disk or in memory, as upright uint8 RGB `[h, w, 3]`.

    JPEG, PNG, WebP, GIF, BMP and TIFF are opened, AVIF where Pillow has it, HEIC where
    `pillow-heif` is installed; nothing else is, whatever the file is called. An image has at most
    89,478,485 pixels (WebP, AVIF and HEIC 50,000,000). JPEGs alone may have up to 200,000,000:
    above the limit they are decoded at a half, a quarter or an eighth of their width and height,
    and the pixels of that smaller image are what the noise belongs to.

    Args:
        file: A path, or encoded bytes as a file object that can seek; it is read from its start
            and left open.
        name: For messages.

    Raises:
        InputError: not an image, damaged or truncated, too large, or of zero size.
    """
    if isinstance(file, Path):
        return open_path(file, name)
    try:
        file.seek(0)
        head = file.read(256)
        file.seek(0)
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror or error}).") from None
    kind = _format(head, name)
    image = _open_jpeg(file, name) if kind == "JPEG" else _open_other(file, name, kind)
    with image:
        return pil_to_rgb(image, name)


def pil_to_rgb(image: Image.Image, name: str) -> np.ndarray:
    """A PIL image, at the frame it stands on, as upright uint8 RGB `[h, w, 3]`.

    Transparency is laid over white; 16 bits are scaled to 8; the image stays open and stays at
    its frame.

    Args:
        image: Of any mode except `F`.
        name: For messages.

    Raises:
        InputError: damaged, too large, of zero size, floating-point pixels, or whole numbers that
            do not say what white is.
    """
    width, height = image.size
    if 0 in (width, height):
        raise InputError(f"{name}: the image has size {width}x{height}.")
    if width * height > limit(image.format):
        raise InputError(_too_large(name, limit(image.format)))
    with pillow(name):
        image.load()
        orientation = image.getexif().get(0x0112)
        width, height = image.size  # a TIFF turns itself upright when it is loaded
    if image.mode == "F":
        raise InputError(
            f"{name}: floating-point pixels carry no range. Pass a float array and value_range."
        )
    if image.mode.startswith("I"):
        _check_deep(image, name)
    # TIFF's BitsPerSample; Pillow gives 12 of them as they are, in 16.
    white = 4095 if getattr(image, "tag_v2", {}).get(258) in (12, (12,)) else 65535
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    rows = max(1, STRIP // width)
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        pixels[top:bottom] = _strip(image, (0, top, width, bottom), name, white)
    turn = _ROTATED.get(orientation) if isinstance(orientation, int) else None
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


def _check_deep(image: Image.Image, name: str) -> None:
    """Refuse whole numbers of 16 or 32 bits that are not 0 to 65535 (white).

    Raises:
        InputError: others, among them those that look like 8 bits and would come out black.
    """
    with pillow(name):
        low, high = (float(v) for v in image.getextrema())  # type: ignore[arg-type]
    if 1 < high <= 255 and low >= 0:
        raise InputError(
            f"{name}: its pixels are whole numbers of {32 if image.mode == 'I' else 16} bits up "
            f"to {high:g}, where 65535 is white. If 255 is, give them as 8 bits: a uint8 array, "
            "or a file saved so."
        )
    if low < 0 or high > 65535:
        raise InputError(
            f"{name}: its pixels are whole numbers from {low:g} to {high:g}, which do not say "
            "what black and white are. Pass a float array and value_range."
        )


def _strip(image: Image.Image, box: tuple[int, int, int, int], name: str, full: int) -> np.ndarray:
    """Part of a loaded image: uint8 `[h, w, 3]`, or `[h, w, 1]` where it is grey.

    Args:
        image: Loaded.
        box: Left, top, right and bottom.
        name: Of the image, for messages.
        full: What is white where numbers have more than 8 bits.
    """
    from PIL import Image

    with pillow(name):
        part = image.crop(box)
        deep = np.asarray(part) if part.mode.startswith("I") else None
    if deep is not None:
        # 16-bit files open as I or I;16: of 65535, 257 steps are one of ours.
        scaled = np.round(deep.astype(np.int64) * (255 / full))
        return np.clip(scaled, 0, 255).astype(np.uint8)[..., None]
    with pillow(name):
        if part.mode == "RGB" and "transparency" not in part.info:
            return np.asarray(part)  # most photos; `convert` would copy them once more
        if part.mode == "La":
            part = part.convert("LA")
        if part.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in part.info:
            rgba = part.convert("RGBA")
            white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
            part = Image.alpha_composite(white, rgba)
        return np.asarray(part.convert("RGB"))


def _open_jpeg(file: IO[bytes], name: str) -> Image.Image:
    """A JPEG, not yet decoded, to be decoded small where it is very large."""
    from PIL.JpegImagePlugin import JpegImageFile

    with pillow(name):
        image = JpegImageFile(file)
    pixels = image.size[0] * image.size[1]
    # Coefficients of every channel are held at once where the channels come one after the other.
    most = JPEG_PIXELS if len(image.getbands()) < 4 else JPEG_PIXELS * 3 // 4
    if pixels > most:
        raise InputError(_too_large(name, most))
    if "progression" in image.info and pixels * _scans(file) > JPEG_SCANS:
        raise InputError(
            f"{name}: a progressive JPEG of {pixels:,} pixels in {_scans(file)} scans takes too "
            "long to decode. Save it as a baseline JPEG, or shrink it."
        )
    if pixels > limit():
        with pillow(name):
            for shrink in (2, 4, 8):
                width, height = image.size
                if -(-width // shrink) * -(-height // shrink) <= limit():
                    image.draft(None, (max(1, width // shrink), max(1, height // shrink)))
                    break
    return image


def _scans(file: IO[bytes]) -> int:
    """Start-of-scan markers in a JPEG; the file is left where it stood."""
    at = file.tell()
    file.seek(0)
    count, last = 0, b""
    while block := file.read(2**20):
        count += (last + block).count(b"\xff\xda")
        last = block[-1:]
    file.seek(at)
    return count


def _open_other(file: IO[bytes], name: str, kind: str) -> Image.Image:
    from PIL import Image

    with pillow(name), warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(file, formats=(kind,))


def _format(head: bytes, name: str) -> str:
    """Pillow's name of the format of a file that begins with `head`.

    Raises:
        InputError: the file is of another kind, or needs a library that is not installed.
    """
    for kind, signatures in _SIGNATURES.items():
        if head.startswith(signatures):
            return kind
    if not head:
        raise InputError(
            f"{name}: not an image that can be read: it is empty. Fetch or save it again."
        )
    if head[4:8] == b"ftyp":
        return _boxed(head, name)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    said = next((words for prefix, words in _OTHERS if start.startswith(prefix)), None)
    raise InputError(
        f"{name}: not an image that can be read{f', but {said}' if said else ''}. Give a JPEG, "
        "PNG, WebP, GIF, BMP or TIFF file."
    )


def _boxed(head: bytes, name: str) -> str:
    """AVIF or HEIF, told apart by the brands in the first box."""
    brands = {head[i : i + 4] for i in range(8, min(len(head), int.from_bytes(head[:4])), 4)}
    if brands & {b"avif", b"avis"}:
        if find_spec("PIL._avif") is None:
            raise InputError(
                f"{name}: AVIF is not read by this build of Pillow; convert it to JPEG or PNG, or "
                "install Pillow 11.3 or later from a wheel."
            )
        return "AVIF"
    if not brands & (_HEIC | {b"mif1", b"msf1"}):
        raise InputError(
            f"{name}: not an image that can be read, but a film or another file of boxes. Give a "
            "JPEG, PNG, WebP, GIF, BMP or TIFF file."
        )
    if find_spec("pillow_heif") is None:
        raise InputError(
            f"{name}: HEIC is not read; convert it to JPEG or PNG, or install pillow-heif (pip "
            "install 'diffzero[heif]')."
        )
    import pillow_heif

    pillow_heif.register_heif_opener()
    return "HEIF"


def _too_large(name: str, pixels: int) -> str:
    return (
        f"{name}: the image declares more than {pixels:,} pixels, a possible decompression bomb. "
        "Shrink it first."
    )
