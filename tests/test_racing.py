import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import chi2, norm
from scipy.stats import t as student_t

from diffzero.errors import InputError
from diffzero.noise import radical_inverse
from diffzero.scoring.evidence import (
    effective_draws,
    predictive_evidence,
    student_evidence,
)
from diffzero.scoring.racing import Race
from diffzero.scoring.replay import simulate
from diffzero.scoring.rules import Rule
from diffzero.scoring.spread import (
    grouped,
    sample_variance,
    shared_variance,
    successive_variance,
)
from diffzero.temperature import temperatures_at


def places_of(n, shift=0.0):
    return (radical_inverse(np.arange(n)) + shift) % 1


def share_at_most(hits, n, alpha, standard_errors=3.0):
    """Whether a rate of `hits` in n is compatible with a probability of at most alpha."""
    return hits / n <= alpha + standard_errors * np.sqrt(alpha * (1 - alpha) / n)


# Evidence: closed forms


def normal_evidence(z, n, ratio):
    """What Student's evidence tends to as the variance becomes known (Howard et al., 2021)."""
    r = n * ratio
    share = r / (1 + r)
    return np.log(2) + norm.logcdf(z * np.sqrt(share)) - 0.5 * np.log1p(r) + 0.5 * z**2 * share


def test_normal_evidence_is_the_integral_of_likelihood_ratios():
    n, ratio, sigma = 7, 0.4, 1.7
    for mean in (-1.0, 0.0, 0.3, 2.0):

        def ratio_at(mu, mean=mean):
            likelihood = np.exp(n * (mu * mean - mu**2 / 2) / sigma**2)
            return 2 * norm.pdf(mu, scale=sigma * np.sqrt(ratio)) * likelihood

        truth = quad(ratio_at, 0, 40)[0]
        assert normal_evidence(mean * np.sqrt(n) / sigma, n, ratio) == pytest.approx(np.log(truth))


def test_student_evidence_is_the_integral_over_the_variance_too():
    """Both likelihoods averaged over the precision q, with the prior dq / q."""
    n, nu, variance, ratio = 5, 4, 1.3, 0.5
    for mean in (-0.5, 0.4, 1.5):

        def tie(q, mean=mean):  # density of s^2 and of the mean at precision q
            return np.sqrt(q) * chi2.pdf(nu * variance * q, nu) * norm.pdf(mean * np.sqrt(n * q))

        def mixed(q, mean=mean, tie=tie):
            return tie(q) * np.exp(normal_evidence(mean * np.sqrt(n * q), n, ratio))

        truth = np.log(quad(mixed, 0, 60)[0] / quad(tie, 0, 60)[0])
        assert float(student_evidence(mean, n, variance, nu, ratio)) == pytest.approx(truth)


def test_student_becomes_normal_as_the_variance_becomes_known():
    mean, n, variance = np.array([-0.3, 0.1, 0.9]), 12, 2.0
    known = normal_evidence(mean * np.sqrt(n / variance), n, 0.3)
    np.testing.assert_allclose(student_evidence(mean, n, variance, 1e7, 0.3), known, atol=1e-4)
    few = student_evidence(mean, n, variance, 2, 0.3)
    assert few[2] < known[2]  # an uncertain variance is less evidence


def test_no_spread_or_no_draws_is_no_evidence():
    for variance, freedom in ((0.0, 0.0), (1.0, 0.0)):
        assert student_evidence(1.0, 1, variance, freedom, 0.2) == -np.inf
        assert predictive_evidence(1.0, 1, variance, freedom) == -np.inf


# Draws that are worth more, because only their total is asked for


def test_effective_draws_give_the_variance_of_the_part_not_yet_drawn():
    draws = np.random.default_rng(0).standard_normal((20000, 32))
    for n in (2, 8, 31):
        missing = draws[:, :n].mean(1) - draws.mean(1)
        assert missing.var() == pytest.approx(1 / effective_draws(n, 32), rel=0.05)
    assert effective_draws(32, 32) == np.inf
    assert effective_draws(5, np.inf) == 5


