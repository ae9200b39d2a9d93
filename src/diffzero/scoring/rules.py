"""When a class leaves a race, and how much evidence that takes.

Two things may be asked of evidence. `dense` is the class that all `max_draws` draws would name:
what is uncertain is only the part not yet drawn, every race ends, and by it classes leave. `limit`
is the class that infinitely many draws would name, which label sets are about.

Only comparisons with the truly best class can wrongly remove it, and there are K - 1 of them: with
`alpha = delta / (K - 1)` it survives with probability 1 - delta.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..errors import InputError
from .evidence import effective_draws, predictive_evidence, student_evidence
from .spread import (
    distance_variance,
    sample_variance,
    shared_variance,
    successive_variance,
    variance_left,
)

Target = Literal["dense", "limit"]
Variance = Literal["distance", "successive", "plain"]
Boundary = Literal["mixture", "predictive"]


@dataclass(frozen=True)
class Rule:
    """When a class leaves a race, and when the race ends.

    Args:
        delta: Probability that the race's answer is not that of `max_draws` draws.
        min_draws: Draws before a class may leave.
        max_draws: Draws at which the race ends.
        boundary: `predictive` errs with probability delta on average over images; `mixture` may be
            watched at any time whatever the mean.
        variance: `distance`, `successive` or `plain`: how that of a draw is estimated.
        group: Draws of which only the mean counts: blocks of nested draws that each have a shift
            of their own, whose means are independent.
        effect: Mean over standard deviation of a draw at which `mixture` is sharpest, rho.
        prior: Degrees of freedom lent to a class's variance by its rivals', see `shared_variance`.

    Raises:
        InputError: arguments outside their ranges.
    """

    delta: float = 0.05
    min_draws: int = 4
    max_draws: int = 64
    boundary: Boundary = "predictive"
    variance: Variance = "successive"
    group: int = 1
    effect: float = 0.8
    prior: float = 16.0

    def __post_init__(self) -> None:
        if not 0 < self.delta < 1:
            raise InputError(f"delta must lie in (0, 1); got {self.delta}.")
        if self.variance == "distance" and self.group > 1:
            raise InputError(
                f"The variance `distance` is of single draws; got group = {self.group}. "
                "Use the variance `plain`."
            )
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
        known = {
            "boundary": ("mixture", "predictive"),
            "variance": ("distance", "successive", "plain"),
        }
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise InputError(
                    f"{name} must be one of {', '.join(values)}; got {getattr(self, name)!r}."
                )

    @classmethod
    def blocked(
        cls, *, min_draws: int, max_draws: int, block: int | None = None, **more: Any
    ) -> Rule:
        """A rule with whole blocks: the fewest that hold `min_draws` (two at least, since one mean
        has no variance), and the most within `max_draws`.

        Args:
            min_draws: See `Rule`; no more than `max_draws` counts.
            max_draws: See `Rule`.
            block: Draws of a block with a shift of its own, of whose means the plain variance is
                taken; None for one sequence.
            more: Other arguments of `Rule`.

        Raises:
            InputError: less than two blocks, or what `Rule` refuses.
        """
        if block is None:
            return cls(min_draws=min(min_draws, max_draws), max_draws=max_draws, **more)
        if max_draws < 2 * block:
            raise InputError(
                f"max_draws must hold at least two blocks of {block} draws; got {max_draws}."
            )
        last = max_draws // block * block
        first = max(2 * block, -(-min_draws // block) * block)
        more["variance"] = "plain"
        return cls(min_draws=min(first, last), max_draws=last, group=block, **more)

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
        if self.boundary == "predictive":
            return np.exp(-evidence) <= (self.delta - spent) / len(evidence)
        return evidence >= np.log((k - 1) / self.delta)

    def evidence(
        self,
        differences: np.ndarray,
        places: np.ndarray,
        target: Target,
        *,
        distances: np.ndarray | None = None,
        adjusted: np.ndarray | None = None,
    ) -> np.ndarray:
        """Evidence against each rival, `[k]`, from differences of group means to the leader.

        `predictive` says nothing about the limit; `mixture` stands in for it there.

        Args:
            differences: `[n, k]`.
            places: Place in [0, 1) of each group's first draw, `[n]`.
            target: What the evidence is about.
            distances: Squared, of the predictions of each draw, `[n, k]`; `distance` needs them.
            adjusted: Differences that tell of the draws to come with less noise, see `control`.

        Raises:
            InputError: the variance `distance` without distances.
        """
        n = len(differences)
        total = self.max_draws // self.group if target == "dense" else np.inf
        share = 1.0 if adjusted is None else variance_left(n)
        best = differences if adjusted is None else adjusted
        mean = (differences + (1 - n / total) * (best - differences)).mean(0)
        u = effective_draws(n, total, share)
        if self.variance == "distance":
            if distances is None:
                raise InputError("The variance `distance` needs distances of predictions.")
            shared, nu = distance_variance(best, places, distances, self.prior, share)
        else:
            if self.variance == "plain":
                variance, freedom = sample_variance(best)
            else:
                variance, freedom = successive_variance(best, places)
            shared, nu = shared_variance(variance, freedom, self.prior)
        if self.boundary == "predictive" and target == "dense":
            return predictive_evidence(mean, u, shared, nu)
        return student_evidence(mean, u, shared, nu, self.effect**2)
