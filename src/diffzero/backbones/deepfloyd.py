"""DeepFloyd IF's first stage, the open counterpart of Imagen's 64-pixel model.

Pixels are x_0: nothing is encoded. The text goes through T5, which has no start token, and the
U-Net attends to it beside the image itself. The U-Net also gives a variance for its sampler, in
channels of its own; no method here needs it, and it is dropped before anything else happens, so
that guidance never mixes variances.

The super-resolution stages see the small image as their input, so they have little left to say
about its class, and are refused.

References:
    Saharia et al., Photorealistic Text-to-Image Diffusion Models with Deep Language
    Understanding, 2022. https://arxiv.org/abs/2205.11487
    Nichol and Dhariwal, Improved Denoising Diffusion Probabilistic Models, 2021 (cosine betas,
    learned variance). https://arxiv.org/abs/2102.09672
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..attention import cross_attention_modules
from ..backbone import Condition, Limits, Prediction, TextBackbone, check_parametrisation
from ..errors import InputError
from ..schedule import DiscreteSchedule
from .stable_diffusion import check_room, replaced, special

WINDOW = 77  # T5 reads longer texts, but IF was trained with this many tokens, the end's included
PARTS = ("unet", "text_encoder", "tokenizer", "scheduler")


class DeepFloyd(TextBackbone):
    """A diffusers `IFPipeline` as a backbone. Safety checker and watermarker are not used.

    Prompts are lower-cased and stripped, as diffusers does without its optional cleaning, which
    removes markup and addresses that labels do not hold.

    Args:
        pipeline: The diffusers pipeline; its weights are used in place, not copied.
        name: For messages and records.
        parametrisation: What the U-Net predicts; read from the scheduler's config if None.

    Raises:
        InputError: the pipeline lacks a part, is not the first stage, or predicts something
            unknown.
    """

    def __init__(
        self, pipeline: Any, name: str = "deepfloyd-if", parametrisation: str | None = None
    ) -> None:
        from diffusers import DDPMScheduler

        for part in PARTS:
            if getattr(pipeline, part, None) is None:
                raise InputError(
                    f"{name}: the pipeline has no {part}. DeepFloyd IF needs {', '.join(PARTS)}; "
                    "load it with all of them."
                )
        self.name = name
        self.unet = pipeline.unet.eval()
        self.text_encoder = pipeline.text_encoder.eval()
        self.tokenizer = pipeline.tokenizer
        _check_channels(self.unet.config, name)
        config = pipeline.scheduler.config
        # The config is read as a DDPM's: samplers differ, the noise they undo does not.
        self.schedule: DiscreteSchedule = DiscreteSchedule(
            DDPMScheduler.from_config(config).alphas_cumprod
        )
        kind = parametrisation or config.get("prediction_type", "epsilon")
        self.parametrisation = check_parametrisation(kind)
        self.restrict = Limits.of(config)
        self.device, self.dtype = self.unet.device, self.unet.dtype
        side = self.unet.config.sample_size
        self.shape, self.image_size = (3, side, side), side
        self.grey_step = 2 / 255
        self.first_token, self.room = 0, WINDOW - 1
        self.unet.to(memory_format=torch.channels_last)

    def encode(self, images: Tensor) -> Tensor:
        """The pixels themselves."""
        return images

    def decode(self, x: Tensor) -> Tensor:
        """The pixels themselves, clipped to [-1, 1]."""
        return x.clamp(-1, 1)

    @torch.no_grad()
    def embed(self, prompts: list[str]) -> Condition:
        """Last hidden states of T5, `[n, 77, d]`.

        Raises:
            InputError: a prompt of more than 76 tokens.
        """
        check_room(self.tokenizer, prompts, self.name, self.room)
        return self.embed_tokens(self.pieces(prompts))

    def _states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Last hidden states `[n, 77, d]`; tokens do not read the padding."""
        ids, mask = ids.to(self.device), mask.to(self.device)
        return self.text_encoder(ids, attention_mask=mask)[0].to(self.dtype)

    def pieces(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text by itself, lower-cased."""
        lowered = [text.lower().strip() for text in texts]
        return [list(i) for i in self.tokenizer(lowered, add_special_tokens=False).input_ids]

    def token_vectors(self, ids: list[int]) -> Tensor:
        """Rows of T5's token embedding."""
        table = self.text_encoder.get_input_embeddings().weight
        return table[torch.tensor(ids, device=table.device)].detach()

    def embed_tokens(
        self,
        rows: list[list[int]],
        vectors: Tensor | None = None,
        places: list[int] | None = None,
    ) -> Condition:
        """Last hidden states of prompts given as token ids, see `TextBackbone`."""
        ids, mask = special(rows, self.room, self.tokenizer.pad_token_id, None, self.tokenizer)
        if vectors is None or places is None:
            with torch.no_grad():
                parts = zip(ids.split(64), mask.split(64), strict=True)
                return Condition({"text": torch.cat([self._states(i, m) for i, m in parts])})
        # T5's encoder may hold a module of its own for the shared table, and it is the one that
        # runs.
        embedding = self.text_encoder.encoder.embed_tokens
        with replaced(embedding, vectors, torch.tensor(places)):
            return Condition({"text": self._states(ids, mask)})

    def text_states(self, cond: Condition) -> Tensor:
        """The condition itself."""
        return cond.tensors["text"]

    def attention_modules(self) -> dict[str, Any]:
        """The U-Net's attention modules that hold keys of the text, image keys beside them."""
        return cross_attention_modules(self.unet)

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition) -> Prediction:
        """The U-Net at the fractional step `T t - 1`, its variance dropped."""
        alpha, sigma = self.schedule(t)
        output = self.unet(
            x_t.contiguous(memory_format=torch.channels_last),
            self.schedule.step(t).to(torch.float32),
            encoder_hidden_states=cond.tensors["text"],
            return_dict=False,
        )[0]
        return Prediction(x_t, output[:, : x_t.shape[1]], alpha, sigma, self.parametrisation)

    def signature(self, prompts: list[str]) -> list[Any]:
        """Token ids."""
        return [tuple(ids) for ids in self.pieces(prompts)]


def _check_channels(config: Any, name: str) -> None:
    """Refuse U-Nets that are not IF's first stage.

    Raises:
        InputError: other than 3 channels in, or other than 3 or 6 out.
    """
    if config.in_channels == 6:
        raise InputError(
            f"{name}: the U-Net takes 6 channels, which is a super-resolution stage. It sees the "
            "image in its input, and cannot classify it; load the first stage."
        )
    if config.in_channels != 3 or config.out_channels not in (3, 6):
        raise InputError(
            f"{name}: the U-Net takes {config.in_channels} channels and gives "
            f"{config.out_channels}; DeepFloyd IF takes 3 and gives 3, or 6 with a variance."
        )
