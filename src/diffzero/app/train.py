"""`diffzero train` and `diffzero scenes`."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from ..options import SEED, check_value, short
from . import options
from .console import note, progress_bar, say


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            help="tiny-sd, photos-sd, tiny-flow, tiny-if, tiny-clip, digits-ddpm, cifar10-ddpm, "
            "cifar10-ldm; or all of them."
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
    from ..train import parallel, recipes
    from ..train.ddpm_card import RECIPES
    from .train_all import train_all

    check_value("seed", seed, SEED)
    session = Session(str(place_of(device)), seed, preset, measure, limit)
    if parallel.asked() > 1 and recipe not in RECIPES:
        raise InputError(
            f"{short(recipe)} trains in one process; {', '.join(RECIPES)} in several. Start it "
            "without torchrun."
        )
    if recipe == "all":
        if init is not None:
            raise InputError("train all starts from nothing: leave out --init.")
        train_all(session.train, data or [], out, minutes)
        return
    if recipe not in recipes():
        raise InputError(f"No recipe {short(recipe)}; there are all, {', '.join(recipes())}.")
    add = recipe == "digits-ddpm" or (digits and recipe not in RECIPES)
    session.train(recipe, sources_of(recipe, data, add), out, minutes, init)


@dataclass(frozen=True)
class Session:
    """What every recipe of one call shares; the options of the command of the same names."""

    device: str
    seed: int
    preset: str | None
    measure: bool
    limit: int

    def train(
        self, recipe: str, sources: list[str], out: Path, minutes: float, init: str | None
    ) -> None:
        """One recipe, and its accuracies and card where those are wanted."""
        from ..data import check_validation
        from ..train import loop, parallel, preset_of, recipes

        with ExitStack() as held:
            with parallel.group(self.device) as device:
                # By its name: a training begun on a CPU would not fit a GPU's preset.
                facts = {"preset": preset_of(device, self.preset), "init": init, "seed": self.seed}
                first = parallel.rank() == 0
                if first and self.measure:  # before the work, which the card would be lost after
                    for source in sources:
                        check_validation(source, "leave the measurement out with --no-measure")
                if first:
                    held.enter_context(loop.alone(out))
                loop.claim(out, {"recipe": recipe, "data": sources, **facts}, write=first)
                parallel.barrier()
                log = note if first else lambda line: None
                recipes()[recipe](sources, out, minutes, device=device, log=log, **facts)
            if first:  # out of the group, which does not wait as long as a card may take
                self._card(recipe, sources, out, minutes, init)

    def _card(
        self, recipe: str, sources: list[str], out: Path, minutes: float, init: str | None
    ) -> None:
        """What the model needs to be used, and where it is measured the rest of its card."""
        from ..data import load
        from ..train import ddpm_card, report

        cards = ddpm_card if recipe in ddpm_card.RECIPES else report
        if not self.measure:
            cards.begin_card(recipe, out, [load(s, 8) for s in sources], init)
            old = [name for name in ("README.md", "samples.png") if (out / name).exists()]
            if old:
                note(f"{' and '.join(old)} in {out} tell of the weights before these")
            return
        flags = {"init": init, "preset": self.preset}
        more = "".join(f" --{name} {value}" for name, value in flags.items() if value)
        if recipe not in ddpm_card.RECIPES and "digits=digits" not in sources:
            more += " --no-digits"
        cards.write_card(
            recipe, out, sources, minutes=minutes, seed=self.seed, limit=self.limit,
            device=self.device, init=init, log=note, more=more,
        )  # fmt: skip


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
