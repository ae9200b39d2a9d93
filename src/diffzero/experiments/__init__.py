"""The paper's experiments, one file each: `diffzero reproduce NAME`.

Every `run` takes a backbone (class-conditional, one that reads text for those of `ON_TEXT`, a flow
model for those of `ON_FLOW`, any for those of `ON_ANY`) and labelled images, writes `NAME.png` and
`NAME.json` into a folder, and returns the JSON's numbers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
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
    "reconstructions": "figure 1: an image denoised under the right and under a wrong caption",
    "noise-level": "figure 11: distance to the reconstructions against the noise level",
    "distance": "section 4.2: where pixel distance fails and CLIP distance helps",
    "attention-maps": "figure 6: where each class's words find the image",
    "inversion-steps": "algorithm 6: loss and accuracy against the steps of inversion",
    "disagreement": "section 4.2: CLIP right or wrong against diffusion right or wrong",
    "text-table": "all methods of text-to-image models on the same images, and CLIP",
    "attributes": "figure 5: with or without, told by diffusion and by CLIP",
    "binding": "scenes: objects, which colour is whose, where, how many, by every method and CLIP",
    "imagen-table": "all methods on a pixel model in Imagen's manner beside a latent one",
    "flow-faults": "a flow model called wrongly in each of many ways, beside the right one",
    "robustness": "sections 5.1 and 5.2: diffusion and CLIP on corrupted images",
}
ON_TEXT = {
    *("reconstructions", "noise-level", "distance", "attention-maps", "inversion-steps"),
    *("disagreement", "text-table", "imagen-table", "attributes", "binding"),
}
ON_SCENES = {"attributes", "binding"}  # make their own images
ON_ANY = {"robustness"}
ON_FLOW = {"flow-faults"}  # look at the model themselves
ON_TRAIN = {"inception-score", "cifar10-table"}  # need training images


def default_model(name: str) -> str:
    """The bundled model of the kind that an experiment needs."""
    if name == "imagen-table":
        return "tiny-if"
    if name in ON_FLOW:
        return "tiny-flow"
    return "tiny-sd" if name in ON_TEXT | ON_ANY else "digits-ddpm"


@dataclass(frozen=True)
class Setting:
    """What an experiment runs on.

    Attributes:
        model: A backbone of the kind that the experiment needs.
        data: Validation images, `data.Labelled`; of class-conditional models the class
            names are in the model's order.
        train: Training images, for the experiments of `ON_TRAIN`; None for others.
        out: Folder of the results.
        limit: Images at most.
        seed: Of all noise.
        clip: The baseline, and the metric of CLIP distances: what `load` takes.
        enlarge: A `SuperResolution` to show reconstructions of a DeepFloyd model large, or None.
    """

    model: Any
    data: Any
    train: Any
    out: Path
    limit: int
    seed: int
    clip: Any = "tiny-clip"
    enlarge: Any = None


def make_setting(
    name: str,
    model: str,
    data: str,
    *,
    out: Path,
    limit: int,
    seed: int,
    device: str,
    clip: str,
    enlarge: str | None = None,
) -> Setting:
    """Load the models and the images of an experiment.

    Raises:
        InputError: a model or images that are not there, or that do not fit each other.
    """
    if enlarge is not None and name != "reconstructions":
        raise InputError(f"--enlarge serves the experiment reconstructions; {name} shows none.")
    from ..data import check_validation
    from ..data import load as load_data
    from ..models.load import load

    if name in ON_TRAIN:  # they choose settings on training images
        check_validation(data, "give another data set")
    backbone = load(model, device=device)
    images = load_data(data, None, "validation").subset(slice(0, limit))
    train = load_data(data, None) if name in ON_TRAIN else None  # decoding takes a while
    names = backbone.classes
    if names is not None and names != images.classes:
        raise InputError(
            f"{model} knows {', '.join(names)}, and {data} has {', '.join(images.classes)}. "
            "Give the images that it was trained for."
        )
    rival = load(clip, device=device) if name in ON_TEXT | ON_ANY else None
    return Setting(backbone, images, train, out, limit, seed, rival, _stage(backbone, enlarge))


def _stage(backbone: Any, enlarge: str | None) -> Any:
    """The second stage that enlarges what the model makes.

    Raises:
        InputError: a model that has no second stage.
    """
    if enlarge is None:
        return None
    from ..models.codec import Pixels
    from ..models.super_resolution import SuperResolution

    if not isinstance(backbone.codec, Pixels) or backbone.classes is not None:
        raise InputError(f"{backbone.name} has no second stage; --enlarge serves DeepFloyd IF.")
    return SuperResolution.load(enlarge, str(backbone.device))


def reproduce(name: str, setting: Setting) -> dict[str, Any]:
    """Run an experiment and write its picture and its numbers.

    Raises:
        InputError: an unknown name, or a model of another kind than the experiment needs.
    """
    if name not in EXPERIMENTS:
        raise InputError(f"No experiment {name!r}; there are {', '.join(EXPERIMENTS)}.")
    if name in ON_TEXT:
        from ..methods.common import text_of

        text_of(setting.model, name)
    elif name not in ON_ANY | ON_FLOW and setting.model.classes is None:
        raise InputError(
            f"{name} needs a class-conditional model such as digits-ddpm; {setting.model.name} "
            "is none."
        )
    if name in ON_TEXT | ON_ANY:
        from ..classifier import resolve

        setting = replace(setting, clip=resolve(setting.clip))
    setting.out.mkdir(parents=True, exist_ok=True)
    module = import_module("." + name.replace("-", "_"), __name__)
    numbers = {
        "experiment": name,
        "model": setting.model.name,
        "data": "scenes" if name in ON_SCENES else setting.data.name,
        "seed": setting.seed,
    } | module.run(setting, setting.out / f"{name}.png")
    (setting.out / f"{name}.json").write_text(
        json.dumps(numbers, indent=1) + "\n", encoding="utf-8"
    )
    return numbers


def discordant(one: str, other: str) -> tuple[int, int]:
    """How many images only the first and only the second is right on, for `mcnemar`.

    Args:
        one: "1" for each image that it is right on, "0" for each other.
        other: The same of another classifier on the same images.
    """
    pairs = list(zip(one, other, strict=True))
    return pairs.count(("1", "0")), pairs.count(("0", "1"))


class Kept:
    """Results that are kept as they come, so that a second call goes on where one stopped.

    Args:
        path: The file; `remove` it when all is done.
        key: What must be the same for the results to hold.
    """

    def __init__(self, path: Path, key: list[Any]) -> None:
        self.path, self.key = path, key
        self.lines: dict[str, Any] = {}
        if path.exists():
            stored = json.loads(path.read_text(encoding="utf-8"))
            self.lines = stored["lines"] if stored["key"] == key else {}

    def get(self, name: str, settings: dict[str, Any], make: Callable[[], Any]) -> Any:
        """The result of this name made with these settings, now or before."""
        wanted = json.loads(json.dumps(settings))
        line = self.lines.get(name)
        if line is None or line["settings"] != wanted:
            print(name, file=sys.stderr, flush=True)  # each may take minutes
            self.lines[name] = {"settings": wanted, "result": make()}
            partial = self.path.with_suffix(".writing")
            partial.write_text(
                json.dumps({"key": self.key, "lines": self.lines}), encoding="utf-8"
            )
            partial.replace(self.path)
        return self.lines[name]["result"]

    def remove(self) -> None:
        """Forget everything."""
        self.path.unlink(missing_ok=True)


def fingerprint(model: Any) -> str:
    """Name and CRC-32 of every weight: a model trained anew under its name is another model."""
    from ..models.weights import checksum

    number = 0
    for part in model.networks().values():
        number = checksum(part, number)
    return f"{model.name} {number:08x}"


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


def picture(image: Any) -> Any:
    """A tensor `[3, s, s]` in [-1, 1] as an array `[s, s, 3]` in [0, 1]."""
    return ((image.detach().float().cpu().clamp(-1, 1) + 1) / 2).permute(1, 2, 0).numpy()


def seen(setting: Setting, i: int) -> Any:
    """Image i of the data as the model sees it, for `imshow`."""
    from ..images import to_tensor

    return picture(to_tensor([setting.data.images[i]], setting.model.image_size)[0])


def example(axis: Any, setting: Setting, i: int, guesses: dict[str, Any]) -> None:
    """Image i over its true class and what each of several classifiers took it for."""
    names = setting.data.classes
    axis.imshow(seen(setting, i), interpolation="nearest")
    lines = [f"truth {short(names[setting.data.labels[i]])}"]
    lines += [f"{who}: {short(names[guess[i]])}" for who, guess in guesses.items()]
    below = {"ha": "center", "va": "top", "transform": axis.transAxes}
    axis.text(0.5, -0.05, "\n".join(lines), size=7, **below)


def canvas(width: float, height: float) -> Any:
    """An empty figure, for grids of unequal cells."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt.figure(figsize=(width, height), dpi=110)


