"""What people see: escapes, estimates, whole lines, and outputs that fail."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from diffzero.app import cli, console

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's devices")


def test_what_does_not_print_is_escaped():
    assert console.printable("café スニーカー") == "café スニーカー"
    assert console.printable("a\x1b[2Jb\n\udce9\u2028") == r"a\x1b[2Jb\n\udce9\u2028"


def test_json_holds_no_nan(capsys):
    console.say_json({"a": [1.5, float("nan")], "b": ("\udce9", {"c": float("inf")}), "d": True})
    text = capsys.readouterr().out
    assert json.loads(text) == {"a": [1.5, None], "b": ["\udce9", {"c": None}], "d": True}
    assert text.isascii() and text.count("\n") == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (42.4, "42 s"), (150, "2 min"), (7200, "2 h"), (9000, "2 h 30 min")],
)
def test_durations(seconds, text):
    assert console.duration(seconds) == text


def test_long_work_is_estimated_once_from_its_first_part():
    said, now = [], [0.0]
    estimate = console.Estimate(100, said.append, lambda: now[0])
    estimate.skip(20)  # an unreadable image: no time is spent on it
    now[0] = 3.0
    estimate(1)  # with what happens once
    now[0] = 3.01
    estimate(1)  # too soon to tell
    now[0] = 4.0
    estimate(7)
    now[0] = 5.0
    estimate(10)
    assert said == ["about 13 s, as its first batches suggest"]  # 3 s, and 79 units at 8 a second


def test_short_work_is_not_estimated():
    said, now = [], [0.0]
    estimate = console.Estimate(10, said.append, lambda: now[0])
    for now[0] in (0.15, 0.3):
        estimate(1)
    assert said == []


@pytest.fixture
def heard():
    """SIGINT as in a terminal: it is ignored where tests run in the background of a script."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_waits_for_the_line_that_is_being_written(heard):
    done = []
    with pytest.raises(KeyboardInterrupt), console.unbroken():
        os.kill(os.getpid(), signal.SIGINT)
        done.append("line")
    assert done == ["line"]
    with pytest.raises(KeyboardInterrupt), console.unbroken():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # the output hangs: the user insists
        done.append("never")
    assert done == ["line"]


def test_a_request_to_end_is_heard_as_ctrl_c_and_waits_for_the_line(heard):
    done = []
    with pytest.raises(KeyboardInterrupt), console.terminable(), console.unbroken():
        os.kill(os.getpid(), signal.SIGTERM)
        done.append("line")
    assert done == ["line"] and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_before_there_is_an_answer_says_so(monkeypatch, capsys, heard, kind):
    monkeypatch.setattr("diffzero.models.cards.cards", lambda: os.kill(os.getpid(), kind))
    monkeypatch.setattr(sys, "argv", ["diffzero", "models"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 130 and capsys.readouterr() == ("", "stopped.\n")


@LINUX
def test_results_go_to_their_file_while_a_bar_is_on_the_terminal():
    """Standard error is a terminal and standard output is none: lines are not drawn on the bar."""
    import pty

    code = (
        "from diffzero.app.console import progress_bar, say\n"
        "with progress_bar(20) as progress:\n"
        "    say('a result'); progress(10)\n"
    )
    ours, theirs = pty.openpty()
    found = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=theirs, check=True,
        env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert found.stdout == b"a result\n"
    assert "10/20" in shown and "a result" not in shown


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "full"), "the output: cannot be written (No space left on device)"),
        (OSError(errno.EROFS, "no", "/x/a.png"), "/x/a.png: cannot be written (Read-only file"),
        (PermissionError(errno.EACCES, "no", "b"), "Give a place that can be written."),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "Free some space and"),
        (OSError("weights not found"), "This is a bug in diffzero"),
        (ZeroDivisionError("x"), "ZeroDivisionError: x. This is a bug in diffzero"),
    ],
)
def test_failures_are_sentences(error, expected):
    assert expected in cli.sentence(error)


def diffzero(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "diffzero", *map(str, arguments)], stderr=subprocess.PIPE,
        text=True, errors="surrogateescape", **options,
    )  # fmt: skip


@LINUX
def test_full_disk_is_one_sentence():
    with open("/dev/full", "w") as full:  # noqa: PTH123
        found = diffzero("reproduce", stdout=full)
    assert found.returncode == 1
    assert found.stderr.startswith("error: the output: cannot be written (No space left")
    assert found.stderr.count("\n") == 1


@LINUX
@pytest.mark.parametrize("closed", ["0", "1", "2", "0 1 2"])
def test_streams_that_were_closed_swallow_what_they_are_given(closed):
    """As `diffzero ... >&-` in a shell, or a service without any stream."""
    away = " ".join(f"{number}>&-" for number in closed.split())
    shell = f'exec "$0" -m diffzero methods {away}'
    found = subprocess.run(["sh", "-c", shell, sys.executable], capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "")
    assert ("elbo" in found.stdout) == ("1" not in closed)


def test_a_reader_that_leaves_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    found = diffzero("reproduce", stdout=writing)
    os.close(writing)
    assert found.stderr == ""


@LINUX
def test_names_and_labels_outside_the_code_page_are_escaped(tmp_path):
    from PIL import Image

    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    found = diffzero(
        "classify", tmp_path, "--labels", "スニーカー,bag", "--model", "tiny-clip",
        stdout=subprocess.PIPE, env={**os.environ, "PYTHONIOENCODING": "cp1252:strict"},
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert r"caf\udce9.png:" in found.stdout and r"\u30b9\u30cb\u30fc\u30ab\u30fc" in found.stdout


@LINUX
def test_a_folder_that_is_gone(tmp_path):
    shell = 'mkdir gone; cd gone; rmdir ../gone; exec "$0" -c "$1" methods'
    script = "from diffzero.app.cli import main; main()"  # what is installed as `diffzero`
    source = str(Path(cli.__file__).parents[2])
    found = subprocess.run(
        ["sh", "-c", shell, sys.executable, script], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": source},
    )  # fmt: skip
    assert found.returncode == 2 and found.stderr.startswith("error: The current folder is gone")
