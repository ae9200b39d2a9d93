"""The ways a call can fail, told apart because the command line exits differently.

A message says what was wrong, what was given, and what to do about it.
"""

import re
import traceback
from typing import Any


class DiffzeroError(Exception):
    """Anything diffzero raises on purpose; the command line exits with 1."""


class InputError(DiffzeroError, ValueError):
    """The caller gave something that cannot be used; the command line exits with 2.

    A message names what was given, which may be of any length: its longest words and its middle
    are cut, so that what was wrong and what to do can still be found in it.

    Args:
        message: What was wrong, what was given, what to do.
    """

    def __init__(self, message: str = "") -> None:
        words = re.sub(r"\S{400,}", lambda word: f"{word[0][:120]}...{word[0][-60:]}", message)
        super().__init__(words if len(words) < 880 else f"{words[:600]} ... {words[-200:]}")


def said(error: BaseException) -> str:
    """What another library's error says: its first sentence, on one line of at most 200
    characters. An assertion without words is told by its own line."""
    whole = " ".join(str(error).split())
    if wanted := re.search(r"tried to allocate (\d+) bytes", whole):
        return f"it needs {int(wanted[1]):,} bytes of memory at once, more than there are"
    text = re.split(r"\. (?=[A-Z])", whole)[0].rstrip(".")
    if isinstance(error, KeyError):
        text = f"there is no {text}"
    if not text and (steps := traceback.extract_tb(error.__traceback__)):
        text = f"{type(error).__name__} at {steps[-1].line or steps[-1].name}"
    text = plain(text) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."


def plain(text: str) -> str:
    """A text on one line, with escapes for what does not print."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def storable(text: str) -> str:
    """A text as files hold it: bytes of a name that are no text become escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


class NotFinite(InputError):
    """A network answered NaN or infinity, which is no score.

    Args:
        model: The model, whose precision may be the cause.
        networks: What has weights, by name; they are looked through for the cause.
        positions: Of the images, among those given.
    """

    def __init__(self, model: Any, networks: dict[str, Any], positions: list[int]) -> None:
        self.positions = positions
        shown = ", ".join(map(str, positions[:5])) + (", ..." if len(positions) > 5 else "")
        super().__init__(
            f"{model.name} answered NaN or infinity for {len(positions)} of the images (position "
            f"{shown}): {_cause(model, networks)}"
        )


def _cause(model: Any, networks: dict[str, Any]) -> str:
    for part, network in networks.items():
        for name, tensor in network.named_parameters():
            if not bool(tensor.isfinite().all()):
                return f"its {part} is damaged ({name} holds NaN or infinity); fetch it again."
    if "float16" in str(model.dtype):
        return "half precision overflows in it; load it with dtype='float32' or 'bfloat16'."
    return "its weights are finite, so it diverges on this input; the model may be damaged."
