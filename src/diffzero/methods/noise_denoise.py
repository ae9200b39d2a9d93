"""Noise-denoise (Algorithms 3 and 4): the class under which the image comes back most like itself.

The image is noised to level l (the time, img2img's strength) and denoised under each class,

    x_l = alpha_l x_0 + sigma_l eps,    y_c = sampler(x_l, c),    d_c = distance(x, y_c).

One level (Algorithm 3): `logit_c = -mean over draws of d_c`. Several levels (Algorithm 4): each
level votes for its smallest d_c and the mode wins. As printed, Algorithm 4 takes an argmin over
the distinct votes; its text says voting, and that is what is built. Ties go to the smaller mean
rank, then to the smaller mean distance.

All classes see the same noise; `shared_noise=False` gives each its own, as the paper's code did.

References:
    Meng et al., SDEdit, 2022. https://arxiv.org/abs/2108.01073
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..classifier import Progress, resolve
from ..errors import InputError
from ..noise import gaussian
from ..samplers import SAMPLERS, Sampler, denoise, executed_steps
from .common import RowMethod, Rows

Distance = Literal["pixel-l2", "pyramid-l2", "clip-l2"]
DISTANCES = ("pixel-l2", "pyramid-l2", "clip-l2")


def pixel_l2(x: Tensor, y: Tensor) -> Tensor:
    """`mean (x - y)^2` over pixels `[b]`, of images `[b, 3, s, s]`."""
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


def clip_features(clip: Any, images: Tensor) -> Tensor:
    """CLIP's unit vectors `[b, d]` of images `[b, 3, s, s]` in [-1, 1]."""
    grey = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    arrays = grey.permute(0, 2, 3, 1).cpu().numpy()
    return clip.image_features(list(arrays)).to(images.device)


