"""Damaged and hostile checkpoints run nothing and are refused in one sentence with the cause."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import diffzero as dz

from .checkpoints import KINDS, SECONDS

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("every", [19, pytest.param(1, marks=pytest.mark.slow)])
def test_spoilt_checkpoints_are_refused_with_the_cause(every, tmp_path):
    mark = tmp_path / "mark"
    command = [sys.executable, "-m", "fuzz.checkpoints", "--every", str(every)]
    source = str(Path(dz.__file__).parents[1])
    try:
        run = subprocess.run(
            [*command, "--mark", str(mark)],
            cwd=TESTS,
            env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            timeout=120 + 2 * len(KINDS) / every,
        )
    except subprocess.TimeoutExpired:
        pytest.fail(f"no end at {mark.read_text()}")
    assert run.returncode == 0, (mark.read_text(), run.stderr[-500:])
    found = json.loads(run.stdout)
    assert found["wrong"] == {}
    assert found["kinds"] >= 25 and found["seconds"] < SECONDS, found["slowest"]


def test_kinds_are_many_and_have_names_of_their_own():
    names = [kind.name for kind in KINDS]
    assert len(names) == len(set(names)) >= 400
    assert {name.split("-")[0] for name in names} == {
        *("sd", "ddpm", "if", "clip", "sdxl", "sd3", "flux", "dit", "pixart")
    }
