"""Folders of checkpoints: told apart, checked before anything is built, and read part by part.

Nothing is executed or unpickled: weights are safetensors unless the caller allows pickles.
"""

from __future__ import annotations

import json
import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import InputError
from .family import Family, Parts, check_class, family_named, family_of_pipeline

MOST_LAYERS, MOST_WIDTH, MOST_ITEMS = 512, 2**24, 4096
MOST_JSON = 64 * 2**20  # bytes of a configuration or tokenizer file
WEIGHTS = re.compile(r"(?P<stem>.*?)(\.(?P<variant>fp16|bf16))?(-\d+-of-\d+)?\.safetensors")


def family_of_folder(path: Path) -> Family:
    """Tell the format of a folder by its index or configuration.

    Raises:
        InputError: a folder without either, damaged ones, or a model that is not supported.
    """
    index, config = path / "model_index.json", path / "config.json"
    if index.is_file():
        return family_of_pipeline(str(read_json(index).get("_class_name", "")), path)
    if config.is_file():
        kind = read_json(config).get("model_type")
        if kind != "clip":
            raise InputError(f"{path}: model type {kind!r} is not supported; CLIP is.")
        return family_named("clip")
    raise InputError(
        f"{path}: no model_index.json (diffusers) and no config.json (CLIP) in this folder."
    )


def check_folder(path: Path, family: Family, allow_pickle: bool) -> None:
    """Make sure that every part is there and whole, before anything large is built.

    Raises:
        InputError: what is missing, damaged, a pickle or out of all bounds.
    """
    for package, why in family.packages.items():
        if find_spec(package) is None:
            raise InputError(f"{path}: needs the package {package}: {why}. pip install {package}")
    for part in family.parts:
        folder = folder_of(path, part)
        if part in family.optional and not folder.is_dir():
            continue
        if not folder.is_dir():
            raise InputError(f"{path}: the folder {part}/ is missing; fetch it again.")
        for file in folder.glob("*.json"):
            read_json(file)
        if part in family.weighted:
            _check_weights(folder, allow_pickle)
        elif not any(folder.glob("*.json")):
            raise InputError(f"{folder}: holds no configuration; fetch the checkpoint again.")


def folder_of(path: Path, part: str) -> Path:
    """Where a part lies: CLIP folders hold all parts side by side."""
    return path if (path / "config.json").is_file() else path / part


def read_parts(
    path: Path,
    family: Family,
    dtype: Any,
    place: Any,
    allow_pickle: bool,
    text_place: Any = None,
) -> Parts:
    """The parts of a checked folder, networks on their device.

    Raises:
        InputError: a part of a class that the family cannot serve, or that does not load, with
            the cause.
    """
    index_file = path / "model_index.json"
    index = read_json(index_file) if index_file.is_file() else {}
    parts: Parts = {"pipeline": index}
    for part, allowed in family.parts.items():
        where = folder_of(path, part)
        if part in family.optional and (index.get(part) == [None, None] or not where.is_dir()):
            continue
        if part == "scheduler":
            parts[part] = read_json(where / "scheduler_config.json")
            continue
        name = _class_of(index.get(part), allowed)
        name = family.aliases.get(name, name)
        check_class(family, part, name, path)
        try:
            parts[part] = _read(name, where, dtype, allow_pickle, part in family.weighted)
        except InputError:
            raise
        except Exception as error:  # the libraries raise dozens of types for a damaged folder
            said = " ".join(str(error).split())[:200] or type(error).__name__
            raise InputError(
                f"{where}: does not load as a {name}: {said}. The files are damaged, or do not "
                "belong together; fetch the checkpoint again."
            ) from None
        if part in family.weighted:
            aside = text_place is not None and part.startswith("text_encoder")
            parts[part] = parts[part].to(text_place if aside else place)
    return parts


def _class_of(entry: Any, allowed: tuple[str, ...]) -> str:
    """Class of a part: what the index says, without `Flax` and the like; else the family's."""
    if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], str):
        return entry[1]
    return allowed[0] if entry is None else str(entry)


def _read(name: str, where: Path, dtype: Any, allow_pickle: bool, weighted: bool) -> Any:
    library = library_of(name)
    cls = getattr(import_module(library), name)
    if not weighted:
        return cls.from_pretrained(str(where), local_files_only=True)
    options: dict[str, Any] = {"torch_dtype" if library == "diffusers" else "dtype": dtype}
    if library == "diffusers":
        options["low_cpu_mem_usage"] = True
    model, info = cls.from_pretrained(
        str(where),
        local_files_only=True,
        use_safetensors=None if allow_pickle else True,
        variant=variant_of(where),
        output_loading_info=True,
        **options,
    )
    _check_complete(where, model, info)
    return model


