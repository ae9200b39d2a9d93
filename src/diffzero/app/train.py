"""`diffzero train` and `diffzero scenes`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from . import options
from .console import note, progress_bar, say


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            help="tiny-sd, photos-sd, tiny-flow, tiny-if, tiny-clip, digits-ddpm, cifar10-ddpm, "
            "cifar10-dit."
        ),
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
    seed: options.Seed = 0,
    device: options.Device = "auto",
) -> None:
    """Train a bundled model from its data, within a time budget."""
    from ..models.load import place_of
    from ..train import ddpm_card, loop, recipes, report
    from ..train.ddpm import PRESETS

    if recipe not in recipes():
        raise InputError(f"No recipe {recipe!r}; there are {', '.join(recipes())}.")
    pixels = recipe in PRESETS
    sources = sources_of(recipe, data, recipe == "digits-ddpm" or (digits and not pixels))
    place = str(place_of(device))
    loop.claim(out, {"recipe": recipe, "data": sources, "preset": preset, "init": init,
                     "seed": seed})  # fmt: skip
    recipes()[recipe](
        sources, out, minutes, device=place, seed=seed, preset=preset, init=init, log=note
    )
    if measure:
        flags = {"init": init, "preset": preset}
        more = "".join(f" --{name} {value}" for name, value in flags.items() if value)
        write_card = ddpm_card.write_card if pixels else report.write_card
        write_card(
            recipe, out, sources, minutes=minutes, seed=seed, limit=limit, log=note, more=more
        )


def sources_of(recipe: str, data: list[str] | None, digits: bool) -> list[str]:
    """The data sets of a training, each once, with scikit-learn's digits where wanted.

    Raises:
        InputError: none at all.
    """
    sources = list(dict.fromkeys([*(data or []), *(["digits=digits"] if digits else [])]))
    if not sources:
        raise InputError(f"{recipe} needs data: --data NAME=SOURCE.")
    return sources


def scenes(
    out: Annotated[Path, typer.Option(help="Folder of the Parquet files.")],
    train: Annotated[int, typer.Option(help="Images to train on.")] = 100_000,
    validation: Annotated[
        int,
        typer.Option(help="Images to test on, half with combinations held out of training; or 0."),
    ] = 5000,
    size: Annotated[int, typer.Option(help="Side in pixels, at least 16.")] = 32,
    seed: Annotated[int, typer.Option(help="Of everything.")] = 0,
    tasks: Annotated[
        str | None, typer.Option(help="Comma-separated, to take in turn; all of them if unset.")
    ] = None,
) -> None:
    """Make the compositional set: coloured shapes, true captions, candidates."""
    from ..data.scene_files import write
    from ..data.scenes import TASKS, Split

    chosen = tuple(tasks.split(",")) if tasks else tuple(TASKS)
    rows: dict[Split, int] = {"train": train, "validation": validation}
    with progress_bar(train + validation, "images") as advance:
        for split, n in rows.items():
            if split == "validation" and not n:
                continue
            say(str(write(out, split, n, size, seed, advance, chosen)))
