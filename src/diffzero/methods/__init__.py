"""One file a method; each class docstring gives the formula, what a logit means and the cost."""

from __future__ import annotations

import inspect
from importlib import import_module
from numbers import Real
from typing import Any

from ..errors import InputError

METHODS = {
    "likelihood": ("likelihood", "Likelihood"),
    "latent-knn": ("latent_knn", "LatentKNN"),
    "noise-denoise": ("noise_denoise", "NoiseDenoise"),
    "noise-denoise-vote": ("noise_denoise", "NoiseDenoiseVote"),
    "cross-attention": ("cross_attention", "CrossAttention"),
    "textual-inversion": ("textual_inversion", "TextualInversion"),
    "weighted": ("weighted", "Weighted"),
    "elbo": ("elbo", "ELBO"),
    "clip": ("clip", "CLIP"),
}


def method_class(name: str) -> type:
    """The classifier class of a method's name.

    Raises:
        InputError: an unknown name.
    """
    if name not in METHODS:
        raise InputError(f"No method {name!r}; there are {', '.join(METHODS)}.")
    module, cls = METHODS[name]
    return getattr(import_module(f".{module}", __name__), cls)


def make(name: str, backbone: Any, options: dict[str, Any]) -> Any:
    """A classifier by method name.

    Raises:
        InputError: an unknown method, or an argument that it does not have.
    """
    cls = method_class(name)
    known = [p for p in inspect.signature(cls).parameters if p != "backbone"]
    for option in options:
        if option not in known:
            raise InputError(
                f"Method {name} has no argument {option!r}; it has {', '.join(known)}."
            )
        _check_kind(
            name, option, options[option], inspect.signature(cls).parameters[option].default
        )
    return cls(backbone, **options)


def _check_kind(method: str, option: str, value: Any, default: Any) -> None:
    """Refuse words where a number is wanted and numbers where a word is."""
    for kinds, wanted in (
        (bool, "True or False"),
        (Real, "a number"),
        (str, "a word"),
        (tuple, "several numbers, such as (0.3, 0.5)"),
    ):
        if isinstance(default, kinds):
            fits = (tuple, list) if kinds is tuple else kinds
            if not isinstance(value, fits):
                raise InputError(f"{option} of {method} takes {wanted}; got {value!r}.")
            return
