"""The desk of the page: questions wait in line, one at a time is answered, any can be called off.

See `serve_answer` for how one is answered.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ..errors import DiffzeroError
from .serve_answer import Tell, classify, explain
from .serve_ask import Ask

MOST_WAITING = 24
MOST_MODELS = 2  # kept in memory, the CLIP model beside them
ASKED_AGAIN = 0.5  # seconds after which those that wait hear their place


class CalledOff(DiffzeroError):
    """The user pressed cancel, or closed the page."""


class Busy(DiffzeroError):
    """The line is full."""


@dataclass(eq=False)
class Job:
    """A question in line."""

    name: str
    off: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """Raise `CalledOff` once it was."""
        if self.off.is_set():
            raise CalledOff("Cancelled.")


class Desk:
    """Answers questions one after another.

    Args:
        load: A model's name to the model.
        clip: Name of the CLIP model that answers beside; None for none.
    """

    def __init__(self, load: Callable[[str], Any], clip: str | None) -> None:
        self.load, self.clip = load, clip
        self._models: OrderedDict[str, Any] = OrderedDict()
        self._here: set[Job] = set()
        self._line: deque[Job] = deque()
        self._moved = threading.Condition()
        # One thread does all work: each would keep memory and a pool of its own.
        self._worker = ThreadPoolExecutor(1)

    def ready(self, name: str) -> None:
        """Load a model before anyone asks, so that what is wrong with it is said at once."""
        self._model(name)

    def cancel(self, name: str) -> bool:
        """Call off a job by its name; whether there is one."""
        with self._moved:
            found = [job for job in self._here if name and job.name == name]
            for job in found:
                job.off.set()
            self._moved.notify_all()
        return bool(found)

    @contextmanager
    def place(self, name: str) -> Iterator[Job]:
        """A place at the desk, to be taken before the photo is read into memory.

        Raises:
            Busy: there is none.
        """
        job = Job(name)
        with self._moved:
            if len(self._here) >= MOST_WAITING:
                raise Busy(f"{MOST_WAITING} photos are waiting already. Try again in a moment.")
            self._here.add(job)
        try:
            yield job
        finally:
            with self._moved:
                self._here.remove(job)
                if job in self._line:
                    self._line.remove(job)
                self._moved.notify_all()

    def answer(self, job: Job, ask: Ask, tell: Tell) -> None:
        """Wait for the turn, then answer.

        Raises:
            CalledOff: the job was.
            InputError: anything unusable.
        """
        self._wait(job, tell)
        self._worker.submit(self._work, job, ask, tell).result()

    def _work(self, job: Job, ask: Ask, tell: Tell) -> None:
        from ..images import open_image

        photo = open_image(io.BytesIO(ask.photo), "The photo")
        model = self._model(ask.model)
        if ask.explain:
            explain(model, ask, photo, tell, job.check)
        else:
            clip = None if self.clip is None else self._model(self.clip)
            classify(model, clip, ask, photo, tell, job.check)

    def _wait(self, job: Job, tell: Tell) -> None:
        with self._moved:
            self._line.append(job)
        while True:
            with self._moved:
                before = self._line.index(job)
                if before and not job.off.is_set():
                    self._moved.wait(ASKED_AGAIN)
                    before = self._line.index(job)
            job.check()
            if not before:
                return
            tell({"event": "waiting", "before": before})

    def _model(self, name: str) -> Any:
        if name in self._models:
            self._models.move_to_end(name)
        else:
            while len([n for n in self._models if n != self.clip]) >= MOST_MODELS:
                self._models.pop(next(n for n in self._models if n != self.clip))
            self._models[name] = self.load(name)
        return self._models[name]
