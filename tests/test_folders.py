"""Folders of photos: files of results that go on, folders of words, the contact sheet."""

import csv
import hashlib
import json
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import diffzero as dz
from conftest import heard
from diffzero.app.records import NONE, Wish, text_of
from diffzero.app.results import Results, flat
from diffzero.app.sorting import Sorter, folder_names
from diffzero.data import digits_split
from diffzero.errors import InputError, storable
from test_cli import run

WORDS = "handwritten digit zero,handwritten digit one,sneaker"
LINE = ["--labels", WORDS, "--set", "draws=1"]


@pytest.fixture
def photos_folder(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, image in enumerate(digits_split()[1][0][:6]):
        Image.fromarray(image).save(folder / f"{i}.png")
    return folder


def record(path, label="cat", p=0.9, **more):
    return {
        "path": path, "label": label, "scores": {label: p, "other": 1 - p},
        "logits": {label: 1.0, "other": 0.0}, "evals": 2, "seconds": 0.5, "model": "m",
        "method": "elbo", "seed": 0,
    } | more  # fmt: skip


def rows_of(path):
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    return [json.loads(line) for line in path.read_text().splitlines()]


def digests(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_results_go_on_where_they_were_left(tmp_path, kind):
    out = tmp_path / f"r.{kind}"
    odd = 'a "b"\nline, \udce9.png'
    first = Results(out, "run", 2)
    first.add(record(odd))
    first.add({"path": "bad.png", "error": "bad.png: not an image"})
    first.close(whole=False)
    with first.journal.open("a") as file:  # killed in the middle of a row
        file.write('{"path": "half' if kind != "csv" else '"half')
    second = Results(out, "run", 2)
    assert second.done == {storable(odd)}  # what failed is tried again, what was cut off is gone
    second.add(record("bad.png", "dog"))
    second.close()
    third = Results(out, "run", 2)
    assert third.done == {storable(odd), "bad.png"}
    third.close()
    rows = rows_of(out)
    assert [r["path"] for r in rows] == [storable(odd), "bad.png"]
    assert [r["label"] for r in rows] == ["cat", "dog"]
    assert [p.name for p in tmp_path.iterdir()] == [out.name]


def test_a_link_stays_one_and_what_is_no_file_is_refused(tmp_path):
    there, link = tmp_path / "there.csv", tmp_path / "link.csv"
    link.symlink_to(there)
    for name in ("a.png", "b.png"):
        results = Results(link, "run", 1)
        results.add(record(name))
        results.close()
    assert link.is_symlink() and len(rows_of(there)) == 2
    device = tmp_path / "device.csv"
    device.symlink_to("/dev/null")
    with pytest.raises(InputError, match=r"device\.csv: is no file, but a folder, device or pipe"):
        Results(device, "run", 1)
    assert Path("/dev/null").is_char_device()


def test_one_process_writes_to_a_file(tmp_path):
    first = Results(tmp_path / "r.csv", "run", 1)
    first.add(record("a.png"))
    with pytest.raises(InputError, match="another diffzero is writing to it"):
        Results(tmp_path / "r.csv", "run", 1)
    first.close()
    assert len(rows_of(tmp_path / "r.csv")) == 1


def test_answers_of_another_run_are_not_mixed(tmp_path):
    out = tmp_path / "r.csv"
    first = Results(out, "run", 1)
    first.add(record("a.png"))
    first.close()
    before = out.read_text()
    with pytest.raises(InputError, match=r"r\.csv: holds answers of other words.*elbo on m"):
        Results(out, "other", 1)
    assert out.read_text() == before


def test_json_lines_stay_alone_on_standard_output(monkeypatch, capsys, tmp_path, photos_folder):
    line = ["classify", photos_folder, *LINE, "--out", tmp_path / "r.csv", "--multi"]
    assert run(monkeypatch, *line, "--json", "--sort-into", tmp_path / "s") == 0
    records = [json.loads(one) for one in capsys.readouterr().out.splitlines()]
    assert len(records) == 6 and all(set(r["ratios"]) == set(WORDS.split(",")) for r in records)
    links = {p.name for p in (tmp_path / "s").rglob("*.png")}
    assert links == {Path(r["path"]).name for r in records}
    assert run(monkeypatch, *line) == 0
    assert "words" not in (out := capsys.readouterr().out) and out.endswith(f"{line[-2]}\n")


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_a_foreign_file_is_left_alone(tmp_path, kind):
    out = tmp_path / f"r.{kind}"
    out.write_text("mine\nall mine\n")
    with pytest.raises(InputError, match="is no file of results of this command"):
        Results(out, "run", 1)
    assert out.read_text() == "mine\nall mine\n"


def test_a_row_holds_the_best_words():
    row = flat(record("a", "cat", 0.25) | {"labels": ["x", "y"], "ratio": 0.1}, 2)
    assert (row["label"], row["label_1"], row["p_1"]) == ("cat", "other", 0.75)
    assert (row["label_2"], row["p_2"], row["labels"], row["ratio"]) == ("cat", 0.25, "x; y", 0.1)
    failed = flat({"path": "a", "error": "why"}, 1)
    assert failed["error"] == "why" and failed["label"] is failed["p_1"] is None


def test_interrupted_twice_every_photo_has_one_row(monkeypatch, capsys, tmp_path):
    folder, out = tmp_path / "photos", tmp_path / "r.csv"
    folder.mkdir()
    images = digits_split()[1][0]
    for i in range(24):
        Image.fromarray(images[i]).save(folder / f"{i:03}.png")
    before = digests(folder)
    line = ["classify", str(folder), *LINE, "--out", str(out),
            "--sort-into", str(tmp_path / "sorted"), "--batch-size", "2"]  # fmt: skip
    command = [sys.executable, "-m", "diffzero", *line]

    def lines():
        return len(out.read_text().splitlines()) if out.exists() else 0

    for how, at in ((signal.SIGINT, 5), (signal.SIGKILL, 12)):
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, preexec_fn=heard) as process:
            until = time.monotonic() + 120
            while lines() < at and process.poll() is None and time.monotonic() < until:
                time.sleep(0.01)
            process.send_signal(how)
        assert process.returncode in (130, -9) and at <= lines() < 25
    assert run(monkeypatch, *line) == 0
    assert "going on with the others" in capsys.readouterr().err
    rows = rows_of(out)
    assert sorted(r["path"] for r in rows) == sorted(str(p) for p in folder.iterdir())
    assert digests(folder) == before
    found = [p for p in (tmp_path / "sorted").rglob("*") if p.is_file()]
    assert sorted(p.name for p in found if not p.name.startswith(".")) == sorted(before)


def test_copies_links_and_moves(tmp_path, photos_folder):
    files = sorted(photos_folder.iterdir())
    before = digests(photos_folder)
    for how in ("copy", "link"):
        sorter = Sorter(tmp_path / how, how, ["cat"], [str(photos_folder)])
        places = [sorter(f, "cat") for f in files]
        assert [sorter(f, "cat") for f in files] == places  # again: they are there
        assert [p.is_symlink() for p in places] == [how == "link"] * len(files)
        assert digests(tmp_path / how / "cat") == before == digests(photos_folder)
    sorter = Sorter(tmp_path / "move", "move", ["cat"], [])
    assert [sorter(f, "cat").name for f in files] == [f.name for f in files]
    assert digests(tmp_path / "move" / "cat") == before and not list(photos_folder.iterdir())


def test_nothing_is_overwritten(tmp_path, photos_folder):
    target = tmp_path / "s" / "cat"
    target.mkdir(parents=True)
    (target / "0.png").write_text("mine")
    (target / "0-2.png").symlink_to("nowhere")
    for how in ("copy", "link", "move"):
        place = Sorter(tmp_path / "s", how, ["cat"], [])(photos_folder / "0.png", "cat")
        assert place.name in ("0-3.png", "0-4.png", "0-5.png")
        assert (target / "0.png").read_text() == "mine" and (target / "0-2.png").is_symlink()


def test_folders_of_words_stay_where_they_belong():
    labels = ["../up", "a/b", "A/B", "..", " ", "nul:", "x" * 300, "Größe"]
    names = folder_names(labels)
    assert len({n.casefold() for n in names.values()}) == len(labels)
    assert all(re.fullmatch(r"[^/\\:]+", n) and n.strip(".") for n in names.values())
    assert names["Größe"] == "Größe" and max(map(len, names.values())) <= 82


def test_a_folder_of_its_own_photos_is_refused(tmp_path, photos_folder):
    with pytest.raises(InputError, match="lies inside .* and its photos would be classified"):
        Sorter(photos_folder / "sorted", "copy", ["cat"], [str(photos_folder)])
    with pytest.raises(InputError, match="--sort-how takes copy, link, move; got 'burn'"):
        Sorter(tmp_path, "burn", ["cat"], [])


def test_the_contact_sheet_shows_the_doubtful_first(monkeypatch, capsys, tmp_path, photos_folder):
    (photos_folder / "3.png").write_text("not an image")
    (photos_folder / "<b>&.png").write_bytes((photos_folder / "0.png").read_bytes())
    page = tmp_path / "contact.html"
    assert run(monkeypatch, "classify", photos_folder, *LINE, "--html", page,
               "--out", tmp_path / "r.jsonl", "--top-k", 2) == 2  # fmt: skip
    text = page.read_text()
    shown = re.findall(r'<div class="name" title="[^"]*">([^<]*)</div>', text)
    rows = {Path(r["path"]).name: r for r in rows_of(tmp_path / "r.jsonl") if "error" not in r}
    margins = {n: np.diff(sorted(r["scores"].values())[-2:])[0] for n, r in rows.items()}
    assert [n.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") for n in shown] == (
        sorted(margins, key=margins.__getitem__)
    )
    assert "<b>&.png" not in text and text.count('src="data:image/') == len(rows) == 6
    assert "not an image" in text and "http" not in re.sub('data:[^"]*', "", text)
    assert all(len(r["scores"]) == 2 for r in rows.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "r.xlsx"], "--out takes a file ending in .csv, .parquet, .jsonl; got r.xlsx"),
        (["--out", "none/r.csv"], "the folder none does not exist. Create it first."),
        (["--html", "r.txt"], "--html takes a file such as contact.html; got r.txt"),
        (["--sort-into", "s", "--sort-how", "burn"], "--sort-how takes copy, link, move"),
        (["--multi", "--sort-into", "s", "--sort-how", "move"], "--multi may name several"),
        (["--none", "--method", "noise-denoise"], "--none and --multi compare errors"),
        (["--none", "--shortlist", "tiny-clip:2"], "Leave out --method and --shortlist"),
        (["--none", "--model", "tiny-clip"], "--none and --multi compare errors"),
    ],
)
def test_wishes_that_cannot_be(monkeypatch, capsys, tmp_path, photos_folder, arguments, message):
    monkeypatch.chdir(tmp_path)
    line = [] if "noise-denoise" in arguments or "tiny-clip" in arguments else LINE[2:]
    assert run(monkeypatch, "classify", photos_folder, *LINE[:2], *line, *arguments) == 2
    out, err = capsys.readouterr()
    assert message in err and out == ""
    assert not (tmp_path / "s").exists() and not (tmp_path / "r.csv").exists()


