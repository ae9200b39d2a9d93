"""One file per method: the module gives the formula, the class what a logit means, its attributes
cost and needs."""

from __future__ import annotations

from dataclasses import fields
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from ..errors import InputError
from ..options import check_options, short

METHODS = {
    "likelihood": ("likelihood", "Likelihood"),
    "latent-knn": ("latent_knn", "LatentKNN"),
    "noise-denoise": ("noise_denoise", "NoiseDenoise"),
    "noise-denoise-vote": ("noise_denoise", "NoiseDenoiseVote"),
    "cross-attention": ("cross_attention", "CrossAttention"),
    "textual-inversion": ("textual_inversion", "TextualInversion"),
    "weighted": ("weighted", "Weighted"),
    "elbo": ("elbo", "ELBO"),
    "race": ("race", "Race"),
    "clip": ("clip", "CLIP"),
}


def method_class(name: str) -> Any:
    """The classifier class of a method's name.

    Raises:
        InputError: an unknown name.
    """
    if name not in METHODS:
        near = get_close_matches(name, METHODS, 1)
        hint = f"the nearest is {near[0]}, and " if near else ""
        raise InputError(f"No method {short(name)}; {hint}`diffzero methods` lists them.")
    module, cls = METHODS[name]
    return getattr(import_module(f".{module}", __name__), cls)


def make(name: str, backbone: Any, options: dict[str, Any]) -> Any:
    """A classifier by method name.

    Raises:
        InputError: an unknown method, or an argument that it does not have.
    """
    cls = method_class(name)
    known = [f.name for f in fields(cls) if f.name != "backbone"]
    for option in options:
        if option not in known:
            raise InputError(
                f"Method {name} has no argument {short(option)}; it has {', '.join(known)}."
            )
    made = cls(backbone, **options)
    check_options(made)
    return made
