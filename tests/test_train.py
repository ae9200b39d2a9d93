import numpy as np
import pytest
import torch
from torch import nn

import diffzero as dz
from diffzero.train import clip, data, loop, stable_diffusion, tokenizer


def test_digits_are_split_as_documented():
    (x_train, y_train), (x_test, y_test) = data.digits_split()
    assert x_train.shape == (1437, 8, 8, 3) and x_test.shape == (360, 8, 8, 3)
    assert x_train.dtype == np.uint8 and x_train.max() == 255
    assert np.bincount(y_test).min() >= 34 and len(y_train) == 1437


def test_image_folder(tmp_path):
    from PIL import Image

    for name, grey in (("dark_thing", 10), ("light", 240)):
        (tmp_path / "train" / name).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (9, 7), (grey,) * 3).save(tmp_path / "train" / name / f"{i}.png")
    loaded = data.load(str(tmp_path), 8)
    assert loaded.classes == ["dark thing", "light"] and loaded.images.shape == (4, 8, 8, 3)
    assert loaded.labels.tolist() == [0, 0, 1, 1] and loaded.images[0].max() == 10
    assert data.load(str(tmp_path), None).images[0].shape == (7, 9, 3)


def test_parquet_with_names_in_the_schema(tmp_path):
    import datasets
    from PIL import Image

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    rows = {"image": [Image.new("RGB", (8, 8), (c, 0, 0)) for c in (1, 2, 3)], "label": [1, 0, 1]}
    table = datasets.Dataset.from_dict(rows, features=features)
    table.to_parquet(str(tmp_path / "train-00000.parquet"))
    loaded = data.load(f"pets={tmp_path}", 8)
    assert (loaded.name, loaded.classes) == ("pets", ["cat", "dog"])
    assert loaded.labels.tolist() == [1, 0, 1] and loaded.images[2, 0, 0, 0] == 3


def test_missing_data_says_what_to_give(tmp_path, monkeypatch):
    with pytest.raises(dz.InputError, match="neither train.*parquet nor one folder a class"):
        data.load(str(tmp_path), 8)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(dz.InputError, match="Give a folder of Parquet files"):
        data.load("nobody/nothing-here", 8)


def test_jitter_moves_a_little_and_keeps_the_range():
    images = torch.rand(8, 3, 32, 32) * 2 - 1
    moved = data.jitter(images, torch.Generator().manual_seed(0))
    assert moved.shape == images.shape and moved.abs().max() <= 1
    assert not torch.allclose(moved, images)
    assert abs(float(moved.mean() - images.mean())) < 0.05


def test_known_words_are_one_token_and_unknown_ones_are_spelled(tmp_path):
    tokens = tokenizer.build(["a photo of a sneaker", "ankle boot"], tmp_path, 16)
    assert len(tokens.tokenize("a photo of a sneaker")) == 5
    assert len(tokens.tokenize("zebra")) > 1
    assert tokens("zebra").input_ids != tokens("zebru").input_ids
    assert tokens.model_max_length == 16


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(3))


