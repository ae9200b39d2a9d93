import dataclasses
import shutil
import sys

import numpy as np
import pytest
import torch
from torch import nn

import diffzero as dz
from conftest import Clock
from diffzero import data
from diffzero.data.arrays import dealt
from diffzero.train import clip, loop, reading, stable_diffusion, tokenizer
from diffzero.train.captions import Captions, jitter


@pytest.fixture(scope="module", autouse=True)
def few_small_steps():
    """A second a step, so that 0.05 minutes are 3 steps, and of few images each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "time", Clock(1.0))
        patch.setattr(reading, "BATCH", 32)
        small = dataclasses.replace(stable_diffusion.PRESETS["cpu"], vae_batch=16, batch=32)
        patch.setitem(stable_diffusion.PRESETS, "cpu", small)
        yield


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
    assert loaded.labels.tolist() == [0, 1, 0, 1] and loaded.images[0].max() == 10
    assert data.load(str(tmp_path), None).images[0].shape == (7, 9, 3)


def test_images_in_the_order_of_their_classes_are_dealt_out():
    labels = np.repeat([0, 1, 2], [40, 20, 4])
    order = dealt(labels)
    assert sorted(order) == list(range(64))
    for part in (labels[order][:16], labels[order][-16:]):
        assert np.bincount(part).tolist() == [10, 5, 1]
    for k in range(3):  # the order within a class stays
        assert (np.diff(order[labels[order] == k]) > 0).all()


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
    with pytest.raises(dz.InputError, match="neither train.*parquet nor one folder per class"):
        data.load(str(tmp_path), 8)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(dz.InputError, match="a folder of Parquet files"):
        data.load("nobody/nothing-here", 8)


def test_jitter_moves_a_little_and_keeps_the_range():
    images = torch.rand(8, 3, 32, 32) * 2 - 1
    moved = jitter(images, torch.Generator().manual_seed(0))
    assert moved.shape == images.shape and moved.abs().max() <= 1
    assert not torch.allclose(moved, images)
    assert abs(float(moved.mean() - images.mean())) < 0.05


def test_known_words_are_one_token_and_unknown_ones_are_spelled(tmp_path):
    tokens = tokenizer.build(["a photo of a sneaker", "ankle boot"], tmp_path, 16)
    assert len(tokens.tokenize("a photo of a sneaker")) == 5
    assert len(tokens.tokenize("zebra")) > 1
    assert tokens("zebra").input_ids != tokens("zebru").input_ids
    assert tokens.model_max_length == 16
    again = tokenizer.build(["ankle boot"], tmp_path, 16)  # has every word: it stays as it is
    assert again.get_vocab() == tokens.get_vocab()
    other = tokenizer.build(["zebra stripe"], tmp_path, 16)
    assert len(other.tokenize("zebra stripe")) == 2 and len(other.tokenize("sneaker")) > 1


@pytest.mark.parametrize("n", [2, 5, 40])
def test_some_images_are_held_out_of_few(n):
    labelled = data.Labelled("few", np.zeros((n, 8, 8, 3), np.uint8), np.arange(n), ["a"], [["a"]])
    used, held = data.held_out(labelled)
    assert [*used.labels, *held.labels] == list(range(n)) and len(held.labels) == max(1, n // 10)
    with pytest.raises(dz.InputError, match="few has 1 training image; a recipe needs at least 2"):
        data.held_out(labelled.subset(slice(0, 1)))


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(3))


def test_loop_learns_resumes_and_averages(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "time", Clock(0.001))  # 600 steps in 0.01 minutes
    target = torch.tensor([1.0, -2.0, 0.5])

    def loss_of(module):
        def loss(generator):
            return (module.w - target + 0.01 * torch.randn(3, generator=generator)).square().sum()

        return loss

    state, module = tmp_path / "s.pt", Line()
    first = loop.fit(module, loss_of(module), state, 0.01, lr=0.1, log=lambda s: None)
    assert 550 < first["steps"] < 650 and torch.allclose(module.w, target, atol=0.1)

    again = Line()
    second = loop.fit(again, loss_of(again), state, 0.02, lr=0.1, log=lambda s: None)
    assert second["steps"] > first["steps"] and second["seconds"] >= 1.2
    finished = Line()
    third = loop.fit(finished, loss_of(finished), state, 0.02, lr=0.1, log=lambda s: None)
    assert third["steps"] == second["steps"]  # nothing left to do, the same average
    assert torch.equal(finished.w, again.w)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Both recipes for a few steps, on few digits: the weights are poor, the files are real."""
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(stable_diffusion, "DIGIT_VARIANTS", 1)
    out = tmp_path_factory.mktemp("recipes")
    silent = {"log": lambda s: None}
    stable_diffusion.train(["digits=digits"], out / "sd", 0.05, **silent)
    clip.train(["digits=digits"], out / "clip", 0.05, **silent)
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
    monkeypatch.setattr(report, "FIT_IMAGES", 10)
    monkeypatch.setattr(report, "METHOD_IMAGES", 2)
    monkeypatch.setattr(report, "SHEET_STEPS", 2)
    options = {"minutes": 0.05, "seed": 0, "limit": 10, "log": lambda s: None}
    report.write_card("tiny-sd", trained / "sd", ["digits=digits"], **options)
    report.write_card("tiny-clip", trained / "clip", ["digits=digits"], **options)
    card = yaml.safe_load((trained / "sd" / "card.yaml").read_text())
    assert set(card["temperatures"][0]["fitted"]) == {1, 2}
    assert "of 10 at 2 draws" in card["accuracy"][0] and "seven" in card["vocabulary"]
    assert (trained / "sd" / "samples.png").stat().st_size > 10_000
    text = (trained / "clip" / "README.md").read_text()
    assert "diffzero train tiny-clip" in text and "of 10" in text


