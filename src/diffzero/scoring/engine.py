"""The engine: jobs of many images, packed into full batches.

A method gives a program, a generator, for each image. A program yields `Jobs` and is sent what
the network said of them, row by row; it may yield again, and returns an `Outcome`. Dense scoring
yields once, an adaptive method as often as it likes. The engine starts as many images as fill a
batch, so that the network sees full ones whatever the methods do, and what an image costs is
counted, not predicted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Subject:
    """An image as programs and batches see it.

    Attributes:
        x_0: What the codec made of it, `[*shape]`; with a leading axis of views for methods that
            learn from several.
        key: Its randomness, see `noise.image_key`.
        memo: Anything that batches of the same image need not work out twice.
    """

    x_0: Tensor
    key: int
    memo: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Jobs:
    """Rows for the network, all of one image.

    Rows that share a draw should be neighbours: their `x_t` is then made once.

    Attributes:
        condition: Number of each row's condition, int64 `[n]`; the method knows the table.
        draw: Number of each row's draw, int64 `[n]`.
        t: Time of each row, float64 `[n]`.
        tag: Anything else a row must say, int64 `[n]`; zeros if None.
        lane: Rows of different lanes never share a batch: one number for all rows, or `[n]`.
        state: Anything that all rows share, such as a vector that is being learned.
    """

    condition: np.ndarray
    draw: np.ndarray
    t: np.ndarray
    tag: np.ndarray | None = None
    lane: Any = 0
    state: Any = None

    def __len__(self) -> int:
        return len(self.condition)

    @classmethod
    def dense(cls, conditions: np.ndarray, draws: np.ndarray, t: np.ndarray, **more: Any) -> Jobs:
        """Every draw of every condition: all conditions of the first draw, then of the second."""
        k = len(conditions)
        return cls(np.tile(conditions, len(draws)), np.repeat(draws, k), np.repeat(t, k), **more)


@dataclass(frozen=True)
class Batch:
    """Rows of many images for one call of the network.

    Attributes:
        subjects: The distinct images.
        states: The state of each one's jobs.
        subject: Place of each row's image in `subjects`, int64 `[n]`.
        condition: As in `Jobs`.
        draw: As in `Jobs`.
        t: As in `Jobs`.
        tag: As in `Jobs`.
        lane: The lane that all rows share.
    """

    subjects: list[Subject]
    states: list[Any]
    subject: np.ndarray
    condition: np.ndarray
    draw: np.ndarray
    t: np.ndarray
    tag: np.ndarray
    lane: int

    def __len__(self) -> int:
        return len(self.subject)

    @property
    def x_0(self) -> Tensor:
        """Of each row, `[n, *shape]`."""
        stacked = torch.stack([s.x_0 for s in self.subjects])
        return stacked[self.on_device(self.subject)]

    @property
    def keys(self) -> list[int]:
        """Of each row."""
        return [self.subjects[i].key for i in self.subject]

    def on_device(self, numbers: np.ndarray) -> Tensor:
        """Numbers as a tensor where the images are."""
        return torch.from_numpy(np.ascontiguousarray(numbers)).to(self.subjects[0].x_0.device)


@dataclass(frozen=True)
class Results:
    """What the network said of a batch.

    Attributes:
        values: One entry per row: an array `[n, ...]` or a list.
        evals: Network evaluations of each row: one number for all, or `[n]`.
        vjps: Vector-Jacobian products of each row, likewise.
    """

    values: Any
    evals: Any = 1
    vjps: Any = 0


@dataclass
class Outcome:
    """What a program concluded of its image.

    Attributes:
        logits: float64 `[k]`.
        details: What else it knows of each class, `[k]` each.
        facts: What else a record should say of the image, as JSON has it.
        extra: Anything that only the method itself makes use of.
        evals: Network evaluations, counted by the engine.
        vjps: Vector-Jacobian products, counted by the engine.
    """

    logits: np.ndarray
    details: dict[str, np.ndarray] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    extra: Any = None
    evals: int = 0
    vjps: int = 0


Program = Generator[Jobs, Any, Outcome]


class _Running:
    """A program with the jobs that it waits for."""

    def __init__(self, subject: Subject, program: Program) -> None:
        self.subject, self.program = subject, program
        self.outcome: Outcome | None = None
        self.evals = self.vjps = 0
        self.jobs: Jobs = next(program)
        self.values: Any = None
        self.missing = len(self.jobs)

    def take(self, rows: np.ndarray, values: Any, evals: np.ndarray, vjps: np.ndarray) -> None:
        """Keep what was said of some rows."""
        if isinstance(values, np.ndarray):
            if self.values is None:
                self.values = np.empty((len(self.jobs), *values.shape[1:]), values.dtype)
            self.values[rows] = values
        else:
            self.values = self.values or [None] * len(self.jobs)
            for row, value in zip(rows, values, strict=True):
                self.values[row] = value
        self.evals += int(evals.sum())
        self.vjps += int(vjps.sum())
        self.missing -= len(rows)

    def advance(self) -> bool:
        """Send the results; whether there are more jobs."""
        values, self.values = self.values, None
        try:
            self.jobs = self.program.send(values)
        except StopIteration as stop:
            self.outcome = stop.value
            self.outcome.evals, self.outcome.vjps = self.evals, self.vjps
            return False
        self.missing = len(self.jobs)
        return True


class _Queue:
    """Rows that wait, by lane."""

    def __init__(self) -> None:
        self.lanes: dict[int, deque[tuple[_Running, np.ndarray]]] = {}
        self.count: dict[int, int] = {}

    def fullest(self) -> int:
        """Rows in the fullest lane."""
        return max(self.count.values(), default=0)

    def add(self, running: _Running) -> None:
        """Queue all jobs of a program."""
        lanes = np.broadcast_to(running.jobs.lane, (len(running.jobs),))
        for lane in np.unique(lanes):
            rows = np.flatnonzero(lanes == lane)
            self.lanes.setdefault(int(lane), deque()).append((running, rows))
            self.count[int(lane)] = self.count.get(int(lane), 0) + len(rows)

    def pop(self, most: int) -> tuple[int, list[tuple[_Running, np.ndarray]]]:
        """At most so many rows of the fullest lane, those that wait longest first."""
        lane = max(self.count, key=self.count.__getitem__)
        waiting, taken, room = self.lanes[lane], [], most
        while waiting and room:
            running, rows = waiting.popleft()
            taken.append((running, rows[:room]))
            if len(rows) > room:
                waiting.appendleft((running, rows[room:]))
            room -= len(taken[-1][1])
        self.count[lane] -= most - room
        if not waiting:
            del self.lanes[lane], self.count[lane]
        return lane, taken


def run(
    programs: Iterable[tuple[Subject, Program]],
    evaluate: Callable[[Batch], Results],
    rows: int,
    progress: Progress | None = None,
) -> Iterator[Outcome]:
    """The outcome of every program, in order.

    Args:
        programs: Images with their programs; taken as they are needed, so that encoding may be
            part of it.
        evaluate: Asks the network about a batch.
        rows: Most rows of a batch.
        progress: Called with the evaluations of each batch.
    """
    source, queue, order = iter(programs), _Queue(), deque[_Running]()
    more = True
    while True:
        while more and queue.fullest() < rows:
            pair = next(source, None)
            if pair is None:
                more = False
                break
            order.append(_Running(*pair))
            _settle(order[-1], queue)
        while order and (done := order[0].outcome) is not None:
            order.popleft()
            yield done
        if not queue.count:
            if not more:
                return
            continue
        lane, taken = queue.pop(rows)
        results = evaluate(_batch(lane, taken))
        n = sum(len(r) for _, r in taken)
        evals, vjps = (np.broadcast_to(c, (n,)) for c in (results.evals, results.vjps))
        if progress is not None:
            progress(int(evals.sum()))
        start = 0
        for running, own in taken:
            part = slice(start, start + len(own))
            running.take(own, results.values[part], evals[part], vjps[part])
            start += len(own)
            if not running.missing and running.advance():
                _settle(running, queue)


def _settle(running: _Running, queue: _Queue) -> None:
    """Queue a program's jobs; one that yields none is sent nothing and goes on."""
    while not running.missing:
        if not running.advance():
            return
    queue.add(running)


def _batch(lane: int, taken: Sequence[tuple[_Running, np.ndarray]]) -> Batch:
    def gathered(column: str) -> np.ndarray:
        return np.concatenate([getattr(r.jobs, column)[rows] for r, rows in taken])

    tags = [
        np.zeros(len(rows), np.int64) if r.jobs.tag is None else r.jobs.tag[rows]
        for r, rows in taken
    ]
    return Batch(
        [r.subject for r, _ in taken],
        [r.jobs.state for r, _ in taken],
        np.repeat(np.arange(len(taken)), [len(rows) for _, rows in taken]),
        gathered("condition"),
        gathered("draw"),
        gathered("t"),
        np.concatenate(tags),
        lane,
    )
