"""Z-Image: a flow transformer that reads Qwen's states and the image as one sequence.

Qwen reads the prompt as a user's turn of a chat, the empty one too, and the network is given the
last states but one of the tokens that are there, of each prompt as many as it has. Its time runs
the other way, `1 - s`, and its output is `x_0 - eps`: both are turned round here. A guidance of g
in its pipeline is 1 + g elsewhere, and here. Turbo was distilled to draw in few steps, which no
configuration says; its card does.

References:
    Tongyi Lab, https://github.com/Tongyi-MAI/Z-Image
"""

from __future__ import annotations

import torch
from torch import Tensor

from .backbone import Backbone
from .cards import Card
from .codec import latents_for
from .conditioner import Condition
from .denoiser import FlowNetwork
from .family import Family, Parts
from .language import ChatText

WINDOW = 512  # tokens of Qwen, the chat's included
SIDE = 128  # of x_0 where the card says no resolution: 1024 pixels


class ZImageText(ChatText):
    """Qwen's last states but one."""

    layers, mixes, thinking = (-2,), False, True


class ZImageTransformer(FlowNetwork):
    """Z-Image's network, which is given lists: images of one frame, and captions unpadded."""

    def _run(self, x: Tensor, s: Tensor, cond: Condition) -> Tensor:
        pairs = zip(cond.tensors["text"], cond.tensors["mask"].bool(), strict=True)
        captions = [states[on] for states, on in pairs]
        output = self.network(list(x[:, :, None]), (1 - s).float(), captions, return_dict=False)[0]
        return -torch.stack(list(output))[:, :, 0]


def build(parts: Parts, card: Card) -> Backbone:
    """Z-Image of its parts.

    Raises:
        InputError: a network that sees an image in its input.
    """
    network = parts["transformer"]
    most = 2 * min(network.config.axes_lens[1:])  # places are of 2 x 2
    codec = latents_for(network, parts["vae"], min(SIDE, most), most)
    denoiser = ZImageTransformer(network)
    text = ZImageText(parts, card.window or WINDOW, denoiser)
    return Backbone(card.name, codec, text, denoiser, halvings=1)


FAMILY = Family(
    "z-image",
    ("ZImagePipeline", "ZImageImg2ImgPipeline"),
    {
        "transformer": ("ZImageTransformer2DModel",),
        "vae": ("AutoencoderKL", "AutoencoderTiny"),
        "text_encoder": ("Qwen3Model", "Qwen3ForCausalLM"),
        "tokenizer": ("Qwen2Tokenizer", "Qwen2TokenizerFast"),
        "scheduler": (),
    },
    build,
    flow=True,
)