@pytest.mark.parametrize("mean", [0.0, -0.1, 0.2])
def test_dense_evidence_may_be_watched_at_any_time(mean):
    """A class that all N draws would name is removed at some time with probability <= alpha."""
    alpha, total, repeats = 0.05, 32, 3000
    draws = mean + np.random.default_rng(1).standard_normal((repeats, total))
    better = draws.mean(1) < 0
    reached = np.zeros(repeats, dtype=bool)
    for n in range(2, total):
        part = draws[:, :n]
        evidence = student_evidence(
            part.mean(1), effective_draws(n, total), part.var(1, ddof=1), n - 1, 0.25
        )
        reached |= evidence >= np.log(1 / alpha)
    assert share_at_most((reached & better).sum(), repeats, alpha)
    assert (reached & ~better).mean() > 0.1  # and it does decide


def test_predictive_errs_with_alpha_on_average_over_wide_priors_but_not_at_a_tie():
    alpha, total, repeats = 0.05, 64, 4000
    generator = np.random.default_rng(2)
    rates = {}
    for width in (1.0, 0.0):
        draws = width * generator.standard_normal((repeats, 1))
        draws = draws + generator.standard_normal((repeats, total))
        wrong = np.zeros(repeats, dtype=bool)
        stopped = np.zeros(repeats, dtype=bool)
        for n in range(4, total):
            part = draws[:, :n]
            evidence = predictive_evidence(
                np.abs(part.mean(1)), effective_draws(n, total), part.var(1, ddof=1), n - 1
            )
            now = (evidence >= np.log(1 / alpha)) & ~stopped
            wrong |= now & (np.sign(part.mean(1)) != np.sign(draws.mean(1)))
            stopped |= now
        rates[width] = wrong.sum() / stopped.sum()
    assert rates[1.0] <= alpha
    assert rates[0.0] > alpha  # what the docstring warns of


# Independent draws: error at a tie, watched at every draw


@pytest.fixture(scope="module")
def ties():
    return np.random.default_rng(3).standard_normal((2000, 96))


def watched(differences, evidence, first=2):
    reached = np.zeros(len(differences), dtype=bool)
    for n in range(first, differences.shape[1] + 1):
        reached |= evidence(differences[:, :n])
    return int(reached.sum())


def test_mixture_keeps_its_error_and_a_t_test_watched_at_every_draw_does_not(ties):
    alpha = 0.05

    def mixture(part):
        n = part.shape[1]
        e = student_evidence(part.mean(1), n, part.var(1, ddof=1), n - 1, 0.25)
        return e >= np.log(1 / alpha)

    def peeked(part):
        n = part.shape[1]
        z = part.mean(1) * np.sqrt(n) / part.std(1, ddof=1)
        return z >= student_t.isf(alpha, n - 1)

    assert share_at_most(watched(ties, mixture), len(ties), alpha)
    assert watched(ties, peeked) > 3 * alpha * len(ties)


# Variance of nested draws


def test_successive_variance_is_of_the_noise_and_not_of_the_trend():
    n = 64
    places = places_of(n, 0.3)
    noise = np.random.default_rng(5).standard_normal((400, n))
    trend = 3 * np.sin(2 * np.pi * places)
    successive = successive_variance((noise + trend).T, places)[0].mean()
    sample = sample_variance((noise + trend).T)[0].mean()
    assert successive == pytest.approx(1, abs=0.08)
    assert sample == pytest.approx(1 + 4.5, rel=0.05)


def test_successive_variance_without_trend_is_unbiased_and_ignores_the_order_of_draws():
    generator = np.random.default_rng(6)
    draws, places = generator.standard_normal((7, 5000)), generator.random(7)
    variance, freedom = successive_variance(draws, places)
    assert variance.mean() == pytest.approx(1, abs=0.03)
    assert 2 / variance.var() == pytest.approx(freedom, rel=0.15)  # of a chi-square's variance
    order = generator.permutation(7)
    np.testing.assert_allclose(successive_variance(draws[order], places[order])[0], variance)


def test_shared_variance_leaves_each_class_out_of_its_own_prior():
    variance = np.array([1.0, 4.0, 10.0])
    shared, freedom = shared_variance(variance, 6.0, 3.0)
    np.testing.assert_allclose(shared, (3 * np.array([7, 5.5, 2.5]) + 6 * variance) / 9)
    np.testing.assert_allclose(freedom, 9)
    alone, own = shared_variance(np.array([2.0]), 3.0, 8.0)
    assert alone == 2 and own == 3  # one rival borrows nothing
    assert shared_variance(variance, 1.0, 8.0)[1] == pytest.approx([3, 3, 3])  # no more than is


