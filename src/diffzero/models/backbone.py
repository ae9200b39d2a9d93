"""Backbones: codec x conditioner x denoiser, one frozen model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from ..errors import InputError, said
from ..schedule import Schedule
from .codec import Codec
from .conditioner import Condition, Conditioner
from .denoiser import Denoiser, Guided, Prediction
from .texts import Remembered

Settings = Mapping[str, Any]
# What a row's activations take at each place of x_0, in numbers: generous for transformers
# (2 x 2 places are a token), about right for the finest level of a U-Net. Not measured.
PLACE_NUMBERS = 2**15


@dataclass(frozen=True)
class Temperature:
    """Temperatures fitted for one method with one set of its arguments.

    Attributes:
        method: Name of the method.
        settings: Its arguments when they were fitted, but for the number of draws.
        fitted: Temperature by number of draws.
    """

    method: str
    settings: Settings
    fitted: Mapping[int, float]


@dataclass
class Backbone:
    """A frozen diffusion model.

    Attributes:
        name: For messages and records.
        codec: Images to `x_0` and back.
        conditioner: Prompts to conditions.
        denoiser: The network.
        template: Prompt of a class when the user names none.
        temperatures: Fitted temperatures, if the card has any.
        none_threshold: Ratio that a class must reach to be in an image, see `OpenSet`; None where
            none was fitted for this model.
        vocabulary: Words the model was trained with, or None when it knows more than can be
            listed.
        attention: The network's modules that attend to text, by name, in the order of
            `named_modules`; empty for a model that reads no text.
        halvings: How often the network halves the side of `x_0`.
        unguided: Why there can be no classifier-free guidance, as a sentence; None if it works.
        distilled: The network was trained to draw in few steps, see `Card`.
        caution: What makes the output no more than roughly an expectation, as a sentence;
            methods that take it for one warn with it. None if nothing does.
    """

    name: str
    codec: Codec
    conditioner: Conditioner
    denoiser: Denoiser
    template: str = "a photo of a {}"
    temperatures: tuple[Temperature, ...] = ()
    none_threshold: float | None = None
    vocabulary: frozenset[str] | None = None
    attention: dict[str, Any] = field(default_factory=dict)
    halvings: int = 0
    unguided: str | None = None
    distilled: bool = False
    caution: str | None = None

    @property
    def schedule(self) -> Schedule:
        """alpha and sigma of time."""
        return self.denoiser.schedule

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.denoiser.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the network's weights and of `x_t`."""
        return self.denoiser.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Of `x_0`, without the batch axis."""
        return self.codec.shape

    @property
    def image_size(self) -> int:
        """Side in pixels of the images that `encode` takes."""
        return self.codec.image_size

    @property
    def grey_step(self) -> float | None:
        """Width of a grey step in [-1, 1] of a pixel model's images; None in a latent space."""
        return self.codec.grey_step

    @property
    def classes(self) -> list[str] | None:
        """Names of the classes of a class-conditional model; None for one that reads text."""
        return self.conditioner.classes

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Images `[b, 3, s, s]` in [-1, 1] to `x_0` `[b, *shape]`, ready for the network."""
        with running(self.name, "image encoder"):
            return self.codec.encode(images.to(self.device)).to(self.device, self.dtype)

    @torch.no_grad()
    def decode(self, x: Tensor) -> Tensor:
        """`x_0` `[b, *shape]` to images `[b, 3, s, s]` in [-1, 1]."""
        with running(self.name, "image decoder"):
            return self.codec.decode(x)

    def embed(self, prompts: list[str]) -> Condition:
        """One condition row per prompt; the empty prompt is the unconditional model.

        Raises:
            InputError: a prompt that the model cannot take.
        """
        with naming(self.name), running(self.name, "text encoder"):
            return self.conditioner.embed(prompts)

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition) -> Prediction:
        """One prediction per row: `x_t` `[b, *shape]`, `t` `[b]` in [0, 1]."""
        with running(self.name, "network"):
            return self.denoiser(x_t, t, cond)

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """`(alpha, sigma)`, float64, of what the network takes for the time `t`, see
        `Denoiser.rounded`."""
        return self.schedule(self.denoiser.rounded(t))

    def guided(self, guidance: float) -> Self:
        """The same model under classifier-free guidance; a scale of 1 is none.

        Raises:
            InputError: a model without an unconditional branch.
        """
        if guidance == 1:
            return self
        if self.unguided is not None:
            raise InputError(f"{self.name}: {self.unguided}")
        other = copy(self)
        other.denoiser = Guided(self.denoiser, self.embed([""]), guidance)
        return other

    def resized(self, resolution: int) -> Self:
        """The same network for images of another side in pixels.

        Raises:
            InputError: a side that codec and network cannot take.
        """
        with naming(self.name):
            codec = self.codec.resized(resolution, self.halvings)
        if codec is self.codec:
            return self
        other = copy(self)
        other.name, other.codec = f"{self.name}@{resolution}", codec
        # Errors are summed over dimensions, of which there are others: no temperature fits.
        other.temperatures = ()
        return other

    def signature(self, prompts: list[str]) -> list[object]:
        """Equal for two prompts exactly when the model cannot tell them apart."""
        return self.conditioner.signature(prompts)

    def networks(self) -> dict[str, Any]:
        """The parts that have weights, by name."""
        own = {
            "network": getattr(self.denoiser, "network", None),
            "vae": getattr(self.codec, "vae", None),
        }
        for i, stream in enumerate(getattr(self.conditioner, "streams", [])):
            own["text encoder" if i == 0 else f"text encoder {i + 1}"] = stream.encoder
        return {name: part for name, part in own.items() if part is not None}

    def release_text_encoders(self, prompts: list[str]) -> None:
        """Embed these prompts and let go of the text encoders, which may be larger than the
        network.

        From then on the model reads no other prompts. Guidance needs the empty prompt among them.

        Args:
            prompts: Whole prompts, templates filled in.

        Raises:
            InputError: a prompt that the model cannot take, or a model that reads no text.
        """
        with naming(self.name):
            self.conditioner = Remembered(self.conditioner, prompts)

    def default_batch_size(self) -> int:
        """Rows per network call when the user names no number: on a GPU, as many as its free
        memory is expected to hold."""
        if self.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.device)
            return rows_that_fit(free, self.shape, self.dtype)
        numel = int(torch.Size(self.shape).numel())
        return max(8, min(64, 2**15 // numel))


def rows_that_fit(free: int, shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Rows of `x_0` of this shape whose activations fit so many bytes, from 1 to 64."""
    row = int(torch.Size(shape[1:]).numel()) * PLACE_NUMBERS * dtype.itemsize
    return max(1, min(64, int(0.8 * free) // row))


@contextmanager
def running(name: str, part: str) -> Iterator[None]:
    """What a part of a model raises when its configuration does not fit it, as one sentence.

    Raises:
        InputError: naming the part and what it said; memory that runs out stays what it is.
    """
    try:
        yield
    except (InputError, MemoryError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, ArithmeticError) as error:
        raise InputError(
            f"{name}: its {part} does not run on this input: {said(error)}. If it was moved or "
            "cast after it was loaded, load it again; else its parts may not belong together: "
            "fetch it again."
        ) from error


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Puts a model's name before the message of an `InputError`."""
    try:
        yield
    except InputError as error:
        if str(error).startswith(name):
            raise
        raise InputError(f"{name}: {error}") from None
