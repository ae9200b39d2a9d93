"""The page: its logic, its server over HTTP, and all of it in Chromium where there is one."""

import http.client
import io
import json
import socket
import threading
import time
from urllib.parse import urlencode

import numpy as np
import psutil
import pytest
from PIL import Image

import diffzero as dz
from chromium import FOUND, Browser
from diffzero.app.serve import bundled, make_server
from diffzero.app.serve_ask import MOST_WORDS, Ask, choices, example
from diffzero.app.serve_desk import MOST_WAITING
from diffzero.app.serve_http import MOST_BYTES
from diffzero.app.serve_rank import intervals
from diffzero.errors import InputError

ASKS = {"X-Diffzero": "1"}


@pytest.fixture(scope="module")
def server():
    server = make_server(["tiny-sd"], "tiny-clip", "127.0.0.1", 0, device="cpu")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def digit():
    return example("digit")


def send(server, method, path, body=None, headers=ASKS):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=120)
    connection.request(method, path, body, headers)
    reply = connection.getresponse()
    data = reply.read()
    connection.close()
    return reply, data


def ask(server, photo, what="classify", **fields):
    reply, data = send(server, "POST", f"/api/{what}?{urlencode(fields)}", photo)
    lines = [json.loads(line) for line in data.splitlines()]
    return reply.status, lines


def the(lines, name):
    (found,) = [line for line in lines if line["event"] == name]
    return found


# -- logic ---------------------------------------------------------------------------------------


def test_words_are_read_as_on_the_command_line():
    asked = Ask.of(b"x", {"words": 'cat, "salt, pepper"\n\ndog'}, False, ["tiny-sd"])
    assert asked.words == ["cat", "salt, pepper", "dog"]
    listed = Ask.of(b"x", {"words": "cat,\r\ndog, \nship;"}, False, ["tiny-sd"])
    assert listed.words == ["cat", "dog", "ship"]


def test_the_words_choose_the_model():
    offered = ["tiny-sd", "cifar10-ldm", "photos-sd"]
    for words, expected in (("cat,dog", "photos-sd"), ("bag,coat,dog", "tiny-sd")):
        for fields in ({"words": words}, {"words": words, "model": "auto"}):
            assert Ask.of(b"x", fields, False, offered).model == expected
    assert (
        Ask.of(b"x", {"words": "cat,dog", "model": "tiny-sd"}, False, offered).model == "tiny-sd"
    )
    assert (
        Ask.of(b"x", {"words": "cat,dog"}, False, ["mine/folder", "photos-sd"]).model
        == "mine/folder"
    )


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"words": ""}, "blank"),
        ({"words": "cat,cat"}, "cat"),
        ({"words": ",".join(f"w{i}" for i in range(MOST_WORDS + 1))}, f"up to {MOST_WORDS} words"),
        ({"words": "a,b", "model": "/etc/passwd"}, "model must be one of tiny-sd"),
        ({"words": "a,b", "model": "../tiny-sd"}, "model must be one of tiny-sd"),
        ({"words": "a,b", "method": "textual-inversion"}, "method must be one of race"),
        ({"words": "a,b", "draws": "1e9"}, "draws must be a whole number"),
        ({"words": "a,b", "draws": "²"}, "draws must be a whole number"),
        ({"words": "a,b", "template": "a photo of"}, "holds one {} where the label goes"),
        ({"words": "a,b", "method": "cross-attention", "template": "short"}, "holds one {}"),
        ({"words": "a,b", "seed": "-1"}, "seed must be a whole number"),
    ],
)
def test_what_does_not_fit_is_named(fields, said):
    with pytest.raises(InputError, match=said):
        Ask.of(b"x", fields, False, ["tiny-sd"])


def test_an_interval_covers_what_all_draws_say():
    """Over many sets of draws, 95 % of intervals hold the probability of endless draws."""
    rng, truth, hits = np.random.default_rng(0), np.array([0.0, 0.4]), 0
    for _ in range(400):
        cube = 10 + rng.normal(size=(32, 1)) + truth + rng.normal(size=(32, 2))
        mean = -cube.mean(0)
        proba = np.exp(mean - np.logaddexp.reduce(mean))
        low, high = intervals(cube, proba, 1.0)
        hits += low[0] <= 1 / (1 + np.exp(-0.4)) <= high[0]
    assert 0.91 <= hits / 400 <= 0.98