def test_loop_learns_resumes_and_averages(tmp_path):
    target = torch.tensor([1.0, -2.0, 0.5])

    def loss_of(module):
        def loss(generator):
            return (module.w - target + 0.01 * torch.randn(3, generator=generator)).square().sum()

        return loss

    state, module = tmp_path / "s.pt", Line()
    first = loop.fit(module, loss_of(module), state, 0.01, lr=0.1, log=lambda s: None)
    assert first["steps"] > 50 and torch.allclose(module.w, target, atol=0.1)

    again = Line()
    second = loop.fit(again, loss_of(again), state, 0.02, lr=0.1, log=lambda s: None)
    assert second["steps"] > first["steps"] and second["seconds"] >= 1.2
    finished = Line()
    third = loop.fit(finished, loss_of(finished), state, 0.02, lr=0.1, log=lambda s: None)
    assert third["steps"] == second["steps"]  # nothing left to do, the same average
    assert torch.equal(finished.w, again.w)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Both recipes for a few seconds, on few digits: the weights are poor, the files are real."""
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(stable_diffusion, "DIGIT_VARIANTS", 1)
    out = tmp_path_factory.mktemp("recipes")
    silent = {"log": lambda s: None}
    stable_diffusion.train(["digits=digits"], out / "sd", 0.08, **silent)
    clip.train(["digits=digits"], out / "clip", 0.08, **silent)
    monkeypatch.undo()
    return out


def test_recipes_write_models_that_load_and_score(trained):
    images = list(data.digits_split()[1][0][:3])
    names = ["digit one", "digit two", "digit three"]
    elbo = dz.ELBO(dz.load(trained / "sd"), draws=2).fit(names)
    assert np.isfinite(elbo.scores(images).logits).all()
    rival = dz.CLIP(dz.load(trained / "clip")).fit(names)
    assert np.isfinite(rival.scores(images).logits).all()


def test_card_ends_a_recipe_with_measured_numbers(trained, monkeypatch):
    import yaml

    from diffzero.train import report

    monkeypatch.setattr(report, "DRAWS", (1, 2))
    monkeypatch.setattr(report, "FIT_IMAGES", 20)
    monkeypatch.setattr(report, "METHOD_IMAGES", 4)
    options = {"minutes": 0.08, "seed": 0, "limit": 20, "log": lambda s: None}
    report.write_card("tiny-sd", trained / "sd", ["digits=digits"], **options)
    report.write_card("tiny-clip", trained / "clip", ["digits=digits"], **options)
    card = yaml.safe_load((trained / "sd" / "card.yaml").read_text())
    assert set(card["temperatures"]["elbo"]) == {1, 2}
    assert "of 20 at 2 draws" in card["accuracy"][0] and "seven" in card["vocabulary"]
    assert (trained / "sd" / "samples.png").stat().st_size > 10_000
    text = (trained / "clip" / "README.md").read_text()
    assert "diffzero train tiny-clip" in text and "of 20" in text


def test_the_contrast_is_the_posterior_of_two_captions():
    """On Gaussian errors in closed form: softplus of half the difference, over half of D."""
    generator = torch.Generator().manual_seed(0)
    true, false = torch.rand(2, 5, 4, 8, 8, generator=generator).unbind()
    expected = 0.0
    for a, b in zip(true.double(), false.double(), strict=True):
        one, other = (-a.sum() / 2).exp(), (-b.sum() / 2).exp()
        expected -= float(torch.log(one / (one + other))) / 5
    found = float(stable_diffusion.contrast_loss(true, false))
    assert found == pytest.approx(expected * 2 / 256, rel=1e-4)


def test_a_recipe_starts_from_another_models_words(trained, tmp_path):
    """Known words keep their embeddings wherever they stand in the new vocabulary."""
    tokens = tokenizer.build(["a red digit one", "zebra"], tmp_path, stable_diffusion.WINDOW)
    nets = stable_diffusion.components(tokens)
    fresh = nets["text_encoder"].get_input_embeddings().weight.detach().clone()
    stable_diffusion.start_from(nets, str(trained / "sd"), tokens)
    old = dz.load(trained / "sd", dtype="float32")
    here, there = tokens.get_vocab(), old.tokenizer.get_vocab()
    assert here["one</w>"] != there["one</w>"] and "zebra</w>" not in there
    after = nets["text_encoder"].get_input_embeddings().weight
    before = old.text_encoder.get_input_embeddings().weight
    assert torch.equal(after[here["one</w>"]], before[there["one</w>"]])
    assert torch.equal(after[here["zebra</w>"]], fresh[here["zebra</w>"]])
    for key, value in old.unet.state_dict().items():
        assert torch.equal(value, nets["unet"].state_dict()[key])
    with pytest.raises(dz.InputError, match="do not fit this recipe's networks"):
        stable_diffusion.start_from(nets, "digits-ddpm", tokens)
