"""diffzero: any diffusion model as a zero-shot image classifier.

    import diffzero as dz
    clf = dz.ELBO(dz.load("tiny-sd"), draws=32).fit(["sneaker", "bag", "shirt"])
    clf.predict(["photo.jpg"]); clf.predict_proba(["photo.jpg"])

Names resolve on first use, so that `import diffzero` stays fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "load": "loading",
    "cards": "loading",
    "Card": "loading",
    "pipeline": "pipelines",
    "load_image": "images",
    "Likelihood": "methods.likelihood",
    "LatentKNN": "methods.latent_knn",
    "NoiseDenoise": "methods.noise_denoise",
    "NoiseDenoiseVote": "methods.noise_denoise",
    "CrossAttention": "methods.cross_attention",
    "TextualInversion": "methods.textual_inversion",
    "Weighted": "methods.weighted",
    "ELBO": "methods.elbo",
    "CLIP": "methods.clip",
    "Shortlist": "methods.compose",
    "Blend": "methods.compose",
    "HandOver": "methods.compose",
    "Classifier": "classifier",
    "Scores": "classifier",
    "Backbone": "backbone",
    "TextBackbone": "backbone",
    "Condition": "backbone",
    "Prediction": "backbone",
    "MixtureBackbone": "backbones.analytic",
    "DDPM": "backbones.ddpm",
    "DeepFloyd": "backbones.deepfloyd",
    "StableDiffusion": "backbones.stable_diffusion",
    "ClipBackbone": "backbones.clip",
    "Schedule": "schedule",
    "DiscreteSchedule": "schedule",
    "LogSNRLinearSchedule": "schedule",
    "RectifiedFlowSchedule": "schedule",
    "DiffzeroError": "errors",
    "InputError": "errors",
}
__all__ = ["__version__", *_HOME]

if TYPE_CHECKING:
    from .backbone import Backbone, Condition, Prediction, TextBackbone
    from .backbones.analytic import MixtureBackbone
    from .backbones.clip import ClipBackbone
    from .backbones.ddpm import DDPM
    from .backbones.deepfloyd import DeepFloyd
    from .backbones.stable_diffusion import StableDiffusion
    from .classifier import Classifier, Scores
    from .errors import DiffzeroError, InputError
    from .images import load_image
    from .loading import Card, cards, load
    from .methods.clip import CLIP
    from .methods.compose import Blend, HandOver, Shortlist
    from .methods.cross_attention import CrossAttention
    from .methods.elbo import ELBO
    from .methods.latent_knn import LatentKNN
    from .methods.likelihood import Likelihood
    from .methods.noise_denoise import NoiseDenoise, NoiseDenoiseVote
    from .methods.textual_inversion import TextualInversion
    from .methods.weighted import Weighted
    from .pipelines import pipeline
    from .schedule import (
        DiscreteSchedule,
        LogSNRLinearSchedule,
        RectifiedFlowSchedule,
        Schedule,
    )


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'diffzero' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
