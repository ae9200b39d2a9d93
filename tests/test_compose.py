import numpy as np
import pytest
from sklearn.base import clone

import diffzero as dz
from conftest import as_x0, oracle_problem

NAMES = ["0", "1", "2", "3"]


@pytest.fixture(scope="module")
def problem():
    return oracle_problem(dz.LogSNRLinearSchedule(-6, 8), n=24)


def elbo(backbone, draws, **options):
    return dz.ELBO(backbone, draws=draws, weights="elbo", **options)


def test_shortlist_probabilities(problem):
    backbone, pixels, _ = problem
    first, then = elbo(backbone, 4), elbo(backbone, 32)
    short = dz.Shortlist(first, then, keep=2).fit(NAMES)
    proba = short.predict_proba(pixels)
    one, two = (c.fit(NAMES).predict_proba(pixels) for c in (first, then))
    assert np.allclose(proba.sum(1), 1) and (proba > 0).all()
    for p, a, b in zip(proba, one, two, strict=True):
        kept = np.argsort(-a)[:2]
        pruned = np.setdiff1d(np.arange(4), kept)
        assert np.allclose(p[pruned], a[pruned])
        assert np.allclose(p[kept], a[kept].sum() * b[kept] / b[kept].sum(), atol=1e-6)
        assert p.argmax() in kept


def test_priors_count_in_both_stages(problem):
    backbone, pixels, _ = problem
    a, b = elbo(backbone, 4), elbo(backbone, 8, priors=[1e6, 1, 1, 1])
    assert (dz.Shortlist(a, b, keep=4).fit(NAMES).predict(pixels) == "0").all()
    for keep in (2, 3):  # a class that is certain beforehand is kept, and wins
        short = dz.Shortlist(a, elbo(backbone, 8), keep=keep, priors=[1, 1, 1, 1e9]).fit(NAMES)
        assert (short.predict(pixels) == "3").all()


def test_one_model_a_name():
    combined = dz.HandOver(dz.CLIP("tiny-clip"), dz.ELBO("tiny-sd", draws=1), augmentations=0)
    combined.fit(["sneaker", "bag"])
    models = {id(c.backbone_) for c in (combined.first_, *combined.variants_)}
    assert len(models) == 1 and combined.first.backbone == "tiny-clip"


def test_shortlist_costs_the_kept_classes_only(problem):
    backbone, pixels, _ = problem
    short = dz.Shortlist(elbo(backbone, 1), elbo(backbone, 8), keep=2).fit(NAMES)
    assert (short.scores(pixels).evals == 4 + 2 * 8).all() and short.count_evals(4) == 20
    screen = dz.Shortlist(dz.Weighted(backbone, steps=1), elbo(backbone, 8), keep=2).fit(NAMES)
    scores = screen.scores(pixels)
    assert (scores.evals == 4 + 16).all() and (scores.vjps == 4).all()


def test_shortlist_of_all_classes_is_the_second(problem):
    backbone, pixels, _ = problem
    short = dz.Shortlist(elbo(backbone, 1), elbo(backbone, 8), keep=9).fit(NAMES)
    assert np.allclose(
        short.predict_proba(pixels), elbo(backbone, 8).fit(NAMES).predict_proba(pixels)
    )


def test_a_good_first_stage_loses_little(problem):
    backbone, pixels, labels = problem
    best = backbone.posterior(as_x0(pixels)).argmax(1).numpy()
    short = dz.Shortlist(elbo(backbone, 16), elbo(backbone, 256), keep=2).fit(NAMES)
    assert (short.predict(pixels) == best.astype(str)).mean() > 0.85


def test_blend_is_a_weighted_product(problem):
    backbone, pixels, _ = problem
    members = [elbo(backbone, 4), elbo(backbone, 16, seed=1)]
    blend = dz.Blend(members, weights=[3, 1]).fit(NAMES)
    a, b = (m.fit(NAMES).predict_proba(pixels) for m in members)
    product = a**0.75 * b**0.25
    assert np.allclose(blend.predict_proba(pixels), product / product.sum(1, keepdims=True))
    assert (blend.scores(pixels).evals == 4 * 20).all()


def test_candidates_pass_through(problem):
    backbone, pixels, _ = problem
    lists = [["1", "0"], ["2", "1", "0"]]
    a, b = elbo(backbone, 4), elbo(backbone, 8)
    for combination in (dz.Shortlist(a, b, keep=2), dz.Blend([a, b])):
        logits = combination.scores(pixels[:2], candidates=lists).logits
        assert np.isneginf(logits[0, 2]) and np.isfinite(logits[1]).all()
        assert combination.predict(pixels[:2], candidates=lists)[0] in lists[0]


