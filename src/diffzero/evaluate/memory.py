"""How much memory a piece of work takes at its peak."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass
class Peak:
    """Filled when the work is done.

    Attributes:
        mib: Largest memory in use during the work beyond what was in use before it, MiB.
    """

    mib: float = 0.0


@contextmanager
def peak_memory(device: Any, every: float = 0.005) -> Iterator[Peak]:
    """Measure what the block takes: a GPU's allocations, or the resident memory of the process.

    On a CPU the process is sampled, so that shorter peaks are missed and memory that the
    allocator kept from earlier work is not seen again.

    Args:
        device: A `torch.device`.
        every: Seconds between samples on a CPU.
    """
    peak = Peak()
    if device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        peak.mib = (torch.cuda.max_memory_allocated(device) - before) / 2**20
        return
    import psutil

    process, done = psutil.Process(), threading.Event()
    before = most = process.memory_info().rss

    def watch() -> None:
        nonlocal most
        while not done.wait(every):
            most = max(most, process.memory_info().rss)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()
        peak.mib = (max(most, process.memory_info().rss) - before) / 2**20
