"""Stable Diffusion 1.x and 2.x, and everything else in their on-disk format.

The image is encoded to the mean of the VAE's posterior (a sample would add noise that no class
explains), scaled as the VAE's config says, and compared in that latent space.

References:
    Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, 2021.
    https://arxiv.org/abs/2112.10752
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch
from torch import Tensor

from ..attention import cross_attention_modules
from ..backbone import Condition, Prediction, TextBackbone, check_parametrisation
from ..errors import InputError
from ..schedule import DiscreteSchedule


class StableDiffusion(TextBackbone):
    """A `StableDiffusionPipeline` as a backbone: LoRA and fine-tunes included.

    Args:
        pipeline: The diffusers pipeline; its weights are used in place, not copied.
        name: For messages and records.
        parametrisation: What the U-Net predicts; read from the scheduler's config if None.

    Raises:
        InputError: the pipeline lacks a part, or predicts something unknown.
    """

    def __init__(
        self, pipeline: Any, name: str = "stable-diffusion", parametrisation: str | None = None
    ) -> None:
        from diffusers import DDPMScheduler

        for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
            if getattr(pipeline, part, None) is None:
                raise InputError(
                    f"{name}: the pipeline has no {part}. Stable Diffusion needs unet, vae, "
                    "text_encoder, tokenizer and scheduler."
                )
        self.name = name
        self.schedule: DiscreteSchedule
        self.unet = pipeline.unet.eval()
        self.vae = pipeline.vae.eval()
        self.text_encoder = pipeline.text_encoder.eval()
        self.tokenizer = pipeline.tokenizer
        config = pipeline.scheduler.config
        # The config is read as a DDPM's: samplers differ, the noise they undo does not.
        scheduler = DDPMScheduler.from_config(config)
        self.schedule = DiscreteSchedule(scheduler.alphas_cumprod)
        kind = parametrisation or config.get("prediction_type", "epsilon")
        self.parametrisation = check_parametrisation(kind)
        self.device, self.dtype = self.unet.device, self.unet.dtype
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        side = self.unet.config.sample_size
        self.shape = (self.unet.config.in_channels, side, side)
        self.image_size = side * factor
        if self.unet.config.in_channels != self.vae.config.latent_channels:
            raise InputError(
                f"{name}: the U-Net takes {self.unet.config.in_channels} channels and the VAE "
                f"gives {self.vae.config.latent_channels}; inpainting and editing models cannot "
                "classify."
            )
        self.first_token, self.room = 1, self.tokenizer.model_max_length - 2
        self.unet.to(memory_format=torch.channels_last)

    def resized(self, resolution: int) -> StableDiffusion:
        """The same network for images of another side in pixels.

        Raises:
            InputError: a side that the networks cannot halve as often as they do.
        """
        factor = self.image_size // self.shape[-1]
        step = factor * 2 ** (len(self.unet.config.block_out_channels) - 1)
        if resolution < step or resolution % step:
            raise InputError(
                f"{self.name} takes resolutions that are multiples of {step}; got {resolution}."
            )
        if resolution == self.image_size:
            return self
        other = copy(self)
        other.name, other.image_size = f"{self.name}@{resolution}", resolution
        other.temperatures = {}  # errors are summed over dimensions, of which there are others
        other.shape = (self.shape[0], resolution // factor, resolution // factor)
        return other

    def encode(self, images: Tensor) -> Tensor:
        """`(E(images).mean - shift) * scaling_factor`, `[b, 4, s/8, s/8]` for the real sizes."""
        config = self.vae.config
        mean = torch.cat([self.vae.encode(c).latent_dist.mean for c in images.split(64)])
        return (mean - (config.shift_factor or 0.0)) * config.scaling_factor

    def decode(self, x: Tensor) -> Tensor:
        """Images in [-1, 1], clipped."""
        config = self.vae.config
        z = x / config.scaling_factor + (config.shift_factor or 0.0)
        return torch.cat([self.vae.decode(c).sample for c in z.split(64)]).clamp(-1, 1)

    @torch.no_grad()
    def embed(self, prompts: list[str]) -> Condition:
        """Last hidden states of the text encoder, `[n, window, d]`."""
        check_room(self.tokenizer, prompts, self.name, self.room)
        states = []
        for start in range(0, len(prompts), 256):
            batch = self.tokenizer(
                prompts[start : start + 256],
                padding="max_length",
                max_length=self.tokenizer.model_max_length,
                return_tensors="pt",
            )
            states.append(self._states(batch.input_ids, batch.attention_mask))
        return Condition({"text": torch.cat(states)})

    def _states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Last hidden states `[n, window, d]`, masked where the encoder's config says so."""
        used = getattr(self.text_encoder.config, "use_attention_mask", False)
        given = mask.to(self.device) if used else None
        return self.text_encoder(ids.to(self.device), attention_mask=given)[0].to(self.dtype)

    def pieces(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text by itself."""
        return [list(i) for i in self.tokenizer(texts, add_special_tokens=False).input_ids]

    def token_vectors(self, ids: list[int]) -> Tensor:
        """Rows of the text encoder's token embedding."""
        table = self.text_encoder.get_input_embeddings().weight
        return table[torch.tensor(ids, device=table.device)].detach()

    def embed_tokens(
        self,
        rows: list[list[int]],
        vectors: Tensor | None = None,
        places: list[int] | None = None,
    ) -> Condition:
        """Last hidden states of prompts given as token ids, see `TextBackbone`."""
        tokens = self.tokenizer
        ids, mask = special(rows, self.room, tokens.pad_token_id, tokens.bos_token_id, tokens)
        if vectors is None or places is None:
            with torch.no_grad():
                parts = zip(ids.split(256), mask.split(256), strict=True)
                return Condition({"text": torch.cat([self._states(i, m) for i, m in parts])})
        where = torch.tensor(places) + self.first_token
        with replaced(self.text_encoder.get_input_embeddings(), vectors, where):
            return Condition({"text": self._states(ids, mask)})

    def text_states(self, cond: Condition) -> Tensor:
        """The condition itself."""
        return cond.tensors["text"]

    def attention_modules(self) -> dict[str, Any]:
        """The U-Net's `attn2` modules."""
        return cross_attention_modules(self.unet)

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition) -> Prediction:
        """The U-Net at the fractional step `T t - 1`."""
        alpha, sigma = self.schedule(t)
        output = self.unet(
            x_t.contiguous(memory_format=torch.channels_last),
            self.schedule.step(t).to(torch.float32),
            encoder_hidden_states=cond.tensors["text"],
            return_dict=False,
        )[0]
        return Prediction(x_t, output, alpha, sigma, self.parametrisation)

    def signature(self, prompts: list[str]) -> list[Any]:
        """Token ids."""
        return [tuple(ids) for ids in self.tokenizer(prompts).input_ids]


