"""What the hub's own client meets at a hub of this machine: models, failures, and the cache."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

import diffzero as dz
from diffzero.data import open_data
from diffzero.models.cards import ZOO, Card
from diffzero.models.hub import fetch_card
from hub import Hub

CLIENTS = ("LocalEntryNotFound", "RepositoryNotFound", "Error(", "Retry", "Traceback", "httpx")


def point_to(monkeypatch, address, cache):
    """Let the hub's client of this process ask another address."""
    place = "huggingface_hub.constants."
    monkeypatch.setattr(place + "ENDPOINT", address)
    files = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(place + "HUGGINGFACE_CO_URL_TEMPLATE", files)
    monkeypatch.setattr(place + "HF_HUB_CACHE", str(cache))
    for name in ("huggingface_hub.constants.HF_HUB_OFFLINE", "datasets.config.HF_HUB_OFFLINE"):
        monkeypatch.setattr(name, False)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    found = Hub()
    point_to(monkeypatch, found.address, tmp_path / "cache")
    yield found
    found.close()


@pytest.fixture
def clip(tmp_path):
    """A CLIP repository whose card has its own template and temperature."""
    folder = tmp_path / "clip"
    shutil.copytree(ZOO / "tiny-clip", folder)
    card = yaml.safe_load((folder / "card.yaml").read_text())
    (folder / "card.yaml").write_text(yaml.safe_dump(card | {"template": "the {} here"}))
    return folder


def refused(call, capfd):
    """The message of a refusal that came soon, alone and without the client's own words."""
    began = time.monotonic()
    with pytest.raises(dz.InputError) as found:
        call()
    said = str(found.value)
    assert time.monotonic() - began < 8
    assert not any(word in said + capfd.readouterr().err for word in CLIENTS) and "\n" not in said
    return said


def test_a_hub_id_brings_its_card_and_so_does_its_copy_in_the_cache(hub, clip, monkeypatch):
    hub.add("someone/clip", clip)
    images = [np.full((8, 8, 3), 40 * i, np.uint8) for i in range(3)]
    model = dz.load("someone/clip")
    assert model.template == "the {} here" and model.name == "someone/clip"
    assert model.temperatures == dz.load("tiny-clip").temperatures != ()
    scores = dz.CLIP(model).fit(["bag", "coat"]).scores(images).logits
    hub.close()  # from now on nothing answers
    again = dz.load("someone/clip")
    assert again.template == "the {} here" and again.temperatures == model.temperatures
    assert np.array_equal(dz.CLIP(again).fit(["bag", "coat"]).scores(images).logits, scores)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert dz.load("someone/clip").vocabulary == model.vocabulary


def test_the_cache_serves_where_the_hub_fails(hub, clip):
    hub.add("someone/clip", clip)
    dz.load("someone/clip")
    for answer in ((503, {}, 0), (404, {}, 0), (403, {"X-Error-Code": "GatedRepo"}, 0)):
        hub.answers["someone/clip"] = answer
        assert dz.load("someone/clip").template == "the {} here"


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (401, {"X-Error-Message": "Invalid username or password."}, "has no a/b, or not for you"),
        (401, {"X-Error-Message": "Invalid credentials in Authorization header"}, "HF_TOKEN"),
        (404, {"X-Error-Code": "RepoNotFound"}, "The hub has no a/b, or not for you"),
        (403, {}, "not for you"),
        (403, {"X-Error-Code": "GatedRepo"}, "given out only to those who accepted its licence"),
        (401, {"X-Error-Code": "GatedRepo"}, "Accept it on http"),
        (404, {"X-Error-Code": "RevisionNotFound"}, "but no revision 'main' of it"),
        (429, {"Retry-After": "300"}, "takes no more requests from here for some minutes"),
        (
            500,
            {},
            r"failed \(500\), .* try again later\. Run diffzero fetch a/b on a machine that",
        ),
        (503, {}, r"failed \(503\)"),
        (200, {"Content-Type": "text/html"}, "is no hub, but perhaps a proxy or a page to log in"),
    ],
)
def test_failures_are_told_apart_at_once(hub, capfd, status, headers, expected):
    hub.answers["a/b"] = (status, headers, 0)
    with pytest.raises(dz.InputError, match=expected):
        dz.load("a/b")
    refused(lambda: dz.load("a/b"), capfd)


