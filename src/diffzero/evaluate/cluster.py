"""The same loop on Ray: workers score, this process reads, resumes and writes.

Every worker is an actor that loads the model once. Chunks go to whichever worker is free; when a
worker dies, its chunk goes back to the queue and a new actor takes its place. Scores belong to
images, so that the records are those of a single process.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import DiffzeroError, InputError

# A socket's path has 103 bytes on some systems, and Ray appends up to 70 of its own.
LONGEST_FOLDER = 33
PATIENCE = 3  # deaths in a row without a result before the run gives up


class Worker:
    """Runs in a process of its own: a classifier made once, chunks scored one by one.

    Args:
        choice: The `ModelChoice` of the run.
        names: Classes.
        template: Prompts, None for the model's own.
        corruption: See `Scorer`.
        keep_draws: See `Scorer`.
        threads: CPU threads of this worker.
    """

    def __init__(
        self,
        choice: Any,
        names: list[str],
        template: list[str] | None,
        corruption: Any,
        keep_draws: bool,
        threads: int,
    ) -> None:
        import warnings

        import torch

        from .run import Scorer

        torch.set_num_threads(threads)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the driver has said it
            classifier = choice.build(names, template)
        self.scorer = Scorer(classifier, corruption, keep_draws)

    def score(self, items: list[Any]) -> Any:
        """A chunk of items to their result."""
        return self.scorer(items)


class Pool:
    """Workers on this machine or on a cluster.

    Args:
        choice: The `ModelChoice` of the run.
        names: Classes.
        template: Prompts, None for the model's own.
        corruption: See `Scorer`.
        keep_draws: See `Scorer`.
        workers: How many; if None, one a GPU of the cluster, else one a CPU.
        address: Of a Ray cluster; None starts Ray on this machine for the time of the run.
        gpus: GPUs a worker, may be a fraction; if None, the machine's GPUs shared evenly.

    Raises:
        InputError: Ray is not installed, no cluster at the address, no workers.
    """

    def __init__(
        self,
        choice: Any,
        names: list[str],
        template: list[str] | None,
        corruption: Any,
        keep_draws: bool,
        *,
        workers: int | None,
        address: str | None,
        gpus: float | None,
    ) -> None:
        if workers is not None and workers < 1:
            raise InputError(f"--workers must be at least 1; got {workers}.")
        if gpus is not None and gpus < 0:
            raise InputError(f"--gpus-per-worker must not be negative; got {gpus}.")
        self.ray = start(address, workers)
        have = self.ray.cluster_resources()
        total = have.get("GPU", 0.0) if choice.device in ("auto", "cuda") else 0.0
        self.workers = workers or max(1, int(total or have.get("CPU", 1)))
        share = gpus if gpus is not None else total / self.workers
        # Ray counts a fraction below one, or whole GPUs.
        self.gpus = share if share < 1 else float(int(share))
        cores = have.get("CPU", 1.0) / self.workers
        self.cpus = min(1.0, cores)  # more workers than cores is the user's right
        threads = max(1, int(cores))
        self.arguments = (choice, names, template, corruption, keep_draws, threads)

    def score(self, chunks: Iterable[list[Any]]) -> Iterator[Any]:
        """Results in the order in which they are done.

        Raises:
            DiffzeroError: workers die again and again, or one cannot be made.
        """
        source, again = iter(chunks), deque[list[Any]]()
        busy: dict[Any, tuple[Any, list[Any]]] = {}
        deaths = 0
        try:
            for _ in range(self.workers):
                self._give(self._worker(), source, again, busy)
            while busy:
                (done,), _ = self.ray.wait(list(busy), num_returns=1)
                worker, chunk = busy.pop(done)
                try:
                    result = self.ray.get(done)
                except self.ray.exceptions.RayActorError as error:
                    deaths += 1
                    if deaths >= PATIENCE + self.workers:
                        raise DiffzeroError(
                            f"Workers died {deaths} times without a result ({error}). What was "
                            "done is kept; run the same command again with fewer workers."
                        ) from None
                    again.append(chunk)
                    worker = self._worker()
                else:
                    deaths = 0
                    yield result
                self._give(worker, source, again, busy)
        finally:
            self.close()

    def _give(
        self, worker: Any, source: Iterator, again: deque, busy: dict[Any, tuple[Any, list]]
    ) -> None:
        """The next chunk for a worker, if there is one; abandoned chunks first."""
        chunk = again.popleft() if again else next(source, None)
        if chunk is not None:
            busy[worker.score.remote(chunk)] = (worker, chunk)

    def _worker(self) -> Any:
        options = {"num_cpus": self.cpus, "num_gpus": self.gpus, "scheduling_strategy": "SPREAD"}
        return self.ray.remote(**options)(Worker).remote(*self.arguments)

    def close(self) -> None:
        """Let go of the workers, and of Ray where this process started it."""
        self.ray.shutdown()


def start(address: str | None, workers: int | None) -> Any:
    """Connected Ray.

    Raises:
        InputError: not installed, or no cluster at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise InputError(
            f"Workers need Ray ({error}). Install it with pip install 'diffzero[ray]'."
        ) from None
    if address is not None:
        _knock(address)
    ray.shutdown()
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        options |= {"include_dashboard": False, "address": "local"} | _short_folder()
    else:
        options["address"] = address
    try:
        ray.init(**options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        first = str(error).partition("\n")[0]
        raise InputError(
            f"--ray {address}: the cluster did not let this process in ({first}). Versions of Ray "
            "and Python must agree; a cluster with token authentication wants RAY_AUTH_MODE=token "
            "and its RAY_AUTH_TOKEN in the environment."
        ) from None
    return ray


def _short_folder() -> dict[str, str]:
    """Ray's own folder, where the usual one makes the names of its sockets too long.

    Raises:
        InputError: no short folder can be written.
    """
    usual = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    if len(os.fsencode(Path(usual).absolute())) <= LONGEST_FOLDER or os.name == "nt":
        return {}
    if not os.access("/tmp", os.W_OK):
        raise InputError(
            f"The folder of temporary files, {usual}, is too long for Ray's sockets "
            f"({LONGEST_FOLDER} characters at most). Set RAY_TMPDIR to a shorter one."
        )
    return {"_temp_dir": f"/tmp/ray-{os.getuid()}"}


def _knock(address: str) -> None:
    """Refuse an address where nobody listens: Ray itself would wait there for minutes."""
    import socket

    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        return  # a word such as auto, which Ray looks up itself
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        raise InputError(
            f"--ray {address}: no cluster there ({error}). Start one with ray start --head."
        ) from None
