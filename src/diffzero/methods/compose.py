"""Combinations: classifiers that hold classifiers.

A cheap first stage can narrow the classes for an expensive second one (`Shortlist`), several
opinions can be averaged (`Blend`), and images that the first is sure of need no second
(`HandOver`).

References:
    Ge et al., Improving Zero-shot Generalization and Robustness of Multi-modal Models, 2022.
    https://arxiv.org/abs/2212.01758
    Hinton, Products of Experts, 1999.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.special import log_softmax
from sklearn.base import clone

from ..classifier import Classifier, Progress, Scores, resolve
from ..errors import InputError
from ..images import affine
from ..noise import image_key, jitter
from ..options import (
    ANYTHING,
    ARRAY,
    NOTHING,
    SEED,
    WORDS,
    as_numbers,
    number,
    option,
    several,
    whole,
)


@dataclass(kw_only=True, eq=False, repr=False)
class Combination(Classifier):
    """What combinations share: members are cloned and fitted, networks are not copied."""

    seed: int | None = option(None, SEED | NOTHING)  # type: ignore[assignment]

    def _member(self, name: str, member: Any, names: list[str] | None = None) -> Classifier:
        """A fitted copy of a member, with the combination's seed and batch size if it has any.

        Args:
            name: What messages call it.
            member: A classifier.
            names: The classes it is fitted with; those of the combination if None.

        Raises:
            InputError: not a classifier.
        """
        if not isinstance(member, Classifier):
            raise InputError(
                f"{name} of {type(self).__name__} must be a classifier such as CLIP('tiny-clip'); "
                f"got {type(member).__name__}."
            )
        copy = clone(member)
        for name in ("seed", "batch_size", "value_range"):
            if getattr(self, name) is not None and name in copy.get_params(deep=False):
                copy.set_params(**{name: getattr(self, name)})
        if isinstance(
            getattr(copy, "backbone", None), str
        ):  # one model per name, not one per member
            models = self.__dict__.setdefault("_models", {})
            if copy.backbone not in models:
                models[copy.backbone] = resolve(copy.backbone)
            copy.set_params(backbone=models[copy.backbone])
        if hasattr(self, "names_"):
            return copy.fit(names or self.names_)
        copy._ready()
        return copy

    @abstractmethod
    def _members(self) -> list[Classifier]:
        """The fitted members."""

    @property
    def calibrated(self) -> bool:
        """Whether every member is."""
        return all(member.calibrated for member in self._members())

    def networks(self) -> dict[str, Any]:
        """Those of all members: any may be why a score is not finite."""
        found: dict[str, Any] = {}
        for member in self._members():
            for name, network in member.networks().items():
                own = found.get(name, network) is network
                found[name if own else f"{name} of {member.backbone_.name}"] = network
        return found

    @property
    def backbone_(self) -> Any:
        """The last member's model, the one that decides: records bear its name."""
        return self._members()[-1].backbone_

    def _log_proba(
        self,
        member: Classifier,
        images: list[np.ndarray],
        labels: list[list[str]] | None,
        progress: Progress | None,
    ) -> tuple[np.ndarray, Scores]:
        """A member's `log p(c | image)` `[b, k]`, with its own temperature and priors."""
        scores = member._scored(images, labels, progress)
        return member.log_probabilities(scores, fitted=labels is None), scores


