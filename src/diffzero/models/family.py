"""What a family of models is: which pipelines, made of which parts, and how they are put together.

A new family is one file with a `FAMILY`, named in `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from ..errors import InputError
from .cards import Card

Parts = dict[str, Any]
FAMILIES = {
    "stable-diffusion": "sd",
    "deepfloyd": "deepfloyd",
    "ddpm": "ddpm",
    "ldm": "ldm",
    "clip": "clip",
    "sdxl": "sdxl",
    "sd3": "sd3",
    "flux": "flux",
    "dit": "dit",
    "pixart": "pixart",
    "sana": "sana",
    "lumina2": "lumina2",
    "z-image": "z_image",
    "flux2": "flux2",
}
# Pipelines made of a family's classes that are no classifiers: (how the name ends, what they do).
RELATIVES = {
    "KontextPipeline": "edits an image that it sees in its input",
    "KontextInpaintPipeline": "edits an image that it sees in its input",
    "FillPipeline": "fills holes of an image that it sees in its input",
    "ControlPipeline": "sees an image in its input",
    "ControlNetPipeline": "sees an image in its input",
    "InstructPix2PixPipeline": "edits an image that it sees in its input",
}


@dataclass(frozen=True)
class Family:
    """A family of models.

    Attributes:
        name: As cards name it.
        pipelines: Classes of diffusers pipelines that hold such a model, in `model_index.json`
            or in memory.
        parts: Classes that each needed part may have; a part's name is its folder and its
            attribute. A scheduler is given to `build` as its config, and the settings of the
            whole pipeline (`model_index.json`) as the part `pipeline`.
        build: Makes the model of its parts and its card.
        weighted: Parts that have weights.
        packages: Python packages that reading it needs beside diffzero's own.
        optional: Parts that a checkpoint may lack; `build` does not receive those.
        aliases: Older names of classes, and what they are called now.
        flow: Whether the network learned by flow matching: a scheduler of another kind tells
            of weights that are not this family's, or would sample them wrongly.
    """

    name: str
    pipelines: tuple[str, ...]
    parts: Mapping[str, tuple[str, ...]]
    build: Callable[[Parts, Card], Any]
    packages: Mapping[str, str] = field(default_factory=dict)
    optional: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    flow: bool = False

    @property
    def weighted(self) -> tuple[str, ...]:
        """Parts that have weights: neither scheduler nor tokenizers nor processors."""
        without = ("scheduler", "tokenizer", "processor")
        return tuple(p for p in self.parts if not p.startswith(without))


def family_named(name: str) -> Family:
    """The family of this name.

    Raises:
        InputError: an unknown one.
    """
    if name not in FAMILIES:
        raise InputError(f"No family {name!r}; there are {', '.join(FAMILIES)}.")
    return import_module(f".{FAMILIES[name]}", __package__).FAMILY


def families() -> list[Family]:
    """All of them."""
    return [family_named(name) for name in FAMILIES]


def family_of_pipeline(name: str, where: Any) -> Family:
    """The family of a pipeline's class.

    Raises:
        InputError: a pipeline that is not supported, or sees images in its input.
    """
    for family in families():
        if name in family.pipelines:
            return family
    for end, what in RELATIVES.items():
        if name.endswith(end):
            raise InputError(
                f"{where}: a {name} {what}, so that its errors say little of a class."
            )
    known = ", ".join(family.pipelines[0] for family in families() if family.pipelines)
    raise InputError(
        f"{where}: a {name[:60] or 'pipeline of unknown class'} is not supported yet; {known} and "
        "CLIP models are."
    )


def check_class(family: Family, part: str, name: str, where: Any) -> None:
    """Refuse a part of another class than the family can serve.

    Raises:
        InputError: naming the part, its class and those that are served.
    """
    allowed = family.parts[part]
    if allowed and name not in allowed:
        raise InputError(
            f"{where}: its {part} is a {name[:60] or 'part of unknown class'}; {family.name} "
            f"models are read with {' or '.join(allowed)}."
        )


def check_flow(scheduler: Mapping[str, Any]) -> None:
    """Refuse a scheduler that is not for flow matching.

    Args:
        scheduler: Its config, with the name of its class.

    Raises:
        InputError: naming the class.
    """
    name = str(scheduler.get("_class_name"))
    flows = name.startswith("FlowMatch") or scheduler.get("use_flow_sigmas")
    if not flows and scheduler.get("prediction_type") != "flow_prediction":
        raise InputError(
            f"its network learned by flow matching and its scheduler is a {name[:60]}, which is "
            "not made for that; give the scheduler that came with the model."
        )
