"""DeepFloyd IF's second stage: a small picture in, a large one out. It shows, and classifies
nothing.

References:
    Saharia et al., 2022, section 2.3 (cascades with noise conditioning augmentation).
    https://arxiv.org/abs/2205.11487
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .backbone import Backbone

# Parts of the pipeline that are not loaded.
LEFT = ("tokenizer", "text_encoder", "safety_checker", "feature_extractor", "watermarker")


class SuperResolution:
    """Enlarges what a first stage made, under the same captions.

    Args:
        pipeline: An `IFSuperResolutionPipeline`; the text comes from the first stage, so that it
            needs neither tokenizer nor text encoder.
        name: For messages.

    Raises:
        InputError: a U-Net that is no super-resolution stage.
    """

    def __init__(self, pipeline: Any, name: str = "deepfloyd-if-ii") -> None:
        config = pipeline.unet.config
        if config.in_channels != 6:
            raise InputError(
                f"{name}: the U-Net takes {config.in_channels} channels; a super-resolution stage "
                "takes 6, the noisy image and the small one."
            )
        self.pipeline, self.name = pipeline, name

    @classmethod
    def load(cls, source: str | Path, device: str = "cpu") -> SuperResolution:
        """From a folder or a hub id, safetensors only; text encoder and watermarker stay there.

        Raises:
            InputError: no such model, or one that is no super-resolution stage.
        """
        from diffusers import DDPMScheduler, IFSuperResolutionPipeline, UNet2DConditionModel

        from .quiet import quiet

        where = str(source)
        try:
            with quiet():
                unet = UNet2DConditionModel.from_pretrained(
                    where, subfolder="unet", use_safetensors=True
                )
                schedulers = {
                    name: DDPMScheduler.from_pretrained(where, subfolder=name)
                    for name in ("scheduler", "image_noising_scheduler")
                }
                pipeline = IFSuperResolutionPipeline(
                    unet=unet, **schedulers, **dict.fromkeys(LEFT), requires_safety_checker=False
                ).to(device)
        except OSError as error:
            raise InputError(
                f"{where}: not a super-resolution stage in diffusers' format, with unet, "
                f"scheduler and image_noising_scheduler ({str(error).splitlines()[0]})."
            ) from None
        return cls(pipeline, where)

    @torch.no_grad()
    def enlarge(
        self,
        images: Tensor,
        prompts: list[str],
        first: Backbone,
        *,
        steps: int = 50,
        guidance: float = 4.0,
        noise_level: int = 250,
        seed: int = 0,
    ) -> Tensor:
        """Large versions `[b, 3, side, side]` of small images, both in [-1, 1].

        Args:
            images: `[b, 3, s, s]`.
            prompts: What each shows.
            first: The first stage, whose text encoder reads them.
            steps: Of the scheduler.
            guidance: Of the classifier-free kind; 1 is none.
            noise_level: Step of the noise that the small image is given, 0 to 999: the more, the
                less of it is kept.
            seed: Of all noise.

        Raises:
            InputError: another number of prompts than images, or a text encoder of another width
                than this stage was trained with.
        """
        if len(prompts) != len(images):
            raise InputError(f"{len(images)} images need as many prompts; got {len(prompts)}.")
        unet = self.pipeline.unet
        text = first.embed(list(prompts)).tensors["text"].to(unet.device, unet.dtype)
        width = unet.config.encoder_hid_dim or unet.config.cross_attention_dim
        if text.shape[-1] != width:
            raise InputError(
                f"{self.name} reads text of width {width}, and {first.name} gives "
                f"{text.shape[-1]}. Take the stages of one family."
            )
        blank = first.embed([""]).tensors["text"].to(text).expand_as(text)
        self.pipeline.set_progress_bar_config(disable=True)
        made = self.pipeline(
            image=images.to(unet.device, unet.dtype),
            prompt_embeds=text,
            negative_prompt_embeds=blank.contiguous(),
            num_inference_steps=steps,
            guidance_scale=guidance,
            noise_level=noise_level,
            generator=torch.Generator().manual_seed(seed),
            output_type="pt",
        )
        return made.images.float().clamp(-1, 1)
