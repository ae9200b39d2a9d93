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

from ..errors import InputError, plain, said
from .family import Family, Parts, check_class, family_named, family_of_pipeline
from .limits import check_values

MOST_JSON = 64 * 2**20  # bytes of a configuration or tokenizer file
REALS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}
COUNTED = ("position_ids", "num_batches_tracked")  # tensors that are whole numbers by right
NEEDED = {
    "tokenizer": ("tokenizer.json", "vocab.json", "vocab.txt", "*.model"),
    "processor": ("preprocessor_config.json", "processor_config.json"),
    "scheduler": ("scheduler_config.json",),
}
VARIANT = re.compile(r"\.(fp16|bf16)\.")
SHARD = r"(-\d+-of-\d+)?"
WEIGHTS = re.compile(  # the names that the libraries look for; others lie beside them unread
    rf"(diffusion_pytorch_)?model{SHARD}(\.(?P<variant>fp16|bf16))?{SHARD}\.safetensors"
)


def family_of_folder(path: Path) -> Family:
    """Tell the format of a folder by its index or configuration.

    Raises:
        InputError: a folder without either, damaged ones, or a model that is not supported.
    """
    index, config = path / "model_index.json", path / "config.json"
    if index.is_file():
        return family_of_index(index, path)
    if config.is_file():
        kind = read_json(config).get("model_type")
        if kind != "clip":
            raise InputError(f"{path}: model type {kind!r} is not supported; CLIP is.")
        return family_named("clip")
    raise InputError(
        f"{path}: no model_index.json (diffusers) and no config.json (CLIP) in this folder."
    )


def family_of_index(index: Path, where: Any) -> Family:
    """The family of the pipeline that a `model_index.json` names.

    Raises:
        InputError: a damaged file, or a pipeline that is not supported.
    """
    return family_of_pipeline(str(read_json(index).get("_class_name", "")), where)


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
        for file in visible(folder, "*.json"):
            read_json(file)
        if part in family.weighted:
            _check_weights(folder, allow_pickle)
        else:
            _check_present(folder, part)


def visible(folder: Path, pattern: str) -> list[Path]:
    """Files of a folder in order, without those that systems hide (`._model.safetensors`)."""
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def _check_present(folder: Path, part: str) -> None:
    """Refuse a tokenizer without words, a processor or a scheduler without its numbers."""
    names = NEEDED.get(part.split("_")[0], ("*.json",))
    if not any(file.is_file() for name in names for file in folder.glob(name)):
        raise InputError(
            f"{folder}: the {part} lacks its files ({' or '.join(names)}); fetch the checkpoint "
            "again."
        )


def folder_of(path: Path, part: str) -> Path:
    """Where a part lies: CLIP folders hold all parts side by side."""
    return path if (path / "config.json").is_file() else path / part


def read_parts(
    path: Path, family: Family, dtype: Any, place: Any, text_place: Any, allow_pickle: bool
) -> Parts:
    """The parts of a checked folder, networks on their device, text encoders on one of their own.

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
            raise InputError(
                f"{where}: does not load as a {name}: {said(error)}. The files are damaged, or do "
                "not belong together; fetch the checkpoint again."
            ) from None
        if part in family.weighted:
            parts[part].to(text_place if part.startswith("text_encoder") else place)
    _check_tokens(path, parts)
    return parts


def _check_tokens(path: Path, parts: Parts) -> None:
    """Refuse a tokenizer whose special tokens its text encoder has no rows for."""
    for part, tokens in parts.items():
        encoder = parts.get(part.replace("tokenizer", "text_encoder"), parts.get("model"))
        if not part.startswith("tokenizer") or encoder is None:
            continue
        table: Any = getattr(encoder, "text_model", encoder)
        rows = table.get_input_embeddings().num_embeddings
        for name in ("bos_token", "eos_token", "pad_token"):
            number = getattr(tokens, f"{name}_id", None)
            if number is None and name == "pad_token":
                raise InputError(
                    f"{folder_of(path, part)}: the tokenizer has no {name}, which fills prompts "
                    "up; name it in tokenizer_config.json."
                )
            if number is not None and not 0 <= number < rows:
                raise InputError(
                    f"{folder_of(path, part)}: {name} {getattr(tokens, name)!r} is token "
                    f"{number}, and the text encoder knows {rows}; the two do not belong together."
                )


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
    if library == "transformers":  # which gives numbers to all that it misses, however many
        _check_size(cls, where)
    model, info = cls.from_pretrained(
        str(where),
        local_files_only=True,
        ignore_mismatched_sizes=library == "transformers",  # they are refused below, by name
        use_safetensors=None if allow_pickle else True,
        variant=variant_of(where),
        output_loading_info=True,
        **{"torch_dtype" if library == "diffusers" else "dtype": dtype},
    )
    _check_complete(where, model, info)
    return model


def _check_size(cls: Any, where: Path) -> None:
    """Refuse a configuration of more numbers than its files can hold, before they get memory.

    Raises:
        InputError: naming both sizes.
    """
    import torch

    with torch.device("meta"):
        network = cls(cls.config_class.from_pretrained(str(where), local_files_only=True))
    wanted = sum(tensor.numel() for tensor in network.parameters())
    files = [*visible(where, "*.safetensors"), *visible(where, "*.bin")]
    held = sum(path.stat().st_size for path in files)  # a number takes a byte at least
    if wanted > held:
        raise InputError(
            f"{where}: config.json describes a network of {wanted:,} numbers, and the weights "
            f"have {held:,} bytes; they do not belong together, or lack shards."
        )


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
    """Refuse a network that its files do not fit: what they lack would be random numbers, and
    what they have beside it means another network.

    Raises:
        InputError: naming the tensors.
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
            f"{where}: tensors of other shapes than config.json says ({_some(sorted(wrong))}); "
            "weights and configuration do not belong together."
        )
    strange = sorted(n for n in info.get("unexpected_keys") or () if _is_strange(model, n))
    if strange:
        raise InputError(
            f"{where}: holds {len(strange)} tensors that its config.json has no place for "
            f"({_some(strange)}); weights and configuration do not belong together."
        )


