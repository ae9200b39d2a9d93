"""Races over errors that were kept: what a rule would have answered, and at what cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import beta

from ..errors import InputError
from .racing import Race
from .rules import Rule


def simulate(errors: np.ndarray, places: np.ndarray, rule: Rule, step: int | None = None) -> Race:
    """Run the race of one image over errors that were kept.

    Classes whose kept errors end, as those of a race do, leave there.

    Args:
        errors: `[draws, k]`, NaN where a class was not given a draw.
        places: Of the draws.
        rule: See `Rule`.
        step: Draws between looks after the first; one group if None.
    """
    race = Race(errors.shape[1], rule)
    while (now := race.standing).reason == "running":
        start = int(race.draws.max())
        n = now.next_draws if start < rule.min_draws else max(now.next_draws, step or 1)
        rows = slice(start, min(start + n, rule.max_draws))
        kept = errors[rows][:, now.alive]
        there = (len(kept) == rows.stop - start) & np.isfinite(kept).all(0)
        if there.all():
            race.update(kept, places[rows])
        elif not race.retire(now.alive[~there]):
            return race
    return race


def calibrated_threshold(thresholds: Sequence[float], wrong: np.ndarray, delta: float) -> float:
    """The least evidence that keeps a race's disagreement with dense draws at most `delta`.

    Images with kept draws, which need no labels, are raced at each threshold. Thresholds are tried
    from the strictest on, and the last one is taken before the first whose share of disagreeing
    images may exceed delta (Clopper and Pearson's upper bound at 90 %). Because the order is fixed
    beforehand no further correction is due: on images like these the share exceeds delta with
    probability at most 0.1.

    Args:
        thresholds: In any order.
        wrong: Whether each image disagrees at each threshold, bool `[thresholds, n]`.
        delta: Share of images allowed.

    Raises:
        InputError: not even the strictest threshold holds; more images are needed.

    References:
        Angelopoulos et al., Learn then test, 2021. https://arxiv.org/abs/2110.01052
    """
    order = np.argsort(thresholds)[::-1]
    chosen = None
    for i in order:
        bad, n = int(wrong[i].sum()), wrong.shape[1]
        if bad == n or beta.ppf(0.9, bad + 1, n - bad) > delta:
            break
        chosen = float(thresholds[i])
    if chosen is None:
        raise InputError(
            f"{wrong.shape[1]} images cannot show an error of at most {delta}: "
            f"{int(wrong[order[0]].sum())} disagree at the strictest threshold."
        )
    return chosen
