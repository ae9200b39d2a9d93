"""Explanations: where in the image one class predicts the noise better than another.

The classes' logits of `ELBO` are sums over the places of `x_0`, so that their difference has a
map. With `x_t = alpha_t x_0 + sigma_t eps` and the channels of a place p summed,

    e(c, p) = |eps - eps_hat(x_t, t, c)|^2 at p,
    D(p)    = mean over draws of  w_t (e(b, p) - e(a, p)),

all classes seeing the same `(t, eps)`. Where D is positive the image looks more like a, where it
is negative more like b, and over all places it sums to `logit_a - logit_b`. The standard error of
each place is the deviation between draws over the square root of their number; since the times of
draws are spread evenly, it is rather too large than too small.

A place is a pixel of a pixel model, and a cell of the latents (8 x 8 pixels of Stable Diffusion)
of a latent one. A network looks at all of the image to predict one place, so that the map says
where the prediction gains, which is not always where its cause lies.

References:
    Kong et al., Interpretable Diffusion via Information Decomposition, 2023.
    https://arxiv.org/abs/2310.07972
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ..classifier import Progress
from ..errors import InputError
from ..models.backbone import Backbone
from ..scoring.denoising import Loss, elementwise, noised, pair_of
from ..scoring.engine import Batch, Jobs, Outcome, Program, Results, Subject
from .common import Classes
from .elbo import ELBO


@dataclass(frozen=True)
class Explanation:
    """Where an image looks like one class rather than another.

    Attributes:
        first: The class that positive places speak for.
        second: The class that negative places speak for.
        difference: D of every place, float64 `[h, w]`; its sum is the difference of the logits.
        error: The standard error of every place, float64 `[h, w]`.
        draws: Noise draws that were averaged.
        evals: Network evaluations spent on the map.
    """

    first: str
    second: str
    difference: np.ndarray
    error: np.ndarray
    draws: int
    evals: int

    def resized(self, side: int) -> Explanation:
        """The same map with `side` places a side, bilinear; values stay those of one place."""
        return replace(
            self, difference=resized(self.difference, side), error=resized(self.error, side)
        )


def explain(
    classifier: ELBO,
    images: Any,
    pairs: Sequence[tuple[str, str]] | None = None,
    progress: Progress | None = None,
) -> list[Explanation]:
    """The map of each image, first class against second.

    Args:
        classifier: An `ELBO` with one template, fitted unless `pairs` are given.
        images: One or many, as `scores` takes them.
        pairs: First and second class of each image, any words. If None, the two most probable
            of the fitted classes, which takes a classification first.
        progress: Called with the evaluations of each network batch.

    Returns:
        An `Explanation` per image, in their order.

    Raises:
        InputError: another kind of classifier, several templates, an unreadable image, pairs
            that do not match the images.
    """
    if not isinstance(classifier, ELBO):
        raise InputError(
            f"explain needs an ELBO classifier, got {type(classifier).__name__}. Its errors have "
            "a place in the image; those of other methods do not."
        )
    loaded = classifier._load(images)
    if pairs is None:
        proba = classifier.probabilities(classifier.scores(loaded, progress=progress))
        best = np.argsort(-proba, axis=1, kind="stable")[:, :2]
        pairs = [(classifier.names_[i], classifier.names_[j]) for i, j in best]
    outcomes = _Maps.of(classifier).outcomes(loaded, [list(pair) for pair in pairs], progress)
    return [
        Explanation(first, second, one.extra[0], one.extra[1], classifier.draws, one.evals)
        for (first, second), one in zip(pairs, outcomes, strict=True)
    ]


class _Maps(ELBO):
    """An ELBO whose errors keep their places."""

    templates_at_most = 1

    @classmethod
    def of(cls, classifier: ELBO) -> _Maps:
        """With the classifier's arguments and its loaded model."""
        every = classifier.get_params(deep=False)
        own = {name: every[name] for name in ELBO._get_param_names()}  # not those of its heirs
        return cls(**(own | {"backbone": getattr(classifier, "backbone_", own["backbone"])}))

    def outcomes(
        self, images: list[np.ndarray], pairs: list[list[str]], progress: Progress | None
    ) -> list[Outcome]:
        """Map and standard error of each image as the outcome's `extra`."""
        loaded, labels = self._inputs(images, pairs)
        return list(self._outcomes(loaded, self._classes(len(loaded), labels), progress))

    def _program(self, subject: Subject, classes: Classes, image: int) -> Program:
        draws = np.arange(self.draws)
        t = self.times_of(subject.key, draws)
        maps = yield Jobs.dense(classes.rows[image], draws, t)
        maps = (
            maps.reshape(self.draws, 2, *maps.shape[1:])
            * self.times_.weight(t)[:, None, None, None]
        )
        difference = maps[:, 1] - maps[:, 0]
        spread = difference.std(0, ddof=1) if self.draws > 1 else np.full(maps.shape[2:], np.inf)
        found = (difference.mean(0), spread / np.sqrt(self.draws))
        return Outcome(-maps.sum((2, 3)).mean(0), extra=found)

    def _evaluate(self, batch: Batch, classes: Classes) -> Results:
        maps = place_errors(self.model_, batch, classes, self.target, self.loss)
        return Results(maps, self.model_.denoiser.cost)


@torch.no_grad()
def place_errors(
    model: Backbone, batch: Batch, classes: Classes, target: Any, loss: Loss
) -> np.ndarray:
    """Errors of every row at every place of `x_0`, channels summed, float64 `[n, h, w]`."""
    x_0 = batch.x_0
    x_t, t, eps = noised(model, x_0, batch.t, batch.keys, batch.draw)
    prediction = model.forward(x_t, t, classes.of(batch))
    errors = elementwise(*pair_of(model, prediction, target, x_0, eps, t), loss)
    return errors.flatten(1, -3).sum(1).cpu().numpy()


def resized(values: np.ndarray, side: int) -> np.ndarray:
    """A map `[h, w]` with `side` places a side, bilinear, float64; itself where it has them."""
    from PIL import Image

    if values.shape == (side, side):
        return values
    image = Image.fromarray(values.astype(np.float32), mode="F")
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR), dtype=np.float64)
