"""`diffzero doctor`: what is installed, which device there is, and what would run here."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from ..reach import state
from .advice import ROOM, open_models, rounded
from .console import print_table, say

if TYPE_CHECKING:
    from ..models.cards import Card

NEEDED = ("torch", "diffusers", "transformers", "safetensors", "scikit-learn", "pillow")
EXTRAS = {
    "pillow-heif": "HEIC and AVIF photos",
    "ray": "evaluate --workers",
    "imagecorruptions-imaug": "evaluate --corrupt",
}


def doctor() -> None:
    """Say what is installed, which device there is, and which models would run here."""
    from ..models.cards import cards

    print_table(["installed", ""], installed())
    print_table(["this machine", ""], machine())
    gpu, ram = memory()
    rows = [(c.name, verdict(c, gpu, ram)) for c in cards().values()]
    print_table(["model", "here"], rows, narrow=True)
    say("diffzero fetch NAME gets a model; diffzero models NAME says what it knows.")


def installed() -> list[tuple[str, str]]:
    """Packages with their versions, and what an absent one is for."""
    rows = [("diffzero", version_of("diffzero")), ("python", platform.python_version())]
    rows += [(name, version_of(name) or "missing: pip install diffzero") for name in NEEDED]
    absent = "not installed, for {}: pip install {}"
    rows += [(n, version_of(n) or absent.format(why, n)) for n, why in EXTRAS.items()]
    return rows


def version_of(package: str) -> str:
    """Its version, empty if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def machine() -> list[tuple[str, str]]:
    """Device, memory, where models are kept, and whether more can be fetched."""
    import torch
    from huggingface_hub.constants import HF_HUB_CACHE

    gpu, ram = memory()
    place = Path(HF_HUB_CACHE)
    there = place
    while not there.is_dir():
        there = there.parent
    name = f"{torch.cuda.get_device_name()}, {gpu:.0f} GB" if gpu else "no GPU that torch can use"
    return [
        ("device", f"{'cuda' if gpu else 'cpu'} ({name})"),
        ("processor", f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads"),
        ("memory", f"{ram:.0f} GB"),
        ("models are kept in", f"{place}, {shutil.disk_usage(there).free / 1e9:.0f} GB free"),
        ("network", state(open_models()[0].source)),
    ]


def memory() -> tuple[float, float]:
    """GB of the GPU, 0 without one, and of the machine."""
    import torch

    gpu = (
        torch.cuda.get_device_properties(0).total_memory / 1e9 if torch.cuda.is_available() else 0
    )
    if not hasattr(os, "sysconf"):
        return gpu, 0.0
    return gpu, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def verdict(card: Card, gpu: float, ram: float) -> str:
    """Whether a model runs here, and what is missing if not: weights and half as much again.

    On a CPU weights are float32, of twice the size where a card's are of half precision.
    """
    if card.bundled:
        return "ready"
    fetch = "" if is_here(card) else f", after {card.gigabytes or 0:g} GB are fetched"
    on_gpu = ROOM * (card.weights_gb or 0)
    on_cpu = ROOM * card.memory_gb.get("float32", 2 * (card.weights_gb or 0))
    if gpu and gpu >= on_gpu:
        return f"runs on the GPU{fetch}"
    if ram and ram < on_cpu:
        return f"too large: wants {rounded(on_gpu)} of a GPU, or {rounded(on_cpu)} of RAM"
    slow = "" if card.family == "clip" else ", slowly"
    return f"runs on the CPU{slow}{fetch}"


def is_here(card: Card) -> bool:
    """Whether a card's repository is in the hub's cache, as far as can be told without it."""
    from huggingface_hub import try_to_load_from_cache

    files = ("model_index.json", "config.json")
    sources = [card.source, *card.mirrors]
    return any(isinstance(try_to_load_from_cache(s, f), str) for s in sources for f in files)
