"""Codecs: from images in [-1, 1] to the network's `x_0`, and back.

A codec owns everything about that space: scaling, shift, the side that images must have, and the
precision that its own network needs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from copy import copy
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from ..errors import InputError
from ..options import Check, check_value, number, short, whole
from .limits import NETWORK_SIDE

SIDE = whole(1, NETWORK_SIDE)
SCALE = number(1e-6, 1e6)
SHIFT = Check("a finite number", number(-1e6, 1e6).fits)
AT_ONCE = 64  # images through a VAE in one call


class Codec(ABC):
    """Where `x_0` lives.

    Attributes:
        image_size: Side in pixels of the images that `encode` takes.
        shape: Of `x_0`, without the batch axis.
        grey_step: Width of a grey step in [-1, 1] of a pixel model's images; None in a latent
            space.
    """

    image_size: int
    shape: tuple[int, ...]
    grey_step: float | None = None

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Images `[b, 3, s, s]` in [-1, 1] to `x_0` `[b, *shape]`."""

    @abstractmethod
    def decode(self, x: Tensor) -> Tensor:
        """`x_0` `[b, *shape]` to images `[b, 3, s, s]` in [-1, 1]."""

    def resized(self, resolution: int, halvings: int) -> Self:
        """The same codec for images of another side in pixels.

        Args:
            resolution: The side.
            halvings: How often the denoiser halves the side of `x_0`.

        Raises:
            InputError: a codec that has but one size, or a side that cannot be halved so often.
        """
        if resolution == self.image_size:
            return self
        raise InputError(
            f"This model takes images of {self.image_size} pixels only; leave out resolution."
        )


