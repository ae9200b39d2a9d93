"""Text files as people save them: byte order marks, UTF-16, and a sentence for all else."""

from __future__ import annotations

import codecs
import stat
import unicodedata
from pathlib import Path

from ..errors import InputError
from ..words import bare

MOST_BYTES = 64 * 2**20
PIPES = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")  # that a shell made: <(command)

# The longer marks first: UTF-32's begins with UTF-16's.
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
BINARY = {
    b"PK\x03\x04": "a ZIP archive or an Excel file",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"%PDF": "a PDF",
    b"\xd0\xcf\x11\xe0": "an old Excel or Word file",
    b"\x1f\x8b": "a gzip archive",
    b"PAR1": "a Parquet file",
    b"SQLite format 3": "a database",
}
PROGRAMS = {  # in lower case
    "<!doctype html": "a web page, perhaps what a failed download left",
    "<html": "a web page, perhaps what a failed download left",
    "<?xml": "an XML file",
    "{\\rtf": "a rich-text document",
    "version https://git-lfs": "a pointer of Git LFS in place of the file",
}


def read_text(path: Path) -> str:
    """A text file, decoded; without its byte order mark, composed (NFC).

    UTF-8 is read, and UTF-16 or UTF-32 with a mark or, of text that is mostly Latin, without one.
    Nothing else is guessed: the same bytes are different letters in Latin-1 and its relatives.

    Args:
        path: The file.

    Raises:
        InputError: not there, not text, text in another encoding, or more than 64 MiB; says what
            was seen.
    """
    raw = _bytes_of(path)
    kind = next((name for start, name in BINARY.items() if raw.startswith(start)), None)
    if kind is not None:
        raise InputError(f"{path}: this is {kind}, not text. Save the words as text, in UTF-8.")
    mark, encoding = next(((m, e) for m, e in MARKS if raw.startswith(m)), (b"", ""))
    body = raw[len(mark) :]
    encoding = encoding or _unmarked(body)
    try:
        text = body.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(_other_encoding(path, body, error)) from None
    text = unicodedata.normalize("NFC", text.lstrip("\ufeff")).removesuffix("\x1a")  # DOS's end
    start = text[:40].lstrip().lower()
    program = next((name for head, name in PROGRAMS.items() if start.startswith(head)), None)
    if program is not None:
        raise InputError(f"{path}: this is {program}, not a list. Save it as plain text.")
    return text


def _bytes_of(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        InputError: it cannot be read, is too large, or is a pipe or device, which may never end.
    """
    try:
        found = path.stat()
        pipe = stat.S_ISFIFO(found.st_mode) and str(path).startswith(PIPES)
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode) or pipe):
            raise InputError(f"{path}: cannot be read (a pipe, socket or device). Give a file.")
        with path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
    except InputError:
        raise
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read ({what}).") from None
    if len(raw) > MOST_BYTES:
        raise InputError(f"{path}: has more than {MOST_BYTES >> 20} MiB, too much for a list.")
    return raw


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank, without the space around them.

    Raises:
        InputError: see `read_text`; also control characters, which no text holds.
    """
    return lines_of(path, read_text(path))


def lines_of(path: Path, text: str) -> list[str]:
    """The same of a file that was read already.

    Args:
        path: For messages.
        text: What it holds.

    Raises:
        InputError: control characters.
    """
    lines = [bare(line) for line in text.splitlines()]
    for number, line in enumerate(lines, 1):
        odd = next((c for c in line if unicodedata.category(c) == "Cc" and c != "\t"), None)
        if odd is not None:
            raise InputError(
                f"{path}: line {number} holds the control character U+{ord(odd):04X}, so this is "
                "no text file. Save it as plain text, in UTF-8."
            )
    return [line for line in lines if line]


def _unmarked(raw: bytes) -> str:
    """UTF-16 without a mark has a zero byte in nearly every pair, always on the same side."""
    pairs = len(raw) // 2
    if len(raw) % 2 == 0 and pairs:
        low, high = raw[0::2].count(0), raw[1::2].count(0)
        if high > 0.6 * pairs and low == 0:
            return "utf-16-le"
        if low > 0.6 * pairs and high == 0:
            return "utf-16-be"
    return "utf-8"


def _other_encoding(path: Path, raw: bytes, error: UnicodeDecodeError) -> str:
    """What was seen in a file that is not in the encoding it seemed to be in."""
    if error.encoding != "utf-8":
        return f"{path}: damaged {error.encoding.upper()} ({error.reason}). Save it as UTF-8."
    start = raw.rfind(b"\n", 0, error.start) + 1
    end = raw.find(b"\n", error.start)
    line = raw[start : end if end >= 0 else None].decode("cp1252", "replace").strip()
    number = raw.count(b"\n", 0, error.start) + 1
    shown = line if len(line) <= 40 else line[:39] + "…"
    return (
        f"{path}: not UTF-8 (byte 0x{raw[error.start]:02x} in line {number}). Read as Latin-1 or "
        f"Windows-1252 that line is {shown!r}; save the file as UTF-8."
    )
