"""`diffzero train all`: every bundled model from nothing, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import InputError
from .console import note, progress_bar

CLOTHES = ("fashion-mnist", "scenes", "digits")
# Recipe, share of the minutes, its data; tiny-flow takes tiny-sd's autoencoder and so follows it.
PLAN: tuple[tuple[str, float, tuple[str, ...]], ...] = (
    ("digits-ddpm", 0.02, ("digits",)),
    ("tiny-sd", 0.25, CLOTHES),
    ("tiny-clip", 0.08, CLOTHES),
    ("tiny-flow", 0.15, CLOTHES),
    ("tiny-if", 0.10, CLOTHES),
    ("photos-sd", 0.15, ("cifar10", "cifar100")),
    ("cifar10-ddpm", 0.10, ("cifar10",)),
    ("cifar10-ldm", 0.15, ("cifar10",)),
)
SCENES = {"train": 100_000, "validation": 3000}
SCENES_SEED = 51


def train_all(
    one: Callable[..., None], data: Sequence[str], out: Path, minutes: float, size: int = 32
) -> None:
    """Train every recipe under `out/NAME`, and make the scenes that they learn from once.

    Args:
        one: Trains one recipe: its name, data sets, folder, minutes and the model to start from.
        data: `fashion-mnist=SOURCE` and `cifar10=SOURCE`; with `cifar100=SOURCE` photos-sd learns
            its words too.
        out: Folder of the models; run again to go on where a run stopped.
        minutes: Of all recipes together, measuring not counted.
        size: Side of the scenes in pixels.

    Raises:
        InputError: a data set is missing, or there is one too many.
    """
    given = {name: source for name, equals, source in (d.partition("=") for d in data) if equals}
    wanted = {"fashion-mnist", "cifar10"}
    if set(given) - {"cifar100"} != wanted or len(given) != len(data):
        raise InputError(
            "train all needs --data fashion-mnist=SOURCE and --data cifar10=SOURCE, once each, "
            f"and takes --data cifar100=SOURCE; got {', '.join(data) or 'none'}."
        )
    given |= {"digits": "digits", "scenes": str(scenes_in(out / "scenes", size))}
    for recipe, share, names in PLAN:
        note(f"{recipe}: {share * minutes:.3g} of {minutes:g} minutes")
        init = str(out / "tiny-sd") if recipe == "tiny-flow" else None
        one(
            recipe,
            [f"{n}={given[n]}" for n in names if n in given],
            out / recipe,
            share * minutes,
            init,
        )


def scenes_in(folder: Path, size: int) -> Path:
    """The folder with both splits of the scenes, made unless they are there."""
    from ..data.scene_files import write
    from ..data.scenes import TASKS, Split

    splits: tuple[Split, ...] = ("train", "validation")
    missing = [s for s in splits if not list(folder.glob(f"{s}-*.parquet"))]
    with progress_bar(sum(SCENES[s] for s in missing), "images") as advance:
        for split in missing:
            write(folder, split, SCENES[split], size, SCENES_SEED, advance, tuple(TASKS))
    return folder
