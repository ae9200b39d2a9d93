"""The bundled models: what their cards say holds, on images that nothing was trained on."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

import diffzero as dz
from diffzero.data import caption_words, digits_split
from diffzero.evaluate.metrics import wilson

NAMES = caption_words()["digits"]["classes"]
DATA = Path(os.environ.get("DIFFZERO_DATA", Path(__file__).parents[2] / "shared" / "data"))


def test_bundled_models_are_small():
    for card in (c for c in dz.cards().values() if c.bundled):
        size = sum(f.stat().st_size for f in Path(card.source).rglob("*") if f.is_file())
        assert size < 20e6, card.name


def test_bundled_models_name_no_place_on_the_machine_that_made_them():
    for card in (c for c in dz.cards().values() if c.bundled):
        for config in Path(card.source).rglob("*.json"):
            assert '"_name_or_path": "/' not in config.read_text(), config


@pytest.mark.parametrize(("method", "options"), [("ELBO", {"draws": 8}), ("CLIP", {})])
def test_digits(method, options):
    images, labels = digits_split()[1]
    images, labels = list(images[:60]), labels[:60]
    model = {"ELBO": "tiny-sd", "CLIP": "tiny-clip"}[method]
    classifier = getattr(dz, method)(model, **options).fit(NAMES)
    proba = classifier.predict_proba(images)
    assert wilson(int((proba.argmax(1) == labels).sum()), 60)[1] > 0.95
    assert classifier.temperature_in_use() != 1  # the card's own
    assert np.allclose(proba.sum(1), 1)


def test_the_flow_model_reads_text_as_its_recipe_did():
    """Windows, padding and layers of all three encoders: the adapter embeds what was learned."""
    import torch

    from diffzero.train import flow

    model = dz.load("tiny-flow", device="cpu")
    streams, prompts = model.conditioner.streams, ["a photo of a bag", ""]
    nets = {f"text_encoder{k}": s.encoder for k, s in zip(("", "_2", "_3"), streams, strict=True)}
    ids = [
        s.tokenizer(prompts, padding="max_length", max_length=flow.WINDOW, return_tensors="pt")
        for s in (streams[0], streams[2])
    ]
    with torch.no_grad():
        text, pooled = flow.Network(nets).text(*(i.input_ids for i in ids))
    found = model.embed(prompts).tensors
    assert torch.allclose(found["text"], text, atol=1e-5)
    assert torch.allclose(found["pooled"], pooled, atol=1e-5)


def test_demo_writes_its_picture_and_table(tmp_path, monkeypatch, capsys):
    from PIL import Image

    from test_cli import run

    own = tmp_path / "mine.png"
    Image.fromarray(digits_split()[1][0][100]).save(own)
    out = tmp_path / "demo.png"
    code = run(monkeypatch, "demo", own, "--limit", 8, "--draws", 4, "--out", out)
    text = capsys.readouterr().out
    assert code == 0 and "of 8" in text and "320" in text and "mine.png" in text
    assert "chelsea.jpg:  cat" in text  # whatever words the user's own images get
    with Image.open(out) as picture:
        assert picture.width > 800 and picture.height > 300
    assert run(monkeypatch, "demo", "--limit", 0) == 2
    assert run(monkeypatch, "demo", "--out", tmp_path / "nowhere" / "x.png") == 2


def test_unknown_words_warn_but_work():
    with pytest.warns(UserWarning, match="never saw the words zebra"):
        dz.CLIP("tiny-clip").fit(["zebra", "sneaker"])


@pytest.mark.slow
def test_photographs_at_the_card_s_accuracy():
    from diffzero.data import load

    folder = DATA / "cifar10"
    if not folder.is_dir():
        pytest.skip("CIFAR-10 is not there; set DIFFZERO_DATA to a folder that holds it")
    test = load(str(folder), None, "validation").subset(slice(0, 200))
    found = dz.ELBO("photos-sd", draws=16).fit(test.classes).predict(list(test.images))
    right = int((found == np.array(test.classes)[test.labels]).sum())
    print(json.dumps({"model": "photos-sd", "correct": right, "n": 200}))
    assert wilson(right, 200)[1] > 0.75


@pytest.mark.slow
@pytest.mark.parametrize("model", ["tiny-sd", "tiny-clip"])
def test_fashion_mnist_at_the_card_s_accuracy(model):
    from diffzero.data import load

    folder = DATA / "fashion-mnist"
    if not folder.is_dir():
        pytest.skip("Fashion-MNIST is not there; set DIFFZERO_DATA to a folder that holds it")
    test = load(str(folder), None, "validation").subset(slice(0, 300))
    cls = {"tiny-sd": dz.ELBO, "tiny-clip": dz.CLIP}[model]
    right = (
        cls(model).fit(test.classes).predict(list(test.images))
        == np.array(test.classes)[test.labels]
    )
    print(json.dumps({"model": model, "correct": int(right.sum()), "n": 300}))
    assert wilson(int(right.sum()), 300)[1] > 0.88
