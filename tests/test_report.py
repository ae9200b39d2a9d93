"""The report is one file, says what a reader must know, and lets no label become markup."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from diffzero.errors import DiffzeroError, InputError
from diffzero.experiments import EXPERIMENTS, ON_TRAIN, make_setting, reproduce
from diffzero.experiments.everything import BUDGETS, Everything
from test_cli import run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch().context() as monkeypatch:
        for name, options in (
            ("diffusion", ["--model", "digits-ddpm", "--set", "draws=2", "--keep-draws"]),
            ("rival", ["--model", "tiny-clip"]),
        ):
            assert run(monkeypatch, "evaluate", "--data", "digits", "--limit", 40, "--out",
                       folder / name, *options) == 0  # fmt: skip
    return folder


@pytest.fixture
def runs(finished, tmp_path):
    """Copies of the two runs."""
    return [shutil.copytree(finished / n, tmp_path / n) for n in ("diffusion", "rival")]


def test_one_file_holds_everything(monkeypatch, capsys, runs, tmp_path):
    capsys.readouterr()
    page = tmp_path / "page.html"
    assert run(monkeypatch, "report", *runs, "--out", page) == 0
    out = capsys.readouterr().out
    assert "of 40" in out and "diffusion against rival" in out
    html = page.read_text()
    assert not re.findall(r'(?:src|href)="(?!data:)', html)  # nothing is fetched
    for part in ("Cost against accuracy", "Accuracy against draws", "Reliability", "Confusion",
                 "The most confident mistakes", "Where they differ", "McNemar",
                 "How to repeat this run"):  # fmt: skip
        assert part in html, part
    assert html.count("data:image/svg+xml") == 6 and "data:image/png" in html
    assert run(monkeypatch, "report", *runs, "--json", "--out", page) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert [r["images"] for r in numbers["runs"]] == [40, 40]
    assert numbers["comparisons"][0]["images"] == 40


def test_labels_are_text_and_missing_pictures_are_said(monkeypatch, tmp_path):
    data = tmp_path / "data"
    rng = np.random.default_rng(0)
    for name in ("zero", "<b>one"):
        (data / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(
                data / name / f"{i}.png"
            )
    (data / "zero" / "bad.png").write_text("no")
    assert run(monkeypatch, "evaluate", "--data", data, "--model", "tiny-clip", "--out",
               tmp_path / "run") == 2  # fmt: skip
    for path in data.rglob("*.png"):
        path.unlink()
    page = tmp_path / "page.html"
    assert run(monkeypatch, "report", tmp_path / "run", "--out", page) == 0
    html = page.read_text()
    assert "<b>one" not in html and "&lt;b&gt;one" in html
    assert "image gone" in html and "never saw the words &lt;, &gt;, b in training" in html
    assert "1 of 7 images could not be used" in html


def test_flowers_are_admitted_not_to_be_known(monkeypatch, tmp_path):
    data = tmp_path / "flowers"
    rng = np.random.default_rng(0)
    for name in ("daisy", "dandelion", "sunflower", "iris"):
        (data / name).mkdir(parents=True)
        for i in range(5):
            pixels = rng.integers(0, 256, (224, 200, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(data / name / f"{i}.jpg")
    assert run(monkeypatch, "evaluate", "--data", data, "--model", "tiny-clip", "--out",
               tmp_path / "run") == 0  # fmt: skip
    page = tmp_path / "page.html"
    assert run(monkeypatch, "report", tmp_path / "run", "--out", page) == 0
    html = page.read_text()
    assert "never saw the words daisy, dandelion, iris, sunflower" in html
    assert "this model does not know these classes" in html
    assert "data:image/jpeg" in html


def test_what_cannot_be_compared_is_said(monkeypatch, capsys, runs, tmp_path):
    assert run(monkeypatch, "evaluate", "--data", "digits", "--split", "train", "--limit", 5,
               "--model", "tiny-clip", "--out", tmp_path / "other") == 0  # fmt: skip
    capsys.readouterr()
    page = tmp_path / "page.html"
    assert run(monkeypatch, "report", runs[1], tmp_path / "other", "--out", page) == 0
    assert "have no image in common" in capsys.readouterr().err
    assert run(monkeypatch, "report", tmp_path, "--out", page) == 2
    assert "not a run" in capsys.readouterr().err


def test_an_unfinished_run_says_so(monkeypatch, runs, tmp_path):
    path = runs[1] / "records.jsonl"
    lines = path.read_bytes().splitlines(True)
    path.write_bytes(b"".join(lines[:30]) + lines[30][:20])
    page = tmp_path / "page.html"
    assert run(monkeypatch, "report", runs[1], "--out", page) == 0
    assert "Not finished: 10 of 40 images" in page.read_text()
    assert path.read_bytes().endswith(lines[30][:20])  # a report changes nothing


@pytest.fixture
def two(monkeypatch):
    """Two quick experiments in place of all."""
    chosen = {k: EXPERIMENTS[k] for k in ("knn", "likelihood-table")}
    monkeypatch.setattr("diffzero.experiments.everything.EXPERIMENTS", chosen)
    monkeypatch.setitem(BUDGETS, "small", 3)


def test_everything_resumes_and_makes_a_page(two, tmp_path):
    def make(seed=0):
        said = []
        Everything(None, "tiny-clip", "digits=digits", tmp_path, "small", seed, "cpu").run(
            said.append
        )
        return said

    assert [s.partition(":")[0] for s in make()] == ["knn", "likelihood-table"]
    html = (tmp_path / "index.html").read_text()
    assert html.count("data:image/png;base64,") == 2 and '<h2 id="knn"' in html
    (tmp_path / "knn.png").unlink()
    said = make()
    assert "done before" not in said[0] and said[1] == "likelihood-table: done before"
    assert "done before" not in make(seed=1)[1]
    assert all("done before" in line for line in make(seed=1))
    # One experiment alone, under other settings, into the same folder.
    setting = make_setting(
        "knn", "digits-ddpm", "digits=digits", out=tmp_path, limit=2, seed=1, device="cpu",
        clip="tiny-clip",
    )  # fmt: skip
    reproduce("knn", setting)
    assert "done before" not in make(seed=1)[0]


def test_every_experiment_gets_the_images_it_needs(monkeypatch, tmp_path):
    given = {}

    def look(name, setting):
        given[name] = setting.train is not None
        raise InputError("enough")

    monkeypatch.setattr("diffzero.experiments.everything.reproduce", look)
    with pytest.raises(DiffzeroError, match="experiments failed"):
        Everything(None, "tiny-clip", "digits=digits", tmp_path, "small", 0, "cpu").run(str)
    assert {name for name, train in given.items() if train} == ON_TRAIN and len(given) > 10


def test_weights_that_a_result_hangs_on_are_known(tmp_path):
    made = Everything(None, "tiny-clip", "digits=digits", tmp_path, "small", 0, "cpu")
    assert len(made._wanted("imagen-table")["weights"]) == len(made._wanted("knn")["weights"]) + 1
    for odd in ("~nobody/m", "x" * 5000):
        assert replace(made, model=odd)._wanted("knn")["weights"][0] == odd


def test_one_failure_does_not_stop_everything(two, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("diffzero.experiments.likelihood_table.STEPS", 0)
    assert run(monkeypatch, "reproduce", "all", "--out", tmp_path) == 1
    err = capsys.readouterr().err
    assert "1 of 2 experiments failed: likelihood-table" in err
    assert (tmp_path / "knn.json").exists()
    assert "steps must be a whole number" in (tmp_path / "index.html").read_text()
    assert run(monkeypatch, "reproduce", "all", "--budget", "huge", "--out", tmp_path) == 2
    assert "--budget takes small, medium, large" in capsys.readouterr().err


def test_runs_of_one_name_are_told_apart(monkeypatch, capsys, runs, tmp_path):
    places = [
        shutil.copytree(r, tmp_path / name / "run") for r, name in zip(runs, "ab", strict=True)
    ]
    capsys.readouterr()
    line = ["report", *places, places[0] / ".." / "run", "--json", "--out", tmp_path / "p.html"]
    assert run(monkeypatch, *line) == 0
    (found,) = json.loads(capsys.readouterr().out)["comparisons"]
    assert (found["first"], found["second"]) == ("a/run", "b/run")
    assert "a/run" in (tmp_path / "p.html").read_text()


def test_what_is_no_run_is_said(monkeypatch, capsys, runs, tmp_path):
    from diffzero.models.cards import cards

    model = cards()["tiny-clip"].source
    odd = tmp_path / "odd"
    odd.mkdir()
    (odd / "config.json").write_text("[1]")
    for folder in (model, odd):
        for command in ("report", "rescore", "calibrate"):
            assert run(monkeypatch, command, folder) == 2
            assert "not a run (its config.json" in " ".join(capsys.readouterr().err.split())
    line = ["evaluate", "--data", "digits", "--limit", 2, "--model", "tiny-clip", "--out"]
    assert run(monkeypatch, *line, odd) == 2


def test_no_file_of_another_kind_is_overwritten(monkeypatch, capsys, runs, tmp_path):
    records = runs[0] / "records.jsonl"
    before = records.read_bytes()
    assert run(monkeypatch, "report", runs[0], "--out", records) == 2
    assert "--out takes a file such as report.html" in capsys.readouterr().err
    assert records.read_bytes() == before
    own = tmp_path / "own"
    own.mkdir()
    (own / "summary.json").write_text('{"mine": 1}')
    line = ["evaluate", "--data", "digits", "--limit", 2, "--model", "tiny-clip", "--out", own]
    assert run(monkeypatch, *line) == 2
    assert "has summary.json and no config.json" in " ".join(capsys.readouterr().err.split())
    assert json.loads((own / "summary.json").read_text()) == {"mine": 1}
