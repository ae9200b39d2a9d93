"""Races in runs: interrupted and resumed, by workers, kept and rescored, reported."""

import json
import shutil
import signal
import subprocess

import numpy as np
import pytest

from diffzero.errors import InputError
from diffzero.evaluate.draws import read_matrix
from diffzero.evaluate.races import facts_of, filled, replayed, survival
from diffzero.evaluate.rescore import accuracy_curve, read_scored, rescore
from diffzero.evaluate.summary import read_run
from test_cli import run
from test_evaluate import command, read_lines, same_records

RACE = ("--method", "race", "--set", "max_draws=8", "--set", "delta=0.1")
DIFFERENCES = ("--set", "control=false", "--set", "variance=successive", "--set", "min_draws=4")
DATA = ("--data", "digits", "--limit", 16, "--model", "digits-ddpm")


def evaluated(folder, *options):
    """A finished run in this process."""
    with pytest.MonkeyPatch().context() as m:
        assert run(m, "evaluate", *DATA, "--out", folder, *options) == 0
    return folder


@pytest.fixture(scope="module")
def raced(tmp_path_factory):
    """Sixteen digits raced, with the draws that the races took."""
    return evaluated(tmp_path_factory.mktemp("raced"), *RACE, "--keep-draws")


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """The same images with eight draws of every class."""
    return evaluated(tmp_path_factory.mktemp("dense"), "--method", "elbo", "--set", "draws=8",
                     "--keep-draws")  # fmt: skip


@pytest.mark.parametrize("done", [9])
def test_an_interrupted_race_that_goes_on_gives_the_same_records(raced, tmp_path, done):
    torn = shutil.copytree(raced, tmp_path / "torn")
    lines = (torn / "records.jsonl").read_bytes().splitlines(True)
    (torn / "records.jsonl").write_bytes(b"".join(lines[:done]) + lines[done][:30])
    shutil.rmtree(torn / "draws")
    (torn / "summary.json").unlink()
    evaluated(torn, *RACE, "--keep-draws", "--batch-size", "7")  # other batches, too
    same_records(read_lines(raced), read_lines(torn))


@pytest.mark.slow
def test_a_race_that_was_killed_goes_on(raced, tmp_path):
    line, environment = command(tmp_path, *DATA, *RACE, "--keep-draws")
    for _ in range(3):
        process = subprocess.Popen(line, env=environment, stderr=subprocess.PIPE, text=True)
        for text in process.stderr:
            if "evaluations to do" in text:
                break
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert subprocess.run(line, env=environment, capture_output=True, check=False).returncode == 0
    same_records(read_lines(raced), read_lines(tmp_path))


@pytest.mark.slow
def test_two_workers_give_the_records_of_one(raced, tmp_path):
    pytest.importorskip("ray", reason="ray is not installed: pip install 'diffzero[ray]'")
    line, environment = command(tmp_path, *DATA, *RACE, "--keep-draws", "--workers", 2)
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    same_records(read_lines(raced), read_lines(tmp_path))
    one, two = read_matrix(raced), read_matrix(tmp_path)
    place = {name: i for i, name in enumerate(two.ids)}
    errors = two.errors[[place[name] for name in one.ids]]
    assert np.allclose(errors[:, : one.errors.shape[1]], one.errors, rtol=1e-5, equal_nan=True)


@pytest.mark.parametrize("options", [(), DIFFERENCES], ids=["default", "differences"])
def test_kept_draws_of_a_race_rescore_to_its_own_answer(raced, tmp_path, options):
    if options:
        raced = evaluated(tmp_path, *RACE, *options, "--keep-draws")
    found = read_scored(raced)
    assert np.isnan(found.matrix.errors).any()  # classes left
    result, own = rescore(found), read_run(raced).records
    rows = [list(own.ids).index(name) for name in found.matrix.ids]
    assert np.allclose(result.logits, own.logits[rows], rtol=1e-5)
    assert np.allclose(result.proba, own.proba[rows], atol=1e-4)
    assert (result.evals == own.evals[rows]).all()
    again = rescore(found, race=0.1)
    if options:  # predictions are not kept, without which other races are others
        assert np.allclose(again.logits, own.logits[rows], rtol=1e-5)
        assert (again.evals == own.evals[rows]).all()
    assert not again.race.settings["control"]
    last = accuracy_curve(found)[-1]
    assert last["accuracy"] == (own.logits.argmax(1) == own.labels).mean()
    assert last["evaluations"] == round(own.evals.mean())


