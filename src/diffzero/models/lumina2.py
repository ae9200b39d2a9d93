"""Lumina Image 2: a flow transformer that reads Gemma's states and the image as one sequence.

Gemma reads a system prompt before the prompt, none before the empty one, and the network is given
its last states but one, with a mask. Its time runs the other way, `1 - s`, and its output is
`x_0 - eps`: both are turned round here.

References:
    Qin et al., Lumina-Image 2.0, 2025. https://arxiv.org/abs/2503.21758
"""

from __future__ import annotations

from torch import Tensor

from .backbone import Backbone
from .cards import Card
from .codec import latents_for
from .conditioner import Condition
from .denoiser import FlowNetwork
from .family import Family, Parts
from .language import LanguageText

WINDOW = 256  # tokens of Gemma, the system prompt included
SYSTEM = (  # what the network was trained with, word for word
    "You are an assistant designed to generate superior images with the superior degree of "
    "image-text alignment based on textual prompts or user prompts."
)


class LuminaText(LanguageText):
    """Gemma's last states but one."""

    layers, mixes = (-2,), False

    def framed(self, prompt: str) -> str:
        """The system prompt, a mark and the prompt; nothing around the empty one."""
        return f"{SYSTEM} <Prompt Start> {prompt}" if prompt else ""


class LuminaTransformer(FlowNetwork):
    """Lumina's network."""

    def _run(self, x: Tensor, s: Tensor, cond: Condition) -> Tensor:
        return -self.network(
            x,
            timestep=(1 - s).float(),
            encoder_hidden_states=cond.tensors["text"],
            encoder_attention_mask=cond.tensors["mask"],
            return_dict=False,
        )[0]


def build(parts: Parts, card: Card) -> Backbone:
    """Lumina Image 2 of its parts.

    Raises:
        InputError: a network that sees an image in its input.
    """
    network, config = parts["transformer"], parts["transformer"].config
    most = config.patch_size * min(config.axes_lens[1:])
    codec = latents_for(network, parts["vae"], min(config.sample_size, most), most)
    denoiser = LuminaTransformer(network)
    text = LuminaText(parts, card.window or WINDOW, denoiser)
    return Backbone(card.name, codec, text, denoiser, halvings=1)


FAMILY = Family(
    "lumina2",
    ("Lumina2Pipeline", "Lumina2Text2ImgPipeline"),
    {
        "transformer": ("Lumina2Transformer2DModel",),
        "vae": ("AutoencoderKL", "AutoencoderTiny"),
        "text_encoder": ("Gemma2Model", "Gemma2ForCausalLM"),
        "tokenizer": ("GemmaTokenizer", "GemmaTokenizerFast"),
        "scheduler": (),
    },
    build,
    flow=True,
)
