"""The recipe of cifar10-ldm."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import diffzero as dz
from conftest import Clock
from diffzero.train import ldm, loop
from test_train_photographs import folders

SILENT = {"log": lambda line: None}


@pytest.fixture
def small(monkeypatch):
    """Batches that take a moment."""
    cpu = replace(ldm.PRESETS["cpu"], vae=(16, 16, 16), unet=(16, 32), vae_batch=16, batch=16)
    monkeypatch.setitem(ldm.PRESETS, "cpu", cpu)
    return cpu


def test_the_schedule_is_sech_and_its_betas_give_it_back():
    bars = ldm.alphas_cumprod()
    t = torch.arange(1, ldm.STEPS + 1) / ldm.STEPS
    assert torch.allclose(bars.sqrt(), 1 / torch.cosh(ldm.C * t.double()))
    assert bars[-1].item() ** 0.5 == pytest.approx(0.063, abs=1e-3)
    assert torch.allclose(ldm.noise_scheduler().alphas_cumprod.double(), bars, rtol=2e-4)


def test_uniform_times_weigh_errors_of_v_by_alpha():
    """`alpha^2` of uniform steps here is `alpha` of uniform times of the cosine up to the same
    noise, whatever the error: on every one that depends on the noise alone, as its powers."""
    end = math.acos(1 / math.cosh(ldm.C)) / math.pi * 2
    u = (torch.arange(200_000).double() + 0.5) / 200_000 * end
    alpha, sigma = torch.cos(u * torch.pi / 2), torch.sin(u * torch.pi / 2)
    bars = ldm.alphas_cumprod()
    for power in (2, 4, 8):
        here = (bars * (1 - bars) ** (power / 2)).mean() * ldm.C
        there = (alpha * sigma**power).mean() * end * torch.pi / 2
        assert here == pytest.approx(float(there), rel=0.01)


def test_times_lie_where_the_cosines_do():
    t = ldm.times(20_000, torch.Generator().manual_seed(0))
    bars = ldm.alphas_cumprod()[t]
    u = torch.acos(bars.sqrt()) / torch.pi * 2
    assert t.min() >= 0 and t.max() < ldm.STEPS
    assert u.median() == pytest.approx(0.53, abs=0.03)  # of 1/2 and of sigmoid(0.2)
    assert ((u > 0.3) & (u < 0.7)).double().mean() == pytest.approx(0.56, abs=0.04)


def test_latents_are_centred_in_the_autoencoder_itself(small):
    torch.manual_seed(0)
    vae = ldm.autoencoder(small).eval()
    vae.quant_conv.bias.data += 3.0
    pixels = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8)
    x = pixels[:4].float() / 127.5 - 1
    with torch.no_grad():
        before = vae.decode(vae.encode(x).latent_dist.mean).sample
        ldm.centre(vae, pixels, "cpu", small)
        z = vae.encode(x).latent_dist.mean
        assert torch.allclose(vae.decode(z).sample, before, atol=1e-3)
        z = ldm.encoded(vae, pixels, "cpu", small).float() * vae.config.scaling_factor
    assert z.mean((0, 2, 3)).abs().max() < 0.05 and z.std() == pytest.approx(1, abs=0.1)


def test_both_losses_fall(small):
    torch.manual_seed(0)
    vae, unet = ldm.autoencoder(small), ldm.denoiser(small, 2)
    grey = torch.arange(0, 240, 4, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 32, 32)
    latents, labels = torch.ones(60, ldm.CHANNELS, 8, 8), torch.arange(60) % 2
    latents[labels == 0] = -1.0
    for network, loss in (
        (vae, ldm.codec_loss(vae, grey, "cpu", small)),
        (unet, ldm.denoising_loss(unet, latents, labels, 2, "cpu", small)),
    ):
        generator, found = torch.Generator().manual_seed(0), []
        optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
        for _ in range(90):
            optimizer.zero_grad()
            found.append(loss(generator))
            found[-1].backward()
            optimizer.step()
        assert sum(found[-5:]) < 0.5 * sum(found[:5])


def test_the_recipe_trains_both_stages_and_goes_on(small, tmp_path, monkeypatch):
    source = folders(tmp_path / "data")
    monkeypatch.setattr(loop, "time", Clock(0.1))  # 36 steps in 0.06 minutes
    ldm.train([source], tmp_path / "one", 0.06, **SILENT)
    model = dz.load(tmp_path / "one", dtype="float32", device="cpu")
    pictures = sorted((tmp_path / "data" / "train").rglob("*.png"))[::6]
    scores = dz.ELBO(model, draws=2).fit(["0", "1"]).scores(pictures)
    assert np.isfinite(scores.logits).all()
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def goes_on(name, minutes):
        ldm.train([source], tmp_path / name, minutes, init=str(tmp_path / "one"), **SILENT)
        return dz.load(tmp_path / name, dtype="float32", device="cpu")

    still, further = goes_on("still", 0), goes_on("further", 0.02)
    assert torch.allclose(still.encode(x), model.encode(x), atol=0.01)  # where it starts
    for part in (
        lambda m: m.codec.vae.quant_conv.weight,
        lambda m: m.denoiser.network.conv_in.weight,
    ):
        assert torch.equal(part(still), part(model))
        assert not torch.equal(part(further), part(model))  # both learn on


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(dz.InputError, match="preset must be one of cpu, gpu; got 'tpu'"):
        ldm.train(["digits=digits"], tmp_path, 0, preset="tpu", **SILENT)
    with pytest.raises(dz.InputError, match="one data set; got 2"):
        ldm.train(["a=b", "c=d"], tmp_path, 0, **SILENT)
    with pytest.raises(dz.InputError, match="do not fit this recipe's networks"):
        ldm.train(["digits=digits"], tmp_path, 0, init="digits-ddpm", **SILENT)


def test_more_minutes_go_to_the_last_stage(small, tmp_path, monkeypatch):
    source, told = folders(tmp_path / "data"), []
    monkeypatch.setattr(loop, "time", Clock(0.1))
    ldm.train([source], tmp_path / "m", 0.02, **SILENT)
    first = dz.load(tmp_path / "m", dtype="float32", device="cpu")
    ldm.train([source], tmp_path / "m", 0.06, log=told.append)
    second = dz.load(tmp_path / "m", dtype="float32", device="cpu")
    assert torch.equal(first.codec.vae.quant_conv.weight, second.codec.vae.quant_conv.weight)
    # 3.6 seconds less the quarter of the first 1.2 that the autoencoder had.
    seconds = float(told[-1].split(" in ")[1].split()[0])
    assert seconds == pytest.approx(3.3, abs=0.51)
    # One long step of the autoencoder does not take the U-Net's share.
    monkeypatch.setattr(loop, "time", Clock(3.0))
    ldm.train([source], tmp_path / "slow", 0.04, log=told.append)
    assert told[-1].startswith("1 steps in 3 s")