@pytest.mark.parametrize(("delta", "draws"), [(0.1, None), (0.3, None), (0.1, 5)])
def test_dense_draws_rescore_to_the_race_that_would_have_been(dense, tmp_path, delta, draws):
    result = rescore(read_scored(dense), race=delta, draws=draws)
    options = ("--method", "race", "--set", f"delta={delta}", "--set", f"max_draws={draws or 8}")
    fresh = read_run(evaluated(tmp_path, *options, *DIFFERENCES))
    rows = [list(fresh.records.ids).index(name) for name in result.scored.matrix.ids]
    assert np.allclose(result.logits, fresh.records.logits[rows], rtol=1e-5)
    assert np.allclose(result.proba, fresh.records.proba[rows], atol=1e-4)
    assert (result.evals == fresh.records.evals[rows]).all()


def test_a_larger_delta_over_the_draws_of_a_race_takes_less(raced):
    found = read_scored(raced)
    costs = [rescore(found, race=delta).evals.sum() for delta in (0.1, 0.3, 0.5)]
    assert costs[0] > costs[1] > costs[2]
    with pytest.raises(InputError, match="a delta from 0.1"):
        rescore(found, race=0.05)
    assert np.isfinite(rescore(found, reduction="median").logits).all()
    with pytest.raises(InputError, match="leave out --reduction median"):
        rescore(found, race=0.2, reduction="median")


def test_report_shows_evaluations_and_survivors(raced, dense, monkeypatch, capsys, tmp_path):
    again, page = tmp_path / "again", tmp_path / "page.html"
    assert run(monkeypatch, "rescore", dense, "--race", 0.1, "--out", again) == 0
    assert "evaluations per image" in capsys.readouterr().out
    assert run(monkeypatch, "report", raced, dense, again, "--out", page) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert out.count("of the races were decided") == 2 and "in the label set" in out
    assert page.read_text().count("Classes still in the race against draws") == 2
    assert run(monkeypatch, "report", raced, "--json", "--out", page) == 0
    (summary,) = json.loads(capsys.readouterr().out)["runs"]
    facts, spent = facts_of(raced), summary["race"]["evaluations"]
    evals = sorted(f["evals"] for f in facts)
    assert (spent["median"], spent["most"]) == (evals[7], evals[-1])
    assert summary["cost"]["evaluations_per_image"] == pytest.approx(np.mean(evals))
    assert survival(facts).sum() == pytest.approx(np.mean(evals))
    assert 1 <= summary["race"]["survivors"]["value"] <= summary["race"]["label_set"]["value"] + 1


def test_calibrate_takes_the_draws_of_a_race(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    evaluated(folder, "--limit", 44, "--method", "race", "--set", "max_draws=4", "--keep-draws")
    assert run(monkeypatch, "calibrate", folder, "--bins", 2) == 0
    fitted = json.loads((folder / "calibration.json").read_text())
    assert all(np.isfinite(fitted["weights"])) and fitted["temperature"] > 0


def test_filled_errors_have_the_mean_that_the_race_concludes_with():
    rng = np.random.default_rng(0)
    errors = rng.normal(size=(1, 6, 3, 1)) + np.arange(3)[None, None, :, None] * 0.1
    errors[0, 4:, 2], errors[0, 2:, 1] = np.nan, np.nan
    leader = errors[0, :, 0, 0]
    margins = [0] + [np.nanmean(errors[0, :, c, 0] - leader) for c in (1, 2)]
    assert np.allclose(filled(errors)[0].mean(0)[:, 0], leader.mean() + margins)
    whole = rng.normal(size=(2, 3, 4, 2))
    assert filled(whole) is whole


def test_a_race_needs_one_template(dense):
    errors, t = np.ones((1, 4, 2, 2)), np.arange(4.0)[None]
    with pytest.raises(InputError, match="one template and at least two draws"):
        replayed(errors, t, 4, {"method": "elbo", "settings": {}}, 0.1)
    with pytest.raises(InputError, match="a delta from 0"):
        replayed(errors[..., :1], t, 4, {"method": "elbo", "settings": {}}, 0.9)
