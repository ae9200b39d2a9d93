import numpy as np
import pytest
import torch

import diffzero as dz
import families
from conftest import class_model


def test_words_are_the_classes(tiny_ddpm):
    assert tiny_ddpm.embed(["one", "zero", ""]).tensors["class"].tolist() == [1, 0, 3]
    with pytest.raises(dz.InputError, match="has no class 'cat'; it has zero, one, two"):
        tiny_ddpm.embed(["cat"])


def test_grey_images_and_back(tiny_ddpm):
    images = torch.rand(2, 3, 8, 8) * 2 - 1
    x = tiny_ddpm.encode(images)
    assert x.shape == (2, 1, 8, 8) and torch.allclose(x[:, 0], images.mean(1))
    assert tiny_ddpm.decode(x * 9).shape == (2, 3, 8, 8)
    assert tiny_ddpm.decode(x * 9).abs().max() <= 1


def test_whole_steps_are_the_networks_own(tiny_ddpm):
    x_t, c = torch.randn(1, 1, 8, 8), tiny_ddpm.embed(["two"])
    ours = tiny_ddpm.forward(x_t, torch.tensor([0.25]), c).eps
    with torch.no_grad():
        theirs = tiny_ddpm.denoiser.network(x_t, 249, class_labels=torch.tensor([2])).sample
    assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_every_prediction_type_and_folder(tiny_unet, kind, tmp_path):
    from diffusers import DDPMPipeline, DDPMScheduler

    scheduler = DDPMScheduler(prediction_type=kind, beta_schedule="squaredcos_cap_v2")
    DDPMPipeline(unet=tiny_unet, scheduler=scheduler).save_pretrained(tmp_path)
    backbone = dz.load(tmp_path)
    assert backbone.denoiser.parametrisation == kind and backbone.classes == ["0", "1", "2", "3"]
    image = np.zeros((8, 8, 3), np.uint8)
    for method in (dz.ELBO, dz.Likelihood, dz.LatentKNN, dz.NoiseDenoise):
        options = {"draws": 2} if method is dz.ELBO else {"steps": 2}
        scores = method(backbone, **options).fit(["0", "2", "3"]).scores(image)
        assert np.isfinite(scores.logits).all()


@pytest.mark.parametrize("method", ["Likelihood", "LatentKNN", "NoiseDenoise", "NoiseDenoiseVote"])
def test_every_method_serves_text_conditional_latent_models(method):
    image = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    classifier = getattr(dz, method)("tiny-sd", steps=2).fit(["sneaker", "bag", "shirt"])
    scores = classifier.scores(image)
    assert np.isfinite(scores.logits).all() and np.ptp(scores.logits) > 0
    if method == "Likelihood":
        assert np.isfinite(scores.details["nats_per_dim"]).all()


def test_a_folders_card_names_its_classes(tiny_unet, tmp_path):
    from diffusers import DDPMPipeline, DDPMScheduler

    DDPMPipeline(unet=tiny_unet, scheduler=DDPMScheduler()).save_pretrained(tmp_path)
    (tmp_path / "card.yaml").write_text("classes: [a, b, c]\ngrey_step: 0.125\n")
    backbone = dz.load(tmp_path)
    assert backbone.classes == ["a", "b", "c"] and backbone.conditioner.null_class == 3
    assert backbone.grey_step == 0.125
    (tmp_path / "card.yaml").write_text("classes: [a, b]\n")
    with pytest.raises(dz.InputError, match="embeds 4 classes and the card names 2"):
        dz.load(tmp_path)
    (tmp_path / "card.yaml").write_text("classes: [a, b")
    with pytest.raises(dz.InputError, match=r"card.yaml: damaged"):
        dz.load(tmp_path)


def test_guidance_needs_a_null_class(tiny_unet):
    from diffusers import DDPMScheduler

    backbone = class_model(tiny_unet, DDPMScheduler(), list("abcd"))
    with pytest.raises(dz.InputError, match="has no null class"):
        dz.ELBO(backbone, guidance=2.0, draws=1).fit(["a", "b"]).scores(np.zeros((8, 8, 3), "u1"))


def test_models_without_classes_are_refused():
    from diffusers import DDPMScheduler, UNet2DModel

    unet = UNet2DModel(
        sample_size=8, block_out_channels=(8,), down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",), norm_num_groups=4, layers_per_block=1,
    )  # fmt: skip
    with pytest.raises(dz.InputError, match="has no class labels"):
        class_model(unet, DDPMScheduler())


def test_latents_under_a_class_from_a_folder_and_in_memory(tmp_path):
    """x_0 is the scaled mean of the posterior, and steps are those of betas that were given."""
    pipe = families.ldm_pipeline()
    pipe.save_pretrained(tmp_path)
    (tmp_path / "card.yaml").write_text("classes: [a, b, c]\n")
    model = dz.load(tmp_path)
    assert model.shape == (4, 8, 8) and model.conditioner.null_class == 3
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    z = model.encode(x)
    with torch.no_grad():
        assert torch.allclose(z, 0.5 * pipe.vqvae.encode(x).latent_dist.mean, atol=1e-5)
        v = pipe.unet(z, 11, class_labels=torch.tensor([2, 3])).sample
    bar = pipe.scheduler.alphas_cumprod[11]
    ours = model.forward(z, torch.full((2,), 0.5), model.embed(["c", ""]))
    assert torch.allclose(ours.eps, bar.sqrt() * v + (1 - bar).sqrt() * z, atol=1e-5)
    assert torch.equal(dz.load(pipe).encode(x), z)
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    for method in (dz.ELBO, dz.Likelihood, dz.LatentKNN, dz.NoiseDenoise, dz.Weighted):
        options = {"draws": 2} if method is dz.ELBO else {"steps": 2}
        logits = method(model, **options).fit(["a", "b", "c"]).scores(image).logits
        assert np.isfinite(logits).all() and np.ptp(logits) > 0


def test_latents_of_codes_or_of_other_channels_are_refused(tmp_path):
    pipe = families.ldm_pipeline()
    pipe.register_modules(vqvae=families.autoencoder(8))
    with pytest.raises(dz.InputError, match="takes 4 channels and the VAE gives 8"):
        dz.load(pipe)
    families.ldm_pipeline().save_pretrained(tmp_path)
    index = tmp_path / "model_index.json"
    index.write_text(index.read_text().replace("AutoencoderKL", "VQModel"))
    with pytest.raises(dz.InputError, match="its vqvae is a VQModel"):
        dz.load(tmp_path)