@dataclass(kw_only=True, eq=False, repr=False)
class Shortlist(Combination):
    """The first classifier keeps its best classes, the second decides among them.

        p(c) = p_1(c) for pruned c,    p(c) = sum over kept of p_1 * p_2(c | kept) otherwise.

    No class ever gets probability zero, and a pruned one never wins. Priors, the members' own and
    the combination's, count in both stages, and in what is kept, as the combination's temperature
    does.

    A logit is `log p(c)`.

    Args:
        first: A fast classifier, such as CLIP, or `Weighted(steps=1)` as a screen.
        then: The one that decides.
        keep: Classes it decides among.
        temperature: See `Classifier`; members have their own.
        priors: See `Classifier`.
        seed: Given to both members unless None.
        batch_size: Given to both members unless None.
        value_range: Given to both members unless None.
    """

    method: ClassVar[str] = "shortlist"
    needs: ClassVar[str] = "what its members need"
    cost: ClassVar[str] = "the first's for all classes, and the second's for those kept"

    first: Any = option(None, ANYTHING, positional=True)
    then: Any = option(None, ANYTHING, positional=True)
    keep: int = option(5, whole(2, 10_000), positional=True)

    def count_evals(self, n_labels: int) -> int:
        """The first's for all classes, the second's for those kept."""
        kept = min(self.keep, n_labels)
        return self.first_.count_evals(n_labels) + self.then_.count_evals(kept)

    def _prepare(self) -> None:
        self.first_ = self._member("first", self.first)
        self.then_ = self._member("then", self.then)

    def _members(self) -> list[Classifier]:
        return [self.first_, self.then_]

    def _score(
        self,
        images: list[np.ndarray],
        labels: list[list[str]] | None,
        progress: Progress | None,
    ) -> Scores:
        log_p, scores = self._log_proba(self.first_, images, labels, progress)
        own = [self.names_] * len(images) if labels is None else labels
        nothing = np.zeros(log_p.shape[1])
        outer, inner, t = nothing, nothing, self.temperature_in_use()
        if labels is None:
            outer, inner = self.log_priors_, self.then_.log_priors_
        kept = [
            np.sort(np.argsort(-(row / t + outer)[: len(o)], kind="stable")[: self.keep])
            for row, o in zip(log_p, own, strict=True)
        ]
        words = [[o[c] for c in columns] for o, columns in zip(own, kept, strict=True)]
        more = self.then_._scored(images, words, progress)
        second = more.logits / self.then_.temperature_in_use()
        for row, columns, decided in zip(log_p, kept, second, strict=True):
            mass = np.logaddexp.reduce(row[columns])
            row[columns] = mass + log_softmax(decided[: len(columns)] + inner[columns])
        return Scores(
            log_p,
            scores.evals + more.evals,
            added(scores.vjps, more.vjps),
            facts=more.facts,  # of the stage that decides
        )


@dataclass(kw_only=True, eq=False, repr=False)
class Blend(Combination):
    """Weighted product of several classifiers' probabilities.

        logit_c = sum over members of  w_m log p_m(c),    w normalised to sum to 1.

    A logit is that mean log-probability; members' temperatures decide how far each is trusted.

    Args:
        members: Classifiers.
        weights: One positive number per member; equal if None.
        temperature: See `Classifier`; members have their own.
        priors: See `Classifier`.
        seed: Given to all members unless None.
        batch_size: Given to all members unless None.
        value_range: Given to all members unless None.
    """

    method: ClassVar[str] = "blend"
    needs: ClassVar[str] = "what its members need"
    cost: ClassVar[str] = "the sum of the members'"

    members: Sequence[Any] = option((), several(ANYTHING, 64), positional=True)
    weights: Sequence[float] | None = option(
        None, several(number(1e-6, 1e6), 64) | ARRAY | NOTHING, positional=True
    )

    def count_evals(self, n_labels: int) -> int:
        """The sum of the members'."""
        return sum(m.count_evals(n_labels) for m in self.members_)

    def _prepare(self) -> None:
        members = list(self.members)
        if len(members) < 2:
            raise InputError(f"Blend takes at least two members; got {len(members)}.")
        raw = np.ones(len(members)) if self.weights is None else as_numbers(self.weights)
        if raw.shape != (len(members),) or not ((raw > 0) & np.isfinite(raw)).all():
            raise InputError(
                f"weights are one positive number per member; got {list(raw)} for {len(members)}."
            )
        self.weights_ = raw / raw.sum()
        self.members_ = [self._member(f"member {i}", m) for i, m in enumerate(members)]

    def _members(self) -> list[Classifier]:
        return self.members_

    def _score(
        self,
        images: list[np.ndarray],
        labels: list[list[str]] | None,
        progress: Progress | None,
    ) -> Scores:
        found = [self._log_proba(m, images, labels, progress) for m in self.members_]
        logits = sum(w * log_p for w, (log_p, _) in zip(self.weights_, found, strict=True))
        vjps = None
        for _, scores in found:
            vjps = added(vjps, scores.vjps)
        evals = np.sum([s.evals for _, s in found], axis=0)
        return Scores(np.asarray(logits), evals, vjps)


