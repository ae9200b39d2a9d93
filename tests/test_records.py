"""Files to records: order, memory, errors, and that grouping changes nothing."""

import json
import resource
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import diffzero as dz
from conftest import heard
from diffzero.app import build, classify, records
from diffzero.app.console import Estimate
from diffzero.evaluate.run import PART_BYTES, Item, Scorer
from test_cli import run


class Fake:
    """Scores by mean colour; keeps how much it was given at once."""

    calibrated, stops_early = True, False
    method, names_, seed, batch_size = "fake", ["dark", "light"], 0, 8

    def __init__(self, evals=2, broken=()):
        self.evals, self.broken, self.given = evals, broken, []
        self.backbone_ = SimpleNamespace(name="none", vocabulary=None)

    def count_evals(self, k):
        return self.evals

    def scores(self, images, progress=None):
        self.given.append(len(images))
        light = np.array([image.mean() / 255 for image in images])
        if any(round(v * 255) in self.broken for v in light):
            raise dz.InputError("Image 0: the network answered NaN.")
        if progress is not None:
            progress(self.evals * len(images))
        logits = np.stack([1 - light, light], 1)
        if (light == 1).any():  # as every classifier refuses what is no number
            raise dz.InputError("none answered NaN or infinity: load it with dtype='float32'.")
        return dz.Scores(logits, np.full(len(images), self.evals))

    def probabilities(self, scores):
        e = np.exp(scores.logits)
        return e / e.sum(1, keepdims=True)


@pytest.fixture
def greys(tmp_path):
    """Twelve files, each of its own grey."""
    for i in range(12):
        Image.new("RGB", (6, 4), (20 * i,) * 3).save(tmp_path / f"{i:02}.png")
    return [str(tmp_path / f"{i:02}.png") for i in range(12)]


def silent(total=100):
    return Estimate(total, lambda text: None)


def test_records_come_in_order_and_one_bad_file_stops_nothing(greys, tmp_path):
    (tmp_path / "03.png").write_text("not an image")
    files = [*greys, str(tmp_path / "missing.png")]
    progress = silent(26)
    found = list(records.records(Fake(), files, progress))
    assert [r["path"] for r in found] == files
    assert [i for i, r in enumerate(found) if "error" in r] == [3, 12]
    assert "no such file" in found[12]["error"]
    assert (progress.done, progress.total) == (22, 22)  # unreadable ones are not waited for


def test_the_first_line_needs_the_first_file_only(greys, monkeypatch):
    opened = []
    load = dz.load_image
    monkeypatch.setattr("diffzero.images.load_image", lambda p: opened.append(p) or load(p))
    lines = records.records(Fake(), greys, silent())
    assert next(lines)["path"] == greys[0] and opened == greys[:1]


def test_groups_hold_few_bytes_and_fill_few_batches(greys, monkeypatch):
    pixels = 6 * 4 * 3
    monkeypatch.setattr(records, "GROUP_BYTES", 3 * pixels)
    bounded = Fake(evals=1)
    few = list(records.records(bounded, greys, silent()))
    assert max(bounded.given) == 3 and sum(bounded.given) == 12
    monkeypatch.setattr(records, "GROUP_BYTES", 1 << 27)
    dear = Fake(evals=100)  # more rows than four batches: an image at a time
    assert [r["logits"] for r in records.records(dear, greys, silent())] == [
        r["logits"] for r in few
    ]
    assert set(dear.given) == {1}


def test_the_pace_follows_the_measured_time():
    pace = records.Pace(most=64)
    assert pace.size == 1
    pace.learn(1, 0.001)
    pace.learn(2, 0.002)
    assert pace.size == 4  # doubles at most
    pace.learn(4, 2.0)
    assert pace.size == 2
    pace.learn(2, 60.0)
    assert pace.size == 1


def test_an_image_that_cannot_be_scored_takes_no_other_with_it(greys):
    found = list(records.records(Fake(broken=(100, 120)), greys, silent()))
    assert [i for i, r in enumerate(found) if "error" in r] == [5, 6]
    assert found[5]["error"].startswith(greys[5]) and "NaN" in found[5]["error"]


def test_a_logit_that_is_no_number_is_an_error_and_never_nan(monkeypatch, capsys, tmp_path):
    Image.new("RGB", (4, 4), "white").save(tmp_path / "white.png")
    Image.new("RGB", (4, 4), "black").save(tmp_path / "black.png")
    monkeypatch.setattr(build.ModelChoice, "build", lambda *_: Fake())
    assert run(monkeypatch, "classify", tmp_path, "--labels", "dark,light", "--json") == 2
    out, err = capsys.readouterr()
    black, white = map(json.loads, out.splitlines())
    assert black["label"] == "dark" and ": NaN" not in out
    assert "answered NaN or infinity" in white["error"] and "float32" in white["error"]
    assert "1 of 2 images could not be classified" in err


