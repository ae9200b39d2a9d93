"""Lists of words as people write them: on a command line, or one per line in a file."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from ..errors import InputError
from .text_files import read_lines

# Comma; full-width, ideographic, small and Arabic comma.
COMMAS = ",\uff0c\u3001\ufe50\u060c"
OTHERS = ";\uff1b\t\n|"  # separate where there is no comma
QUOTES = {'"': '"', "'": "'", "\u201c": "\u201d", "\u201e": "\u201c", "\u00ab": "\u00bb"}
HEADERS = {
    *("label", "labels", "class", "classes", "class name", "class names", "category"),
    *("categories", "label name", "classname", "classnames"),
}

# Signs of a table, or of several words on a line; 1,000 and "tench, Tinca tinca" are neither.
SEVERAL = re.compile(
    r"[;\t\uff1b\uff0c\u3001]|^\d+\s*,(?!\d{3})|(?<!\d),(?=\S)|,(?=[^\s\d])|,\s*\d+$"
)


def split_labels(text: str) -> list[str]:
    """The labels in a line such as `cat, "red, round apple", dog`.

    Commas separate, full-width ones too; where there is none, semicolons, tabs, bars or line ends
    do. A label in quotes keeps its separators; a doubled quote within it is a quote.

    Args:
        text: What was typed.

    Returns:
        The labels in order, without quotes and the space around them, composed (NFC). Blank ones
        are kept, so that whoever checks labels can point at them.

    Raises:
        InputError: a quote that is opened and not closed, or two kinds of separators.
    """
    text = unicodedata.normalize("NFC", text).removeprefix("\ufeff").strip()
    bare = "".join(part for part, quoted in _pieces(text, COMMAS + OTHERS) if not quoted)
    separators = COMMAS if any(c in COMMAS for c in bare) else OTHERS
    if separators is COMMAS and re.search(r"[;\uff1b\t]", bare):
        raise InputError(
            f"The labels {text!r} are separated by commas and by semicolons or tabs. Separate "
            "them by commas alone, and put a label that holds one in double quotes."
        )
    labels, current = [], ""
    for part, quoted in _pieces(text, separators):
        if quoted or part not in separators:
            current += part
        else:
            labels.append(current.strip())
            current = ""
    return [*labels, current.strip()]


def _pieces(text: str, separators: str) -> list[tuple[str, bool]]:
    """The text as single characters, and quoted labels whole: (text, whether it was quoted)."""
    pieces: list[tuple[str, bool]] = []
    place, fresh = 0, True
    while place < len(text):
        char = text[place]
        found = _quoted(text, place, separators) if fresh and char in QUOTES else None
        if found is not None:
            label, place = found
            pieces.append((label, True))
            fresh = False
            continue
        pieces.append((char, False))
        fresh = char in separators or (fresh and char.isspace())
        place += 1
    return pieces


def _quoted(text: str, start: int, separators: str) -> tuple[str, int] | None:
    """The quoted label that starts here and the place after it; None where it is no quote."""
    close = QUOTES[text[start]]
    place = start + 1
    while (place := text.find(close, place)) >= 0:
        if text[place + 1 : place + 2] == close and close == '"':
            place += 2
            continue
        rest = text[place + 1 :].lstrip(" ")
        if not rest or rest[0] in separators:
            label = text[start + 1 : place]
            return label.replace('""', '"') if close == '"' else label, place + 1
        place += 1
    if text[start] == '"':
        raise InputError(
            f"A quote is opened and not closed in {text[start : start + 40]!r}. Close it before "
            "the next comma, or leave it out."
        )
    return None  # an apostrophe, as in 'tis


def read_words(path: Path) -> list[str]:
    """The words in a file with one per line.

    A single line with separators is split as `split_labels` does; a line in double quotes loses
    them; a column's name above the words (`label`, `class`) is left out. A comma followed by a
    space belongs to the word, as in "tench, Tinca tinca".

    Raises:
        InputError: unreadable, or a table instead of words; says which line.
    """
    lines = read_lines(path)
    if len(lines) == 1 and re.search(f"[{re.escape(COMMAS + ';' + chr(0xFF1B))}\t]", lines[0]):
        return [word for word in split_labels(lines[0]) if word]
    lines = [re.sub(r"\s*[,;\t\uff0c\uff1b]+$", "", line) for line in lines]
    if len(lines) > 2 and " ".join(re.split(r"[\W_]+", lines[0].lower())).strip() in HEADERS:
        lines = lines[1:]
    return [_one_word(path, line, place) for place, line in enumerate(lines, 1)]


def _one_word(path: Path, line: str, number: int) -> str:
    """A line that holds one word or phrase, without quotes around it."""
    if len(line) > 1 and line[0] == line[-1] == '"':
        return line[1:-1].replace('""', '"').strip()
    several = SEVERAL.search(line)
    if several:
        raise InputError(
            f"{path}: {line!r} (line {number}) looks like several values, {several[0]!r} between "
            "them. Give one word or phrase a line, and put one that holds such a sign in double "
            "quotes."
        )
    return line
