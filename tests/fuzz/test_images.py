"""Broken images give pixels or an `InputError`, soon and in bounded memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import diffzero as dz
from diffzero.images import load_image

from .images import BREAKS, broken, outcome, valid

TESTS = Path(__file__).parents[1]


def survey(tmp_path, seed, count, timeout):
    """What a child makes of `count` inputs; a crash or a hang names its input."""
    mark = tmp_path / "mark"
    command = [sys.executable, "-m", "fuzz.images", "--seed", str(seed), "--count", str(count)]
    source = str(Path(dz.__file__).parents[1])
    try:
        run = subprocess.run(
            [*command, "--mark", str(mark)],
            cwd=TESTS,
            env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        pytest.fail(f"no end at input {mark.read_text()} of seed {seed}")
    if run.returncode != 0:
        where = mark.read_text() if mark.exists() else "none"
        pytest.fail(f"exit {run.returncode} at input {where}: {run.stderr[-500:]!r}")
    return json.loads(run.stdout)


@pytest.mark.parametrize(
    ("seed", "count"), [(0, 300), pytest.param(1, 10_000, marks=pytest.mark.slow)]
)
def test_broken_images_give_pixels_or_an_input_error(seed, count, tmp_path):
    found = survey(tmp_path, seed, count, timeout=120 + count / 10)
    assert found["bad"] == []
    assert sum(found["outcomes"].values()) == count
    assert found["outcomes"]["ok"] > 0.1 * count and found["outcomes"]["InputError"] > 0.1 * count
    assert found["seconds"] < 10, found["slowest"]
    assert found["mebibytes"] < 1536, found["largest"]


def test_whole_files_are_read_and_only_floats_refused():
    assert {kind for kind, _ in valid()} >= {"PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"}
    for kind, raw in valid():
        if outcome(raw) != "ok":
            with pytest.raises(dz.InputError, match="floating-point pixels carry no range"):
                load_image(raw)
            assert kind == "TIFF"


def test_inputs_repeat_and_every_way_to_break_is_taken():
    assert broken(3, 14) == broken(3, 14) != broken(3, 15)
    done = {word for index in range(200) for word in broken(0, index)[0].split()}
    assert done >= {change.__name__ for change in BREAKS}
