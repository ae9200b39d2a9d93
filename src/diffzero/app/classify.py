"""`diffzero classify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import options
from .build import ModelChoice, expand, read_labels
from .console import note, printable, progress_bar, say, say_json, unbroken
from .records import records, text_of


def classify(
    paths: Annotated[list[str], typer.Argument(help="Images, or folders of images.")],
    labels: Annotated[
        str | None,
        typer.Option(help='Words to choose from: cat,dog. Quote commas: "salt, pepper",oil.'),
    ] = None,
    labels_file: Annotated[Path | None, typer.Option(help="One label a line.")] = None,
    template: Annotated[
        list[str] | None, typer.Option(help="Prompt with {} for the label; repeat to ensemble.")
    ] = None,
    model: options.Model = "tiny-sd",
    method: options.Method = None,
    settings: options.Settings = None,
    shortlist: options.Shortlist = None,
    priors: options.Priors = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    allow_pickle: options.AllowPickle = False,
    resolution: options.Resolution = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = None,
    batch_size: options.BatchSize = None,
) -> None:
    """Put the best of your words on each image, with a probability."""
    names = read_labels(labels, labels_file)
    files = expand(paths)
    choice = ModelChoice(
        model, method, settings, device, dtype, batch_size, allow_pickle, seed, shortlist, priors,
        resolution,
    )  # fmt: skip
    classifier = choice.build(names, template)
    evals = classifier.count_evals(len(names)) * len(files)
    note(
        f"{count(len(files))}, {len(names)} labels, "
        f"{classifier.method} on {classifier.backbone_.name}: {evals:,} evaluations"
    )
    if not classifier.calibrated:
        note(
            "probabilities are not calibrated: no temperature was fitted for this model with "
            "these settings. The order of the labels stands; --set temperature=T sets one."
        )
    failed = answer(classifier, files, evals, as_json)
    if failed:
        note(f"{failed} of {count(len(files))} could not be classified; the others are done.")
        raise typer.Exit(2)


def answer(classifier: Any, files: list[str], evals: int, as_json: bool) -> int:
    """Print the line of each file when it is known; the number of files without an answer.

    Raises:
        typer.Exit: with 130, if the user interrupts; the lines that were printed stay.
    """
    done = failed = 0
    try:
        with progress_bar(evals) as progress:
            for record in records(classifier, files, progress):
                with unbroken():
                    emit(record, as_json)
                    done += 1
                    failed += "error" in record
    except KeyboardInterrupt:
        note(f"stopped: {done:,} of {count(len(files))} are done, and their lines are printed.")
        raise typer.Exit(130) from None
    return failed


def emit(record: dict[str, Any], as_json: bool) -> None:
    """A record on standard output; without `--json`, an error on standard error."""
    if as_json:
        say_json(record)
    elif "error" in record:
        note(f"error: {printable(record['error'])}")
    else:
        say(text_of(record))


def count(images: int) -> str:
    """`1 image`, `3,000 images`."""
    return f"{images:,} image{'s' * (images != 1)}"
