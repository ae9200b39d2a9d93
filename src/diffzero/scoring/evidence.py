"""Evidence: how sure paired differences make us that one class is better than another.

Evidence is a logarithm of an e-value: a number that, were the rival truly as good as the leader,
would exceed `log(1 / alpha)` at any time with probability at most alpha (Ville's inequality). One
may therefore look after every draw.

What each assumes. `student_evidence` holds for draws that are normal given the image, and for
others approximately as draws grow; strong skew against the leader weakens it.
`predictive_evidence` is a posterior probability under a flat prior on the mean; looking often
costs it nothing on average over images of all margins, but an image that is an exact tie errs more
often than alpha.

References:
    Waudby-Smith et al., Time-uniform central limit theory and asymptotic confidence sequences,
    2024. https://arxiv.org/abs/2103.06476
    Howard et al., Time-uniform, nonparametric, nonasymptotic confidence sequences, 2021.
    https://arxiv.org/abs/1810.08240
"""

from __future__ import annotations

import numpy as np
from scipy.special import stdtr


def effective_draws(n: int, total: float, share: float = 1.0) -> float:
    """Draws `n` are worth `u = n / (1 - n / N)` where only the mean of N of them is asked for.

    Given the mean M of all N draws, `S_n - n M` is a bridge with variance
    `sigma^2 n (N - n) / N`, and `(S_n - n M) N / (N - n)` is Brownian motion at time u (Doob's
    transformation of the bridge). Every boundary for independent draws therefore holds for the
    unknown M when n is replaced by u. At n = N nothing is unknown and u is infinite.

    Where control variates foretell the mean of the N - n draws to come with a share of the
    variance of n plain draws, while those draws will be plain themselves,

        1 / u = (1 - n / N)^2 / n + (1 - n / N) / (N share),

    in units of the smaller variance.

    Args:
        n: Draws so far.
        total: N, infinite where the mean of infinitely many draws is asked for.
        share: Of a draw's variance that control variates leave; 1 without them.

    References:
        Waudby-Smith and Ramdas, Confidence sequences for sampling without replacement, 2020
        (the same question for bounded numbers). https://arxiv.org/abs/2006.04347
    """
    if n >= total:
        return np.inf
    left = 1 - n / total
    return 1 / (left**2 / n + left / (total * share))


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
