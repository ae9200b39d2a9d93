"""What every method promises on every family of models, in one table."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.base import clone

import diffzero as dz
from conftest import oracle_problem
from diffzero.methods import METHODS, make, method_class

OPTIONS = {
    "elbo": {"draws": 3},
    "race": {"max_draws": 6},
    "likelihood": {"steps": 2},
    "latent-knn": {"steps": 2},
    "noise-denoise": {"steps": 4, "draws": 2},
    "noise-denoise-vote": {"steps": 4, "levels": (0.3, 0.7)},
    "cross-attention": {},
    "textual-inversion": {"steps": 2, "draws": 2, "augmentations": 2},
    "weighted": {"steps": 2, "draws": 3},
    "clip": {},
}
TEXT = ["cat", "dog", "fox"]
ROWS = ["elbo", "race", "likelihood", "latent-knn", "noise-denoise", "noise-denoise-vote"]
ROWS += ["weighted"]
FAMILIES = {
    "sd": [*ROWS, "cross-attention", "textual-inversion"],
    "deepfloyd": [*ROWS, "cross-attention", "textual-inversion"],
    "tiny_ddpm": ROWS,
    "mixture": ROWS,
    "clip": ["clip"],
    # Those in which these families' own parts have a say; the others run in test_families.py.
    "sdxl": ["elbo", "cross-attention", "textual-inversion"],
    "sd3": ["elbo", "likelihood", "cross-attention", "textual-inversion"],
    "flux": ["elbo", "noise-denoise", "cross-attention", "textual-inversion"],
    "dit": ["elbo", "weighted"],
    "ldm": ["elbo", "weighted"],
    "pixart": ["elbo", "weighted"],
    "sana": ["elbo", "weighted"],
    "z_image": ["elbo"],
}
CASES = [(family, method) for family, methods in FAMILIES.items() for method in methods]


@pytest.fixture(scope="session")
def mixture():
    return oracle_problem(dz.LogSNRLinearSchedule(-6, 8), n=1)[0]


@pytest.fixture(params=CASES, ids=["-".join(case) for case in CASES])
def case(request, photos):
    family, method = request.param
    model = request.getfixturevalue(family)
    words = TEXT if getattr(model, "classes", None) is None else model.classes[:3]
    classifier = make(method, model, dict(OPTIONS[method]))
    return classifier.fit(words), photos[:4], list(words)


def close(a, b):
    """Within 1e-5 of the summed error, or of distances and weights."""
    return np.allclose(a, b, rtol=1e-5, atol=1e-5 * max(1.0, np.abs(b).max()))


def test_every_method_is_in_the_table():
    assert set(OPTIONS) == set(METHODS)
    for name in METHODS:
        cls = method_class(name)
        assert cls.cost and cls.needs and cls.__doc__


def test_batches_order_and_shards_do_not_matter(case):
    classifier, images, _ = case
    whole = classifier.scores(images)
    assert np.isfinite(whole.logits).all() and np.ptp(whole.logits) > 0
    small = clone(classifier).set_params(batch_size=3).fit(classifier.names_)
    assert close(small.scores(images).logits, whole.logits)
    turned = classifier.scores(images[::-1])
    assert close(turned.logits[::-1], whole.logits)
    shards = [classifier.scores(part).logits for part in (images[:1], images[1:])]
    assert close(np.concatenate(shards), whole.logits)


def test_evaluations_are_counted_and_never_above_the_bound(case):
    classifier, images, words = case
    seen = []
    scores = classifier.scores(images, progress=seen.append)
    assert sum(seen) == scores.evals.sum()
    assert (scores.evals <= classifier.count_evals(len(words))).all()
    assert scores.evals.dtype == np.int64 and (scores.evals > 0).all()


def test_candidates_are_the_classes_of_an_image(case):
    classifier, images, words = case
    whole = classifier.scores(images)
    same = classifier.scores(images, candidates=[words] * len(images))
    assert close(same.logits, whole.logits)
    own = [words[::-1], *[words] * (len(images) - 1)]
    mixed = classifier.scores(images, candidates=own)
    if classifier.method not in ("cross-attention", "latent-knn", "noise-denoise-vote"):
        assert close(mixed.logits[0][::-1], whole.logits[0])  # order does not matter to these
    assert close(mixed.logits[1:], whole.logits[1:])
    labels = classifier.predict(images, candidates=own)
    assert all(label in words for label in labels)


def test_clones_and_pickles_answer_alike(case):
    classifier, images, words = case
    whole = classifier.scores(images[:2])
    copy = clone(classifier)
    assert copy.backbone is classifier.backbone and not hasattr(copy, "classes_")
    assert close(copy.fit(words).scores(images[:2]).logits, whole.logits)
    again = pickle.loads(pickle.dumps(classifier))
    assert close(again.scores(images[:2]).logits, whole.logits)


def test_threads_may_share_a_model(case):
    classifier, images, words = case
    alone = [classifier.scores([image]).logits for image in images]

    def work(i):
        own = clone(classifier).fit(words)
        return [own.scores([images[(i + j) % 4]]).logits for j in range(2)]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, range(4)))
    for i, pair in enumerate(found):
        for j, logits in enumerate(pair):
            assert close(logits, alone[(i + j) % 4])


@pytest.mark.filterwarnings("ignore:.*distilled from a guided network")
def test_arguments_set_after_fit_take_effect(case):
    classifier, images, words = case
    before = classifier.scores(images[:1]).logits
    classifier.set_params(seed=7)
    fresh = clone(classifier).fit(words).scores(images[:1]).logits
    assert close(classifier.scores(images[:1]).logits, fresh)
    if classifier.method not in ("clip", "latent-knn", "noise-denoise-vote"):
        # The first two draw nothing, and votes may be the same.
        assert not np.allclose(before, fresh, rtol=1e-9, atol=0)
    classifier.set_params(seed=0)
    assert close(classifier.scores(images[:1]).logits, before)
    classifier.set_params(temperature=-1.0)
    with pytest.raises(dz.InputError, match="temperature must be a number above 0"):
        classifier.scores(images[:1])


def test_parameters_are_the_arguments(case):
    classifier, _, _ = case
    parameters = classifier.get_params(deep=False)
    assert {"backbone", "temperature", "priors", "seed", "batch_size"} <= set(parameters)
    assert type(classifier)(**parameters).get_params(deep=False) == parameters
    assert repr(clone(classifier).set_params(backbone="x")).startswith(type(classifier).__name__)
    with pytest.raises(TypeError):
        type(classifier)(classifier.backbone, 3)  # everything but the model is by name
