"""Class-conditional pixel diffusion: any diffusers `UNet2DModel` with class labels.

The words such a model knows are the names of its classes. They live in the card (`classes` in
`card.yaml`), since the network's own config has only their number.

References:
    Ho et al., Denoising Diffusion Probabilistic Models, 2020. https://arxiv.org/abs/2006.11239
    Ho and Salimans, Classifier-Free Diffusion Guidance, 2022. https://arxiv.org/abs/2207.12598
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ..backbone import Backbone, Condition, Limits, Prediction, check_parametrisation
from ..errors import InputError
from ..schedule import DiscreteSchedule


class DDPM(Backbone):
    """A `UNet2DModel` with its noise schedule as a backbone.

    Args:
        unet: The network; its weights are used in place, not copied.
        scheduler: Any diffusers scheduler with betas: samplers differ, the noise they undo does
            not.
        classes: Names of the classes in the order of the embedding. If the embedding has one row
            more, that row is the null class of classifier-free guidance. "0", "1", ... if None.
        name: For messages and records.
        parametrisation: What the U-Net predicts; read from the scheduler's config if None.

    Raises:
        InputError: a network without class labels, or names that do not fit their number.
    """

    template = "{}"

    def __init__(
        self,
        unet: Any,
        scheduler: Any,
        classes: Sequence[str] | None = None,
        name: str = "ddpm",
        parametrisation: str | None = None,
    ) -> None:
        from diffusers import DDPMScheduler

        rows = unet.config.num_class_embeds
        if not rows:
            raise InputError(
                f"{name}: the U-Net has no class labels (num_class_embeds), so it cannot tell "
                "classes apart. Use a class-conditional model."
            )
        self.classes = [str(i) for i in range(rows)] if classes is None else list(classes)
        if rows - len(self.classes) not in (0, 1):
            raise InputError(
                f"{name}: the U-Net embeds {rows} classes and the card names "
                f"{len(self.classes)}; name all, or all but the null class."
            )
        self.name = name
        self.null_class = len(self.classes) if rows > len(self.classes) else None
        self.unet = unet.eval()
        config = scheduler.config
        self.schedule: DiscreteSchedule = DiscreteSchedule(
            DDPMScheduler.from_config(config).alphas_cumprod
        )
        kind = parametrisation or config.get("prediction_type", "epsilon")
        self.parametrisation = check_parametrisation(kind)
        self.device, self.dtype = unet.device, unet.dtype
        side, self.channels = unet.config.sample_size, unet.config.in_channels
        if not isinstance(side, int) or self.channels not in (1, 3):
            raise InputError(
                f"{name}: needs square images of 1 or 3 channels; got sample_size {side} and "
                f"{self.channels} channels."
            )
        self.shape, self.image_size = (self.channels, side, side), side
        self.grey_step = 2 / 255
        self.restrict = Limits.of(config)
        self.unet.to(memory_format=torch.channels_last)

    def encode(self, images: Tensor) -> Tensor:
        """The pixels themselves; their mean over channels for a grey model."""
        return images if self.channels == 3 else images.mean(1, keepdim=True)

    def decode(self, x: Tensor) -> Tensor:
        """The pixels themselves, clipped, as RGB."""
        return x.clamp(-1, 1).expand(-1, 3, -1, -1)

    def embed(self, prompts: list[str]) -> Condition:
        """Class numbers `[n]`; the null class for the empty prompt.

        Raises:
            InputError: a word that is not one of the classes, or no null class.
        """
        rows = torch.empty(len(prompts), dtype=torch.long, device=self.device)
        for i, prompt in enumerate(prompts):
            if prompt in self.classes:
                rows[i] = self.classes.index(prompt)
            elif prompt == "" and self.null_class is not None:
                rows[i] = self.null_class
            elif prompt == "":
                raise InputError(f"{self.name} has no null class, so guidance must stay 1 (none).")
            else:
                raise InputError(
                    f"{self.name} has no class {prompt!r}; it has {', '.join(self.classes)}."
                )
        return Condition({"class": rows})

    def mix(self, cond: Condition, weights: Tensor) -> Condition:
        """`sum_c w_c e_c` of the class embeddings, which stand in for a class number.

        Raises:
            InputError: a network whose class embedding is not a table.
        """
        if not isinstance(self.unet.class_embedding, torch.nn.Embedding):
            raise InputError(f"{self.name} embeds classes by a function, which cannot be mixed.")
        table = self.unet.class_embedding.weight.detach()[cond.tensors["class"]]
        return Condition({"embedding": weights.to(table.dtype) @ table})

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition) -> Prediction:
        """The U-Net at the fractional step `T t - 1`."""
        alpha, sigma = self.schedule(t)
        soft = cond.tensors.get("embedding")
        rows = cond.tensors["class"] if soft is None else torch.zeros_like(t, dtype=torch.long)
        with nullcontext() if soft is None else _embedded_as(self.unet.class_embedding, soft):
            output = self.unet(
                x_t.contiguous(memory_format=torch.channels_last),
                self.schedule.step(t).to(torch.float32),
                class_labels=rows,
                return_dict=False,
            )[0]
        return Prediction(x_t, output, alpha, sigma, self.parametrisation)


@contextmanager
def _embedded_as(embedding: torch.nn.Module, vectors: Tensor) -> Iterator[None]:
    """While this holds, the class embedding gives these vectors."""
    handle = embedding.register_forward_hook(lambda module, inputs, output: vectors)
    try:
        yield
    finally:
        handle.remove()
