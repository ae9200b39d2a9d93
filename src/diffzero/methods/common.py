"""What the methods that ask a diffusion model about images have in common."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..classifier import Classifier, Progress, Scores, resolve, unique_prompts
from ..errors import InputError
from ..images import to_tensor
from ..models.backbone import Backbone, naming
from ..models.conditioner import Condition, Text
from ..models.language import LanguageText
from ..models.texts import Remembered
from ..noise import image_key
from ..prompts import check_readable, check_templates, fill
from ..scoring.engine import Batch, Outcome, Program, Results, Subject, run

ENCODED_AT_ONCE = 32  # images


def diffusion_backbone(source: Any, method: str) -> Backbone:
    """The loaded diffusion model.

    Raises:
        InputError: a CLIP model, or what `load` refuses.
    """
    model = resolve(source)
    if not isinstance(model, Backbone):
        raise InputError(
            f"{method} needs a diffusion model, and {model.name} is a CLIP model. "
            "Use method clip, or a diffusion model such as tiny-sd."
        )
    return model


def text_of(model: Backbone, method: str) -> Text:
    """The conditioner of a model that reads text.

    Raises:
        InputError: it does not.
    """
    if isinstance(model.conditioner, Remembered):
        raise InputError(
            f"{method} makes prompts of its own, and the text encoders of {model.name} were "
            "released; load it again."
        )
    if isinstance(model.conditioner, LanguageText):
        raise InputError(
            f"{method} needs the places of single words in a prompt, and a language model reads "
            f"those of {model.name} whole, within a chat or an instruction. Use another method."
        )
    if not isinstance(model.conditioner, Text):
        raise InputError(
            f"{method} needs a model that reads text, and {model.name} does not. "
            "Use a text-to-image model such as tiny-sd, or another method."
        )
    return model.conditioner


@dataclass(frozen=True)
class Classes:
    """The classes of a run: each image's own, as rows of one table of conditions.

    Attributes:
        names: Of each image.
        rows: Rows of the table that are each image's prompts, all templates of the first class,
            then of the second.
        table: Conditions of all distinct prompts; None for methods that make their own.
    """

    names: list[list[str]]
    rows: list[np.ndarray]
    table: Condition | None

    def of(self, batch: Batch) -> Condition:
        """Conditions of a batch's rows."""
        assert self.table is not None
        return self.table[batch.on_device(batch.condition)]


