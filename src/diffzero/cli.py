"""The command line: thin functions over the library, and messages fit for people.

Standard output holds the result alone; progress, warnings and errors go to standard error. Exit
codes: 0 fine, 2 bad input, 1 failure.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .errors import DiffzeroError, InputError
from .evaluate.commands import register
from .train.commands import register as register_scenes

if TYPE_CHECKING:
    import numpy as np

app = typer.Typer(
    help="Any diffusion model as a zero-shot image classifier.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Model = Annotated[str, typer.Option("--model", help="Card name, folder or hub id.")]
Seed = Annotated[int, typer.Option(help="Seed of the images' noise.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or auto.")]
Dtype = Annotated[str | None, typer.Option(help="float32, float16 or bfloat16.")]
BatchSize = Annotated[int | None, typer.Option(help="Rows a network call.")]


@app.command()
def classify(
    paths: Annotated[list[str], typer.Argument(help="Images, or folders of images.")],
    labels: Annotated[str | None, typer.Option(help="Comma-separated words.")] = None,
    labels_file: Annotated[Path | None, typer.Option(help="One label a line.")] = None,
    template: Annotated[
        list[str] | None, typer.Option(help="Prompt with {} for the label; repeat to ensemble.")
    ] = None,
    model: Model = "tiny-sd",
    method: Annotated[str | None, typer.Option(help="See `diffzero methods`.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Method argument as name=value; repeatable.")
    ] = None,
    shortlist: Annotated[
        str | None,
        typer.Option(help="CLIP:N, such as tiny-clip:5: that CLIP model keeps its best N labels."),
    ] = None,
    priors: Annotated[str | None, typer.Option(help="cat=0.7,dog=0.3")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    allow_pickle: Annotated[bool, typer.Option(help="Load pickled weights.")] = False,
    resolution: Annotated[
        int | None, typer.Option(help="Side in pixels, if not the model's own.")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = None,
    batch_size: BatchSize = None,
) -> None:
    """Put the best of your words on each image, with a probability."""
    names = read_labels(labels, labels_file)
    files = expand(paths)
    options = parse_settings(settings)
    options |= {"template": list(template)} if template else {}
    options = {"seed": seed, "batch_size": batch_size, **options}
    outer = {"priors": parse_priors(priors)} if priors else {}
    options |= {} if shortlist else outer
    classifier = build(model, method, options, device, dtype, allow_pickle, resolution)
    if shortlist is not None:
        classifier = shortened(
            classifier, shortlist, outer, device=device, dtype=dtype, allow_pickle=allow_pickle
        )
    classifier.fit(names)
    failed = 0
    emit = emit_json if as_json else emit_text
    expected = classifier.count_evals(len(names)) * len(files)
    note(
        f"{len(files)} image{'s' * (len(files) != 1)}, {len(names)} labels, "
        f"{classifier.method} on {classifier.backbone_.name}: {expected:,} evaluations"
    )
    with progress_bar(expected) as advance:
        for record in records(classifier, files, advance):
            failed += "error" in record
            emit(record)
    if failed:
        note(f"{failed} of {len(files)} images could not be read; the others are done.")
        raise typer.Exit(2)


@app.command()
def demo(
    paths: Annotated[list[str] | None, typer.Argument(help="Your own images to add.")] = None,
    labels: Annotated[str | None, typer.Option(help="Words for your own images.")] = None,
    model: Model = "tiny-sd",
    limit: Annotated[int, typer.Option(help="Digits to classify, up to 360.")] = 100,
    draws: Annotated[int, typer.Option(help="Noise draws a class.")] = 16,
    out: Annotated[Path, typer.Option(help="Where the picture goes.")] = Path("diffzero-demo.png"),
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = None,
    batch_size: BatchSize = None,
) -> None:
    """Classify real images with the bundled model; print a table, write a picture."""
    from .demo import run

    own = expand(paths) if paths else []
    words = read_labels(labels, None) if labels else None
    run(
        model,
        own,
        words,
        limit=limit,
        draws=draws,
        out=out,
        seed=seed,
        device=device,
        dtype=dtype,
        batch_size=batch_size,
        progress=progress_bar,
    )


@app.command()
def train(
    recipe: Annotated[
        str, typer.Argument(help="tiny-sd, tiny-if, tiny-clip, digits-ddpm or cifar10-ddpm.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the model; run again to resume.")],
    data: Annotated[
        list[str] | None,
        typer.Option(help="NAME=SOURCE: a folder of Parquet files, an ImageFolder, a hub id."),
    ] = None,
    minutes: Annotated[
        float,
        typer.Option(help="Budget in all, resumed time included; the learning rate fits it."),
    ] = 60.0,
    digits: Annotated[
        bool, typer.Option(help="Add scikit-learn's digits to the data of text models.")
    ] = True,
    measure: Annotated[bool, typer.Option(help="End with accuracies and a model card.")] = True,
    limit: Annotated[int, typer.Option(help="Validation images to measure on.")] = 1000,
    preset: Annotated[str | None, typer.Option(help="cpu or gpu; by device if unset.")] = None,
    init: Annotated[
        str | None, typer.Option(help="A card or folder of the same recipe to start from.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of initial weights and batches.")] = 0,
    device: Device = "auto",
) -> None:
    """Train a bundled model from its data, within a time budget."""
    from .loading import _device
    from .train import ddpm_card, loop, recipes, report
    from .train.ddpm import PRESETS

    if recipe not in recipes():
        raise InputError(f"No recipe {recipe!r}; there are {', '.join(recipes())}.")
    pixels = recipe in PRESETS
    with_digits = recipe == "digits-ddpm" or (digits and not pixels)
    sources = list(dict.fromkeys([*(data or []), *(["digits=digits"] if with_digits else [])]))
    if not sources:
        raise InputError(f"{recipe} needs data: --data NAME=SOURCE.")
    place = str(_device(device))
    loop.claim(out, {"recipe": recipe, "data": sources, "preset": preset, "init": init,
                     "seed": seed})  # fmt: skip
    recipes()[recipe](
        sources, out, minutes, device=place, seed=seed, preset=preset, init=init, log=note
    )
    if measure:
        write_card = ddpm_card.write_card if pixels else report.write_card
        flags = {"init": init, "preset": preset}
        more = "".join(f" --{name} {value}" for name, value in flags.items() if value)
        write_card(
            recipe, out, sources, minutes=minutes, seed=seed, limit=limit, log=note, more=more
        )


@app.command()
def reproduce(
    name: Annotated[
        str | None, typer.Argument(help="Without it, the list; all makes every one.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Card name, folder or hub id; a bundled one that fits if unset."),
    ] = None,
    clip: Annotated[
        str, typer.Option(help="The rival, and the metric of distances.")
    ] = "tiny-clip",
    data: Annotated[
        str | None,
        typer.Option(help="NAME=SOURCE of labelled images that the model knows; digits if unset."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of picture and numbers.")] = Path("reproduced"),
    limit: Annotated[int, typer.Option(help="Images at most.")] = 60,
    budget: Annotated[str, typer.Option(help="Of all: small, medium or large.")] = "small",
    enlarge: Annotated[
        str | None,
        typer.Option(help="DeepFloyd IF's second stage, to show reconstructions large."),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Run an experiment of the paper; write a picture and a JSON of its numbers."""
    from .experiments import EXPERIMENTS, ON_SCENES, default_model, make_setting
    from .experiments import reproduce as run_experiment

    if name is None:
        print_table(["experiment", "what"], list(EXPERIMENTS.items()))
        return
    if name in ON_SCENES and data is not None:
        raise InputError(f"{name} makes its own images; leave --data out.")
    data = "digits=digits" if data is None else data
    if name == "all":
        from .experiments.everything import Everything

        Everything(model, clip, data, out, budget, seed, device).run(note)
        return
    if name not in EXPERIMENTS:
        raise InputError(f"No experiment {name!r}; there are {', '.join(EXPERIMENTS)}.")
    setting = make_setting(
        name, model or default_model(name), data, out=out, limit=limit, seed=seed, device=device,
        clip=clip, enlarge=enlarge,
    )  # fmt: skip
    numbers = run_experiment(name, setting)
    if "verdict" in numbers:
        note(numbers["verdict"])
    print(f"{out / name}.png  {out / name}.json")


