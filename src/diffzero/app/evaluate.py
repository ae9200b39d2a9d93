"""`diffzero evaluate`: the options; `session.py` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options
from .build import ModelChoice


def evaluate(
    data: Annotated[
        str, typer.Option(help="Folder, CSV, Parquet file, hub id, or digits (bundled).")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the run; run again to resume.")],
    model: options.Model = "tiny-sd",
    method: options.Method = None,
    settings: options.Settings = None,
    shortlist: options.Shortlist = None,
    priors: options.Priors = None,
    split: Annotated[str | None, typer.Option(help="Part of the data.")] = None,
    limit: Annotated[int | None, typer.Option(help="Images at most, a random part.")] = None,
    subset: Annotated[str | None, typer.Option(help="balanced:N, N images of each class.")] = None,
    classes: Annotated[
        str | None, typer.Option(help="Class set such as cifar100, or a file of names.")
    ] = None,
    template: Annotated[
        list[str] | None,
        typer.Option(help="Prompt with {}; a class set's name for its templates; a file."),
    ] = None,
    corrupt: Annotated[str | None, typer.Option(help="NAME:SEVERITY, such as fog:3.")] = None,
    keep_draws: Annotated[bool, typer.Option(help="Keep the score matrix, for rescore.")] = False,
    retry_errors: Annotated[bool, typer.Option(help="Do images with errors again.")] = False,
    workers: Annotated[int | None, typer.Option(help="Ray workers on this machine.")] = None,
    ray: Annotated[str | None, typer.Option(help="Address of a Ray cluster.")] = None,
    gpus_per_worker: Annotated[float | None, typer.Option(help="May be a fraction.")] = None,
    image_column: Annotated[str | None, typer.Option(help="Column of the images.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Column of the labels.")] = None,
    allow_pickle: options.AllowPickle = False,
    resolution: options.Resolution = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="The summary on standard output.")
    ] = False,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = None,
    batch_size: options.BatchSize = None,
) -> None:
    """Classify labelled images and measure; resumes when run again."""
    from .session import DataChoice, Place, evaluate_command

    evaluate_command(
        DataChoice(
            data, split, limit, subset, classes, template, corrupt, image_column, label_column
        ),
        ModelChoice(
            model, method, settings, device, dtype, batch_size, allow_pickle, seed, shortlist,
            priors, resolution,
        ),
        Place(out, workers, ray, gpus_per_worker),
        keep_draws=keep_draws,
        retry_errors=retry_errors,
        as_json=as_json,
    )  # fmt: skip
