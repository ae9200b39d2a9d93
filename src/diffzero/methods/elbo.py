"""ELBO, the "diffusion classifier": the class under which the noise is predicted best.

Classes `c` are compared by a weighted denoising error of the image `x_0`,

    logit_c = - mean over draws of  w_t ||eps - eps_hat(x_t, t, c)||^2,
    x_t = alpha_t x_0 + sigma_t eps,

where all classes see the same `(t, eps)`. With `w = 1/2 |d lambda / dt|` this is the evidence
lower bound, and for the exact denoiser `log p(x_0 | c)` itself, up to a constant of the image.

References:
    Li et al., Your Diffusion Model is Secretly a Zero-Shot Classifier, 2023.
    https://arxiv.org/abs/2303.16203
    Clark and Jaini, Text-to-Image Diffusion Models are Zero-Shot Classifiers, 2023.
    https://arxiv.org/abs/2303.15233
    Kingma et al., Variational Diffusion Models, 2021. https://arxiv.org/abs/2107.00630
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from scipy.special import logsumexp

from ..classifier import Progress, Scores
from ..models.denoiser import Target
from ..noise import quantiles
from ..options import (
    ANYTHING,
    DRAWS,
    GUIDANCE,
    LOG_SNR,
    NOTHING,
    TEMPLATES,
    interval,
    one_of,
    option,
)
from ..scoring.denoising import Loss, denoising_errors
from ..scoring.engine import Batch, Jobs, Outcome, Program, Results, Subject
from ..scoring.times import Times, Weights
from .common import Classes, DiffusionMethod, as_scores

_SHARED = ("weights", "loss", "target", "template", "log_snr_range", "t_range", "guidance")


@dataclass(kw_only=True, eq=False, repr=False)
class ErrorMethod(DiffusionMethod):
    """What methods share that compare classes by denoising errors under common draws."""

    weights: Weights = option("uniform", one_of("uniform", "elbo"))
    loss: Loss = option("l2", one_of("l2", "l1"))
    target: Target = option("eps", one_of("eps", "x", "v"))
    template: str | Sequence[str] | None = option(None, TEMPLATES)
    log_snr_range: tuple[float, float] | None = option(None, LOG_SNR | NOTHING)
    t_range: tuple[float, float] | None = option(None, interval(0, 1) | NOTHING)
    guidance: float = option(1.0, GUIDANCE)

    def _check_options(self) -> None:
        schedule = self.backbone_.schedule
        self.times_ = Times(schedule, self.weights, self.t_range, self.log_snr_range)

    def settings(self) -> dict[str, Any]:
        """The arguments that the size of errors depends on."""
        return {f.name: getattr(self, f.name) for f in fields(ErrorMethod) if f.name in _SHARED}

    def times_of(self, key: int, draws: np.ndarray) -> np.ndarray:
        """Times of draws of the image with this key, float64 `[n]`."""
        return self.times_.at(self.places_of(key, draws))

    def places_of(self, key: int, draws: np.ndarray) -> np.ndarray:
        """Their places in [0, 1), of which times are made."""
        return quantiles(key, draws)

    def draw_errors(
        self,
        images: Any,
        candidates: Sequence[Sequence[str]] | None = None,
        progress: Progress | None = None,
    ) -> list[np.ndarray]:
        """Errors `[draws, k, templates]` of each image, before weights and reductions.

        The mean over the first n draws is what a classifier with `draws=n` computes, so that
        accuracy against draws, temperatures and standard errors need the network once. Draws
        that a class was not given are NaN.

        Raises:
            InputError: see `scores`.
        """
        return self.scores_and_draws(images, candidates, progress)[1]

    def scores_and_draws(
        self,
        images: Any,
        candidates: Sequence[Sequence[str]] | None = None,
        progress: Progress | None = None,
    ) -> tuple[Scores, list[np.ndarray]]:
        """What `scores` and `draw_errors` give, of one pass.

        Raises:
            InputError: see `scores`.
        """
        loaded, labels = self._inputs(images, candidates)
        classes = self._classes(len(loaded), labels)
        outcomes = list(self._outcomes(loaded, classes, progress))
        return self._finite(as_scores(outcomes), labels), [o.extra for o in outcomes]

    def _evaluate(self, batch: Batch, classes: Classes) -> Results:
        errors = denoising_errors(
            self.model_, batch, classes.of(batch), target=self.target, loss=self.loss
        )
        return Results(errors, self.model_.denoiser.cost)


@dataclass(kw_only=True, eq=False, repr=False)
class ELBO(ErrorMethod):
    """Diffusion classifier, dense: every class with every draw.

    A logit is `log p(x | c)` in nats up to a constant of the image with `weights="elbo"`,
    `loss="l2"` and `target="eps"`; otherwise minus a mean error, summed over the dimensions of
    `x_0`.

    Args:
        backbone: A diffusion model, or what `diffzero.load` takes.
        draws: Noise draws per class; powers of two give even grids of times.
        weights: `uniform` draws t uniformly with w = 1 (the field's default; not log p). `elbo`
            draws lambda uniformly, with w so that the mean is the bound.
        loss: `l2` is the squared error, `l1` the absolute one.
        target: The answer of the network that is compared with the truth: `eps`, `x` for x_0,
            or `v` for `alpha eps - sigma x_0`.
        template: One prompt with `{}` for the label, or several: their logits l_m join as
            `T (logsumexp(l / T) - log M)`, T the temperature. If None, the model's own.
        log_snr_range: `(min, max)` of lambda for `weights="elbo"`; if None, the schedule's whole
            range.
        t_range: `(min, max)` of t for `weights="uniform"`; if None, `[t_min, 1]`.
        guidance: Scale of classifier-free guidance; 1 is none.
        temperature: See `Classifier`.
        priors: See `Classifier`.
        seed: See `Classifier`.
        batch_size: See `Classifier`.
        value_range: See `Classifier`.
    """

    method: ClassVar[str] = "elbo"
    cost: ClassVar[str] = "draws * templates * classes; twice that with guidance"
    draw_arguments: ClassVar[tuple[str, ...]] = ("draws",)
    templates_at_most: ClassVar[int] = 10_000

    backbone: Any = option("tiny-sd", ANYTHING, positional=True)
    draws: int = option(32, DRAWS)

    def count_evals(self, n_labels: int) -> int:
        """`draws * templates * classes`, twice that with guidance."""
        templates = 1 if isinstance(self.template, str | None) else len(self.template)
        return self.draws * templates * n_labels * (1 if self.guidance == 1 else 2)

    def reduce(self, errors: np.ndarray, t: np.ndarray | None = None) -> np.ndarray:
        """Errors `[draws, k, templates]` of one image to its logits `[k]`.

        Args:
            errors: NaN where a class was not given a draw.
            t: Times of the draws, `[draws]`; needed where weights differ with time.
        """
        mean = np.nanmean if np.isnan(errors).any() else np.mean
        return self._joined(errors, t, mean)

    def _joined(
        self, errors: np.ndarray, t: np.ndarray | None, mean: Callable[..., Any]
    ) -> np.ndarray:
        w = self.times_.weight(np.ones(len(errors)) if t is None else t)[:, None, None]
        per_prompt = -mean(w * errors, axis=0)
        if per_prompt.shape[1] == 1:
            return per_prompt[:, 0]
        # The temperature belongs inside: raw bounds differ by hundreds of nats, and a plain
        # log-mean-exp would make the templates rivals of the classes.
        tau = self.temperature_in_use()
        return tau * (logsumexp(per_prompt / tau, axis=1) - np.log(per_prompt.shape[1]))

    def _program(self, subject: Subject, classes: Classes, image: int) -> Program:
        draws = np.arange(self.draws)
        t = self.times_of(subject.key, draws)
        errors = yield Jobs.dense(classes.rows[image], draws, t)
        cube = errors.reshape(self.draws, -1, len(self.templates_))
        # Every draw was given, so that NaN is what the network said, and is not passed over.
        return Outcome(self._joined(cube, t, np.mean), extra=cube)
