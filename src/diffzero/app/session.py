"""One call of `diffzero evaluate`: from what the user typed to a summary."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import typer

from ..data import Dataset, open_data, parse_subset, read_names, read_templates, set_of_hub
from ..data.matching import match_names, some, spelled_alike
from ..errors import InputError
from ..evaluate import config as configuration
from ..evaluate.corrupt import parse_corruption
from ..evaluate.draws import DrawParts
from ..evaluate.run import Scorer, first_chunk, pending, run
from ..evaluate.store import RunStore
from ..evaluate.summary import read_run, summarise
from .advice import model_for
from .build import ModelChoice, network_rows
from .console import note, note_waiting, print_table, progress_bar, say, say_json


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
        if chosen and not spelled_alike(dataset.classes, chosen):
            found = match_names(dataset.classes, chosen, dataset.ordered, self.source)
            pairs = [f"{own} is {name}" for own, name in found.items() if name is not None]
            if len(pairs) == len(found):
                note(f"classes matched by their order: {some(pairs)}")
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
        typer.Exit: with 2, after all else is done, if images could not be used; with 130, if the
            user interrupts.
    """
    corruption = parse_corruption(data.corrupt, model.seed)
    dataset = data.open(model.seed)
    if not model.model:
        model = replace(model, model=model_for(dataset.classes))
    template = read_templates(data.template, "{}")
    note_waiting(f"loading {model.model}")
    classifier, warned = _fitted(model, dataset.classes, template)
    scorer: Scorer | None = Scorer(classifier, corruption, keep_draws)
    config = configuration.make_config(
        dataset, classifier, model.model,
        chosen=data.described(), keep_draws=keep_draws, warned=warned,
    )  # fmt: skip
    plan = Plan.of(classifier)
    with RunStore(place.out, config, retry_errors) as store:
        todo = len(pending(dataset, store))
        announce(dataset, config, todo)
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


def _fitted(
    model: ModelChoice, names: list[str], template: list[str] | None
) -> tuple[Any, list[str]]:
    """The classifier, and what it warns about words that its model never saw."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        classifier = model.build(names, template)
    warned = [str(w.message) for w in caught if "never saw the words" in str(w.message)]
    for text in warned:
        note(f"warning: {text}")
    return classifier, warned


@dataclass(frozen=True)
class Plan:
    """What scheduling needs to know of a classifier.

    Attributes:
        evals: Network evaluations per image.
        rows: Rows in each call of the network.
        device: Where the network is.
    """

    evals: int
    rows: int
    device: Any

    @classmethod
    def of(cls, classifier: Any) -> Plan:
        """Of a fitted classifier."""
        evals = classifier.count_evals(len(classifier.names_))
        return cls(evals, network_rows(classifier), classifier.backbone_.device)


def announce(dataset: Dataset, config: dict[str, Any], todo: int) -> None:
    """What is about to happen, and what it costs."""
    done = len(dataset.examples) - todo
    note(
        f"{len(dataset.examples):,} images of {dataset.name}"
        + (f" ({dataset.split})" if dataset.split else "")
        + f", {len(dataset.classes)} classes, {config['method']} on {config['model']['name']}: "
        + (f"{done:,} are done, " if done else "")
        + f"{todo * config['evaluations_per_image']:,} evaluations to do"
        + (" at most" if config["method"] == "race" else "")
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
    from ..evaluate.cluster import Pool

    pool = Pool(
        model, names, template, scorer.corruption, scorer.keep_draws,
        workers=place.workers, address=place.ray, gpus=place.gpus_per_worker,
    )  # fmt: skip
    return pool.score


def _go(dataset: Dataset, store: RunStore, score: Any, plan: Plan, todo: int, local: bool) -> None:
    # Workers get smaller chunks than one process grows to: a killed one loses little.
    first = first_chunk(plan.evals, plan.rows) if local else max(1, min(32, todo // 16))
    done = total = len(dataset.examples)
    done -= todo

    def advance(images: int) -> None:
        nonlocal done
        done += images
        progress(images * plan.evals)

    try:
        with progress_bar(todo * plan.evals) as progress:
            run(dataset, store, score, first=first, grow=local, advance=advance)
    except KeyboardInterrupt:
        note(
            f"stopped: {done:,} of {total:,} images are done and kept; run the same command "
            "again to go on."
        )
        raise typer.Exit(130) from None


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
    """The summary, and exit with 2 if images could not be used."""
    if as_json:
        say_json(result)
    else:
        _say_table(result)
        say(str(out))
    if result["errors"]:
        note(
            f"{result['errors']} of {result['expected']} images could not be used; the others are "
            f"done. See records.jsonl; --retry-errors does them again."
        )
        raise typer.Exit(2)


def _say_table(result: dict[str, Any]) -> None:
    rows = [
        (name, f"{result['metrics'][name]:.4f}", f"[{low:.4f}, {high:.4f}]")
        for name, (low, high) in result["intervals"].items()
    ]
    print_table([f"{result['images']:,} images", "value", "95 % interval"], rows)