def test_answers_as_they_are_wished():
    known = record("a", "cat", 0.9, ratio=0.2, ratios={"cat": 0.2, "other": 0.3},
                   present=["cat", "other"])  # fmt: skip
    assert "present" not in Wish().of(known) and Wish(none=True).of(known)["label"] == "cat"
    several = Wish(multi=True).of(known)
    assert several["labels"] == ["other", "cat"] and text_of(several) == "a:  other   cat"
    unknown = known | {"present": []}
    assert Wish().of(unknown)["label"] == "cat"
    for wish in (Wish(none=True), Wish(multi=True)):
        answer = wish.of(unknown)
        assert answer["label"] == NONE and text_of(answer, 1) == (
            "a:  none of these   (nearest: cat 90.0 %)"
        )
    assert list(Wish(top=1).of(known)["ratios"]) == ["cat"]


def test_the_words_of_both_packages_are_one():
    from diffzero.methods import open_set

    assert open_set.NONE == NONE


@pytest.mark.parametrize("template", [None, ["a {}", "the {}"]])
def test_an_open_set_scores_as_the_elbo_does(sd, photos, template):
    from diffzero.methods.open_set import OpenSet

    names = ["cat", "dog", "fox"]
    plain = dz.ELBO(sd, draws=4, template=template)
    opened = OpenSet.of(plain, threshold=0.0).fit(names)
    scores = opened.scores(photos[:3])
    assert np.allclose(scores.logits, plain.fit(names).scores(photos[:3]).logits, rtol=1e-5)
    each = 4 * (1 if template is None else 2) * 3 + 4
    assert (scores.evals == each).all() and opened.count_evals(3) == each
    single = opened.scores(photos[:3], candidates=[names, names[:2], names[::-1]])
    assert np.allclose(single.details["ratio"][0], scores.details["ratio"][0], rtol=1e-5)
    assert np.allclose(single.details["ratio"][2][::-1], scores.details["ratio"][2], rtol=1e-5)
    assert opened.settings() == plain.settings()
    best = scores.logits.argmax(1)
    assert (opened.none(scores) == ~opened.present(scores)[range(3), best]).all()
    assert opened.set_params(threshold=-9.0).present(scores).all()
    assert opened.set_params(threshold=9.0).none(scores).all()


