"""The score matrix answers as new runs do, and finds weights where there are any to find."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import diffzero as dz
from diffzero.data import caption_words, digits_split
from diffzero.evaluate.calibrate import binned, fit, fit_weights, halves, joined
from diffzero.evaluate.draws import DrawParts, draw_table, draw_times, read_matrix
from diffzero.evaluate.reduction import draw_weights, join_templates, reduce_draws
from diffzero.evaluate.rescore import accuracy_curve, probabilities, read_scored, rescored_logits
from diffzero.evaluate.summary import read_run
from diffzero.scoring.times import slopes
from test_cli import run

CLASSES = caption_words()["digits"]["classes"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A run of sixty digits with eight draws and its matrix."""
    folder = tmp_path_factory.mktemp("kept")
    monkeypatch = pytest.MonkeyPatch()
    with monkeypatch.context() as m:
        assert run(m, "evaluate", "--data", "digits", "--limit", 60, "--model", "digits-ddpm",
                   "--set", "draws=8", "--keep-draws", "--out", folder) == 0  # fmt: skip
    return folder


def images_of(found):
    images = digits_split()[1][0]
    return [images[int(str(name).rpartition("#")[2])] for name in found.matrix.ids]


@pytest.mark.parametrize("draws", [1, 4, 8])
def test_fewer_draws_are_a_new_run(kept, draws):
    found = read_scored(kept)
    logits, temperature = rescored_logits(found, "as-run", "mean", draws, None)
    fresh = dz.ELBO("digits-ddpm", draws=draws).fit(CLASSES)
    scores = fresh.scores(images_of(found))
    assert np.allclose(logits, scores.logits, rtol=1e-5)
    proba = probabilities(found, logits, temperature)
    assert np.allclose(proba, fresh.probabilities(scores), atol=1e-4)
    point = next(p for p in accuracy_curve(found) if p["draws"] == draws)
    assert point["accuracy"] == (scores.logits.argmax(1) == found.labels).mean()
    assert point["evaluations"] == fresh.count_evals(10)


def test_times_are_those_the_network_saw(kept):
    classifier = dz.ELBO("digits-ddpm", draws=4).fit(CLASSES)
    backbone, seen = classifier.backbone_, []
    forward = backbone.forward
    backbone.forward = lambda x, t, c: seen.append(t) or forward(x, t, c)
    image = digits_split()[1][0][0]
    classifier.draw_errors([image])
    used = torch.cat(seen).double().numpy().reshape(4, 10)[:, 0]
    assert np.allclose(np.sort(draw_times(classifier, image, 4)), np.sort(used), atol=1e-6)


def test_weights_of_the_bound_from_uniform_draws(oracle):
    """Drawn uniformly in t or in lambda, the bound is the same integral."""
    backbone, images, _ = oracle
    logits = {}
    for weights in ("uniform", "elbo"):
        classifier = dz.ELBO(backbone, draws=256, weights=weights).fit(list("0123"))
        errors = classifier.draw_errors(list(images[:6]))
        t = np.stack([draw_times(classifier, image, 256) for image in images[:6]])
        log_snr, slope = slopes(backbone.schedule, t)
        assert np.allclose(slope, 14, rtol=1e-6)  # lambda falls from 8 to -6
        ranges = {"weights": weights, "t_range": [0.0, 1.0], "log_snr_range": [-6.0, 8.0]}
        matrix = type("M", (), {"t": t, "slope": slope, "log_snr": log_snr})
        v = draw_weights(matrix, "elbo", ranges)
        weighted = np.stack(errors) * v[:, :, None, None]
        logits[weights] = join_templates(reduce_draws(weighted, "mean"), 1.0)
        if weights == "elbo":
            own = np.stack([classifier.reduce(e) for e in errors])
            assert np.allclose(logits["elbo"], own)
    centred = [z - z.mean(1, keepdims=True) for z in logits.values()]
    assert np.allclose(*centred, atol=1e-6 * np.abs(logits["elbo"]).max())


def test_templates_join_as_the_classifier_joins_them(clip, sd):
    classifier = dz.ELBO(sd, draws=2, template=["a {}", "the {}"], temperature=7.0)
    errors = np.stack(classifier.fit(["cat", "dog"]).draw_errors([np.zeros((9, 9, 3), np.uint8)]))
    joined_ = join_templates(reduce_draws(errors, "mean"), 7.0)
    assert np.allclose(joined_[0], classifier.reduce(errors[0]))


