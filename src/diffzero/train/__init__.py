"""Recipes of the small bundled models. Nothing but the command line imports this package."""

from collections.abc import Callable

from .presets import preset_of

__all__ = ["preset_of", "recipes"]


def recipes() -> dict[str, Callable[..., None]]:
    """The recipes of `diffzero train`, by name."""
    from functools import partial

    from . import clip, ddpm, deepfloyd, flow, ldm, photographs, stable_diffusion

    pixels = {name: partial(ddpm.train, name) for name in ddpm.PRESETS}
    texts = {
        "tiny-sd": stable_diffusion.train,
        "tiny-if": deepfloyd.train,
        "tiny-clip": clip.train,
        "tiny-flow": flow.train,
        "photos-sd": photographs.train,
    }
    return texts | pixels | {"cifar10-ldm": ldm.train}
