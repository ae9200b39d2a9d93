"""Small valid images of every format and mode, and ways to break them. Seeded; run in a child.

    python -m fuzz.images --seed 3 --count 10000     # from tests/

Every input is made from the seed and its number alone, so that `--start N --count 1` repeats it.
"""

import argparse
import io
import json
import random
import resource
import struct
import sys
import time
import traceback
import warnings
import zlib
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, features

from diffzero.errors import InputError
from diffzero.images import fit_square, load_image

SIZES = [0, 1, 2, 3, 16, 23, 25, 64, 127, 255, 256, 300, 4000, 9000, 16383, 20000, 65535]
LARGE = [2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1]
MODES = {
    "PNG": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
    "JPEG": ["L", "RGB", "CMYK"],
    "GIF": ["1", "L", "P", "RGB"],
    "BMP": ["1", "L", "P", "RGB", "RGBA"],
    "TIFF": ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"],
    "WEBP": ["RGB", "RGBA"],
    "AVIF": ["RGB", "RGBA"],
}
OPTIONS = {
    "PNG": [{}, {"transparency": 0}, {"optimize": True}],
    "JPEG": [{}, {"progressive": True}, {"subsampling": 2}, {"icc_profile": b"icc"}],
    "GIF": [{}, {"transparency": 0}, {"interlace": 0}],
    "BMP": [{}],
    "TIFF": [
        *({"compression": f"tiff_{c}"} for c in ("lzw", "deflate", "adobe_deflate")),
        *({"compression": c} for c in ("raw", "packbits", "group4", "jpeg", "webp", "lzma")),
        {"tiffinfo": {322: 16, 323: 16}, "compression": "tiff_lzw"},
        {"big_tiff": True},
    ],
    "WEBP": [{}, {"lossless": True}],
    "AVIF": [{"speed": 10}],
}


def picture(mode: str, number: int = 0, size: tuple[int, int] = (24, 20)) -> Image.Image:
    """A smooth picture of a mode."""
    rng = np.random.default_rng(number)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    image = small.resize(size, Image.Resampling.BICUBIC)
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    if mode == "LAB":
        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        return ImageCms.profileToProfile(image, srgb, lab, outputMode="LAB")
    if mode == "I":  # 65535 is white
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.int32) * 257)
    if mode in ("RGBA", "LA"):
        image.putalpha(small.convert("L").resize(size))
    return image.convert(mode)


def _saved(image: Image.Image, kind: str, **options: object) -> bytes | None:
    """The encoded image, or None where a format does not take these options."""
    buffer = io.BytesIO()
    try:
        image.save(buffer, kind, **options)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, SystemError):
        return None
    return buffer.getvalue()


@cache
def valid() -> list[tuple[str, bytes]]:
    """Valid files as (format, bytes): every mode, option, rotation, animations, tiles."""
    found: list[tuple[str, bytes | None]] = []
    kinds = [k for k in MODES if k != "AVIF" or features.check("avif")]
    exif = Image.Exif()
    for kind in kinds:
        for mode in MODES[kind]:
            found += [(kind, _saved(picture(mode), kind, **o)) for o in OPTIONS[kind]]
        for orientation in (3, 6, 7):
            exif[0x0112], exif[0x010E] = orientation, "words" * 9
            found.append((kind, _saved(picture("RGB"), kind, exif=exif.tobytes())))
        frames = [picture("P" if kind == "GIF" else "RGB", n) for n in (1, 2, 3)]
        if kind in ("PNG", "GIF", "TIFF", "WEBP", "AVIF"):
            more = {"save_all": True, "append_images": frames}
            found.append((kind, _saved(picture("RGB", 4), kind, **more)))
        found.append((kind, _saved(picture("RGB", 5, (1, 300)), kind)))
    clear = picture("P")
    found.append(("PNG", _saved(clear, "PNG", transparency=bytes(range(256)))))
    found.append(("JPEG", _saved(picture("RGB"), "MPO", save_all=True, append_images=[clear])))
    return [(kind, raw) for kind, raw in found if raw is not None]


# -- ways to break a file ------------------------------------------------------------------


def flip(raw: bytearray, rng: random.Random) -> bytearray:
    """A few bytes anywhere, mostly near the front, where the headers are."""
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        end = min(len(raw), rng.choice([32, 128, 512, len(raw)]))
        raw[rng.randrange(end)] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
    return raw


def truncate(raw: bytearray, rng: random.Random) -> bytearray:
    """The end is missing."""
    return raw[: rng.randrange(len(raw))]


def move(raw: bytearray, rng: random.Random) -> bytearray:
    """A piece is missing, doubled, blank or noise."""
    start = rng.randrange(len(raw))
    end = min(len(raw), start + rng.choice([1, 2, 4, 8, 64, 256]))
    piece = raw[start:end]
    raw[start:end] = rng.choice([b"", piece * 2, bytes(len(piece)), rng.randbytes(len(piece))])
    return raw


def splice(raw: bytearray, rng: random.Random) -> bytearray:
    """The front of one file, the back of another."""
    other = rng.choice(valid())[1]
    cut = min(len(raw), rng.choice([4, 12, 32, 64, 200, rng.randrange(len(raw))]))
    return raw[:cut] + other[rng.choice([cut, 0, rng.randrange(len(other))]) :]


