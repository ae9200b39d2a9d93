"""`diffzero explain`: a photo, and where it looks like one word rather than another."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError
from . import options
from .advice import model_for
from .build import ModelChoice, read_labels
from .console import note, note_waiting, progress_bar, say, say_json

SHOWN = 512  # side in pixels of the photo in the picture, at most


def explain(
    path: Annotated[str, typer.Argument(help="One image.")],
    labels: Annotated[
        str | None, typer.Option(help="Two words, or more: the best two are compared.")
    ] = None,
    labels_file: options.LabelsFile = None,
    out: Annotated[Path, typer.Option(help="Where the picture goes, a PNG.")] = Path("why.png"),
    attention: Annotated[
        Path | None,
        typer.Option(help="Another PNG: where the model looks for each of the two words."),
    ] = None,
    template: Annotated[str | None, typer.Option(help="Prompt with {} for the label.")] = None,
    model: options.FittingModel = None,
    settings: options.Settings = None,
    as_json: Annotated[bool, typer.Option("--json", help="The map's numbers as JSON.")] = False,
    allow_pickle: options.AllowPickle = False,
    resolution: options.Resolution = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = None,
    batch_size: options.BatchSize = None,
) -> None:
    """Show where the photo looks like its best word and not like the second."""
    from ..images import fit_square, load_image
    from ..methods.explain import explain as explained
    from .why import attention_picture, looking, picture

    names = read_labels(labels, labels_file)
    model = model or model_for(names)
    check_places(path, out, attention)
    photo = load_image(path)
    choice = ModelChoice(
        model, "elbo", settings, device, dtype, batch_size, allow_pickle, seed,
        resolution=resolution,
    )  # fmt: skip
    note_waiting(f"loading {model}")
    classifier = choice.build(names, None if template is None else [template])
    # A model without maps is refused before any work.
    looks = None if attention is None else looking(classifier.backbone_, names, seed)
    evals = classifier.count_evals(len(names)) + classifier.count_evals(2)
    more = 0 if looks is None else looks.count_evals(2)
    note(
        f"1 image, {len(names)} labels, elbo on {classifier.backbone_.name}: "
        f"{evals + more:,} evaluations"
    )
    with progress_bar(evals) as progress:
        scores = classifier.scores([photo], progress=progress)
        proba = classifier.probabilities(scores)[0]
        best = (-proba).argsort(kind="stable")[:2]
        pair = (names[best[0]], names[best[1]])
        found = explained(classifier, [photo], [pair], progress)[0]
    side = max(classifier.backbone_.image_size, min(photo.shape[:2]))
    square, (p, q) = fit_square(photo, min(SHOWN, side)), map(float, proba[best])
    picture(found, square, (p, q), out)
    if looks is not None and attention is not None:
        attention_picture(looks.fit(pair).heat_maps([photo])[0], pair, square, attention)
    tell(found, path, [out, *([attention] if attention is not None else [])], (p, q), as_json)


def tell(
    found: Any, path: str, pictures: list[Path], proba: tuple[float, float], as_json: bool
) -> None:
    """The two words and where the pictures are, on standard output."""
    if as_json:
        say_json(record(found, path, pictures[0], proba))
    else:
        p, q = (f"{100 * value:.1f} %" for value in proba)
        say(f"{path}:  {found.first} {p}   {found.second} {q}")
        for picture in pictures:
            say(f"picture: {picture}")


def check_places(photo: str, *places: Path | None) -> None:
    """Refuse places for pictures that cannot be ones, before any work.

    Raises:
        InputError: a folder that is not there, another kind of file, one file twice, or the photo.
    """
    given = [place for place in places if place is not None]
    for out in given:
        if os.path.realpath(out) == os.path.realpath(photo):
            raise InputError(f"{out} is the photo itself; give the picture another name.")
        if out.suffix.lower() != ".png":
            raise InputError(f"A picture is a PNG file, such as why.png; got {out}.")
        if not out.parent.is_dir():
            raise InputError(f"{out}: the folder {out.parent} does not exist. Create it first.")
    if len(given) > len({place.absolute() for place in given}):
        raise InputError(f"Two pictures cannot both be {given[0]}; give --attention another name.")


def record(found: Any, path: str, out: Path, proba: tuple[float, float]) -> dict[str, Any]:
    """The explanation as JSON: the map's rows from the top."""
    return {
        "path": path,
        "first": found.first,
        "second": found.second,
        "scores": {found.first: proba[0], found.second: proba[1]},
        "difference": found.difference.tolist(),
        "standard_error": found.error.tolist(),
        "draws": found.draws,
        "picture": str(out),
    }
