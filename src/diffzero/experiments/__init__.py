"""The paper's experiments, one file each: `diffzero reproduce NAME`.

Every `run` takes a class-conditional backbone and labelled images, writes `NAME.png` and
`NAME.json` into a folder, and returns the numbers of the JSON.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import InputError

EXPERIMENTS = {
    "encode-decode": "figures 2, 3, 7 to 10: encode under every label, decode under every label",
    "interpolate": "figure 4: slerp between latents, under true or false labels",
    "inception-score": "section 4.1: do falsely encoded images decode to less diverse ones?",
    "likelihood-table": "section 4.1: log-likelihood of each label, probes paired and unpaired",
    "knn": "section 5.1: accuracy of latent kNN against k, both readings",
    "cifar10-table": "sections 4.1 and 4.2: all methods on the same images, beside the paper's",
}


@dataclass(frozen=True)
class Setting:
    """What an experiment runs on.

    Attributes:
        model: A class-conditional backbone.
        data: Validation images, `train.data.Labelled`, class names in the model's order.
        train: Training images, for experiments that need a judge of their own.
        out: Folder of the results.
        limit: Images at most.
        seed: Of all noise.
    """

    model: Any
    data: Any
    train: Any
    out: Path
    limit: int
    seed: int


def reproduce(name: str, setting: Setting) -> dict[str, Any]:
    """Run an experiment and write its picture and its numbers.

    Raises:
        InputError: an unknown name, or a model without named classes.
    """
    if name not in EXPERIMENTS:
        raise InputError(f"No experiment {name!r}; there are {', '.join(EXPERIMENTS)}.")
    if not hasattr(setting.model, "classes"):
        raise InputError(
            f"{name} needs a class-conditional model such as digits-ddpm; {setting.model.name} "
            "is none."
        )
    setting.out.mkdir(parents=True, exist_ok=True)
    module = import_module("." + name.replace("-", "_"), __name__)
    numbers = {
        "experiment": name,
        "model": setting.model.name,
        "data": setting.data.name,
        "seed": setting.seed,
    } | module.run(setting, setting.out / f"{name}.png")
    (setting.out / f"{name}.json").write_text(json.dumps(numbers, indent=1) + "\n")
    return numbers


def short(name: str) -> str:
    """A class name as the pictures show it."""
    return name.removeprefix("handwritten digit ")


def figure(width: float, height: float, **options: Any) -> Any:
    """`plt.subplots` of a figure that is written to a file."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(width, height), dpi=110, **options)


def sheet(cells: Any, gap: int = 1) -> tuple[Any, Any, Any]:
    """One array of images `[r, c, s, s, 3]` with gaps, and the middles of its rows and columns."""
    import numpy as np

    r, c, side = cells.shape[:3]
    step = side + gap
    pixels = np.full((r * step - gap, c * step - gap, 3), 0.55)
    for i in range(r):
        for j in range(c):
            pixels[i * step : i * step + side, j * step : j * step + side] = cells[i, j]
    middles = np.arange(max(r, c)) * step + (side - 1) / 2
    return pixels, middles[:r], middles[:c]


def write(fig: Any, path: Path) -> None:
    """Save and close."""
    import matplotlib.pyplot as plt

    fig.savefig(path, bbox_inches="tight", pad_inches=0.15)
    plt.close(fig)