def test_files_may_be_gated_where_the_page_is_not(hub, clip, capfd):
    hub.add("someone/clip", clip)
    hub.answers["/resolve/"] = (403, {"X-Error-Code": "GatedRepo"}, 0)
    assert "accepted its licence" in refused(lambda: dz.load("someone/clip"), capfd)


def test_a_revision_that_is_not_there(hub, clip, capfd):
    hub.add("someone/clip", clip)
    card = Card("own", "clip", "someone/clip", revision="v9")
    assert "no revision 'v9' of it" in refused(lambda: fetch_card(card), capfd)


def test_a_hub_that_is_silent_is_waited_for_once(hub, capfd, monkeypatch):
    monkeypatch.setattr("diffzero.reach.SECONDS", 0.5)
    hub.answers["/"] = (200, {}, 5)
    card = Card("own", "clip", "a/b", mirrors=["c/d", "e/f"])
    said = refused(lambda: fetch_card(card), capfd)
    assert f"{hub.address} did not answer in time" in said and len(hub.asked) == 1


def test_mirrors_are_tried_and_the_first_cause_is_told(hub, clip, capfd):
    hub.add("someone/clip", clip)
    card = Card("own", "clip", "gone/away", mirrors=["also/gone", "someone/clip"])
    assert (fetch_card(card) / "config.json").is_file()
    none = Card("own", "clip", "gone/away", mirrors=["also/gone"])
    assert "has no gone/away" in refused(lambda: fetch_card(none), capfd)


def test_nothing_listens_and_what_to_bring_from_elsewhere_serves(
    monkeypatch, capfd, tmp_path, clip
):
    """What the message advises is done: the folder of another machine's cache is copied."""
    here, there = tmp_path / "here", tmp_path / "there"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}"
    point_to(monkeypatch, closed, here)
    said = refused(lambda: dz.load("someone/clip"), capfd)
    assert f"{closed} is out of reach" in said and "a bundled model (cifar10-ddpm" in said
    assert f"copy the folder models--someone--clip of its cache into {here} here" in said
    hub = Hub()
    hub.add("someone/clip", clip)
    point_to(monkeypatch, hub.address, there)
    dz.load("someone/clip")
    hub.close()
    shutil.copytree(there / "models--someone--clip", here / "models--someone--clip", symlinks=True)
    point_to(monkeypatch, closed, here)
    assert dz.load("someone/clip").template == "the {} here"


def test_a_cache_that_cannot_be_written_is_no_failure_of_the_hub(hub, clip, capfd, monkeypatch):
    hub.add("someone/clip", clip)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "/dev/full/cache")
    said = refused(lambda: dz.load("someone/clip"), capfd)
    assert "/dev/full" in said and "cannot be written (Not a directory)" in said
    assert "HF_HOME" in said and "on a machine that reaches" not in said


def test_data_sets_of_the_hub_fail_as_models_do(hub, capfd):
    hub.answers["/datasets/a/b"] = (500, {}, 0)
    assert "failed (500)" in refused(lambda: open_data("a/b"), capfd)
    assert "The hub has no c/d" in refused(lambda: open_data("c/d"), capfd)
    hub.answers["/datasets/g/h"] = (403, {"X-Error-Code": "GatedRepo"}, 0)
    assert "accepted its licence" in refused(lambda: open_data("g/h"), capfd)


def test_fetch_from_the_shell(hub, clip, tmp_path):
    """In a process of its own, as HF_ENDPOINT and HF_HOME are read when the client is imported."""
    hub.add("someone/clip", clip)
    source = str(Path(dz.__file__).parents[1])
    own = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": source}

    def fetched(name):
        line = [sys.executable, "-m", "diffzero", "fetch", name]
        return subprocess.run(line, env=os.environ | own, capture_output=True, text=True)

    done = fetched("someone/clip")
    assert done.returncode == 0, done.stderr
    assert dz.load(done.stdout.strip()).template == "the {} here"
    gone = fetched("nobody/nothing")
    assert gone.returncode == 2 and gone.stdout == ""
    assert gone.stderr.splitlines()[-1].startswith("error: The hub has no nobody/nothing")
    assert not any(word in gone.stderr for word in CLIENTS)
