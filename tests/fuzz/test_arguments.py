"""Values of every kind for every argument give an answer or an `InputError`, soon."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import diffzero as dz

from .arguments import SECONDS

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("seed", "count"), [(0, 150), pytest.param(1, 10_000, marks=pytest.mark.slow)]
)
def test_odd_arguments_give_an_answer_or_an_input_error(seed, count, tmp_path):
    mark = tmp_path / "mark"
    command = [sys.executable, "-m", "fuzz.arguments", "--seed", str(seed), "--count", str(count)]
    source = str(Path(dz.__file__).parents[1])
    try:
        run = subprocess.run(
            [*command, "--mark", str(mark)],
            cwd=TESTS,
            env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            timeout=120 + count / 10,
        )
    except subprocess.TimeoutExpired:
        pytest.fail(f"no end at case {mark.read_text()} of seed {seed}")
    assert run.returncode == 0, (mark.exists() and mark.read_text(), run.stderr[-500:])
    found = json.loads(run.stdout)
    assert found["bad"] == []
    assert sum(found["outcomes"].values()) == count
    assert found["outcomes"]["ok"] > 0.05 * count
    assert found["outcomes"]["InputError"] > 0.3 * count
    assert found["seconds"] < SECONDS, found["slowest"]
