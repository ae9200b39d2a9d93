"""Sana: a linear transformer on latents of 32 x 32 pixels a place, whose prompts Gemma reads.

Gemma reads an instruction and the prompt; the network is given the last states of the first token
and of what follows the instruction, with a mask. The empty prompt is read without one. Prompts are
lower-cased and stripped, as the pipeline does. The autoencoder is deterministic.

References:
    Xie et al., Sana, 2024. https://arxiv.org/abs/2410.10629
"""

from __future__ import annotations

from inspect import signature
from typing import Any

from torch import Tensor

from ..errors import InputError
from .backbone import Backbone
from .cards import Card
from .codec import latents_for
from .conditioner import Condition
from .denoiser import FlowNetwork
from .family import Family, Parts
from .language import LanguageText
from .texts import side_by_side

WINDOW = 300  # tokens of Gemma, the instruction apart


class SanaText(LanguageText):
    """Gemma's last states of instruction and prompt, without the instruction's."""

    def __init__(self, *args: Any) -> None:
        from diffusers import SanaPipeline

        super().__init__(*args)
        lines = signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
        self.before = "\n".join(lines)
        # The last token of the instruction stays: joined to the prompt it may be another one.
        self.skipped = len(self.stream.tokenizer(self.before).input_ids) - 2

    def framed(self, prompt: str) -> str:
        """The instruction and the prompt in lower case."""
        return self.before + prompt.lower().strip() if prompt else ""

    def cut(self, prompt: str) -> int:
        """All of the instruction but its last token."""
        return self.skipped if prompt else 0

    def mix(self, cond: Condition, weights: Tensor) -> Condition:
        """All prompts side by side, see `texts.side_by_side`."""
        return side_by_side(cond, weights)


class SanaTransformer(FlowNetwork):
    """Sana's network, which reads time as 1000 s, or as its `timestep_scale` of that."""

    def _run(self, x: Tensor, s: Tensor, cond: Condition) -> Tensor:
        output = self.network(
            x,
            encoder_hidden_states=cond.tensors["text"],
            timestep=1000 * self.network.config.timestep_scale * s.float(),
            encoder_attention_mask=cond.tensors["mask"],
            return_dict=False,
        )[0]
        return output[:, : x.shape[1]]  # some learned a variance beside it


def build(parts: Parts, card: Card) -> Backbone:
    """Sana of its parts.

    Raises:
        InputError: a network that sees an image in its input, or is told its guidance (Sprint).
    """
    network = parts["transformer"]
    codec = latents_for(network, parts["vae"])
    if network.config.guidance_embeds:
        raise InputError("its network is told its guidance, as Sana Sprint's is; load Sana.")
    denoiser = SanaTransformer(network)
    text = SanaText(parts, card.window or WINDOW, denoiser)
    return Backbone(card.name, codec, text, denoiser)


FAMILY = Family(
    "sana",
    ("SanaPipeline", "SanaPAGPipeline"),
    {
        "transformer": ("SanaTransformer2DModel",),
        "vae": ("AutoencoderDC",),
        "text_encoder": ("Gemma2Model", "Gemma2ForCausalLM"),
        "tokenizer": ("GemmaTokenizer", "GemmaTokenizerFast"),
        "scheduler": (),
    },
    build,
    flow=True,
)
