"""Noise-denoise (Algorithms 3 and 4): the class under which the image comes back most like itself.

The image is noised to level l (the time, img2img's strength) and denoised under each class,

    x_l = alpha_l x_0 + sigma_l eps,    y_c = sampler(x_l, c),    d_c = distance(x, y_c).

One level (Algorithm 3): `logit_c = -mean over draws of d_c`. Several levels (Algorithm 4): each
level votes for its smallest d_c and the mode wins. As printed, Algorithm 4 takes an argmin over
the distinct votes; its text says voting, and that is what is built. Ties go to the smaller mean
rank, then to the smaller mean distance.

All classes see the same noise; `shared_noise=False` gives each its own, as the paper's code did.

`latent-l2` is the distance where the diffusion happens, `mean (x_0 - z_c)^2` of the latents z_c
that came back, before any decoder. What the decoder adds to a difference is then left out, and so
is its cost. After one step it is the error of eps at that level times `(sigma_l / alpha_l)^2`.

References:
    Meng et al., SDEdit, 2022. https://arxiv.org/abs/2108.01073
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..classifier import resolve
from ..errors import InputError
from ..models.clip import ClipBackbone
from ..options import (
    ANYTHING,
    DRAWS,
    FLAG,
    GUIDANCE,
    STEPS,
    TEMPLATES,
    number,
    one_of,
    option,
    several,
    short,
)
from ..scoring.denoising import noised
from ..scoring.engine import Batch, Jobs, Outcome, Program, Results, Subject, run
from ..scoring.samplers import SAMPLERS, Sampler, denoise, executed_steps
from .common import Classes, DiffusionMethod

Distance = Literal["pixel-l2", "pyramid-l2", "latent-l2", "clip-l2"]


def pixel_l2(x: Tensor, y: Tensor) -> Tensor:
    """`mean (x - y)^2` `[b]`, over pixels of images `[b, 3, s, s]` or values of latents."""
    return (x - y).flatten(1).double().square().mean(1)


def pyramid_l2(x: Tensor, y: Tensor) -> Tensor:
    """`sum_j mean (A^j (x - y))^2` `[b]`, A halving the side: detail fades, shapes count.

    For small images, where an embedding has too few pixels to see and a plain pixel distance
    is ruled by detail that no class explains.
    """
    difference, total = (x - y).double(), torch.zeros(len(x), dtype=torch.float64, device=x.device)
    while True:
        total = total + difference.flatten(1).square().mean(1)
        if difference.shape[-1] < 4:
            return total
        difference = functional.avg_pool2d(difference, 2)


def feature_l2(x: Tensor, y: Tensor) -> Tensor:
    """`||x - y||^2` `[b]` of features `[b, d]`."""
    return (x - y).double().square().sum(1)


DISTANCES = {
    "pixel-l2": pixel_l2,
    "pyramid-l2": pyramid_l2,
    "latent-l2": pixel_l2,
    "clip-l2": feature_l2,
}


def clip_features(clip: Any, images: Tensor) -> Tensor:
    """CLIP's unit vectors `[b, d]` of images `[b, 3, s, s]` in [-1, 1]."""
    grey = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    arrays = grey.permute(0, 2, 3, 1).cpu().numpy()
    features = clip.image_features(list(arrays)).to(images.device)
    whole = images.flatten(1).isfinite().all(1, keepdim=True)  # whole numbers hide NaN
    return torch.where(whole, features, torch.nan)


