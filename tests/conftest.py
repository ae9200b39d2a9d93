"""Shared fixtures: an oracle problem, and real components at tiny size, never mocks."""

import signal

import numpy as np
import pytest
import torch

import diffzero as dz
import families

CAPTIONS = ["a photo of a cat", "a photo of a dog", "a photo of a red fox", "a sketch of a fox"]


class Clock:
    """Stands in for the module `time` in training loops: every look comes `tick` seconds after
    the one before, so that a budget is a number of steps, however busy the machine is."""

    def __init__(self, tick):
        self.tick, self.now = tick, 0.0

    def perf_counter(self):
        self.now += self.tick
        return self.now


def oracle_problem(schedule, n=160, k=4, m=2, side=4, spread=0.11, seed=0):
    """Overlapping mixtures: (backbone, uint8 images [n, side, side, 3], labels [n])."""
    g = torch.Generator().manual_seed(seed)
    means = torch.randn(k, m, 3, side, side, generator=g).double() * spread
    stds = 0.25 + 0.1 * torch.rand(k, m, generator=g).double()
    weights = torch.rand(k, m, generator=g).double() + 0.5
    weights /= weights.sum(1, keepdim=True)
    backbone = dz.MixtureBackbone(weights, means, stds, schedule)
    labels = torch.randint(0, k, (n,), generator=g)
    component = torch.multinomial(weights[labels], 1, generator=g)[:, 0]
    noise = torch.randn(n, 3, side, side, generator=g).double()
    x = means[labels, component] + stds[labels, component].view(-1, 1, 1, 1) * noise
    pixels = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return backbone, pixels, labels.numpy()


def as_x0(pixels):
    return torch.from_numpy(np.asarray(pixels)).permute(0, 3, 1, 2).double() / 127.5 - 1


@pytest.fixture(scope="session")
def oracle():
    return oracle_problem(dz.LogSNRLinearSchedule(-6, 8), n=24)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    from diffzero.train import tokenizer

    return tokenizer.build(CAPTIONS, tmp_path_factory.mktemp("tokenizer"), 16)


def class_model(unet, scheduler, classes=None, name="tiny", prediction=None, **card):
    """A class-conditional model of its parts."""
    from diffzero.models.cards import Card
    from diffzero.models.load import finished

    config = dict(scheduler.config) | {"_class_name": type(scheduler).__name__}
    own = Card(name, "ddpm", "memory", classes=classes, prediction=prediction, **card)
    return finished("ddpm", {"unet": unet, "scheduler": config}, own)


def sd_pipeline(tokenizer, prediction_type="epsilon", **scheduler_options):
    """Stable Diffusion's own classes, small enough for a test: 16-pixel images, 8x8 latents."""
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=16,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type=prediction_type,
        **scheduler_options,
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@pytest.fixture(scope="session")
def pipe(tokenizer):
    return sd_pipeline(tokenizer)


@pytest.fixture(scope="session")
def sd(pipe):
    return dz.load(pipe)


def if_unet(**options):
    """A U-Net of DeepFloyd IF's blocks, image keys beside the text's, a learned variance."""
    from diffusers import UNet2DConditionModel

    own = {
        "sample_size": 8,
        "in_channels": 3,
        "out_channels": 6,
        "block_out_channels": (16, 16),
        "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": 16,
        "encoder_hid_dim": 24,
        "attention_head_dim": 8,
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(**own | options)


def if_pipeline(folder, **scheduler_options):
    """DeepFloyd IF's own classes, small enough for a test: 8-pixel images, a learned variance."""
    from diffusers import DDPMScheduler, IFPipeline
    from transformers import T5Config, T5EncoderModel

    from diffzero.train.tokenizer import build_t5

    tokens = build_t5(CAPTIONS, folder, 77)
    torch.manual_seed(0)
    unet = if_unet(
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        resnet_time_scale_shift="scale_shift",
        act_fn="gelu",
    )
    text = T5EncoderModel(
        T5Config(
            vocab_size=len(tokens),
            d_model=24,
            d_kv=8,
            d_ff=32,
            num_layers=2,
            num_heads=3,
            feed_forward_proj="gated-gelu",
            pad_token_id=tokens.pad_token_id,
            eos_token_id=tokens.eos_token_id,
        )
    )
    options = {
        "thresholding": True,
        "dynamic_thresholding_ratio": 0.95,
        "sample_max_value": 1.5,
        "variance_type": "learned_range",
    }
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", **(options | scheduler_options))
    return IFPipeline(
        tokenizer=tokens,
        text_encoder=text,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )


@pytest.fixture(scope="session")
def if_pipe(tmp_path_factory):
    return if_pipeline(tmp_path_factory.mktemp("t5"))


@pytest.fixture(scope="session")
def deepfloyd(if_pipe):
    return dz.load(if_pipe)


@pytest.fixture(scope="session")
def sdxl():
    return dz.load(families.sdxl_pipeline())


def from_folder(pipe, folder, resolution=None, **card):
    """A pipeline saved with a card of its own and read back."""
    pipe.save_pretrained(folder)
    if card:
        (folder / "card.yaml").write_text("".join(f"{k}: {v}\n" for k, v in card.items()))
    return dz.load(folder, resolution=resolution)


@pytest.fixture(scope="session")
def sd3(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sd3")
    return from_folder(families.sd3_pipeline(), folder, window=families.T5_WINDOW)


@pytest.fixture(scope="session")
def flux(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flux")
    return from_folder(families.flux_pipeline(), folder, 16, window=families.T5_WINDOW)


@pytest.fixture(scope="session")
def dit():
    return dz.load(families.dit_pipeline(5))


def heard():
    """For a process that a test starts: SIGINT ends it, which it would ignore where the tests run
    in the background of a script."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture(scope="session")
def ldm():
    return dz.load(families.ldm_pipeline())


@pytest.fixture(scope="session")
def pixart():
    return dz.load(families.pixart_pipeline())


@pytest.fixture(scope="session")
def sana(tmp_path_factory):
    """Read from a folder, with a window that fits the prompts of the tests."""
    pipe = families.sana_pipeline(instruction=tuple(families.sana_instruction()))
    return from_folder(pipe, tmp_path_factory.mktemp("sana"), window=families.T5_WINDOW)


@pytest.fixture(scope="session")
def z_image(tmp_path_factory):
    folder = tmp_path_factory.mktemp("z_image")
    return from_folder(families.z_image_pipeline(), folder, 16, window=64)


@pytest.fixture(scope="session")
def clip(tokenizer, tmp_path_factory):
    """A real CLIPModel, untrained, saved and loaded again."""
    from transformers import CLIPImageProcessor

    from diffzero.train.clip import build_model

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    tokenizer.model_max_length = 16
    build_model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(folder)
    return dz.load(folder)


@pytest.fixture
def photos():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (20 + i, 24, 3), dtype=np.uint8) for i in range(5)]


@pytest.fixture
def tiny_unet():
    """A real class-conditional UNet2DModel: 8x8 grey images, four classes, untrained."""
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=8,
        num_class_embeds=4,
    )


@pytest.fixture
def tiny_ddpm(tiny_unet):
    """The same as a backbone of three classes and none."""
    from diffusers import DDPMScheduler

    return class_model(tiny_unet, DDPMScheduler(), ["zero", "one", "two"], "tiny")