def library_of(name: str) -> str:
    """The library that has a class of this name: diffusers, else transformers.

    Raises:
        InputError: neither has one.
    """
    for library in ("diffusers", "transformers"):
        if hasattr(import_module(library), name):
            return library
    raise InputError(f"Neither diffusers nor transformers, as installed here, has a {name}.")


def _check_complete(where: Path, model: Any, info: dict[str, Any]) -> None:
    """Refuse a network of which the files lack tensors: they would be random numbers.

    Raises:
        InputError: naming them.
    """
    parameters = {name for name, _ in model.named_parameters()}
    missing = sorted(parameters.intersection(info.get("missing_keys") or ()))
    if missing:
        raise InputError(
            f"{where}: lacks {len(missing)} of the network's tensors ({_some(missing)}); fetch "
            "the checkpoint again."
        )
    wrong = [str(k[0] if isinstance(k, tuple) else k) for k in info.get("mismatched_keys") or ()]
    if wrong:
        raise InputError(
            f"{where}: tensors of other shapes than config.json says ({_some(wrong)}); weights "
            "and configuration do not belong together."
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def variant_of(folder: Path) -> str | None:
    """The variant of a folder's weight files: None if a plain one is there, else `fp16`, ..."""
    found = [WEIGHTS.fullmatch(p.name) for p in folder.glob("*.safetensors")]
    names = [m["variant"] for m in found if m and "non_ema" not in m["stem"]]
    return None if not names or None in names else sorted(names)[0]


def read_json(path: Path) -> dict[str, Any]:
    """A configuration file.

    Raises:
        InputError: not a regular file, not a JSON object, or numbers out of all bounds.
    """
    try:
        if not path.is_file() or path.stat().st_size > MOST_JSON:
            raise ValueError
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError):
        raise InputError(f"{path}: damaged or half-written; fetch it again.") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: damaged; it holds no JSON object. Fetch it again.")
    if path.name in ("config.json", "scheduler_config.json"):
        _check_numbers(path, data)
    return data


def _check_numbers(path: Path, data: dict[str, Any]) -> None:
    """Refuse sizes that would build for minutes or fill the memory."""
    for key, value in data.items():
        if key == "lambda_min_clipped":  # DPM-Solver's, which is minus infinity where it is unused
            continue
        if isinstance(value, dict):
            _check_numbers(path, value)
        values = value if isinstance(value, list) else [value]
        flat = [v for inner in values for v in (inner if isinstance(inner, list) else [inner])]
        numbers = [v for v in flat if isinstance(v, int | float) and not isinstance(v, bool)]
        most = MOST_LAYERS if "layers" in key or "blocks" in key else MOST_WIDTH
        unbounded = key.startswith(("trained_betas", "transformers", "_")) or "token_id" in key
        if len(values) > MOST_ITEMS or any(
            not abs(v) < float("inf") or (abs(v) > most and not unbounded) for v in numbers
        ):
            raise InputError(f"{path}: {key} is out of all bounds ({value!r:.60}).")


def _check_weights(folder: Path, allow_pickle: bool) -> None:
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: config.json is missing; fetch the checkpoint again.")
    tensors = sorted(folder.glob("*.safetensors"))
    for path in tensors:
        _check_safetensors(path)
    for index in sorted(folder.glob("*.safetensors.index.json")):
        _check_shards(index)
    if tensors:
        return
    pickles = sorted(folder.glob("*.bin"))
    if pickles and not allow_pickle:
        raise InputError(
            f"{pickles[0]}: a pickle where safetensors is expected, and a pickle can run code. "
            "Convert it, or pass allow_pickle (--allow-pickle) if you trust its maker."
        )
    if not pickles:
        raise InputError(f"{folder}: no weights (*.safetensors); fetch the checkpoint again.")


def _check_shards(index: Path) -> None:
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict):
        raise InputError(f"{index}: damaged; it maps no weights to files. Fetch it again.")
    for name in sorted(set(map(str, names.values()))):
        if Path(name).name != name or not (index.parent / name).is_file():
            raise InputError(f"{index.parent}: {name} is missing; fetch the checkpoint again.")


def _check_safetensors(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():  # a pipe would be waited for, a link may lead nowhere
        raise InputError(f"{path}: not a file, or a link to nothing; fetch it again.")
    try:
        with safe_open(path, "pt"):
            pass
    except (SafetensorError, OSError, OverflowError):
        raise InputError(
            f"{path}: damaged or half-written ({path.stat().st_size:,} bytes); fetch it again."
        ) from None
