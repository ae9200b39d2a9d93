"""`diffzero reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from . import options
from .console import note, print_table, say


def reproduce(
    name: Annotated[
        str | None, typer.Argument(help="Without it, the list; all makes every one.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Card name, folder or hub id; a bundled one that fits if unset."),
    ] = None,
    clip: Annotated[
        str, typer.Option(help="The baseline, and the metric of distances.")
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
    seed: options.Seed = 0,
    device: options.Device = "auto",
) -> None:
    """Run an experiment of the paper; write a picture and a JSON of its numbers."""
    from ..experiments import EXPERIMENTS, ON_SCENES, default_model, make_setting
    from ..experiments import reproduce as run_experiment

    if name is None:
        print_table(["experiment", "what"], list(EXPERIMENTS.items()))
        return
    if name in ON_SCENES and data is not None:
        raise InputError(f"{name} makes its own images; leave --data out.")
    data = "digits=digits" if data is None else data
    if name == "all":
        from ..experiments.everything import Everything

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
    say(f"{out / name}.png  {out / name}.json")
