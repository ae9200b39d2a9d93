"""One rule for temperatures: the settings they were fitted with must be those in use.

A temperature depends on how noisy a mean of errors is, so on the number of draws n. Between
numbers that were fitted, log T is linear in log n; beyond them there is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np


def fitted_temperature(
    entries: Iterable[Any], method: str, settings: Mapping[str, Any], draws: int
) -> float | None:
    """The temperature of a method as it is set, or None where none was fitted.

    Args:
        entries: `models.backbone.Temperature` each.
        method: Its name.
        settings: Its arguments, but for the number of draws.
        draws: That number.
    """
    return between(fitted_by_draws(entries, method, settings), draws)


def fitted_by_draws(
    entries: Iterable[Any], method: str, settings: Mapping[str, Any]
) -> Mapping[int, float]:
    """Temperature by number of draws, as they were fitted; empty where none was.

    Args:
        entries: `models.backbone.Temperature` each.
        method: Its name.
        settings: Its arguments, but for the number of draws.
    """
    own = plain(settings)
    return next((e.fitted for e in entries if e.method == method and plain(e.settings) == own), {})


def between(fitted: Mapping[int, float], n: int) -> float | None:
    """The temperature of n draws, None beyond the numbers of draws that were fitted."""
    if not fitted or not min(fitted) <= n <= max(fitted):
        return None
    return float(temperatures_at(np.array(n), fitted))


def temperatures_at(draws: np.ndarray, fitted: Mapping[int, float]) -> np.ndarray:
    """Temperatures of numbers of draws, from fitted ones: log T is linear in log n.

    Args:
        draws: Numbers of draws, any shape.
        fitted: Temperature by number of draws; beyond its ends the nearest is taken.
    """
    known = np.array(sorted(fitted), dtype=np.float64)
    values = np.log([float(fitted[int(n)]) for n in known])
    return np.exp(np.interp(np.log(draws), np.log(known), values))


def plain(value: Any) -> Any:
    """Settings as a card's YAML gives them back: lists for tuples, numbers without their kind."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    if isinstance(value, bool | str) or value is None:
        return value
    return value.item() if isinstance(value, np.generic) else value


def temperature_entry(classifier: Any, fitted: Mapping[int, float]) -> dict[str, Any]:
    """An entry of a card's `temperatures`.

    Args:
        classifier: The method with the settings that were used.
        fitted: Temperature by number of draws.
    """
    settings = plain(classifier.settings())
    return {"method": classifier.method, "settings": settings, "fitted": dict(fitted)}