def test_ctrl_c_keeps_what_is_printed_and_counts_it(monkeypatch, capsys, greys):
    def interrupted(*arguments):
        for number, record in enumerate(records.records(*arguments)):
            if number == 5:
                raise KeyboardInterrupt
            yield record

    monkeypatch.setattr(classify, "records", interrupted)
    monkeypatch.setattr(build.ModelChoice, "build", lambda *_: Fake())
    assert run(monkeypatch, "classify", *greys, "--labels", "dark,light") == 130
    out, err = capsys.readouterr()
    assert out.count("\n") == 5
    assert "stopped: 5 of 12 images are done, and their lines are printed." in err


def test_priors():
    assert build.parse_priors('cat=0.7, "salt, pepper"=.3') == {"cat": 0.7, "salt, pepper": 0.3}
    for wrong in ("cat", "cat=nan,dog=1", "cat=inf,dog=1", "cat=0,dog=1", "cat=-1", "cat=1,cat=2"):
        with pytest.raises(dz.InputError, match="--priors takes label=number"):
            build.parse_priors(wrong)


@pytest.mark.parametrize("text", ["5", ":5", "tiny-clip:", "tiny-clip:-1", "tiny-clip:²"])
def test_shortlists_of_another_form_are_refused_before_the_model_is_loaded(text):
    with pytest.raises(dz.InputError, match="--shortlist takes MODEL:N"):
        build.ModelChoice("nowhere", shortlist=text).build(["a", "b"], None)


def test_runs_hold_few_bytes_and_make_error_records(greys, monkeypatch):
    grey = [np.full((4, 6, 3), 20 * i, np.uint8) for i in range(12)]
    items = [Item(f"i{i}", "dark", pixels) for i, pixels in enumerate(grey)]
    items.insert(2, Item("torn", "dark", b"no image"))
    items.append(Item("white", "light", np.full((4, 6, 3), 255, np.uint8)))
    whole = Scorer(Fake(broken=(100,)))(items)
    monkeypatch.setattr("diffzero.evaluate.run.PART_BYTES", 2 * grey[0].nbytes)
    few = Fake(broken=(100,))
    parts = Scorer(few)(items)
    assert max(few.given) == 2 and PART_BYTES == 1 << 27
    kept = [{k: v for k, v in r.items() if k != "seconds"} for r in parts.records]
    assert kept == [{k: v for k, v in r.items() if k != "seconds"} for r in whole.records]
    assert [r["id"] for r in parts.records] == [item.id for item in items]
    assert [r["id"] for r in parts.records if "error" in r] == ["torn", "i5", "white"]


def test_an_interrupted_evaluation_says_what_is_kept(monkeypatch, capsys, tmp_path):
    def stopped(dataset, store, score, *, first, grow, advance):
        advance(2)
        raise KeyboardInterrupt

    monkeypatch.setattr("diffzero.app.session.run", stopped)
    code = run(monkeypatch, "evaluate", "--data", "digits", "--limit", 5, "--model", "tiny-clip",
               "--out", tmp_path / "run")  # fmt: skip
    assert code == 130
    assert "stopped: 2 of 5 images are done and kept; run the same" in capsys.readouterr().err


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_photos(tmp_path):
    """48 photos of 12 megapixels are 1.7 GB of pixels."""
    small = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    photo = tmp_path / "0.jpg"
    Image.fromarray(small).resize((4000, 3000)).save(photo)
    for i in range(1, 48):
        (tmp_path / f"{i}.jpg").hardlink_to(photo)
    line = ["classify", tmp_path, "--labels", "sneaker,bag", "--model", "tiny-clip", "--json"]
    found = subprocess.run(
        [sys.executable, "-m", "diffzero", *map(str, line)], stdout=subprocess.PIPE, check=True
    )
    assert found.stdout.count(b"\n") == 48
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert peak * (1 if sys.platform == "darwin" else 1024) < 1.5e9


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("out", [None, "rows.csv", "rows.jsonl"])
def test_a_real_interruption_keeps_every_line_and_counts_it(greys, tmp_path, kind, out):
    """Lines come one by one; what is there when the process ends is what it says, no more."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(200):
        (folder / f"{i:03}.png").hardlink_to(greys[i % 12])
    place = tmp_path / (out or "printed")
    words = "handwritten digit one,handwritten digit two"
    line = ["classify", folder, "--labels", words, "--model", "digits-ddpm",
            "--method", "elbo", "--set", "draws=16"]  # fmt: skip
    line += ["--out", place] if out else []
    with place.open("w") as printed:
        process = subprocess.Popen(
            [sys.executable, "-m", "diffzero", *map(str, line)],
            stdout=subprocess.DEVNULL if out else printed, stderr=subprocess.PIPE, text=True,
            preexec_fn=heard,
        )  # fmt: skip
    while process.poll() is None and place.read_text().count("\n") < 3:
        time.sleep(0.02)
    process.send_signal(getattr(signal, kind))
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    done = place.read_text().splitlines()[bool(out and out.endswith(".csv")) :]
    assert 2 <= len(done) < 200 and f"stopped: {len(done)} of 200 images are done" in said