@dataclass(kw_only=True, eq=False, repr=False)
class _NoiseDenoise(DiffusionMethod):
    """What one level and several share."""

    draw_arguments: ClassVar[tuple[str, ...]] = ("draws",)
    expects: ClassVar[bool] = False

    steps: int = option(20, STEPS)
    draws: int = option(4, DRAWS)
    sampler: Sampler = option("ddim", one_of(*SAMPLERS))
    distance: Distance = option("pixel-l2", one_of(*DISTANCES))
    clip: Any = option("tiny-clip", ANYTHING)
    shared_noise: bool = option(True, FLAG)
    template: str | None = option(None, TEMPLATES)
    guidance: float = option(1.0, GUIDANCE)

    @abstractmethod
    def _levels(self) -> list[float]:
        """The levels, each in (0, 1]."""

    @abstractmethod
    def _combine(self, distances: np.ndarray) -> np.ndarray:
        """Logits `[k]` from the distances `[levels, draws, k]` of an image."""

    def count_evals(self, n_labels: int) -> int:
        """`classes * draws * sum over levels of max(1, round(level * steps))`, twice if guided."""
        executed = sum(executed_steps(level, self.steps) for level in self._levels())
        return n_labels * self.draws * executed * (1 if self.guidance == 1 else 2)

    def _check_options(self) -> None:
        self._clip = None
        if self.distance == "clip-l2":
            self._clip = resolve(self.clip)
            if not isinstance(self._clip, ClipBackbone):
                raise InputError(
                    f"distance clip-l2 needs a CLIP model; {short(self.clip)} is none."
                )

    def networks(self) -> dict[str, Any]:
        """The diffusion model's, and CLIP's where distances are CLIP's."""
        own = {} if self._clip is None else {"CLIP model": self._clip.model}
        return super().networks() | own

    def _program(self, subject: Subject, classes: Classes, image: int) -> Program:
        distances = yield self._jobs(classes.rows[image])
        shape = (len(self._levels()), self.draws, len(classes.rows[image]))
        return Outcome(self._combine(distances.reshape(shape)))

    def _jobs(self, rows: np.ndarray) -> Jobs:
        """A row per level, draw and class; a level is a lane, since its steps are its own."""
        levels, k = self._levels(), len(rows)
        total = len(levels) * self.draws
        number, column = np.repeat(np.arange(total), k), np.tile(np.arange(k), total)
        # One noise per class, if not shared: numbers of different classes never meet.
        draw = number if self.shared_noise else number + total * column
        lane = number // self.draws
        return Jobs(np.tile(rows, total), draw, np.array(levels)[lane], lane=lane)

    def _evaluate(self, batch: Batch, classes: Classes) -> Results:
        """Distances `[n]` between the image and what came back."""
        returned, cost = self._returned(batch, classes)
        for subject in batch.subjects:  # seen once per image, not once per class
            if "view" not in subject.memo:
                subject.memo["view"] = self._view(subject.x_0[None])[0]
        views = torch.stack([s.memo["view"] for s in batch.subjects])
        original = views[batch.on_device(batch.subject)]
        distances = DISTANCES[self.distance](original, self._view(returned))
        return Results(distances.cpu().numpy(), cost)

    def _returned(self, batch: Batch, classes: Classes) -> tuple[Tensor, int]:
        """The x_0 that come back `[n, ...]`, not decoded, and the evaluations that each took."""
        level = float(batch.t[0])
        x_t, _, _ = noised(self.model_, batch.x_0, batch.t, batch.keys, batch.draw)
        steps = executed_steps(level, self.steps)
        clean = denoise(self.model_, x_t, classes.of(batch), level, steps, self.sampler)
        return clean, steps * self.model_.denoiser.cost

    def reconstructions(
        self, images: Any, candidates: Sequence[Sequence[str]] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """What each class makes of each image.

        Returns:
            The images as the model sees them `[b, 3, s, s]` in [-1, 1], and for each image
            `[k, levels, draws, 3, s, s]`. Distances between the two are what `scores` reduces,
            unless they are `latent-l2`.

        Raises:
            InputError: see `scores`.
        """
        loaded, labels = self._inputs(images, candidates)
        classes = self._classes(len(loaded), labels)

        def program(image: int) -> Program:
            rows = classes.rows[image]
            back = torch.stack((yield self._jobs(rows)))
            grid = back.unflatten(0, (len(self._levels()), self.draws, len(rows)))
            return Outcome(np.zeros(len(rows)), extra=grid.movedim(2, 0))

        def evaluate(batch: Batch) -> Results:
            returned, cost = self._returned(batch, classes)
            return Results(list(self.backbone_.decode(returned)), cost)

        programs = ((s, program(i)) for i, s in enumerate(self._subjects(loaded)))
        found = [o.extra for o in run(programs, evaluate, self._rows_a_call())]
        return self.backbone_.decode(self._encode(loaded)), found

    def _view(self, x_0: Tensor) -> Tensor:
        """What distances compare: latents as they are, pixels, or CLIP's features of those."""
        if self.distance == "latent-l2":
            return x_0
        images = self.backbone_.decode(x_0)
        return images if self._clip is None else clip_features(self._clip, images)


@dataclass(kw_only=True, eq=False, repr=False)
class NoiseDenoise(_NoiseDenoise):
    """Noise to one level, denoise under each class, compare.

    A logit is minus the distance between the image and what came back, a mean over draws: of
    `pixel-l2` the mean squared difference of values in [-1, 1], in [0, 4].

    Args:
        backbone: A diffusion model, or what `diffzero.load` takes.
        level: Noise level in (0, 1]: the time, img2img's strength.
        steps: Of a full run of the sampler; `max(1, round(level * steps))` are executed.
        draws: Noise draws.
        sampler: `ddim` or `dpm++`.
        distance: `pixel-l2`, `pyramid-l2` (several scales, for small images), `latent-l2` (of
            latents, before the decoder; of a pixel model the same as `pixel-l2`) or `clip-l2`.
        clip: CLIP model of `clip-l2`.
        shared_noise: All classes of an image see the same noise.
        template: One prompt with `{}` for the label; the model's own if None.
        guidance: Scale of classifier-free guidance; 1 is none.
        temperature: See `Classifier`.
        priors: See `Classifier`.
        seed: See `Classifier`.
        batch_size: See `Classifier`.
        value_range: See `Classifier`.
    """

    method: ClassVar[str] = "noise-denoise"
    cost: ClassVar[str] = (
        "classes * draws * max(1, round(level * steps)); twice that with guidance"
    )

    backbone: Any = option("digits-ddpm", ANYTHING, positional=True)
    level: float = option(0.5, number(0, 1, above=True))

    def _levels(self) -> list[float]:
        return [self.level]

    def _combine(self, distances: np.ndarray) -> np.ndarray:
        return -distances[0].mean(0)


@dataclass(kw_only=True, eq=False, repr=False)
class NoiseDenoiseVote(_NoiseDenoise):
    """Noise-denoise at several levels, one vote per level.

    A logit is the number of votes plus a tie-break below 1.

    Args:
        backbone: A diffusion model, or what `diffzero.load` takes.
        levels: Noise levels in (0, 1].
        steps: Of a full run of the sampler.
        draws: Noise draws per level; their mean distance votes.
        sampler: `ddim` or `dpm++`.
        distance: `pixel-l2`, `pyramid-l2` (several scales, for small images), `latent-l2` (of
            latents, before the decoder; of a pixel model the same as `pixel-l2`) or `clip-l2`.
        clip: CLIP model of `clip-l2`.
        shared_noise: All classes of an image see the same noise.
        template: One prompt with `{}` for the label; the model's own if None.
        guidance: Scale of classifier-free guidance; 1 is none.
        temperature: See `Classifier`.
        priors: See `Classifier`.
        seed: See `Classifier`.
        batch_size: See `Classifier`.
        value_range: See `Classifier`.
    """

    method: ClassVar[str] = "noise-denoise-vote"
    cost: ClassVar[str] = (
        "classes * draws * sum over levels of max(1, round(level * steps)); twice that with "
        "guidance"
    )

    backbone: Any = option("digits-ddpm", ANYTHING, positional=True)
    levels: Sequence[float] = option(
        (0.3, 0.4, 0.5, 0.6, 0.7), several(number(0, 1, above=True), 64)
    )
    draws: int = option(1, DRAWS)

    def _levels(self) -> list[float]:
        return list(self.levels)

    def _combine(self, distances: np.ndarray) -> np.ndarray:
        return vote_logits(distances.mean(1).T)


def vote_logits(distances: np.ndarray) -> np.ndarray:
    """Votes plus tie-break of the classes, from `[classes, levels]` distances.

    The classes are ordered by mean rank, then by mean distance; the tie-break of the one at place
    p (from 0) of K is `(K - 1 - p) / K`.
    """
    if not np.isfinite(distances).all():
        return np.full(len(distances), np.nan)  # a vote would hide what the network said
    k = len(distances)
    votes = np.bincount(distances.argmin(0), minlength=k).astype(float)
    ranks = distances.argsort(0, kind="stable").argsort(0, kind="stable").mean(1)
    place = np.empty(k)
    place[np.lexsort((distances.mean(1), ranks))] = np.arange(k)
    return votes + (k - 1 - place) / k
