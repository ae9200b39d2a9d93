"""Lists of words in files, one word a line, as people and programs write them."""

from __future__ import annotations

import ast
import json
import re
import unicodedata
from pathlib import Path

from ..errors import InputError
from ..words import COMMAS, QUOTES, bare, split_labels
from .text_files import lines_of, read_text

HEADERS = {
    *("label", "labels", "class", "classes", "class name", "class names", "category"),
    *("categories", "label name", "classname", "classnames"),
}
# Signs of a table, or of several words on a line; 1,000 and "tench, Tinca tinca" are neither.
SEVERAL = re.compile(
    r"[;\t|\uff1b\uff0c\u3001]|^\d+\s*,(?!\d{3})|(?<!\d),(?=\S)|,(?=[^\s\d])|,\s*\d+$"
)
# What stands in files of settings, programs and notes, and in no label.
OTHER = (
    (re.compile(r"(#|//)\s"), "is a comment"),
    (re.compile(r".*:$"), "is a heading"),
    (re.compile(r".*=\s*[\[({]"), "is part of a program"),
)
BULLET = re.compile(r"[-*\u2022\u2013]\s+(?=\S)")
NUMBER = re.compile(r"(\d+)[.):]\s+(?=\S)")
SYNSET = re.compile(r"n\d{8}\s+(?=\S)")  # ImageNet's folder names, before its words
PROGRAM = re.compile(r"(?:[\w.]+\s*=\s*)?(\[.*\])\s*;?", re.DOTALL)
QUOTED = re.compile(r"""(["'])((?:(?!\1).)*)\1\s*,?""")


def read_words(path: Path) -> list[str]:
    """The words in a file with one per line.

    A single line with separators is split as `split_labels` does; a line in quotes loses them; a
    column's name above the words (`label`, `class`) is left out, and so are bullets and numbers
    (`1.`, `2.`) that stand before all of them. A comma followed by a space belongs to the word,
    as in "tench, Tinca tinca". A JSON list of words is read as one.

    Raises:
        InputError: unreadable, no words, or something else instead of words; says which line.
    """
    text = read_text(path)
    listed = _json_words(path, text)
    if listed is not None:
        return listed
    lines = lines_of(path, text)
    if not lines:
        raise InputError(f"{path}: holds no words. Write one a line.")
    if len(lines) == 1 and re.search(f"[{re.escape(COMMAS + ';|' + chr(0xFF1B))}\t]", lines[0]):
        _refuse_others(path, lines[0], 1)
        return [word for word in split_labels(lines[0]) if word]
    if re.fullmatch(r"sep=.?", lines[0].lower()):  # as Excel writes it
        lines = lines[1:]
    lines = [re.sub(r"\s*[,;\t\uff0c\uff1b]+$", "", line) for line in lines]
    if len(lines) > 2 and " ".join(re.split(r"[\W_]+", lines[0].lower())).strip() in HEADERS:
        lines = lines[1:]
    lines = _unmarked(lines)
    return [_one_word(path, line, place) for place, line in enumerate(lines, 1)]


def read_phrases(path: Path) -> list[str]:
    """The phrases in a file with one per line, such as templates: commas and dots are theirs.

    Bullets, running numbers, and quotes around a phrase are left out; a list of JSON or Python is
    read as one.

    Raises:
        InputError: unreadable.
    """
    text = read_text(path)
    listed = _json_words(path, text) if PROGRAM.fullmatch(text.strip()) else None
    if listed is not None:
        return listed
    quoted = [(QUOTED.fullmatch(line), line) for line in _unmarked(lines_of(path, text))]
    return [match[2] if match else line for match, line in quoted]


def _json_words(path: Path, text: str) -> list[str] | None:
    """The words of a JSON list; None where the file is no JSON.

    Raises:
        InputError: JSON of another form.
    """
    program = PROGRAM.fullmatch(text.strip())
    if program is None and text.lstrip()[:1] != "{":
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        if program is None:
            return None
        try:  # a list as programs have it: single quotes, a comma at the end, a name before it
            found = ast.literal_eval(program[1])
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return None
    if not isinstance(found, list) or not all(isinstance(word, str) for word in found):
        raise InputError(
            f"{path}: this is JSON, and no list of words. Write one word a line, or a list such "
            'as ["cat", "dog"].'
        )
    return [bare(unicodedata.normalize("NFC", word)) for word in found]


def _unmarked(lines: list[str]) -> list[str]:
    """Lines without the bullets or the running numbers, if all of several have them."""
    if len(lines) < 2:
        return lines
    for sign in (BULLET, SYNSET):
        if all(map(sign.match, lines)):
            return [sign.sub("", line, count=1) for line in lines]
    found = [NUMBER.match(line) for line in lines]
    numbers = [int(match[1]) for match in found if match]
    if numbers in (list(range(len(lines))), list(range(1, len(lines) + 1))):
        return [NUMBER.sub("", line, count=1) for line in lines]
    return lines


def _one_word(path: Path, line: str, number: int) -> str:
    """A line that holds one word or phrase, without quotes around it."""
    if len(line) > 1 and line[0] == line[-1] == '"':
        return line[1:-1].replace('""', '"').strip()
    if line.startswith('"') and line.count('"') % 2:
        raise InputError(
            f"{path}: a quote is opened and not closed in {line!r} (line {number}). A word ends "
            "on its line."
        )
    close = QUOTES.get(line[:1])
    if close and len(line) > 2 and line.find(close, 1) == len(line) - 1:
        return line[1:-1].strip()
    _refuse_others(path, line, number)
    several = SEVERAL.search(line)
    if several:
        raise InputError(
            f"{path}: {line!r} (line {number}) looks like several values, {several[0]!r} between "
            "them. Give one word or phrase a line, and put one that holds such a sign in double "
            "quotes."
        )
    return line


def _refuse_others(path: Path, line: str, number: int) -> None:
    """Refuse a line of a program, a file of settings, or notes.

    Raises:
        InputError: naming the line.
    """
    other = next((what for pattern, what in OTHER if pattern.match(line)), None)
    if other is not None:
        raise InputError(
            f"{path}: {line!r} (line {number}) {other}, as it seems, and not a word. Leave it "
            "out, or put it in double quotes."
        )