def test_a_model_without_the_empty_prompt_says_so(monkeypatch, capsys, photos_folder):
    assert run(monkeypatch, "classify", photos_folder, "--labels", "0,1", "--none",
               "--model", "cifar10-ddpm") == 2  # fmt: skip
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["photos.txt", "/proc/nowhere"])
def test_photos_are_not_sorted_into_what_is_no_folder(monkeypatch, capsys, photos_folder, place):
    (photos_folder.parent / "photos.txt").write_text("")
    line = ["classify", photos_folder / "0.png", *LINE]
    assert run(monkeypatch, *line, "--sort-into", photos_folder.parent / place) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "is a file. Give a folder" in said or "no folder can be made there" in said


def test_a_photo_that_lies_in_its_folder_stays(tmp_path, photos_folder):
    for how in ("copy", "link", "move"):
        place = tmp_path / how / "cat"
        place.mkdir(parents=True)
        photo = place / "a.png"
        photo.write_bytes((photos_folder / "0.png").read_bytes())
        assert Sorter(tmp_path / how, how, ["cat"], [str(place)])(photo, "cat") == photo
        assert list(place.iterdir()) == [photo] and photo.stat().st_size


@pytest.mark.parametrize("how", ["copy", "move"])
@pytest.mark.parametrize("fails", ["copy", "second copy", "flush"])
def test_a_full_disk_takes_no_photo(tmp_path, photos_folder, monkeypatch, how, fails):
    """The photo was moved into a file of no bytes, and the command ended well."""
    full = OSError(28, "No space left on device")

    def copied(*_):
        raise full

    if fails == "copy":
        monkeypatch.setattr("shutil.copy2", copied)
    else:  # the copy fits, and its second one, where there are no hard links, does not
        monkeypatch.setattr("os.link", copied)
    if fails == "second copy":
        monkeypatch.setattr("shutil.copyfileobj", copied)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    if fails == "flush":  # what stands in the buffer when the file is closed
        real = shutil.copyfileobj

        def late(whole, copy):
            real(whole, copy)
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, limit[1]))

        monkeypatch.setattr("shutil.copyfileobj", late)
    before = digests(photos_folder)
    sorter = Sorter(tmp_path / "sorted", how, ["cat"], [])
    try:
        with pytest.raises(OSError, match="No space left|File too large"):
            sorter(photos_folder / "0.png", "cat")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert digests(photos_folder) == before and not list((tmp_path / "sorted" / "cat").iterdir())


