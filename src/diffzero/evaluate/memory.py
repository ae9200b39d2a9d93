"""How much memory the tensors of a piece of work take at its peak."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass
class Peak:
    """Filled when the work is done.

    Attributes:
        mib: Largest memory of tensors alive at once that the work made, MiB.
    """

    mib: float = 0.0


@contextmanager
def peak_memory(device: Any) -> Iterator[Peak]:
    """Measure what the block takes beyond what was in use before it.

    On a GPU the allocator knows. On a CPU every allocation and release of a tensor is recorded
    and summed up in time: unlike the size of the process this depends neither on earlier work nor
    on memory that an allocator keeps. It slows the block down.

    Args:
        device: A `torch.device`.
    """
    import torch

    peak = Peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        peak.mib = (torch.cuda.max_memory_allocated(device) - before) / 2**20
        return
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=cpu, profile_memory=True) as recorded:
        yield peak
    results = recorded.profiler.kineto_results if recorded.profiler is not None else None
    events = [] if results is None else [e for e in results.events() if e.name() == "[memory]"]
    in_use = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        in_use += event.nbytes()
        most = max(most, in_use)
    peak.mib = most / 2**20
