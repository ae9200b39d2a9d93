"""One call of `diffzero evaluate`: from what the user typed to a summary."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import typer

from ..data import Dataset, open_data, parse_subset, read_names, read_templates, set_of_hub
from ..errors import InputError
from . import config as configuration
from .corrupt import parse_corruption
from .draws import DrawParts
from .run import Scorer, first_chunk, pending, run
from .store import RunStore
from .summary import read_run, summarise


@dataclass(frozen=True)
class DataChoice:
    """Which images and words; the options of the command of the same names."""

    source: str
    split: str | None
    limit: int | None
    subset: str | None
    classes: str | None
    template: list[str] | None
    corrupt: str | None
    image_column: str | None
    label_column: str | None

    def open(self, seed: int) -> Dataset:
        """The chosen images with the names that prompts use."""
        if self.limit is not None and self.limit < 1:
            raise InputError(f"--limit must be at least 1; got {self.limit}.")
        balanced = parse_subset(self.subset)
        chosen = read_names(self.classes) if self.classes else set_of_hub(self.source)
        dataset = open_data(self.source, self.split, self.image_column, self.label_column)
        dataset = dataset.rename(chosen).choose(self.limit, balanced, seed)
        usable = [e for e in dataset.examples if e.problem is None]
        if not usable:
            first = dataset.examples[0].problem if dataset.examples else "nothing was chosen."
            raise InputError(f"{self.source}: no image can be used. The first: {first}")
        return dataset

    def described(self) -> dict[str, Any]:
        """For `config.json`."""
        names = ("limit", "subset", "corrupt", "image_column", "label_column")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class ModelChoice:
    """Which model and method; the options of the command of the same names."""

    model: str
    method: str | None
    settings: list[str] | None
    device: str
    dtype: str | None
    batch_size: int | None
    allow_pickle: bool
    seed: int
    shortlist: str | None = None
    priors: str | None = None
    resolution: int | None = None

    def build(self, names: list[str], template: list[str] | None) -> Any:
        """A fitted classifier."""
        from ..cli import build, parse_priors, parse_settings, shortened

        options: dict[str, Any] = {"seed": self.seed, "batch_size": self.batch_size}
        if template:  # only ensembling methods take lists
            options["template"] = template[0] if len(template) == 1 else template
        options |= parse_settings(self.settings)
        outer = {"priors": parse_priors(self.priors)} if self.priors else {}
        options |= {} if self.shortlist else outer
        classifier = build(
            self.model, self.method, options, self.device, self.dtype, self.allow_pickle,
            self.resolution,
        )  # fmt: skip
        if self.shortlist is not None:
            classifier = shortened(
                classifier, self.shortlist, outer, device=self.device, dtype=self.dtype,
                allow_pickle=self.allow_pickle,
            )  # fmt: skip
        return classifier.fit(names)


@dataclass(frozen=True)
class Place:
    """Where the run lies and who does it; the options of the command of the same names."""

    out: Path
    workers: int | None
    ray: str | None
    gpus_per_worker: float | None


def evaluate_command(
    data: DataChoice,
    model: ModelChoice,
    place: Place,
    *,
    keep_draws: bool,
    retry_errors: bool,
    as_json: bool,
) -> None:
    """Run, or go on with, an evaluation; print its accuracy and write its summary.

    Raises:
        InputError: anything unusable.
        typer.Exit: with 2, after all else is done, if images could not be used.
    """
    from ..cli import note

    corruption = parse_corruption(data.corrupt, model.seed)
    dataset = data.open(model.seed)
    template = read_templates(data.template, "{}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        classifier = model.build(dataset.classes, template)
    warned = [str(w.message) for w in caught if "never saw the words" in str(w.message)]
    for text in warned:
        note(f"warning: {text}")
    scorer: Scorer | None = Scorer(classifier, corruption, keep_draws)
    config = configuration.make_config(
        dataset, classifier, model.model,
        chosen=data.described(), keep_draws=keep_draws, warned=warned,
    )  # fmt: skip
    plan = Plan.of(classifier)
    with RunStore(place.out, config, retry_errors) as store:
        todo = len(pending(dataset, store))
        announce(dataset, config, todo, note)
        if todo:
            (place.out / "summary.json").unlink(missing_ok=True)
            began = time.perf_counter()
            work: Any
            if place.workers is None and place.ray is None:
                work, local = partial(map, scorer), True
            else:
                work, local = _pool(scorer, model, place, dataset.classes, template), False
                classifier = scorer = None  # the workers hold the model; free its memory here
                free(plan.device)
            try:
                _go(dataset, store, work, plan, todo, local)
            finally:
                store.session(_session(plan, todo, time.perf_counter() - began))
        DrawParts(place.out).join()
        result = summarise(read_run(place.out))
        store.finish(result)
    _say(result, place.out, as_json)
    if result["errors"]:
        note(
            f"{result['errors']} of {result['expected']} images could not be used; the others are "
            f"done. See records.jsonl; --retry-errors does them again."
        )
        raise typer.Exit(2)


@dataclass(frozen=True)
class Plan:
    """What scheduling needs to know of a classifier.

    Attributes:
        evals: Network evaluations an image.
        rows: Rows a network call.
        device: Where the network is.
    """

    evals: int
    rows: int
    device: Any

    @classmethod
    def of(cls, classifier: Any) -> Plan:
        """Of a fitted classifier."""
        backbone = classifier.backbone_
        own = backbone.default_batch_size() if hasattr(backbone, "default_batch_size") else 256
        evals = classifier.count_evals(len(classifier.names_))
        return cls(evals, classifier.batch_size or own, backbone.device)


def announce(
    dataset: Dataset, config: dict[str, Any], todo: int, note: Callable[[str], None]
) -> None:
    """What is about to happen, and what it costs."""
    done = len(dataset.examples) - todo
    note(
        f"{len(dataset.examples):,} images of {dataset.name}"
        + (f" ({dataset.split})" if dataset.split else "")
        + f", {len(dataset.classes)} classes, {config['method']} on {config['model']['name']}: "
        + (f"{done:,} are done, " if done else "")
        + f"{todo * config['evaluations_per_image']:,} evaluations to do"
    )


def free(device: Any) -> None:
    """Give back what nobody holds any more."""
    import gc

    import torch

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _pool(
    scorer: Any, model: ModelChoice, place: Place, names: list[str], template: list[str] | None
) -> Callable[[Iterable], Iterable]:
    from .cluster import Pool

    pool = Pool(
        model, names, template, scorer.corruption, scorer.keep_draws,
        workers=place.workers, address=place.ray, gpus=place.gpus_per_worker,
    )  # fmt: skip
    return pool.score


def _go(dataset: Dataset, store: RunStore, score: Any, plan: Plan, todo: int, local: bool) -> None:
    from ..cli import progress_bar

    # Workers get smaller chunks than one process grows to: a killed one loses little.
    first = first_chunk(plan.evals, plan.rows) if local else max(1, min(32, todo // 16))
    with progress_bar(todo * plan.evals) as advance:
        run(
            dataset, store, score, first=first, grow=local,
            advance=lambda images: advance(images * plan.evals),
        )  # fmt: skip


def _session(plan: Plan, todo: int, seconds: float) -> dict[str, Any]:
    return {
        "ended": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": configuration.command(),
        "images_to_do": todo,
        "seconds": round(seconds, 3),
        "peak_memory_bytes": configuration.process_peak(plan.device),
        "versions": configuration.versions(),
        "machine": configuration.machine(plan.device),
    }


def _say(result: dict[str, Any], out: Path, as_json: bool) -> None:
    if as_json:
        print(json.dumps(result, ensure_ascii=False))
        return
    from ..cli import print_table

    rows = [
        (name, f"{result['metrics'][name]:.4f}", f"[{low:.4f}, {high:.4f}]")
        for name, (low, high) in result["intervals"].items()
    ]
    print_table([f"{result['images']:,} images", "value", "95 % interval"], rows)
    print(f"{out}")
