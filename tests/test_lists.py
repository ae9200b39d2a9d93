"""What there is, what it takes, and what to do next."""

import hashlib
import json

import pytest
from PIL import Image

from diffzero.app import advice, doctor, fetch, lists
from diffzero.errors import InputError
from diffzero.models.cards import Card, cards
from test_cli import run


@pytest.mark.parametrize("command", ["models", "methods"])
def test_tables_fit_80_columns_with_whole_names(monkeypatch, capsys, command):
    from diffzero.methods import METHODS

    monkeypatch.setenv("COLUMNS", "80")
    assert run(monkeypatch, command) == 0
    table = capsys.readouterr().out.splitlines()
    assert max(map(len, table)) <= 80
    names = {line.split()[0] for line in table if line.strip()}
    assert set(cards() if command == "models" else METHODS) <= names


def test_every_listed_card_says_what_it_knows_and_needs():
    for card in cards().values():
        assert card.knows and advice.needs(card)
        assert card.bundled or (card.gigabytes and card.weights_gb)


def test_a_card_and_a_method_whole(monkeypatch, capsys):
    assert run(monkeypatch, "models", "tiny-sd") == 0
    out = capsys.readouterr().out
    assert "sneaker" in out and "Apache-2.0" in out and "comes with diffzero" in out
    assert run(monkeypatch, "models", "clip-vit-b-32") == 0
    assert "diffzero fetch clip-vit-b-32" in capsys.readouterr().out
    assert run(monkeypatch, "methods", "elbo") == 0
    out = capsys.readouterr().out
    assert "draws * templates * classes" in out and "weights: `uniform`" in out
    for command in ("models", "methods"):
        assert run(monkeypatch, command, "nothing") == 2
        assert "'nothing'; there are" in capsys.readouterr().err


def test_the_best_accuracy_is_the_surest():
    measured = [
        "x: 100.0 % [20.7, 100.0] of 1 at 4",
        "y (fast): 90.0 % [85.0, 93.4] of 200",
        "odd",
    ]
    card = Card("a", "ddpm", "b", accuracy=measured)
    assert lists.best_accuracy(card) == "90.0 % [85.0, 93.4] of 200 y"
    assert lists.best_accuracy(Card("a", "ddpm", "b")) == "not here"


@pytest.mark.filterwarnings("ignore:tiny-sd never saw")
def test_unknown_words_lead_to_a_model_that_knows_them(monkeypatch, capsys, tmp_path, photos):
    Image.fromarray(photos[0]).save(tmp_path / "a.png")
    line = ["classify", tmp_path / "a.png", "--set", "draws=1", "--labels"]
    assert (
        run(monkeypatch, *line, "cat,dog", "--model", "tiny-sd", "--out", tmp_path / "r.csv") == 0
    )
    err = capsys.readouterr().err
    row = (tmp_path / "r.csv").read_text().splitlines()[1]
    assert ",cat; dog," in row  # the file says too which answers are guesses
    assert run(monkeypatch, *line, "cat,dog", "--model", "tiny-sd") == 0
    assert capsys.readouterr().out.count("(unknown word)") == 2
    for part in (
        "tiny-sd knows clothes",
        "photos-sd, which comes with diffzero, knows these words: add --model photos-sd",
        "clip-vit-b-32 (0.6 GB to fetch, 0.6 GB of weights in memory)",
        "stable-diffusion-1.5 (4.3 GB",
        "diffzero fetch clip-vit-b-32",
    ):
        assert part in err
    assert run(monkeypatch, *line, "bag,coat", "--none", "--threshold", "9") == 0
    out, err = capsys.readouterr()
    assert "none of these" in out and "1 of 1 photos show none of these words" in err
    assert run(monkeypatch, *line, "bag,coat") == 0
    assert "fetch" not in capsys.readouterr().err


def test_words_lead_to_the_bundled_models_that_know_them_all():
    assert advice.bundled_with(["cat", "Dog"]) == ["photos-sd"]
    assert "tiny-sd" in advice.bundled_with(["sneaker", "bag"])
    assert advice.bundled_with(["cat", "sneaker"]) == advice.bundled_with(["zebra"]) == []


def test_a_bundled_model_that_knows_the_words_answers(monkeypatch, capsys, tmp_path, photos):
    assert advice.model_for(["cat", "dog"]) == advice.model_for(["cat", "spoon"]) == "photos-sd"
    assert advice.model_for(["sneaker", "bag"]) == advice.model_for(["zebra"]) == "tiny-sd"
    Image.fromarray(photos[0]).save(tmp_path / "a.png")
    line = ["classify", tmp_path / "a.png", "--labels", "cat,dog", "--json"]
    assert run(monkeypatch, *line, "--set", "draws=1") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"] == "photos-sd" and "unknown" not in found


def test_fetching(monkeypatch, capsys):
    assert run(monkeypatch, "fetch", "tiny-sd") == 0
    assert "tiny-sd comes with diffzero" in capsys.readouterr().out
    assert run(monkeypatch, "fetch", "nothing") == 2
    assert "No model 'nothing' to fetch" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"takes 1e\+09 GB, and .* GB free. Free some space"):
        fetch.check_room(Card("big", "clip", "a/b", gigabytes=1e9))
    fetch.check_room(Card("small", "clip", "a/b", gigabytes=1e-9))


def test_files_of_the_cache_are_checked_against_their_names(tmp_path):
    blobs, folder = tmp_path / "blobs", tmp_path / "snapshots" / "a" / "unet"
    blobs.mkdir()
    folder.mkdir(parents=True)
    name = hashlib.sha256(b"weights").hexdigest()
    (blobs / name).write_bytes(b"weights")
    (blobs / "0123").write_text("{}")  # small files are named otherwise
    (folder / "w.safetensors").symlink_to(blobs / name)
    (folder / "config.json").symlink_to(blobs / "0123")
    assert fetch.checked(folder.parent) == 1
    (blobs / name).write_bytes(b"weight!")
    with pytest.raises(InputError, match=r"w\.safetensors: damaged .* fetch again"):
        fetch.checked(folder.parent)


def test_what_would_run(monkeypatch, capsys):
    card = Card("a", "stable-diffusion", "nobody/nothing", dtype="float16", gigabytes=4,
                memory_gb={"float16": 2, "float32": 4})  # fmt: skip
    assert doctor.verdict(card, 8, 16) == "runs on the GPU, after 4 GB are fetched"
    assert doctor.verdict(card, 0, 16).startswith("runs on the CPU, slowly")
    assert doctor.verdict(card, 2, 5) == "too large: wants 3.0 GB of a GPU, or 6.0 GB of RAM"
    assert run(monkeypatch, "doctor") == 0
    out = capsys.readouterr().out
    assert "torch" in out and "tiny-sd" in out and "ready" in out and "cores" in out
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "nothing can be fetched: HF_HUB_OFFLINE" in dict(doctor.machine())["network"]
