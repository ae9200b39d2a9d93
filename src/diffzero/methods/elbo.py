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

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.special import logsumexp

from ..classifier import Classifier, Progress, Scores, unique_prompts
from ..images import to_tensor
from ..noise import image_key, quantiles
from ..prompts import check_readable, check_templates, fill
from ..scoring import Jobs, Loss, Times, Weights, denoising_errors
from .common import diffusion_backbone

GROUP_EVALS = 2**14  # evaluations whose images are encoded and held together


class ELBO(Classifier):
    """Diffusion classifier, dense: every class with every draw.

    Cost: `draws * templates * classes` evaluations an image, twice that with guidance.

    A logit is `log p(x | c)` in nats up to a constant of the image with `weights="elbo"` and
    `loss="l2"`; otherwise minus a mean error, summed over the dimensions of `x_0`.

    Args:
        backbone: A diffusion backbone, or what `diffzero.load` takes.
        draws: Noise draws a class; powers of two give even grids of times.
        weights: `uniform` draws t uniformly with w = 1 (the field's default; not log p). `elbo`
            draws lambda uniformly, with w so that the mean is the bound.
        loss: `l2` is the squared error, `l1` the absolute one.
        template: One prompt with `{}` for the label, or several: their logits l_m join as
            `T (logsumexp(l / T) - log M)`, T the temperature. If None, the backbone's own.
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

    method = "elbo"

    def __init__(
        self,
        backbone: Any = "tiny-sd",
        *,
        draws: int = 32,
        weights: Weights = "uniform",
        loss: Loss = "l2",
        template: str | Sequence[str] | None = None,
        log_snr_range: tuple[float, float] | None = None,
        t_range: tuple[float, float] | None = None,
        guidance: float = 1.0,
        temperature: float | None = None,
        priors: Mapping[str, float] | Sequence[float] | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        self.backbone = backbone
        self.draws = draws
        self.weights = weights
        self.loss = loss
        self.template = template
        self.log_snr_range = log_snr_range
        self.t_range = t_range
        self.guidance = guidance
        self.temperature = temperature
        self.priors = priors
        self.seed = seed
        self.batch_size = batch_size
        self.value_range = value_range

    def count_evals(self, n_labels: int) -> int:
        """`draws * templates * classes`, twice that with guidance."""
        templates = 1 if isinstance(self.template, str | None) else len(self.template)
        return self.draws * templates * n_labels * (1 if self.guidance == 1 else 2)

    def _prepare(self) -> None:
        self._check_common()
        self._check_at_least_one("draws")
        self._check_choices(weights=("uniform", "elbo"), loss=("l2", "l1"))
        backbone = diffusion_backbone(self.backbone, self.method)
        self.backbone_ = backbone
        self.templates_ = check_templates(self.template, backbone.template)
        schedule = self.backbone_.schedule
        self._times = Times(schedule, self.weights, self.t_range, self.log_snr_range)
        if hasattr(self, "names_"):
            check_readable(backbone, self.names_, self.templates_)
            self._class_conditions = backbone.embed(fill(self.templates_, self.names_))

    def _fitted_temperature(self) -> float | None:
        default = (
            self.weights == "uniform"
            and self.loss == "l2"
            and self.guidance == 1
            and self.t_range is None
        )
        fitted = self.backbone_.temperatures.get(self.method, {})
        return fitted.get(self.draws) if default else None

    def draw_errors(
        self,
        images: Any,
        candidates: Sequence[Sequence[str]] | None = None,
        progress: Progress | None = None,
    ) -> list[np.ndarray]:
        """Errors `[draws, k, templates]` of each image, before weights and reductions.

        The mean over the first n draws is what a classifier with `draws=n` computes, so that
        accuracy against draws, temperatures and standard errors need the network once.

        Raises:
            InputError: see `scores`.
        """
        loaded, labels = self._inputs(images, candidates)
        return [e for part in self._groups(loaded, labels, progress) for e in part]

    def reduce(self, errors: np.ndarray) -> np.ndarray:
        """Errors `[draws, k, templates]` of one image to its logits `[k]`."""
        per_prompt = -self._times.weight * errors.mean(0)
        if per_prompt.shape[1] == 1:
            return per_prompt[:, 0]
        # The temperature belongs inside: raw bounds differ by hundreds of nats, and a plain
        # log-mean-exp would make the templates rivals of the classes.
        t = self.temperature_in_use()
        return t * (logsumexp(per_prompt / t, axis=1) - np.log(per_prompt.shape[1]))

    def _score(
        self,
        images: list[np.ndarray],
        labels: list[list[str]] | None,
        progress: Progress | None,
    ) -> Scores:
        own = [self.names_] * len(images) if labels is None else labels
        logits = np.full((len(images), max(map(len, own))), -np.inf)
        errors = (e for part in self._groups(images, labels, progress) for e in part)
        for row, error in zip(logits, errors, strict=True):
            row[: error.shape[1]] = self.reduce(error)
        return Scores(logits, np.array([self.count_evals(len(o)) for o in own]))

    def _groups(
        self,
        images: list[np.ndarray],
        labels: list[list[str]] | None,
        progress: Progress | None,
    ) -> Iterator[list[np.ndarray]]:
        """Errors of as many images at a time as are encoded and held together."""
        if labels is None:
            cond = self._class_conditions
            rows = [np.arange(len(cond))] * len(images)
        else:
            for one in labels:
                check_readable(self.backbone_, one, self.templates_)
            prompts, rows = unique_prompts([fill(self.templates_, one) for one in labels])
            cond = self.backbone_.embed(prompts)
        group = max(1, GROUP_EVALS // (self.draws * max(map(len, rows))))
        for start in range(0, len(images), group):
            part = slice(start, start + group)
            yield self._errors(images[part], rows[part], cond, progress)

    def _errors(
        self,
        images: list[np.ndarray],
        rows: list[np.ndarray],
        cond: Any,
        progress: Progress | None,
    ) -> list[np.ndarray]:
        """Errors `[draws, k, templates]` of each image."""
        keys = [image_key(self.seed, image) for image in images]
        backbone = self.backbone_
        with torch.inference_mode():
            pixels = to_tensor(images, backbone.image_size).to(backbone.device, backbone.dtype)
            x_0 = backbone.encode(pixels)
        jobs = Jobs.dense(rows, self.draws)
        places = np.stack([quantiles(key, np.arange(self.draws)) for key in keys])
        errors = denoising_errors(
            backbone,
            x_0,
            cond,
            jobs,
            lambda image, draw: self._times.at(places[image, draw]),
            keys,
            loss=self.loss,
            guidance=self.guidance,
            batch_size=self.batch_size,
            progress=progress,
        )
        cuts = np.cumsum([self.draws * len(r) for r in rows])[:-1]
        m = len(self.templates_)
        return [e.reshape(self.draws, -1, m) for e in np.split(errors, cuts)]
