"""`load`: from a card's name, a folder, a hub id or a pipeline in memory to a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch

from ..errors import InputError, said
from ..options import FLAG, NOTHING, WORDS, check_value, nearest, one_of, short, whole
from ..prompts import check_labels
from .backbone import Backbone, Temperature, naming
from .cards import Card, card_of_folder, cards
from .checkpoint import check_folder, family_of_folder, read_parts
from .clip import ClipBackbone
from .codec import overflows
from .family import Family, Parts, check_class, check_flow, family_named, family_of_pipeline
from .limits import MOST_SIDE
from .quiet import quiet
from .weights import check_filled, checksum

DTYPE = one_of("float32", "float16", "bfloat16")
_COPIES: WeakKeyDictionary[Any, tuple[Any, Callable[[], Any]]] = WeakKeyDictionary()


def load(
    source: Any,
    *,
    device: str = "auto",
    dtype: str | None = None,
    allow_pickle: bool = False,
    resolution: int | None = None,
    classes: Sequence[str] | None = None,
    text_device: str | None = None,
) -> Any:
    """A model ready to classify with.

    Networks of a pipeline in memory are used in place: `device` and `dtype` move them, and they
    are in evaluation mode after this and after every answer; call `train()` to train on.

    Args:
        source: A card's name (`diffzero models` lists them), a folder in diffusers' or CLIP's
            format, a hub id, or a diffusers pipeline in memory.
        device: `cpu`, `cuda`, `cuda:1`, or `auto` for the best there is; a pipeline in memory
            stays where it is under `auto`, and is moved otherwise.
        dtype: `float32`, `float16` or `bfloat16`. If None: float32 on a CPU, the card's
            elsewhere, and what it has for a pipeline in memory.
        allow_pickle: Accept weights that are pickles. A pickle runs code of whoever made it.
        resolution: Side of the images in pixels, for models that take others than their own.
        classes: Names of the classes of a class-conditional model, in the order of its
            embedding, where its card does not say.
        text_device: Where text encoders stay: `cpu` keeps them off the GPU, where a large one
            would take the network's memory. If None, where the network is.

    Returns:
        A `Backbone`, or a `ClipBackbone`.

    Raises:
        InputError: no such model, a missing or half-written checkpoint, a pickle, a format that
            is not supported, a device that is not there, names of classes for a model that
            has none.
    """
    device = str(device) if isinstance(device, torch.device) else device
    check_value("device", device, WORDS)
    check_value("dtype", dtype, DTYPE | NOTHING)
    check_value("allow_pickle", allow_pickle, FLAG)
    check_value("resolution", resolution, whole(1, MOST_SIDE) | NOTHING)
    names = None if classes is None else check_labels(classes, least=1)
    check_value("text_device", text_device, WORDS | NOTHING)
    aside = None if text_device is None else place_of(text_device)
    if isinstance(source, str | Path):
        place = place_of(device)
        model = _from_name(str(source), place, aside, dtype, allow_pickle, names)
    elif isinstance(source, Backbone | ClipBackbone):
        model = _as_it_is(source, device, dtype)
        _refuse(model.name, "is loaded already", classes=names, text_device=text_device)
    else:
        model = _from_pipeline(source, device, aside, dtype, names)
    if getattr(model, "classes", None) is None:  # of a family with classes, and not for it
        _refuse(model.name, "reads text, of any words", classes=names)
    if resolution is None:
        return model
    if not isinstance(model, Backbone):
        raise InputError(f"{model.name} resizes images itself; leave out resolution.")
    return model.resized(resolution)


def _from_name(
    name: str,
    place: Any,
    text_place: Any,
    dtype: str | None,
    allow_pickle: bool,
    classes: list[str] | None,
) -> Any:
    known = cards()
    card = known[name] if name in known else _card_of(name)
    path = Path(card.source)
    if not path.is_dir():
        from .hub import fetch_card

        path = fetch_card(card, allow_pickle)
    family = family_of_folder(path)
    _refuse_unused(family, name, classes, text_place)
    check_folder(path, family, allow_pickle)
    if name not in known:
        card = card_of_folder(path, family.name, name=card.name)
    if classes is not None:
        card = replace(card, classes=classes)
    with quiet():
        wanted = named_dtype(dtype or ("float32" if place.type == "cpu" else card.dtype))
        parts = read_parts(path, family, wanted, place, text_place or place, allow_pickle)
        return finished(family.name, parts, card)


def _card_of(name: str) -> Card:
    """What is known of a folder or a hub id before it is looked into.

    Raises:
        InputError: neither.
    """
    path = _path_of(name)
    if path.is_dir():
        return Card(name=path.name, family="", source=str(path))
    _refuse_files(path)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise InputError(
            f"No model {short(name)}: neither a folder nor a card; {nearest(name, cards())}"
            f"{', '.join(cards())}. Hub ids have the form owner/name."
        )
    return Card(name=name, family="", source=name)


def _path_of(name: str) -> Path:
    """A name as a path.

    Raises:
        InputError: none that the file system knows.
    """
    try:
        path = Path(name).expanduser()
        path.is_dir()
        if not name.strip() or "\0" in name:
            raise ValueError("it is blank or holds NUL")
    except (OSError, ValueError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(
            f"No model {short(name)}: {why}. Give a folder, a hub id or one of "
            f"{', '.join(cards())}."
        ) from None
    return path


def finished(family: str, parts: Parts, card: Card) -> Any:
    """The model of a family's parts, with what its card knows.

    Raises:
        InputError: parts that make no model, under the card's name.
    """
    with naming(card.name):
        try:
            own = family_named(family)
            if own.flow:
                check_flow(parts["scheduler"])
            model = own.build(parts, card)
            check_filled(model.networks())
        except InputError:
            raise
        except Exception as error:  # parts whose configurations contradict each other
            raise InputError(
                f"its parts make no {family} model: {said(error)}. They do not belong together; "
                "fetch the checkpoint again."
            ) from error
    if card.template is not None:
        model.template = card.template
    model.temperatures = tuple(Temperature(**entry) for entry in card.temperatures)
    model.none_threshold = card.none_threshold
    if card.vocabulary is not None:
        model.vocabulary = frozenset(card.vocabulary)
    if card.distilled:
        model.distilled = True
    return model


def _as_it_is(model: Any, device: str, dtype: str | None) -> Any:
    """A model that is loaded already, if it is as the caller wants it."""
    same, here = device == "auto", model.device
    with suppress(RuntimeError):  # no device at all
        wanted = torch.device(device)
        same = same or (wanted.type, wanted.index or 0) == (here.type, here.index or 0)
    for word, given, has, fits in (
        ("device", device, here, same),
        ("dtype", dtype, model.dtype, dtype in (None, str(model.dtype).removeprefix("torch."))),
    ):
        if not fits:
            raise InputError(
                f"{model.name} is loaded with {word} {has}; it cannot become {short(given)}. "
                f"Load it anew with {word}={short(given)}."
            )
    return model


def _refuse(name: str, why: str, **arguments: Any) -> None:
    """Refuse arguments that would be without effect on this model."""
    for word, value in arguments.items():
        if value is not None:
            raise InputError(f"{name} {why}; leave out {word}, which is {short(value)}.")


def _refuse_unused(family: Family, name: str, classes: Any, text_place: Any) -> None:
    """Refuse what no model of the family can use, before its networks are read or moved."""
    reads = any(part.startswith("text_encoder") for part in family.parts)
    if reads or family.name == "clip":
        _refuse(name, "reads text, of any words", classes=classes)
    if not reads:
        where = None if text_place is None else str(text_place)
        _refuse(name, "has no text encoder that could be elsewhere", text_device=where)


def _from_pipeline(
    source: Any,
    device: str,
    text_place: Any,
    dtype: str | None,
    classes: list[str] | None,
) -> Any:
    from diffusers import DiffusionPipeline

    if not isinstance(source, DiffusionPipeline):
        raise InputError(
            "A model is a card's name, a folder, a hub id or a diffusers pipeline; got "
            f"{type(source).__name__}."
        )
    name = source.config.get("_name_or_path") or "pipeline"
    family = family_of_pipeline(type(source).__name__, name)
    _refuse_unused(family, name, classes, text_place)
    parts: Parts = {"pipeline": dict(source.config) | {"_class_name": type(source).__name__}}
    parts["pipeline"] |= {"labels": getattr(source, "labels", None)}  # DiT's, not in its config
    for part in family.parts:
        found = getattr(source, part, None)
        found = getattr(found, "_orig_mod", found)  # what torch.compile stands around
        if found is None and part in family.optional:
            continue
        if found is None:
            raise InputError(
                f"{name}: the pipeline has no {part}; it needs {', '.join(family.parts)}. Load it "
                "with all of them."
            )
        kind = type(found).__name__
        check_class(family, part, kind, name)
        _check_weights(found, part, name, dtype)
        parts[part] = {"_class_name": kind, **found.config} if part == "scheduler" else found
    if getattr(source, "image_encoder", None) is not None:
        raise InputError(
            f"{name}: a pipeline with an image encoder (IP-Adapter) is not supported; unload it."
        )
    place = None if device == "auto" else place_of(device)
    for part in family.weighted:
        if part in parts:
            there = (part.startswith("text_encoder") and text_place) or place
            _move(parts[part], there, None if dtype is None else named_dtype(dtype))
    for part in family.weighted:
        if part in ("vae", "vqvae") and part in parts and overflows(parts[part]):
            parts[part] = _copied(parts[part])
    card = Card(name=name, family=family.name, source=name, classes=classes)
    return finished(family.name, parts, card)


def _copied(vae: Any) -> Any:
    """A copy of a pipeline's autoencoder, which gives its own latents of its own precision.

    The models of one pipeline share it as long as its weights and its configuration stay as they
    are, which are compared as such: torch does not count writes through `.data`.
    """
    state = (checksum(vae), str(vae.device), vae.dtype, repr(sorted(vae.config.items(), key=str)))
    before, copy = _COPIES.get(vae, (None, lambda: None))
    kept = copy() if before == state else None
    if kept is None:
        kept = deepcopy(vae)
        _COPIES[vae] = state, ref(kept)
    return kept


def _move(network: Any, place: Any, dtype: Any) -> None:
    """A part of a pipeline to a device and a precision, either of which may be None.

    Modules that are kept in float32 where a folder is read in float16 are so here: those that
    transformers and diffusers name in `_keep_in_fp32_modules`, since they overflow.
    """
    if dtype is not None and network.dtype != dtype:
        kept = getattr(network, "_keep_in_fp32_modules", None) or ()
        wide = {
            name: parameter.data.float()
            for name, parameter in network.named_parameters()
            if dtype == torch.float16 and not set(kept).isdisjoint(name.split("."))
        }
        network.to(dtype=dtype)
        for name, values in wide.items():
            network.get_parameter(name).data = values
    if place is not None:
        network.to(device=place)


def _check_weights(network: Any, part: str, name: str, dtype: str | None) -> None:
    """Refuse a pipeline's part that moves on every call, or whose weights cannot be used so.

    8-bit weights serve where diffusers casts each layer before it runs
    (`enable_layerwise_casting`), and where a quantiser put its own kind of tensor in their place.
    """
    hooks = _hooks_of(network)
    if getattr(network, "_hf_hook", None) is not None or "group_offloading" in hooks:
        raise InputError(
            f"{name}: its {part} is off-loaded (enable_model_cpu_offload or the like), so that "
            "it moves on every call. Load the pipeline without that; text encoders that do not "
            "fit stay on the CPU with load(FOLDER, text_device='cpu')."
        )
    own: Any = getattr(network, "dtype", None)
    if getattr(own, "is_floating_point", False) and own.itemsize == 1:
        raise InputError(
            f"{name}: its {part} is {str(own).removeprefix('torch.')}, which no layer computes "
            f"with. Load it in bfloat16 and store it in 8 bits with pipeline.{part}."
            "enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, "
            "compute_dtype=torch.bfloat16)."
        )
    kept = "layerwise_casting" in hooks or getattr(network, "hf_quantizer", None) is not None
    if dtype is not None and kept:
        raise InputError(
            f"{name}: its {part} is stored in fewer bits than it computes with, and keeps what "
            "diffusers gave it. Leave out dtype."
        )


def _hooks_of(network: Any) -> set[str]:
    """Names of the hooks that diffusers put on any module of a network."""
    if not hasattr(network, "modules"):
        return set()
    registries = (getattr(module, "_diffusers_hook", None) for module in network.modules())
    return {name for registry in registries if registry is not None for name in registry.hooks}


def _refuse_files(path: Path) -> None:
    if path.suffix in (".ckpt", ".pt", ".pth", ".bin", ".pkl"):
        raise InputError(
            f"{path}: a pickled checkpoint can run code and is refused. Convert it to a folder "
            "in diffusers' format with safetensors weights."
        )
    if path.suffix == ".safetensors":
        raise InputError(
            f"{path}: single-file checkpoints are not read, since their configuration has to be "
            "guessed. Convert it once with StableDiffusionPipeline.from_single_file(...)."
            "save_pretrained(FOLDER) and give the folder."
        )
    if path.is_file():
        raise InputError(f"{path}: a model is a folder; this is a file.")


def place_of(device: str) -> Any:
    """The torch device of this name.

    Raises:
        InputError: one that is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("mps"):
        raise InputError(
            "Device 'mps' has no double precision, which noise schedules are computed in. Use cpu."
        )
    try:
        place = torch.device(device)
        if place.type == "meta":  # it has shapes and no numbers
            raise RuntimeError
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError):
        raise InputError(
            f"Device {short(device)} is not available here. Use cpu, or auto for the best there "
            "is."
        ) from None
    return place


def named_dtype(name: str) -> Any:
    """The torch dtype of this name.

    Raises:
        InputError: an unknown one.
    """
    check_value("dtype", name, DTYPE)
    return getattr(torch, name)
