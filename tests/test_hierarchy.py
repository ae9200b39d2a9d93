"""Groups of classes: the answer of opening all of them, at the cost of few."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import diffzero as dz
from conftest import as_x0
from test_cli import run

GROUPS = {"low": ["0", "1", "2"], "middle": ["3", "4", "5", "6"], "high": ["7", "8"]}


@pytest.fixture(scope="module")
def problem():
    """Ten classes, three groups and one class alone: (classes, groups, images)."""
    g = torch.Generator().manual_seed(3)
    centres = torch.randn(4, 1, 3, 4, 4, generator=g).double() * 0.14
    own = torch.randn(10, 1, 3, 4, 4, generator=g).double() * 0.12
    group = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, 2, 3])
    means, schedule = centres[group] + own, dz.LogSNRLinearSchedule(-6, 8)
    fine = dz.MixtureBackbone(torch.ones(10, 1), means, torch.full((10, 1), 0.3), schedule)
    weights = torch.nn.functional.one_hot(
        group
    ).T.double()  # a group is the mixture of its classes
    coarse = dz.MixtureBackbone(
        weights / weights.sum(1, keepdim=True), means[:, 0].expand(4, -1, -1, -1, -1),
        torch.full((4, 10), 0.3), schedule, classes=[*GROUPS, "9"],
    )  # fmt: skip
    labels = torch.arange(24) % 10
    x = means[labels, 0] + 0.3 * torch.randn(24, 3, 4, 4, generator=g).double()
    pixels = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return fine, coarse, pixels.permute(0, 2, 3, 1).numpy()


def elbo(backbone, draws=16, **more):
    return dz.ELBO(backbone, draws=draws, weights="elbo", **more)


def every_group(fine, coarse, images):
    """`p(g) p(c | g)` with every group opened."""
    names = [*GROUPS, "9"]
    outer = elbo(coarse).fit(names).predict_proba(images)
    inner = {n: elbo(fine).fit(own).predict_proba(images) for n, own in GROUPS.items()}
    columns = [outer[:, [g]] * inner[n] for g, n in enumerate(GROUPS)]
    return np.hstack([*columns, outer[:, [3]]])


def test_the_answer_is_that_of_opening_every_group(problem):
    fine, coarse, images = problem
    tree = dz.Hierarchy(elbo(coarse), GROUPS, elbo(fine)).fit(fine.classes)
    scores, truth = tree.scores(images), every_group(fine, coarse, images)
    proba = tree.probabilities(scores)
    assert np.allclose(proba.sum(1), 1) and (proba > 0).all()
    assert np.array_equal(proba.argmax(1), truth.argmax(1))
    for row, true, facts in zip(proba, truth, scores.facts, strict=True):
        for name, own in GROUPS.items():
            columns = list(map(int, own))
            expected = true[columns] if name in facts["opened"] else true[columns].mean()
            assert np.allclose(row[columns], expected, rtol=1e-6)
    opened = [sum(len(GROUPS[n]) for n in facts["opened"]) for facts in scores.facts]
    assert np.array_equal(scores.evals, 16 * (4 + np.array(opened)))
    assert (scores.evals <= tree.count_evals(10)).all() and scores.evals.mean() < 16 * 10
    assert len({tuple(f["opened"]) for f in scores.facts}) > 3  # the search is one per image
    best = fine.posterior(as_x0(images)).argmax(1).numpy()
    assert (proba.argmax(1) == best).mean() > 0.6


def test_candidates_are_grouped_for_each_image(problem):
    fine, coarse, images = problem
    tree = dz.Hierarchy(elbo(coarse), GROUPS, elbo(fine)).fit(fine.classes)
    lists = [["0", "1", "9"], ["3", "4"], ["0", "3", "7"]]  # two groups, one, three of one class
    found = tree.scores(images[:3], candidates=lists)
    assert found.evals[1] == 16 * 2 and found.evals[2] == 16 * 3
    assert found.facts[1]["opened"] == ["middle"] and found.facts[2]["opened"] == []
    inner = elbo(fine).fit(lists[1]).predict_proba(images[1:2])[0]
    assert np.allclose(np.exp(found.logits[1, :2]), inner) and np.isneginf(found.logits[1, 2])


def test_priors_count_when_groups_are_opened(problem):
    fine, coarse, images = problem
    sure = {name: 1e100 if name == "8" else 1.0 for name in fine.classes}
    tree = dz.Hierarchy(elbo(coarse), GROUPS, elbo(fine), priors=sure).fit(fine.classes)
    assert (tree.predict(images) == "8").all()


def test_a_race_within_groups_says_what_it_cost(problem):
    fine, coarse, images = problem
    tree = dz.Hierarchy(elbo(coarse), GROUPS, dz.Race(fine, max_draws=32)).fit(fine.classes)
    scores = tree.scores(images)
    assert (scores.evals <= tree.count_evals(10)).all() and tree.backbone_ is fine


def test_one_classifier_serves_both_parts():
    words = {"bag": ["bag", "backpack"], "shoe": ["sneaker", "sandal"]}
    tree = dz.Hierarchy(dz.CLIP("tiny-clip"), words).fit(["bag", "sneaker", "sandal", "coat"])
    assert tree.first_.names_ == ["bag", "shoe", "coat"] and tree.count_evals(4) == 2
    assert tree.first_.backbone_ is tree.then_.backbone_
    image = np.zeros((28, 28, 3), np.uint8)
    assert np.isclose(tree.predict_proba([image]).sum(), 1)


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        (None, "groups must map names to labels"),
        ({}, "groups must map names to labels"),
        ([["0"]], "groups must map names to labels"),
        ({"low": "0"}, "Group 'low' must be a word with a list of labels; got '0'"),
        ({"low": []}, "Group 'low' must be a word with a list"),
        ({"low": [0]}, "Group 'low' must be a word with a list"),
        ({3: ["0"]}, "Group 3 must be a word"),
        ({"a": ["0", "1"], "b": ["1"]}, "Label '1' is in the groups 'a' and 'b'"),
    ],
)
def test_groups_that_are_none(problem, groups, said):
    with pytest.raises(dz.InputError, match=said):
        dz.Hierarchy(elbo(problem[0]), groups).fit(problem[0].classes)


@pytest.mark.filterwarnings("ignore:tiny-sd never saw")
def test_groups_of_a_file(monkeypatch, capsys, tmp_path, photos):
    Image.fromarray(photos[0]).save(tmp_path / "a.png")
    (tmp_path / "g.yaml").write_text("clothes: [sneaker, bag]\ndigit:\n- one\n- two\n")
    line = ["classify", tmp_path / "a.png", "--labels", "sneaker,bag,one,two,coat"]
    line += ["--method", "elbo", "--set", "draws=2", "--groups", tmp_path / "g.yaml"]
    assert run(monkeypatch, *line, "--json", "--out", tmp_path / "r.csv") == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["method"] == "hierarchy" and len(found["scores"]) == 5
    assert found["evals"] <= 2 * (3 + 2 + 2) and "at most 14 evaluations" in err
    assert set(found["opened"]) <= {"clothes", "digit"}
    (tmp_path / "g.yaml").write_text("clothes: [sneaker, bag, coat]\n")  # another question
    assert run(monkeypatch, *line, "--out", tmp_path / "r.csv") == 2
    assert "holds answers of other words" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["- cat\n", "animal: cat\n", "a: [x\n", "a: [x]\nb: [x]\n", ""])
def test_files_that_hold_no_groups(monkeypatch, capsys, tmp_path, text):
    (tmp_path / "g.yaml").write_text(text)
    line = ["classify", tmp_path / "g.yaml", "--labels", "cat,dog", "--groups"]
    line.append(tmp_path / "g.yaml")
    assert run(monkeypatch, *line) == 2
    assert "g.yaml" in (err := capsys.readouterr().err) and "bug" not in err
    assert run(monkeypatch, *line[:-1], tmp_path / "nothing.yaml") == 2
    assert "nothing.yaml" in capsys.readouterr().err
