"""Cards: checkpoints as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError
from ..options import number, whole

_POSITIVE = number(0, above=True)
Ratio = float  # of errors: 0 and below are numbers too
ZOO = Path(__file__).parent.parent / "zoo"


@dataclass(frozen=True)
class Card:
    """A checkpoint as data.

    Attributes:
        name: What `load` takes.
        family: A name in `models.family.FAMILIES`.
        source: A folder, or a hub id.
        mirrors: Hub ids tried in turn when the source is gone.
        revision: Of the hub repository.
        dtype: Of the weights on a GPU; on a CPU they are float32.
        variant: Of the weight files, where a repository keeps several: `fp16` halves a download.
        prediction: What the network predicts, when its own config does not say or is wrong.
        resolution: Side in pixels of its images, when the network's config does not say.
        licence: Of the weights.
        template: Prompt used when the user names none; the family's own if None.
        temperatures: Each with `method`, `settings` and `fitted`, see `models.backbone`.
        vocabulary: Words of a bundled model's captions, None if open.
        classes: Class names of a class-conditional model, in the order of its embedding.
        grey_step: Width of a grey step in [-1, 1] of the images it was trained on, if not 2/255.
        patch: Side of the pixel blocks that a pixel model takes as one place, if not 1.
        window: Tokens of a prompt in T5, padding included, where the network reads padding; the
            family's own if None.
        guidance_value: What a network that was distilled from a guided one is told its guidance
            is (Flux.1 [dev]); 1, which is none, if None.
        distilled: The network was trained to draw in few steps, so that its output is no
            expectation, and only methods that draw can use it.
        memory_gb: Of all weights in GB by dtype, text encoders included, computed from their
            number.
        accuracy: Measured accuracies, one line each.
        none_threshold: Ratio below which a photo shows none of the words, see `OpenSet`; that of
            `tiny-sd` if None.
        knows: What its words and images are about, in a few words.
        gigabytes: About how much is fetched from the hub.
    """

    name: str
    family: str
    source: str
    mirrors: list[str] = field(default_factory=list)
    revision: str = "main"
    dtype: str = "float32"
    variant: str | None = None
    prediction: str | None = None
    resolution: int | None = None
    licence: str = "see the model's page"
    template: str | None = None
    temperatures: list[dict[str, Any]] = field(default_factory=list)
    vocabulary: list[str] | None = None
    classes: list[str] | None = None
    grey_step: float | None = None
    patch: int = 1
    window: int | None = None
    guidance_value: float | None = None
    distilled: bool = False
    memory_gb: dict[str, float] = field(default_factory=dict)
    accuracy: list[str] = field(default_factory=list)
    none_threshold: Ratio | None = None
    knows: str = ""
    gigabytes: float | None = None

    @property
    def weights_gb(self) -> float | None:
        """GB of its weights in its own dtype; None if not known."""
        return self.memory_gb.get(self.dtype)

    @property
    def bundled(self) -> bool:
        """Whether the weights come with the package."""
        return Path(self.source).parent == ZOO


def cards() -> dict[str, Card]:
    """All cards by name: the bundled models first."""
    found = {}
    for path in sorted(ZOO.glob("*/card.yaml")):
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        found[path.parent.name] = Card(name=path.parent.name, source=str(path.parent), **data)
    listed = yaml.safe_load((Path(__file__).parent / "cards.yaml").read_text(encoding="utf-8"))
    return found | {name: Card(name=name, **data) for name, data in listed.items()}


def card_of_folder(path: Path, family: str, **own: Any) -> Card:
    """The folder's own `card.yaml` where it has one, as `diffzero train` writes it.

    Args:
        path: The folder.
        family: What its files say it is.
        own: What goes before the file: `name`, `source`.

    Raises:
        InputError: a file that is no card.
    """
    file, data = path / "card.yaml", {}
    if file.is_file():
        try:
            data = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, ValueError, OSError, RecursionError):
            raise InputError(f"{file}: damaged; fix it or remove it.") from None
        _check_card(file, data)
    return Card(**(data | {"name": path.name, "source": str(path)} | own | {"family": family}))


def _check_card(file: Path, data: Any) -> None:
    """Refuse what is not a card's keys with values of their kinds."""
    known = {f.name: str(f.type) for f in fields(Card)}
    if not isinstance(data, Mapping):
        raise InputError(f"{file}: damaged; a card is a mapping. Fix it or remove it.")
    for key, value in data.items():
        if key not in known:
            raise InputError(f"{file}: damaged; a card has no {key!r}. Fix it or remove it.")
        fits = _FITS[known[key].removesuffix(" | None")]
        if value is not None and not fits(value):
            raise InputError(
                f"{file}: damaged; {key} is a {known[key]}, got {value!r:.60}. Fix or remove it."
            )


def _is_fitted(entry: Any) -> bool:
    """Whether an entry of `temperatures` has a method, settings and temperatures by draws."""
    if not isinstance(entry, dict) or set(entry) != {"method", "settings", "fitted"}:
        return False
    fitted = entry["fitted"]
    if not isinstance(entry["method"], str) or not isinstance(entry["settings"], dict):
        return False
    return isinstance(fitted, dict) and all(
        whole(1, 10**9).fits(n) and _POSITIVE.fits(t) for n, t in fitted.items()
    )


_FITS: dict[str, Callable[[Any], bool]] = {  # values by the type of their key
    "str": lambda v: isinstance(v, str),
    "bool": lambda v: isinstance(v, bool),
    "int": whole(1, 10**5).fits,
    "float": _POSITIVE.fits,
    "Ratio": number().fits,
    "list[str]": lambda v: isinstance(v, list) and all(isinstance(word, str) for word in v),
    "list[dict[str, Any]]": lambda v: isinstance(v, list) and all(map(_is_fitted, v)),
    "dict[str, float]": lambda v: (
        isinstance(v, dict) and all(isinstance(k, str) and _POSITIVE.fits(n) for k, n in v.items())
    ),
}
