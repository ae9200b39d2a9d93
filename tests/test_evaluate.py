"""`diffzero evaluate` from the shell: interruption, refusal, bad input, data of every kind."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import diffzero as dz
from conftest import heard
from diffzero.data import caption_words, digits_split
from diffzero.evaluate.records import read_records
from diffzero.evaluate.store import RunStore
from test_cli import run

CLASSES = caption_words()["digits"]["classes"]


def command(out, *arguments):
    """A real process of the command line, from this source tree."""
    source = str(Path(dz.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "diffzero", "evaluate", "--out", out, *arguments]
    return [str(a) for a in line], environment


def classify_digits(out, limit, *arguments, quiet=True):
    line, environment = command(
        out, "--data", "digits", "--model", "digits-ddpm", "--set", "draws=4", "--limit", limit,
        "--batch-size", 40, *arguments,
    )  # fmt: skip
    where = subprocess.DEVNULL if quiet else subprocess.PIPE
    return subprocess.Popen(line, env=environment, stdout=where, stderr=where, text=True)


def read_lines(out):
    text = (Path(out) / "records.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines(True) if line.endswith("\n")]


def same_records(first, second):
    """The same images once each, all fields equal but seconds, logits within 1e-5."""
    table = {r["id"]: r for r in first}
    assert len(table) == len(first) == len(second)
    assert {r["id"] for r in second} == set(table)
    for record in second:
        other = table[record["id"]]
        assert set(other) == set(record)
        for key in set(record) - {"seconds", "logits", "probabilities"}:
            assert record[key] == other[key], key
        if "logits" in record:
            scale = np.abs(other["logits"]).max()
            assert np.allclose(record["logits"], other["logits"], atol=1e-5 * scale, rtol=0)
            assert np.allclose(record["probabilities"], other["probabilities"], atol=1e-4)


@pytest.fixture
def mix(tmp_path):
    """An ImageFolder of thirty digits, two of them unreadable."""
    _, (images, labels) = digits_split()
    for i in range(30):
        folder = tmp_path / "mix" / CLASSES[labels[i]].replace(" ", "_")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[i]).save(folder / f"{i:02d}.png")
    for path in sorted((tmp_path / "mix").rglob("*.png"))[3:5]:
        path.write_bytes(b"broken")
    return tmp_path / "mix"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["SIGKILL", "SIGINT", "SIGTERM"])
def test_ten_interruptions_and_damaged_lines_lose_and_double_nothing(mix, tmp_path, kind):
    """Between the calls a disk tears the last line, or spoils one in the middle."""
    arguments = ("--data", mix, "--model", "digits-ddpm", "--set", "draws=4", "--keep-draws",
                 "--batch-size", 40)  # fmt: skip
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    line, environment = command(whole, *arguments)
    assert subprocess.run(line, env=environment, capture_output=True, check=False).returncode == 2
    line, environment = command(torn, *arguments)
    chance, codes, said = random.Random(0), [], ""
    for turn in range(10):
        before = len(read_lines(torn)) if (torn / "records.jsonl").exists() else 0
        process = subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE, text=True,
                                   preexec_fn=heard)  # fmt: skip
        # What ends it while Python starts is not heard by anything that could say so.
        enough = before + chance.randint(int(kind != "SIGKILL"), 4)
        while process.poll() is None:
            records = torn / "records.jsonl"
            if records.exists() and len(read_lines(torn)) >= enough:
                break
            time.sleep(0.01)
        time.sleep(chance.random() * 0.2)
        process.send_signal(getattr(signal, kind))
        said += process.communicate()[1]
        codes.append(process.returncode)
        if turn in (2, 5, 8):
            damage(torn / "records.jsonl", line, environment, in_the_middle=turn == 5)
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "2 of 30 images could not be used" in done.stderr
    same_records(read_lines(whole), read_lines(torn))
    assert "Traceback" not in said
    if kind != "SIGKILL":
        assert 130 in codes
        assert said.count("stopped") == codes.count(130)


def damage(records, line, environment, in_the_middle):
    """Tear the last line, which a run mends itself; or spoil one, which it names and leaves."""
    lines = records.read_bytes().splitlines(True)
    if not in_the_middle or len(lines) < 3:
        records.write_bytes(b"".join(lines)[:-7])
        return
    spoilt = [*lines[:1], b"\0" * 40 + b"\n", *lines[2:]]
    records.write_bytes(b"".join(spoilt))
    found = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 2 and "damaged in line 2" in found.stderr
    assert records.read_bytes() == b"".join(spoilt)
    records.write_bytes(b"".join([*lines[:1], *lines[2:]]))  # as the message says


def test_a_run_resumes_after_a_torn_line_and_retries_errors(monkeypatch, capsys, mix, tmp_path):
    arguments = ("evaluate", "--data", mix, "--model", "tiny-clip", "--out", tmp_path / "run")
    assert run(monkeypatch, *arguments) == 2
    whole = read_lines(tmp_path / "run")
    path = tmp_path / "run" / "records.jsonl"
    lines = path.read_bytes().splitlines(True)
    path.write_bytes(b"".join(lines[:10]) + lines[10][:40])
    assert run(monkeypatch, *arguments) == 2
    assert "10 are done" in capsys.readouterr().err
    same_records(whole, read_lines(tmp_path / "run"))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["images"], summary["errors"], summary["expected"]) == (28, 2, 30)
    broken = [r["id"] for r in whole if "error" in r]
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(mix / broken[0])
    assert run(monkeypatch, *arguments) == 2  # errors stay done
    assert "30 are done" in capsys.readouterr().err
    assert run(monkeypatch, *arguments, "--retry-errors") == 2
    records = read_records(tmp_path / "run", sorted(CLASSES))
    assert len(records.ids) == 29 and list(records.errors) == [broken[1]]


RECORD = {"id": "x", "label": "digit", "probabilities": [0.1] * 10, "logits": [0.0] * 10}


@pytest.mark.parametrize(
    "line",
    [
        b'{"id": "x", "lab',
        b"\0" * 40,
        b"[1]",
        b"null",
        b'{"label": "x"}',
        b'{"id": "\xff"}',
        b'{"id": 3}',
        json.dumps(RECORD | {"label": "no class"}).encode(),
        json.dumps(RECORD | {"logits": [0.0]}).encode(),
        json.dumps(RECORD | {"logits": None}).encode(),
        json.dumps(RECORD | {"probabilities": [float("nan")] * 10}).encode(),
    ],
)
def test_a_line_that_is_no_record_is_named_before_anything_is_done(
    monkeypatch, capsys, tmp_path, line
):
    arguments = ("evaluate", "--data", "digits", "--limit", 6, "--model", "tiny-clip",
                 "--out", tmp_path)  # fmt: skip
    assert run(monkeypatch, *arguments) == 0
    whole, path = read_lines(tmp_path), tmp_path / "records.jsonl"
    lines = path.read_bytes().splitlines(True)
    own = line.replace(b'"digit"', json.dumps(whole[0]["label"]).encode())
    path.write_bytes(b"".join([*lines[:2], own + b"\n", *lines[2:4]]))
    capsys.readouterr()
    assert run(monkeypatch, *arguments) == 2
    said = capsys.readouterr().err
    assert "damaged in line 3" in said and "Remove that line" in said
    path.write_bytes(b"".join(lines[:4]))
    assert run(monkeypatch, *arguments) == 0
    same_records(whole, read_lines(tmp_path))


def test_another_configuration_is_refused_with_the_difference(monkeypatch, capsys, tmp_path):
    arguments = ("evaluate", "--data", "digits", "--limit", 6, "--model", "tiny-clip",
                 "--out", tmp_path)  # fmt: skip
    assert run(monkeypatch, *arguments) == 0
    before = (tmp_path / "records.jsonl").read_text()
    capsys.readouterr()
    assert run(monkeypatch, *arguments, "--template", "the {}", "--seed", 1) == 2
    err = capsys.readouterr().err
    assert 'settings.template was ["a photo of a {}"], now ["the {}"]' in err
    assert "seed was 0, now 1" in err and "another --out" in err
    assert (tmp_path / "records.jsonl").read_text() == before
    assert run(monkeypatch, *arguments, "--batch-size", 3) == 0  # cannot change a record


def test_two_processes_on_one_run(monkeypatch, capsys, tmp_path):
    arguments = ("evaluate", "--data", "digits", "--limit", 4, "--model", "tiny-clip",
                 "--out", tmp_path)  # fmt: skip
    assert run(monkeypatch, *arguments) == 0
    config = json.loads((tmp_path / "config.json").read_text())
    with RunStore(tmp_path, config):
        assert run(monkeypatch, *arguments) == 2
    assert "another process is writing to this run" in capsys.readouterr().err
    assert run(monkeypatch, *arguments) == 0


def test_config_holds_what_a_repetition_needs(monkeypatch, tmp_path):
    assert run(monkeypatch, "evaluate", "--data", "digits", "--subset", "balanced:1", "--model",
               "digits-ddpm", "--set", "draws=1", "--seed", 5, "--out", tmp_path) == 0  # fmt: skip
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["command"].startswith("diffzero evaluate --data digits --subset balanced:1")
    assert config["model"]["revision"].startswith("blake2:") and config["seed"] == 5
    assert config["versions"]["torch"] and config["machine"]["cpu"]
    assert config["settings"]["temperature"] == pytest.approx(1.1355)
    records = read_lines(tmp_path)
    assert sorted(r["label"] for r in records) == sorted(CLASSES)
    classifier = dz.ELBO("digits-ddpm", draws=1, seed=5).fit(CLASSES)
    image = digits_split()[1][0][int(records[0]["id"].rpartition("#")[2])]
    assert np.allclose(classifier.scores([image]).logits[0], records[0]["logits"], rtol=1e-5)


def write_csv(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["image", "label"], *rows])


def test_csv_with_missing_and_unknown_labels(monkeypatch, capsys, mix, tmp_path):
    rows = [
        (str(p.relative_to(tmp_path)), p.parent.name) for p in sorted(mix.rglob("*.png"))[5:10]
    ]
    good, other = rows[:4], rows[4][0]
    bad = [("mix/nowhere.png", good[0][1]), (good[0][0], ""), (other, "zebra"), ("", "x")]
    write_csv(tmp_path / "list.csv", good + bad)
    assert run(monkeypatch, "evaluate", "--data", tmp_path / "list.csv", "--classes", "mnist",
               "--model", "tiny-clip", "--out", tmp_path / "run") == 2  # fmt: skip
    assert "4 of 8 images could not be used; the others are done" in capsys.readouterr().err
    errors = [r["error"] for r in read_lines(tmp_path / "run") if "error" in r]
    assert len(errors) == 4
    for text in ("cannot be read (No such file", "has no label", "label 'zebra' is not among the "
                 "10 class names", "names no image"):  # fmt: skip
        assert sum(text in e for e in errors) == 1, text


def test_parquet_gives_what_the_folder_gives(monkeypatch, mix, tmp_path):
    paths = sorted(mix.rglob("*.png"))
    table = pa.table({
        "image": [{"bytes": p.read_bytes(), "path": None} for p in paths],
        "label": pa.array([CLASSES.index(p.parent.name.replace("_", " ")) for p in paths]),
    })  # fmt: skip
    features = {"label": {"names": [c.replace(" ", "_") for c in CLASSES], "_type": "ClassLabel"}}
    info = json.dumps({"info": {"features": features}})
    table = table.replace_schema_metadata({"huggingface": info})
    pq.write_table(table, tmp_path / "test-0.parquet", row_group_size=7)
    answers = []
    for name, data in (("a", mix), ("b", tmp_path / "test-0.parquet")):
        assert run(monkeypatch, "evaluate", "--data", data, "--model", "tiny-clip",
                   "--out", tmp_path / name) == 2  # fmt: skip
        answers.append(
            [(r.get("label"), r.get("prediction")) for r in read_lines(tmp_path / name)]
        )
    assert sorted(answers[0], key=str) == sorted(answers[1], key=str)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere/at/all"], "no such file or folder"),
        (["--data", "list.csv"], "list.csv: no such file"),
        (["--data", "{empty}"], "no images found"),
        (["--data", "digits", "--subset", "some:3"], "--subset takes balanced:N"),
        (["--data", "digits", "--limit", "0"], "--limit must be at least 1"),
        (["--data", "digits", "--corrupt", "rain:3"], "--corrupt takes NAME:SEVERITY"),
        (["--data", "digits", "--corrupt", "fog:9"], "--corrupt takes NAME:SEVERITY"),
        (["--data", "digits", "--classes", "pokemon"], "neither a readable file of class names"),
        (["--data", "digits", "--classes", "oxford-pets"], "none of its classes"),
        (["--data", "digits", "--split", "middle"], "has the splits train and test"),
        (["--data", "digits", "--keep-draws"], "--keep-draws serves methods that average"),
        (["--data", "digits", "--workers", "0"], "--workers must be at least 1"),
    ],
)
def test_bad_input_is_one_sentence(monkeypatch, capsys, tmp_path, arguments, message):
    empty = tmp_path / "empty"
    empty.mkdir()
    arguments = [a.format(empty=empty) for a in arguments]
    assert run(monkeypatch, "evaluate", *arguments, "--model", "tiny-clip",
               "--out", tmp_path / "run") == 2  # fmt: skip
    out, err = capsys.readouterr()
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert out == "" and len(errors) == 1 and message in errors[0]


def tmpfs(folder, options):
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)],
        capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip("mounting a small file system needs root")


def test_a_full_disk_keeps_every_record(monkeypatch, capsys, tmp_path):
    small = tmp_path / "small"
    tmpfs(small, "size=64k")
    try:
        arguments = ("evaluate", "--data", "digits", "--model", "tiny-clip",
                     "--out", small / "run")  # fmt: skip
        assert run(monkeypatch, *arguments) == 1
        err = capsys.readouterr().err
        assert "the disk is full. Every record so far is kept" in err and "Traceback" not in err
        kept = read_lines(small / "run")
        assert 50 < len(kept) < 360
        assert (small / "run" / "records.jsonl").read_bytes().endswith(b"}\n")
        subprocess.run(["mount", "-o", "remount,size=4m", str(small)], check=True)
        assert run(monkeypatch, *arguments) == 0
        assert len(read_lines(small / "run")) == 360
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_read_only_folder(monkeypatch, capsys, tmp_path):
    tmpfs(tmp_path / "fixed", "ro")
    try:
        assert run(monkeypatch, "evaluate", "--data", "digits", "--model", "tiny-clip",
                   "--out", tmp_path / "fixed" / "run") == 2  # fmt: skip
        assert "cannot be written (Read-only file system)" in capsys.readouterr().err
    finally:
        subprocess.run(["umount", str(tmp_path / "fixed")], check=True)


def test_a_folder_with_a_colon_and_a_negative_seed(monkeypatch, tmp_path):
    """Relative, `a:b` would be an address to Arrow."""
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "evaluate", "--data", "digits", "--limit", 3, "--seed", -1, "--model",
               "digits-ddpm", "--set", "draws=1", "--keep-draws", "--out", "a:b") == 0  # fmt: skip
    assert run(monkeypatch, "rescore", "a:b") == 0
    assert run(monkeypatch, "scenes", "--out", "c:d", "--train", 2, "--validation", 0,
               "--size", 16) == 0  # fmt: skip
    assert pq.read_table(tmp_path / "c:d" / "train-00000-of-00001.parquet").num_rows == 2
