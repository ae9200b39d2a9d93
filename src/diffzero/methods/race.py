"""Race: ELBO's answer from no more draws than the image needs.

All classes of an image see the same draws, and a class leaves once the paired difference of its
errors to the leader's,

    D_i = e_c(t_i, eps_i) - e_leader(t_i, eps_i),

says that it will not win: with `boundary="predictive"`, once the probability that all `max_draws`
draws would put it first falls below its share of `delta`. The classes that are left go on. Images
that are easy end after a few draws, and the draws of a race are the first of those of `ELBO`.

See `diffzero.scoring.rules` for the rules and what they assume, and `docs/racing.md` for what
they cost.

References:
    Li et al., Your Diffusion Model is Secretly a Zero-Shot Classifier, 2023, section 4 (stages of
    fixed length). https://arxiv.org/abs/2303.16203
    Waudby-Smith et al., Time-uniform central limit theory and asymptotic confidence sequences,
    2024. https://arxiv.org/abs/2103.06476
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch

from ..noise import quantiles
from ..options import ANYTHING, FLAG, NOTHING, number, one_of, option, whole
from ..scoring import racing
from ..scoring.control import shrinkage
from ..scoring.denoising import errors_and_products
from ..scoring.engine import Batch, Jobs, Outcome, Program, Results, Subject
from ..scoring.rules import Rule
from ..temperature import fitted_by_draws, temperatures_at
from .common import Classes
from .elbo import ErrorMethod


@dataclass(frozen=True)
class Look:
    """Where the race of an image stands.

    Attributes:
        draws: Draws of each class so far, int64 `[k]`.
        alive: Classes still in the race.
        logits: Of every class so far, `[k]`, on the scale of the final ones.
    """

    draws: np.ndarray
    alive: np.ndarray
    logits: np.ndarray


@dataclass(kw_only=True, eq=False, repr=False)
class Race(ErrorMethod):
    """Diffusion classifier that stops on evidence.

    A logit is minus the leader's mean error less the class's mean paired difference to the leader
    over the draws that both saw; under `control`, draws to come are foretold in these means. What
    `draw_errors` gives are the errors that the race compared, whose means these are; with
    `control=False` they are those of `ELBO`. Where the card has temperatures of `elbo`, logits are
    brought to the scale of `max_draws` draws, so that one temperature serves images that ended
    early or late.
    No class ever gets probability zero. `facts` of each image say what stopped its race
    (`decided` or `max_draws`), the draws of each class, and the labels that hold the answer of
    infinitely many draws with probability 1 - delta (`label_set`).

    Args:
        backbone: A diffusion model, or what `diffzero.load` takes.
        delta: Probability that the race's answer differs from that of `max_draws` draws of every
            class: on average over images with `predictive`, for any image with `mixture`.
        min_draws: Draws before a class may leave.
        max_draws: Draws at which a race ends.
        boundary: `predictive`, or the more cautious `mixture`, see `diffzero.scoring.rules`.
        control: Whether control variates take noise out of what is foretold of the draws to come,
            see `diffzero.scoring.control`; of squared errors only.
        variance: How the variance of a difference over draws is estimated: `distance`, from how
            far apart the predictions of the two classes are, `successive`, from differences alone
            without their trend in time, or `plain`, which counts the trend as noise and is the
            safest where differences are skewed.
        block: Draws of a block with random times of its own; blocks are independent, races move
            by whole ones, and the plain variance of their means counts, without `control`. None
            for one sequence of times, whose draws are those of `ELBO`.
        weights: See `ELBO`.
        loss: See `ELBO`.
        target: See `ELBO`.
        template: One prompt with `{}` for the label; the model's own if None.
        log_snr_range: See `ELBO`.
        t_range: See `ELBO`.
        guidance: Scale of classifier-free guidance; 1 is none.
        temperature: See `Classifier`.
        priors: See `Classifier`.
        seed: See `Classifier`.
        batch_size: See `Classifier`.
        value_range: See `Classifier`.
    """

    method: ClassVar[str] = "race"
    cost: ClassVar[str] = (
        "at most max_draws * classes, most often far less; twice that with guidance"
    )
    draw_arguments: ClassVar[tuple[str, ...]] = ("max_draws",)
    stops_early: ClassVar[bool] = True

    backbone: Any = option("tiny-sd", ANYTHING, positional=True)
    delta: float = option(0.05, number(1e-6, 0.5))
    min_draws: int = option(2, whole(2, 1_024))
    max_draws: int = option(64, whole(2, 1_024))
    boundary: str = option("predictive", one_of("predictive", "mixture"))
    control: bool = option(True, FLAG)
    variance: str = option("distance", one_of("distance", "successive", "plain"))
    block: int | None = option(None, whole(2, 512) | NOTHING)

    def count_evals(self, n_labels: int) -> int:
        """`max_draws * classes`, twice that with guidance: as if no class left early."""
        return self.max_draws * n_labels * (1 if self.guidance == 1 else 2)

    @property
    def draws(self) -> int:
        """Draws of each class at most."""
        return self.max_draws

    def _check_options(self) -> None:
        super()._check_options()
        squared = self.loss == "l2"  # of which alone `scoring.control` knows
        variance = self.variance if squared or self.variance == "plain" else "successive"
        self._controls = self.control and squared and self.block is None
        self._rule = Rule.blocked(
            delta=self.delta, min_draws=self.min_draws, max_draws=self.max_draws,
            boundary=self.boundary, variance=variance, block=self.block,
        )  # fmt: skip
        self._fitted = fitted_by_draws(self.backbone_.temperatures, "elbo", self.settings())

    def places_of(self, key: int, draws: np.ndarray) -> np.ndarray:
        """As those of `ELBO`, or blocks with shifts of their own."""
        return quantiles(key, draws, self.block)

    def watched(self, tell: Callable[[int, Look], None] | None) -> Self:
        """Have every look at a race told, as it happens.

        Args:
            tell: Called with the image's number and the look; what it raises ends the work. None
                for nobody.

        Returns:
            The classifier itself.
        """
        self._tell = tell
        return self

    def _at(self, draws: int) -> float | None:
        """The card's temperature of `elbo` for so many draws; beyond those fitted, the last."""
        return float(temperatures_at(np.array(draws), self._fitted)) if self._fitted else None

    def _fitted_temperature(self) -> float | None:
        return self._at(self.max_draws)

    def scale(self, draws: int) -> float:
        """What brings a logit of so many draws to the scale of `max_draws`."""
        whole, own = self._at(self.max_draws), self._at(draws)
        return 1.0 if whole is None or own is None else whole / own

    def _evaluate(self, batch: Batch, classes: Classes) -> Results:
        if not self._asks_products():
            return super()._evaluate(batch, classes)
        said = errors_and_products(self.model_, batch, classes.of(batch), self.target)
        return Results(said, self.model_.denoiser.cost)

    def _asks_products(self) -> bool:
        return self._controls or self._rule.variance == "distance"

    def _program(self, subject: Subject, classes: Classes, image: int) -> Program:
        rows, tell = classes.rows[image], getattr(self, "_tell", None)
        race = racing.Race(len(rows), self._rule, self._controls)
        weights = np.ones(0)
        while (now := race.standing).reason == "running":
            first = int(race.draws.max())
            draws = np.arange(first, first + now.next_draws)
            place = self.places_of(subject.key, draws)
            t = self.times_.at(place)
            said = yield Jobs.dense(rows[now.alive], draws, t)
            if not np.isfinite(said).all():  # no evidence for or against anything
                nothing = np.full((self._rule.max_draws, len(rows), 1), np.nan)
                return Outcome(np.full(len(rows), np.nan), extra=nothing)
            w = self.times_.weight(t)
            said = said.reshape(len(draws), len(now.alive), -1) * w[:, None, None]
            weights = np.append(weights, w)
            products = said[..., 1:] if self._asks_products() else None
            shrink = shrinkage(self._log_snr(t)) if self._controls else None
            race.update(said[..., 0], place, products, shrink)
            if tell is not None:
                scale = self.scale(int(race.draws.max()))
                tell(image, Look(race.draws.copy(), race.standing.alive, race.logits() * scale))
        logits = race.logits() * self.scale(int(race.draws.max()))
        names = classes.names[image]
        facts = {
            "stopped": race.standing.reason,
            "draws": race.draws.tolist(),
            "label_set": [names[c] for c in race.label_set()],
        }
        compared = (race.errors / weights[:, None])[..., None]
        return Outcome(logits, {"draws": race.draws.astype(float)}, facts, extra=compared)

    def _log_snr(self, t: np.ndarray) -> np.ndarray:
        return self.backbone_.schedule.log_snr(torch.from_numpy(t)).numpy()