class _NoiseDenoise(RowMethod):
    """What one level and several share."""

    steps: int
    draws: int
    sampler: Sampler
    distance: Distance
    clip: Any
    shared_noise: bool

    @abstractmethod
    def _levels(self) -> list[float]:
        """The levels, each in (0, 1]."""

    def count_evals(self, n_labels: int) -> int:
        """`classes * draws * sum over levels of max(1, round(level * steps))`, twice if guided."""
        executed = sum(executed_steps(level, self.steps) for level in self._levels())
        return n_labels * self.draws * executed * self._per_call()

    def _check_options(self) -> None:
        self._check_choices(sampler=SAMPLERS, distance=DISTANCES)
        self._check_at_least_one("steps", "draws")
        levels = self._levels()
        if not levels or not all(0 < level <= 1 for level in levels):
            raise InputError(f"A level lies in (0, 1]; got {levels}.")
        self._clip = None
        if self.distance == "clip-l2":
            from ..backbones.clip import ClipBackbone

            self._clip = resolve(self.clip)
            if not isinstance(self._clip, ClipBackbone):
                raise InputError(f"distance clip-l2 needs a CLIP model; {self.clip!r} is none.")

    def _draws_in_use(self) -> int:
        return self.draws

    @torch.no_grad()
    def _values(self, rows: Rows, progress: Progress | None) -> np.ndarray:
        """Distances `[r, levels, draws]`."""
        levels = self._levels()
        out = np.empty((len(rows.image), len(levels), self.draws))
        # Decoded once an image, not once a class.
        _, first, place = np.unique(rows.image, return_index=True, return_inverse=True)
        original = self._view(self.backbone_.decode(rows.x_0[first]))[place]
        for i, level in enumerate(levels):
            for draw in range(self.draws):
                y = self._returned(rows, level, i * self.draws + draw)
                out[:, i, draw] = self._distance(original, self._view(y)).cpu().numpy()
                if progress is not None:
                    taken = executed_steps(level, self.steps) * self._per_call()
                    progress(taken * len(rows.image))
        return out

    @torch.no_grad()
    def reconstructions(
        self, images: Any, candidates: Sequence[Sequence[str]] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """What each class makes of each image.

        Returns:
            The images as the model sees them `[b, 3, s, s]` in [-1, 1], and for each image
            `[k, levels, draws, 3, s, s]`. Distances between the two are what `scores` reduces.

        Raises:
            InputError: see `scores`.
        """
        loaded, labels = self._inputs(images, candidates)
        levels = self._levels()
        found: list[list[Tensor]] = [[] for _ in loaded]
        for rows in self._rows(loaded, labels):
            grid = [
                torch.stack(
                    [self._returned(rows, level, i * self.draws + d) for d in range(self.draws)], 1
                )
                for i, level in enumerate(levels)
            ]
            for image, row in zip(rows.image, torch.stack(grid, 1), strict=True):
                found[image].append(row)
        return self.backbone_.decode(self._encode(loaded)), [torch.stack(f) for f in found]

    def _returned(self, rows: Rows, level: float, number: int) -> Tensor:
        """The images that come back `[r, 3, s, s]`, from the noise of this number."""
        backbone = self.backbone_
        numbers = np.full(len(rows.image), number)
        if not self.shared_noise:  # one noise a class: numbers of different classes never meet
            total = len(self._levels()) * self.draws
            numbers = number + total * rows.column
        noise = [
            gaussian(k, int(n), backbone.shape) for k, n in zip(rows.keys, numbers, strict=True)
        ]
        eps = torch.from_numpy(np.stack(noise)).to(rows.x_0)
        alpha, sigma = backbone.schedule(torch.tensor([level], device=eps.device))
        x_t = float(alpha) * rows.x_0 + float(sigma) * eps
        clean = denoise(
            backbone,
            x_t,
            rows.cond,
            level,
            executed_steps(level, self.steps),
            sampler=self.sampler,
            guidance=self.guidance,
            empty=self._empty,
        )
        return backbone.decode(clean)

    def _view(self, images: Tensor) -> Tensor:
        """What distances compare: pixels, or CLIP's features of them."""
        return images if self._clip is None else clip_features(self._clip, images)

    def _distance(self, x: Tensor, y: Tensor) -> Tensor:
        if self.distance == "pixel-l2":
            return pixel_l2(x, y)
        if self.distance == "pyramid-l2":
            return pyramid_l2(x, y)
        return feature_l2(x, y)


class NoiseDenoise(_NoiseDenoise):
    """Noise to one level, denoise under each class, compare.

    Cost: `classes * draws * max(1, round(level * steps))` evaluations an image, twice that with
    guidance.

    A logit is minus the mean distance between the image and what came back.

    Args:
        backbone: A diffusion backbone, or what `diffzero.load` takes.
        level: Noise level in (0, 1]: the time, img2img's strength.
        steps: Of a full run of the sampler; `max(1, round(level * steps))` are executed.
        draws: Noise draws.
        sampler: `ddim` or `dpm++`.
        distance: `pixel-l2`, `pyramid-l2` (several scales, for small images) or `clip-l2`.
        clip: CLIP model of `clip-l2`.
        shared_noise: All classes of an image see the same noise.
        template: One prompt with `{}` for the label; the backbone's own if None.
        guidance: Scale of classifier-free guidance; 1 is none.
        temperature: See `Classifier`.
        priors: See `Classifier`.
        seed: See `Classifier`.
        batch_size: See `Classifier`.
        value_range: See `Classifier`.
    """

    method = "noise-denoise"

    def __init__(
        self,
        backbone: Any = "digits-ddpm",
        *,
        level: float = 0.5,
        steps: int = 20,
        draws: int = 4,
        sampler: Sampler = "ddim",
        distance: Distance = "pixel-l2",
        clip: Any = "tiny-clip",
        shared_noise: bool = True,
        template: str | None = None,
        guidance: float = 1.0,
        temperature: float | None = None,
        priors: Mapping[str, float] | Sequence[float] | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        self.backbone = backbone
        self.level = level
        self.steps = steps
        self.draws = draws
        self.sampler = sampler
        self.distance = distance
        self.clip = clip
        self.shared_noise = shared_noise
        self.template = template
        self.guidance = guidance
        self.temperature = temperature
        self.priors = priors
        self.seed = seed
        self.batch_size = batch_size
        self.value_range = value_range

    def _levels(self) -> list[float]:
        return [self.level]

    def _combine(self, values: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        return -values[:, 0].mean(1), {}


class NoiseDenoiseVote(_NoiseDenoise):
    """Noise-denoise at several levels, one vote a level.

    Cost: `classes * draws * sum over levels of max(1, round(level * steps))` evaluations an image,
    twice that with guidance.

    A logit is the number of votes plus a tie-break below 1.

    Args:
        backbone: A diffusion backbone, or what `diffzero.load` takes.
        levels: Noise levels in (0, 1].
        steps: Of a full run of the sampler.
        draws: Noise draws a level; their mean distance votes.
        sampler: `ddim` or `dpm++`.
        distance: `pixel-l2`, `pyramid-l2` (several scales, for small images) or `clip-l2`.
        clip: CLIP model of `clip-l2`.
        shared_noise: All classes of an image see the same noise.
        template: One prompt with `{}` for the label; the backbone's own if None.
        guidance: Scale of classifier-free guidance; 1 is none.
        temperature: See `Classifier`.
        priors: See `Classifier`.
        seed: See `Classifier`.
        batch_size: See `Classifier`.
        value_range: See `Classifier`.
    """

    method = "noise-denoise-vote"

    def __init__(
        self,
        backbone: Any = "digits-ddpm",
        *,
        levels: Sequence[float] = (0.3, 0.4, 0.5, 0.6, 0.7),
        steps: int = 20,
        draws: int = 1,
        sampler: Sampler = "ddim",
        distance: Distance = "pixel-l2",
        clip: Any = "tiny-clip",
        shared_noise: bool = True,
        template: str | None = None,
        guidance: float = 1.0,
        temperature: float | None = None,
        priors: Mapping[str, float] | Sequence[float] | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        self.backbone = backbone
        self.levels = levels
        self.steps = steps
        self.draws = draws
        self.sampler = sampler
        self.distance = distance
        self.clip = clip
        self.shared_noise = shared_noise
        self.template = template
        self.guidance = guidance
        self.temperature = temperature
        self.priors = priors
        self.seed = seed
        self.batch_size = batch_size
        self.value_range = value_range

    def _levels(self) -> list[float]:
        return list(self.levels)

    def _combine(self, values: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        return vote_logits(values.mean(2)), {}


def vote_logits(distances: np.ndarray) -> np.ndarray:
    """Votes plus tie-break of the classes, from `[classes, levels]` distances.

    The classes are ordered by mean rank, then by mean distance; the tie-break of the one at place
    p (from 0) of K is `(K - 1 - p) / K`.
    """
    k = len(distances)
    votes = np.bincount(distances.argmin(0), minlength=k).astype(float)
    ranks = distances.argsort(0, kind="stable").argsort(0, kind="stable").mean(1)
    place = np.empty(k)
    place[np.lexsort((distances.mean(1), ranks))] = np.arange(k)
    return votes + (k - 1 - place) / k
