"""`pipeline`: the call that users of transformers know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .images import split_images
from .methods import make
from .prompts import check_labels


class ZeroShotPipeline:
    """A callable that ranks labels for images. Made by `pipeline`."""

    def __init__(self, model: Any, method: str, options: dict[str, Any]) -> None:
        from .models.load import load

        self.model, self.method, self.options = load(model), method, options

    def __call__(
        self,
        images: Any,
        candidate_labels: Sequence[str],
        hypothesis_template: str | Sequence[str] | None = None,
    ) -> list[dict[str, Any]] | list[list[dict[str, Any]]]:
        """Labels with probabilities, best first.

        Args:
            images: One image gives one ranking, many give a list of them.
            candidate_labels: The words to choose from.
            hypothesis_template: One prompt with `{}` for the label, or several.

        Returns:
            `[{"label", "score"}, ...]` sorted, the scores summing to 1.

        Raises:
            InputError: unusable labels, template or images.
        """
        options = dict(self.options)
        if hypothesis_template is not None:
            options["template"] = hypothesis_template
        names = check_labels(candidate_labels)
        classifier = make(self.method, self.model, options).fit(names)
        rankings = [ranked(names, p) for p in classifier.predict_proba(images)]
        return rankings[0] if _is_one(images) else rankings


def pipeline(model: Any = "tiny-sd", *, method: str = "elbo", **options: Any) -> ZeroShotPipeline:
    """A zero-shot classifier with the calling form of transformers' pipeline.

    Args:
        model: What `load` takes.
        method: Name of a method, see `diffzero methods`.
        options: The method's own arguments, such as `draws=64`.
    """
    return ZeroShotPipeline(model, method, options)


def ranked(names: Sequence[str], probabilities: Any) -> list[dict[str, Any]]:
    """`[{"label", "score"}, ...]`, best first."""
    pairs = sorted(zip(names, map(float, probabilities), strict=True), key=lambda p: -p[1])
    return [{"label": label, "score": score} for label, score in pairs]


def _is_one(images: Any) -> bool:
    sources = split_images(images)
    return len(sources) == 1 and not isinstance(images, list | tuple) and not _has_batch(images)


def _has_batch(images: Any) -> bool:
    return getattr(images, "ndim", 0) == 4
