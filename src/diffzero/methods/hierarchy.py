"""Groups of classes first, then the classes of the groups that may hold the answer.

The user's groups, `animal: cat, dog` and so on, make two small questions of one large one,

    p(c) = p(g) p(c | g)    for a class c of group g,

where p(g) comes from the groups' names and p(c | g) from the names of their members. Since p(c) is
at most p(g), groups are opened from the likeliest down until none that is still closed could hold
a better class than the best one found: the answer is that of opening all groups, at the cost of
few. Classes of groups that stay closed share p(g) evenly, which leaves each below the answer.

References:
    Morin and Bengio, Hierarchical Probabilistic Neural Network Language Model, 2005.
    Land and Doig, An Automatic Method of Solving Discrete Programming Problems, 1960 (the bound).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from scipy.special import log_softmax

from ..classifier import Progress, Scores
from ..errors import InputError
from ..options import ANYTHING, option, short
from .compose import Combination, added


@dataclass(frozen=True)
class Group:
    """A group of an image's classes.

    Attributes:
        name: What the first classifier is asked.
        columns: Of its classes in the image's list of labels.
    """

    name: str
    columns: list[int]


@dataclass(kw_only=True, eq=False, repr=False)
class Hierarchy(Combination):
    """Decide among groups of classes, then within the groups that may hold the answer.

    A logit is `log p(c)`. `Scores.facts` name the groups that were opened for each image.

    Args:
        first: The classifier that decides among groups.
        groups: The classes of each group, such as `{"animal": ["cat", "dog"]}`. A class of no
            group is a group of its own; classes that were not fitted are passed by.
        then: The classifier that decides within a group; `first` if None.
        temperature: See `Classifier`; members have their own.
        priors: See `Classifier`.
        seed: Given to both members unless None.
        batch_size: Given to both members unless None.
        value_range: Given to both members unless None.
    """

    method: ClassVar[str] = "hierarchy"
    needs: ClassVar[str] = "what its members need"
    cost: ClassVar[str] = "the first's for all groups, and the second's for the groups it opens"

    stops_early: ClassVar[bool] = True

    first: Any = option(None, ANYTHING, positional=True)
    groups: Mapping[str, Sequence[str]] | None = option(None, ANYTHING, positional=True)
    then: Any = option(None, ANYTHING, positional=True)

    def count_evals(self, n_labels: int) -> int:
        """At most: the first's for all groups, and the second's as if every group were opened."""
        if not hasattr(self, "names_"):
            return self.first_.count_evals(n_labels) + self.then_.count_evals(n_labels)
        parts = self.parts(self.names_)
        among = self.first_.count_evals(len(parts)) if len(parts) > 1 else 0
        sizes = [len(part.columns) for part in parts if len(part.columns) > 1]
        return among + sum(map(self.then_.count_evals, sizes))

    def parts(self, labels: Sequence[str]) -> list[Group]:
        """The groups of a list of labels, in the order of their first classes."""
        found: dict[str, list[int]] = {}
        for column, label in enumerate(labels):
            found.setdefault(self.group_of_.get(label, label), []).append(column)
        return [Group(name, columns) for name, columns in found.items()]

    def _prepare(self) -> None:
        self.group_of_ = checked(self.groups)
        names = [g.name for g in self.parts(self.names_)] if hasattr(self, "names_") else []
        self.first_ = self._member("first", self.first, names if len(names) > 1 else None)
        self.then_ = self._member("then", self.first if self.then is None else self.then)

    def _members(self) -> list[Any]:
        return [self.first_, self.then_]

    def _score(
        self,
        images: list[np.ndarray],
        labels: list[list[str]] | None,
        progress: Progress | None,
    ) -> Scores:
        own = [self.names_] * len(images) if labels is None else labels
        search = _Search(self, images, own, labels is None, progress)
        while search.open_next():
            pass
        return search.found()


class _Search:
    """One search per image, their questions asked together.

    Args:
        hierarchy: Its members answer.
        images: uint8 `[h, w, 3]` each.
        labels: The classes of each image.
        fitted: Whether they are the fitted ones, whose priors count.
        progress: Told of evaluations.
    """

    def __init__(
        self, hierarchy: Hierarchy, images: list[np.ndarray], labels: list[list[str]],
        fitted: bool, progress: Progress | None,
    ) -> None:  # fmt: skip
        self.by, self.images, self.labels, self.fitted = hierarchy, images, labels, fitted
        self.progress = progress
        self.evals = np.zeros(len(images), dtype=np.int64)
        self.vjps: np.ndarray | None = None
        self.opened: list[list[str]] = [[] for _ in images]
        self.log_p = np.full((len(images), max(map(len, labels))), -np.inf)
        nothing = np.zeros(self.log_p.shape[1])
        self.outer = hierarchy.log_priors_ if fitted else nothing
        self.inner = hierarchy.then_.log_priors_ if fitted else nothing
        self.closed: list[dict[str, tuple[float, list[int]]]] = [{} for _ in images]
        self._ask_groups([hierarchy.parts(own) for own in labels])

    def _ask_groups(self, parts: list[list[Group]]) -> None:
        """`log p(g)`: of a group of one class its `log p(c)`, of others what is closed yet."""
        asked = [i for i, own in enumerate(parts) if len(own) > 1]
        log_g = {i: np.zeros(1) for i in range(len(parts))}
        if asked:
            names = None if self.fitted else [[g.name for g in parts[i]] for i in asked]
            images = [self.images[i] for i in asked]
            log_p, scores = self.by._log_proba(self.by.first_, images, names, self.progress)
            self._count(asked, scores)
            log_g |= dict(zip(asked, log_p, strict=True))
        for i, own in enumerate(parts):
            for group, value in zip(own, log_g[i], strict=False):
                if len(group.columns) == 1:
                    self.log_p[i, group.columns] = value
                else:
                    self.closed[i][group.name] = (float(value), group.columns)

    def open_next(self) -> bool:
        """Open the likeliest closed group of every image whose answer it may hold."""
        chosen: dict[int, tuple[float, list[int]]] = {}
        t = self.by.temperature_in_use()  # what answers are compared by, priors included
        for i, closed in enumerate(self.closed):
            bounds = {g: p / t + self.outer[columns].max() for g, (p, columns) in closed.items()}
            name = max(bounds, key=bounds.__getitem__, default=None)
            known = (self.log_p[i] / t + self.outer)[np.isfinite(self.log_p[i])]
            if name is not None and (not len(known) or bounds[name] > known.max()):
                chosen[i] = closed.pop(name)
                self.opened[i].append(name)
        if chosen:
            images = [self.images[i] for i in chosen]
            words = [[self.labels[i][c] for c in columns] for i, (_, columns) in chosen.items()]
            scores = self.by.then_._scored(images, words, self.progress)
            self._count(list(chosen), scores)
            logits = scores.logits / self.by.then_.temperature_in_use()
            for (i, (mass, columns)), row in zip(chosen.items(), logits, strict=True):
                own = row[: len(columns)] + self.inner[columns]
                self.log_p[i, columns] = mass + log_softmax(own)
        return bool(chosen)

    def _count(self, rows: list[int], scores: Scores) -> None:
        self.evals[rows] += scores.evals
        if scores.vjps is not None:
            more = np.zeros(len(self.images), dtype=np.int64)
            more[rows] = scores.vjps
            self.vjps = added(self.vjps, more)

    def found(self) -> Scores:
        """The scores; the classes of a closed group share its probability."""
        for row, closed in zip(self.log_p, self.closed, strict=True):
            for mass, columns in closed.values():
                row[columns] = mass - np.log(len(columns))
        facts = tuple({"opened": names} for names in self.opened)
        return Scores(self.log_p, self.evals, self.vjps, facts=facts)


def checked(groups: Any) -> dict[str, str]:
    """The group of every label.

    Raises:
        InputError: no mapping of names to lists of labels, an empty group, or a label twice.
    """
    if not isinstance(groups, Mapping) or not groups:
        raise InputError(
            'groups must map names to labels, such as {"animal": ["cat", "dog"]}; got '
            f"{short(groups)}."
        )
    found: dict[str, str] = {}
    for name, labels in groups.items():
        texts = [name, *labels] if isinstance(labels, Sequence) else []
        words = not isinstance(labels, str) and all(isinstance(t, str) and t for t in texts)
        if not words or len(texts) < 2:
            raise InputError(
                f"Group {short(name)} must be a word with a list of labels; got {short(labels)}."
            )
        for label in labels:
            if found.setdefault(label, name) != name:
                raise InputError(
                    f"Label {short(label)} is in the groups {short(found[label])} and "
                    f"{short(name)}; keep it in one."
                )
    return found
