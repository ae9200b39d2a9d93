import numpy as np
import pytest
import torch

import diffzero as dz
from conftest import sd_pipeline


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_forward_is_the_unet_converted(tokenizer, kind):
    pipe = sd_pipeline(tokenizer, kind)
    backbone = dz.load(pipe)
    g = torch.Generator().manual_seed(0)
    x_t = torch.randn(3, 4, 8, 8, generator=g)
    steps = torch.tensor([0, 400, 999])
    cond = backbone.embed(["a photo of a cat", "a photo of a dog", ""])
    with torch.no_grad():
        prediction = backbone.forward(x_t, (steps + 1) / 1000, cond)
        text = pipe.encode_prompt(["a photo of a cat", "a photo of a dog", ""], "cpu", 1, False)[0]
        output = pipe.unet(x_t, steps, text).sample
    for i, n in enumerate(steps.tolist()):
        # diffusers' own conversion, from its scheduler.
        step = pipe.scheduler
        step.set_timesteps(1000)
        clean = step.step(output[i : i + 1], n, x_t[i : i + 1]).pred_original_sample
        assert torch.allclose(prediction.x[i : i + 1], clean, rtol=1e-3, atol=1e-3)


def test_embeddings_are_those_of_the_pipeline(pipe, sd):
    prompts = ["a photo of a cat", "a red fox"]
    assert torch.equal(
        sd.embed(prompts).tensors["text"], pipe.encode_prompt(prompts, "cpu", 1, False)[0]
    )


def test_encode_is_the_scaled_posterior_mean_and_decode_inverts_the_scale(pipe, sd):
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        mean = pipe.vae.encode(images).latent_dist.mean
        assert torch.allclose(sd.encode(images), mean * pipe.vae.config.scaling_factor)
        decoded = pipe.vae.decode(mean).sample.clamp(-1, 1)
        assert torch.allclose(sd.decode(sd.encode(images)), decoded, atol=1e-5)
    assert sd.shape == (4, 8, 8) and sd.image_size == 16


@pytest.mark.parametrize(
    "name",
    ["DDPMScheduler", "PNDMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"],
)
def test_the_sampler_does_not_change_the_noise(tokenizer, name):
    import diffusers

    pipe = sd_pipeline(tokenizer)
    expected = dz.load(pipe).schedule.alphas_cumprod
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config)
    assert torch.allclose(dz.load(pipe).schedule.alphas_cumprod, expected)


def test_zero_terminal_snr_checkpoint_scores_finite(tokenizer, photos):
    pipe = sd_pipeline(
        tokenizer, "v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    for weights in ("uniform", "elbo"):
        scores = dz.ELBO(pipe, draws=4, weights=weights).fit(["cat", "dog"]).scores(photos[:2])
        assert np.isfinite(scores.logits).all()


def test_a_folder_on_disk_scores_like_the_pipeline_in_memory(pipe, sd, photos, tmp_path):
    pipe.save_pretrained(tmp_path / "model")
    loaded = dz.load(tmp_path / "model")
    logits = [
        dz.ELBO(b, draws=2).fit(["cat", "dog"]).scores(photos[:2]).logits for b in (sd, loaded)
    ]
    assert np.allclose(*logits, rtol=1e-5)


def test_lora_in_memory_changes_the_scores(tokenizer, photos):
    from peft import LoraConfig

    pipe = sd_pipeline(tokenizer)
    before = dz.ELBO(pipe, draws=2).fit(["cat", "dog"]).scores(photos[0]).logits
    pipe.unet.add_adapter(
        LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    )
    after = dz.ELBO(pipe, draws=2).fit(["cat", "dog"]).scores(photos[0]).logits
    assert not np.allclose(before, after)


def test_a_pipeline_without_a_part_is_refused(tokenizer):
    pipe = sd_pipeline(tokenizer)
    pipe.text_encoder = None
    with pytest.raises(dz.InputError, match="the pipeline has no text_encoder"):
        dz.load(pipe)


TEXT_METHODS = {
    "elbo": {"draws": 2},
    "race": {"max_draws": 4},
    "likelihood": {"steps": 2},
    "latent-knn": {"steps": 2},
    "noise-denoise": {"steps": 2, "draws": 1, "guidance": 7.5},
    "noise-denoise-vote": {"steps": 2, "levels": (0.3, 0.6)},
    "cross-attention": {},
    "textual-inversion": {"steps": 2, "draws": 2},
    "weighted": {"steps": 2, "draws": 2},
}


@pytest.mark.parametrize("kind", ["sd1", "sd2"])
def test_every_method_runs_on_real_folders(tokenizer, photos, tmp_path, kind):
    """SD 1's classes, and SD 2's: v-prediction, linear projections, heads of their own number."""
    from diffusers import UNet2DConditionModel

    from diffzero.methods import METHODS, make

    pipe = sd_pipeline(tokenizer, "v_prediction" if kind == "sd2" else "epsilon")
    if kind == "sd2":
        own = {"attention_head_dim": (2, 4), "use_linear_projection": True}
        pipe.unet = UNet2DConditionModel.from_config({**pipe.unet.config, **own})
    pipe.save_pretrained(tmp_path / kind)
    backbone = dz.load(tmp_path / kind)
    assert set(TEXT_METHODS) | {"clip"} == set(METHODS)
    words = ["cat", "dog", "fox"]
    for name, options in TEXT_METHODS.items():
        classifier = make(name, backbone, options).fit(words)
        scores = classifier.scores(photos[:2])
        assert np.isfinite(scores.logits).all(), name
        assert (scores.evals <= classifier.count_evals(3)).all(), name
        assert np.allclose(classifier.predict_proba(photos[:2]).sum(1), 1), name
    with pytest.raises(dz.InputError, match="clip needs a CLIP model"):
        make("clip", backbone, {}).fit(words)
