import pickle
from copy import copy

import numpy as np
import pandas
import pytest
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score

import diffzero as dz
from conftest import oracle_problem


@pytest.fixture(params=["elbo", "clip"])
def problem(request, oracle, clip):
    """(classifier, images, labels): both methods, with string labels."""
    rng = np.random.default_rng(1)
    if request.param == "elbo":
        backbone, pixels, labels = oracle
        return dz.ELBO(backbone, draws=2), pixels, np.array([str(c) for c in labels])
    images = rng.integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
    return (
        dz.CLIP(clip),
        images,
        np.array(["cat", "dog", "fox", "red fox"])[rng.integers(0, 4, 24)],
    )


def test_fit_forms_give_the_same_classes(problem):
    classifier, images, labels = problem
    names = sorted(set(labels))
    by_name = clone(classifier).fit(names)
    by_label = clone(classifier).fit(images, labels)
    assert list(by_name.classes_) == list(by_label.classes_) == names
    assert np.allclose(by_name.predict_proba(images[:3]), by_label.predict_proba(images[:3]))
    backwards = clone(classifier).fit(names[::-1])
    assert list(backwards.classes_) == names[::-1]
    assert np.allclose(
        backwards.predict_proba(images[:3])[:, ::-1], by_name.predict_proba(images[:3])
    )
    assert (backwards.predict(images) == by_name.predict(images)).all()


def test_numeric_labels_come_back_as_numbers(oracle):
    backbone, pixels, labels = oracle
    classifier = dz.ELBO(backbone, draws=8).fit(pixels, labels)
    assert classifier.predict(pixels[:2]).dtype == labels.dtype
    assert 0.25 < classifier.score(pixels, labels) <= 1


def test_clone_and_params_share_the_backbone(problem):
    classifier, *_ = problem
    twin = clone(classifier.set_params(temperature=2.0))
    assert twin is not classifier and twin.backbone is classifier.backbone
    assert twin.get_params() == classifier.get_params()
    assert not hasattr(twin, "classes_")
    classifier.set_params(temperature=None)


def test_predict_before_fit_says_so(problem):
    classifier, images, _ = problem
    with pytest.raises(dz.InputError, match=r"has no classes yet. Call fit"):
        clone(classifier).predict(images)


def test_probabilities_sum_to_one_and_priors_shift_them(problem):
    classifier, images, labels = problem
    names = sorted(set(labels))
    plain = clone(classifier).fit(names).predict_proba(images[:4])
    assert np.allclose(plain.sum(1), 1)
    priors = {n: 0.1 for n in names} | {names[0]: 0.7}
    shifted = clone(classifier).set_params(priors=priors).fit(names).predict_proba(images[:4])
    odds = shifted[:, 0] / shifted[:, 1] / (plain[:, 0] / plain[:, 1])
    assert np.allclose(odds, 7)


def test_cross_validation(problem):
    classifier, images, labels = problem
    scores = cross_val_score(classifier, images, labels, cv=2)
    assert scores.shape == (2,) and ((scores >= 0) & (scores <= 1)).all()


def test_grid_search(problem):
    classifier, images, labels = problem
    name = "draws" if isinstance(classifier, dz.ELBO) else "template"
    values = [1, 4] if name == "draws" else ["a {}", "a photo of a {}"]
    search = GridSearchCV(classifier, {name: values}, cv=2).fit(images, labels)
    assert search.best_params_[name] in values
    assert search.best_estimator_.backbone is classifier.backbone


def test_calibrated_classifier(problem):
    classifier, images, labels = problem
    calibrated = CalibratedClassifierCV(classifier, cv=2, method="sigmoid").fit(images, labels)
    assert np.allclose(calibrated.predict_proba(images[:3]).sum(1), 1)


def test_a_fitted_classifier_pickles(oracle):
    backbone, pixels, _ = oracle
    classifier = dz.ELBO(backbone, draws=2).fit(backbone.classes)
    twin = pickle.loads(pickle.dumps(classifier))
    assert np.array_equal(twin.predict(pixels[:3]), classifier.predict(pixels[:3]))


