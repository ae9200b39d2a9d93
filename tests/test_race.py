"""The race against dense draws and the oracle; the rules themselves are in test_racing.py."""

import json

import numpy as np
import pytest
import torch

import diffzero as dz
from conftest import as_x0, oracle_problem

SCHEDULES = {
    "log-snr": dz.LogSNRLinearSchedule(-6, 8),
    "ddpm": dz.DiscreteSchedule.linear(),
    "flow": dz.RectifiedFlowSchedule(),
}


@pytest.fixture(scope="module", params=SCHEDULES)
def problem(request):
    return oracle_problem(SCHEDULES[request.param], n=60, k=6)


def test_the_race_gives_the_dense_answer_from_fewer_evaluations(problem):
    backbone, images, _ = problem
    race = dz.Race(backbone, max_draws=128, delta=0.05).fit(backbone.classes)
    dense = dz.ELBO(backbone, draws=128).fit(backbone.classes)
    scores, wanted = race.scores(images), dense.scores(images)
    differ = (scores.logits.argmax(1) != wanted.logits.argmax(1)).mean()
    assert differ <= 0.1  # delta, and what 60 images may add to it
    assert scores.evals.mean() < 0.4 * wanted.evals.mean()
    assert (scores.evals == scores.details["draws"].sum(1)).all()


def test_its_draws_are_the_first_of_the_dense_ones(problem):
    backbone, images, _ = problem
    race = dz.Race(backbone, max_draws=32, control=False).fit(backbone.classes)
    cubes = race.draw_errors(images[:4])
    wanted = dz.ELBO(backbone, draws=32).fit(backbone.classes).draw_errors(images[:4])
    for cube, whole in zip(cubes, wanted, strict=True):
        seen = ~np.isnan(cube)
        assert np.allclose(cube[seen], whole[: len(cube)][seen], rtol=1e-9)
        assert seen[:2].all() and not seen.all()  # all classes at first, not to the end


def test_a_smaller_delta_draws_more_and_an_image_that_ties_goes_on_to_the_end(problem):
    backbone, images, _ = problem
    cost = []
    for delta in (0.3, 0.05, 0.001):
        race = dz.Race(backbone, delta=delta, max_draws=64).fit(backbone.classes)
        cost.append(race.scores(images[:20]).evals.sum())
    assert cost[0] < cost[1] < cost[2]
    mixture = dz.Race(backbone, boundary="mixture", max_draws=64).fit(backbone.classes)
    assert mixture.scores(images[:20]).evals.sum() > cost[1]


def test_facts_say_what_happened(problem):
    backbone, images, _ = problem
    race = dz.Race(backbone, max_draws=16).fit(backbone.classes)
    scores = race.scores(images[:10])
    for row, facts in enumerate(scores.facts):
        assert facts["stopped"] in ("decided", "max_draws")
        assert sum(facts["draws"]) == scores.evals[row]
        best = backbone.classes[int(scores.logits[row].argmax())]
        assert best in facts["label_set"]
        json.dumps(facts)
    assert len({f["stopped"] for f in scores.facts}) >= 1
    proba = race.probabilities(scores)
    assert (proba > 0).all() and np.allclose(proba.sum(1), 1)


def test_an_answer_near_the_posterior(problem):
    backbone, images, _ = problem
    truth = backbone.posterior(as_x0(images)).argmax(1).numpy()
    race = dz.Race(backbone, weights="elbo", max_draws=256, delta=0.01).fit(backbone.classes)
    found = race.scores(images).logits.argmax(1)
    assert (found == truth).mean() > 0.75


def test_the_temperature_of_the_dense_method_serves():
    race = dz.Race("tiny-sd", max_draws=64).fit(["sneaker", "bag"])
    dense = dz.ELBO("tiny-sd", draws=64).fit(["sneaker", "bag"])
    assert race.calibrated and race.temperature_in_use() == dense.temperature_in_use()
    assert not dz.Race("tiny-sd", loss="l1").fit(["sneaker", "bag"]).calibrated


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delta": 0}, "delta must be a number"),
        ({"delta": 1.5}, "delta must be a number"),
        ({"min_draws": 1}, "min_draws must be a whole number"),
        ({"boundary": "betting"}, "boundary must be one of"),
        ({"template": ["a {}", "the {}"]}, "race takes one template"),
    ],
)
def test_bad_options(oracle, options, message):
    with pytest.raises(dz.InputError, match=message):
        dz.Race(oracle[0], **options).fit(oracle[0].classes)


def grouped_classes(k, n, groups_of=10, seed=0):
    """Classes in groups: (backbone, images)."""
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(k // groups_of, 1, 3, 4, 4, generator=g).double() * 0.5
    own = torch.randn(k // groups_of, groups_of, 3, 4, 4, generator=g).double() * 0.2
    means = (centres + own).reshape(k, 1, 3, 4, 4)
    stds, ones = torch.full((k, 1), 0.3), torch.ones(k, 1)
    backbone = dz.MixtureBackbone(ones, means, stds, dz.DiscreteSchedule.linear())
    labels = torch.randint(0, k, (n,), generator=g)
    x = means[labels, 0] + 0.3 * torch.randn(n, 3, 4, 4, generator=g).double()
    pixels = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return backbone, pixels.permute(0, 2, 3, 1).numpy()


def test_a_gradient_before_the_race_makes_the_cost_nearly_independent_of_the_classes():
    few, images = grouped_classes(10, 6)
    cost = dz.Race(few).fit(few.classes).scores(images).evals.mean()
    many, images = grouped_classes(200, 6)
    screen = dz.Weighted(many, steps=1, draws=16)
    behind = dz.Shortlist(screen, dz.Race(many), keep=10).fit(many.classes)
    scores = behind.scores(images)
    assert (scores.evals + scores.vjps).mean() <= 3 * cost
    answer = many.posterior(as_x0(images)).argmax(1).numpy()
    assert (scores.logits.argmax(1) == answer).mean() >= 5 / 6
    best = scores.logits.argmax(1)
    for facts, c in zip(scores.facts, best, strict=True):  # what the race said is kept
        assert facts["stopped"] and many.classes[c] in facts["label_set"]


def test_blocks_have_times_of_their_own_and_races_move_by_whole_ones(oracle):
    backbone, images, _ = oracle
    race = dz.Race(backbone, block=8, max_draws=36).fit(backbone.classes)
    scores, cubes = race.scores_and_draws(images[:4])
    for facts in scores.facts:
        assert all(n % 8 == 0 and 16 <= n <= 32 for n in facts["draws"])
    places = race.places_of(7, np.arange(16))
    own = (places[:8, None] - places[8:]) % 0.125  # each block is an even grid with its own shift
    assert np.allclose(own, own[0, 0]) and 1e-6 < own[0, 0] < 0.125 - 1e-6
    first = dz.ELBO(backbone, draws=8).fit(backbone.classes)
    for cube, whole in zip(cubes, first.draw_errors(images[:4]), strict=True):
        assert np.allclose(cube[:8], whole, rtol=1e-9)
    with pytest.raises(dz.InputError, match="at least two blocks of 32"):
        dz.Race(backbone, block=32, max_draws=63).fit(backbone.classes)


def test_the_plain_variance_counts_the_trend_in_time_and_draws_more(problem):
    backbone, images, _ = problem
    cost = {}
    for variance in ("successive", "plain"):
        race = dz.Race(backbone, variance=variance, max_draws=64).fit(backbone.classes)
        cost[variance] = race.scores(images[:20]).evals.sum()
    assert cost["successive"] < cost["plain"]
