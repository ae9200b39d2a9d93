"""`diffzero evaluate`, `report`, `rescore` and `calibrate`.

Imported by the command line on every start: nothing heavy may be imported up here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Run = Annotated[Path, typer.Argument(help="Folder of a run.")]
Draws = Annotated[int | None, typer.Option(help="First draws only.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (evaluate, report, rescore, calibrate):
        app.command()(command)


def evaluate(
    data: Annotated[
        str, typer.Option(help="Folder, CSV, Parquet file, hub id, or digits (bundled).")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the run; run again to resume.")],
    model: Annotated[str, typer.Option(help="Card name, folder or hub id.")] = "tiny-sd",
    method: Annotated[str | None, typer.Option(help="See `diffzero methods`.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Method argument as name=value; repeatable.")
    ] = None,
    shortlist: Annotated[
        str | None, typer.Option(help="CLIP:N: that CLIP model keeps its best N classes.")
    ] = None,
    priors: Annotated[str | None, typer.Option(help="cat=0.7,dog=0.3")] = None,
    split: Annotated[str | None, typer.Option(help="Part of the data.")] = None,
    limit: Annotated[int | None, typer.Option(help="Images at most, a random part.")] = None,
    subset: Annotated[str | None, typer.Option(help="balanced:N, N images a class.")] = None,
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
    allow_pickle: Annotated[bool, typer.Option(help="Load pickled weights.")] = False,
    resolution: Annotated[
        int | None, typer.Option(help="Side in pixels, if not the model's own.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="The summary on standard output.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of noise and choice of images.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    dtype: Annotated[str | None, typer.Option(help="float32, float16 or bfloat16.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows a network call.")] = None,
) -> None:
    """Classify labelled images and measure; resumes when run again."""
    from .session import DataChoice, ModelChoice, Place, evaluate_command

    evaluate_command(
        DataChoice(
            data, split, limit, subset, classes, template, corrupt, image_column, label_column
        ),
        ModelChoice(
            model,
            method,
            settings,
            device,
            dtype,
            batch_size,
            allow_pickle,
            seed,
            shortlist,
            priors,
            resolution,
        ),
        Place(out, workers, ray, gpus_per_worker),
        keep_draws=keep_draws,
        retry_errors=retry_errors,
        as_json=as_json,
    )


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.")],
    out: Annotated[Path, typer.Option(help="HTML file.")] = Path("report.html"),
    as_json: Annotated[bool, typer.Option("--json", help="Numbers on standard output.")] = False,
) -> None:
    """Compare runs: a table here, an HTML file with plots."""
    from .report import report_command

    report_command(runs, out, as_json)


def rescore(
    run: Run,
    draws: Draws = None,
    weights: Annotated[
        str, typer.Option(help="as-run, uniform, elbo, exp:RATE, or a calibration.json.")
    ] = "as-run",
    reduction: Annotated[str, typer.Option(help="mean, median or trimmed.")] = "mean",
    temperature: Annotated[float | None, typer.Option(help="Divides the logits.")] = None,
    curve: Annotated[bool, typer.Option(help="Accuracy against draws.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder of a new run with the result.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Numbers on standard output.")] = False,
) -> None:
    """Predictions of a run under other settings, without the network (needs --keep-draws)."""
    from .rescore import rescore_command

    rescore_command(run, draws, weights, reduction, temperature, curve, out, as_json)


def calibrate(
    run: Run,
    draws: Draws = None,
    bins: Annotated[int, typer.Option(help="Weights over time; 1 fits the temperature only.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the halves.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Numbers on standard output.")] = False,
) -> None:
    """Fit temperature and weights over time on one half, report on the other."""
    from .calibrate import calibrate_command

    calibrate_command(run, draws, bins, seed, as_json)
