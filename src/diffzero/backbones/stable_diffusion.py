"""Stable Diffusion 1.x and 2.x, and everything else in their on-disk format.

The image is encoded to the mean of the VAE's posterior (a sample would add noise that no class
explains), scaled as the VAE's config says, and compared in that latent space.

References:
    Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, 2021.
    https://arxiv.org/abs/2112.10752
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..backbone import Backbone, Condition, Prediction, check_parametrisation
from ..errors import InputError
from ..schedule import DiscreteSchedule


class StableDiffusion(Backbone):
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
        self.unet.to(memory_format=torch.channels_last)

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
        check_window(self.tokenizer, prompts, self.name)
        states = []
        for start in range(0, len(prompts), 256):
            batch = self.tokenizer(
                prompts[start : start + 256],
                padding="max_length",
                max_length=self.tokenizer.model_max_length,
                return_tensors="pt",
            )
            mask = None
            if getattr(self.text_encoder.config, "use_attention_mask", False):
                mask = batch.attention_mask.to(self.device)
            ids = batch.input_ids.to(self.device)
            states.append(self.text_encoder(ids, attention_mask=mask)[0].to(self.dtype))
        return Condition({"text": torch.cat(states)})

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


def check_window(tokenizer: Any, prompts: list[str], name: str) -> None:
    """Refuse prompts that the text encoder would cut.

    Raises:
        InputError: a prompt of more tokens than the window.
    """
    window = tokenizer.model_max_length
    for prompt, ids in zip(prompts, tokenizer(prompts, truncation=False).input_ids, strict=True):
        if len(ids) > window:
            raise InputError(
                f"{name} reads at most {window - 2} tokens; {prompt[:60]!r}... has "
                f"{len(ids) - 2}. Shorten the label or the template."
            )