@app.command()
def models() -> None:
    """List the models that have a card."""
    from .loading import cards

    rows = [
        (c.name, c.family, "bundled" if c.bundled else c.source, c.licence, "\n".join(c.accuracy))
        for c in cards().values()
    ]
    print_table(["model", "family", "where", "licence", "measured"], rows)


@app.command()
def methods() -> None:
    """List the methods: what each needs and costs."""
    from .methods import METHODS, method_class

    rows = []
    for name in METHODS:
        doc = (method_class(name).__doc__ or "").split("\n\n")
        cost = next(part for part in doc if part.strip().startswith("Cost:"))
        text = " ".join(cost.split()).removeprefix("Cost: ")
        rows.append((name, method_class(name).__name__, doc[0].strip(), text))
    print_table(["method", "class", "what", "cost"], rows)


register(app)
register_scenes(app)

# -- what the commands are made of -------------------------------------------------------------


def read_labels(labels: str | None, labels_file: Path | None) -> list[str]:
    """Labels of `--labels` or `--labels-file`, checked.

    Raises:
        InputError: neither or both given, an unreadable file, unusable labels.
    """
    from .data import read_words, split_labels
    from .prompts import check_labels

    if (labels is None) == (labels_file is None):
        raise InputError('Give the words to choose from: --labels "cat,dog" or --labels-file.')
    if labels is not None:
        return check_labels(split_labels(labels))
    assert labels_file is not None
    return check_labels(read_words(labels_file))


