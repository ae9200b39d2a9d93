"""Pipelines in memory: what is theirs stays so, and they are read as their folders are."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    DDPMScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    IFPipeline,
    StableDiffusionPipeline,
)

import diffzero as dz
import families

ZOO = Path(dz.__file__).parent / "zoo"


@pytest.fixture
def half():
    return StableDiffusionPipeline.from_pretrained(
        ZOO / "tiny-sd", torch_dtype=torch.float16, safety_checker=None
    )


def test_a_pipeline_in_half_precision_draws_on(half, photos):
    """Its autoencoder is one that overflows: what scores is a copy in single precision."""
    half.set_progress_bar_config(disable=True)
    assert half.vae.config.force_upcast
    model = dz.load(half)
    assert model.codec.vae.dtype == torch.float32 and half.vae.dtype == torch.float16
    dz.ELBO(model, draws=1).fit(["bag", "sneaker"]).scores(photos[:1])
    half("a bag", num_inference_steps=1, height=32, width=32)


def test_networks_that_trained_score_without_dropout(photos):
    pipe = StableDiffusionPipeline.from_pretrained(ZOO / "tiny-sd", safety_checker=None)
    dropout = [m for m in pipe.unet.modules() if isinstance(m, torch.nn.Dropout)]
    assert dropout
    for module in dropout:
        module.p = 0.5
    model, pair = dz.load(pipe), [("bag", "sneaker")]
    elbo = dz.ELBO(model, draws=2).fit(pair[0])
    asked = (
        lambda: elbo.scores(photos[:1]).logits,
        lambda: elbo.draw_errors(photos[:1])[0],
        lambda: dz.explain(elbo, photos[:1], pair)[0].difference,
        lambda: dz.NoiseDenoise(model, steps=2).fit(pair[0]).reconstructions(photos[:1])[0],
    )
    for ask in asked:
        expected = np.asarray(ask())
        for network in (pipe.unet, pipe.unet.mid_block):
            network.train()
            assert (np.asarray(ask()) == expected).all()


@pytest.mark.parametrize("kind", [DDPMScheduler, HeunDiscreteScheduler])
def test_a_scheduler_made_without_arguments_has_its_own_betas(pipe, kind, monkeypatch):
    scheduler = kind()
    monkeypatch.setattr(pipe, "scheduler", scheduler)
    found = dz.load(pipe).schedule.alphas_cumprod
    assert torch.allclose(found.float(), scheduler.alphas_cumprod, rtol=1e-5)


def test_a_scheduler_that_tells_log_sigma_is_refused(pipe, monkeypatch):
    continuous = EulerDiscreteScheduler(timestep_type="continuous", prediction_type="v_prediction")
    monkeypatch.setattr(pipe, "scheduler", continuous)
    with pytest.raises(dz.InputError, match="EulerDiscreteScheduler.*EDM's preconditioning"):
        dz.load(pipe)


def test_what_t5_keeps_in_single_precision_is_so_by_either_way():
    folder = ZOO / "tiny-if"
    pipe = IFPipeline.from_pretrained(folder, safety_checker=None, feature_extractor=None)
    states = []
    for source in (folder, pipe):
        model = dz.load(source, dtype="float16")
        (stream,) = model.conditioner.streams
        kinds = {n: p.dtype for n, p in stream.encoder.named_parameters() if ".wo." in n}
        assert kinds and set(kinds.values()) == {torch.float32}
        assert model.dtype == torch.float16
        states.append(model.embed(["a bag"]).tensors["text"])
    assert (states[0] == states[1]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": ["x", "y"]}, "reads text, of any words; leave out classes"),
        ({"text_device": "nonsense"}, "Device 'nonsense' is not available"),
        ({"text_device": 3}, "text_device must be"),
    ],
)
def test_arguments_without_effect_are_refused(pipe, arguments, message):
    for source in (pipe, ZOO / "tiny-sd"):
        with pytest.raises(dz.InputError, match=message):
            dz.load(source, **arguments)


def test_a_loaded_model_takes_no_other_classes():
    model = dz.load("cifar10-ddpm")
    with pytest.raises(dz.InputError, match="is loaded already; leave out classes"):
        dz.load(model, classes=[str(i) for i in range(10)])
    with pytest.raises(dz.InputError, match="is loaded already; leave out text_device"):
        dz.load(model, text_device="cpu")


def test_text_encoders_of_a_pipeline_go_where_they_are_told(monkeypatch):
    pipe, moved = families.sd3_pipeline(), {}

    def watch(part, to, *args, **kwargs):
        moved[part] = kwargs.get("device", moved.get(part))
        return to(*args, **kwargs)

    for part in ("transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3"):
        network = getattr(pipe, part)
        monkeypatch.setattr(network, "to", partial(watch, part, network.to))
    dz.load(pipe, device="cpu", text_device="cpu:0")
    assert {k: str(v) for k, v in moved.items() if v is not None} == {
        "transformer": "cpu", "vae": "cpu", "text_encoder": "cpu:0", "text_encoder_2": "cpu:0",
        "text_encoder_3": "cpu:0",
    }  # fmt: skip


def test_a_chat_template_is_needed_and_fetched():
    from huggingface_hub.utils import filter_repo_objects

    from diffzero.models.family import family_named
    from diffzero.models.hub import _wanted

    pipe = families.flux2_pipeline()
    pipe.tokenizer.chat_template = None
    with pytest.raises(dz.InputError, match=r"no chat template.*chat_template\.jinja"):
        dz.load(pipe, resolution=16)
    wanted = _wanted(family_named("flux2"), None, False)
    file = "tokenizer/chat_template.jinja"
    assert list(filter_repo_objects([file], allow_patterns=wanted)) == [file]


def test_models_of_one_pipeline_share_the_copy_of_its_autoencoder(half):
    one, two = dz.load(half), dz.load(half)
    assert one.codec.vae is two.codec.vae is not half.vae
    with torch.no_grad():
        next(half.vae.parameters()).add_(1)
    three = dz.load(half)
    assert three.codec.vae is not one.codec.vae
    half.vae.register_to_config(scaling_factor=5.0)
    assert dz.load(half).codec.vae.config.scaling_factor == 5.0
    for weight in half.vae.parameters():  # as averages of weights are put in
        weight.data.copy_(weight.data * 1.01)
    assert dz.load(half).codec.vae is not three.codec.vae
    weights = (next(m.codec.vae.parameters()) for m in (three, one))
    assert torch.allclose(next(weights), next(weights) + 1, atol=1e-2)


def test_what_is_refused_is_not_moved_before(pipe):
    for source in (ZOO / "digits-ddpm", ZOO / "cifar10-ldm"):
        with pytest.raises(dz.InputError, match="no text encoder that could be elsewhere; leave"):
            dz.load(source, text_device="cpu")
    with pytest.raises(dz.InputError, match="leave out classes"):
        dz.load(pipe, dtype="float16", classes=["a", "b"])
    assert pipe.unet.dtype == torch.float32