def test_every_bundled_diffusion_model_is_offered():
    offered = bundled()
    assert offered[0] == "tiny-sd" and len(offered) == len(set(offered)) >= 6
    assert all(dz.cards()[name].bundled for name in offered)
    assert "tiny-clip" not in offered and "sdxl-base" not in offered


def test_pickers_tell_cost_and_memory():
    found = choices(["tiny-sd"], "tiny-clip")
    auto, own = found["models"][:2]
    assert "knows most of the words" in auto["about"] and auto["here"]
    assert "any CPU" in own["about"] and own["here"]
    others = {m["name"]: m["about"] for m in found["models"] if not m["here"]}
    assert (
        "GB to fetch" in others["stable-diffusion-1.5"]
        and "diffzero fetch stable-diffusion-1.5" in others["stable-diffusion-1.5"]
    )
    assert all(m["cost"] for m in found["methods"])
    assert all(1 <= m["least"] <= m["draws"] for m in found["methods"])


def test_watching_a_race_changes_nothing(digit):
    names = ["handwritten digit three", "handwritten digit one", "sneaker"]
    photo = [np.asarray(Image.open(io.BytesIO(digit[0])).convert("RGB"))]
    race = dz.Race("tiny-sd", max_draws=16).fit(names)
    alone, looks = race.scores(photo), []
    watched = race.watched(lambda image, look: looks.append(look)).scores(photo)
    assert np.array_equal(alone.logits, watched.logits) and looks
    assert np.allclose(looks[-1].logits, alone.logits[0])
    assert looks[-1].draws.sum() == alone.evals[0]


def test_what_is_odd_about_the_words_is_told(server, digit):
    _, lines = ask(server, digit[0], words="zebra,handwritten digit three", draws=4)
    assert "tiny-sd never saw the words zebra" in the(lines, "note")["text"]
    assert "tiny-clip never saw the words zebra" in the(lines, "clip")["notes"][0]


# -- HTTP ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["race", "elbo"])
def test_upload_words_answer(server, digit, method):
    status, lines = ask(server, digit[0], words=digit[1], method=method, draws=16)
    answer, clip = the(lines, "answer"), the(lines, "clip")
    assert status == 200 and lines[-1] == {"event": "done"}
    assert answer["rows"][0]["word"] == "handwritten digit three"
    assert sum(row["p"] for row in answer["rows"]) == pytest.approx(1)
    assert all(row["low"] <= row["p"] <= row["high"] for row in answer["rows"])
    assert answer["evals"] == max(line.get("evals", 0) for line in lines)
    assert answer["evals"] == 160 if method == "elbo" else answer["evals"] < 160
    assert clip["model"] == "tiny-clip" and len(clip["rows"]) == 10
    told = "race" if method == "race" else "progress"
    assert [line["event"] for line in lines].index(told) < len(lines) - 3


def test_every_method_takes_the_pages_draws_and_prompt(server, digit):
    words = "handwritten digit three,handwritten digit one"
    asked = {"words": words, "template": "a picture of a {}", "draws": 2}
    for method, evals in (("noise-denoise", 2 * 2), ("cross-attention", 2 * 2 * 2)):
        status, lines = ask(server, digit[0], method=method, **asked)
        assert status == 200 and the(lines, "answer")["evals"] % evals == 0
        _, more = ask(server, digit[0], method=method, **{**asked, "draws": 4})
        assert the(more, "answer")["evals"] == 2 * the(lines, "answer")["evals"]
    _, lines = ask(server, digit[0], "explain", method="cross-attention", **asked)
    assert the(lines, "why")["evals"] == 2 * 32  # the map's own


