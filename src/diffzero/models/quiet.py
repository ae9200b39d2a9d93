"""The libraries' chatter, off while a model is loaded and as it was afterwards."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any

_LOCK, _DEPTH = RLock(), 0
_BEFORE: list[Any] = []


@contextmanager
def quiet() -> Iterator[None]:
    """No messages and bars of diffusers, transformers and the hub, which would drown our own.

    Several threads may hold it at once; the last to leave restores what the first found.
    """
    global _DEPTH
    with _LOCK:
        if _DEPTH == 0:
            _BEFORE[:] = _silence()
        _DEPTH += 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        with _LOCK:
            _DEPTH -= 1
            if _DEPTH == 0:
                for restore in _BEFORE:
                    restore()


def _silence() -> list[Any]:
    """Turn chatter off; what turns it on again, as far as it was on."""
    import diffusers.utils.logging as diffusers_logging
    import transformers.utils.logging as transformers_logging

    undo: list[Any] = []
    for name in ("diffusers", "transformers", "huggingface_hub"):
        logger = logging.getLogger(name)
        undo.append(lambda logger=logger, level=logger.level: logger.setLevel(level))
        logger.setLevel(logging.CRITICAL)  # what goes wrong is raised, too
    for module in (diffusers_logging, transformers_logging):
        if module.is_progress_bar_enabled():
            undo.append(module.enable_progress_bar)
            module.disable_progress_bar()
    return undo