def test_a_sheet_of_one_class_is_drawn(trained, monkeypatch):
    from diffzero.train import report

    monkeypatch.setattr(report, "SHEET_STEPS", 1)
    report.sample_sheet(trained / "sd", {"one": "digit one"})
    assert (trained / "sd" / "samples.png").stat().st_size > 1000


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
    here, there = tokens.get_vocab(), old.conditioner.stream.tokenizer.get_vocab()
    assert here["one</w>"] != there["one</w>"] and "zebra</w>" not in there
    after = nets["text_encoder"].get_input_embeddings().weight
    before = old.conditioner.stream.encoder.get_input_embeddings().weight
    assert torch.equal(after[here["one</w>"]], before[there["one</w>"]])
    assert torch.equal(after[here["zebra</w>"]], fresh[here["zebra</w>"]])
    for key, value in old.denoiser.network.state_dict().items():
        assert torch.equal(value, nets["unet"].state_dict()[key])
    with pytest.raises(dz.InputError, match="do not fit this recipe's networks"):
        stable_diffusion.start_from(nets, "digits-ddpm", tokens)


def order(n=48):
    """Dark on the left and bright on the right or the other way round, told by order alone."""
    texts = ["dark before bright", "bright before dark"]
    labels = np.arange(n) % 2
    ramp = np.broadcast_to(np.linspace(40, 200, 8)[None, None, :, None], (n, 8, 8, 3))
    images = np.where(labels[:, None, None, None] == 0, ramp, ramp[:, :, ::-1])
    noise = np.random.default_rng(0).normal(0, 20, images.shape)
    images = np.clip(images + noise, 0, 255).astype(np.uint8)
    own = [[texts[k]] for k in labels]
    other = [[texts[k], texts[1 - k]] for k in labels]
    firsts = [texts[k] for k in labels]
    return data.Labelled("order", images, np.arange(n), firsts, own, whole=True, contrasts=other)


