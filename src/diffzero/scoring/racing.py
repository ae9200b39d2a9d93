"""Racing: the class of least mean error, from no more draws than the question needs.

A classifier answers the class `c` with the least mean over draws of an error `e_c`. All classes
of an image share their draws, so that classes a and b are compared by paired differences

    D_i = e_b,i - e_a,i,

which vary far less than the errors do. In a race every class that is still in it sees every draw,
and class b leaves once the leader a (the class of the least mean so far) has enough evidence that
the mean of D is positive. `rules` says what is enough, `evidence` how it is weighed, `spread` how
much differences vary, and `control` how some of that is taken out.

References:
    Even-Dar et al., Action elimination and stopping conditions, 2006 (the elimination scheme).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..errors import InputError
from .control import NOISES, adjusted, centred, squared_distances
from .rules import Rule
from .spread import grouped

Reason = Literal["running", "decided", "max_draws"]


@dataclass(frozen=True)
class Standing:
    """Where a race stands after an update.

    Attributes:
        alive: Classes still in the race, in their order: the columns of the next update.
        leader: Class of the least mean error among them.
        reason: `running`, `decided` (one class is left) or `max_draws`.
        next_draws: Draws the next update should bring at least; 0 when the race is over.
    """

    alive: np.ndarray
    leader: int
    reason: Reason
    next_draws: int


class Race:
    """The race of one image.

    Args:
        k: Classes, at least 2.
        rule: See `Rule`.
        control: Whether draws to come are foretold by `control.adjusted` errors. Those so far
            count as they are, so that the answer of `max_draws` draws stays that of plain errors;
            updates must then bring products.

    Attributes:
        draws: Draws that each class has seen, int64 `[k]`; their sum is the evaluations.
        standing: See `Standing`; its leader is -1 before the first draw.

    Raises:
        InputError: fewer than two classes.
    """

    def __init__(self, k: int, rule: Rule, control: bool = False) -> None:
        if k < 2:
            raise InputError(f"A race needs at least two classes; got {k}.")
        self.rule, self.control = rule, control
        self.draws = np.zeros(k, dtype=np.int64)
        self.standing = Standing(np.arange(k), -1, "running", rule.min_draws)
        self._raw = np.full((rule.max_draws, k), np.nan)
        self._adjusted = np.full((rule.max_draws, k), np.nan) if control else self._raw
        self._places, self._shrink = np.zeros((2, rule.max_draws))
        self._products: np.ndarray | None = None
        if control or rule.variance == "distance":  # empty: memory is taken where it is written
            self._products = np.empty((rule.max_draws, k, NOISES))
        self._against = np.full(k, -np.inf)
        self._drawn, self._spent = 0, 0.0

    def update(
        self,
        errors: np.ndarray,
        places: np.ndarray,
        products: np.ndarray | None = None,
        shrink: np.ndarray | None = None,
    ) -> Standing:
        """Take further draws of all classes in the race, and look once.

        Args:
            errors: Weighted errors `[n, k alive]`, columns in the order of `standing.alive`.
            places: Place in [0, 1) of each draw, see `noise.quantiles`; members of a group next
                to each other.
            products: See `control`, in the units of the errors, `[n, k alive, NOISES]`; needed by
                `control` and by the variance `distance`.
            shrink: `control.shrinkage` of each draw, needed by `control`.

        Raises:
            InputError: the race is over, or draws that do not fit.
        """
        alive, n = self.standing.alive, len(errors)
        if self.standing.reason != "running":
            raise InputError(f"The race is over ({self.standing.reason}).")
        if errors.shape != (n, len(alive)) or len(places) != n or n % self.rule.group or not n:
            raise InputError(
                f"An update takes errors [n, {len(alive)}] and n places, n a multiple of "
                f"{self.rule.group}; got {list(errors.shape)} and {len(places)}."
            )
        if self._drawn + n > self.rule.max_draws:
            raise InputError(f"{self._drawn + n} draws exceed max_draws = {self.rule.max_draws}.")
        rows = slice(self._drawn, self._drawn + n)
        self._raw[rows, alive] = errors
        self._places[rows] = places
        if self._products is not None:
            if products is None or (self.control and shrink is None):
                raise InputError("This race needs products of predictions, and shrinkages.")
            self._products[rows, alive] = centred(products)
            self._shrink[rows] = 0 if shrink is None else shrink
        self._drawn += n
        self.draws[alive] = self._drawn
        if self.control and self._products is not None:
            past = slice(0, self._drawn)
            self._adjusted[past, alive] = adjusted(
                self._raw[past, alive], self._products[past, alive], self._places[past],
                self._shrink[past],
            )  # fmt: skip
        self.standing = self._look(alive)
        return self.standing

    def retire(self, classes: np.ndarray) -> bool:
        """Take classes out of which no more is known; whether the race goes on.

        Where nothing more is known of any class, the leader is left as the answer.

        Args:
            classes: Some of those in the race.

        Raises:
            InputError: before the first draw.
        """
        if not self._drawn:
            raise InputError("A race needs its first draws of every class.")
        alive = np.setdiff1d(self.standing.alive, classes)
        if not len(alive):
            alive = np.array([self.standing.leader])
        means = self.errors[:, alive].mean(0)
        leader, over = int(alive[means.argmin()]), len(alive) == 1
        reason: Reason = "decided" if over else "running"
        self.standing = Standing(alive, leader, reason, 0 if over else self.rule.group)
        return not over

    def _look(self, alive: np.ndarray) -> Standing:
        rule = self.rule
        lead = int(self.errors[:, alive].mean(0).argmin())
        leader, rivals = int(alive[lead]), np.delete(alive, lead)
        if self._drawn >= rule.min_draws:
            limit, evidence = self._evidence(leader, rivals)
            self._against[rivals] = np.maximum(self._against[rivals], limit)
            leaving = rule.leaving(evidence, len(self.draws), self._spent)
            self._spent += float(np.exp(-evidence[leaving]).sum())
            rivals = rivals[~leaving]
        alive = np.sort(np.append(rivals, leader))
        if len(alive) == 1:
            return Standing(alive, leader, "decided", 0)
        if self._drawn == rule.max_draws:
            return Standing(alive, leader, "max_draws", 0)
        return Standing(alive, leader, "running", max(rule.group, rule.min_draws - self._drawn))

    def _evidence(self, leader: int, rivals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Evidence against each rival from the draws so far: about infinitely many draws, and
        about all draws of the race."""
        past, group, distances = slice(0, self._drawn), self.rule.group, None
        raw, better = (
            grouped(errors[past, rivals] - errors[past, [leader]], group)
            for errors in (self._raw, self._adjusted)
        )
        if self._products is not None:
            pair = self._products[past, np.append(rivals, leader)]
            distances = squared_distances(pair, -1)[:, :-1]
        places, foretold = self._places[: self._drawn : group], better if self.control else None
        limit, dense = (
            self.rule.evidence(raw, places, target, distances=distances, adjusted=foretold)
            for target in ("limit", "dense")
        )
        return limit, dense

    def label_set(self, delta: float | None = None) -> np.ndarray:
        """Classes that hold the limit's answer with probability 1 - delta.

        A class is left out once its leader's evidence about infinitely many draws, at any look so
        far, reached `log((K - 1) / delta)`. Confidence sequences allow this at any stopping time.

        Args:
            delta: The rule's own if None.
        """
        level = self.rule.delta if delta is None else delta
        return np.flatnonzero(self._against < np.log((len(self.draws) - 1) / level))

    @property
    def errors(self) -> np.ndarray:
        """What the race compares, `[draws, k]`, NaN where a class had left: the draws so far, and
        for those to come their `adjusted` mean."""
        raw, better = self._raw[: self._drawn], self._adjusted[: self._drawn]
        return raw + (1 - self._drawn / self.rule.max_draws) * (better - raw)

    def margins(self) -> np.ndarray:
        """Mean paired difference of each class to the leader over the draws they share, `[k]`.

        The leader's is 0. A class that left is compared on the draws it saw, with the same draws
        of the leader, so that its margin is not blurred by what it never saw.

        Raises:
            InputError: no draws yet.
        """
        if not self._drawn:
            raise InputError("The race has no draws yet.")
        drawn = self.errors
        return np.nanmean(drawn - drawn[:, [self.standing.leader]], axis=0)

    def logits(self) -> np.ndarray:
        """Logits `[k]`: minus the leader's mean error, less each class's `margins`."""
        leader = -self.errors[:, self.standing.leader].mean()
        return leader - self.margins()
