"""Every experiment runs on the bundled digits model; its numbers are what they claim."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import diffzero as dz
from diffzero import data
from diffzero.evaluate.pixel_methods import denoise_choices, plan
from diffzero.experiments import (
    EXPERIMENTS,
    Setting,
    cifar10_table,
    distance,
    interpolate,
    noise_level,
    reconstructions,
    reproduce,
    sheet,
)
from diffzero.experiments import encode_decode as grids
from diffzero.experiments.inception_score import inception_score
from diffzero.experiments.interpolate import slerp
from test_cli import run


@pytest.fixture(scope="module")
def model():
    return dz.load("digits-ddpm", device="cpu")


def setting(model, out, limit):
    images = data.load("digits=digits", None, "validation")
    few = images.subset(slice(0, limit))
    return Setting(model, few, data.load("digits=digits", None), out, limit, 0)


def test_encode_decode_returns_the_original_on_the_diagonal(model, tmp_path, monkeypatch):
    monkeypatch.setattr(grids, "STEPS", 15)  # 0.002 with the experiment's 30
    numbers = reproduce("encode-decode", setting(model, tmp_path, 3))
    for one in numbers["images"]:
        assert max(one["diagonal_rms"]) < 0.03 < 0.2 < one["off_diagonal_rms"]
    assert numbers == json.loads((tmp_path / "encode-decode.json").read_text())
    with Image.open(tmp_path / "encode-decode.png") as picture:
        assert picture.width > 900


def test_encode_decode_counts_its_evaluations(model):
    calls, forward = [], model.forward
    model.forward = lambda x, t, c: calls.append(len(x)) or forward(x, t, c)
    try:
        grids.grid_of(model, data.digits_split()[1][0][0], steps=2)
    finally:
        del model.forward
    assert sum(calls) == 2 * 2 * (10 + 100)


def test_knn_and_interpolation(model, tmp_path, monkeypatch):
    numbers = reproduce("knn", setting(model, tmp_path, 3))
    assert set(numbers["inlier, guidance 1"]) == set(range(2, 10))
    assert set(numbers["outlier, guidance 3"]) == set(range(1, 10))
    assert numbers["evals_by_guidance"] == {"1": 250, "3": 500}
    assert numbers["outlier, guidance 3"][2]["accuracy"] > 0.5
    monkeypatch.setattr(interpolate, "STEPS", 15)
    numbers = reproduce("interpolate", setting(model, tmp_path, 30))
    rms = numbers["rms_of_the_ends"]
    assert rms["true-true"] < 0.03 and rms["false-false"] < 0.03 < 0.2 < rms["true-false"]


def test_likelihood_table_pairs_probes(model, tmp_path):
    numbers = reproduce("likelihood-table", setting(model, tmp_path, 6))
    assert numbers["paired"]["correct"] >= 5
    assert numbers["paired"]["margin_std"] < numbers["unpaired"]["margin_std"]


def test_table_counts_every_method(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cifar10_table, "HELD", 5)
    monkeypatch.setattr("diffzero.evaluate.pixel_methods.LIKELIHOOD_STEPS", 2)
    with monkeypatch.context() as broken:
        broken.setattr("diffzero.experiments.cifar10_table.draw", lambda *a: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            reproduce("cifar10-table", setting(model, tmp_path, 2))
    assert "elbo (32 draws)" in capsys.readouterr().err
    with monkeypatch.context() as broken:  # nothing is measured twice
        broken.setattr("diffzero.evaluate.pixel_methods._measure", lambda *a: 1 / 0)
        numbers = reproduce("cifar10-table", setting(model, tmp_path, 2))
    assert not capsys.readouterr().err and not list(tmp_path.glob("*.partial"))
    evals = {(m["method"], m["settings"]): m["evals"] for m in numbers["lines"]}
    assert len(evals) == 12 and evals["elbo", "32 draws"] == 320
    assert evals["latent-knn", "outlier, k = 4, guidance 3, 5 reference images"] == 500
    assert numbers["lines"][2]["evals"] == 10 * (3 * 2 + 1) and numbers["lines"][2]["vjps"] == 30
    (denoise,) = [settings for method, settings in evals if method == "noise-denoise"]
    level, steps = float(denoise.split()[1].strip(",")), int(denoise.split()[2])
    assert evals["noise-denoise", denoise] == 10 * 4 * max(1, round(level * steps))
    assert numbers["lines"][1]["correct"] == 2


def test_a_latent_model_chooses_its_distance_too(model):
    assert all("distance" not in options for options in denoise_choices(model))
    latent = dz.load("cifar10-ldm", device="cpu")
    choices = denoise_choices(latent)
    assert len(choices) == 2 * len(denoise_choices(model))
    lines = plan(latent, choices[0], [])
    one, vote = (c for c, _ in lines if c.method.startswith("noise-denoise"))
    assert one.distance == vote.distance == "latent-l2"
    assert next(s for c, s in lines if c is one).endswith("4 draws, latent-l2")


def test_inception_score_of_known_tables(model, tmp_path):
    assert inception_score(np.eye(4)) == pytest.approx(4)
    assert inception_score(np.full((5, 4), 0.25)) == pytest.approx(1)
    numbers = reproduce("inception-score", setting(model, tmp_path, 4))
    assert numbers["judge_accuracy"] > 0.7 and 1 <= numbers["score"]["true"] <= 10


def test_slerp_keeps_the_length_and_the_ends():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 1, 8, 8, generator=g)
    b *= a.norm() / b.norm()
    arc = slerp(a, b, torch.linspace(0, 1, 5))
    assert torch.allclose(arc[0], a, atol=1e-5) and torch.allclose(arc[-1], b, atol=1e-5)
    assert torch.allclose(arc.flatten(1).norm(dim=1), a.norm(), rtol=1e-4)
    assert torch.allclose(slerp(a, a, torch.tensor([0.5]))[0], a)


def test_sheet_puts_gaps_between_cells():
    pixels, rows, columns = sheet(np.ones((2, 3, 4, 4, 3)))
    assert pixels.shape == (9, 14, 3) and (pixels[4] == 0.55).all()
    assert list(rows) == [1.5, 6.5] and list(columns) == [1.5, 6.5, 11.5]


def test_command_line(monkeypatch, capsys, tmp_path):
    assert run(monkeypatch, "reproduce") == 0
    text = capsys.readouterr().out
    assert all(name in text for name in EXPERIMENTS)
    assert run(monkeypatch, "reproduce", "knn", "--limit", 1, "--out", tmp_path) == 0
    assert (tmp_path / "knn.json").exists()
    assert run(monkeypatch, "reproduce", "figure-99") == 2
    scenes = ("reproduce", "binding", "--data", "digits=digits", "--out", tmp_path)
    assert run(monkeypatch, *scenes) == 2
    assert "leave --data out" in capsys.readouterr().err
    assert run(monkeypatch, "reproduce", "knn", "--model", "tiny-sd", "--out", tmp_path) == 2
    assert "class-conditional" in capsys.readouterr().err


# -- on text-to-image models ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def text_setting():
    model = dz.load("tiny-sd", device="cpu")
    images = data.load("digits=digits", None, "validation")

    def make(out, limit):
        few = images.subset(slice(0, limit))
        return Setting(model, few, None, out, limit, 0)

    return make


def test_reconstructions_and_levels(text_setting, tmp_path, monkeypatch):
    monkeypatch.setattr(reconstructions, "STEPS", 10)
    monkeypatch.setattr(noise_level, "STEPS", 5)
    monkeypatch.setattr(distance, "STEPS", 5)
    numbers = reproduce("reconstructions", text_setting(tmp_path, 3))
    assert numbers["evals"] == 10 * 8 * 2
    assert numbers["distance_right_mean"] < numbers["distance_best_wrong_mean"]
    numbers = reproduce("noise-level", text_setting(tmp_path, 2))
    table = np.array(numbers["first_image"]["pixel"])
    assert table.shape == (10, 5) and (table[:, 0] < table[:, -1]).all()
    numbers = reproduce("distance", text_setting(tmp_path, 3))
    assert set(numbers["accuracy"]) == {"pixel distance", "CLIP distance", "CLIP alone"}
    assert 0 < numbers["mcnemar_p"] <= 1


def test_attention_maps_and_inversion(text_setting, tmp_path, monkeypatch):
    numbers = reproduce("attention-maps", text_setting(tmp_path, 4))
    assert numbers["classes_asked"] == 4 and numbers["evals"] == 4 * 2 * 2
    from diffzero.experiments import inversion_steps

    monkeypatch.setattr(inversion_steps, "CHECKS", (2, 12))
    numbers = reproduce("inversion-steps", text_setting(tmp_path, 2))
    assert set(numbers["accuracy"]) == {2, 12} and numbers["evals"] == 48


def test_disagreement_adds_up(text_setting, tmp_path):
    numbers = reproduce("disagreement", text_setting(tmp_path, 4))
    table = numbers["table"]
    assert sum(table.values()) == 4
    right = table["both"] + table["only ELBO"]
    assert numbers["accuracy"]["ELBO"].startswith(f"{100 * right / 4:.1f} %")
    assert numbers["evals"]["Blend"] == 1 + 160 and numbers["evals"]["HandOver"] >= 8


def test_text_table_measures_every_plan(text_setting, tmp_path, monkeypatch):
    from diffzero.experiments import text_table

    chosen = ("elbo, 16 draws", "cross-attention", "weighted, one step", "clip")
    monkeypatch.setattr(text_table, "PLAN", {n: text_table.PLAN[n] for n in chosen})
    numbers = reproduce("text-table", text_setting(tmp_path, 2))
    lines = numbers["lines"]
    assert lines["elbo, 16 draws"]["evals"] == 160 and lines["clip"]["evals"] == 1
    assert lines["weighted, one step"]["vjps"] == lines["weighted, one step"]["evals"] == 32
    assert all(line["seconds"] > 0 and line["peak_mib"] >= 0 for line in lines.values())


def test_text_table_goes_on_where_it_stopped(text_setting, tmp_path, monkeypatch):
    from diffzero.experiments import text_table

    plan = {"a": ("weighted", {"steps": 1, "draws": 2}), "clip": ("clip", {})}
    monkeypatch.setattr(text_table, "PLAN", plan)
    measured, measure = [], text_table.measure

    def counted(setting, method, options):
        if method == "clip" and len(measured) == 1:
            measured.append("stopped")
            raise KeyboardInterrupt
        measured.append(method)
        return measure(setting, method, options)

    monkeypatch.setattr(text_table, "measure", counted)
    with pytest.raises(KeyboardInterrupt):
        reproduce("text-table", text_setting(tmp_path, 2))
    numbers = reproduce("text-table", text_setting(tmp_path, 2))
    assert measured == ["weighted", "stopped", "clip"] and set(numbers["lines"]) == {"a", "clip"}
    assert not (tmp_path / "text-table.partial").exists()


def test_kept_lines_know_a_model_by_its_weights(model):
    from copy import deepcopy

    from diffzero.experiments import fingerprint

    before = fingerprint(model)
    other = deepcopy(model)
    assert fingerprint(other) == before and before.startswith(f"{model.name} ")
    with torch.no_grad():
        next(other.denoiser.network.parameters()).view(-1)[0] += 1e-3
    assert fingerprint(other) != before


def test_experiments_refuse_the_wrong_kind_of_model(model, tmp_path):
    with pytest.raises(dz.InputError, match="text-table needs a model that reads text"):
        reproduce("text-table", setting(model, tmp_path, 1))


# -- on scenes ------------------------------------------------------------------------------------


def test_binding_asks_every_task_and_compares_with_clip(text_setting, tmp_path, monkeypatch):
    from diffzero.data.scene_files import ask
    from diffzero.data.scenes import TASKS
    from diffzero.evaluate.metrics import mcnemar
    from diffzero.experiments import binding

    plan = {"one": ("weighted", {"steps": 1, "draws": 2}), "cross": ("cross-attention", {})}
    monkeypatch.setattr(binding, "PLAN", plan)
    monkeypatch.setattr(binding, "DRAWS", 2)
    monkeypatch.setattr(binding, "MOST", 2)
    numbers = reproduce("binding", text_setting(tmp_path, 3))
    assert list(numbers["lines"]) == ["elbo, 2 draws", "clip", "one", "cross"]
    parts = {f"{t}, {k}" for t in TASKS for k in ("seen", "held out")}
    assert all(set(line) == parts for line in numbers["lines"].values())
    assert numbers["data"] == "scenes"
    held_out = next(p for p in ask(3, 32) if p.name == "object, held out")
    clip = dz.CLIP("tiny-clip", template="{}")
    right = clip.scores(held_out.images, candidates=held_out.candidates).logits.argmax(1)
    line = numbers["lines"]["clip"]["object, held out"]
    assert line["right"] == "".join("01"[int(r)] for r in right == held_out.labels)
    assert numbers["lines"]["elbo, 2 draws"]["object, held out"]["evals"] == 2 * 24
    assert len(numbers["lines"]["one"]["count, held out"]["right"]) == 2
    assert numbers["n_seen"] == len(numbers["lines"]["clip"]["count, seen"]["right"]) == 1
    test = numbers["elbo_against_clip"]["binding, seen"]
    assert test["mcnemar_p"] == mcnemar(test["only_elbo_right"], test["only_clip_right"])
    assert all(task in numbers["verdict"] for task in TASKS)
    with Image.open(tmp_path / "binding.png") as picture:
        assert picture.width > 1000


def test_attributes_count_each_truth(text_setting, tmp_path):
    numbers = reproduce("attributes", text_setting(tmp_path, 4))
    assert numbers["n"] == 8
    for who in ("ELBO", "CLIP"):
        of = numbers["by_truth"][who]
        assert of["seen"].endswith("of 4") and of["with a dot, held out"].endswith("of 2")
    with Image.open(tmp_path / "attributes.png") as picture:
        assert picture.width > 900


def test_imagen_table_puts_two_models_on_the_same_images(tmp_path, monkeypatch):
    from diffzero.experiments import imagen_table, text_table

    plan = {"elbo, 2 draws": ("elbo", {"draws": 2}), "clip": ("clip", {})}
    monkeypatch.setattr(imagen_table, "PLAN", plan)
    images = data.load("digits=digits", None, "validation").subset(slice(0, 3))
    model = dz.load("tiny-if", device="cpu")
    numbers = reproduce("imagen-table", Setting(model, images, None, tmp_path, 3, 0))
    assert list(numbers["tables"]) == ["tiny-if", "tiny-sd"]
    own = dz.ELBO(model, draws=2).fit(images.classes).scores(list(images.images))
    right = own.logits.argmax(1) == images.labels
    line = numbers["tables"]["tiny-if"]["elbo, 2 draws"]
    assert line["right"] == "".join("01"[int(r)] for r in right) and line["evals"] == 20
    assert 0 < numbers["mcnemar_p_between_models"]["elbo, 2 draws"] <= 1
    assert text_table.PLAN is not plan  # the table itself is as it was


# -- on a flow model -----------------------------------------------------------------------------


def test_flow_faults_change_one_thing_each(tmp_path):
    from diffzero.experiments.flow_faults import VARIANTS

    model = dz.load("tiny-flow", device="cpu")
    images = data.load("digits=digits", None, "validation").subset(slice(0, 1))
    shift, window = model.codec.shift, model.conditioner.streams[2].window
    prompt, said = ["a photo of a handwritten digit two"], []
    x = torch.randn(1, *model.shape, generator=torch.Generator().manual_seed(0))
    for variant in VARIANTS.values():
        wrong = variant.change(model)
        with torch.no_grad():
            found = wrong.forward(x, torch.tensor([0.4]).double(), wrong.embed(prompt))
        said.append((found.eps.sum().item(), wrong.codec.shift, float(wrong.codec.scale)))
    assert len({*said}) == len(VARIANTS) - 2  # two differ in what is compared alone
    assert (model.codec.shift, model.conditioner.streams[2].window) == (shift, window)
    numbers = reproduce("flow-faults", Setting(model, images, None, tmp_path, 1, 0))
    assert set(numbers["accuracy"]) == set(VARIANTS) and numbers["n"] == 1
    assert (tmp_path / "flow-faults.png").exists()
    with pytest.raises(dz.InputError, match="such as tiny-flow"):
        reproduce("flow-faults", Setting(dz.load("tiny-sd"), images, None, tmp_path, 1, 0))


def test_decoded_latents_are_larger_than_they_are():
    from matplotlib.figure import Figure

    import families

    latent = dz.load(families.ldm_pipeline())
    k, axis = len(latent.classes), Figure().add_subplot()
    grids._paint(axis, latent, torch.zeros(k, k, *latent.shape), 0)
    assert axis.get_images()[0].get_array().shape[0] > k * latent.image_size


def test_settings_are_not_chosen_on_the_images_that_are_reported(tmp_path, monkeypatch, capsys):
    for name in range(10):
        (tmp_path / "all" / str(name)).mkdir(parents=True)
        grey = np.full((8, 8), name, np.uint8)
        Image.fromarray(grey).save(tmp_path / "all" / str(name) / "a.png")
    source = f"digits={tmp_path / 'all'}"
    line = ("reproduce", "cifar10-table", "--data", source, "--out", tmp_path / "out")
    assert run(monkeypatch, *line) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "is not divided into train and validation" in said and "another data set" in said


def test_every_line_of_the_table_has_the_seed(model):
    lines = plan(model, denoise_choices(model)[0], [], seed=5)
    assert {c.seed for c, _ in lines} == {5}


def test_a_model_is_not_set_beside_itself(tmp_path):
    images = data.load("digits=digits", None, "validation").subset(slice(0, 1))
    model = dz.load("tiny-sd", device="cpu")
    with pytest.raises(dz.InputError, match="got tiny-sd itself. Give another --model"):
        reproduce("imagen-table", Setting(model, images, None, tmp_path, 1, 0))