def test_hand_over_asks_the_second_about_unstable_images_only(clip, sd, photos):
    words = ["cat", "dog", "fox"]
    own = dz.CLIP(clip).fit(words).predict_proba(photos)
    other = dz.ELBO(sd, draws=2).fit(words).predict_proba(photos)
    shares = []
    for templates, n in ((["a photo of a {}"], 0), (["a photo of a {}", "{}"], 0), (["{}"], 2)):
        combined = dz.HandOver(dz.CLIP(clip), dz.ELBO(sd, draws=2), templates, augmentations=n)
        scores = combined.fit(words).scores(photos)
        handed = scores.details["handed_over"][:, 0].astype(bool)
        assert np.allclose(np.exp(scores.logits[~handed]), own[~handed], atol=1e-6)
        assert np.allclose(np.exp(scores.logits[handed]), other[handed], atol=1e-5)
        assert (scores.evals == 1 + len(templates) + n + 6 * handed).all()
        shares.append(handed.mean())
    # The same template always agrees; an untrained model's answer changes with the template.
    assert shares[0] == 0 < shares[1] <= shares[2]


def test_hand_over_counts_what_the_second_took(clip, sd, photos):
    words, priors = ["cat", "dog"], {"cat": 1, "dog": 999}
    second = dz.Weighted(sd, steps=1, draws=2)
    scores = dz.HandOver(dz.CLIP(clip), second, ["{}"], augmentations=2).fit(words).scores(photos)
    handed = scores.details["handed_over"][:, 0].astype(bool)
    assert (scores.evals == 4 + 2 * handed).all()
    assert scores.vjps is None if not handed.any() else (scores.vjps == 2 * handed).all()
    # The same template agrees with itself whatever the priors.
    same = dz.HandOver(dz.CLIP(clip, priors=priors), second, ["a photo of a {}"], 0).fit(words)
    assert not same.scores(photos).details["handed_over"].any()


def test_scikit_learns_manners(problem):
    backbone, pixels, _ = problem
    short = dz.Shortlist(elbo(backbone, 1), elbo(backbone, 2), keep=2)
    copy = clone(short)
    assert copy.first is not short.first and copy.first.backbone is backbone
    copy.set_params(then__draws=5)
    assert copy.then.draws == 5 and short.then.draws == 2
    fitted = clone(short).set_params(seed=7).fit(NAMES)
    assert fitted.first_.seed == fitted.then_.seed == 7 and short.first.seed == 0
    again = dz.Shortlist(elbo(backbone, 1, seed=7), elbo(backbone, 2, seed=7), keep=2).fit(NAMES)
    assert np.allclose(fitted.scores(pixels).logits, again.scores(pixels).logits)


def test_bad_input(problem):
    backbone = problem[0]
    with pytest.raises(dz.InputError, match="first of Shortlist must be a classifier"):
        dz.Shortlist("tiny-clip", elbo(backbone, 1)).fit(NAMES)
    with pytest.raises(dz.InputError, match="keep must be a whole number from 2 to 10,000; got 1"):
        dz.Shortlist(elbo(backbone, 1), elbo(backbone, 1), keep=1).fit(NAMES)
    with pytest.raises(dz.InputError, match="at least two members; got 1"):
        dz.Blend([elbo(backbone, 1)]).fit(NAMES)
    with pytest.raises(dz.InputError, match="weights must be a list of at most 64, each a number"):
        dz.Blend([elbo(backbone, 1), elbo(backbone, 1)], weights=[1, 0]).fit(NAMES)
    with pytest.raises(dz.InputError, match="has no classes yet"):
        dz.Blend([elbo(backbone, 1), elbo(backbone, 2)]).predict(problem[1])


def test_a_pruned_class_never_wins_at_any_temperature(problem):
    """Priors and temperature together: what is kept was chosen by another rule than the answer."""
    backbone, pixels, _ = problem
    priors = [0.05, 0.05, 0.85, 0.05]
    for keep, temperature in ((2, 100.0), (2, 3.0), (3, 30.0)):
        short = dz.Shortlist(
            elbo(backbone, 4), elbo(backbone, 8), keep=keep, priors=priors, temperature=temperature
        ).fit(NAMES)
        first = elbo(backbone, 4).fit(NAMES)
        rule = first.log_probabilities(first.scores(pixels)) / temperature + np.log(priors)
        for answer, row in zip(short.predict(pixels), rule, strict=True):
            assert int(answer) in np.argsort(-row)[:keep]


def test_groups_are_opened_by_the_rule_that_answers(problem):
    backbone, pixels, _ = problem
    groups = {"0": ["0", "1"], "2": ["2", "3"]}
    options = {"priors": [0.02, 0.02, 0.02, 0.94], "temperature": 50.0}
    found = dz.Hierarchy(elbo(backbone, 4), groups, elbo(backbone, 8), **options).fit(NAMES)
    scores = found.scores(pixels)
    answers = found.probabilities(scores).argmax(1)
    for answer, facts in zip(answers, scores.facts, strict=True):
        assert ("0" if answer < 2 else "2") in facts["opened"]
