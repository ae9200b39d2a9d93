"""`diffzero train all`: one command, every bundled model."""

import numpy as np
import pytest
from PIL import Image

import diffzero as dz
from diffzero.app import train_all
from diffzero.models.cards import cards
from diffzero.train import recipes
from test_cli import run


def test_the_plan_has_every_recipe_and_every_bundled_model_once():
    planned = [recipe for recipe, _, _ in train_all.PLAN]
    bundled = {card.name for card in cards().values() if card.bundled}
    assert sorted(planned) == sorted(recipes()) and set(planned) == bundled
    assert sum(share for _, share, _ in train_all.PLAN) == pytest.approx(1)
    assert planned.index("tiny-sd") < planned.index("tiny-flow")


@pytest.mark.parametrize(
    "data", [[], ["cifar10=x"], ["cifar10=x", "fashion-mnist=y", "more=z"], ["cifar10=x", "y"]]
)
def test_missing_data_is_named_before_anything_is_made(tmp_path, monkeypatch, capsys, data):
    more = [part for source in data for part in ("--data", source)]
    assert run(monkeypatch, "train", "all", "--out", tmp_path / "out", *more) == 2
    assert "needs --data fashion-mnist=SOURCE" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def folder(root, names):
    """Grey squares of several shades, a folder per class."""
    for shade, name in enumerate(names):
        (root / "train" / name).mkdir(parents=True)
        for k in range(12):
            grey = np.full((32, 32, 3), 20 * shade + k, np.uint8)
            Image.fromarray(grey).save(root / "train" / name / f"{k}.png")


@pytest.mark.slow
def test_every_model_is_trained_from_nothing_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(train_all, "SCENES", {"train": 60, "validation": 40})
    folder(tmp_path / "clothes", ["bag", "coat", "dress"])
    folder(tmp_path / "photos", ["cat", "dog"])
    line = ["train", "all", "--out", tmp_path / "out", "--minutes", 0.4, "--no-measure",
            "--data", f"fashion-mnist={tmp_path / 'clothes'}",
            "--data", f"cifar10={tmp_path / 'photos'}"]  # fmt: skip
    for _ in range(2):  # the second time everything is there
        assert run(monkeypatch, *line) == 0
        for name in recipes():
            model = dz.load(tmp_path / "out" / name, device="cpu")
            kind, more = (dz.CLIP, {}) if name == "tiny-clip" else (dz.ELBO, {"draws": 1})
            words = (getattr(model, "classes", None) or sorted(model.vocabulary))[:2]
            scores = kind(model, **more).fit(words).scores([np.zeros((32, 32, 3), np.uint8)])
            assert np.isfinite(scores.logits).all()
        assert {"cat", "dog"} <= set(dz.load(tmp_path / "out" / "cifar10-ldm").classes)
        assert dz.load(tmp_path / "out" / "tiny-flow").embed(["a"]).tensors["text"].shape[1] == 32