def test_explanation(server, digit):
    words = "handwritten digit three,handwritten digit one"
    status, lines = ask(server, digit[0], "explain", words=words, draws=8)
    why = the(lines, "why")
    assert status == 200 and why["picture"].startswith("data:image/png;base64,iVBOR")
    assert "speaks most for handwritten digit three at the" in why["alt"] and why["evals"] == 16
    looked = the(lines, "attention")
    assert looked["picture"].startswith("data:image/png;base64,iVBOR")
    assert looked["picture"] != why["picture"] and looked["evals"] == 16
    assert "looks most for handwritten digit three at the" in looked["alt"]


def test_cancel_stops_the_network(server, digit):
    found = []
    fields = {"words": digit[1], "method": "elbo", "draws": 256, "job": "one"}
    thread = threading.Thread(target=lambda: found.append(ask(server, digit[0], **fields)))
    thread.start()
    while not json.loads(send(server, "POST", "/api/cancel?job=one")[1])["cancelled"]:
        time.sleep(0.01)
    thread.join(60)
    lines = found[0][1]
    assert lines[-1] == {"event": "cancelled"}
    assert max((line.get("evals", 0) for line in lines), default=0) < 2560


def test_a_page_that_is_closed_stops_the_network(server, digit):
    query = urlencode({"words": digit[1], "method": "elbo", "draws": 256})
    with socket.create_connection(server.server_address) as line:
        head = f"POST /api/classify?{query} HTTP/1.1\r\nHost: localhost\r\nX-Diffzero: 1\r\n"
        line.sendall(f"{head}Content-Length: {len(digit[0])}\r\n\r\n".encode() + digit[0])
        line.recv(100)
    end = time.monotonic() + 20
    while server.desk._here:
        assert time.monotonic() < end
        time.sleep(0.02)


HOSTILE = {
    "text": b"not an image at all",
    "script": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    "cut": example("digit")[0][:60],
    "bomb": None,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_photo_gets_a_sentence(server, name):
    photo = HOSTILE[name]
    if photo is None:
        file = io.BytesIO()
        Image.new("1", (30_000, 30_000)).save(file, "PNG")
        photo = file.getvalue()
    status, lines = ask(server, photo, words="a coat,a bag")
    assert status == 200 and lines[-1]["event"] == "error"
    assert lines[-1]["error"].startswith("The photo") and "bug" not in lines[-1]["error"]


def test_a_huge_upload_is_refused_before_it_is_read(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=20)
    connection.putrequest("POST", "/api/classify?words=a,b")
    for name, value in (ASKS | {"Content-Length": str(MOST_BYTES + 1)}).items():
        connection.putheader(name, value)
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


@pytest.mark.parametrize("length", ["-1", "0", "ten", "9" * 5000])
def test_odd_lengths_are_refused(server, length):
    reply, _ = send(
        server, "POST", "/api/classify?words=a,b", headers=ASKS | {"Content-Length": length}
    )
    assert reply.status in (411, 413)


@pytest.mark.parametrize(
    "path",
    ["/../serve.py", "/..%2f..%2fetc/passwd", "//etc/passwd", "/serve.py", "/api/example/../../x"],
)
def test_path_tricks_find_nothing(server, path):
    assert send(server, "GET", path)[0].status == 404


def test_strangers_are_refused(server, digit):
    evil = ASKS | {"Host": "evil.example"}
    assert send(server, "GET", "/", headers=evil)[0].status == 403
    assert send(server, "POST", "/api/classify?words=a,b", digit[0], evil)[0].status == 403
    assert send(server, "POST", "/api/classify?words=a,b", digit[0], {})[0].status == 403


def test_the_page_asks_nobody_else(server):
    for path in ("/", "/serve.js", "/serve.css"):
        reply, text = send(server, "GET", path)
        assert (
            reply.status == 200
            and "default-src 'none'" in reply.headers["Content-Security-Policy"]
        )
        assert b"//cdn" not in text and b"https://" not in text


def test_twenty_at_once_in_bounded_memory(server):
    rng = np.random.default_rng(0)
    photos = []
    for _ in range(20):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (900, 900, 3), np.uint8)).save(file, "PNG")
        photos.append(file.getvalue())
    ask(server, photos[0], words="a coat,a bag", draws=4)  # models and caches are there
    process, most, found = psutil.Process(), [], []
    before = process.memory_info().rss

    def one(photo):
        found.append(ask(server, photo, words="a coat,a bag", draws=4))

    threads = [threading.Thread(target=one, args=(photo,)) for photo in photos]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        most.append(process.memory_info().rss)
        time.sleep(0.02)
    assert [lines[-1]["event"] for _, lines in found] == ["done"] * 20
    encoded = sum(map(len, photos))  # held by the server, and while they are joined twice
    grown = max(most) - before
    assert grown < 2 * encoded + 150 * 2**20, f"{grown / 2**20:.0f} MB"


