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
    model: options.FittingModel = None,
    method: options.Method = None,
    settings: options.Settings = None,
    shortlist: options.Shortlist = None,
    groups: options.Groups = None,
    priors: options.Priors = None,
    split: options.Split = None,
    limit: options.Limit = None,
    subset: options.Subset = None,
    classes: options.Classes = None,
    template: options.PromptSet = None,
    corrupt: options.Corrupt = None,
    keep_draws: Annotated[bool, typer.Option(help="Keep the score matrix, for rescore.")] = False,
    retry_errors: Annotated[bool, typer.Option(help="Do images with errors again.")] = False,
    workers: options.Workers = None,
    ray: options.Ray = None,
    gpus_per_worker: options.GpusPerWorker = None,
    image_column: options.ImageColumn = None,
    label_column: options.LabelColumn = None,
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
            model or "", method, settings, device, dtype, batch_size, allow_pickle, seed,
            shortlist, priors, resolution, groups=groups,
        ),
        Place(out, workers, ray, gpus_per_worker),
        keep_draws=keep_draws,
        retry_errors=retry_errors,
        as_json=as_json,
    )  # fmt: skip