def test_an_unreadable_image_is_named_by_its_position(problem):
    classifier, images, labels = problem
    fitted = clone(classifier).fit(sorted(set(labels)))
    with pytest.raises(dz.InputError, match=r"Image 1: missing.png: no such file"):
        fitted.predict([images[0], "missing.png"])
    with pytest.raises(dz.InputError, match="No images"):
        fitted.predict([])


def test_file_pil_and_array_score_alike(tmp_path, sd, photos):
    from PIL import Image

    Image.fromarray(photos[0]).save(tmp_path / "a.png")
    classifier = dz.ELBO(sd, draws=2).fit(["cat", "dog"])
    logits = classifier.scores([photos[0], Image.fromarray(photos[0]), tmp_path / "a.png"]).logits
    assert np.abs(logits - logits[0]).max() <= 1e-5 * np.abs(logits[0]).max()


def test_seed_changes_the_noise():
    backbone, pixels, _ = oracle_problem(dz.LogSNRLinearSchedule(), n=2)
    one, two = (dz.ELBO(backbone, draws=2, seed=s).fit(["0", "1"]) for s in (0, 1))
    assert not np.allclose(one.scores(pixels).logits, two.scores(pixels).logits)


@pytest.fixture
def mixture(oracle):
    return oracle[0], list(oracle[1][:2])


def test_log_probabilities_and_data_frames(mixture):
    backbone, images = mixture
    fitted = dz.ELBO(backbone, draws=2).fit(["0", "1", "2", "3"])
    proba = fitted.predict_proba(images)
    assert np.allclose(np.exp(fitted.predict_log_proba(images)), proba)
    frame = clone(fitted.set_output(transform="pandas")).fit(["0", "1", "2", "3"])
    frame = frame.predict_proba(pandas.Series(images, index=["a", "b"]))
    assert list(frame.columns) == ["0", "1", "2", "3"] and list(frame.index) == ["a", "b"]
    assert (frame.to_numpy() == proba).all() and (
        fitted.predict(images) == proba.argmax(1).astype(str)
    ).all()
    with pytest.raises(dz.InputError, match="transform must be one of default, pandas"):
        fitted.set_output(transform="polars")


@pytest.mark.parametrize("call", ["predict", "predict_proba", "predict_log_proba"])
def test_before_fit_it_is_scikit_learns_error(mixture, call):
    backbone, images = mixture
    with pytest.raises(NotFittedError, match="has no classes yet"):
        getattr(dz.ELBO(backbone), call)(images)
    with pytest.raises(NotFittedError):
        dz.ELBO(backbone).score(images, ["0", "1"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2], ["0", None]), "Label 2 is missing"),
        (([1, 2, 3], [0, 1, float("nan")]), "Label 3 is missing"),
        (([1, 2], pandas.Series(["0", None])), "Label 2 is missing"),
        (([1, 2], np.eye(2)), "one list of words"),
        (([1, 2], [["0"], ["1", "2"]]), "Several labels per image"),
        (([1, 2, 3], ["0", "1"]), "2 labels for 3 images"),
        (([1, 2], ["0", 1]), "side by side"),
        (([1, 2], [0.5, 1.5]), "words or whole numbers"),
        (({"0", "1"},), "in an order"),
        ((b"0,1",), "a list of words"),
        ((7,), "a list of words"),
        ((["caf\u00e9", "cafe\u0301"],), "repeat"),
        ((["0", "\ud800"],), "no word"),
    ],
)
def test_labels_that_are_none(mixture, arguments, message):
    with pytest.raises(dz.InputError, match=message):
        dz.ELBO(mixture[0]).fit(*arguments)