def test_a_reader_comes_to_say_the_mean_image_of_a_caption(tmp_path):
    """The minimum of L in closed form: E[x | c], by a caption whose words alone say nothing."""
    labelled = order()
    tokens = tokenizer.build(stable_diffusion.all_captions([labelled]), tmp_path, 32)
    torch.manual_seed(0)
    text = stable_diffusion.components(tokens)["text_encoder"]
    pixels = torch.from_numpy(labelled.images).permute(0, 3, 1, 2)
    reader = reading.Reader(text, stable_diffusion.HIDDEN, 192, tokens.eos_token_id)
    captions = Captions([labelled], tokens)
    loss = reading.reading_loss(reader, [pixels], [labelled], captions)
    optimizer = torch.optim.Adam(reader.parameters(), 2e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(150):
        optimizer.zero_grad()
        loss(generator).backward()
        optimizer.step()
    x = reading.small(pixels)
    assert x.min() >= -1 and x.max() <= 1
    assert torch.allclose(x, pixels.flatten(1) / 127.5 - 1)  # 8 pixels a side stay as they are
    mean = torch.stack([x[0::2].mean(0), x[1::2].mean(0)])
    ids = tokens(["dark before bright", "bright before dark"], padding="max_length")["input_ids"]
    with torch.no_grad():
        said = reader(torch.tensor(ids)) * x.std()
    assert said.shape == (2, 2, 192)  # at the caption's end and at the padding's
    # The contrast pulls the two apart beyond their means a little; noise alone is 0.16.
    assert (said - mean).square().mean().sqrt() < 0.1
    assert (said - mean.flip(0)).square().mean().sqrt() > 0.5


def test_only_captions_to_tell_apart_are_read(trained, tmp_path):
    labelled = order()
    tokens = tokenizer.build(stable_diffusion.all_captions([labelled]), tmp_path, 32)
    text = stable_diffusion.components(tokens)["text_encoder"]
    pixels = [torch.from_numpy(labelled.images).permute(0, 3, 1, 2)]
    before = {k: v.clone() for k, v in text.state_dict().items()}
    captions, end = Captions([labelled], tokens), tokens.eos_token_id
    plain = [dataclasses.replace(labelled, contrasts=[])]
    state, silent = tmp_path / "text.pt", {"log": lambda line: None}
    assert reading.read(text, pixels, plain, captions, end, state, 0.01, **silent) == 0
    assert all(torch.equal(v, before[k]) for k, v in text.state_dict().items())
    spent = reading.read(text, pixels, [labelled], captions, end, state, 0.01, **silent)
    assert spent >= 0.01 and text.config.has_read
    after = {k: v.clone() for k, v in text.state_dict().items()}
    assert any(not torch.equal(v, before[k]) for k, v in after.items())
    assert reading.read(text, pixels, [labelled], captions, end, state, 0.02, **silent) == 0
    assert all(torch.equal(v, after[k]) for k, v in text.state_dict().items())
    # Digits have names alone: nothing to read, and no stage in which the text stays as it is.
    assert files(trained / "sd") == ["unet.pt", "vae.pt"]


def files(out):
    """States of training that are kept there."""
    return sorted(path.name for path in (out / ".train").glob("*.pt"))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A few scenes, and tiny-sd trained on them for a few steps: (source, folder)."""
    from diffzero.data.scene_files import write

    root = tmp_path_factory.mktemp("scenes")
    write(root / "scenes", "train", 40, 32)
    source = f"scenes={root / 'scenes'}"
    stable_diffusion.train([source], root / "sd", 0.1, log=lambda line: None)
    return source, root / "sd"


def states(out):
    """Averaged weights by stage."""
    return {
        name: torch.load(out / ".train" / name, weights_only=True)["ema"] for name in files(out)
    }


def test_the_text_stays_as_read_until_the_unet_uses_it(scenes):
    kept = states(scenes[1])
    text = [key for key in kept["text.pt"] if key.startswith("text.")]
    assert all(torch.equal(kept["text.pt"][k], kept["kept.pt"][k]) for k in text)
    assert any(not torch.equal(kept["kept.pt"][k], kept["unet.pt"][k]) for k in text)
    unet = [key for key in kept["kept.pt"] if key.startswith("unet.")]
    assert any(not torch.equal(kept["kept.pt"][k], kept["unet.pt"][k]) for k in unet)
    assert dz.load(scenes[1]).conditioner.stream.encoder.config.has_read


def test_more_minutes_go_to_the_last_stage(scenes):
    source, out = scenes
    before = states(out)
    stable_diffusion.train([source], out, 0.2, log=lambda line: None)
    after = states(out)
    for stage in ("vae.pt", "text.pt", "kept.pt"):
        assert all(torch.equal(v, after[stage][k]) for k, v in before[stage].items())
    assert any(not torch.equal(v, after["unet.pt"][k]) for k, v in before["unet.pt"].items())


def test_what_has_read_does_not_read_again(scenes, trained, tmp_path):
    source, silent = scenes[0], {"log": lambda line: None}
    stable_diffusion.train([source], tmp_path / "sd", 0.02, init=str(scenes[1]), **silent)
    assert files(tmp_path / "sd") == ["unet.pt"]
    shutil.copytree(trained / "clip", tmp_path / "digits", dirs_exist_ok=True)
    card = "family: clip\ntemplate: a photo of a {}\nvocabulary: [zero, digit]\n"
    (tmp_path / "digits" / "card.yaml").write_text(card)
    with pytest.warns(UserWarning, match="knows 2 words .* not kept: digit, zero"):
        clip.train([source], tmp_path / "one", 0.05, init=str(tmp_path / "digits"), **silent)
    assert files(tmp_path / "one") == ["clip.pt", "text.pt"]  # that one knew names alone
    clip.train([source], tmp_path / "two", 0.05, init=str(tmp_path / "one"), **silent)
    assert files(tmp_path / "two") == ["clip.pt"]
    one, two = (dz.load(tmp_path / name).model for name in ("one", "two"))
    assert one.text_model.config.has_read and two.text_model.config.has_read


def test_training_is_resumed_with_what_it_was_started_with(tmp_path):
    facts = {"recipe": "tiny-sd", "init": None}
    loop.claim(tmp_path, {**facts, "init": "wrong"})
    loop.claim(tmp_path, facts)  # nothing was trained yet
    (tmp_path / ".train" / "unet.pt").touch()
    loop.claim(tmp_path, facts)
    with pytest.raises(dz.InputError, match="started with init None, not 'tiny-sd'"):
        loop.claim(tmp_path, {**facts, "init": "tiny-sd"})
    started = tmp_path / ".train" / "started.json"
    started.write_text('{"recipe": "tiny-sd", "init": null, "preset": null}')
    loop.claim(tmp_path, {**facts, "preset": "cpu"})  # an older version wrote none


def test_a_model_trained_on_keeps_its_latents(trained, scenes, tmp_path):
    init = str(trained / "sd")
    stable_diffusion.train([scenes[0]], tmp_path / "on", 0.05, init=init, log=lambda s: None)
    old, new = dz.load(init, dtype="float32"), dz.load(tmp_path / "on", dtype="float32")
    assert new.codec.vae.config.scaling_factor == old.codec.vae.config.scaling_factor
    for key, value in old.codec.vae.state_dict().items():
        assert torch.equal(value, new.codec.vae.state_dict()[key])
    assert files(tmp_path / "on") == ["kept.pt", "text.pt", "unet.pt"]  # it had names alone
    before = old.denoiser.network.state_dict()
    assert any(not torch.equal(v, before[k]) for k, v in new.denoiser.network.state_dict().items())


def test_classes_in_any_order_are_dealt_out(tmp_path):
    """Folders are read by the alphabet, and Fashion-MNIST's labels are places in its own order:
    its last class was held out whole, and never trained on."""
    from PIL import Image

    names = dz.data.caption_words()["fashion-mnist"]["classes"]
    for name in names:
        (tmp_path / "train" / name).mkdir(parents=True)
        for i in range(10):
            Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(
                tmp_path / "train" / name / f"{i}.png"
            )
    kept, held = data.held_out(data.load(f"fashion-mnist={tmp_path}", 8))
    assert np.bincount(kept.labels, minlength=10).tolist() == [9] * 10
    assert sorted(held.labels) == list(range(10))


def test_what_was_learned_from_is_not_measured_on(tmp_path, monkeypatch, capsys):
    from PIL import Image

    from test_cli import run

    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "pets" / name / "a.png")
    line = [
        "train",
        "tiny-clip",
        "--no-digits",
        "--data",
        f"pets={tmp_path / 'pets'}",
        "--minutes",
        0.02,
    ]
    assert run(monkeypatch, *line, "--out", tmp_path / "out") == 2
    assert "is not divided into train and validation" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()
    (tmp_path / "pets").rename(tmp_path / "train")
    with pytest.raises(dz.InputError):
        data.check_validation(f"pets={tmp_path}")
    shutil.copytree(tmp_path / "train", tmp_path / "validation")
    data.check_validation(f"pets={tmp_path}")
    data.check_validation("digits=digits")


def test_pictures_are_moved_a_little_on_any_device():
    images = torch.zeros(4, 3, 32, 32, device="meta")
    assert jitter(images, torch.Generator().manual_seed(0)).device.type == "meta"


def test_what_a_training_was_started_with_is_written_whole(tmp_path):
    loop.claim(tmp_path, {"seed": 1})
    path = tmp_path / ".train" / "started.json"
    before = path.stat().st_mtime_ns
    loop.claim(tmp_path, {"seed": 1})
    assert path.stat().st_mtime_ns == before  # as it is, nothing is written
    (tmp_path / ".train" / "unet.pt").touch()
    path.write_text("")
    with pytest.raises(dz.InputError, match="damaged, so that what was trained"):
        loop.claim(tmp_path, {"seed": 1})


def test_two_classes_have_no_latent_that_stands_apart(monkeypatch):
    from diffzero.evaluate.pixel_methods import plan

    model = dz.MixtureBackbone(
        torch.ones(2, 1), torch.zeros(2, 1, 3, 2, 2), torch.ones(2, 1), dz.LogSNRLinearSchedule()
    )
    found = plan(model, {"level": 0.3, "steps": 1}, [])
    assert {c.method for c, _ in found} == {
        "elbo",
        "likelihood",
        "noise-denoise",
        "noise-denoise-vote",
    }


def test_without_a_validation_part_the_test_part_is_measured_on(tmp_path):
    from PIL import Image

    for part, grey in (("train", 10), ("test", 20)):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            pixels = np.full((8, 8, 3), grey, np.uint8)
            Image.fromarray(pixels).save(tmp_path / part / name / "a.png")
    data.check_validation(f"pets={tmp_path}")
    assert (data.load(str(tmp_path), 8, "validation").images == 20).all()
    assert (data.load(str(tmp_path), 8).images == 10).all()
    (tmp_path / "test").rename(tmp_path / "val")
    assert (data.load(str(tmp_path), 8, "validation").images == 20).all()


def pictures(folder, grey, *names):
    from PIL import Image

    for name in names:
        (folder / name).mkdir(parents=True)
        Image.fromarray(np.full((8, 8, 3), grey, np.uint8)).save(folder / name / "a.png")


def table(path, grey, label):
    import datasets
    from PIL import Image

    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    rows = {"image": [Image.new("RGB", (8, 8), (grey,) * 3)], "label": [label]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(path))


@pytest.mark.parametrize(
    ("test", "said"),
    [
        (("unknown",), "part test has the class 'unknown', which the training part has not"),
        (("cat",), "part test has one class alone, 'cat'"),
    ],
)
def test_a_part_without_the_classes_is_refused_before_the_work(tmp_path, test, said):
    pictures(tmp_path / "train", 1, "cat", "dog")
    pictures(tmp_path / "test", 2, *test)
    with pytest.raises(dz.InputError, match=said):
        data.check_validation(str(tmp_path))


def test_a_part_without_labels_is_refused_before_the_work(tmp_path):
    table(tmp_path / "train-0.parquet", 1, "cat")
    table(tmp_path / "test-0.parquet", 2, None)
    with pytest.raises(dz.InputError, match="part test has none that can be used .*no label"):
        data.check_validation(str(tmp_path))


def test_validation_folders_come_before_test_files(tmp_path):
    pictures(tmp_path / "train", 1, "cat", "dog")
    pictures(tmp_path / "validation", 2, "cat", "dog")
    table(tmp_path / "test.parquet", 3, "cat")
    assert (data.load(str(tmp_path), 8, "validation").images == 2).all()
    shutil.rmtree(tmp_path / "validation")
    assert (data.load(str(tmp_path), 8, "validation").images == 3).all()
    (tmp_path / "test.parquet").rename(tmp_path / "testimonials.parquet")
    with pytest.raises(dz.InputError, match="neither validation"):
        data.load(str(tmp_path), 8, "validation")


def test_a_training_part_is_known_by_its_twin(tmp_path):
    pictures(tmp_path / "flowers_train", 1, "cat", "dog")
    pictures(tmp_path, 2, "flowers_test")  # without class folders
    assert len(data.load(str(tmp_path), 8).labels) == 2


def test_tables_without_a_validation_part_are_measured_on_their_test_part(tmp_path):
    from diffzero.data.hub import _of_kinds

    for part, grey in (("train", 1), ("test", 2)):
        for shard, label in enumerate(("cat", "dog")):
            table(tmp_path / f"{part}-{shard}.parquet", grey, label)
    data.check_validation(str(tmp_path))
    assert (data.load(str(tmp_path), None, "validation").images[0] == 2).all()
    names = ["unsupervised", "train", "test"]
    assert _of_kinds("a/b", names, ("validation", "test", "eval")) == "test"
    with pytest.raises(dz.InputError, match="no part validation or test; its parts are train"):
        _of_kinds("a/b", ["train"], ("validation", "test"))


def test_a_tokenizer_that_weights_know_is_kept(tmp_path):
    first = tokenizer.build(["a sneaker"], tmp_path, 16)
    kept = tokenizer.build(["a zebra"], tmp_path, 16, keep=True)
    assert kept.get_vocab() == first.get_vocab()
    first = tokenizer.build_t5(["a sneaker"], tmp_path / "t5", 16)
    kept = tokenizer.build_t5(["a zebra"], tmp_path / "t5", 16, keep=True)
    assert kept.get_vocab() == first.get_vocab() and kept("zebra") == first("zebra")
    assert not loop.has_begun(tmp_path, "text")
    (tmp_path / ".train").mkdir()
    (tmp_path / ".train" / "vae.pt").touch()
    assert loop.has_begun(tmp_path) and not loop.has_begun(tmp_path, "text", "unet")


def test_a_folder_is_trained_in_by_one_process(tmp_path):
    with (
        loop.alone(tmp_path / "m"),
        pytest.raises(dz.InputError, match="another process is training in this folder"),
        loop.alone(tmp_path / "m"),
    ):
        pass
    with loop.alone(tmp_path / "m"):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="limits of files are Unix's")
def test_progress_that_cannot_be_written_leaves_what_was_there(tmp_path):
    """A limit on the size of files fails as a full disk does, inside torch.save."""
    import resource

    from diffzero.app import cli

    module, state = Line(), tmp_path / "s.pt"
    options = {"log": lambda line: None}
    loop.fit(module, lambda g: module.w.square().sum(), state, 0.0, **options)
    before, limits = state.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError) as failed:
            loop.fit(module, lambda g: module.w.square().sum(), state, 0.0, **options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "cannot be written (File too large)" in cli.sentence(failed.value)
    assert state.read_bytes() == before and not list(tmp_path.glob("*.partial"))


def test_a_training_is_claimed_with_the_preset_of_its_device(tmp_path, monkeypatch):
    import json

    from diffzero.train import preset_of
    from test_cli import run

    assert (preset_of("cpu", None), preset_of("cuda", None)) == ("cpu", "gpu")
    assert preset_of("cuda:1", "cpu") == "cpu"
    line = ("train", "digits-ddpm", "--minutes", 0.001, "--device", "cpu", "--out", tmp_path)
    assert run(monkeypatch, *line, "--no-measure") == 0
    assert json.loads((tmp_path / ".train" / "started.json").read_text())["preset"] == "cpu"


def test_cards_say_where_and_under_which_terms(tmp_path):
    import yaml

    from diffzero.train import card_facts, report

    assert "scikit-learn's digits are BSD-3" in card_facts.terms(["digits", "cifar10"])
    assert card_facts.terms(["pets"]) == "of pets they are not known here"
    assert "yours to state" in card_facts.licence_line(["digits", "pets"])
    threads = torch.get_num_threads()
    assert card_facts.place("cpu").startswith(f"{threads} thread")
    own = data.Labelled("pets", np.zeros((2, 8, 8, 3), np.uint8), np.arange(2), ["a"], [["a"]])
    report.begin_card("tiny-sd", tmp_path, [own])
    assert "licence" not in yaml.safe_load((tmp_path / "card.yaml").read_text())
    assert card_facts.licence(["digits"]) == card_facts.licence(["digits"], "tiny-sd")
    assert card_facts.licence(["digits"], str(tmp_path)) is None  # learned from other data first
