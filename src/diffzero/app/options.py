"""Options that several commands share, with one wording."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ASKED, FILES = "Model and method", "Answers and files"  # panels of --help

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
    typer.Option(
        "--out",
        help="Results as .csv, .parquet or .jsonl; run again to go on.",
        rich_help_panel=FILES,
    ),
]
SortInto = Annotated[
    Path | None,
    typer.Option(
        help="Put each photo into a folder of its word in this one.", rich_help_panel=FILES
    ),
]
SortHow = Annotated[
    str,
    typer.Option(help="copy, link or move; nothing is ever overwritten.", rich_help_panel=FILES),
]
Html = Annotated[
    Path | None,
    typer.Option(
        "--html",
        help="A contact sheet, the doubtful photos first.",
        rich_help_panel=FILES,
    ),
]
TopK = Annotated[
    int | None, typer.Option(min=1, help="Words shown of each photo.", rich_help_panel=FILES)
]
NoneOfThese = Annotated[
    bool,
    typer.Option(
        "--none",
        help='Answer "none of these" where no word fits.',
        rich_help_panel=FILES,
    ),
]
Multi = Annotated[
    bool,
    typer.Option(
        "--multi", help="Name every word that the photo shows, or none.", rich_help_panel=FILES
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        help="Ratio that --none and --multi ask for; see docs/how-to-choose-a-method.md.",
        rich_help_panel=FILES,
    ),
]
Model = Annotated[
    str, typer.Option("--model", help="Card name, folder or hub id.", rich_help_panel=ASKED)
]
FittingModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Card name, folder or hub id; the bundled one that knows most words if unset.",
        rich_help_panel=ASKED,
    ),
]
Method = Annotated[
    str | None, typer.Option("--method", help="See `diffzero methods`.", rich_help_panel=ASKED)
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Method argument as name=value; repeatable.",
        rich_help_panel=ASKED,
    ),
]
Shortlist = Annotated[
    str | None,
    typer.Option(
        help="CLIP:N, such as tiny-clip:5: that CLIP model keeps its best N labels.",
        rich_help_panel=ASKED,
    ),
]
Groups = Annotated[
    Path | None,
    typer.Option(
        help="YAML file of groups of labels, decided first; see the guide.",
        rich_help_panel=ASKED,
    ),
]
Priors = Annotated[
    str | None,
    typer.Option(
        help="How frequent each label is, such as cat=0.7,dog=0.3.", rich_help_panel=ASKED
    ),
]
AllowPickle = Annotated[bool, typer.Option(help="Load pickled weights.", rich_help_panel=ASKED)]
Resolution = Annotated[
    int | None,
    typer.Option(
        help="Side of the images in pixels, if not the model's own.",
        rich_help_panel=ASKED,
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of all random choices.", rich_help_panel=ASKED)]
Device = Annotated[str, typer.Option(help="cpu, cuda or auto.", rich_help_panel=ASKED)]
Dtype = Annotated[
    str | None, typer.Option(help="float32, float16 or bfloat16.", rich_help_panel=ASKED)
]
BatchSize = Annotated[
    int | None, typer.Option(help="Rows in each call of the network.", rich_help_panel=ASKED)
]
Run = Annotated[Path, typer.Argument(help="Folder of a run.")]
Draws = Annotated[int | None, typer.Option(help="First draws only.")]

# Of `evaluate`: which images, under which words, and where.
Split = Annotated[str | None, typer.Option(help="Part of the data.")]
Limit = Annotated[int | None, typer.Option(help="Images at most, a random part.")]
Subset = Annotated[str | None, typer.Option(help="balanced:N, N images of each class.")]
Classes = Annotated[
    str | None,
    typer.Option(
        help="Class set such as cifar100, or a file of names.",
    ),
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