def special(
    rows: list[list[int]], room: int, pad: int, start: int | None, tokenizer: Any
) -> tuple[Tensor, Tensor]:
    """Ids and mask `[n, window]` of prompts, with start, end and padding as the tokenizer's.

    Raises:
        InputError: a row of more than `room` ids.
    """
    head = [] if start is None else [start]
    window = len(head) + room + 1
    ids = torch.full((len(rows), window), pad)
    mask = torch.zeros_like(ids)
    for line, on, row in zip(ids, mask, rows, strict=True):
        if len(row) > room:
            raise InputError(
                f"A prompt of {len(row)} tokens does not fit the text encoder's {room}. "
                "Use shorter or fewer words."
            )
        whole = torch.tensor([*head, *row, tokenizer.eos_token_id])
        line[: len(whole)], on[: len(whole)] = whole, 1
    return ids, mask


@contextmanager
def replaced(embedding: Any, vectors: Tensor, where: Tensor) -> Iterator[None]:
    """While this holds, token `where[i]` of row i is embedded as `vectors[i]`."""

    def hook(module: Any, inputs: tuple, output: Tensor) -> Tensor:
        place = torch.arange(output.shape[1], device=output.device)
        chosen = (place == where.to(output.device)[:, None])[..., None]
        return torch.where(chosen, vectors.to(output)[:, None], output)

    handle = embedding.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def check_room(tokenizer: Any, prompts: list[str], name: str, room: int) -> None:
    """Refuse prompts that the text encoder would cut.

    Raises:
        InputError: a prompt of more than `room` tokens, special ones apart.
    """
    rows = tokenizer(prompts, truncation=False, add_special_tokens=False).input_ids
    for prompt, ids in zip(prompts, rows, strict=True):
        if len(ids) > room:
            raise InputError(
                f"{name} reads at most {room} tokens; {prompt[:60]!r}... has {len(ids)}. "
                "Shorten the label or the template."
            )
