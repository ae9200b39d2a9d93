"""One training in several processes, each with its own batches, as torchrun starts them.

    torchrun --nproc-per-node 2 -m diffzero train cifar10-ldm --data cifar10=PATH --out DIR

With b_i the batch of process i of N, every process moves against the mean of the gradients,

    g = 1/N sum_i dL(b_i)/dtheta,

which is the gradient of all batches together, so that their weights stay the same, bit by bit. The
rate is not raised for the larger batch, and each process does the optimizer's work anew. It serves
several GPUs, and cores whose threads gain nothing of a network's many small products.

References:
    Li et al., PyTorch Distributed: Experiences on Accelerating Data Parallel Training, 2020.
    https://arxiv.org/abs/2006.15704
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
import torch.distributed as dist
from torch import nn

from ..errors import InputError


@contextmanager
def group(device: str) -> Iterator[str]:
    """Be one of the processes that torchrun started, if it did.

    Args:
        device: `cpu` or `cuda`.

    Yields:
        The device of this process: of several GPUs the one of its number.

    Raises:
        InputError: more processes than GPUs.
    """
    if asked() == 1:
        yield device
        return
    place = None
    if torch.device(device).type == "cuda":
        own, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if own >= there:
            raise InputError(
                f"--nproc-per-node must be at most the number of GPUs, {there}; process {own + 1} "
                "has none."
            )
        place = torch.device("cuda", own)
        torch.cuda.set_device(place)
        device = str(place)
    dist.init_process_group("gloo" if place is None else "nccl", device_id=place)
    as_first.cache_clear()
    yield device
    # Not after an error: the others may be waiting for this process, and would for ever.
    # torchrun ends them when it sees this one fail.
    dist.barrier()
    dist.destroy_process_group()
    as_first.cache_clear()


def asked() -> int:
    """How many processes torchrun started, 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def several() -> bool:
    """Whether there is another process in the group."""
    return dist.is_available() and dist.is_initialized()


@cache
def as_first(answer: bool) -> bool:
    """The first process's answer to what each would measure for itself, and find differently."""
    if not several():
        return answer
    told = torch.tensor(float(answer))
    dist.broadcast(told, 0)
    return bool(told)


def rank() -> int:
    """Of this process, from 0: the first writes files and lines of progress."""
    return dist.get_rank() if several() else 0


def barrier() -> None:
    """Go on when all processes have come here: what the first wrote can be read."""
    if several():
        dist.barrier()


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes.

    Args:
        parameters: The same ones in every process. Those without a gradient must lack it in all.
    """
    if not several():
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])  # one message, not hundreds
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def agreed(seconds: float, device: torch.device) -> float:
    """The mean of the processes' seconds: budgets must end at the same step in all of them."""
    if not several():
        return seconds
    # nccl has no numbers outside a GPU; float64 counts hours to the microsecond.
    total = torch.tensor(seconds, dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return float(total) / dist.get_world_size()