def test_without_hard_links_nothing_is_overwritten(tmp_path, photos_folder, monkeypatch):
    monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(OSError(1, "no links")))
    place = tmp_path / "s" / "cat"
    place.mkdir(parents=True)
    (place / "0.png").write_text("mine")
    target = Sorter(tmp_path / "s", "move", ["cat"], [])(photos_folder / "0.png", "cat")
    assert target.name == "0-2.png" and Image.open(target).size == (8, 8)
    assert (place / "0.png").read_text() == "mine" and not (photos_folder / "0.png").exists()


def test_names_with_other_ends_of_lines_go_on(tmp_path):
    out = tmp_path / "r.csv"
    names = ["a\x85.jpg", "b\u2028.jpg", "c\n.jpg", "d\x0b.jpg", "e.jpg"]
    results = Results(out, "one", 2)
    for name in names:
        results.add(record(name))
    results.close()
    again = Results(out, "one", 2)
    assert again.done == set(names)
    again.close()


def test_names_that_are_no_text(tmp_path, monkeypatch, capsys):
    """A broken photo ended the command, and a good one an evaluation, as a bug."""
    folder = tmp_path / "set" / "bag"
    folder.mkdir(parents=True)
    good, bad = (str(folder).encode() + name for name in (b"/caf\xe9.png", b"/not\xe9.png"))
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(folder / "z.png")
    for name, content in ((good, (folder / "z.png").read_bytes()), (bad, b"no image")):
        with open(name, "wb") as file:  # noqa: PTH123
            file.write(content)
    model = ["--model", "tiny-clip"]
    words = ["--labels", "bag,sneaker"]
    for out in ("r.csv", "r.jsonl", "r.parquet"):
        line = ["classify", folder, *words, *model, "--out", tmp_path / out]
        assert run(monkeypatch, *line, "--html", tmp_path / "r.html") == 2
        rows = rows_of(tmp_path / out)
        assert len(rows) == 3 and sum(bool(r.get("error")) for r in rows) == 1
        assert "caf\\udce9.png" in "".join(r["path"] for r in rows)
    (tmp_path / "set" / "sneaker").mkdir()
    Image.fromarray(np.full((32, 32, 3), 9, np.uint8)).save(tmp_path / "set/sneaker/a.png")
    out = tmp_path / "run"
    assert run(monkeypatch, "evaluate", "--data", tmp_path / "set", *model, "--out", out) == 2
    ids = [json.loads(line)["id"] for line in (out / "records.jsonl").read_text().splitlines()]
    assert sorted(ids) == ["bag/caf\\udce9.png", "bag/not\\udce9.png", "bag/z.png",
                           "sneaker/a.png"]  # fmt: skip
    assert json.loads((out / "summary.json").read_text())["images"] == 3
    capsys.readouterr()
    assert run(monkeypatch, "report", out, "--out", tmp_path / "page.html") == 0