def number(raw: bytearray, rng: random.Random) -> bytearray:
    """A length, count, offset or size, wherever one may be, becomes another."""
    form = rng.choice(["<H", ">H", "<I", ">I"])
    wide = struct.calcsize(form)
    if len(raw) <= wide:
        return raw
    at = rng.randrange(min(len(raw) - wide, rng.choice([64, 512, len(raw)])))
    value = rng.choice(SIZES if wide == 2 else SIZES + LARGE)
    raw[at : at + wide] = struct.pack(form, value)
    return raw


def forge(raw: bytearray, rng: random.Random) -> bytearray:
    """Another width or height where the format keeps it."""
    places: list[tuple[str, int]] = []
    if raw[:4] == b"\x89PNG":
        places = [(">I", 16), (">I", 20)]
    elif raw[:3] == b"GIF":
        frame = raw.find(b",", 13)
        places = [("<H", 6), ("<H", 8), ("<H", frame + 5), ("<H", frame + 7)]
    elif raw[:2] == b"BM":
        places = [("<I", 18), ("<I", 22)]
    elif raw[:4] == b"RIFF":
        places = [("<H", 24), ("<H", 27)] if raw[12:16] == b"VP8X" else [("<H", 26), ("<H", 28)]
    elif raw[:2] == b"\xff\xd8":
        frame = max(raw.find(b"\xff\xc0"), raw.find(b"\xff\xc2"))
        places = [(">H", frame + 5), (">H", frame + 7)]
    elif raw[4:8] == b"ftyp":
        extent = raw.find(b"ispe")
        places = [(">I", extent + 8), (">I", extent + 12)]
    else:  # TIFF: the tags of width, height, rows of a strip and sides of a tile
        tags = [b"\x00\x01", b"\x01\x01", b"\x16\x01", b"\x42\x01", b"\x43\x01"]
        places = [("<I", raw.rfind(tag) + 8) for tag in tags]
    for form, at in rng.sample(places, rng.choice([1, 2])):
        if 0 < at < len(raw) - 4:
            value = rng.choice(SIZES + (LARGE if form[1] == "I" else []))
            raw[at : at + struct.calcsize(form)] = struct.pack(form, value)
    return raw


def checksums(raw: bytearray, rng: random.Random) -> bytearray:
    """PNG chunks with right checksums again, so that what they hold is believed."""
    at = 8
    while at + 12 <= len(raw) and raw[:4] == b"\x89PNG":
        length = int.from_bytes(raw[at : at + 4])
        if at + 12 + length > len(raw):
            break
        code = zlib.crc32(raw[at + 4 : at + 8 + length])
        raw[at + 8 + length : at + 12 + length] = struct.pack(">I", code)
        at += 12 + length
    return raw


BREAKS = [flip, flip, truncate, move, splice, number, number, forge, forge]


def broken(seed: int, index: int) -> tuple[str, bytes]:
    """Input `index` of `seed`, as (what was done, bytes)."""
    rng = random.Random(seed * 10**9 + index)
    kind = rng.choice(sorted({kind for kind, _ in valid()}))
    raw, done = bytearray(rng.choice([file for own, file in valid() if own == kind])), [kind]
    for _ in range(rng.choice([1, 1, 2, 3])):
        change = rng.choice(BREAKS)
        if raw:
            raw, done = change(raw, rng), [*done, change.__name__]
    if rng.random() < 0.8:
        raw = checksums(raw, rng)
    return " ".join(done), bytes(raw)


# -- what becomes of them ------------------------------------------------------------------


def outcome(raw: bytes) -> str:
    """`ok`, `InputError`, or the name and place of any other exception."""
    try:
        pixels = load_image(raw)
        square = fit_square(pixels, 512)
    except InputError as error:
        return "InputError" if "\n" not in str(error) and len(str(error)) < 600 else "unclear"
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}: {error}"
    good = pixels.dtype == np.uint8 and pixels.shape[2:] == (3,) and square.shape == (512, 512, 3)
    return "ok" if good else f"wrong shape {pixels.shape}"


def resident() -> float:
    """Most memory that this process has held so far, in MiB."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    lines = status.read_text().splitlines()  # ru_maxrss begins with that of the parent
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def survey(seed: int, start: int, count: int, mark: Path | None) -> dict[str, object]:
    """Counts of outcomes, the longest processor time in seconds, the peak of memory in MiB."""
    warnings.simplefilter("ignore")
    outcomes: Counter[str] = Counter()
    slowest, largest, peak = (0.0, ""), "", 0.0
    bad = []
    for index in range(start, start + count):
        done, raw = broken(seed, index)
        if mark is not None:
            mark.write_text(f"{index} {done}")
        began = time.process_time()
        what = outcome(raw)
        slowest = max(slowest, (time.process_time() - began, f"{index} {done}"))
        if (now := resident()) > peak:
            peak, largest = now, f"{index} {done}"
        outcomes[what if what in ("ok", "InputError") else "bad"] += 1
        if what not in ("ok", "InputError"):
            bad.append(f"{index} {done}: {what}")
    return {
        "outcomes": dict(outcomes),
        "bad": bad[:50],
        "seconds": round(slowest[0], 2),
        "slowest": slowest[1],
        "mebibytes": round(peak),
        "largest": largest,
    }


def main() -> None:
    """Survey a range of inputs and print what became of them as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--mark", type=Path, help="file that names the input in progress")
    chosen = parser.parse_args()
    # Memory is measured, not limited: a limit would turn what is too much into an InputError.
    resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))
    json.dump(survey(chosen.seed, chosen.start, chosen.count, chosen.mark), sys.stdout)


if __name__ == "__main__":
    main()