def test_answers_that_are_not_finite_are_never_averaged_away(mixture):
    backbone, images = mixture
    fitted = dz.ELBO(backbone, draws=4).fit(["0", "1", "2", "3"])
    ask = backbone.denoiser

    class Overflows(type(ask)):
        """Its first draw of an image is NaN, the others are right."""

        def __call__(self, x_t, t, cond):
            said = super().__call__(x_t, t, cond)
            said._out[: len(said._out) // 4] = np.nan
            return said

    odd = copy(backbone)
    odd.denoiser = copy(ask)
    odd.denoiser.__class__ = Overflows
    for method in (dz.ELBO(odd, draws=4), dz.NoiseDenoiseVote(odd, draws=2, steps=2)):
        with pytest.raises(dz.InputError, match="NaN or infinity"):
            method.fit(fitted.names_).scores(images)


def test_a_refused_fit_leaves_the_classifier_as_it_was(clip, photos):
    """Names were new and embeddings old, and a sneaker had another name without a word."""
    fresh = dz.CLIP(clip)
    with pytest.raises(dz.InputError, match="tokens"):
        fresh.fit(["cat", "dog " * 99])
    with pytest.raises(NotFittedError, match="no classes yet"):
        fresh.predict(photos[:1])
    fitted = dz.CLIP(clip).fit(["cat", "dog"])
    before = fitted.predict_proba(photos[:1])
    with pytest.raises(dz.InputError, match="tokens"):
        fitted.fit(["fox", "dog " * 99])
    assert list(fitted.classes_) == ["cat", "dog"]
    assert (fitted.predict_proba(photos[:1]) == before).all()


def test_refused_arguments_are_refused_again_and_can_be_taken_back(clip, sd, oracle, photos):
    fitted = dz.CLIP(clip).fit(["cat", "dog"])
    before = fitted.predict_proba(photos[:1])
    for wrong, right in (
        ({"priors": [0.5, 0.3, 0.2]}, {"priors": None}),
        ({"template": "a {} " + "of " * 99}, {"template": None}),
        ({"backbone": oracle[0]}, {"backbone": clip}),
    ):
        fitted.set_params(**wrong)
        for _ in range(2):
            with pytest.raises(dz.InputError):
                fitted.predict_proba(photos[:1])
        fitted.set_params(**right)
        assert (fitted.predict_proba(photos[:1]) == before).all()
        own = fitted.scores(photos[:1], candidates=[["dog", "cat"]]).logits
        assert np.allclose(own[:, ::-1], fitted.scores(photos[:1]).logits, atol=1e-5)
    elbo = dz.ELBO(sd, draws=1).fit(["cat", "dog"])
    before = elbo.scores(photos[:1]).logits
    with pytest.raises(dz.InputError):
        elbo.set_params(backbone=clip).predict(photos[:1])
    assert elbo.set_params(backbone=sd).backbone_ is sd
    assert (elbo.scores(photos[:1]).logits == before).all()


def test_words_in_other_forms_are_the_same_words(photos):
    from enum import Enum

    class Kind(str, Enum):  # noqa: UP042
        BAG = "bag"
        SHOE = "sneaker"

    assert list(dz.CLIP("tiny-clip").fit(list(Kind)).names_) == ["bag", "sneaker"]
    words, clip = ["sneaker", "bag", "ankle boot"], dz.CLIP("tiny-clip")
    expected = clip.fit(words).predict(photos[:1], candidates=[words])
    series = [pandas.Series(words, index=order) for order in ([2, 0, 1], [7, 8, 9])]
    for own in (*series, iter(words)):
        assert clip.predict(photos[:1], candidates=[own]) == expected


@pytest.mark.filterwarnings("ignore:tiny-clip never saw")
def test_decomposed_words_and_columns_are_scored(photos):
    word = "cafe\u0301"
    clip = dz.CLIP("tiny-clip").fit([word, "bag"])
    y = [word if name != "bag" else name for name in clip.predict(photos)]
    assert clip.score(photos, y) == 1.0
    assert clip.score(photos, np.array(y, dtype=object).reshape(-1, 1)) == 1.0


@pytest.mark.filterwarnings("ignore:tiny-clip never saw")
def test_priors_name_the_classes_and_nothing_else(photos):
    images = photos[:2]
    numbers = dz.CLIP("tiny-clip", priors={0: 0.7, 1: 0.3}).fit(images, [0, 1])
    assert np.exp(numbers.log_priors_) == pytest.approx([0.7, 0.3])
    with pytest.raises(dz.InputError, match="priors name 'fox', which is none of the classes"):
        dz.CLIP("tiny-clip", priors={"bag": 1, "shoe": 1, "fox": 1}).fit(["bag", "shoe"])
