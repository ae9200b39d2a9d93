"""Classifiers: a backbone, a method, and scikit-learn's manners.

`fit(classes)` embeds the label set and trains nothing; `scores` gives logits and counts network
evaluations; `predict_proba` and `predict` follow from the logits. `__init__` only stores, `fit`
validates, computed attributes end in `_`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from scipy.special import log_softmax
from sklearn.base import BaseEstimator, ClassifierMixin, clone

from .errors import InputError
from .images import load_image, split_images
from .prompts import check_labels

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Scores:
    """What a classifier computed for a list of images.

    Attributes:
        logits: float64 `[b, k]`, columns in the order of `classes_` or of an image's own
            candidates; rows with fewer candidates end in minus infinity.
        evals: Network evaluations of each image, int64 `[b]`.
        vjps: Vector-Jacobian products of each image, int64 `[b]`, of methods that take any.
        details: What else the method knows, `[b, k]` each, such as standard errors.
    """

    logits: np.ndarray
    evals: np.ndarray
    vjps: np.ndarray | None = None
    details: dict[str, np.ndarray] = field(default_factory=dict)


class Classifier(ClassifierMixin, BaseEstimator):
    """Base of all methods.

    Every subclass takes, beside its own arguments, `backbone`, `temperature`, `priors`, `seed`,
    `batch_size` and `value_range`:

    Attributes:
        backbone: What `diffzero.load` returns, or what it takes.
        temperature: Divides the logits. If None, the one fitted for this model, method and number
            of draws when its card has one, otherwise 1.
        priors: Probability of each class, by name or in order; equal if None.
        seed: Of the images' noise.
        batch_size: Rows a network call; the backbone's own number if None.
        value_range: What black and white are in float images, such as `(0, 1)`.
        classes_: Class labels, after `fit`; the order of the columns.
    """

    method: str

    backbone: Any
    temperature: float | None
    priors: Mapping[str, float] | Sequence[float] | None
    seed: int
    batch_size: int | None
    value_range: tuple[float, float] | None

    # -- what a method provides ------------------------------------------------------------

    @abstractmethod
    def _prepare(self) -> None:
        """Validate the method's arguments and resolve the backbone; called by `fit`."""

    @abstractmethod
    def _score(
        self,
        images: list[np.ndarray],
        labels: list[list[str]] | None,
        progress: Progress | None,
    ) -> Scores:
        """Scores of loaded images: `labels` is None for the fitted classes."""

    @abstractmethod
    def count_evals(self, n_labels: int) -> int:
        """Network evaluations an image, as the method's docstring predicts them."""

    def _fitted_temperature(self) -> float | None:
        """The card's temperature for the present settings, if it has one."""
        return None

    # -- scikit-learn ----------------------------------------------------------------------

    def fit(self, X: Any = None, y: Any = None) -> Self:
        """Set the classes. Nothing is trained.

        Args:
            X: The class names in their order, when `y` is None; otherwise images, which are not
                looked at.
            y: Labels of the images: the classes are their sorted distinct values.

        Raises:
            InputError: unusable labels or arguments.
        """
        values = (
            list(X) if y is None and not isinstance(X, str) else X if y is None else np.unique(y)
        )
        if values is None:
            raise InputError("fit needs the class names: fit(['cat', 'dog']).")
        names = check_labels(values)
        self.classes_ = np.asarray(values if y is not None else names)
        self.names_ = names
        self._prepare()
        self.log_priors_ = self._log_priors(names)
        return self

    def scores(
        self,
        images: Any,
        candidates: Sequence[Sequence[str]] | None = None,
        progress: Progress | None = None,
    ) -> Scores:
        """Logits and evaluations.

        Args:
            images: One or many: paths, PIL images, arrays, tensors.
            candidates: A list of words or captions for each image, in place of the classes.
            progress: Called with the number of evaluations of each network batch.

        Raises:
            InputError: an unreadable image, named by its position; candidates that do not match.
        """
        loaded, labels = self._inputs(images, candidates)
        return self._score(loaded, labels, progress)

    def predict_proba(
        self, X: Any, candidates: Sequence[Sequence[str]] | None = None
    ) -> np.ndarray:
        """`softmax(logits / temperature + log priors)`, float64 `[b, k]`."""
        return self.probabilities(self.scores(X, candidates), fitted=candidates is None)

    def predict(self, X: Any, candidates: Sequence[Sequence[str]] | None = None) -> np.ndarray:
        """The most probable label of each image."""
        proba = self.predict_proba(X, candidates)
        best = proba.argmax(1)
        if candidates is None:
            return self.classes_[best]
        return np.array([c[i] for c, i in zip(candidates, best, strict=True)])

    def probabilities(self, scores: Scores, *, fitted: bool = True) -> np.ndarray:
        """Probabilities from scores; priors apply to the fitted classes only."""
        return np.exp(self.log_probabilities(scores, fitted=fitted))

    def log_probabilities(self, scores: Scores, *, fitted: bool = True) -> np.ndarray:
        """Their logarithms, finite for every class however improbable."""
        logits = scores.logits / self.temperature_in_use()
        if fitted:
            logits = logits + self.log_priors_
        return log_softmax(logits, axis=1)

    def temperature_in_use(self) -> float:
        """The user's temperature, else the card's, else 1."""
        if self.temperature is not None:
            return float(self.temperature)
        return self._fitted_temperature() or 1.0

    def __sklearn_clone__(self) -> Self:
        """A copy with the same arguments that shares the backbone's weights."""
        own = self.get_params(deep=False)
        copied = {
            name: value if name == "backbone" else clone(value, safe=False)
            for name, value in own.items()
        }
        return type(self)(**copied)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "classes_")

    # -- shared checks ---------------------------------------------------------------------

    def _inputs(
        self, images: Any, candidates: Sequence[Sequence[str]] | None
    ) -> tuple[list[np.ndarray], list[list[str]] | None]:
        loaded = self._load(images)
        if candidates is None:
            self._check_fitted()
            return loaded, None
        labels = _each(candidates)
        if len(labels) != len(loaded):
            raise InputError(
                f"candidates holds one list an image; got {len(labels)} lists for "
                f"{len(loaded)} images."
            )
        if not hasattr(self, "classes_"):
            self._prepare()
        return loaded, labels

    def _check_fitted(self) -> None:
        if not hasattr(self, "classes_"):
            raise InputError(
                f"{type(self).__name__} has no classes yet. Call fit(['cat', 'dog']) first."
            )

    def _load(self, images: Any) -> list[np.ndarray]:
        loaded = []
        for position, source in enumerate(split_images(images)):
            try:
                loaded.append(load_image(source, self.value_range))
            except InputError as error:
                raise InputError(f"Image {position}: {error}") from None
        if not loaded:
            raise InputError("No images were given.")
        return loaded

    def _check_common(self) -> None:
        if self.temperature is not None and not self.temperature > 0:
            raise InputError(f"temperature must be positive; got {self.temperature}.")
        if self.batch_size is not None and self.batch_size < 1:
            raise InputError(f"batch_size must be at least 1; got {self.batch_size}.")

    def _check_choices(self, **allowed: Sequence[str]) -> None:
        """Refuse an argument that is none of the words it may be."""
        for name, words in allowed.items():
            if getattr(self, name) not in words:
                raise InputError(
                    f"{name} must be one of {', '.join(words)}; got {getattr(self, name)!r}."
                )

    def _check_at_least_one(self, *names: str) -> None:
        """Refuse counts below 1."""
        for name in names:
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1; got {getattr(self, name)}.")

    def _log_priors(self, names: list[str]) -> np.ndarray:
        if self.priors is None:
            return np.zeros(len(names))
        if isinstance(self.priors, Mapping):
            missing = [n for n in names if n not in self.priors]
            if missing:
                raise InputError(f"priors lack {', '.join(map(repr, missing))}. Name every class.")
            values = np.array([self.priors[n] for n in names], dtype=float)
        else:
            values = np.array(list(self.priors), dtype=float)
        if len(values) != len(names) or not (values > 0).all():
            raise InputError(
                f"priors are one positive number a class; got {list(values)} for {len(names)} "
                "classes."
            )
        return np.log(values / values.sum())


def resolve(backbone: Any) -> Any:
    """A loaded model: `backbone` itself, or what `diffzero.load` makes of a name or pipeline."""
    from .backbone import Backbone
    from .backbones.clip import ClipBackbone

    if isinstance(backbone, Backbone | ClipBackbone):
        return backbone
    from .loading import load

    return load(backbone)


def unique_prompts(groups: Iterable[list[str]]) -> tuple[list[str], list[np.ndarray]]:
    """Distinct prompts in order of appearance, and for each group the rows of its prompts."""
    table: dict[str, int] = {}
    rows = [np.array([table.setdefault(p, len(table)) for p in group]) for group in groups]
    return list(table), rows


def _each(candidates: Sequence[Sequence[str]]) -> list[list[str]]:
    """The labels of every image, checked."""
    if isinstance(candidates, str) or any(isinstance(own, str) for own in candidates):
        raise InputError(
            "candidates holds one list of labels an image, such as [['cat', 'dog'], ['cat', "
            f"'fox']] for two; got {candidates!r}."
        )
    labels = []
    for position, own in enumerate(candidates):
        try:
            labels.append(check_labels(own))
        except InputError as error:
            raise InputError(f"Candidates of image {position}: {error}") from None
    return labels
