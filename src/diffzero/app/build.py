"""From what the user typed to a fitted classifier."""

from __future__ import annotations

import ast
import csv
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..options import short


@dataclass(frozen=True)
class ModelChoice:
    """Which model and method; the options of the commands of the same names."""

    model: str
    method: str | None = None
    settings: list[str] | None = None
    device: str = "auto"
    dtype: str | None = None
    batch_size: int | None = None
    allow_pickle: bool = False
    seed: int = 0
    shortlist: str | None = None
    priors: str | None = None
    resolution: int | None = None
    open_set: bool = False
    threshold: float | None = None
    race: bool = False
    groups: Path | None = None

    @property
    def told(self) -> list[Any]:
        """The groups as their file has them, an empty list without one."""
        return [] if self.groups is None else [read_groups(self.groups)]

    def build(self, names: list[str], template: list[str] | None) -> Any:
        """A fitted classifier.

        Args:
            names: The labels to choose from.
            template: Prompts with `{}` for the label; the method's own if None.

        Raises:
            InputError: anything that does not fit; what can be checked without the model is
                checked before it is loaded.
        """
        options: dict[str, Any] = {"seed": self.seed, "batch_size": self.batch_size}
        if template:  # only ensembling methods take lists
            options["template"] = template[0] if len(template) == 1 else list(template)
        options |= parse_settings(self.settings)
        outer = {"priors": parse_priors(self.priors)} if self.priors else {}
        first = parse_shortlist(self.shortlist) if self.shortlist is not None else None
        told = self.told
        if told and (first is not None or self.open_set):
            raise InputError("--groups goes with neither --shortlist, --none nor --multi.")
        classifier = self._one(options | ({} if first or told else outer))
        if self.open_set:
            classifier = self._opened(classifier)
        if told:
            from ..methods.hierarchy import Hierarchy

            more = {"seed": classifier.seed} | outer
            classifier = Hierarchy(classifier, told[0], **more)
        if first is not None:
            classifier = self._shortened(classifier, *first, outer)
        return classifier.fit(names)

    def _load(self, model: str, resolution: int | None = None) -> Any:
        from ..models.load import load

        return load(
            model, device=self.device, dtype=self.dtype, allow_pickle=self.allow_pickle,
            resolution=resolution,
        )  # fmt: skip

    def _one(self, options: dict[str, Any]) -> Any:
        """A classifier of the named method, or of the one that fits the model."""
        from ..methods import make, method_class
        from ..models.clip import ClipBackbone

        if self.method is not None:
            method_class(self.method)  # an unknown name fails before the model is loaded
        loaded = self._load(self.model, self.resolution)
        fitting = "clip" if isinstance(loaded, ClipBackbone) else self._fitting(options)
        return make(self.method or fitting, loaded, options)

    def _fitting(self, options: dict[str, Any]) -> str:
        """The method of a diffusion model where the user names none: `race` where that is wanted
        and can serve, or `elbo`, which has `draws`, several templates and the empty prompt."""
        dense = self.open_set or "draws" in options or isinstance(options.get("template"), list)
        return "race" if self.race and not dense else "elbo"

    def _opened(self, classifier: Any) -> Any:
        """The classifier with the empty prompt beside its words.

        Raises:
            InputError: another method than `elbo`.
        """
        from ..methods.elbo import ELBO
        from ..methods.open_set import OpenSet

        if not isinstance(classifier, ELBO) or self.shortlist is not None:
            raise InputError(
                "--none and --multi compare errors with those of the empty prompt, which method "
                "elbo on a diffusion model alone can do. Leave out --method and --shortlist."
            )
        return OpenSet.of(classifier, self.threshold)

    def _shortened(self, classifier: Any, model: str, keep: int, options: dict[str, Any]) -> Any:
        """The classifier behind a CLIP model that keeps its best labels."""
        from ..methods.clip import CLIP
        from ..methods.compose import Shortlist

        first = CLIP(self._load(model))
        return Shortlist(first, classifier, keep, seed=classifier.seed, **options)


