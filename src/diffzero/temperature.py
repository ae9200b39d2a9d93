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
    own = plain(settings)
    for entry in entries:
        if entry.method == method and plain(entry.settings) == own:
            return between(entry.fitted, draws)
    return None


def between(fitted: Mapping[int, float], n: int) -> float | None:
    """`exp` of log T, linear in log n between the numbers of draws that were fitted."""
    numbers = sorted(fitted)
    if not numbers or not numbers[0] <= n <= numbers[-1]:
        return None
    logs = np.log([float(fitted[k]) for k in numbers])
    return float(np.exp(np.interp(np.log(n), np.log(numbers), logs)))


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
