"""The recipe of photos-sd, and Muon on kernels of convolutions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import diffzero as dz
from diffzero.train import loop, photographs
from diffzero.train.captions import mirrored


def test_images_are_mirrored_and_moved_by_whole_pixels():
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = photographs.vary(image.expand(64, -1, -1, -1), torch.Generator().manual_seed(1))
    wide = nn.functional.pad(image, (photographs.SHIFT,) * 4, mode="reflect")[0]
    places = range(2 * photographs.SHIFT + 1)
    allowed = [wide[:, i : i + 16, j : j + 16] for i in places for j in places]
    allowed += [x.flip(2) for x in allowed]
    which = {next(k for k, x in enumerate(allowed) if torch.equal(x, one)) for one in found}
    assert len(which) > 8 and min(which) < len(allowed) / 2 <= max(which)  # both ways round


def test_only_photographs_are_mirrored():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(200, 3, 4, 4, generator=generator)
    able = torch.arange(200) < 100
    found = mirrored(images, generator, able)
    flipped = (found == images.flip(-1)).flatten(1).all(1)
    kept = (found == images).flatten(1).all(1)
    assert torch.all(flipped ^ kept)
    assert not flipped[100:].any()
    assert 30 < flipped[:100].sum() < 70


def test_kernels_learn_as_torchs_muon_teaches_matrices():
    torch.manual_seed(0)
    start, target = torch.randn(2, 6, 10)
    kernel, matrix = (nn.Parameter(start.clone().view(s)) for s in ((6, 10, 1, 1), (6, 10)))
    ours = loop.Muon([kernel], 0.1)
    theirs = torch.optim.Muon([matrix], weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(20):
        for weights, optimizer in ((kernel, ours), (matrix, theirs)):
            optimizer.zero_grad()
            optimizer.param_groups[0]["lr"] = 0.05
            (weights.view(6, 10) - target).square().sum().backward()
            optimizer.step()
    assert torch.allclose(kernel.view(6, 10), matrix, atol=2e-2)  # bfloat16 inside
    assert (matrix - target).norm() < 0.9 * (start - target).norm()


def test_an_update_has_equal_singular_values():
    matrix = torch.randn(20, 7, generator=torch.Generator().manual_seed(0)) * 3
    low, high = torch.linalg.svdvals(loop.orthogonalised(matrix)).aminmax()
    assert 0.6 < low <= high < 1.3


@pytest.mark.parametrize(("lower", "decades", "near"), [(False, 4, 1e-3), (True, 1, 1e-2)])
def test_an_update_is_that_of_the_quintic_itself(lower, decades, near, monkeypatch):
    monkeypatch.setattr(loop, "bfloat16_pays", lambda: lower)
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(n, 30, generator=generator).double())[0] for n in (30, 90))
    matrix = u * torch.logspace(0, -decades, 30) @ v.T  # by its singular values
    x = matrix / matrix.norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    torch.testing.assert_close(loop.orthogonalised(matrix), x, rtol=0, atol=near)
    torch.testing.assert_close(loop.orthogonalised(matrix.T), x.T, rtol=0, atol=near)


@pytest.mark.parametrize("lower", [False, True])
def test_a_square_update_has_no_large_singular_value(lower, monkeypatch):
    """In bfloat16 the way of the smaller side had values of 3.6 here."""
    monkeypatch.setattr(loop, "bfloat16_pays", lambda: lower)
    matrix = torch.randn(192, 192, generator=torch.Generator().manual_seed(0))
    assert torch.linalg.svdvals(loop.orthogonalised(matrix))[0] < 1.3


@pytest.fixture
def small(monkeypatch):
    """Batches that take a moment."""
    cpu = replace(photographs.PRESETS["cpu"], vae=(16, 16, 16), unet=(16, 16))
    monkeypatch.setitem(photographs.PRESETS, "cpu", replace(cpu, vae_batch=16, batch=16))


def folders(root):
    """Sixty noisy pictures, bright above or bright below."""
    noise = np.random.default_rng(0)
    for name in ("sky", "sea"):
        (root / "train" / name).mkdir(parents=True)
        for k in range(30):
            picture = noise.integers(0, 90, (32, 32, 3))
            picture[slice(0, 16) if name == "sky" else slice(16, 32)] += 150
            Image.fromarray(picture.astype(np.uint8)).save(root / "train" / name / f"{k}.png")
    return f"places={root}"


def test_the_recipe_learns_two_classes_and_goes_on(small, tmp_path):
    source, silent = folders(tmp_path / "data"), {"log": lambda line: None}
    photographs.train([source], tmp_path / "one", 0.12, **silent)
    model = dz.load(tmp_path / "one", dtype="float32", device="cpu")
    assert model.codec.vae.config.latent_channels == photographs.CHANNELS
    pictures = sorted((tmp_path / "data" / "train").rglob("*.png"))[::6]
    pixels = np.stack([np.array(Image.open(p)) for p in pictures])
    z = model.encode(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1).flatten(1)
    sea = torch.tensor([p.parent.name == "sea" for p in pictures])
    apart = (z[sea].mean(0) - z[~sea].mean(0)).square().sum()
    assert apart > 0.5 * (z[sea].var(0) + z[~sea].var(0)).sum()  # the class shows in the latents
    elbo = dz.ELBO(model, draws=2).fit(["sky", "sea"])
    assert np.isfinite(elbo.scores(pictures).logits).all()

    photographs.train([source], tmp_path / "two", 0.02, init=str(tmp_path / "one"), **silent)
    assert dz.load(tmp_path / "two").codec.vae.config.scaling_factor > 0


def test_images_with_captions_of_their_own_are_refused(tmp_path):
    from diffzero.data.scene_files import write

    write(tmp_path / "scenes", "train", 10, 32)
    with pytest.raises(dz.InputError, match="captions and no classes"):
        photographs.train([f"scenes={tmp_path / 'scenes'}"], tmp_path / "out", 0.01)
