"""The ways a call can fail, told apart because the command line exits differently.

A message says what was wrong, what was given, and what to do about it.
"""

from typing import Any


class DiffzeroError(Exception):
    """Anything diffzero raises on purpose; the command line exits with 1."""


class InputError(DiffzeroError, ValueError):
    """The caller gave something that cannot be used; the command line exits with 2."""


def said(error: BaseException) -> str:
    """What another library's error says, on one line of at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__


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
