"""Explanations: maps that sum to the logits, and point at the thing."""

import json

import numpy as np
import pytest
from PIL import Image

import diffzero as dz
from diffzero.data.scenes import coverage, example, render
from diffzero.errors import InputError
from test_cli import run


@pytest.fixture(scope="module")
def tiny():
    return dz.load("tiny-sd")


@pytest.mark.parametrize("settings", [{}, {"loss": "l1"}, {"weights": "elbo", "target": "x"}])
def test_the_map_sums_to_the_difference_of_the_logits(sd, photos, settings):
    classifier = dz.ELBO(sd, draws=4, **settings).fit(["cat", "dog", "fox"])
    scores = classifier.scores(photos[:2]).logits
    pairs = [("cat", "fox"), ("dog", "cat")]
    for row, found in enumerate(dz.explain(classifier, photos[:2], pairs)):
        first, second = (classifier.names_.index(n) for n in pairs[row])
        gap = scores[row, first] - scores[row, second]
        assert found.difference.sum() == pytest.approx(gap, rel=1e-4, abs=1e-6)
        assert found.difference.shape == found.error.shape == (8, 8)
        assert (found.first, found.second) == pairs[row]
        assert (found.draws, found.evals) == (4, 8)


def test_the_two_most_probable_classes_without_pairs(sd, photos):
    classifier = dz.ELBO(sd, draws=2).fit(["cat", "dog", "fox"])
    best = np.argsort(-classifier.predict_proba(photos[:3]), axis=1)[:, :2]
    found = dz.explain(classifier, photos[:3])
    assert [[e.first, e.second] for e in found] == [
        [classifier.names_[i] for i in row] for row in best
    ]
    assert all(e.difference.sum() > 0 for e in found)


def test_the_standard_error_is_that_of_the_draws(oracle):
    backbone, images, _ = oracle
    few, many = (
        dz.explain(dz.ELBO(backbone, draws=n), images[:4], [("0", "1")] * 4) for n in (64, 1024)
    )
    ratio = np.mean([f.error.mean() / m.error.mean() for f, m in zip(few, many, strict=True)])
    assert ratio == pytest.approx(4, rel=0.2)  # a fourth with 16 times the draws
    gaps = [abs(f.difference - m.difference) / f.error for f, m in zip(few, many, strict=True)]
    assert np.mean(np.concatenate(gaps) < 2) > 0.8  # even times make it no smaller
    alone = dz.explain(dz.ELBO(backbone, draws=1), images[:1], [("0", "1")])[0]
    assert np.isinf(alone.error).all()


def test_a_resized_map_keeps_its_values():
    values = np.arange(16.0).reshape(4, 4)
    found = dz.Explanation("a", "b", values, values / 2, 1, 2).resized(16)
    assert found.difference.shape == found.error.shape == (16, 16)
    assert found.difference.mean() == pytest.approx(values.mean())
    assert np.allclose(found.error, found.difference / 2)
    assert found.resized(16).difference is found.difference


def test_positive_mass_lies_inside_the_thing(tiny):
    scenes = [example("validation", row, 7, ("object",)).scene for row in range(4)]
    things = [(s.things[0].colour, s.things[0].shape) for s in scenes]
    pairs = [(f"{c} {s}", "red circle" if c != "red" else "blue square") for c, s in things]
    pairs = [(a, b if b != a else "green square") for a, b in pairs]
    ratios = []
    for scene, found in zip(
        scenes,
        dz.explain(dz.ELBO(tiny, draws=8), [render(s, 32) for s in scenes], pairs),
        strict=True,
    ):
        cover = coverage(scene, 0, 32)
        mass = np.clip(found.resized(32).difference, 0, None)
        ratios.append((mass * cover).sum() / mass.sum() / cover.mean())
    assert np.mean(ratios) > 2


def test_coverage_is_the_area_of_the_thing():
    scene = example("train", 0, 0, ("binding",)).scene
    covers = [coverage(scene, place, 64) for place in (0, 1)]
    for cover, thing in zip(covers, scene.things, strict=True):
        assert cover.min() >= 0 and cover.max() == 1
        assert cover.mean() == pytest.approx(np.pi * thing.radius**2, rel=0.4)
        y, x = ((cover * axis).sum() / cover.sum() / 64 for axis in np.mgrid[:64, :64] + 0.5)
        assert (x, y) == pytest.approx((thing.x, thing.y), abs=0.02)
    assert not (covers[0] * covers[1]).any()


def test_what_cannot_be_explained_is_told(sd, photos):
    with pytest.raises(InputError, match="explain needs an ELBO classifier, got Weighted"):
        dz.explain(dz.Weighted(sd), photos[:1], [("cat", "dog")])
    with pytest.raises(InputError, match="elbo takes one template; got 2"):
        both = dz.ELBO(sd, draws=1, template=["a {}", "the {}"])
        dz.explain(both, photos[:1], [("cat", "dog")])
    with pytest.raises(InputError, match="one list per image; got 1 lists for 2 images"):
        dz.explain(dz.ELBO(sd, draws=1), photos[:2], [("cat", "dog")])


def test_the_command_writes_a_picture(monkeypatch, capsys, tmp_path, photos):
    Image.fromarray(photos[0]).save(tmp_path / "a.png")
    line = ["explain", tmp_path / "a.png", "--labels", "bag,coat,dress", "--set", "draws=2"]
    looks = tmp_path / "looks.png"
    assert run(monkeypatch, *line, "--out", tmp_path / "why.png", "--attention", looks) == 0
    shown = np.asarray(Image.open(looks).convert("RGB")).astype(int)
    assert (shown.max(2) - shown.min(2) > 40).any()  # somewhere it looks at a word
    out = capsys.readouterr().out
    assert out.count("%") == 2 and "why.png" in out
    picture = np.asarray(Image.open(tmp_path / "why.png").convert("RGB"))
    assert picture.shape == (539, 1056, 3) and picture.std() > 10
    assert run(monkeypatch, *line, "--out", tmp_path / "b.png", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert len(record["difference"]) == 8 and record["first"] == max(
        record["scores"], key=record["scores"].get
    )
    assert run(monkeypatch, *line, "--out", tmp_path / "none" / "b.png") == 2
    assert "does not exist. Create it first" in capsys.readouterr().err
    assert run(monkeypatch, *line, "--out", looks, "--attention", looks) == 2
    assert "give --attention another name" in capsys.readouterr().err
    assert run(monkeypatch, *line, "--out", tmp_path / "b.jpg") == 2
    assert "A picture is a PNG file, such as why.png" in capsys.readouterr().err


def test_the_photo_is_not_overwritten(monkeypatch, capsys, tmp_path, photos):
    photo = tmp_path / "a.png"
    Image.fromarray(photos[0]).save(photo)
    before = photo.read_bytes()
    (tmp_path / "link.png").symlink_to(photo)
    line = ["explain", photo, "--labels", "bag,coat", "--set", "draws=2", "--out"]
    for out in (photo, tmp_path / "link.png"):
        assert run(monkeypatch, *line, out) == 2
        assert "is the photo itself" in capsys.readouterr().err
    assert photo.read_bytes() == before


def test_an_open_set_is_explained_as_its_elbo(sd, photos):
    from diffzero.methods.open_set import OpenSet

    plain = dz.ELBO(sd, draws=2)
    opened = OpenSet.of(plain, threshold=0.1)
    a, b = (dz.explain(c, photos[:1], [("cat", "dog")])[0] for c in (plain, opened))
    assert (a.difference == b.difference).all()