@dataclass(kw_only=True, eq=False, repr=False)
class DiffusionMethod(Classifier):
    """A method on a diffusion model: one program per image, and one way to evaluate a batch."""

    templates_at_most: ClassVar[int] = 1
    expects: ClassVar[bool] = True  # takes the network's answer for an expectation

    @abstractmethod
    def _program(self, subject: Subject, classes: Classes, image: int) -> Program:
        """The program of an image: yields jobs, receives results, returns its outcome."""

    @abstractmethod
    def _evaluate(self, batch: Batch, classes: Classes) -> Results:
        """What the network says of the rows of a batch."""

    def _check_options(self) -> None:
        """Validate what only the model can tell; the model is there."""

    def _check_count(self, n_labels: int) -> None:
        """Refuse numbers of classes that the method cannot serve."""

    def _fit_classes(self) -> None:
        """Compute what belongs to the fitted classes."""
        self._table = self.backbone_.embed(fill(self.templates_, self.names_))

    # -- what is shared --------------------------------------------------------------------

    def _prepare(self) -> None:
        self.backbone_ = diffusion_backbone(self.backbone, self.method)
        if self.expects and self.backbone_.distilled:
            raise InputError(
                f"{self.backbone_.name} was distilled to draw in few steps, so that its output is "
                f"no expectation, which {self.method} takes it for; use noise-denoise."
            )
        if self.expects and self.backbone_.caution:
            said = f"{self.backbone_.name}: {self.backbone_.caution}"
            warnings.warn(said, stacklevel=4)
        guidance = getattr(self, "guidance", 1.0)
        self.model_ = self.backbone_.guided(guidance)
        given = getattr(self, "template", None)
        self.templates_ = check_templates(given, self.backbone_.template)
        if len(self.templates_) > self.templates_at_most:
            raise InputError(f"{self.method} takes one template; got {len(self.templates_)}.")
        self._check_options()
        if hasattr(self, "names_"):
            self._check_labels([self.names_])
            self._fit_classes()

    def _check_labels(self, labels: Sequence[list[str]]) -> None:
        """Refuse lists of classes that the method or the model cannot serve."""
        for one in {tuple(own): own for own in labels}.values():
            self._check_count(len(one))
            check_readable(self.backbone_, one, self.templates_)

    def _classes(self, n: int, labels: list[list[str]] | None) -> Classes:
        """The fitted classes for each of n images, or each image's own."""
        if labels is None:
            every = np.arange(len(self.names_) * len(self.templates_))
            return Classes([self.names_] * n, [every] * n, self._table)
        self._check_labels(labels)
        prompts, rows = unique_prompts([fill(self.templates_, one) for one in labels])
        return Classes(labels, rows, self.backbone_.embed(prompts))

    def _rows_a_call(self) -> int:
        """Rows of a network call, of which guidance makes two of one."""
        return max(1, self._size() // self.model_.denoiser.cost)

    def _size(self) -> int:
        return self.batch_size or self.backbone_.default_batch_size()

    def _encode(self, images: list[np.ndarray]) -> Tensor:
        """Images to `x_0` `[b, *shape]`."""
        return self.backbone_.encode(to_tensor(images, self.backbone_.image_size))

    def _subjects(self, images: list[np.ndarray]) -> Iterator[Subject]:
        """Images as the engine sees them, encoded some at a time."""
        for start in range(0, len(images), ENCODED_AT_ONCE):
            chunk = images[start : start + ENCODED_AT_ONCE]
            for image, x_0 in zip(chunk, self._encode(chunk), strict=True):
                yield Subject(x_0, image_key(self.seed, image))

    def _outcomes(
        self, images: list[np.ndarray], classes: Classes, progress: Progress | None = None
    ) -> Iterator[Outcome]:
        """What the programs conclude, image by image."""
        programs = (
            (subject, self._program(subject, classes, i))
            for i, subject in enumerate(self._subjects(images))
        )
        rows = self._rows_a_call()
        with naming(self.backbone_.name):
            yield from run(programs, lambda b: self._evaluate(b, classes), rows, progress)

    def _score(
        self,
        images: list[np.ndarray],
        labels: list[list[str]] | None,
        progress: Progress | None,
    ) -> Scores:
        classes, outcomes = self._classes(len(images), labels), []
        for outcome in self._outcomes(images, classes, progress):
            outcome.extra = None  # as large as latents; who wants it asks for the outcomes
            outcomes.append(outcome)
        return as_scores(outcomes)


def as_scores(outcomes: Sequence[Outcome]) -> Scores:
    """Outcomes of images side by side; shorter rows end in minus infinity, details in NaN."""
    shape = (len(outcomes), max(len(o.logits) for o in outcomes))
    logits, details = np.full(shape, -np.inf), {}
    for name in outcomes[0].details:
        details[name] = np.full(shape, np.nan)
    for i, outcome in enumerate(outcomes):
        logits[i, : len(outcome.logits)] = outcome.logits
        for name, values in outcome.details.items():
            details[name][i, : len(values)] = values
    evals = np.array([o.evals for o in outcomes], dtype=np.int64)
    vjps = np.array([o.vjps for o in outcomes], dtype=np.int64)
    facts = tuple(o.facts for o in outcomes) if any(o.facts for o in outcomes) else ()
    return Scores(logits, evals, vjps if vjps.any() else None, details, facts)


def gradient(loss: Tensor, leaf: Tensor) -> Tensor:
    """`d loss / d leaf`, detached."""
    return torch.autograd.grad(loss, leaf)[0].detach()
