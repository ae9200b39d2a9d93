"""What the methods that carry images through the network class by class have in common."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..backbone import Backbone, Condition, TextBackbone
from ..classifier import Classifier, Progress, Scores, resolve, unique_prompts
from ..errors import InputError
from ..images import to_tensor
from ..noise import image_key
from ..prompts import check_readable, check_templates, fill


@dataclass(frozen=True)
class Rows:
    """Some rows of an (image, class) table, ready for the network.

    Attributes:
        x_0: Encoded image of each row `[r, *shape]`.
        cond: Condition of each row.
        keys: Randomness of each row's image.
        column: Column of each row's class in its image's list.
        image: Position of each row's image.
    """

    x_0: Tensor
    cond: Condition
    keys: list[int]
    column: np.ndarray
    image: np.ndarray


def diffusion_backbone(source: Any, method: str) -> Backbone:
    """The loaded diffusion model.

    Raises:
        InputError: a CLIP model, or what `load` refuses.
    """
    backbone = resolve(source)
    if not isinstance(backbone, Backbone):
        raise InputError(
            f"{method} needs a diffusion model, and {backbone.name} is a CLIP model. "
            "Use method clip, or a diffusion model such as tiny-sd."
        )
    return backbone


def text_backbone(backbone: Backbone, method: str) -> TextBackbone:
    """The backbone as one that reads text.

    Raises:
        InputError: it does not.
    """
    if not isinstance(backbone, TextBackbone):
        raise InputError(
            f"{method} needs a model that reads text, and {backbone.name} does not. "
            "Use a text-to-image model such as tiny-sd, or another method."
        )
    return backbone


class DiffusionMethod(Classifier):
    """A method on a diffusion backbone that reads one prompt a class."""

    guidance: float = 1.0
    template: str | None

    def _check_options(self) -> None:
        """Validate the method's own arguments; the backbone is there."""

    def _prepare(self) -> None:
        self._check_common()
        self.backbone_ = diffusion_backbone(self.backbone, self.method)
        self.templates_ = check_templates(self.template, self.backbone_.template)
        if len(self.templates_) != 1:
            raise InputError(f"{self.method} takes one template; got {len(self.templates_)}.")
        self._check_options()
        self._empty = None if self.guidance == 1 else self.backbone_.embed([""])
        if hasattr(self, "names_"):
            self._check_count(len(self.names_))
            check_readable(self.backbone_, self.names_, self.templates_)
            self._fit_classes()

    def _fit_classes(self) -> None:
        """Compute what belongs to the fitted classes."""
        self._class_conditions = self.backbone_.embed(fill(self.templates_, self.names_))

    def _changed(self, *free: str) -> list[str]:
        """Arguments of the method's own that are not its defaults, but for those that are free."""
        common = ("backbone", "temperature", "priors", "seed", "batch_size", "value_range", *free)
        parameters = inspect.signature(type(self)).parameters
        return [
            name
            for name, value in self.get_params(deep=False).items()
            if name not in common and value != parameters[name].default
        ]

    def _check_candidates(self, labels: list[list[str]]) -> None:
        """Refuse lists of candidates that the method or the model cannot serve."""
        for one in labels:
            self._check_count(len(one))
            check_readable(self.backbone_, one, self.templates_)

    def _rows_a_call(self) -> int:
        """Rows of a network call: the user's number, else the backbone's."""
        return self.batch_size or self.backbone_.default_batch_size()

    def _encode(self, images: list[np.ndarray]) -> Tensor:
        """Images to `x_0` `[b, *shape]`."""
        backbone = self.backbone_
        with torch.no_grad():
            pixels = to_tensor(images, backbone.image_size).to(backbone.device, backbone.dtype)
            return backbone.encode(pixels)

    def _check_count(self, n_labels: int) -> None:
        """Refuse numbers of classes that the method cannot serve."""


class RowMethod(DiffusionMethod):
    """A diffusion method whose (image, class) rows do not need each other in the network.

    Subclasses give `_values`, one number or more a row, and `_combine`, which makes logits of an
    image from the values of its classes. Rows of many images share a batch.
    """

    @abstractmethod
    def _values(self, rows: Rows, progress: Progress | None) -> np.ndarray:
        """float64 `[r, ...]`: what the network says of each row."""

    @abstractmethod
    def _combine(self, values: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Logits `[k]` and details `[k]` from the values `[k, ...]` of an image."""

    def _fitted_temperature(self) -> float | None:
        return self.backbone_.temperatures.get(self.method, {}).get(self._draws_in_use())

    def _draws_in_use(self) -> int:
        """Under which number of draws the card files this method's temperature."""
        return 1

    def _per_call(self) -> int:
        return 1 if self.guidance == 1 else 2

    def _score(
        self,
        images: list[np.ndarray],
        labels: list[list[str]] | None,
        progress: Progress | None,
    ) -> Scores:
        own = [self.names_] * len(images) if labels is None else labels
        logits = np.full((len(images), max(map(len, own))), -np.inf)
        details: dict[str, np.ndarray] = {}
        values: list[list[np.ndarray]] = [[] for _ in images]
        evals = np.array([self.count_evals(len(o)) for o in own])
        vjps = self._vjps([len(o) for o in own])
        done = 0
        for rows in self._rows(images, labels):
            for image, value in zip(rows.image, self._values(rows, progress), strict=True):
                values[image].append(value)
            while done < len(images) and len(values[done]) == len(own[done]):
                row, extra = self._combine(np.stack(values[done]))
                for name, counts in (("evals", evals), ("vjps", vjps)):
                    if name in extra and counts is not None:  # as counted, not as predicted
                        counts[done] = round(extra.pop(name).sum())
                logits[done, : len(row)] = row
                for name, numbers in extra.items():
                    table = details.setdefault(name, np.full(logits.shape, np.nan))
                    table[done, : len(row)] = numbers
                values[done] = []
                done += 1
        return Scores(logits, evals, vjps, details)

    def _vjps(self, n_labels: list[int]) -> np.ndarray | None:
        return None

    def _rows(self, images: list[np.ndarray], labels: list[list[str]] | None) -> Iterator[Rows]:
        """The table in batches, images in turn, the classes of each in their order."""
        backbone = self.backbone_
        if labels is None:
            cond = self._class_conditions
            table = [np.arange(len(cond))] * len(images)
        else:
            self._check_candidates(labels)
            prompts, table = unique_prompts([fill(self.templates_, one) for one in labels])
            cond = backbone.embed(prompts)
        size = self._rows_a_call()
        size = max(1, size // self._per_call())
        which = np.repeat(np.arange(len(images)), [len(t) for t in table])
        column = np.concatenate([np.arange(len(t)) for t in table])
        prompt = np.concatenate(table)
        for start in range(0, len(which), size):
            part = slice(start, start + size)
            first, last = which[part][0], which[part][-1]
            chosen = images[first : last + 1]
            x_0 = self._encode(chosen)
            keys = [image_key(self.seed, image) for image in chosen]
            place = which[part] - first
            yield Rows(
                x_0[torch.from_numpy(place).to(x_0.device)],
                cond[torch.from_numpy(prompt[part]).to(backbone.device)],
                [keys[p] for p in place],
                column[part],
                which[part],
            )
