"""Options that several commands share, with one wording."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Labels = Annotated[
    str | None,
    typer.Option(help='Words to choose from: cat,dog. Quote commas: "salt, pepper",oil.'),
]
LabelsFile = Annotated[Path | None, typer.Option(help="One label a line.")]
Templates = Annotated[
    list[str] | None, typer.Option(help="Prompt with {} for the label; repeat to ensemble.")
]
Results = Annotated[
    Path | None,
    typer.Option("--out", help="Results as .csv, .parquet or .jsonl; run again to go on."),
]
SortInto = Annotated[
    Path | None, typer.Option(help="Put each photo into a folder of its word in this one.")
]
SortHow = Annotated[str, typer.Option(help="copy, link or move; nothing is ever overwritten.")]
Html = Annotated[
    Path | None, typer.Option("--html", help="A contact sheet, the doubtful photos first.")
]
TopK = Annotated[int | None, typer.Option(min=1, help="Words shown of each photo.")]
NoneOfThese = Annotated[
    bool, typer.Option("--none", help='Answer "none of these" where no word fits.')
]
Multi = Annotated[
    bool, typer.Option("--multi", help="Name every word that the photo shows, or none.")
]
Threshold = Annotated[
    float | None, typer.Option(help="Ratio that --none and --multi ask for; see the guide.")
]
Model = Annotated[str, typer.Option("--model", help="Card name, folder or hub id.")]
FittingModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Card name, folder or hub id; the bundled one that knows most words if unset.",
    ),
]
Method = Annotated[str | None, typer.Option("--method", help="See `diffzero methods`.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Method argument as name=value; repeatable.")
]
Shortlist = Annotated[
    str | None,
    typer.Option(help="CLIP:N, such as tiny-clip:5: that CLIP model keeps its best N labels."),
]
Groups = Annotated[
    Path | None,
    typer.Option(help="YAML file of groups, a line each: animal: [cat, dog]; decided first."),
]
Priors = Annotated[
    str | None, typer.Option(help="How frequent each label is, such as cat=0.7,dog=0.3.")
]
AllowPickle = Annotated[bool, typer.Option(help="Load pickled weights.")]
Resolution = Annotated[
    int | None, typer.Option(help="Side of the images in pixels, if not the model's own.")
]
Seed = Annotated[int, typer.Option(help="Seed of all random choices.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or auto.")]
Dtype = Annotated[str | None, typer.Option(help="float32, float16 or bfloat16.")]
BatchSize = Annotated[int | None, typer.Option(help="Rows in each call of the network.")]
Run = Annotated[Path, typer.Argument(help="Folder of a run.")]
Draws = Annotated[int | None, typer.Option(help="First draws only.")]

# Of `evaluate`: which images, under which words, and where.
Split = Annotated[str | None, typer.Option(help="Part of the data.")]
Limit = Annotated[int | None, typer.Option(help="Images at most, a random part.")]
Subset = Annotated[str | None, typer.Option(help="balanced:N, N images of each class.")]
Classes = Annotated[
    str | None, typer.Option(help="Class set such as cifar100, or a file of names.")
]
PromptSet = Annotated[
    list[str] | None,
    typer.Option(help="Prompt with {}; a class set's name for its templates; a file."),
]
Corrupt = Annotated[str | None, typer.Option(help="NAME:SEVERITY, such as fog:3.")]
Workers = Annotated[int | None, typer.Option(help="Ray workers on this machine.")]
Ray = Annotated[str | None, typer.Option(help="Address of a Ray cluster.")]
GpusPerWorker = Annotated[float | None, typer.Option(help="May be a fraction.")]
ImageColumn = Annotated[str | None, typer.Option(help="Column of the images.")]
LabelColumn = Annotated[str | None, typer.Option(help="Column of the labels.")]
