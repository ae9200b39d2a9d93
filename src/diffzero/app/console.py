"""What people see: results on standard output, notes, warnings and progress on standard error.

A leaf: it imports nothing of diffzero. Text that the terminal cannot show is written with escapes.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import time
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

LONG = 2.0  # seconds of work that deserve an estimate
MEASURED = 0.05  # seconds that a batch must have taken for its rate to mean something


def prepare() -> None:
    """Make both streams write every name, with escapes where the encoding lacks a character.

    A stream that was closed by whoever started the command (`>&-`) swallows what it is given.
    """
    while (free := os.open(os.devnull, os.O_RDWR)) < 3:
        pass  # so that no file of ours gets the number of a stream
    os.close(free)
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r+", encoding="utf-8"))  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = _show_warning


def abandon_output() -> None:
    """Stop writing to a standard output that takes no more, so that leaving does not fail too."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def printable(text: str) -> str:
    """The text on one line: control characters and bytes that are no text become escapes."""
    return "".join(
        c.encode("unicode_escape", "backslashreplace").decode("ascii")
        if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")
        else c
        for c in text
    )


def say(line: str) -> None:
    """A line of the result on standard output, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def say_json(value: Any) -> None:
    """A JSON value on one line of standard output; NaN and infinities, unknown there, are null."""
    try:
        text = json.dumps(value, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(value), allow_nan=False)
    say(text)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def note(message: str) -> None:
    """A line on standard error."""
    sys.stderr.write(message + "\n")
    sys.stderr.flush()


def note_waiting(message: str) -> None:
    """A line on standard error for somebody who watches; programs that read it get results."""
    if sys.stderr.isatty():
        note(message)


@contextmanager
def terminable() -> Iterator[None]:
    """A request to end (SIGTERM, as schedulers send it) is heard as Ctrl-C within the block."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield  # someone else listens
        return

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def unbroken() -> Iterator[None]:
    """Hold Ctrl-C back until the block is done, so that what is printed is also counted.

    So is SIGTERM where it is heard as such. A second one is not held back: the output may be what
    hangs.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread hears of Ctrl-C
        return
    heard = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    usual: dict[int, Any] = {one: handler for one, handler in heard.items() if callable(handler)}
    held: list[tuple[Any, ...]] = []

    def hold(number: int, frame: Any) -> None:
        held.append((number, frame))
        if len(held) > 1:
            usual[number](number, frame)

    for one in usual:
        signal.signal(one, hold)
    try:
        yield
    finally:
        for one, handler in usual.items():
            signal.signal(one, handler)
    if held:
        usual[held[0][0]](*held[0])


def print_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], narrow: bool = False
) -> None:
    """A table on standard output; a narrow one has thin gaps and never breaks its first column."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    thin: dict[str, Any] = {"padding": (0, 1, 0, 0), "show_edge": False} if narrow else {}
    table = Table(box=SIMPLE_HEAD, **thin)
    for place, name in enumerate(header):
        table.add_column(name, overflow="fold", no_wrap=narrow and not place)
    for row in rows:
        table.add_row(*row)
    Console(markup=False, emoji=False).print(table)  # words may have brackets and colons


def duration(seconds: float) -> str:
    """A rounded time in the units that people use: `9 s`, `4 min`, `2 h 10 min`."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    hours, minutes = divmod(minutes, 60)
    if not hours:
        return f"{minutes} min"
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


class Estimate:
    """Says once how long the work will take, measured on its second batch.

    The first one also pays for what happens once, such as choosing kernels and encoding the first
    photos. Where photos may take fewer units than were announced, the first one is waited for.

    Args:
        total: Units of work in all, at most if `early`.
        tell: Where the sentence goes.
        clock: Seconds that pass.
        early: Whether photos may take fewer units; `finished` then tells of each.
    """

    def __init__(
        self, total: int, tell: Callable[[str], None], clock: Callable[[], float] = time.monotonic,
        early: bool = False,
    ) -> None:  # fmt: skip
        self.total, self.tell, self.clock, self.early = total, tell, clock, early
        self.announced = self.spent = 0  # units of what is finished
        self.done, self.said, self.began = 0, False, clock()
        self.first: tuple[int, float] | None = None  # units and seconds of the first batch

    def __call__(self, n: int) -> None:
        """So many units were just done."""
        self.done += n
        spent = self.clock() - self.began
        if self.said or not self.done or (self.early and not self.announced):
            return
        if self.first is None:
            self.first = self.done, spent
            return
        units, seconds = self.first
        if spent - seconds < MEASURED or self.done == units:
            return
        self.said = True
        share = self.spent / self.announced if self.early else 1.0
        left = (self.total - self.done) * share + self.done - units
        whole = seconds + (spent - seconds) * left / (self.done - units)
        if whole > LONG and self.done < self.total:
            self.tell(f"about {duration(whole)}, as its first batches suggest")

    def skip(self, n: int) -> None:
        """So many units will not be done at all."""
        self.total -= n

    def finished(self, announced: int, spent: int) -> None:
        """What so many units were announced for took so many."""
        self.announced += announced
        self.spent += spent
        self.skip(announced - spent)


@contextmanager
def progress_bar(total: int, unit: str = "evaluations", early: bool = False) -> Iterator[Estimate]:
    """A bar with rate and time left, on a terminal; everywhere an estimate of long work.

    Args:
        total: Units of work in all.
        unit: What they are.
        early: See `Estimate`.

    Yields:
        A function that takes the number of units just done; its `skip` takes those that will not
        be done.
    """
    from rich.console import Console

    console = Console(stderr=True, markup=False, emoji=False)
    if not console.is_terminal:
        yield Estimate(total, note, early=early)
        return
    with _bar(console, unit) as bar:
        task = bar.add_task("", total=total)
        yield _Shown(total, bar, task, bar.console.print, early)


class _Shown(Estimate):
    """An estimate that also moves a bar."""

    def __init__(
        self, total: int, bar: Any, task: Any, tell: Callable[[str], None], early: bool
    ) -> None:
        super().__init__(total, tell, early=early)
        self.bar, self.task = bar, task

    def __call__(self, n: int) -> None:
        super().__call__(n)
        self.bar.advance(self.task, n)

    def skip(self, n: int) -> None:
        super().skip(n)
        self.bar.update(self.task, total=self.total)


def _bar(console: Any, unit: str) -> Any:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:,.0f}/s" if task.speed else "")

    columns = (TextColumn(unit), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    # Results that go to a file must not be caught and shown above the bar instead.
    return Progress(*columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty())


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    note(f"warning: {message}")
