"""`diffzero classify`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from . import options
from .advice import advise_on_none, advise_on_words, model_for
from .build import ModelChoice, check_some_are_there, expand, read_labels
from .console import note, note_waiting, printable, progress_bar, say, say_json, unbroken
from .keep import Keep
from .records import Wish, records, text_of


def classify(
    paths: Annotated[list[str], typer.Argument(help="Images, or folders of images.")],
    labels: options.Labels = None,
    labels_file: options.LabelsFile = None,
    template: options.Templates = None,
    model: options.FittingModel = None,
    method: options.Method = None,
    settings: options.Settings = None,
    shortlist: options.Shortlist = None,
    groups: options.Groups = None,
    priors: options.Priors = None,
    none: options.NoneOfThese = False,
    multi: options.Multi = False,
    threshold: options.Threshold = None,
    top_k: options.TopK = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    out: options.Results = None,
    sort_into: options.SortInto = None,
    sort_how: options.SortHow = "copy",
    html: options.Html = None,
    allow_pickle: options.AllowPickle = False,
    resolution: options.Resolution = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = None,
    batch_size: options.BatchSize = None,
) -> None:
    """Put the best of your words on each image, with a probability."""
    names = read_labels(labels, labels_file)
    if out is None and not as_json:  # else each has a record of its error
        check_some_are_there(paths)
    model = model or model_for(names)
    files = expand(paths)
    wish = Wish(top_k, none, multi)
    keep = Keep(out, sort_into, sort_how, html, wish)
    keep.check(paths, names)
    choice = ModelChoice(
        model, method, settings, device, dtype, batch_size, allow_pickle, seed, shortlist, priors,
        resolution, none or multi, threshold, race=True, groups=groups,
    )  # fmt: skip
    note_waiting(f"loading {model}")
    classifier = choice.build(names, template)
    files = keep.open(files, choice, names, template)
    evals = classifier.count_evals(len(names)) * len(files)
    advise_on_words(classifier, names)
    announce(classifier, len(files), len(names), evals)
    failed = answer(classifier, files, evals, as_json, keep)
    advise_on_none(classifier, keep.none, len(files) - failed)
    if failed:
        others = "; the others are done" * (failed < len(files))
        note(f"{failed} of {count(len(files))} could not be classified{others}.")
        raise typer.Exit(2)


def announce(classifier: Any, files: int, labels: int, evals: int) -> None:
    """What is about to happen, and whether its probabilities mean what they say."""
    note(
        f"{count(files)}, {labels} labels, {classifier.method} on {classifier.backbone_.name}: "
        f"{'at most ' if stops_early(classifier) else ''}{evals:,} evaluations"
    )
    if not classifier.calibrated:
        note(
            "probabilities are not calibrated: no temperature was fitted for this model with "
            "these settings. The order of the labels stands; --set temperature=T sets one."
        )


def stops_early(classifier: Any) -> bool:
    """Whether images may take fewer evaluations than announced; a shortlist's second part may."""
    return any(c.stops_early for c in (classifier, getattr(classifier, "then_", classifier)))


def answer(classifier: Any, files: list[str], evals: int, as_json: bool, keep: Keep) -> int:
    """Print or keep the answer of each file when it is known; the number of files without one.

    Raises:
        typer.Exit: with 130, if the user interrupts; what was printed or kept stays.
    """
    done = failed = 0
    try:
        with progress_bar(evals, early=stops_early(classifier)) as progress:
            for found in records(classifier, files, progress):
                record = keep.wish.of(found)
                with unbroken():
                    keep.add(record)
                    emit(record, as_json, keep)
                    done += 1
                    failed += "error" in record
    except KeyboardInterrupt:
        keep.close(whole=False)
        note(f"stopped: {done:,} of {count(len(files))} are done, and {keep.where}.")
        raise typer.Exit(130) from None
    except BaseException:
        keep.close(whole=False)
        raise
    keep.close()
    if not as_json:
        keep.say_places()
    return failed


def emit(record: dict[str, Any], as_json: bool, keep: Keep) -> None:
    """A record on standard output; without `--json`, an error on standard error."""
    if as_json:
        say_json(record)
    elif "error" in record:
        note(f"error: {printable(record['error'])}")
    elif keep.out is None:
        say(text_of(record, keep.wish.top))


def count(images: int) -> str:
    """`1 image`, `3,000 images`."""
    return f"{images:,} image{'s' * (images != 1)}"
