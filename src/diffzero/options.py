"""Arguments of methods, each with what it may be, checked in one place.

    draws: int = option(32, whole(1, 10_000))

A dataclass field carries its check as metadata; `check_options` goes through all of them and says
which argument was wrong, what was given and what is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field, fields
from difflib import get_close_matches
from typing import Any

import numpy as np

from .errors import InputError


class Check:
    """What a value may be.

    Args:
        says: How the allowed values are described after "must be".
        fits: Whether a value is one.
    """

    def __init__(self, says: str, fits: Callable[[Any], bool]) -> None:
        self.says, self.fits = says, fits

    def __or__(self, other: Check) -> Check:
        return Check(f"{self.says}, or {other.says}", lambda v: self.fits(v) or other.fits(v))


def _is_real(value: Any) -> bool:
    kinds = float | int | np.float64 | np.float32 | np.float16 | np.int64
    return isinstance(value, kinds) and not isinstance(value, bool)


def whole(low: int, high: int, more: str = "") -> Check:
    """A whole number between two bounds, both included.

    NumPy's short integers are none: products of them would wrap around in silence.

    Args:
        low: The least.
        high: The most.
        more: How to get what lies above it, for the message.
    """

    def fits(value: Any) -> bool:
        ok = isinstance(value, int | np.int64) and not isinstance(value, bool)
        return ok and low <= int(value) <= high

    hint = f" ({more})" if more else ""
    return Check(f"a whole number from {low:,} to {high:,}{hint}", fits)


def number(low: float = -math.inf, high: float = math.inf, *, above: bool = False) -> Check:
    """A finite number between two bounds; the lower one excluded with `above`."""
    words = "a number"
    if low > -math.inf:
        words += f" {'above' if above else 'of at least'} {low:g}"
    if high < math.inf:
        words += f"{' and' if low > -math.inf else ''} up to {high:g}"

    def fits(value: Any) -> bool:
        if not _is_real(value) or not math.isfinite(value):
            return False
        return (value > low if above else value >= low) and value <= high

    return Check(words, fits)


def one_of(*words: str) -> Check:
    """One of some words."""
    return Check(f"one of {', '.join(words)}", lambda v: isinstance(v, str) and v in words)


def interval(low: float = -math.inf, high: float = math.inf) -> Check:
    """`(min, max)`, two finite numbers between bounds, the first below the second."""
    bounds = "" if low == -math.inf else f" within [{low:g}, {high:g}]"

    def fits(value: Any) -> bool:
        pair = isinstance(value, tuple | list) and len(value) == 2
        if not pair or not all(_is_real(v) and math.isfinite(v) for v in value):
            return False
        return low <= value[0] < value[1] <= high

    return Check(f"(min, max) with min < max{bounds}", fits)


def several(each: Check, most: int = 1_000_000) -> Check:
    """Between one and `most` values in a list or tuple."""

    def fits(value: Any) -> bool:
        some = isinstance(value, tuple | list) and 0 < len(value) <= most
        return some and all(map(each.fits, value))

    bound = f" of at most {most:,}" if most < 1_000_000 else ""
    return Check(f"a list{bound}, each {each.says}", fits)


ANYTHING = Check("anything", lambda v: True)
NOTHING = Check("None", lambda v: v is None)
FLAG = Check("True or False", lambda v: isinstance(v, bool | np.bool_))
CALLED = Check("a function, or None", lambda v: v is None or callable(v))
# A half of a character, which no tokenizer takes, cannot be encoded: that raises, and is refused.
WORDS = Check("a text", lambda v: isinstance(v, str) and isinstance(v.encode(), bytes))
TEMPLATES = WORDS | several(WORDS, 1_000) | NOTHING
DRAWS = whole(1, 1_024, "for more, average the logits of several seeds")
STEPS = whole(1, 1_000)
GUIDANCE = number(-1_000, 1_000)
TEMPERATURE = Check("a number above 0, up to 1e+12", number(1e-12, 1e12).fits)
LOG_SNR = interval(-100, 100)
ARRAY = Check("an array", lambda v: isinstance(v, np.ndarray))
PRIORS = NOTHING | Check(
    "one positive number per class, by name or in order",
    lambda v: isinstance(v, Mapping | list | tuple | np.ndarray),
)
SEED = whole(-(2**63), 2**64 - 1)


def option(default: Any, check: Check, *, positional: bool = False) -> Any:
    """A dataclass field with a default and what it may be."""
    return field(default=default, metadata={"check": check}, kw_only=not positional)


def check_options(owner: Any) -> None:
    """Go through the fields of a dataclass instance.

    Args:
        owner: The instance.

    Raises:
        InputError: the first field whose value is not allowed.
    """
    for one in fields(owner):
        check_value(one.name, getattr(owner, one.name), one.metadata.get("check", ANYTHING))


def check_value(name: str, value: Any, check: Check) -> None:
    """Refuse a value that is not allowed.

    Raises:
        InputError: naming the argument, what it may be, and what was given.
    """
    try:
        fits = check.fits(value)
    except Exception:  # a value that cannot even be compared
        fits = False
    if not fits:
        raise InputError(f"{name} must be {check.says}; got {short(value)}.")


def as_numbers(values: Any) -> np.ndarray:
    """Values as float64; what is no number becomes NaN."""
    try:
        return np.asarray([float(v) if _is_real(v) else math.nan for v in values])
    except (TypeError, ValueError, OverflowError):
        return np.asarray(math.nan)


def nearest(name: str, known: Iterable[str]) -> str:
    """How a list of the known names begins in a message: by the one that was meant, if any."""
    near = get_close_matches(name, known, 1)
    return f"the nearest is {near[0]}, and there are " if near else "there are "


def short(value: Any) -> str:
    """A value as a message shows it: on one line, of bounded length, whatever it is."""
    try:
        if isinstance(value, int) and abs(value) > 10**40:
            return f"a whole number of {value.bit_length():,} bits"
        text = " ".join(repr(value)[:1000].split())
    except Exception:
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."
