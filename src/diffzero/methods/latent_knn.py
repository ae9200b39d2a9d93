"""Latent kNN (Algorithm 2): encode the image under every class, and see which latent stands apart.

    z_c = xbar(s_max) / sqrt(1 + s_max^2) of the deterministic flow from x_0 under class c,
    d_c = mean (or the last) of the k smallest ||z_c - z_j||, j != c.

The paper's section 5.1 says that the latent of the true class is the outlier (`logit = d_c`); its
Algorithm 2, as printed, takes the smallest distance (`logit = -d_c`). Both are here. The outlier
is the right reading, and on digits it needs classifier-free guidance: without it the latents of
false labels lie as far from each other as from the true one. On the 360 digits of `digits-ddpm`,
k = 2, accuracy with its 95 % Wilson interval:

| guidance | outlier             | inlier           |
|----------|---------------------|------------------|
| 1 (none) | 22.2 % [18.2, 26.8] | 1.4 % [0.6, 3.2] |
| 3        | 85.3 % [81.2, 88.6] | 0.3 % [0.0, 1.6] |

Some classes stand apart whatever the image shows. Given reference images, which need no labels,
each class's distance is taken in units of its mean over them,

    logit = d_c / mean over references of d_c,

which turns 85.3 into 88.6 % [84.9, 91.5] on those digits (80 references). On 100 images of
CIFAR-10 and the CPU-trained `cifar10-ddpm`, for which "frog" stands apart on every image, it turns
16 % [10.1, 24.4] (all frogs) into 21 % [14.2, 30.0] (k = 4, 64 references).

References:
    Song et al., Denoising Diffusion Implicit Models, 2021. https://arxiv.org/abs/2010.02502
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from ..errors import InputError
from ..images import digest, image_files
from ..options import ANYTHING, GUIDANCE, STEPS, TEMPLATES, one_of, option, whole
from ..scoring.engine import Batch, Jobs, Outcome, Program, Results, Subject
from ..scoring.ode import flow, log_grid, s_range
from .common import Classes, DiffusionMethod


@dataclass(kw_only=True, eq=False, repr=False)
class LatentKNN(DiffusionMethod):
    """Distance of each class's latent to its nearest neighbours among the others.

    A logit is the distance d_c between latents of unit variance (`outlier`), or minus it
    (`inlier`), divided by the square root of their dimension.

    Args:
        backbone: A diffusion model, or what `diffzero.load` takes.
        steps: Of the flow, even in log s.
        solver: `euler` or `heun`.
        k: Nearest neighbours, at most classes - 1.
        pick: `outlier` or `inlier`.
        reduce: `mean` over the k distances, or the `kth`.
        reference: Images, or a folder of image files, without labels: their mean distance under
            each class is taken as that class's unit; None compares distances as they are. `fit`
            encodes them, at the cost of as many images. Candidates of each image's own are then
            refused.
        template: One prompt with `{}` for the label; the model's own if None.
        guidance: Scale of classifier-free guidance; 1 is none. 3 classifies digits far better;
            it needs a null class.
        temperature: See `Classifier`.
        priors: See `Classifier`.
        seed: Unused: the flow is deterministic.
        batch_size: See `Classifier`.
        value_range: See `Classifier`.
    """

    method: ClassVar[str] = "latent-knn"
    cost: ClassVar[str] = "classes * steps; twice that with heun, and twice that with guidance"

    backbone: Any = option("digits-ddpm", ANYTHING, positional=True)
    steps: int = option(25, STEPS)
    solver: Literal["euler", "heun"] = option("euler", one_of("euler", "heun"))
    k: int = option(2, whole(1, 10_000))
    pick: Literal["outlier", "inlier"] = option("outlier", one_of("outlier", "inlier"))
    reduce: Literal["mean", "kth"] = option("mean", one_of("mean", "kth"))
    reference: Any = option(None, ANYTHING)
    template: str | None = option(None, TEMPLATES)
    guidance: float = option(1.0, GUIDANCE)

    def count_evals(self, n_labels: int) -> int:
        """`classes * steps`, twice that with Heun and twice that with guidance."""
        guided = 1 if self.guidance == 1 else 2
        return n_labels * self.steps * (2 if self.solver == "heun" else 1) * guided

    def _check_options(self) -> None:
        if self.k == 1 and self.pick == "inlier":
            raise InputError(
                "pick='inlier' with k=1 always ties: the two closest latents are each other's "
                "nearest. Use k=2 or more."
            )

    def _check_count(self, n_labels: int) -> None:
        if n_labels < 3:
            raise InputError(
                f"latent-knn needs at least 3 classes; got {n_labels}: the distances of two "
                "latents to each other are equal."
            )
        if self.k > n_labels - 1:
            raise InputError(
                f"k must be at most the number of other classes, {n_labels - 1}; got {self.k}."
            )

    def _classes(self, n: int, labels: list[list[str]] | None) -> Classes:
        if self.reference is not None and labels is not None:
            raise InputError(
                "latent-knn with reference images compares the fitted classes; got candidates of "
                "each image's own. Leave reference or candidates out."
            )
        return super()._classes(n, labels)

    def _fit_classes(self) -> None:
        super()._fit_classes()
        self.units_: np.ndarray | None = None
        if self.reference is not None:
            images = self.reference
            try:
                if isinstance(images, str | Path) and os.path.isdir(images):  # noqa: PTH112
                    images = image_files(images)  # pathlib raises where a name is too long
                loaded = self._load(images)
            except InputError as error:
                raise InputError(f"reference: {error}") from None
            self.reference_digest_ = digest(loaded)
            seen = [self._distances(z) for z in self._latents(loaded)]
            self.units_ = np.maximum(np.mean(seen, axis=0), np.finfo(float).tiny)

    def _distances(self, latents: np.ndarray) -> np.ndarray:
        return neighbour_logits(latents, self.k, "outlier", self.reduce)

    def latents(self, images: Any) -> np.ndarray:
        """Latents of unit variance `[b, k, *shape]` of each image under each fitted class.

        Raises:
            InputError: see `scores`.
        """
        loaded, _ = self._inputs(images, None)
        return self._latents(loaded)

    def _latents(self, loaded: list[np.ndarray]) -> np.ndarray:
        classes = self._classes(len(loaded), None)
        return np.stack([o.extra for o in self._outcomes(loaded, classes)])

    def _program(self, subject: Subject, classes: Classes, image: int) -> Program:
        rows = classes.rows[image]
        latents = yield Jobs(rows, np.zeros_like(rows), np.zeros(len(rows)))
        d = self._distances(latents)
        units = getattr(self, "units_", None)  # without `fit`, candidates of each image's own
        if units is not None:
            d = d / units
        return Outcome(d if self.pick == "outlier" else -d, extra=latents)

    def _evaluate(self, batch: Batch, classes: Classes) -> Results:
        """Latents of unit variance, `[n, *shape]`."""
        low, high = s_range(self.backbone_.schedule)
        grid = log_grid(low, high, self.steps)
        xbar = flow(self.model_, batch.x_0, classes.of(batch), grid, self.solver)
        return Results(xbar.double().cpu().numpy() / np.sqrt(1 + high**2), self.count_evals(1))


def neighbour_logits(latents: np.ndarray, k: int, pick: str, reduce: str) -> np.ndarray:
    """`d_c` or `-d_c` from the latents `[classes, *shape]` of one image."""
    flat = latents.reshape(len(latents), -1)
    squares = (flat**2).sum(1)
    table = np.maximum(squares[:, None] + squares - 2 * flat @ flat.T, 0)
    np.fill_diagonal(table, np.inf)
    nearest = np.sqrt(np.sort(table, axis=1)[:, :k] / flat.shape[1])
    d = nearest.mean(1) if reduce == "mean" else nearest[:, -1]
    return d if pick == "outlier" else -d
