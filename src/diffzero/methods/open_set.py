"""Open sets: images of none of the classes, and images of several.

Every class is compared with the model's own belief about images in general, the empty prompt, over
the same draws `(t, eps)`:

    e_c = mean over draws of  w_t |eps - eps_hat(x_t, t, c)|^2,
    r_c = e_empty - e_c,

which with `weights="elbo"` is `log p(x | c) - log p(x)`. An image of none of the classes is one
whose largest ratio is small; a class is in the image, whatever else is, where its own ratio is
large.

References:
    Hendrycks and Gimpel, A Baseline for Detecting Misclassified and Out-of-Distribution Examples
    in Neural Networks, 2016. https://arxiv.org/abs/1610.02136
    Ren et al., Likelihood Ratios for Out-of-Distribution Detection, 2019.
    https://arxiv.org/abs/1906.02845
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..classifier import Scores
from ..errors import InputError
from ..options import NOTHING, number, option
from ..prompts import fill
from ..scoring.engine import Jobs, Outcome, Program, Subject
from .common import Classes
from .elbo import ELBO

NONE = "none of these"
THRESHOLD = 0.01  # on training images held out: 3 of 100 clothes below it, 3 of 100 others above


@dataclass(kw_only=True, eq=False, repr=False)
class OpenSet(ELBO):
    """Diffusion classifier that may say "none of these", or name several classes.

    Logits and probabilities are those of `ELBO` with the same arguments. `Scores.details["ratio"]`
    holds what `present` and `none` compare with the threshold: the ratio `r_c` of every class over
    the error of the empty prompt, so that it means the same for any size of `x_0`.

    Args:
        backbone: See `ELBO`; one whose model knows the empty prompt.
        threshold: Ratio that a class must reach to be in the image. If None, that of the model's
            card, or of `tiny-sd` where the card has none, which may not suit the model: see the
            guide.
    """

    threshold: float | None = option(None, number() | NOTHING)

    @classmethod
    def of(cls, classifier: ELBO, threshold: float | None = None) -> OpenSet:
        """With the arguments and the model of a classifier that need not be fitted."""
        own = classifier.get_params(deep=False)
        return cls(**own, threshold=threshold)

    def count_evals(self, n_labels: int) -> int:
        """That of `ELBO`, and one prompt more."""
        return super().count_evals(n_labels) + self.draws * (1 if self.guidance == 1 else 2)

    def present(self, scores: Scores) -> np.ndarray:
        """Which classes reach the threshold, bool `[b, k]`."""
        return scores.details["ratio"] >= self.threshold_in_use()

    def threshold_in_use(self) -> float:
        """The ratio that `present` asks for: the argument, else the card's, else the default."""
        own = (self.threshold, self.backbone_.none_threshold, THRESHOLD)
        return float(next(one for one in own if one is not None))

    def none(self, scores: Scores) -> np.ndarray:
        """Whether the best class of each image does not reach the threshold, bool `[b]`."""
        best = np.nanargmax(scores.logits, axis=1)
        return ~self.present(scores)[np.arange(len(best)), best]

    def _fit_classes(self) -> None:
        self._table = self._embedded(fill(self.templates_, self.names_))

    def _classes(self, n: int, labels: list[list[str]] | None) -> Classes:
        """The classes of each image, each with the empty prompt as the last row."""
        found = super()._classes(n, labels)
        assert found.table is not None
        table = found.table if labels is None else found.table + self._empty()
        last = len(table) - 1
        return Classes(found.names, [np.append(rows, last) for rows in found.rows], table)

    def _embedded(self, prompts: list[str]) -> Any:
        return self.backbone_.embed(prompts) + self._empty()

    def _empty(self) -> Any:
        try:
            return self.backbone_.embed([""])
        except InputError:
            raise InputError(
                f"{self.backbone_.name} has no unconditional branch to compare the words with, "
                f'so it cannot say "{NONE}". Leave out --none and --multi, or use a model that '
                "reads text, such as tiny-sd."
            ) from None

    def _program(self, subject: Subject, classes: Classes, image: int) -> Program:
        draws = np.arange(self.draws)
        t = self.times_of(subject.key, draws)
        said = yield Jobs.dense(classes.rows[image], draws, t)
        errors, empty = np.split(said.reshape(self.draws, -1), [-1], axis=1)
        cube = errors.reshape(self.draws, -1, len(self.templates_))
        # Every draw was given: NaN is what the network said of it, with or without words.
        logits = self._joined(cube, t, np.mean)
        without = float((self.times_.weight(t) * empty[:, 0]).mean())
        if not np.isfinite(without):
            logits = np.full_like(logits, np.nan)
        return Outcome(logits, {"ratio": (logits + without) / without}, extra=cube)