class Pixels(Codec):
    """The pixels themselves, or each block of them as one place of more channels.

    Args:
        channels: 3, or 1 for a grey model, which sees the mean over colours.
        side: Side of the images in pixels.
        grey_step: Width of a grey step in [-1, 1].
        patch: Side of the blocks: `x_0` is `[channels patch^2, side / patch, side / patch]`. It
            is a mere reordering, so that densities are those of pixels.

    Raises:
        InputError: other numbers of channels, or a side that blocks do not fill.
    """

    def __init__(
        self, channels: int, side: Any, grey_step: float | None = 2 / 255, patch: int = 1
    ) -> None:
        side = square_side(side)
        if channels not in (1, 3) or side % patch:
            raise InputError(
                f"Images have 1 or 3 channels and a side that blocks of {patch} fill; got "
                f"{channels} channels and {side} pixels."
            )
        self.channels, self.patch, self.image_size = channels, patch, side
        self.shape = (channels * patch**2, side // patch, side // patch)
        self.grey_step = grey_step

    def encode(self, images: Tensor) -> Tensor:
        """The pixels; their mean over channels for a grey model."""
        x = images if self.channels == 3 else images.mean(1, keepdim=True)
        return pixel_unshuffle(x, self.patch)

    def decode(self, x: Tensor) -> Tensor:
        """The pixels, clipped, as RGB."""
        return clamp(pixel_shuffle(x, self.patch)).expand(-1, 3, -1, -1)


class Latents(Codec):
    """The mean of a VAE's posterior (a sample would add noise that no class explains), scaled.

        x_0 = (E(image) - shift) * scale,    image = D(x_0 / scale + shift).

    Some have a shift and a scale for each channel (`latents_mean`, `latents_std`). With a `patch`,
    blocks of so many places a side of what E gives are one place of `x_0` of more channels.

    Args:
        vae: An `AutoencoderKL`; an `AutoencoderDC`, which is deterministic; or an
            `AutoencoderTiny`, whose latents come already scaled.
        side: Side of `x_0`, what the denoiser was built for.
        most: Largest side of `x_0` that the denoiser can take; None for any.

    Raises:
        InputError: a scale that is not a finite number, or another kind of autoencoder.

    References:
        Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, 2021.
        https://arxiv.org/abs/2112.10752
    """

    patch = 1

    def __init__(self, vae: Any, side: Any, most: int | None = None) -> None:
        config = vae.config
        self.vae, side, self.most = vae.eval(), square_side(side), most
        self.tiny = type(vae).__name__ == "AutoencoderTiny"
        both = getattr(config, "block_out_channels", None)  # else encoder and decoder differ
        blocks = both or config.encoder_block_out_channels
        self.factor = 2 ** (len(blocks) - 1)
        # A tiny autoencoder is trained to give what the scaled latents of the large one are.
        self.scale: Any = 1.0 if self.tiny else config.scaling_factor
        self.shift: Any = 0.0 if self.tiny else getattr(config, "shift_factor", None) or 0.0
        check_value("The VAE's scaling_factor", self.scale, SCALE)
        check_value("The VAE's shift_factor", self.shift, SHIFT)
        self.shape: tuple[int, ...] = (config.latent_channels, side, side)
        self.image_size = side * self.factor
        mean, std = (getattr(config, f"latents_{name}", None) for name in ("mean", "std"))
        if mean is not None and std is not None and not self.tiny:
            self.shift, self.scale = by_channel(mean), self.scale / by_channel(std)
        if overflows(vae):
            self.vae.to(torch.float32)

    def resized(self, resolution: int, halvings: int) -> Self:
        """The same VAE for images of another side in pixels."""
        step = self.factor * 2**halvings
        if resolution < step or resolution % step:
            raise InputError(
                f"This model takes resolutions that are multiples of {step}; got {resolution}."
            )
        if self.most is not None and resolution > self.most * self.factor:
            raise InputError(
                f"This model knows places of at most {self.most * self.factor} pixels a side; got "
                f"{resolution}."
            )
        other = copy(self)
        other.image_size = resolution
        other.shape = (self.shape[0], resolution // self.factor, resolution // self.factor)
        return other

    def encode(self, images: Tensor) -> Tensor:
        """`(E(images) - shift) * scale`."""
        found = []
        for chunk in images.to(self.vae.device, self.vae.dtype).split(AT_ONCE):
            code = self.vae.encode(chunk)
            if self.tiny:
                found.append(code.latents)
            else:
                found.append(code.latent if hasattr(code, "latent") else code.latent_dist.mean)
        z = pixel_unshuffle(torch.cat(found), self.patch)
        return (z - _beside(self.shift, z)) * _beside(self.scale, z)

    def decode(self, x: Tensor) -> Tensor:
        """`D(x / scale + shift)`, clipped."""
        z = x.to(self.vae.device, self.vae.dtype)
        z = pixel_shuffle(z / _beside(self.scale, z) + _beside(self.shift, z), self.patch)
        return clamp(torch.cat([self.vae.decode(c).sample for c in z.split(AT_ONCE)]))


def overflows(vae: Any) -> bool:
    """Whether this VAE is in half precision and overflows there, which its config says."""
    return getattr(vae.config, "force_upcast", False) and vae.dtype != torch.float32


def clamp(x: Tensor, most: float = 1.0) -> Tensor:
    """`x` within `[-most, most]`; infinity becomes NaN, so that an overflow is never hidden."""
    return (x + 0 * x).clamp(-most, most)


def check_channels(taken: int, vae: Any) -> None:
    """Refuse a network that takes more than the VAE's latents.

    Raises:
        InputError: naming both numbers of channels.
    """
    given = vae.config.latent_channels
    if taken != given:
        raise InputError(
            f"the network takes {taken} channels and the VAE gives {given}; models that see an "
            "image in their input (inpainting, editing, control) cannot classify."
        )


def latents_for(network: Any, vae: Any, side: Any = None, most: int | None = None) -> Latents:
    """The latents that a network reads, of the side that its config says if none is given.

    Raises:
        InputError: a network that takes more than the VAE's latents.
    """
    check_channels(network.config.in_channels, vae)
    return Latents(vae, network.config.sample_size if side is None else side, most)


def by_channel(numbers: Any) -> Tensor:
    """One number per channel, `[c, 1, 1]`."""
    return torch.tensor(list(numbers), dtype=torch.float32).view(-1, 1, 1)


def _beside(scale: Any, like: Tensor) -> Any:
    """A number as it is, numbers per channel where the latents are."""
    return scale.to(like) if isinstance(scale, Tensor) else scale


def square_side(size: Any) -> int:
    """The side of a square given as a number or as a pair of equal ones, as configs have it.

    Raises:
        InputError: anything else.
    """
    pair = list(size) if isinstance(size, list | tuple) else [size]
    if not pair or not all(SIDE.fits(side) and side == pair[0] for side in pair):
        raise InputError(
            f"sample_size must be {SIDE.says}, or two that are equal; got {short(size)}."
        )
    return pair[0]