@dataclass(kw_only=True, eq=False, repr=False)
class HandOver(Combination):
    """Trust the first classifier where its answer is stable, hand the other images over.

    Stable means that its best class is the same under every template and on every augmented
    image. Those images keep the first's probabilities; the others get the second's.

    A logit is `log p(c)` of the classifier that decided. `details["handed_over"]` is 1 in every
    column of an image that the second decided.

    Args:
        first: A fast classifier that takes `template`, such as CLIP.
        then: The one that decides the rest.
        templates: Templates that must agree, each with `{}` for the label.
        augmentations: Slightly turned, scaled and shifted copies of the image that must agree.
        temperature: See `Classifier`; members have their own.
        priors: See `Classifier`.
        seed: Given to both members unless None.
        batch_size: Given to both members unless None.
        value_range: Given to both members unless None.
    """

    method: ClassVar[str] = "hand-over"
    needs: ClassVar[str] = "what its members need"
    cost: ClassVar[str] = (
        "(1 + templates + augmentations) times the first's, and the second's for the images "
        "handed over"
    )

    first: Any = option(None, ANYTHING, positional=True)
    then: Any = option(None, ANYTHING, positional=True)
    templates: Sequence[str] = option(
        ("a photo of a {}", "a picture of a {}", "a {}"), several(WORDS, 64), positional=True
    )
    augmentations: int = option(4, whole(0, 64), positional=True)

    def count_evals(self, n_labels: int) -> int:
        """At most: as if every image were handed over."""
        looks = 1 + len(self.variants_) + self.augmentations
        return looks * self.first_.count_evals(n_labels) + self.then_.count_evals(n_labels)

    def _prepare(self) -> None:
        self.first_ = self._member("first", self.first)
        self.then_ = self._member("then", self.then)
        if "template" not in self.first_.get_params(deep=False):
            raise InputError(f"first must take a template; {self.first_.method} takes none.")
        self.variants_ = [
            self._member("first", clone(self.first).set_params(template=t)) for t in self.templates
        ]

    def _members(self) -> list[Classifier]:
        return [self.first_, self.then_]

    def _score(
        self,
        images: list[np.ndarray],
        labels: list[list[str]] | None,
        progress: Progress | None,
    ) -> Scores:
        log_p, scores = self._log_proba(self.first_, images, labels, progress)
        answers, evals = [log_p.argmax(1)], scores.evals.copy()
        for variant in self.variants_:
            again, more = self._log_proba(variant, images, labels, progress)
            answers.append(again.argmax(1))
            evals += more.evals
        for turn in range(self.augmentations):
            turned = [_turned(i, image_key(self.seed or 0, i), turn) for i in images]
            again, more = self._log_proba(self.first_, turned, labels, progress)
            answers.append(again.argmax(1))
            evals += more.evals
        unstable = np.flatnonzero((np.stack(answers) != answers[0]).any(0))
        handed, vjps = np.zeros(log_p.shape), None
        if len(unstable):
            rest = None if labels is None else [labels[i] for i in unstable]
            chosen = [images[i] for i in unstable]
            second, more = self._log_proba(self.then_, chosen, rest, progress)
            log_p[unstable] = -np.inf
            log_p[unstable, : second.shape[1]] = second
            evals[unstable] += more.evals
            handed[unstable] = 1
            if more.vjps is not None:
                vjps = np.zeros(len(images), dtype=np.int64)
                vjps[unstable] = more.vjps
        return Scores(log_p, evals, vjps, {"handed_over": handed})


def added(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
    """The sum of two counts, of which either may be missing."""
    if a is None or b is None:
        return a if b is None else b
    return a + b


def _turned(image: np.ndarray, key: int, number: int) -> np.ndarray:
    """An augmentation of uint8 `[h, w, 3]`: at most 6 degrees, 10 % and 5 % of the side."""
    u = torch.from_numpy(jitter(key, number))[None]
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()
    out = affine(pixels, u[:, 0] * 0.1, 1 + 0.1 * u[:, 1], 0.1 * u[:, 2:4])
    return out[0].permute(1, 2, 0).round().to(torch.uint8).numpy()