def test_a_full_line_says_so(server, digit):
    with_places = [server.desk.place(str(i)) for i in range(MOST_WAITING)]
    for place in with_places:
        place.__enter__()
    reply, text = send(server, "POST", "/api/classify?words=a,b", digit[0])
    for place in with_places:
        place.__exit__(None, None, None)
    assert reply.status == 503 and b"Try again in a moment" in text


def test_a_port_that_is_taken(server):
    with pytest.raises(InputError, match="--port 0 takes a free one"):
        make_server(["tiny-sd"], None, "127.0.0.1", server.server_address[1], device="cpu")


# -- Chromium ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(server, tmp_path_factory):
    if FOUND is None:
        pytest.skip("no Chromium here; Debian's package is chromium")
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        browser.open(f"http://localhost:{server.server_address[1]}/")
        browser.until("document.querySelectorAll('#examples button').length === 3")
        yield browser


DONE = "/photos? done/.test(document.getElementById('status').textContent)"


def test_in_the_browser(page, digit, tmp_path):
    good, bad = tmp_path / "three.png", tmp_path / "<img src=x onerror=alert(1)>.png"
    good.write_bytes(digit[0])
    bad.write_bytes(b"no image")
    page.upload("#photos", [good, bad])
    page.run(f"document.getElementById('words').value = {json.dumps(digit[1])}")
    page.run("document.getElementById('go').focus()")
    page.key("Enter", 13, "\r")  # by keyboard
    page.until(DONE, 120)
    first, second = page.run("[...document.querySelectorAll('article')].map(a => a.innerText)")
    assert "handwritten digit three:" in first and "CLIP (tiny-clip" in first
    assert "evaluations" in first and "[" in first
    assert (
        "The photo" in second and page.run("document.querySelector('article img[src=x]')") is None
    )
    page.run("document.querySelector('article button').click()")
    alt = page.until("document.querySelector('img.why')?.alt", 120)
    assert "speaks most for handwritten digit three" in alt
    looked = page.until("document.querySelectorAll('img.why')[1]?.alt", 120)
    assert "looks most for handwritten digit three" in looked
    for width in (1280, 390):
        page.resize(width)
        assert page.run("document.documentElement.scrollWidth") <= width
        page.screenshot(tmp_path / f"{width}.png")
        assert Image.open(tmp_path / f"{width}.png").size[0] > width - 20  # a scroll bar's
    page.resize(1280)


def test_cancel_in_the_browser(page):
    page.run("document.getElementById('method').value = 'elbo'")
    page.run("document.getElementById('draws').value = 256")
    page.run("document.querySelector('#examples button').click()")
    page.until(
        "!document.getElementById('cancel').disabled && /eval/.test(document.body.innerText)"
    )
    page.run("document.getElementById('cancel').click()")
    page.until("document.getElementById('status').textContent === 'Cancelled.'")
    assert page.run("document.querySelector('article h2').textContent") == "Cancelled"


def test_everything_has_a_name_and_nothing_leaves(page, server):
    unnamed = page.run(
        "[...document.querySelectorAll('input,select,textarea')].filter(e => !e.labels.length)"
        ".length + [...document.querySelectorAll('img')].filter(e => !e.alt).length"
    )
    assert unnamed == 0 and page.run("document.documentElement.lang") == "en"
    here = f"http://localhost:{server.server_address[1]}/"
    assert all(u.startswith((here, "blob:", "data:", "about:")) for u in page.addresses())
    errors = [e for e in page.events if e["method"] == "Runtime.exceptionThrown"]
    assert errors == []
