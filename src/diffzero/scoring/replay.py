"""Races over errors that were kept: what a rule would have answered, and at what cost."""

from __future__ import annotations

import numpy as np

from .racing import Race
from .rules import Rule


def simulate(errors: np.ndarray, places: np.ndarray, rule: Rule) -> Race:
    """Run the race of one image over errors that were kept.

    Classes whose kept errors end, as those of a race do, leave there.

    Args:
        errors: `[draws, k]`, NaN where a class was not given a draw.
        places: Of the draws.
        rule: See `Rule`.
    """
    race = Race(errors.shape[1], rule)
    while (now := race.standing).reason == "running":
        start = int(race.draws.max())
        rows = slice(start, min(start + now.next_draws, rule.max_draws))
        kept = errors[rows][:, now.alive]
        there = (len(kept) == rows.stop - start) & np.isfinite(kept).all(0)
        if there.all():
            race.update(kept, places[rows])
        elif not race.retire(now.alive[~there]):
            return race
    return race
