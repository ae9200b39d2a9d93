"""Stable Diffusion 3 and 3.5: a transformer in which image and text attend to each other.

Its text is the last states but one of two CLIP encoders side by side, filled up with zeros to the
width of T5's, and then T5's last states. Padding is read like words, so that the number of T5's
tokens belongs to the model; where T5 was left out its tokens are zeros, and still there. Beside
it the network is told both CLIP encoders' projected vectors of the whole prompt.

References:
    Esser et al., Scaling Rectified Flow Transformers, 2024. https://arxiv.org/abs/2403.03206
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..errors import InputError
from .attention import cross_attention_modules
from .backbone import Backbone
from .cards import Card
from .codec import latents_for
from .conditioner import Condition, Encoded, Text, TextStream
from .denoiser import FlowNetwork
from .family import Family, Parts

WINDOW = 256  # of T5, as the pipeline has it


class SD3Text(Text):
    """Two CLIP encoders and, if it is there, T5. Learned words are CLIP's alone."""

    width, window = 4096, WINDOW  # of T5's states, and so of the network's text

    def join(self, found: list[Encoded]) -> dict[str, Tensor]:
        """`[n, CLIP's window + T5's, width]`, and the vectors of both CLIP encoders."""
        clip, pooled = torch.cat([f[0] for f in found[:2]], -1), [f[1] for f in found[:2]]
        clip = pad(clip, (0, self.width - clip.shape[-1]))
        t5 = found[2][0] if len(found) > 2 else clip.new_zeros(len(clip), self.window, self.width)
        return {"text": torch.cat([clip, t5], 1), "pooled": torch.cat(pooled, -1)}


class SD3Transformer(FlowNetwork):
    """Stable Diffusion 3's network, which reads time as 1000 s in float32."""

    def _run(self, x: Tensor, s: Tensor, cond: Condition) -> Tensor:
        return self.network(
            hidden_states=x,
            timestep=1000 * s.float(),
            encoder_hidden_states=cond.tensors["text"],
            pooled_projections=cond.tensors["pooled"],
            return_dict=False,
        )[0]


def build(parts: Parts, card: Card) -> Backbone:
    """Stable Diffusion 3 of its parts; T5 may be missing.

    Raises:
        InputError: networks that see an image in their input, or text encoders of other widths.
    """
    network, window = parts["transformer"], card.window or WINDOW
    config = network.config
    most = config.pos_embed_max_size * config.patch_size
    codec = latents_for(network, parts["vae"], min(config.sample_size, most), most)
    streams = [TextStream(parts, end, layer=-2) for end in ("", "_2")]
    pooled = sum(stream.encoder.config.projection_dim for stream in streams)
    clip = sum(stream.encoder.config.hidden_size for stream in streams)
    t5 = width = config.joint_attention_dim
    _check_third(parts)
    if "text_encoder_3" in parts and "tokenizer_3" in parts:
        streams.append(TextStream(parts, "_3", window=window, start=False))
        t5 = parts["text_encoder_3"].config.d_model
    if pooled != config.pooled_projection_dim or clip > width or t5 != width:
        raise InputError(
            f"the network reads text {width} wide and vectors of "
            f"{config.pooled_projection_dim}; these text encoders are not the ones it was "
            "trained with."
        )
    denoiser = SD3Transformer(network)
    text = SD3Text(streams, denoiser)
    text.width, text.window = width, window
    maps = cross_attention_modules(network)
    return Backbone(card.name, codec, text, denoiser, attention=maps, halvings=1)


def _check_third(parts: Parts) -> None:
    """Refuse T5 without its tokenizer, or the reverse, where the pipeline names both."""
    named = parts.get("pipeline", {})
    for part, other in (("text_encoder_3", "tokenizer_3"), ("tokenizer_3", "text_encoder_3")):
        if part in parts and other not in parts and any(named.get(other) or [None]):
            raise InputError(
                f"it has a {part} and lacks its {other}; fetch that, or leave out both, which "
                "is another text."
            )


FAMILY = Family(
    "sd3",
    tuple(f"StableDiffusion3{kind}Pipeline" for kind in ("", "Img2Img", "Inpaint", "PAG")),
    {
        "transformer": ("SD3Transformer2DModel",),
        "vae": ("AutoencoderKL", "AutoencoderTiny"),
        "text_encoder": ("CLIPTextModelWithProjection",),
        "text_encoder_2": ("CLIPTextModelWithProjection",),
        "text_encoder_3": ("T5EncoderModel",),
        "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
        "tokenizer_2": ("CLIPTokenizer", "CLIPTokenizerFast"),
        "tokenizer_3": ("T5Tokenizer", "T5TokenizerFast"),
        "scheduler": (),
    },
    build,
    flow=True,
    packages={"sentencepiece": "T5 reads its vocabulary with it"},
    optional=("text_encoder_3", "tokenizer_3"),
)
