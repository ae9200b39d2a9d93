"""`diffzero`: the commands, and one entry point that turns errors into a sentence.

Standard output holds the result alone; progress, warnings and errors go to standard error. Exit
codes: 0 fine, 2 bad input, 1 failure, 130 interrupted.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from typing import Annotated

import typer

from ..errors import DiffzeroError, InputError
from ..options import short
from .classify import classify
from .console import abandon_output, note, prepare, say, terminable
from .demo import demo
from .doctor import doctor
from .evaluate import evaluate
from .explain import explain
from .fetch import fetch
from .lists import methods, models
from .reproduce import reproduce
from .runs import calibrate, report, rescore
from .serve import serve
from .train import scenes, train

COMMANDS = (
    *(classify, explain, serve, demo, evaluate, report, rescore, calibrate),
    *(reproduce, train, scenes, models, methods, fetch, doctor),
)
EXAMPLES = {  # shown below the options of each
    "classify": 'diffzero classify photos/ --labels "cat,dog,ship" --out results.csv',
    "explain": 'diffzero explain photo.jpg --labels "cat,dog" --out why.png',
    "serve": "diffzero serve --port 7860",
    "evaluate": "diffzero evaluate --data labelled/ --model tiny-sd --out runs/sd",
    "report": "diffzero report runs/sd",
    "reproduce": "diffzero reproduce binding --limit 100",
    "train": "diffzero train cifar10-ldm --data cifar10=PATH --minutes 120 --out models/ldm",
    "models": "diffzero models photos-sd",
    "methods": "diffzero methods race",
    "fetch": "diffzero fetch clip-vit-b-32",
}
FULL = {errno.ENOSPC, errno.EDQUOT}
REFUSED = {
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EEXIST),
    *(errno.ENAMETOOLONG, errno.EIO, errno.EFBIG),
}

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in COMMANDS:
    example = EXAMPLES.get(command.__name__)
    app.command(epilog=f"Example: {example}" if example else None)(command)


def _say_version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        say(f"diffzero {__version__}")
        raise typer.Exit


@app.callback(epilog=f"Example: {EXAMPLES['classify']}")
def top(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_say_version,
                           is_eager=True)
    ] = False,
) -> None:  # fmt: skip
    """Any diffusion model as a zero-shot image classifier."""


def _check_folder() -> None:
    """Refuse to work in a folder that is gone, where PyTorch dies with a message of its own.

    Raises:
        InputError: saying so.
    """
    try:
        os.getcwd()  # noqa: PTH109
    except OSError as error:
        raise InputError(
            f"The current folder is gone ({error.strerror}). Change to one that is there."
        ) from None


def main() -> None:
    """Entry point: errors become one sentence and an exit code, never a traceback."""
    prepare()
    try:
        with terminable():
            _check_folder()
            app()
    except InputError as error:
        note(f"error: {error}")
        sys.exit(2)
    except DiffzeroError as error:
        note(f"error: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        note("stopped.")
        sys.exit(130)
    except SystemExit as leaving:  # typer makes one of an interruption that no command heard
        if isinstance(getattr(leaving.__context__, "__cause__", None), KeyboardInterrupt):
            note("stopped.")
        raise
    except Exception as error:
        note(f"error: {sentence(error)}")
        abandon_output()
        sys.exit(1)


def _number(error: Exception) -> int:
    """The system's number of a failure, which libraries written in Rust put into words; or 0."""
    if isinstance(error, OSError):
        return error.errno or 0
    told = re.search(r"\(os error (\d+)\)", str(error))
    return int(told[1]) if told else 0


def sentence(error: Exception) -> str:
    """What a failure that nobody foresaw means for the user."""
    number = _number(error)
    if number in FULL | REFUSED:
        place = str(getattr(error, "filename", None) or "the output")
        place = short(place) if len(place) > 1000 else place
        remedy = (
            "Free some space and run the same command again."
            if number in FULL
            else "Give a place that can be written."
        )
        return f"{place}: cannot be written ({os.strerror(number)}). {remedy}"
    return (
        f"{type(error).__name__}: {error}. This is a bug in diffzero; please report it with the "
        "command you ran."
    )
