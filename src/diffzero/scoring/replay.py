"""Races over errors that were kept: what a rule would have answered, and at what cost."""

from __future__ import annotations

import numpy as np

from .racing import Race
from .rules import Rule


def simulate(
    errors: np.ndarray,
    places: np.ndarray,
    rule: Rule,
    products: np.ndarray | None = None,
    shrink: np.ndarray | None = None,
) -> Race:
    """Run the race of one image over errors that were kept.

    Classes whose kept errors end, as those of a race do, leave there.

    Args:
        errors: `[draws, k]`, NaN where a class was not given a draw.
        places: Of the draws.
        rule: See `Rule`.
        products: Of the draws, see `Race.update`.
        shrink: Of the draws, for a race under control.
    """
    race = Race(errors.shape[1], rule, control=shrink is not None)
    while (now := race.standing).reason == "running":
        start = int(race.draws.max())
        rows = slice(start, min(start + now.next_draws, rule.max_draws))
        kept = errors[rows][:, now.alive]
        there = (len(kept) == rows.stop - start) & np.isfinite(kept).all(0)
        if there.all():
            said = None if products is None else products[rows][:, now.alive]
            race.update(kept, places[rows], said, None if shrink is None else shrink[rows])
        elif not race.retire(now.alive[~there]):
            return race
    return race
