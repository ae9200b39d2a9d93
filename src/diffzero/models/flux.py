"""Flux.1 [dev] and [schnell]: a flow transformer on 2 x 2 patches of latents.

Its text is T5's last states, padding and all; CLIP gives one vector of the whole prompt. Both
networks are distilled. [dev] was distilled from a guided model and is told its guidance as a
number: 1 stands for none. [schnell] draws in one to four steps. Neither has an unconditional
branch.

The network casts time to its own precision before it multiplies it by 1000, so that in bfloat16 it
reads another time than it was told, e.g. 0.752 for 0.7503: `rounded` says which.

References:
    Black Forest Labs, https://github.com/black-forest-labs/flux
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from ..errors import InputError
from .attention import cross_attention_modules
from .backbone import Backbone
from .cards import Card
from .codec import Latents
from .conditioner import Condition, Encoded, Text, TextStream
from .denoiser import FlowNetwork
from .family import Family, Parts

WINDOWS = {True: 512, False: 256}  # tokens of T5: of [dev], which embeds guidance, and [schnell]
SIDE = 128  # of x_0 where the card says no resolution: 1024 pixels


class FluxText(Text):
    """T5, and CLIP's vector. Attention maps and learned words are T5's."""

    def join(self, found: list[Encoded]) -> dict[str, Tensor]:
        """T5's states and CLIP's vector."""
        return {"text": found[0][0], "pooled": found[1][1]}


class FluxTransformer(FlowNetwork):
    """Flux's network, which is given patches as a sequence, and their places."""

    guidance = 1.0

    def rounded(self, t: Tensor) -> Tensor:
        """`s` cast, times 1000, as the network computes it in its own precision."""
        return ((t.to(self.dtype) * 1000).float() / 1000).double()

    def _run(self, x: Tensor, s: Tensor, cond: Condition) -> Tensor:
        text = cond.tensors["text"]
        tokens = pixel_unshuffle(x, 2).flatten(2).transpose(1, 2)  # [b, h/2 w/2, 4 c]
        rows, columns = (torch.arange(n // 2, device=x.device) for n in x.shape[-2:])
        grid = torch.cartesian_prod(torch.zeros_like(rows[:1]), rows, columns).to(x.dtype)
        guided = self.network.config.guidance_embeds
        output = self.network(
            hidden_states=tokens,
            timestep=s.to(self.dtype),
            guidance=torch.full_like(s, self.guidance).float() if guided else None,
            pooled_projections=cond.tensors["pooled"],
            encoder_hidden_states=text,
            txt_ids=torch.zeros(text.shape[1], 3, device=x.device, dtype=x.dtype),
            img_ids=grid,
            return_dict=False,
        )[0]
        return pixel_shuffle(output.transpose(1, 2).unflatten(2, (len(rows), len(columns))), 2)


CAUTION = (
    "it was distilled from a guided network, so that its velocity is an expectation only as far "
    "as that goes: read scores as rankings, not as bounds of log-likelihoods."
)


def build(parts: Parts, card: Card) -> Backbone:
    """Flux.1 of its parts.

    Raises:
        InputError: networks that see an image in their input (Fill, Control).
    """
    network, vae = parts["transformer"], parts["vae"]
    taken, given = network.config.in_channels, 4 * vae.config.latent_channels
    if taken != given:
        raise InputError(
            f"the network takes {taken} channels and patches of the VAE's latents have {given}; "
            "Flux Fill and Control see an image in their input and cannot classify."
        )
    guided = network.config.guidance_embeds
    window = card.window or WINDOWS[guided]
    streams = [TextStream(parts, "_2", window=window, start=False), TextStream(parts)]
    denoiser = FluxTransformer(network)
    denoiser.guidance = card.guidance_value or 1.0
    return Backbone(
        card.name,
        Latents(vae, SIDE),
        FluxText(streams, denoiser),
        denoiser,
        attention=cross_attention_modules(network),
        halvings=1,
        unguided="Flux has no unconditional branch, so guidance must stay 1 (none).",
        distilled=not guided,
        caution=CAUTION if guided else None,
    )


FAMILY = Family(
    "flux",
    ("FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline"),
    {
        "transformer": ("FluxTransformer2DModel",),
        "vae": ("AutoencoderKL", "AutoencoderTiny"),
        "text_encoder": ("CLIPTextModel",),
        "text_encoder_2": ("T5EncoderModel",),
        "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
        "tokenizer_2": ("T5Tokenizer", "T5TokenizerFast"),
        "scheduler": (),
    },
    build,
    flow=True,
    packages={"sentencepiece": "T5 reads its vocabulary with it"},
)