def expand(paths: list[str]) -> list[str]:
    """Files, with every folder replaced by the image files under it, sorted.

    Raises:
        InputError: a folder without images.
    """
    from .images import image_files

    files: list[str] = []
    for path in paths:
        files += list(map(str, image_files(path))) if Path(path).is_dir() else [path]
    return files


def parse_settings(settings: list[str] | None) -> dict[str, Any]:
    """`name=value` pairs; values are Python literals where they parse as one, else strings."""
    import ast

    options: dict[str, Any] = {}
    for setting in settings or []:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise InputError(f"--set takes name=value; got {setting!r}.")
        try:
            options[name.replace("-", "_")] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[name.replace("-", "_")] = value
    return options


def parse_priors(text: str) -> dict[str, float]:
    """`cat=0.7,dog=0.3` as a dictionary."""
    try:
        pairs = [item.rsplit("=", 1) for item in text.split(",")]
        return {name.strip(): float(value) for name, value in pairs}
    except ValueError:
        raise InputError(f"--priors takes label=number,...; got {text!r}.") from None


def build(
    model: str,
    method: str | None,
    options: dict[str, Any],
    device: str,
    dtype: str | None,
    allow_pickle: bool,
    resolution: int | None = None,
) -> Any:
    """A classifier of the named method, or of the one that fits the model."""
    from .backbones.clip import ClipBackbone
    from .loading import load
    from .methods import make, method_class

    if method is not None:
        method_class(method)  # an unknown name fails before the model is loaded
    loaded = load(
        model, device=device, dtype=dtype, allow_pickle=allow_pickle, resolution=resolution
    )
    fitting = "clip" if isinstance(loaded, ClipBackbone) else "elbo"
    return make(method or fitting, loaded, options)