def parted(
    fig: Any, grid: Any, first: int, setting: Setting, groups: dict[str, Any], guesses: Any
) -> None:
    """A row of examples for each group of image numbers, from column `first` of the grid on."""
    columns = grid.ncols - first
    for line, (title, picks) in enumerate(groups.items()):
        for column in range(columns):
            cell = fig.add_subplot(grid[line, column + first])
            cell.set_axis_off()
            if column == 0:
                cell.set_title(title, size=9, loc="left", pad=14)
            if column < len(picks):
                example(cell, setting, picks[column], guesses)


def bars(axis: Any, right: dict[str, Any], colours: list[str], names: list[str]) -> None:
    """Accuracies with 95 % Wilson intervals; `right` holds bool `[n]` of each classifier."""
    import numpy as np

    from ..evaluate.metrics import wilson

    means = np.array([r.mean() for r in right.values()])
    low, high = np.array([wilson(int(r.sum()), len(r)) for r in right.values()]).T
    axis.bar(names, means, yerr=[means - low, high - means], capsize=4, color=colours)
    for i, mean in enumerate(means):
        axis.text(i, 0.03, f"{100 * mean:.0f} %", ha="center", color="white", size=9)
    axis.set(ylim=(0, 1.05))


def spread(labels: Any, n: int) -> list[int]:
    """The first image of each of the first n classes that occur."""
    first = {int(label): i for i, label in reversed(list(enumerate(labels)))}
    return sorted(first.values())[:n]


def write(fig: Any, path: Path) -> None:
    """Save and close."""
    import matplotlib.pyplot as plt

    fig.savefig(path, bbox_inches="tight", pad_inches=0.15)
    plt.close(fig)