def test_groups_are_means_of_neighbours():
    np.testing.assert_array_equal(grouped(np.array([1.0, 3, 10, 20]), 2), [2, 15])
    with pytest.raises(InputError, match="do not fill"):
        grouped(np.ones((3, 2)), 2)


# Races


def field(generator, n=64, gaps=(0.0, 0.3, 1.0, 3.0), noise=1.0, trend=1.0):
    """Errors of one image: a common part, gaps, paired noise, a trend of the gap in time."""
    places = places_of(n, generator.random())
    common = 20 + 10 * generator.standard_normal((n, 1))
    waves = 1 + trend * np.sin(2 * np.pi * (places[:, None] + generator.random()))
    own = noise * generator.standard_normal((n, len(gaps)))
    return common + waves * np.asarray(gaps) + own, places


def test_everyone_in_the_race_sees_every_draw_and_a_far_class_leaves_first():
    errors, places = field(np.random.default_rng(7))
    race = simulate(errors, places, Rule())
    assert race.standing.leader == 0
    assert (np.diff(race.draws) <= 0).all()  # the further behind, the fewer draws
    assert race.draws[0] == race.draws.max()
    assert race.draws[3] < 16 and race.draws.sum() < errors.size
    assert race.standing.reason == "decided"
    np.testing.assert_array_equal(race.standing.alive, [0])


def test_a_dense_race_that_runs_out_answers_what_dense_scoring_does():
    generator = np.random.default_rng(8)
    for _ in range(30):
        errors, places = field(generator, gaps=(0.02, 0.0, 0.01))
        race = simulate(errors, places, Rule(delta=1e-9))
        assert race.draws.max() > 56
        assert race.standing.leader == errors.mean(0).argmin()
        assert race.standing.reason == "decided"  # nothing is uncertain about 64 of 64 draws
        assert len(race.label_set()) == 3  # infinitely many draws might name another


@pytest.mark.parametrize("boundary", ["mixture", "predictive"])
@pytest.mark.parametrize("delta", [0.1, 0.01])
def test_races_differ_from_dense_scoring_on_at_most_delta_of_images(boundary, delta):
    """Gaps of all sizes, trends in time, heavy common noise."""
    generator = np.random.default_rng(9)
    wrong, evaluations, images = 0, 0, 150
    for _ in range(images):
        gaps = np.abs(generator.standard_normal(6)) * 10 ** generator.uniform(-1.5, 0.7)
        errors, places = field(generator, n=32, gaps=gaps)
        rule = Rule(delta=delta, boundary=boundary, max_draws=32)
        race = simulate(errors, places, rule)
        wrong += race.standing.leader != errors.mean(0).argmin()
        evaluations += race.draws.sum()
    assert share_at_most(wrong, images, delta)
    assert evaluations / images < 0.8 * errors.size


def test_label_sets_hold_the_limit_and_shrink_as_draws_grow():
    generator = np.random.default_rng(10)
    missed, sizes = 0, {16: 0, 64: 0}
    for _ in range(100):
        errors, places = field(generator, n=64, gaps=(0, 0.1, 0.8, 2))
        for n in sizes:
            race = simulate(errors, places, Rule(boundary="mixture", max_draws=n, delta=0.1))
            sizes[n] += len(race.label_set())
        missed += 0 not in race.label_set()
    assert share_at_most(missed, 100, 0.1)
    assert sizes[64] < sizes[16]
    assert set(race.label_set(0.5)) <= set(race.label_set(0.01))


def test_a_label_set_remembers_evidence_that_later_draws_take_back():
    generator = np.random.default_rng(19)
    n = 32
    places = places_of(2 * n)
    gap = np.where(np.arange(2 * n) < n, 1.0, -0.5) + 0.3 * generator.standard_normal(2 * n)
    errors = np.stack([np.zeros(2 * n), gap], axis=1)
    race = Race(2, Rule(delta=1e-300, max_draws=65, boundary="mixture"))
    race.update(errors[:n], places[:n])
    np.testing.assert_array_equal(race.label_set(0.05), [0])
    race.update(errors[n:], places[n:])
    np.testing.assert_array_equal(race.label_set(0.05), [0])


