"""Ray workers give the records of a single process, also when one of them is killed."""

import os
import signal
import time

import psutil
import pytest

from diffzero.errors import InputError
from test_cli import run
from test_evaluate import classify_digits, read_lines, same_records

pytest.importorskip("ray", reason="ray is not installed: pip install 'diffzero[ray]'")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The records of one process, 40 digits under the ELBO of the bundled digits model."""
    out = tmp_path_factory.mktemp("alone")
    assert classify_digits(out, 40).wait() == 0
    return read_lines(out)


def workers_of(process):
    """Processes of Ray workers that hold a model: the large ones."""
    return [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "Worker" in " ".join(child.cmdline()) and child.memory_info().rss > 300 * 2**20
    ]


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 4])
def test_workers_agree_and_a_killed_one_costs_nothing(alone, tmp_path, count):
    process = classify_digits(tmp_path, 40, "--workers", count)
    killed = False
    while process.poll() is None and not killed:
        time.sleep(0.2)
        if (tmp_path / "records.jsonl").exists() and len(read_lines(tmp_path)) >= 8:
            victims = workers_of(process)
            if victims:
                os.kill(victims[0].pid, signal.SIGKILL)
                killed = True
    assert process.wait(timeout=300) == 0 and killed
    same_records(alone, read_lines(tmp_path))


def test_no_cluster_at_the_address(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    data = ("--data", "digits", "--limit", 4, "--model", "digits-ddpm", "--set", "draws=1")
    assert run(monkeypatch, "evaluate", *data, "--out", tmp_path, "--ray", "127.0.0.1:1") == 2
    assert "no cluster there" in capsys.readouterr().err
    assert (tmp_path / "records.jsonl").read_text() == ""


def test_a_long_folder_of_temporary_files(monkeypatch, tmp_path):
    from diffzero.evaluate import cluster

    long = tmp_path / ("x" * 80)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp")
    assert cluster._short_folder() == {}
    monkeypatch.setenv("TMPDIR", str(long))
    assert len(cluster._short_folder()["_temp_dir"]) <= cluster.LONGEST_FOLDER
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(InputError, match="too long for Ray's sockets"):
        cluster._short_folder()
