"""`diffzero scenes`.

Imported by the command line on every start: nothing heavy may be imported up here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(scenes)


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
    from ..cli import progress_bar
    from ..data.scene_files import write
    from ..data.scenes import TASKS, Split

    chosen = tuple(tasks.split(",")) if tasks else tuple(TASKS)
    rows: dict[Split, int] = {"train": train, "validation": validation}
    with progress_bar(train + validation) as advance:
        for split, n in rows.items():
            if split == "validation" and not n:
                continue
            print(write(out, split, n, size, seed, advance, chosen))