def shortened(classifier: Any, shortlist: str, options: dict[str, Any], **place: Any) -> Any:
    """The classifier behind a CLIP model that keeps its best labels, from `MODEL:N`."""
    from .loading import load
    from .methods.clip import CLIP
    from .methods.compose import Shortlist

    model, _, keep = shortlist.rpartition(":")
    if not model or not keep.isdigit():
        raise InputError(f"--shortlist takes MODEL:N, such as tiny-clip:5; got {shortlist!r}.")
    first = CLIP(load(model, **place))
    return Shortlist(first, classifier, int(keep), seed=classifier.seed, **options)


def records(
    classifier: Any, files: list[str], advance: Callable[[int], None]
) -> Iterator[dict[str, Any]]:
    """One record an image, in order; an unreadable file gives one with its error."""
    import time

    from .images import load_image

    evals = classifier.count_evals(len(classifier.names_))
    group = max(1, min(256, 2**13 // evals))
    for start in range(0, len(files), group):
        chunk = files[start : start + group]
        loaded: list[np.ndarray] = []
        errors: dict[str, str] = {}
        good = []
        for path in chunk:
            try:
                loaded.append(load_image(path))
                good.append(path)
            except InputError as error:
                errors[path] = str(error)
                advance(evals)
        began = time.perf_counter()
        scores = classifier.scores(loaded, progress=advance) if loaded else None
        seconds = (time.perf_counter() - began) / max(1, len(loaded))
        rows = dict(zip(good, range(len(good)), strict=True))
        for path in chunk:
            if path in errors:
                yield {"path": path, "error": errors[path]}
            else:
                yield record_of(classifier, path, scores, rows[path], seconds)


def record_of(classifier: Any, path: str, scores: Any, row: int, seconds: float) -> dict[str, Any]:
    """The line of one image, as the design fixes it."""
    names = classifier.names_
    proba = classifier.probabilities(scores)[row]
    return {
        "path": path,
        "label": names[int(proba.argmax())],
        "scores": {n: float(p) for n, p in zip(names, proba, strict=True)},
        "logits": {n: float(v) for n, v in zip(names, scores.logits[row], strict=True)},
        "evals": int(scores.evals[row]),
        "seconds": round(seconds, 6),
        "model": classifier.backbone_.name,
        "method": classifier.method,
        "seed": classifier.seed,
    }


def emit_json(record: dict[str, Any]) -> None:
    """One line on standard output."""
    sys.stdout.write(json.dumps(record) + "\n")
    sys.stdout.flush()


def emit_text(record: dict[str, Any]) -> None:
    """The best three words of an image on one line, or its error on standard error."""
    if "error" in record:
        note(f"error: {record['error']}")
        return
    best = sorted(record["scores"].items(), key=lambda item: -item[1])[:3]
    words = "   ".join(f"{label} {100 * p:.1f} %" for label, p in best)
    sys.stdout.write(f"{record['path']}:  {words}\n")
    sys.stdout.flush()


def note(message: str) -> None:
    """A line on standard error."""
    sys.stderr.write(message + "\n")
    sys.stderr.flush()


def print_table(header: list[str], rows: Sequence[tuple[str, ...]]) -> None:
    """A table on standard output."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


@contextmanager
def progress_bar(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error with rate and time left, where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Left

    columns = (
        TextColumn("evaluations"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.speed:,.0f}/s"),
        Left(),
    )
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda n: None
        return
    with Progress(*columns[:3], *columns[4:], console=console, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda n: bar.advance(task, n)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    note(f"warning: {message}")


def main() -> None:
    """Entry point: errors become one sentence and an exit code, never a traceback."""
    warnings.showwarning = _show_warning
    try:
        app()
    except InputError as error:
        note(f"error: {error}")
        sys.exit(2)
    except DiffzeroError as error:
        note(f"error: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        note("stopped.")
        sys.exit(130)
    except Exception as error:
        note(
            f"error: {type(error).__name__}: {error}. This is a bug in diffzero; please report "
            "it with the command you ran."
        )
        sys.exit(1)