def test_a_table_prints_its_cells_as_they_are(capsys):
    from diffzero.app.console import print_table

    print_table(["word [b]", "photos"], [("cat [/b]", "3"), (":smile: [red]", "4")])
    out = capsys.readouterr().out
    assert "cat [/b]" in out and ":smile: [red]" in out and "word [b]" in out


def test_nan_of_the_empty_prompt_is_no_answer(sd, photos):
    """Of every photo it was said that it shows none of the words."""
    from diffzero.methods.open_set import OpenSet

    opened = OpenSet(sd, draws=2).fit(["cat", "dog"])
    for row in (-1, 0):  # the empty prompt, and a class whose NaN the mean passed over
        table = opened._table.tensors["text"]
        before = table[row].clone()
        table[row] = float("nan")
        with pytest.raises(InputError, match="NaN or infinity"):
            opened.scores(photos[:1])
        table[row] = before
    assert np.isfinite(opened.scores(photos[:1]).logits).all()


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_results_that_others_have_saved_go_on(tmp_path, kind):
    """Spreadsheets and pandas add columns, empty lines, a byte order mark, and fractions."""
    import pandas

    out = tmp_path / f"r.{kind}"
    first = Results(out, "run", 1)
    name = "a.png" if kind == "csv" else "a\r.png"  # which pandas writes without quotes
    first.add(record(name))
    first.add({"path": "b.png", "error": "unreadable"})
    first.close()
    if kind == "jsonl":
        out.write_bytes(b"\xef\xbb\xbf" + out.read_bytes() + b"\n")
    else:
        read = pandas.read_csv if kind == "csv" else pandas.read_parquet
        table = read(out)
        table["note"] = ["mine", "too"]
        if kind == "csv":
            table.to_csv(out, index=False, encoding="utf-8-sig")
            out.write_bytes(out.read_bytes() + b"\n")
        else:
            table.to_parquet(out)
    second = Results(out, "run", 1)
    assert second.done == {name}
    second.add(record("c.png"))
    second.close()
    rows = rows_of(out)
    assert [r["path"] for r in rows] == [name, "c.png"]
    assert [int(r["evals"]) for r in rows] == [2, 2]
    if kind != "jsonl":
        assert [r["note"] or None for r in rows] == ["mine", None]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_row_cut_off_within_a_letter_is_done_again(tmp_path, kind):
    out = tmp_path / f"r.{kind}"
    first = Results(out, "run", 1)
    for name in ("a\r.png", "caf\u00e9.png"):
        first.add(record(name))
    first.close()
    raw = out.read_bytes()
    cut = raw.rfind("\u00e9".encode()) + 1 if kind == "csv" else raw.rfind(b"caf") + 2
    out.write_bytes(raw[:cut])
    second = Results(out, "run", 1)
    assert second.done == {"a\r.png"}
    second.close()
    (tmp_path / "foreign.jsonl").write_text("some text without an end of line")
    with pytest.raises(InputError, match="no file of results"):
        Results(tmp_path / "foreign.jsonl", "run", 1)
    assert (tmp_path / "foreign.jsonl").read_text().startswith("some text")


def test_columns_of_any_kind_stay(tmp_path):
    import pandas

    for kind in ("parquet", "csv"):
        out = tmp_path / f"r.{kind}"
        first = Results(out, "run", 1)
        first.add(record("a.png"))
        first.close()
        table = pandas.read_parquet(out) if kind == "parquet" else pandas.read_csv(out)
        table["when"], table["p_truth"] = pandas.Timestamp("2026-01-02"), "yes"
        table["scores"] = "mine"
        if kind == "parquet":
            table.to_parquet(out)
        else:
            table.to_csv(out, index=False)
            out.write_bytes(out.read_bytes().rstrip(b"\n"))  # as some editors save it
        second = Results(out, "run", 1)
        assert second.done == {"a.png"}
        second.close()
        (row,) = rows_of(out)
        assert str(row["when"]).startswith("2026-01-02") and row["p_truth"] == "yes"
    (tmp_path / "r.jsonl").write_text("{my notes")
    with pytest.raises(InputError, match="no file of results"):
        Results(tmp_path / "r.jsonl", "run", 1)
