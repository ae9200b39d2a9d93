"""What a run is: everything needed to repeat it, as `config.json` holds it."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..data import Dataset
from .draws import draw_ranges

FORMAT = 1
PACKAGES = ("diffzero", "torch", "diffusers", "transformers", "numpy", "pillow", "scikit-learn")
NOT_SETTINGS = ("backbone", "batch_size", "seed")


def make_config(
    dataset: Dataset,
    classifier: Any,
    model: str,
    *,
    chosen: dict[str, Any],
    keep_draws: bool,
    warned: list[str],
) -> dict[str, Any]:
    """The configuration of a run.

    Args:
        dataset: What it runs on, already chosen and renamed.
        classifier: Fitted.
        model: What `load` was given.
        chosen: How the images were chosen and changed: limit, subset, corruption.
        keep_draws: Whether the score matrix is kept.
        warned: What `fit` warned about, such as words the model never saw.
    """
    return {
        "format": FORMAT,
        "data": {
            "name": dataset.name,
            "source": dataset.source,
            "split": dataset.split,
            **chosen,
            "images": len(dataset.examples),
            "fingerprint": fingerprint(dataset),
        },
        "model": describe_model(model, classifier.backbone_),
        "method": classifier.method,
        "settings": settings_of(classifier),
        "classes": list(classifier.names_),
        "seed": classifier.seed,
        "keep_draws": keep_draws,
        "draws": draw_ranges(classifier) if keep_draws else None,
        "evaluations_per_image": classifier.count_evals(len(classifier.names_)),
        "warnings": warned,
        "command": command(),
        "directory": str(Path.cwd()),
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": versions(),
        "machine": machine(classifier.backbone_.device),
    }


def command() -> str:
    """What was typed, quoted as a shell wants it."""
    import shlex

    return shlex.join(["diffzero", *sys.argv[1:]])


def fingerprint(dataset: Dataset) -> str:
    """Of the images' names and labels: other images under the same path are another run."""
    digest = hashlib.blake2b(digest_size=8)
    for example in dataset.examples:
        digest.update(f"{example.id}\0{example.label}\n".encode())
    return digest.hexdigest()


def settings_of(classifier: Any) -> dict[str, Any]:
    """Arguments of the method, the temperature in use and the templates among them."""
    plain: dict[str, Any] = {}
    for name, value in classifier.get_params(deep=False).items():
        if name not in NOT_SETTINGS:
            plain[name] = _plain(value)
    plain["temperature"] = classifier.temperature_in_use()
    if getattr(classifier, "reference", None) is not None:
        plain["reference"] = classifier.reference_digest_
    if hasattr(classifier, "templates_"):
        plain["template"] = list(classifier.templates_)
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if hasattr(value, "get_params"):  # a combination holds classifiers
        own = {k: _plain(v) for k, v in value.get_params(deep=False).items() if k != "backbone"}
        model = value.get_params(deep=False).get("backbone")
        return {"method": value.method, "model": getattr(model, "name", str(model)), **own}
    return repr(value)


def describe_model(source: str, loaded: Any) -> dict[str, Any]:
    """Name, origin, revision and precision of a loaded model."""
    from ..models.cards import cards

    card = cards().get(source)
    origin = str(card.source) if card else source
    local = Path(origin).expanduser()
    return {
        "name": loaded.name,
        "family": type(loaded).__name__,
        "source": source if card else origin,
        "revision": weights_hash(local) if local.is_dir() else _commit(origin, card),
        "dtype": str(loaded.dtype).removeprefix("torch."),
        "licence": card.licence if card else None,
    }


def weights_hash(folder: Path) -> str:
    """BLAKE2 of every weight and configuration file of a local checkpoint."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".safetensors", ".bin") or path.name.endswith("config.json"):
            digest.update(str(path.relative_to(folder)).encode())
            with path.open("rb") as file:
                while block := file.read(1 << 22):
                    digest.update(block)
    return "blake2:" + digest.hexdigest()


def _commit(repository: str, card: Any) -> str:
    """The commit that the hub's cache holds of a repository, else the card's revision."""
    from huggingface_hub import try_to_load_from_cache

    revision = card.revision if card else "main"
    for place in [repository, *(card.mirrors if card else [])]:
        for name in ("model_index.json", "config.json"):
            found = try_to_load_from_cache(place, name, revision=revision)
            if isinstance(found, str):
                return f"{place}@{Path(found).parent.name}"
    return revision


def versions() -> dict[str, str]:
    """Of Python and the packages that a number may depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def machine(device: Any) -> dict[str, Any]:
    """Where the numbers were computed."""
    import torch

    card = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "device": str(device),
        "gpu": card,
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def process_peak(device: Any) -> int:
    """Most bytes held so far: of the GPU where there is one, else of this process."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024
