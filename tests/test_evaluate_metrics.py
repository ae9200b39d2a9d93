"""Metrics equal scikit-learn's, whatever the order of the columns."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    log_loss,
    top_k_accuracy_score,
)

import diffzero as dz
from diffzero.evaluate.compare import (
    compare,
    confident_mistakes,
    most_different,
    pair,
    verdict,
)
from diffzero.evaluate.metrics import confusion
from diffzero.evaluate.records import Records, batches, read_records
from diffzero.evaluate.store import RunStore, read_config
from diffzero.evaluate.summary import Run, metrics_of, summarise

NAMES = ["zebra", "ant", "cow", "bee", "dog", "elk", "fox"]
CONFIG = {
    "format": 1,
    "data": {"name": "made up", "images": 500},
    "model": {"name": "none", "revision": "none"},
    "method": "elbo",
    "settings": {"temperature": 1.0},
    "classes": NAMES,
    "seed": 0,
}


def made_up(n=500, seed=0, names=NAMES, shift=1.5, folder="run"):
    rng = np.random.default_rng(seed)
    k = len(names)
    labels = np.concatenate([np.arange(k), rng.integers(0, k, n - k)])
    logits = rng.normal(size=(n, k)) + shift * np.eye(k)[labels]
    ids = np.array([f"{i}.png" for i in range(n)], dtype=object)
    ones = np.ones(n, dtype=np.int64)
    records = Records(ids, labels, softmax(logits, 1), logits, ones, 0 * ones, 0.1 * ones, {})
    return Run(Path(folder), CONFIG | {"classes": names}, records, list(names))


@pytest.mark.parametrize("n", [60, 500])
def test_metrics_are_those_of_scikit_learn_with_columns_by_name(n):
    run = made_up(n)
    wanted = sorted(NAMES)  # scikit-learn sorts
    moved = run.in_order(wanted)
    truth = np.array(NAMES)[run.records.labels]
    answer = np.array(NAMES)[run.records.proba.argmax(1)]
    table = metrics_of(run.records.proba, run.records.labels, len(NAMES))
    again = metrics_of(moved.records.proba, moved.records.labels, len(NAMES))
    assert set(again) == set(table)
    assert all(again[name] == pytest.approx(table[name]) for name in table)
    proba = moved.records.proba
    assert table["acc1"]["value"] == pytest.approx(accuracy_score(truth, answer))
    assert table["acc5"]["value"] == pytest.approx(
        top_k_accuracy_score(truth, proba, k=5, labels=wanted)
    )
    assert table["mean_per_class_recall"]["value"] == pytest.approx(
        balanced_accuracy_score(truth, answer)
    )
    assert table["nll"]["value"] == pytest.approx(log_loss(truth, proba, labels=wanted))
    expected = confusion_matrix(truth, answer, labels=wanted)
    assert (confusion(moved.records.labels, proba.argmax(1), len(NAMES)) == expected).all()
    assert all(v["low"] <= v["value"] <= v["high"] for v in table.values())


def test_other_classes_are_named():
    with pytest.raises(dz.InputError, match="different classes: gnu, zebra are in one only"):
        made_up().in_order(["gnu", *NAMES[1:]])


def test_pairs_match_images_and_columns_by_name():
    first = made_up(300, folder="a")
    second = made_up(300, folder="b").in_order(sorted(NAMES))
    r = second.records
    turned = Run(
        second.folder, second.config,
        Records(*(getattr(r, f)[::-1] for f in list(Records.__dataclass_fields__)[:-1]), {}),
        second.classes,
    )  # fmt: skip
    found = compare(pair(first, turned))
    assert found["same_answer"] == 1 and found["mcnemar_p"] == 1
    assert found["only_first_right"] == found["only_second_right"] == 0
    worse = compare(pair(first, made_up(300, seed=0, shift=0.0, folder="c")))
    assert worse["only_first_right"] > worse["only_second_right"] and worse["mcnemar_p"] < 1e-6
    assert verdict(worse).startswith("a is better on these 300 images")
    assert "do not tell the two apart" in verdict(found)


def test_what_differs_comes_with_the_surest_first():
    found = pair(made_up(200), made_up(200, shift=0.0, folder="c"))
    one, two = found.predictions
    rows = most_different(found, 5)
    assert (one[rows] != two[rows]).all()
    assert ((one[rows] == found.labels[rows]) | (two[rows] == found.labels[rows])).all()
    wrong = confident_mistakes(found.first, 4)
    proba = found.first.records.proba
    assert (proba[wrong].argmax(1) != found.first.records.labels[wrong]).all()
    assert (np.diff(proba[wrong].max(1)) <= 0).all()


def test_strangers_are_not_compared():
    other = made_up(50)
    ids = np.array([f"other/{i}" for i in range(50)], dtype=object)
    moved = Records(ids, *(getattr(other.records, f) for f in list(
        Records.__dataclass_fields__)[1:]))  # fmt: skip
    with pytest.raises(dz.InputError, match="no image in common"):
        pair(made_up(50), Run(other.folder, other.config, moved, other.classes))
    labels = (other.records.labels + 1) % len(NAMES)
    moved = Records(other.records.ids, labels, *(getattr(other.records, f) for f in list(
        Records.__dataclass_fields__)[2:]))  # fmt: skip
    with pytest.raises(dz.InputError, match="disagree about the truth"):
        pair(made_up(50), Run(other.folder, other.config, moved, other.classes))


def write_run(folder, run):
    r = run.records
    with RunStore(folder, run.config) as store:
        for i, name in enumerate(r.ids):
            store.append({
                "id": name, "label": NAMES[r.labels[i]], "prediction": "unused",
                "probabilities": r.proba[i].tolist(), "logits": r.logits[i].tolist(),
                "evals": 3, "seconds": 0.5,
            })  # fmt: skip


def test_records_come_back_as_written(tmp_path):
    run = made_up(100)
    write_run(tmp_path, run)
    back = read_records(tmp_path, NAMES)
    assert (back.ids == run.records.ids).all() and (back.labels == run.records.labels).all()
    assert (back.logits == run.records.logits).all()
    assert (back.evals == 3).all() and (back.vjps == 0).all()
    summary = summarise(Run(tmp_path, run.config, back, NAMES))
    assert {"dataset", "model", "pretrained", "task", "metrics", "language"} <= set(summary)
    assert {"acc1", "acc5", "mean_per_class_recall"} <= set(summary["metrics"])
    assert summary["task"] == "zeroshot_classification" and json.dumps(summary)
    assert summary["cost"]["evaluations_per_image"] == 3


def test_a_line_damaged_in_the_middle_is_named(tmp_path):
    write_run(tmp_path, made_up(30))
    path = tmp_path / "records.jsonl"
    lines = path.read_bytes().splitlines(True)
    path.write_bytes(b"".join(lines[:9]) + b'{"id": "x", "lab\n' + b"".join(lines[10:]))
    with pytest.raises(dz.InputError, match="damaged in line 10"):
        read_records(tmp_path, NAMES)
    with pytest.raises(dz.InputError, match="does not fit the 2 classes"):
        path.write_bytes(b"".join(lines))
        read_records(tmp_path, NAMES[:2])


def test_not_a_run(tmp_path):
    import pyarrow as pa

    with pytest.raises(dz.InputError, match="not a run"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(dz.InputError, match="damaged"):
        read_config(tmp_path)
    assert list(batches(tmp_path / "records.jsonl", pa.schema([("id", pa.string())]))) == []
    (tmp_path / "config.json").unlink()
    (tmp_path / "records.jsonl").write_text("{}\n")
    with pytest.raises(dz.InputError, match="records.jsonl and no config.json"):
        RunStore(tmp_path, CONFIG).__enter__()
