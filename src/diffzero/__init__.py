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
    "load": "models.load",
    "cards": "models.cards",
    "Card": "models.cards",
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
    "Race": "methods.race",
    "CLIP": "methods.clip",
    "Shortlist": "methods.compose",
    "Blend": "methods.compose",
    "HandOver": "methods.compose",
    "Hierarchy": "methods.hierarchy",
    "OpenSet": "methods.open_set",
    "explain": "methods.explain",
    "Explanation": "methods.explain",
    "Classifier": "classifier",
    "Scores": "classifier",
    "Backbone": "models.backbone",
    "Codec": "models.codec",
    "Conditioner": "models.conditioner",
    "Condition": "models.conditioner",
    "Denoiser": "models.denoiser",
    "Guided": "models.denoiser",
    "Prediction": "models.denoiser",
    "MixtureBackbone": "models.mixture",
    "ClipBackbone": "models.clip",
    "Schedule": "schedule",
    "DiscreteSchedule": "schedule",
    "LogSNRLinearSchedule": "schedule",
    "RectifiedFlowSchedule": "schedule",
    "DiffzeroError": "errors",
    "InputError": "errors",
}
__all__ = ["__version__", *_HOME]

if TYPE_CHECKING:
    from .classifier import Classifier, Scores
    from .errors import DiffzeroError, InputError
    from .images import load_image
    from .methods.clip import CLIP
    from .methods.compose import Blend, HandOver, Shortlist
    from .methods.cross_attention import CrossAttention
    from .methods.elbo import ELBO
    from .methods.explain import Explanation, explain
    from .methods.hierarchy import Hierarchy
    from .methods.latent_knn import LatentKNN
    from .methods.likelihood import Likelihood
    from .methods.noise_denoise import NoiseDenoise, NoiseDenoiseVote
    from .methods.open_set import OpenSet
    from .methods.race import Race
    from .methods.textual_inversion import TextualInversion
    from .methods.weighted import Weighted
    from .models.backbone import Backbone
    from .models.cards import Card, cards
    from .models.clip import ClipBackbone
    from .models.codec import Codec
    from .models.conditioner import Condition, Conditioner
    from .models.denoiser import Denoiser, Guided, Prediction
    from .models.load import load
    from .models.mixture import MixtureBackbone
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
