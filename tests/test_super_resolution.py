"""The second stage of DeepFloyd IF at tiny size, from its real classes."""

import pytest
import torch

import diffzero as dz
from conftest import if_unet
from diffzero.models.super_resolution import SuperResolution


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    from diffusers import DDPMScheduler, IFSuperResolutionPipeline

    torch.manual_seed(1)
    unet = if_unet(
        sample_size=16,
        in_channels=6,
        class_embed_type="timestep",
        resnet_time_scale_shift="scale_shift",
        act_fn="gelu",
    )
    options = {"beta_schedule": "squaredcos_cap_v2", "variance_type": "learned_range"}
    pipeline = IFSuperResolutionPipeline(
        tokenizer=None,
        text_encoder=None,
        unet=unet,
        scheduler=DDPMScheduler(**options),
        image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )
    folder = tmp_path_factory.mktemp("stage")
    pipeline.save_pretrained(folder)
    return folder


def test_it_enlarges_what_the_pipeline_enlarges(stage, deepfloyd, if_pipe):
    """Loaded from the folder, with the first stage's text, equal to diffusers' own call."""
    large = SuperResolution.load(stage)
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    prompts = ["a cat", "a dog"]
    made = large.enlarge(images, prompts, deepfloyd, steps=3, seed=5)
    assert made.shape == (2, 3, 16, 16) and -1 <= made.min() < made.max() <= 1
    text, blank = if_pipe.encode_prompt(prompts, device="cpu")
    theirs = large.pipeline(
        image=images,
        prompt_embeds=text,
        negative_prompt_embeds=blank,
        num_inference_steps=3,
        guidance_scale=4.0,
        generator=torch.Generator().manual_seed(5),
        output_type="pt",
    ).images
    assert torch.allclose(made, theirs.clamp(-1, 1), atol=1e-5)
    other = large.enlarge(images, prompts[::-1], deepfloyd, steps=3, seed=5)
    assert not torch.allclose(made, other)


def test_what_does_not_fit_is_refused(stage, deepfloyd, if_pipe, tmp_path):
    large = SuperResolution.load(stage)
    with pytest.raises(dz.InputError, match="2 images need as many prompts; got 1"):
        large.enlarge(torch.zeros(2, 3, 8, 8), ["a cat"], deepfloyd)
    with pytest.raises(dz.InputError, match="takes 3 channels"):
        SuperResolution(if_pipe)
    with pytest.raises(dz.InputError, match="not a super-resolution stage"):
        SuperResolution.load(tmp_path)


def test_reconstructions_are_shown_large(stage, deepfloyd, tmp_path, monkeypatch):
    from PIL import Image

    from diffzero import data
    from diffzero.experiments import Setting, make_setting, reconstructions, reproduce

    monkeypatch.setattr(reconstructions, "STEPS", 2)
    monkeypatch.setattr(reconstructions, "SHOWN", 1)
    images = data.load("digits=digits", None, "validation").subset(slice(0, 1))
    sizes = {}
    for name, large in (("small", None), ("large", SuperResolution.load(stage))):
        out = tmp_path / name
        shown = []
        monkeypatch.setattr(
            reconstructions, "picture", lambda x, shown=shown: shown.append(x) or x[0].numpy()
        )
        numbers = reproduce(
            "reconstructions", Setting(deepfloyd, images, None, out, 1, 0, "tiny-clip", large)
        )
        sizes[name] = [tuple(x.shape[1:]) for x in shown]
        assert Image.open(out / "reconstructions.png").width > 300
        assert numbers["n"] == 1  # what is counted is counted on the small ones
    assert sizes == {"small": [(8, 8)] * 4, "large": [(8, 8)] * 2 + [(16, 16)] * 2}
    options = {"data": "digits=digits", "out": tmp_path, "limit": 1, "seed": 0}
    options |= {"device": "cpu", "clip": "tiny-clip", "enlarge": str(stage)}
    with pytest.raises(dz.InputError, match="tiny-sd has no second stage"):
        make_setting("reconstructions", "tiny-sd", **options)
    with pytest.raises(dz.InputError, match="serves the experiment reconstructions; knn"):
        make_setting("knn", "digits-ddpm", **options)