def network_rows(classifier: Any) -> int:
    """Rows in one call of a fitted classifier's network."""
    return classifier.batch_size or classifier.backbone_.default_batch_size()


def read_labels(labels: str | None, labels_file: Path | None) -> list[str]:
    """Labels of `--labels` or `--labels-file`, checked.

    Raises:
        InputError: neither or both given, an unreadable file, unusable labels.
    """
    from ..data import read_words, split_labels
    from ..prompts import check_labels

    if (labels is None) == (labels_file is None):
        raise InputError('Give the words to choose from: --labels "cat,dog" or --labels-file.')
    if labels is not None:
        return check_labels(split_labels(labels))
    assert labels_file is not None
    return check_labels(read_words(labels_file))


def read_groups(path: Path) -> dict[str, list[str]]:
    """The groups in a YAML file, `animal: [cat, dog]`, checked.

    Raises:
        InputError: a file that cannot be read, or that holds something else.
    """
    import yaml

    from ..data import read_text
    from ..methods.hierarchy import checked

    text = read_text(path)
    try:
        found = yaml.safe_load(text)
        checked(found)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        why = f"{error} " if isinstance(error, InputError) else ""
        raise InputError(
            f"{path}: holds no groups of labels. {why}Write one a line: animal: [cat, dog]"
        ) from None
    return dict(found)


def check_some_are_there(paths: list[str]) -> None:
    """Refuse paths of which none exists, before a model is loaded for them.

    Raises:
        InputError: naming the first.
    """
    try:
        there = any("://" in path or os.path.lexists(path) for path in paths)
    except ValueError:
        return  # no name that a file can have; its reading says so
    if not there:
        raise InputError(f"{short(paths[0])}: no such file or folder.")


def expand(paths: list[str]) -> list[str]:
    """Files, with every folder replaced by the image files under it, sorted.

    Raises:
        InputError: a folder without images.
    """
    from ..images import image_files

    files: list[str] = []
    for path in paths:
        try:
            folder = Path(path).is_dir()
        except (OSError, ValueError):  # no name that a file can have; its reading says so
            folder = False
        files += list(map(str, image_files(path))) if folder else [path]
    return files


def parse_settings(settings: list[str] | None) -> dict[str, Any]:
    """`name=value` pairs; values are Python literals where they parse as one, else strings.

    `true`, `false` and `null` count as Python's own, in small letters or large.
    """
    spelled = {"true": "True", "false": "False", "null": "None"}
    options: dict[str, Any] = {}
    for setting in settings or []:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise InputError(f"--set takes name=value; got {short(setting)}.")
        try:
            options[name.replace("-", "_")] = ast.literal_eval(spelled.get(value.lower(), value))
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            options[name.replace("-", "_")] = value
    return options


def parse_priors(text: str) -> dict[str, float]:
    """`cat=0.7,dog=0.3` as a dictionary; a label with commas stands in double quotes.

    Raises:
        InputError: another form, a number that is not finite and positive, or two for one label.
    """
    wrong = InputError(
        f"--priors takes label=number,... with one positive number per label; got {short(text)}."
    )
    try:
        (items,) = csv.reader([text], skipinitialspace=True)
        pairs = [item.rsplit("=", 1) for item in items]
        priors = {name.strip(): float(value) for name, value in pairs}
    except (ValueError, csv.Error):
        raise wrong from None
    usable = all(value > 0 and math.isfinite(value) for value in priors.values())
    if len(priors) < len(pairs) or not usable:
        raise wrong
    return priors


def parse_shortlist(text: str) -> tuple[str, int]:
    """`MODEL:N` as its two parts.

    Raises:
        InputError: another form.
    """
    model, _, keep = text.rpartition(":")
    if not model or not (keep.isascii() and keep.isdigit()):
        raise InputError(f"--shortlist takes MODEL:N, such as tiny-clip:5; got {short(text)}.")
    return model, int(keep)