def _is_strange(model: Any, name: str) -> bool:
    """Whether a tensor that the network lacks means that it is another network.

    A text encoder may be saved with the projection, the decoder or the image encoder that it was
    trained with; within what it has itself, nothing may be left over.
    """
    if name.endswith(COUNTED):
        return False
    if type(model).__module__.startswith("diffusers."):
        return True
    forms = (name, name.removeprefix(f"{model.base_model_prefix}."))
    own = tuple(f"{child}." for child, _ in model.named_children())
    return any(form.startswith(own) for form in forms)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(plain(name)[:100] or "''" for name in names[:3]) + more


def variant_of(folder: Path) -> str | None:
    """The variant of a folder's weight files: None if a plain one is there, else `fp16`, ..."""
    found = [WEIGHTS.fullmatch(p.name) for p in visible(folder, "*.safetensors")]
    names = [m["variant"] for m in found if m]
    return None if not names or None in names else sorted(names)[0]


def read_json(path: Path) -> dict[str, Any]:
    """A configuration file.

    Raises:
        InputError: not a regular file, not a JSON object, or values out of all bounds.
    """
    try:
        if not path.is_file():
            raise ValueError("not a file")
        if path.stat().st_size > MOST_JSON:
            raise ValueError(f"more than {MOST_JSON:,} bytes")
        data = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
    except _Twice as twice:
        raise InputError(
            f"{path}: says {twice.args[0]!r:.60} twice; keep the right one."
        ) from None
    except (ValueError, OSError, RecursionError) as error:
        raise InputError(
            f"{path}: damaged or half-written ({said(error)}); fetch it again."
        ) from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: damaged; it holds no JSON object. Fetch it again.")
    check_values(path, path.name, data)
    return data


class _Twice(Exception):
    """An object has a key twice, and readers differ in which of the two counts."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise _Twice(next(name for name in names if names.count(name) > 1))
    return dict(pairs)


def _check_weights(folder: Path, allow_pickle: bool) -> None:
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: config.json is missing; fetch the checkpoint again.")
    variant, present = variant_of(folder), visible(folder, "*.safetensors")
    held = {
        path.name: _check_safetensors(path)
        for path in present
        if (match := WEIGHTS.fullmatch(path.name)) and match["variant"] == variant
    }
    every = visible(folder, "*.safetensors.index*.json")
    indices = [path for path in every if (VARIANT.findall(path.name) or [None])[0] == variant]
    for index in indices:
        _check_shards(index, held)
    if not indices and any("-of-" in name for name in held):
        raise InputError(
            f"{folder}: the weights lie in several files without their index "
            "(*.safetensors.index.json); fetch the checkpoint again."
        )
    if held:
        return
    if present:
        raise InputError(
            f"{folder}: {plain(present[0].name)[:100]} is no name that weights are looked for "
            "under; call it model.safetensors, or diffusion_pytorch_model.safetensors in "
            "networks of diffusers."
        )
    pickles = visible(folder, "*.bin")
    if pickles and not allow_pickle:
        raise InputError(
            f"{pickles[0]}: a pickle where safetensors is expected, and a pickle can run code. "
            "Convert it, or pass allow_pickle (--allow-pickle) if you trust its maker."
        )
    if not pickles:
        raise InputError(f"{folder}: no weights (*.safetensors); fetch the checkpoint again.")


def _check_shards(index: Path, held: dict[str, set[str]]) -> None:
    """Refuse an index that names files or tensors that are not there."""
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict):
        raise InputError(f"{index}: damaged; it maps no weights to files. Fetch it again.")
    for tensor, file in sorted(names.items(), key=str):
        if not isinstance(file, str) or file not in held:
            raise InputError(
                f"{index.parent}: {file!s:.200} is missing; fetch the checkpoint again."
            )
        if tensor not in held[file]:
            raise InputError(
                f"{index.parent}: {file} does not hold {tensor!r:.200}, as its index says; fetch "
                "the checkpoint again."
            )


def _check_safetensors(path: Path) -> set[str]:
    """Names of a file's tensors, once its header is known to be sound."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():  # a pipe would be waited for, a link may lead nowhere
        raise InputError(f"{path}: not a file, or a link to nothing; fetch it again.")
    try:
        with safe_open(path, "pt") as file:
            names = file.keys()
            kinds = {name: file.get_slice(name).get_dtype() for name in names}
    except (SafetensorError, OSError, OverflowError):
        with path.open("rb") as raw:
            if raw.read(64).startswith(b"version https://git-lfs"):
                raise InputError(
                    f"{path}: a Git LFS pointer, not the weights; run git lfs pull."
                ) from None
        raise InputError(
            f"{path}: damaged or half-written ({path.stat().st_size:,} bytes); fetch it again."
        ) from None
    odd = sorted(n for n, k in kinds.items() if k not in REALS and not n.endswith(COUNTED))
    if odd:
        raise InputError(
            f"{path}: weights are real numbers; {_some(odd)} are {kinds[odd[0]]}. Quantised "
            "weights are not read."
        )
    return set(kinds)
