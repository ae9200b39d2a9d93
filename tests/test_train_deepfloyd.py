import numpy as np
import pytest
import torch

import diffzero as dz
from conftest import Clock
from diffzero import data
from diffzero.data.scene_files import write
from diffzero.data.scenes import example, render
from diffzero.train import deepfloyd, loop, recipes, tokenizer
from diffzero.train.stable_diffusion import start_from


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    write(folder, "train", 60, 32)
    write(folder, "validation", 40, 32)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory, scenes):
    """The recipe for a few steps, on digits and scenes: the weights are poor, the files real."""
    out, lines = tmp_path_factory.mktemp("recipes") / "if", []
    sources = ["digits=digits", f"scenes={scenes}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "time", Clock(1.0))  # a second a step
        recipes()["tiny-if"](sources, out, 0.05, log=lines.append)
    return out, lines


def test_the_recipe_writes_a_model_that_loads_and_scores(trained):
    out, lines = trained
    assert int(lines[-1].split()[0]) >= 1  # steps
    model = dz.load(out)
    assert isinstance(model.conditioner, dz.Conditioner) and model.shape == (3, 16, 16)
    assert (
        model.denoiser.limits.quantile == 0.95 and model.denoiser.network.config.out_channels == 6
    )
    made = [example("validation", row) for row in range(5)]
    images = [render(one.scene, 32) for one in made]
    elbo = dz.ELBO(model, draws=1, template="{}")
    scores = elbo.scores(images, candidates=[list(one.candidates) for one in made])
    for one, row in zip(made, scores.logits, strict=True):
        assert np.isfinite(row[: len(one.candidates)]).all()
    known = model.conditioner.pieces(
        ["a circle that is red, with a dot", "handwritten digit zero"]
    )
    assert [len(k) for k in known] == [9, 3]  # words of the captions are one token each


def test_diffusers_own_pipeline_draws_with_the_learned_variance(trained):
    from diffusers import IFPipeline

    pipe = IFPipeline.from_pretrained(trained[0], torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.scheduler.config.variance_type == "learned_range"
    image = pipe("a red circle", num_inference_steps=2, output_type="pt").images
    assert image.shape == (1, 3, 16, 16) and torch.isfinite(image).all()


def test_the_card_measures_each_task_seen_and_held_out(trained, scenes, monkeypatch):
    import yaml

    from diffzero.data.scenes import TASKS
    from diffzero.train import report

    monkeypatch.setattr(report, "DRAWS", (1, 2))
    monkeypatch.setattr(report, "FIT_IMAGES", 3)
    monkeypatch.setattr(report, "METHOD_IMAGES", 2)
    monkeypatch.setattr(report, "SHEET_STEPS", 1)
    options = {"minutes": 0.05, "seed": 0, "limit": 10, "log": lambda s: None}
    sources = ["digits=digits", f"scenes={scenes}"]
    report.write_card("tiny-if", trained[0], sources, **options)
    card = yaml.safe_load((trained[0] / "card.yaml").read_text())
    assert card["family"] == "deepfloyd" and set(card["temperatures"][0]["fitted"]) == {1, 2}
    assert {"circle", "purple", "seven"} <= set(card["vocabulary"])
    assert card["accuracy"][0].startswith("digits: ") and "of 10 at 2 draws" in card["accuracy"][0]
    parts = [line.split(":")[0] for line in card["accuracy"][1:]]
    assert parts == [f"scenes, {t}, {k}" for t in TASKS for k in ("seen", "held out")]
    assert all("of 1 at 2 draws" in line for line in card["accuracy"][1:])
    assert (trained[0] / "samples.png").stat().st_size > 10_000
    text = (trained[0] / "README.md").read_text()
    assert "diffzero train tiny-if --data scenes=PATH" in text
    kept = [vars(t) for t in dz.load(trained[0]).temperatures]
    assert kept == card["temperatures"]


def test_the_recipe_starts_from_another_models_words(trained, tmp_path):
    words = tokenizer.build_t5(["a red zebra"], tmp_path, deepfloyd.WINDOW)
    nets = deepfloyd.components(words, deepfloyd.PRESETS["cpu"])
    fresh = nets["text_encoder"].get_input_embeddings().weight.detach().clone()
    start_from(nets, str(trained[0]), words)
    old = dz.load(trained[0], dtype="float32")
    here, there = words.get_vocab(), old.conditioner.stream.tokenizer.get_vocab()
    after = nets["text_encoder"].get_input_embeddings().weight
    before = old.conditioner.stream.encoder.get_input_embeddings().weight
    red, zebra = "\u2581red", "\u2581zebra"
    assert here[red] != there[red] and zebra not in there
    assert torch.equal(after[here[red]], before[there[red]])
    assert torch.equal(after[here[zebra]], fresh[here[zebra]])
    for key, value in old.denoiser.network.state_dict().items():
        assert torch.equal(value, nets["unet"].state_dict()[key])
    with pytest.raises(dz.InputError, match="do not fit this recipe's networks"):
        start_from(nets, "digits-ddpm", words)


@pytest.mark.parametrize("preset", ["cpu", "gpu"])
def test_presets_fit_fifteen_megabytes(tmp_path, preset):
    words = [" ".join(f"word{i}" for i in range(300))]
    tokens = tokenizer.build_t5(words, tmp_path, 77)
    nets = deepfloyd.components(tokens, deepfloyd.PRESETS[preset])
    weights = sum(p.numel() for net in nets.values() for p in net.parameters())
    assert 1e6 < weights < 15e6 / 2  # fp16


def test_capitals_of_class_names_are_read_as_classification_reads_them(tmp_path):
    images = np.zeros((1, 8, 8, 3), np.uint8)
    pets = data.Labelled("pets", images, np.zeros(1, np.int64), ["Red Fox"], [["Red Fox"]])
    (captions,) = deepfloyd.lowered(pets).captions()
    tokens = tokenizer.build_t5(captions, tmp_path, 77)
    assert tokens.unk_token_id in tokens("Red Fox").input_ids  # why they have to be lowered
    for text in captions:
        assert tokens.unk_token_id not in tokens(text).input_ids
    assert len(tokens("red fox").input_ids) == 3
    assert len(tokens("zebra").input_ids) > 5
    assert tokens("zebra").input_ids != tokens("zebru").input_ids


def test_an_unknown_preset_is_refused(tmp_path):
    with pytest.raises(dz.InputError, match="preset must be one of cpu, gpu; got 'tpu'"):
        deepfloyd.train(["digits=digits"], tmp_path, 0.01, preset="tpu")


def test_the_variance_loss_is_the_divergence_between_the_gaussians_of_a_step():
    from torch.distributions import Normal, kl_divergence

    scheduler = deepfloyd.noise_scheduler()
    bars, g = scheduler.alphas_cumprod.double(), torch.Generator().manual_seed(0)
    scheduler.set_timesteps(1000)
    for n in (1, 50, 500, 990):
        x_0, eps, guess = (torch.randn(1, 3, 4, 4, generator=g).double() for _ in range(3))
        variance = torch.rand(1, 3, 4, 4, generator=g).double() * 2 - 1
        x_n = bars[n].sqrt() * x_0 + (1 - bars[n]).sqrt() * eps

        def mean(noise, x_n=x_n, n=n):
            """Ho et al. (2020), equation 7, from the x_0 that the noise implies."""
            clean = (x_n - (1 - bars[n]).sqrt() * noise) / bars[n].sqrt()
            a, before = bars[n] / bars[n - 1], bars[n - 1]
            left = before.sqrt() * (1 - a) / (1 - bars[n])
            return left * clean + a.sqrt() * (1 - before) / (1 - bars[n]) * x_n

        true = scheduler._get_variance(n, variance_type="fixed_small").double().sqrt()
        log_own = scheduler._get_variance(n, predicted_variance=variance)
        q = Normal(mean(eps), true.expand_as(eps))
        p = Normal(mean(guess), (0.5 * log_own.double()).exp())
        own = deepfloyd.variance_loss(variance, guess - eps, torch.tensor([n]), bars)
        assert float(own) == pytest.approx(float(kl_divergence(q, p).mean()), rel=2e-3)
    first = deepfloyd.variance_loss(variance, guess - eps, torch.tensor([0]), bars)
    assert float(first) == 0


def test_the_variance_learns_and_the_noise_does_not_learn_from_it():
    bars = deepfloyd.noise_scheduler().alphas_cumprod
    variance = torch.zeros(2, 3, 4, 4, requires_grad=True)
    error = torch.ones(2, 3, 4, 4, requires_grad=True)
    deepfloyd.variance_loss(variance, error, torch.tensor([3, 400]), bars).backward()
    assert (variance.grad.abs() > 0).all() and error.grad is None
