import pytest
import torch

import diffzero as dz
from conftest import if_unet, sd_pipeline
from diffzero.models.attention import captured, cross_attention_modules


def imagen_like_unet():
    torch.manual_seed(0)
    return if_unet(encoder_hid_dim=16).eval()


def stable_diffusion_2_like_unet():
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        upcast_attention=True,
        norm_num_groups=4,
    ).eval()


def unets(tokenizer):
    return {
        "sd1": (sd_pipeline(tokenizer).unet.eval(), 4),
        "sd2": (stable_diffusion_2_like_unet(), 4),
        "if": (imagen_like_unet(), 3),
        "tiny-sd": (dz.load("tiny-sd", device="cpu").denoiser.network, 4),
    }


@pytest.mark.parametrize("kind", ["sd1", "sd2", "if", "tiny-sd"])
@torch.no_grad()
def test_capture_changes_no_bit_and_maps_are_probabilities(tokenizer, kind):
    unet, channels = unets(tokenizer)[kind]
    g = torch.Generator().manual_seed(1)
    width = unet.config.encoder_hid_dim or unet.config.cross_attention_dim
    x = torch.randn(2, channels, 8, 8, generator=g)
    text, t = torch.randn(2, 5, width, generator=g), torch.tensor([10.0, 700.0])
    plain = unet(x, t, text).sample
    modules = cross_attention_modules(unet)
    maps = {}
    with captured(modules, maps.__setitem__):
        seen = unet(x, t, text).sample
    assert torch.equal(plain, seen)
    assert set(maps) == set(modules)
    for name, module in modules.items():
        assert maps[name].shape[:2] == (2, module.heads)
        keys = maps[name].shape[2] + 5 if kind == "if" else 5
        assert maps[name].shape[3] == keys
        assert torch.allclose(maps[name].sum(-1), torch.ones(()), atol=1e-5)
    assert torch.equal(unet(x, t, text).sample, plain)  # nothing stays behind
    assert all(not m._forward_pre_hooks for m in modules.values())


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", ["sd1", "if"])
@torch.no_grad()
def test_maps_are_what_diffusers_own_slow_processor_computes(tokenizer, kind, masked):
    from diffusers.models.attention_processor import AttnAddedKVProcessor, AttnProcessor

    unet, channels = unets(tokenizer)[kind]
    modules = cross_attention_modules(unet)
    theirs = {}
    for name, module in modules.items():
        module.set_processor(AttnAddedKVProcessor() if kind == "if" else AttnProcessor())
        scores = module.get_attention_scores

        def spy(q, k, mask=None, scores=scores, name=name):
            theirs[name] = scores(q, k, mask)
            return theirs[name]

        module.get_attention_scores = spy
    g = torch.Generator().manual_seed(1)
    x, text = torch.randn(2, channels, 8, 8, generator=g), torch.randn(2, 5, 16, generator=g)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]) if masked else None
    maps = {}
    with captured(modules, maps.__setitem__):
        unet(x, 300, text, encoder_attention_mask=mask)
    for name, own in maps.items():
        assert torch.allclose(own.flatten(0, 1), theirs[name], atol=1e-5)