def test_a_chunk_scored_twice_counts_once(tmp_path):
    classifier = dz.ELBO("digits-ddpm", draws=2).fit(CLASSES)
    images = list(digits_split()[1][0][:4])
    ids = list("abcd")
    parts = DrawParts(tmp_path)
    for chosen in ([0, 1], [1, 2, 3], [0, 1]):
        some = [images[i] for i in chosen]
        errors = classifier.draw_errors(some)
        parts.write(draw_table(classifier, some, [ids[i] for i in chosen], errors))
    before = read_matrix(tmp_path)
    parts.join()
    after = read_matrix(tmp_path)
    assert list(before.ids) == list(after.ids) == ids
    assert [p.name for p in (tmp_path / "draws").iterdir()] == ["all.parquet"]
    assert pq.read_metadata(tmp_path / "draws" / "all.parquet").num_rows == 4 * 2 * 10
    expected = np.stack(classifier.draw_errors(images))
    assert np.allclose(after.errors, expected, rtol=1e-5)
    assert np.allclose(before.errors, expected, rtol=1e-5)


def test_calibration_finds_the_bins_that_matter():
    """Only the second bin tells the classes apart; the first is noise."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 800)
    sums = rng.normal(size=(800, 2, 4, 1))
    sums[np.arange(800), 1, labels, 0] -= 2.0
    u = fit_weights(sums, labels, 1.0)
    assert u[0] < 0.1 * u[1] and u[1] == pytest.approx(2.0, rel=0.2)  # the Bayes weight
    z, share = joined(sums, u)
    assert z.shape == (800, 4) and np.allclose(share, 1)


def test_calibrate_reports_on_the_other_half(kept, monkeypatch, capsys):
    found = read_scored(kept)
    own, other = halves(found.matrix.ids, 0)
    assert sorted([*own, *other]) == list(range(60))
    assert not set(own) & set(other)
    assert np.allclose(binned(found, np.array([0.3])).sum(1)[..., 0],
                       -rescored_logits(found, "as-run", "mean", None, None)[0])  # fmt: skip
    assert run(monkeypatch, "calibrate", kept, "--bins", 2) == 0
    assert "30 held-out" in capsys.readouterr().out.replace("\n", " ").replace("  ", " ")
    path = kept / "calibration.json"
    few = ("calibrate", kept, "--draws", 4, "--json")  # fewer draws than the usual weights
    assert run(monkeypatch, *few) == 0
    assert len(json.loads(capsys.readouterr().out)["relative_weights"]) == 4
    assert run(monkeypatch, "calibrate", kept, "--bins", 2) == 0
    capsys.readouterr()
    result = json.loads(path.read_text())
    assert set(result["fitted_on"]) == set(found.matrix.ids[own])
    assert run(monkeypatch, "rescore", kept, "--weights", path, "--json") == 0
    out, err = capsys.readouterr()
    assert "30 images that the weights were fitted on are left out" in err
    rescored = json.loads(out.splitlines()[-1])["rescored"]
    expected = result["held_out"]["weights"]
    assert rescored["nll"]["value"] == pytest.approx(expected["nll"]["value"])
    with pytest.raises(dz.InputError, match="--bins takes 1 to the number of draws, 8; got 9"):
        fit(found, 9, 0)
    with pytest.raises(dz.InputError, match="60 images; fitting needs|20 images; fitting needs"):
        fit(found.take(np.arange(20)), 2, 0)


def test_rescored_runs_are_runs(kept, monkeypatch, capsys, tmp_path):
    out = tmp_path / "two"
    assert run(monkeypatch, "rescore", kept, "--draws", 2, "--out", out) == 0
    two = read_run(out)
    assert two.config["settings"]["draws"] == 2 and two.records.evals[0] == 20
    assert run(monkeypatch, "report", kept, out, "--out", tmp_path / "r.html") == 0
    assert "against" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights", "heavy"], "--weights takes as-run, uniform, elbo, exp:RATE"),
        (["--weights", "exp:fast"], "exp: takes a number"),
        (["--weights", "nowhere.json"], "not a calibration"),
        (["--reduction", "max"], "--reduction takes mean, median, trimmed"),
        (["--draws", "9"], "The run has 8 draws"),
        (["--temperature", "-1"], "--temperature must be positive"),
    ],
)
def test_bad_settings(kept, monkeypatch, capsys, arguments, message):
    assert run(monkeypatch, "rescore", kept, *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_run_without_matrix(monkeypatch, capsys, tmp_path):
    assert run(monkeypatch, "evaluate", "--data", "digits", "--limit", 3, "--model", "tiny-clip",
               "--out", tmp_path) == 0  # fmt: skip
    assert run(monkeypatch, "rescore", tmp_path) == 2
    assert "kept no score matrix" in capsys.readouterr().err


def test_priors_and_fewer_draws_count_in_the_calibration(kept, monkeypatch, capsys, tmp_path):
    """What it calls "as run" was another rule than the run's."""
    import shutil

    folder = shutil.copytree(kept, tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    priors = np.full(10, 1e-9)
    priors[3] = 1.0
    for wrap in (list, lambda values: dict(zip(CLASSES, values, strict=True))):
        config["settings"]["priors"] = wrap(priors.tolist())
        (folder / "config.json").write_text(json.dumps(config))
        found = read_scored(folder)
        _, other = halves(found.matrix.ids, 0)
        for draws in (None, 4):
            cut = found if draws is None else found.cut_to(draws)
            logits, t = rescored_logits(found, "as-run", "mean", draws, None)
            proba = probabilities(found, logits, t)[other]
            result = fit(cut, 2, 0)
            own = result["held_out"]["as run"]
            assert own["acc1"]["value"] == (proba.argmax(1) == found.labels[other]).mean()
            nll = -np.log(proba[np.arange(len(other)), found.labels[other]]).mean()
            assert own["nll"]["value"] == pytest.approx(nll)
            fitted = result["held_out"]["weights"]["nll"]["value"]
            path = folder / "calibration.json"
            path.write_text(json.dumps(result))
            z, one = rescored_logits(cut.take(other), str(path), "mean", None, None)
            p = probabilities(cut, z, one)[np.arange(len(other)), found.labels[other]]
            assert -np.log(p).mean() == pytest.approx(fitted)
        point = accuracy_curve(found)[-1]
        whole = probabilities(found, *rescored_logits(found, "as-run", "mean", None, None))
        assert point["accuracy"] == (whole.argmax(1) == found.labels).mean()
    assert run(monkeypatch, "calibrate", folder, "--bins", 2, "--draws", 4, "--json") == 0
    assert json.loads(capsys.readouterr().out)["draws"] == 4


def test_draws_beside_the_end_of_a_flow_have_finite_weights():
    schedule = dz.RectifiedFlowSchedule()
    t = np.array([[0.2, 0.9, 0.99995, 0.9999999]])
    log_snr, slope = slopes(schedule, t)
    assert np.isfinite(slope).all()
    ranges = {"weights": "uniform", "t_range": [0.001, 1.0],
              "log_snr_range": list(schedule.log_snr_range())}  # fmt: skip
    matrix = type("M", (), {"t": t, "slope": slope, "log_snr": log_snr})
    v = draw_weights(matrix, "elbo", ranges)
    assert (v[0, 2:] == 0).all()  # the bound's range ends before, at lambda = -12
    assert np.allclose(v[0, :2], 0.999 / (t[0, :2] * (1 - t[0, :2])), rtol=1e-3)


def test_a_calibration_is_read_in_any_locale(kept, tmp_path):
    import subprocess
    import sys

    path = tmp_path / "calibration.json"
    path.write_text(json.dumps({"weights": [1.0], "edges": [], "fitted_on": ["b\u00e4r/0.png"],
                                "draws": 1}, ensure_ascii=False), encoding="utf-8")  # fmt: skip
    code = (
        "from pathlib import Path; from diffzero.evaluate.reduction import read_calibration;"
        f"print(ascii(read_calibration(Path({str(path)!r}))['fitted_on']))"
    )
    found = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", code], capture_output=True, text=True, check=False,
        env={"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert found.stdout.strip() == r"['b\xe4r/0.png']", found.stderr
