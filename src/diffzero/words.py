"""Labels in a line of text, as people type them: separated by commas, some in quotes."""

from __future__ import annotations

import ast
import re
import unicodedata

from .errors import InputError
from .options import short

# Comma; full-width, ideographic, small and Arabic comma.
COMMAS = ",\uff0c\u3001\ufe50\u060c"
OTHERS = ";\uff1b\t\n|"  # separate where there is no comma
QUOTES = {
    **{'"': '"', "'": "'", "\u201c": "\u201d", "\u201e": "\u201c"},
    **{"\u2018": "\u2019", "\u00ab": "\u00bb"},
}
# Spaces of no width and marks of direction, which copied text brings along and nobody sees.
UNSEEN = "\u200b\u200c\u200e\u200f\u2060\ufeff"


def bare(text: str) -> str:
    """The text without the space around it, that of no width and marks of direction included."""
    while (shorter := text.strip().strip(UNSEEN)) != text:
        text = shorter
    return text


def split_labels(text: str) -> list[str]:
    """The labels in a line such as `cat, "red, round apple", dog`.

    Commas separate, full-width ones too; where there is none, semicolons, tabs, bars or line ends
    do. A label in quotes keeps its separators; a doubled quote within it is a quote. A list as
    Python and JSON write it, `["cat", "dog"]`, is one too.

    Args:
        text: What was typed.

    Returns:
        The labels in order, without quotes and the space around them, composed (NFC). Blank ones
        are kept, so that whoever checks labels can point at them.

    Raises:
        InputError: a quote that is opened and not closed, two kinds of separators, or brackets
            around something else than a list of quoted words.
    """
    text = bare(unicodedata.normalize("NFC", text))
    if text[:1] == "[" and text[-1:] == "]":
        return _listed(text)
    plain = "".join(part for part, quoted in _pieces(text, COMMAS + OTHERS) if not quoted)
    separators = COMMAS if any(c in COMMAS for c in plain) else OTHERS
    if separators is COMMAS and re.search(r"[;\uff1b\t]", plain):
        raise InputError(
            f"The labels {text!r} are separated by commas and by semicolons or tabs. Separate "
            "them by commas alone, and put a label that holds one in double quotes."
        )
    labels, current = [], ""
    for part, quoted in _pieces(text, separators):
        if quoted or part not in separators:
            current += part
        else:
            labels.append(bare(current))
            current = ""
    return [*labels, bare(current)]


def _listed(text: str) -> list[str]:
    """The words of a list as Python and JSON write it.

    Raises:
        InputError: brackets around anything else.
    """
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(word, str) for word in found):
        raise InputError(
            f"The labels {short(text)} stand in brackets and are no list of quoted words. Write "
            "them without brackets: cat,dog."
        )
    return [bare(unicodedata.normalize("NFC", word)) for word in found]


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
