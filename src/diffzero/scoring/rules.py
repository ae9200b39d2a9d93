"""When a class leaves a race, and how much evidence that takes.

Two things may be asked of a race's answer. `limit` is the class that infinitely many draws would
name. `dense` is the class that all `max_draws` draws would name: what is uncertain then is only
the part not yet drawn, and every race ends.

Only comparisons with the truly best class can wrongly remove it, and there are K - 1 of them: with
`alpha = delta / (K - 1)` it survives with probability 1 - delta.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..errors import InputError
from .evidence import betting_evidence, effective_draws, predictive_evidence, student_evidence
from .spread import (
    sample_variance,
    shared_variance,
    successive_variance,
    trend_removed,
)

Target = Literal["dense", "limit"]
Spread = Literal["successive", "sample"]
Boundary = Literal["mixture", "predictive", "betting"]


@dataclass(frozen=True)
class Rule:
    """When a class leaves a race, and when the race ends.

    Args:
        delta: Probability that the race's answer is not the target's, over draws.
        min_draws: Draws before a class may leave.
        max_draws: Draws at which the race ends.
        target: `dense` asks what `max_draws` draws would answer, `limit` what infinitely many.
        boundary: `predictive` errs with probability delta on average over images, and needs
            `target="dense"`; `mixture` may be watched at any time whatever the mean; `betting` is
            exact for independent draws above `-bound`, and needs `target="limit"`.
        spread: `successive` or `sample`: how the variance of a draw is estimated.
        group: Draws of which only the mean counts: 2 for antithetic pairs, 2^m for blocks of
            nested draws that each have a shift of their own, whose means are independent.
        effect: Mean over standard deviation of a draw at which `mixture` is sharpest, rho.
        prior: Degrees of freedom lent to a class's variance by its rivals', see `shared_variance`.
        bound: For `betting`: no difference of group means lies below `-bound`.
        profile: Relative size of differences over even bins of time, for `trend_removed`; None
            leaves the trend in.
        threshold: Evidence in nats at which a class leaves, see `calibrated_threshold`; what
            `leaving` says if None.

    Raises:
        InputError: arguments outside their ranges, or that exclude each other.
    """

    delta: float = 0.05
    min_draws: int = 4
    max_draws: int = 64
    target: Target = "dense"
    boundary: Boundary = "predictive"
    spread: Spread = "successive"
    group: int = 1
    effect: float = 0.8
    prior: float = 16.0
    bound: float | None = None
    profile: tuple[float, ...] | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.delta < 1:
            raise InputError(f"delta must lie in (0, 1); got {self.delta}.")
        if self.group < 1 or self.min_draws % self.group or self.max_draws % self.group:
            raise InputError(
                f"min_draws and max_draws must be multiples of group = {self.group}; got "
                f"{self.min_draws} and {self.max_draws}."
            )
        if not 1 <= self.min_draws <= self.max_draws:
            raise InputError(
                f"Draws must satisfy 1 <= min_draws <= max_draws; got {self.min_draws} and "
                f"{self.max_draws}."
            )
        if self.effect <= 0 or self.prior < 0:
            raise InputError(
                f"effect must be positive and prior at least 0; got {self.effect}, {self.prior}."
            )
        self._check_names()

    def _check_names(self) -> None:
        known = {
            "target": ("dense", "limit"),
            "boundary": ("mixture", "predictive", "betting"),
            "spread": ("successive", "sample"),
        }
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise InputError(
                    f"{name} must be one of {', '.join(values)}; got {getattr(self, name)!r}."
                )
        if self.profile is not None and not (len(self.profile) and min(self.profile) > 0):
            raise InputError(f"profile must be positive numbers; got {self.profile}.")
        if self.boundary == "betting" and (self.bound is None or self.bound <= 0):
            raise InputError(f"betting needs a positive bound; got {self.bound}.")
        needed = {"betting": "limit", "predictive": "dense"}.get(self.boundary, self.target)
        if self.target != needed:
            raise InputError(f'{self.boundary} needs target="{needed}"; got {self.target!r}.')

    def leaving(self, evidence: np.ndarray, k: int, spent: float) -> np.ndarray:
        """Which rivals leave.

        Boundaries that hold for every mean ask for `log((K - 1) / delta)`. Probabilities of
        `predictive` add up, so that its classes spend a common account: a rival leaves when its
        probability is at most its equal part of what is left, `(delta - spent) / rivals`, and the
        probabilities of all that left never exceed delta. Classes that are far behind spend almost
        nothing, and leave delta to those that are close.

        Args:
            evidence: Against each rival in the race.
            k: Classes at the start.
            spent: Sum of the probabilities of those that left.
        """
        if self.threshold is not None:
            return evidence >= self.threshold
        if self.boundary == "predictive":
            return np.exp(-evidence) <= (self.delta - spent) / len(evidence)
        return evidence >= np.log((k - 1) / self.delta)

    def evidence(self, differences: np.ndarray, places: np.ndarray, target: Target) -> np.ndarray:
        """Evidence against each rival, `[k]`, from differences of group means to the leader.

        A rule whose own boundary says nothing about the limit uses `mixture` for it.

        Args:
            differences: `[n, k]`.
            places: Place in [0, 1) of each group's first draw, `[n]`.
            target: What the evidence is about.
        """
        n = len(differences)
        if self.boundary == "betting" and self.bound is not None:
            return betting_evidence(differences, self.bound)
        total = self.max_draws // self.group if target == "dense" else np.inf
        if self.profile is not None:
            differences = trend_removed(differences, places, self.profile)
        mean, u = differences.mean(0), effective_draws(n, total)
        if self.spread == "sample":
            variance, freedom = sample_variance(differences)
        else:
            variance, freedom = successive_variance(differences, places)
        shared, nu = shared_variance(variance, freedom, self.prior)
        if self.boundary == "predictive" and target == "dense":
            return predictive_evidence(mean, u, shared, nu)
        return student_evidence(mean, u, shared, nu, self.effect**2)
