import numpy as np
import pytest
from PIL import Image

import diffzero as dz
from conftest import oracle_problem
from diffzero.evaluate.config import settings_of
from diffzero.methods.latent_knn import neighbour_logits

NAMES = ["0", "1", "2", "3"]


def test_neighbours_of_points_on_a_line():
    latents = np.array([0.0, 1.0, 3.0, 10.0])[:, None]
    assert np.allclose(neighbour_logits(latents, 2, "outlier", "mean"), [2, 1.5, 2.5, 8])
    assert np.allclose(neighbour_logits(latents, 2, "outlier", "kth"), [3, 2, 3, 9])
    assert np.allclose(neighbour_logits(latents, 2, "inlier", "mean"), [-2, -1.5, -2.5, -8])
    assert np.allclose(neighbour_logits(latents, 1, "outlier", "mean"), [1, 1, 2, 7])


def test_latents_are_standard_normal_under_the_true_class():
    backbone, pixels, labels = oracle_problem(dz.LogSNRLinearSchedule(-10, 8), n=60)
    latents = dz.LatentKNN(backbone, steps=60, solver="heun").fit(NAMES).latents(pixels)
    own = latents[np.arange(60), labels]
    # The flow carries the class's own data to the class's own Gaussian.
    assert abs(own.std() - 1) < 0.05 and abs(own.mean()) < 0.05
    assert own.shape == (60, 3, 4, 4)


def test_cost_and_batches():
    backbone, pixels, _ = oracle_problem(dz.LogSNRLinearSchedule(), n=5)
    calls = []
    forward = backbone.forward
    backbone.forward = lambda x, t, c: calls.append(len(x)) or forward(x, t, c)
    classifier = dz.LatentKNN(backbone, steps=7, batch_size=6).fit(NAMES)
    scores = classifier.scores(pixels)
    assert sum(calls) == scores.evals.sum() == 5 * 4 * 7
    del backbone.forward
    whole = dz.LatentKNN(backbone, steps=7).fit(NAMES).scores(pixels)
    assert np.allclose(whole.logits, scores.logits)


@pytest.mark.parametrize(
    ("options", "names", "message"),
    [
        ({}, NAMES[:2], "at least 3 classes; got 2"),
        ({"k": 1, "pick": "inlier"}, NAMES, "always ties"),
        ({"k": 4}, NAMES, "k must be at most the number of other classes, 3; got 4"),
        ({"pick": "middle"}, NAMES, "pick must be one of outlier, inlier"),
        ({"steps": 0}, NAMES, "steps must be a whole number from 1 to 1,000"),
    ],
)
def test_bad_options(options, names, message):
    backbone = oracle_problem(dz.LogSNRLinearSchedule(), n=1)[0]
    with pytest.raises(dz.InputError, match=message):
        dz.LatentKNN(backbone, **options).fit(names)


def test_reference_images_set_each_class_its_unit(tmp_path):
    backbone, pixels, _ = oracle_problem(dz.LogSNRLinearSchedule(-10, 8), n=8)
    plain = dz.LatentKNN(backbone, steps=9).fit(NAMES)
    unfitted = dz.LatentKNN(backbone, steps=9)
    given = unfitted.scores(pixels, candidates=[NAMES] * len(pixels)).logits
    assert np.allclose(given, plain.scores(pixels).logits)
    units = plain.scores(pixels[:5]).logits.mean(0)
    own = dz.LatentKNN(backbone, steps=9, reference=pixels[:5]).fit(NAMES)
    assert np.allclose(own.units_, units)
    for i, image in enumerate(pixels[:5]):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    folder = dz.LatentKNN(backbone, steps=9, reference=str(tmp_path)).fit(NAMES)
    assert np.array_equal(folder.units_, own.units_)
    assert folder.reference_digest_ == own.reference_digest_
    other = dz.LatentKNN(backbone, steps=9, reference=pixels[:4]).fit(NAMES)
    assert settings_of(folder) != settings_of(other)  # a run is not resumed with other images
    found = own.scores(pixels).logits
    assert np.allclose(found, plain.scores(pixels).logits / units)
    assert np.allclose(found[:5].mean(0), 1)
    inlier = dz.LatentKNN(backbone, steps=9, pick="inlier", reference=pixels[:5]).fit(NAMES)
    assert np.allclose(inlier.scores(pixels).logits, -found)
    with pytest.raises(dz.InputError, match="reference images compares the fitted classes"):
        own.scores(pixels[:1], candidates=[NAMES])
    with pytest.raises(dz.InputError, match="No images were given"):
        dz.LatentKNN(backbone, steps=9, reference=[]).fit(NAMES)
