"""DeepFloyd IF's first stage, the open counterpart of Imagen's 64-pixel model.

Pixels are x_0: nothing is encoded. The text goes through T5, which has no start token, and the
U-Net attends to it beside the image itself. Prompts are lower-cased and stripped, as diffusers
does without its optional cleaning. Safety checker and watermarker are not used.

The super-resolution stages see the small image as their input, so they have little left to say
about its class, and are refused.

References:
    Saharia et al., Photorealistic Text-to-Image Diffusion Models with Deep Language
    Understanding, 2022. https://arxiv.org/abs/2205.11487
    Nichol and Dhariwal, Improved Denoising Diffusion Probabilistic Models, 2021 (cosine betas,
    learned variance). https://arxiv.org/abs/2102.09672
"""

from __future__ import annotations

from ..errors import InputError
from .attention import cross_attention_modules
from .backbone import Backbone
from .cards import Card
from .codec import Pixels
from .conditioner import Text, TextStream
from .denoiser import UNet
from .family import Family, Parts

WINDOW = 77  # T5 reads longer texts, but IF was trained with this many tokens, the end's included


def build(parts: Parts, card: Card) -> Backbone:
    """IF's first stage of its parts.

    Raises:
        InputError: a U-Net of another stage, or of other channels.
    """
    unet = parts["unet"]
    channels = unet.config.in_channels
    if channels == 6:
        raise InputError(
            "the U-Net takes 6 channels, which is a super-resolution stage. It sees the image in "
            "its input, and cannot classify it; load the first stage."
        )
    if channels != 3 or unet.config.out_channels not in (3, 6):
        raise InputError(
            f"the U-Net takes {channels} channels and gives {unet.config.out_channels}; DeepFloyd "
            "IF takes 3 and gives 3, or 6 with a variance."
        )
    stream = TextStream(parts, window=WINDOW, start=False, lower=True, masked=True)
    denoiser = UNet(unet, parts["scheduler"], card.prediction)
    codec, text = Pixels(3, unet.config.sample_size), Text([stream], denoiser)
    return Backbone(card.name, codec, text, denoiser, attention=cross_attention_modules(unet))


FAMILY = Family(
    "deepfloyd",
    ("IFPipeline", "IFImg2ImgPipeline", "IFInpaintingPipeline"),
    {
        "unet": ("UNet2DConditionModel",),
        "text_encoder": ("T5EncoderModel",),
        "tokenizer": ("T5Tokenizer", "T5TokenizerFast"),
        "scheduler": (),
    },
    build,
    packages={"sentencepiece": "T5 reads its vocabulary with it"},
)
