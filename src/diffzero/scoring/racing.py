"""Racing: the class of least mean error, from no more draws than the question needs.

A classifier answers the class `c` with the least mean over draws of an error `e_c`. All classes
of an image share their draws, so that classes a and b are compared by paired differences

    D_i = e_b,i - e_a,i,

which vary far less than the errors do. In a race every class that is still in it sees every draw,
and class b leaves once the leader a (the class of the least mean so far) has enough evidence that
the mean of D is positive.

Two things may be asked of the answer, see `Rule.target`. `limit` is the class that infinitely many
draws would name. `dense` is the class that all `max_draws` draws would name: what is uncertain
then is only the part not yet drawn, and every race ends.

Evidence is a logarithm of an e-value: a number that, were b truly as good as a, would exceed
`log(1 / alpha)` at any time with probability at most alpha (Ville's inequality). One may therefore
look after every draw. Only comparisons with the truly best class can wrongly remove it, and there
are K - 1 of them: with `alpha = delta / (K - 1)` it survives with probability 1 - delta.

What the guarantee assumes. `mixture` holds for draws that are normal given the image, and for
others approximately as draws grow; strong skew against the leader weakens it. `betting` is exact
for independent draws above a stated bound. `predictive` is a posterior probability under a flat
prior on the mean; looking often costs it nothing on average over images of all margins, but an
image that is an exact tie errs more often than alpha.

References:
    Waudby-Smith et al., Time-uniform central limit theory and asymptotic confidence sequences,
    2024. https://arxiv.org/abs/2103.06476
    Howard et al., Time-uniform, nonparametric, nonasymptotic confidence sequences, 2021.
    https://arxiv.org/abs/1810.08240
    Even-Dar et al., Action elimination and stopping conditions, 2006 (the elimination scheme).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import log_ndtr, logsumexp, stdtr
from scipy.stats import beta

from ..errors import InputError

Target = Literal["dense", "limit"]
Spread = Literal["successive", "sample"]
Boundary = Literal["mixture", "predictive", "betting"]
STAKES = 32  # bets that `betting_evidence` spreads its money over


def effective_draws(n: int, total: float) -> float:
    """Draws `n` are worth `u = n / (1 - n / N)` where only the mean of N of them is asked for.

    Given the mean M of all N draws, `S_n - n M` is a bridge with variance
    `sigma^2 n (N - n) / N`, and `(S_n - n M) N / (N - n)` is Brownian motion at time u (Doob's
    transformation of the bridge). Every boundary for independent draws therefore holds for the
    unknown M when n is replaced by u. At n = N nothing is unknown and u is infinite.

    Args:
        n: Draws so far.
        total: N, infinite where the mean of infinitely many draws is asked for.

    References:
        Waudby-Smith and Ramdas, Confidence sequences for sampling without replacement, 2020
        (the same question for bounded numbers). https://arxiv.org/abs/2006.04347
    """
    return np.inf if n >= total else n / (1 - n / total)


def mixture_ratio(alpha: float, horizon: float) -> float:
    """The `rho^2` at which the normal mixture's boundary is tightest at `horizon` draws.

    `rho^2 = (-a^2 - 2 ln a + ln(-2 ln a + 1 - a^2)) / n` with a = alpha.

    References:
        Waudby-Smith et al., 2024, appendix B. https://arxiv.org/abs/2103.06476
    """
    log = -2 * np.log(alpha)
    return float((log - alpha**2 + np.log(log + 1 - alpha**2)) / horizon)


def mixture_radius(n: np.ndarray | float, ratio: float, alpha: float) -> np.ndarray:
    """Half-width, in standard deviations of one draw, of the two-sided confidence sequence.

    `sqrt(2 (n rho^2 + 1) / (n^2 rho^2) log(sqrt(n rho^2 + 1) / alpha))`: the mean of n draws lies
    this near to the truth at all n at once, with probability 1 - alpha.

    Args:
        n: Draws, or the draws they are worth.
        ratio: `rho^2`, see `mixture_ratio`.
        alpha: Probability of an error.

    References:
        Waudby-Smith et al., 2024, equation 9. https://arxiv.org/abs/2103.06476
    """
    grown = np.asarray(n, dtype=np.float64) * ratio + 1
    square = 2 * grown / (n * (grown - 1)) * np.log(np.sqrt(grown) / alpha)
    return np.sqrt(square)


def normal_evidence(z: np.ndarray, n: float, ratio: float) -> np.ndarray:
    """One-sided log e-value of a normal mean whose standard deviation is known.

    The likelihood ratio of `mu ~ |N(0, rho^2 sigma^2)|` against `mu = 0` is

        2 Phi(z sqrt(r / (1 + r))) (1 + r)^(-1/2) exp(z^2 r / (2 (1 + r))),    r = n rho^2,

    and its expectation under any `mu <= 0` is at most 1.

    Args:
        z: `mean sqrt(n) / sigma`.
        n: Draws, or the draws they are worth.
        ratio: `rho^2`.

    References:
        Howard et al., 2021, proposition 6. https://arxiv.org/abs/1810.08240
    """
    r = n * ratio
    share = r / (1 + r)
    return np.log(2) + log_ndtr(z * np.sqrt(share)) - 0.5 * np.log1p(r) + 0.5 * z**2 * share


def student_evidence(
    mean: np.ndarray, n: float, variance: np.ndarray, freedom: np.ndarray | float, ratio: float
) -> np.ndarray:
    """One-sided log e-value of a normal mean whose variance is estimated.

    With `nu = freedom`, `r = n rho^2`, `A = nu s^2 + n mean^2 / (1 + r)` and
    `B = nu s^2 + n mean^2`, the Bayes factor of `mu / sigma ~ |N(0, rho^2)|` against mu = 0 is

        2 F(mean n sqrt(rho^2 / (1 + r)) / sqrt(A / (nu + 1))) (1 + r)^(-1/2) (B / A)^((nu + 1)/2)

    with F Student's distribution function at nu + 1 degrees of freedom. It is the normal mixture
    with the variance integrated out, and needs no burn-in: few draws simply weigh little.

    Args:
        mean: Of the differences.
        n: Draws, or the draws they are worth.
        variance: `s^2` of one draw.
        freedom: Degrees of freedom of `s^2`; none is no evidence.
        ratio: `rho^2`.

    References:
        Wang and Ramdas, Anytime-valid t-tests and confidence sequences for Gaussian means with
        unknown variance, 2024 (after Lai, 1976). https://arxiv.org/abs/2310.03722
    """
    mean, variance = np.asarray(mean), np.asarray(variance)
    if np.isinf(n):
        return np.where(mean > 0, np.inf, -np.inf)
    nu, r = np.asarray(freedom, dtype=np.float64), n * ratio
    inner = nu * variance + n * mean**2 / (1 + r)
    with np.errstate(divide="ignore", invalid="ignore"):
        place = mean * n * np.sqrt(ratio / (1 + r)) / np.sqrt(inner / (nu + 1))
        grown = np.log((nu * variance + n * mean**2) / inner)
        out = np.log(2 * stdtr(nu + 1, place)) - 0.5 * np.log1p(r) + 0.5 * (nu + 1) * grown
    return np.where((nu > 0) & (inner > 0), out, -np.inf)


def predictive_evidence(
    mean: np.ndarray, n: float, variance: np.ndarray, freedom: np.ndarray | float
) -> np.ndarray:
    """`-log P(the mean of all draws is negative | those so far)` under a flat prior.

    `P = F(-mean sqrt(u) / s)`, F Student's distribution function and u the `effective_draws`.
    Being a conditional probability of one fixed event it is a martingale, so that a race that
    stops when it first falls below alpha is wrong with probability alpha, however often it looked:
    on average over the prior, not for every mean.

    Args:
        mean: Of the differences.
        n: Draws, or the draws they are worth.
        variance: `s^2` of one draw.
        freedom: Degrees of freedom of `s^2`; none is no evidence.

    References:
        Lan, Simon and Halperin, Stochastically curtailed tests in long-term clinical trials, 1982;
        Spiegelhalter, Freedman and Blackburn, Monitoring clinical trials: conditional or
        predictive power?, 1986.
    """
    mean, variance = np.asarray(mean), np.asarray(variance)
    if np.isinf(n):
        return np.where(mean > 0, np.inf, -np.inf)
    nu = np.asarray(freedom, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        out = -np.log(stdtr(nu, -mean * np.sqrt(n) / np.sqrt(variance)))
    return np.where((nu > 0) & (variance > 0), out, -np.inf)


def betting_evidence(differences: np.ndarray, bound: float) -> np.ndarray:
    """Exact one-sided log e-value of independent differences that are never below `-bound`.

    A gambler who stakes the fraction l of his money on "positive" owns `prod_i (1 + l D_i / B)`
    after n draws: never negative, and of expectation at most 1 where the mean of D is not
    positive. His money is spread evenly over stakes l in (0, 1).

    Args:
        differences: `[n, k]`.
        bound: B > 0. A difference below -B voids the bound and leaves the class no evidence.

    References:
        Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting, 2024.
        https://arxiv.org/abs/2010.09686
    """
    stakes = (np.arange(STAKES) + 0.5) / STAKES
    wealth = 1 + stakes[:, None, None] * differences / bound
    with np.errstate(divide="ignore", invalid="ignore"):
        grown = np.log(wealth).sum(1)
    out = logsumexp(np.where(np.isnan(grown), -np.inf, grown), axis=0) - np.log(STAKES)
    return np.where((differences < -bound).any(0), -np.inf, out)


def sample_variance(differences: np.ndarray) -> tuple[np.ndarray, float]:
    """The usual variance of `[n, k]` over n, and its n - 1 degrees of freedom."""
    n = len(differences)
    if n < 2:
        return np.zeros(differences.shape[1]), 0.0
    return differences.var(0, ddof=1), n - 1.0


def successive_variance(differences: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, float]:
    """Variance about a smooth trend in time, and about 2 n / 3 degrees of freedom.

    `s^2 = mean_j (D_(j+1) - D_(j))^2 / 2` over draws in the order of their places, the last next
    to the first. Nested draws are spread evenly over time, so that the trend of D in time hardly
    moves their mean; the usual variance counts that trend as noise and waits too long.

    Args:
        differences: `[n, k]`.
        places: Place of each draw in [0, 1), see `noise.quantiles`.

    References:
        von Neumann et al., The mean square successive difference, 1941.
        Cranley and Patterson, Randomization of number theoretic methods for multiple integration,
        1976 (why a randomly shifted even grid is unbiased).
    """
    n = len(differences)
    if n < 2:
        return np.zeros(differences.shape[1]), 0.0
    ordered = differences[np.argsort(places, kind="stable")]
    steps = np.roll(ordered, -1, axis=0) - ordered
    return 0.5 * (steps**2).mean(0), min(n - 1, 2 * n / 3)


def shared_variance(
    variance: np.ndarray, freedom: float, prior: float
) -> tuple[np.ndarray, np.ndarray]:
    """Each class's variance drawn towards the mean of the other classes'.

    `(prior s0^2 + nu s^2) / (prior + nu)`, with s0^2 the mean variance of the other rivals: the
    differences of one image are noisy together, and two to four draws say little about a variance.
    `prior` counts as at most the degrees of freedom which the other rivals have between them.

    Args:
        variance: `s^2` of each rival, `[k]`.
        freedom: nu of each.
        prior: Degrees of freedom of s0^2.

    Returns:
        Variances and degrees of freedom, `[k]` each.
    """
    others = len(variance) - 1
    weight = min(prior, freedom * others)
    if weight <= 0:
        return variance, np.full(len(variance), freedom)
    mean = (variance.sum() - variance) / others
    return (weight * mean + freedom * variance) / (weight + freedom), np.full(
        len(variance), weight + freedom
    )


def trend_removed(
    differences: np.ndarray, places: np.ndarray, profile: Sequence[float]
) -> np.ndarray:
    """Differences without the part that their place in time explains (a control variate).

    Differences of most images and classes grow and shrink over time alike: `D_i` is about
    `a g(t_i)` with one profile g of mean 1, known from kept draws, and a size a of its own. With
    `a = mean(D) / mean(g(t_i))`, the ratio estimator of the mean of D,

        D'_i = D_i - a (g(t_i) - 1)

    has mean a, and varies less than D wherever the profile is right. Where it is wrong the mean is
    off by a factor that tends to 1 as draws fill time evenly, never by its sign.

    Args:
        differences: `[n, k]`.
        places: Places in [0, 1) `[n]`.
        profile: Relative size of differences in even bins of [0, 1), joined by straight lines.

    References:
        Cochran, Sampling Techniques, 1977, chapter 6.
    """
    heights = np.asarray(profile, dtype=np.float64)
    centres = (np.arange(len(heights)) + 0.5) / len(heights)
    g = np.interp(places, centres, heights / heights.mean())
    size = differences.mean(0) / g.mean()
    return differences + size * (1 - g[:, None])


def grouped(values: np.ndarray, size: int) -> np.ndarray:
    """Means of `size` successive draws: antithetic pairs, or blocks with a shift of their own.

    Args:
        values: `[n, ...]`, n a multiple of `size`.
        size: Draws a group.

    Raises:
        InputError: draws that do not fill their groups.
    """
    if len(values) % size:
        raise InputError(f"{len(values)} draws do not fill groups of {size}.")
    return values.reshape(-1, size, *values.shape[1:]).mean(1)


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

    Attributes:
        draws: Draws that each class has seen, int64 `[k]`; their sum is the evaluations.
        standing: See `Standing`; its leader is -1 before the first draw.

    Raises:
        InputError: fewer than two classes.
    """

    def __init__(self, k: int, rule: Rule) -> None:
        if k < 2:
            raise InputError(f"A race needs at least two classes; got {k}.")
        self.rule = rule
        self.draws = np.zeros(k, dtype=np.int64)
        self.standing = Standing(np.arange(k), -1, "running", rule.min_draws)
        self._errors = np.full((rule.max_draws, k), np.nan)
        self._places = np.zeros(rule.max_draws)
        self._looks: list[tuple[int, int, np.ndarray]] = []  # draws, leader, rivals
        self._drawn, self._spent = 0, 0.0

    def update(self, errors: np.ndarray, places: np.ndarray) -> Standing:
        """Take further draws of all classes in the race, and look once.

        Args:
            errors: Weighted errors `[n, k alive]`, columns in the order of `standing.alive`.
            places: Place in [0, 1) of each draw, see `noise.quantiles`; members of a group next
                to each other.

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
        self._errors[rows, alive] = errors
        self._places[rows] = places
        self._drawn += n
        self.draws[alive] = self._drawn
        self.standing = self._look(alive)
        return self.standing

    def _look(self, alive: np.ndarray) -> Standing:
        rule = self.rule
        lead = int(self._errors[: self._drawn, alive].mean(0).argmin())
        leader, rivals = int(alive[lead]), np.delete(alive, lead)
        if self._drawn >= rule.min_draws:
            self._looks.append((self._drawn, leader, rivals))
            evidence = self._evidence(self._drawn, leader, rivals, rule.target)
            leaving = rule.leaving(evidence, len(self.draws), self._spent)
            self._spent += float(np.exp(-evidence[leaving]).sum())
            rivals = rivals[~leaving]
        alive = np.sort(np.append(rivals, leader))
        if len(alive) == 1:
            return Standing(alive, leader, "decided", 0)
        if self._drawn == rule.max_draws:
            return Standing(alive, leader, "max_draws", 0)
        return Standing(alive, leader, "running", max(rule.group, rule.min_draws - self._drawn))

    def _evidence(self, n: int, leader: int, rivals: np.ndarray, target: Target) -> np.ndarray:
        """Evidence against each rival from the first n draws."""
        group = self.rule.group
        differences = self._errors[:n, rivals] - self._errors[:n, [leader]]
        return self.rule.evidence(grouped(differences, group), self._places[:n:group], target)

    def label_set(self, delta: float | None = None) -> np.ndarray:
        """Classes that hold the limit's answer with probability 1 - delta, whatever the target.

        A class is left out once its leader's evidence about infinitely many draws, at any look so
        far, reached `log((K - 1) / delta)`. Confidence sequences allow this at any stopping time.

        Args:
            delta: The rule's own if None.
        """
        against = np.full(len(self.draws), -np.inf)
        for n, leader, rivals in self._looks:
            evidence = self._evidence(n, leader, rivals, "limit")
            against[rivals] = np.maximum(against[rivals], evidence)
        level = self.rule.delta if delta is None else delta
        return np.flatnonzero(against < np.log((len(self.draws) - 1) / level))

    def margins(self) -> np.ndarray:
        """Mean paired difference of each class to the leader over the draws they share, `[k]`.

        The leader's is 0. A class that left is compared on the draws it saw, with the same draws
        of the leader, so that its margin is not blurred by what it never saw.

        Raises:
            InputError: no draws yet.
        """
        if not self._drawn:
            raise InputError("The race has no draws yet.")
        drawn = self._errors[: self._drawn]
        return np.nanmean(drawn - drawn[:, [self.standing.leader]], axis=0)

    def logits(self) -> np.ndarray:
        """Logits `[k]`: minus the leader's mean error, less each class's `margins`."""
        leader = -self._errors[: self._drawn, self.standing.leader].mean()
        return leader - self.margins()


def simulate(errors: np.ndarray, places: np.ndarray, rule: Rule, step: int | None = None) -> Race:
    """Run the race of one image over errors that were kept.

    Args:
        errors: `[draws, k]`, at least `rule.max_draws` rows.
        places: Of the draws.
        rule: See `Rule`.
        step: Draws between looks after the first; one group if None.
    """
    race = Race(errors.shape[1], rule)
    while (now := race.standing).reason == "running":
        start = int(race.draws.max())
        n = now.next_draws if start < rule.min_draws else max(now.next_draws, step or 1)
        rows = slice(start, min(start + n, rule.max_draws))
        race.update(errors[rows][:, now.alive], places[rows])
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
