"""Classifiers: a backbone, a method, and scikit-learn's manners.

`fit(classes)` embeds the label set and trains nothing; `scores` gives logits and counts network
evaluations; `predict_proba` and `predict` follow from the logits. `__init__` only stores, `fit`
validates, computed attributes end in `_`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from threading import RLock
from typing import Any, ClassVar, Self

import numpy as np
from scipy.special import log_softmax
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.exceptions import NotFittedError

from .errors import InputError, NotFinite
from .images import load_image, split_images
from .options import (
    CALLED,
    NOTHING,
    PRIORS,
    SEED,
    TEMPERATURE,
    as_numbers,
    check_options,
    check_value,
    interval,
    one_of,
    option,
    short,
    whole,
)
from .prompts import check_each, check_labels, composed, distinct, label_list
from .temperature import fitted_temperature

Progress = Callable[[int], None]
COMMON = ("backbone", "temperature", "priors", "seed", "batch_size", "value_range")
_LOCK = RLock()


@dataclass(frozen=True)
class Scores:
    """What a classifier computed for a list of images.

    Attributes:
        logits: float64 `[b, k]`, columns in the order of `classes_` or of an image's own
            candidates; rows with fewer candidates end in minus infinity.
        evals: Network evaluations of each image, as counted, int64 `[b]`.
        vjps: Vector-Jacobian products of each image, int64 `[b]`, of methods that take any.
        details: What else the method knows, `[b, k]` each, such as standard errors.
        facts: What records say of each image beside, as JSON has it; empty if nothing.
    """

    logits: np.ndarray
    evals: np.ndarray
    vjps: np.ndarray | None = None
    details: dict[str, np.ndarray] = field(default_factory=dict)
    facts: tuple[dict[str, Any], ...] = ()


@dataclass(kw_only=True, eq=False, repr=False)
class Classifier(ClassifierMixin, BaseEstimator):
    """Base of all methods: a dataclass whose fields are its arguments, checked by `fit`.

    Every subclass takes, beside its own arguments, a model as its first and these:

    Args:
        temperature: Divides the logits. If None, the one fitted for this model, method and
            settings when its card has one, otherwise 1.
        priors: Probability of each class, by name or in order; equal if None.
        seed: Of the noise that belongs to each image.
        batch_size: Rows per network call; the model's own number if None.
        value_range: What black and white are in float images, such as `(0, 1)`.

    Attributes:
        classes_: Class labels, after `fit`; the order of the columns.
    """

    method: ClassVar[str]
    needs: ClassVar[str] = "a diffusion model"
    cost: ClassVar[str]
    draw_arguments: ClassVar[tuple[str, ...]] = ()
    stops_early: ClassVar[bool] = False  # so that `count_evals` is more than most images take

    temperature: float | None = option(None, TEMPERATURE | NOTHING)
    priors: Mapping[str, float] | Sequence[float] | None = option(None, PRIORS)
    seed: int = option(0, SEED)
    batch_size: int | None = option(None, whole(1, 2**20) | NOTHING)
    value_range: tuple[float, float] | None = option(None, interval(-1e9, 1e9) | NOTHING)

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
        """An upper bound of network evaluations per image, for estimates before the work."""

    def _fitted_temperature(self) -> float | None:
        """The card's temperature for the present settings, if it has one."""
        backbone = getattr(self, "backbone_", None)
        if backbone is None:
            return None
        return fitted_temperature(
            backbone.temperatures, self.method, self.settings(), self._draws_in_use()
        )

    def settings(self) -> dict[str, Any]:
        """The arguments that a logit depends on, but for the number of draws."""
        return {
            name: value
            for name, value in self.get_params(deep=False).items()
            if name not in COMMON and name not in self.draw_arguments
        }

    def _draws_in_use(self) -> int:
        """The number of draws that a temperature belongs to."""
        return int(np.prod([getattr(self, name) for name in self.draw_arguments], dtype=int))

    # -- scikit-learn ----------------------------------------------------------------------

    def fit(self, X: Any = None, y: Any = None) -> Self:
        """Set the classes. Nothing is trained.

        Args:
            X: The class names in their order, when `y` is None; otherwise images, which are not
                looked at.
            y: Labels of the images: the classes are their sorted distinct values.

        Raises:
            InputError: unusable labels or arguments. What was fitted before stays so.
        """
        if X is None and y is None:
            raise InputError("fit needs the class names: fit(['cat', 'dog']).")
        check_options(self)
        values = label_list(X) if y is None else distinct(y, X)
        names = check_labels(values)
        log_priors = self._log_priors(names)
        with self._kept_if_refused():
            self.classes_ = np.asarray(values if y is not None else names)
            self.names_ = names
            self._ready()
            self.log_priors_ = log_priors
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
        check_value("progress", progress, CALLED)
        loaded, labels = self._inputs(images, candidates)
        return self._scored(loaded, labels, progress)

    def predict_proba(
        self, X: Any, candidates: Sequence[Sequence[str]] | None = None
    ) -> np.ndarray:
        """`softmax(logits / temperature + log priors)`, float64 `[b, k]`."""
        proba = self.probabilities(self.scores(X, candidates), fitted=candidates is None)
        return self._as_output(proba, X, candidates)

    def predict_log_proba(
        self, X: Any, candidates: Sequence[Sequence[str]] | None = None
    ) -> np.ndarray:
        """Logarithms of `predict_proba`, float64 `[b, k]`, finite for every class."""
        log_p = self.log_probabilities(self.scores(X, candidates), fitted=candidates is None)
        return self._as_output(log_p, X, candidates)

    def set_output(self, *, transform: str | None = None) -> Self:
        """What `predict_proba` and `predict_log_proba` give.

        Leave it at arrays within scikit-learn's `cross_val_score` and the like, whose scorers want
        those.

        Args:
            transform: `pandas` gives a data frame whose columns are the classes (an array all
                the same for candidates of each image's own), `default` an array; None changes
                nothing.

        Raises:
            InputError: anything else.
        """
        if transform is not None:
            check_value("transform", transform, one_of("default", "pandas"))
            self._output = transform
        return self

    def _as_output(self, values: np.ndarray, X: Any, candidates: Any) -> Any:
        if candidates is not None or getattr(self, "_output", "default") == "default":
            return values
        from pandas import DataFrame

        index = X.index if hasattr(X, "iloc") else None
        return DataFrame(values, index=index, columns=self.classes_)

    def predict(self, X: Any, candidates: Sequence[Sequence[str]] | None = None) -> np.ndarray:
        """The most probable label of each image, an array of texts `[b]`.

        Args:
            X: Images, see `scores`.
            candidates: Labels of each image's own, see `scores`.

        Raises:
            InputError: see `scores`.
            Unfitted: neither fitted nor given candidates.
        """
        if candidates is not None and not isinstance(candidates, str):
            with suppress(TypeError):  # what is no list of lists is refused below
                candidates = [c if isinstance(c, str) else list(c) for c in candidates]
        proba = self.predict_proba(X, candidates)
        best = np.asarray(proba).argmax(1)
        if candidates is None:
            return self.classes_[best]
        return np.array([c[i] for c, i in zip(candidates, best, strict=True)])

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Share of the images whose most probable label is theirs.

        Raises:
            InputError: see `scores`; labels that are missing, of odd kinds, or too few.
        """
        self._check_fitted()
        if getattr(y, "ndim", 1) == 2 and y.shape[1] == 1:  # a column, which fit takes too
            y = np.asarray(y).ravel()
        labels = [composed(own) if isinstance(own, str) else own for own in label_list(y)]
        check_each(labels)
        try:
            return float(super().score(X, np.asarray(labels), sample_weight))
        except InputError:
            raise
        except (ValueError, TypeError) as error:  # scikit-learn's word for what does not fit
            raise InputError(f"score: {' '.join(str(error).split())[:300]}") from None

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

    @property
    def calibrated(self) -> bool:
        """Whether probabilities are calibrated: a temperature was given or fitted."""
        return self.temperature is not None or self._fitted_temperature() is not None

    def __sklearn_clone__(self) -> Self:
        """A copy with the same arguments that shares the backbone's weights."""
        own = self.get_params(deep=False)
        copied = {
            name: value if name == "backbone" else clone(value, safe=False)
            for name, value in own.items()
        }
        made = type(self)(**copied)
        return made.set_output(transform=getattr(self, "_output", None))

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "classes_")

    # -- shared checks ---------------------------------------------------------------------

    def _ready(self) -> None:
        """Prepare, and remember the arguments that this was done with."""
        check_options(self)
        self._prepare()
        self._prepared_with = self.get_params(deep=True)

    def _refresh(self) -> None:
        """Arguments that were changed after `fit` take effect: what belongs to them is anew."""
        with _LOCK:
            if _same(self._prepared_with, self.get_params(deep=True)):
                return
            with self._kept_if_refused():
                self._ready()
                if hasattr(self, "names_"):
                    self.log_priors_ = self._log_priors(self.names_)

    @contextmanager
    def _kept_if_refused(self) -> Iterator[None]:
        """Attributes are what they were before where something raises: names are never those of
        one fit and embeddings those of another, and arguments that are set back are as before."""
        before = dict(self.__dict__)
        try:
            yield
        except BaseException:
            for name in self.__dict__.keys() - before.keys():
                del self.__dict__[name]
            self.__dict__.update(before)
            raise

    def _scored(
        self,
        images: list[np.ndarray],
        labels: list[list[str]] | None,
        progress: Progress | None,
    ) -> Scores:
        """The method's scores, checked."""
        return self._finite(self._score(images, labels, progress), labels)

    def _finite(self, scores: Scores, labels: list[list[str]] | None) -> Scores:
        """The scores, if every logit of a class is a number.

        Raises:
            NotFinite: naming the images and the likeliest cause.
        """
        width = scores.logits.shape[1]
        counts = [width] * len(scores.logits) if labels is None else map(len, labels)
        rows = zip(scores.logits, counts, strict=True)
        bad = [i for i, (row, n) in enumerate(rows) if not np.isfinite(row[:n]).all()]
        if bad:
            raise NotFinite(self.backbone_, self.networks(), bad)
        return scores

    def networks(self) -> dict[str, Any]:
        """Everything with weights that a score depends on, by name."""
        return self.backbone_.networks()

    def _inputs(
        self, images: Any, candidates: Sequence[Sequence[str]] | None
    ) -> tuple[list[np.ndarray], list[list[str]] | None]:
        if hasattr(self, "_prepared_with"):
            self._refresh()
            self._end_training()
        loaded = self._load(images)
        if candidates is None:
            self._check_fitted()
            return loaded, None
        labels = _each(candidates)
        if len(labels) != len(loaded):
            raise InputError(
                f"candidates holds one list per image; got {len(labels)} lists for "
                f"{len(loaded)} images."
            )
        if not hasattr(self, "_prepared_with"):
            self._ready()
            self._end_training()
        return loaded, labels

    def _end_training(self) -> None:
        """Networks may have trained since they were loaded: without dropout from here on."""
        for network in self.networks().values():
            network.eval()

    def _check_fitted(self) -> None:
        if not hasattr(self, "classes_"):
            raise Unfitted(
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

    def _log_priors(self, names: list[str]) -> np.ndarray:
        if self.priors is None:
            return np.zeros(len(names))
        if isinstance(self.priors, Mapping):
            given = {composed(str(n)): p for n, p in self.priors.items()}
            missing = [n for n in names if n not in given]
            if missing:
                raise InputError(f"priors lack {', '.join(map(repr, missing))}. Name every class.")
            strange = [n for n in given if n not in names]
            if strange:
                raise InputError(
                    f"priors name {', '.join(map(repr, strange))}, which {_are(strange)} of the "
                    f"classes {', '.join(map(repr, names))}. Leave out what is no class."
                )
            values = as_numbers([given[n] for n in names])
        else:
            values = as_numbers(self.priors)
        if values.shape != (len(names),) or not (np.isfinite(values) & (values > 0)).all():
            raise InputError(
                f"priors are one positive number per class; got {short(self.priors)} for "
                f"{len(names)} classes."
            )
        return log_softmax(np.log(values))


class Unfitted(InputError, NotFittedError):
    """A classifier was used before `fit`."""


def resolve(model: Any) -> Any:
    """A loaded model: `model` itself, or what `diffzero.load` makes of a name or pipeline."""
    from .models.load import load

    return load(model)


def _same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two sets of arguments are alike; arrays are compared by what they hold."""
    try:
        return a.keys() == b.keys() and all(
            a[k] is b[k] or (type(a[k]) is type(b[k]) and bool(np.all(a[k] == b[k]))) for k in a
        )
    except Exception:  # values that cannot be compared
        return False


def unique_prompts(groups: Iterable[list[str]]) -> tuple[list[str], list[np.ndarray]]:
    """Distinct prompts in order of appearance, and for each group the rows of its prompts."""
    table: dict[str, int] = {}
    rows = [np.array([table.setdefault(p, len(table)) for p in group]) for group in groups]
    return list(table), rows


def _are(names: Sequence[str]) -> str:
    return "is none" if len(names) == 1 else "are none"


def _each(candidates: Sequence[Sequence[str]]) -> list[list[str]]:
    """The labels of every image, checked."""
    several = isinstance(candidates, list | tuple | np.ndarray) or hasattr(candidates, "iloc")
    if not several or any(isinstance(own, str) for own in candidates):
        raise InputError(
            "candidates holds one list of labels per image, such as [['cat', 'dog'], ['cat', "
            f"'fox']] for two; got {short(candidates)}."
        )
    labels = []
    for position, own in enumerate(candidates):
        try:
            labels.append(check_labels(own))
        except InputError as error:
            raise InputError(f"Candidates of image {position}: {error}") from None
    return labels
