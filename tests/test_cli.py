import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import diffzero as dz
from diffzero.app import cli


@pytest.fixture(scope="module")
def model(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "tiny"
    pipe.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def folder(tmp_path, photos):
    for i, photo in enumerate(photos[:3]):
        Image.fromarray(photo).save(tmp_path / f"{i}.png")
    return tmp_path


def run(monkeypatch, *arguments):
    """Run the entry point as the shell would; return the exit code."""
    monkeypatch.setattr(sys, "argv", ["diffzero", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code or 0


def test_json_lines_carry_the_whole_record(monkeypatch, capsys, folder, model):
    code = run(
        monkeypatch, "classify", folder, "--labels", "cat,dog,fox", "--model", model, "--json",
        "--set", "draws=2", "--seed", 3,
    )  # fmt: skip
    out, err = capsys.readouterr()
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and len(records) == 3
    assert [r["path"] for r in records] == [str(folder / f"{i}.png") for i in range(3)]
    classifier = dz.ELBO(model, draws=2, seed=3).fit(["cat", "dog", "fox"])
    scores = classifier.scores([r["path"] for r in records])
    for record, logits in zip(records, scores.logits, strict=True):
        assert set(record) == {
            "path", "label", "scores", "logits", "evals", "seconds", "model", "method", "seed",
        }  # fmt: skip
        assert sum(record["scores"].values()) == pytest.approx(1)
        assert record["label"] == max(record["scores"], key=record["scores"].get)
        assert np.allclose(list(record["logits"].values()), logits, rtol=1e-5)
        assert (record["evals"], record["method"], record["seed"]) == (6, "elbo", 3)
    assert "18 evaluations" in err


def test_text_output_ranks_the_labels(monkeypatch, capsys, folder, model):
    assert run(monkeypatch, "classify", folder / "0.png", "--labels", "cat,dog",
               "--model", model, "--set", "draws=1") == 0  # fmt: skip
    out = capsys.readouterr().out
    assert out.count("%") == 2 and "0.png" in out


def test_shortlist(monkeypatch, capsys, folder, model):
    line = ["classify", folder, "--labels", "sneaker,bag,coat,dress", "--model", model, "--json",
            "--set", "draws=2", "--priors", "sneaker=1,bag=1,coat=1,dress=9"]  # fmt: skip
    assert run(monkeypatch, *line, "--shortlist", "tiny-clip:2") == 0
    out, err = capsys.readouterr()
    records = [json.loads(one) for one in out.splitlines()]
    assert len(records) == 3 and "15 evaluations" in err  # CLIP once, two labels twice
    for record in records:
        assert record["evals"] == 5 and record["method"] == "shortlist"
        assert record["model"] == model.rpartition("/")[2]
        assert sum(record["scores"].values()) == pytest.approx(1)
    assert run(monkeypatch, *line, "--shortlist", "5") == 2
    assert "--shortlist takes MODEL:N" in capsys.readouterr().err


def test_resolution(monkeypatch, capsys, folder, model):
    line = ["classify", folder / "0.png", "--labels", "cat,dog", "--model", model,
            "--set", "draws=1"]  # fmt: skip
    assert run(monkeypatch, *line, "--resolution", 24) == 0
    assert run(monkeypatch, *line, "--resolution", 18) == 2
    assert "takes resolutions that are multiples of 4; got 18" in capsys.readouterr().err
    assert dz.load(model, resolution=24).shape == (4, 12, 12)


def test_one_bad_file_among_good_ones_loses_nothing(monkeypatch, capsys, folder, model):
    (folder / "1.png").write_text("not an image")
    code = run(monkeypatch, "classify", folder, folder / "missing.png", "--labels", "cat,dog",
               "--model", model, "--json", "--set", "draws=1")  # fmt: skip
    out, err = capsys.readouterr()
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 2 and ["error" in r for r in records] == [False, True, False, True]
    assert set(records[1]) == {"path", "error"} and "not an image" in records[1]["error"]
    assert "2 of 4 images could not be classified" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--labels", "cat"], "Only one label"),
        (["--labels", "cat,,dog"], "Label 2 of 3 is blank"),
        (["--labels", "cat,cat"], "Labels repeat"),
        ([], "Give the words to choose from"),
        (["--labels-file", "nowhere.txt"], "nowhere.txt: cannot be read"),
        (["--labels", "cat,dog", "--model", "nothing"], "No model 'nothing'"),
        (
            ["--labels", "cat,dog", "--set", "draws=abc"],
            "draws must be a whole number from 1 to 1,024",
        ),
        (
            ["--labels", "cat,dog", "--set", "weights=2"],
            "weights must be one of uniform, elbo; got 2",
        ),
        (["--labels", "cat,dog", "--method", "magic"], "No method 'magic'; `diffzero methods`"),
        (["--labels", "cat,dog", "--method", "elbow"], "'elbow'; the nearest is elbo, and"),
        (["--labels", "cat,dog", "--method", "clip"], "clip needs a CLIP model"),
        (["--labels", "cat,dog", "--set", "drawz=3"], "has no argument 'drawz'"),
        (["--labels", "cat,dog", "--set", "draws"], "--set takes name=value"),
        (["--labels", "cat,dog", "--template", "a photo"], "holds one {}"),
        (["--labels", "cat,dog", "--priors", "cat"], "--priors takes label=number"),
        (["--labels", "cat,dog", "--device", "cuda:9"], "not available here"),
        (["--labels", "cat," + "dog " * 50], "reads at most 14 tokens"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    monkeypatch, capsys, folder, model, arguments, message
):
    defaults = [] if "--model" in arguments else ["--model", model]
    assert run(monkeypatch, "classify", folder, *defaults, *arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err and "Traceback" not in err
    assert err.strip().count("\n") == 0


def test_labels_from_a_file(monkeypatch, capsys, folder, model, tmp_path):
    (tmp_path / "labels.txt").write_text("cat\n\nred fox\n")
    assert run(monkeypatch, "classify", folder / "0.png", "--labels-file", tmp_path / "labels.txt",
               "--model", model, "--json", "--set", "draws=1") == 0  # fmt: skip
    assert set(json.loads(capsys.readouterr().out)["scores"]) == {"cat", "red fox"}


def test_empty_folder(monkeypatch, capsys, tmp_path, model):
    assert run(monkeypatch, "classify", tmp_path, "--labels", "a,b", "--model", model) == 2
    assert "no image files in this folder" in capsys.readouterr().err


def test_lists_of_models_and_methods(monkeypatch, capsys):
    assert run(monkeypatch, "models") == 0
    out = capsys.readouterr().out
    assert "tiny-sd" in out and "bundled" in out
    assert run(monkeypatch, "methods") == 0
    out = capsys.readouterr().out
    assert "elbo" in out and "evaluations per" in " ".join(out.split())


def test_methods_say_what_they_need_and_cost():
    from diffzero.app.lists import described
    from diffzero.methods import METHODS, method_class

    for name in METHODS:
        assert all(described(method_class(name))), name


def test_version(monkeypatch, capsys):
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"diffzero {dz.__version__}\n"


def test_an_unexpected_failure_is_no_traceback(monkeypatch, capsys):
    monkeypatch.setattr("diffzero.models.cards.cards", lambda: 1 / 0)
    assert run(monkeypatch, "models") == 1
    assert "This is a bug in diffzero" in capsys.readouterr().err


def test_unknown_recipe(monkeypatch, capsys, tmp_path):
    assert run(monkeypatch, "train", "huge", "--data", "digits=digits", "--out", tmp_path) == 2
    assert (
        "No recipe 'huge'; there are all, tiny-sd, tiny-if, tiny-clip" in capsys.readouterr().err
    )


@pytest.mark.parametrize("statement", ["import diffzero", "import diffzero.app.cli"])
def test_import_and_help_stay_light(statement):
    heavy = ["torch", "sklearn", "diffusers", "transformers"]
    code = f"{statement}; import sys; print([m for m in {heavy} if m in sys.modules])"
    if "cli" in statement:
        code = (
            "import sys; sys.argv = ['diffzero', '--help']\n"
            "from diffzero.app.cli import main\n"
            "try: main()\nexcept SystemExit: pass\n"
            f"print([m for m in {heavy} if m in sys.modules])"
        )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "[]"


def test_classify_imports_nothing_that_it_does_not_need(folder):
    """Every pipeline of diffusers, or the sets of `datasets`, cost more than the work itself."""
    code = (
        "import sys; sys.argv = ['diffzero', 'classify', sys.argv[1], '--labels', 'bag,coat',"
        " '--set', 'draws=1']\n"
        "from diffzero.app.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = ('diffusers.pipelines', 'datasets', 'matplotlib', 'pyarrow.parquet', 'ray')\n"
        "print([m for m in sys.modules if m.startswith(heavy) and m != 'diffusers.pipelines'])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(folder / "0.png")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("more", "method"),
    [
        ((), "race on tiny-sd: at most 128 evaluations"),
        (("--set", "draws=4"), "elbo on tiny-sd: 8 evaluations"),
        (("--template", "a {}", "--template", "the {}", "--set", "draws=2"), "elbo on tiny-sd"),
        (("--none", "--set", "draws=4"), "elbo on tiny-sd"),
        (("--method", "elbo", "--set", "draws=3"), "elbo on tiny-sd: 6 evaluations"),
        (("--shortlist", "tiny-clip:2", "--set", "max_draws=4"), "shortlist"),
    ],
)
def test_classify_races_where_nothing_asks_for_dense_draws(
    monkeypatch, capsys, photos, tmp_path, more, method
):
    photo = tmp_path / "a.png"
    Image.fromarray(photos[0]).save(photo)
    assert run(monkeypatch, "classify", photo, "--labels", "bag,coat", *more) == 0
    assert method in " ".join(capsys.readouterr().err.split())