def test_blocks_with_their_own_shifts_and_antithetic_pairs_race_by_their_means():
    errors, places = field(np.random.default_rng(11), gaps=(0, 2.0, 4.0))
    rule = Rule(group=4, min_draws=16, variance="plain", boundary="mixture", delta=0.1)
    race = simulate(errors, places, rule)
    assert race.standing.leader == 0 and (race.draws % 4 == 0).all()
    by_hand = grouped(errors, 4)
    as_means = Rule(min_draws=4, max_draws=16, variance="plain", boundary="mixture", delta=0.1)
    same = simulate(by_hand, places[::4], as_means)
    np.testing.assert_array_equal(same.draws * 4, race.draws)


def test_probabilities_of_predictive_spend_one_account():
    rule = Rule(boundary="predictive", delta=0.1)
    near = np.array([np.log(1 / 0.06)])
    assert rule.leaving(near, 10, spent=0.0).all()  # the last rival may spend all that is left
    assert not rule.leaving(near, 10, spent=0.05).any()
    assert (
        not Rule(delta=0.1, boundary="mixture").leaving(near, 10, spent=0.0).any()
    )  # 0.1 / 9 for every mean


def test_eliminated_classes_keep_probabilities_from_the_draws_they_shared():
    errors, places = field(np.random.default_rng(14))
    race = simulate(errors, places, Rule())
    n = race.draws
    margins = race.margins()
    for c in range(4):
        assert margins[c] == pytest.approx((errors[: n[c], c] - errors[: n[c], 0]).mean())
    logits = race.logits()
    assert np.isfinite(logits).all() and logits.argmax() == race.standing.leader
    assert logits[0] == pytest.approx(-errors[: n[0], 0].mean())
    # the leader's own luck on early draws does not blur them: the spread of common noise is 10
    dense = -errors.mean(0)
    assert np.abs((logits - logits[0]) - (dense - dense[0])).max() < 2.5


def test_a_class_that_never_left_has_the_logit_of_dense_scoring():
    errors, places = field(np.random.default_rng(15))
    race = simulate(errors, places, Rule(delta=1e-12, boundary="mixture", min_draws=64))
    np.testing.assert_allclose(race.logits(), -errors.mean(0))


def test_updates_follow_the_classes_in_the_race():
    errors, places = field(np.random.default_rng(16), gaps=(3.0, 0.0, 3.0, 0.4))
    race = Race(4, Rule(min_draws=8))
    first = race.update(errors[:4], places[:4])
    assert first.next_draws == 4 and len(first.alive) == 4  # too early to look
    standing = race.update(errors[4:20], places[4:20])
    np.testing.assert_array_equal(standing.alive, [1, 3])
    with pytest.raises(InputError, match=r"errors \[n, 2\]"):
        race.update(errors[20:21], places[20:21])
    race.update(errors[20:21][:, standing.alive], places[20:21])
    np.testing.assert_array_equal(race.draws, [20, 21, 20, 21])


def test_bad_updates_are_refused():
    errors, places = np.ones((64, 3)), places_of(64)
    with pytest.raises(InputError, match="at least two"):
        Race(1, Rule())
    race = Race(3, Rule(max_draws=8, boundary="mixture"))
    with pytest.raises(InputError, match="no draws yet"):
        race.margins()
    with pytest.raises(InputError, match="exceed"):
        race.update(errors[:9], places[:9])
    with pytest.raises(InputError, match="takes errors"):
        race.update(errors[:0], places[:0])
    race.update(errors[:8], places[:8])
    assert race.standing.reason == "max_draws"  # classes that never differ stay
    with pytest.raises(InputError, match="is over"):
        race.update(errors[:1], places[:1])


@pytest.mark.parametrize(
    "arguments",
    [
        {"delta": 0.0},
        {"delta": 1.0},
        {"min_draws": 65},
        {"min_draws": 0},
        {"group": 2, "min_draws": 3},
        {"effect": 0.0},
        {"prior": -1.0},
        {"boundary": "normal"},
        {"variance": "robust"},
    ],
)
def test_bad_rules_are_refused(arguments):
    with pytest.raises(InputError):
        Rule(**arguments)


# Calibration


def test_temperatures_lie_between_those_fitted():
    fitted = {4: 0.4, 16: 0.1}
    np.testing.assert_allclose(
        temperatures_at(np.array([1, 4, 8, 16, 64]), fitted), [0.4, 0.4, 0.2, 0.1, 0.1]
    )
