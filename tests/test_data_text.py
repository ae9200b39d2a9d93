"""Text files and lists of words: read right, or one sentence that says what was seen."""

import json
import os
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

import diffzero as dz
from diffzero.data import (
    open_data,
    read_lines,
    read_names,
    read_templates,
    read_words,
    split_labels,
)
from diffzero.data.csv_files import open_csv
from test_cli import run

WORDS = ["sneaker", "café crème", "ankle boot"]
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("cat,dog", ["cat", "dog"]),
        (" cat , dog ", ["cat", "dog"]),
        ('"red, round apple",banana', ["red, round apple", "banana"]),
        ('a, "b; c" , d', ["a", "b; c", "d"]),
        ('"she said ""no""", "x"', ['she said "no"', "x"]),
        ("'red, round', cat", ["red, round", "cat"]),
        ("\u201cred, round\u201d, cat", ["red, round", "cat"]),
        ("cat's eye, dog's nose", ["cat's eye", "dog's nose"]),
        ("'tis, that", ["'tis", "that"]),
        ('12" record, 7" single', ['12" record', '7" single']),
        ("猫，犬，狐", ["猫", "犬", "狐"]),
        ("猫、犬", ["猫", "犬"]),
        ("cat，dog, fox", ["cat", "dog", "fox"]),
        ("قط، كلب", ["قط", "كلب"]),
        ("cat;dog; fox", ["cat", "dog", "fox"]),
        ("cat；dog", ["cat", "dog"]),
        ("cat\tdog", ["cat", "dog"]),
        ("cat\ndog\n", ["cat", "dog"]),
        ("cat|dog", ["cat", "dog"]),
        ("cat", ["cat"]),
        ("", [""]),
        ("cat,,dog", ["cat", "", "dog"]),
        ("cat,dog,", ["cat", "dog", ""]),
        ("\ufeffcat,dog", ["cat", "dog"]),
        ("cafe\u0301,dog", ["caf\u00e9", "dog"]),
        ('""', [""]),
        ("\u2018red, round\u2019, cat", ["red, round", "cat"]),
        ("\u200bcat\u200b, dog\u200f", ["cat", "dog"]),
        ("cat,\u200b", ["cat", ""]),
        ('["cat", "red, round"]', ["cat", "red, round"]),
        ("['cat', 'dog']", ["cat", "dog"]),
    ],
)
def test_labels_of_a_command_line(text, labels):
    assert split_labels(text) == labels


@pytest.mark.parametrize("text", ['"red, round apple', 'cat, "dog', '"a" b, c'])
def test_a_quote_that_is_not_closed(text):
    with pytest.raises(dz.InputError, match="A quote is opened and not closed"):
        split_labels(text)


@pytest.mark.parametrize("text", ["cat,dog;fox", "cat,\tdog,a;b", "cat，dog；fox"])
def test_two_kinds_of_separators(text):
    with pytest.raises(dz.InputError, match="commas and by semicolons or tabs"):
        split_labels(text)


@pytest.mark.parametrize("text", ["[cat, dog]", "[1, 2]", "['cat', ['dog']]", "[" * 3000 + "]"])
def test_brackets_around_something_else(text):
    with pytest.raises(dz.InputError, match="stand in brackets and are no list of quoted words"):
        split_labels(text)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_every_way_to_save_words(tmp_path, encoding, ending):
    path = tmp_path / "words.txt"
    path.write_bytes(ending.join([*WORDS, ""]).encode(encoding))
    assert read_words(path) == WORDS and read_names(str(path)).classes == WORDS
    path.write_bytes(f"a photo of a {{}}{ending}{{}}{ending}".encode(encoding))
    assert read_templates([str(path)], "x") == ["a photo of a {}", "{}"]


def test_a_mark_of_big_endian_and_decomposed_letters(tmp_path):
    path = tmp_path / "words.txt"
    path.write_bytes(b"\xfe\xff" + "cat\nfox".encode("utf-16-be"))
    assert read_words(path) == ["cat", "fox"]
    path.write_text(unicodedata.normalize("NFD", "café\nthé"), encoding="utf-8")
    assert read_words(path) == ["café", "thé"]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
def test_other_encodings_are_named_with_the_line(tmp_path, encoding):
    path = tmp_path / "words.txt"
    path.write_bytes("\n".join(WORDS).encode(encoding))
    said = r"not UTF-8 \(byte 0xe9 in line 2\).*Latin-1.*'café crème'.*save the file as UTF-8"
    for read in (read_words, read_lines, lambda p: read_names(str(p))):
        with pytest.raises(dz.InputError, match=said):
            read(path)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"PK\x03\x04rest", "an Excel file"),
        (b"\x89PNG\r\n", "a PNG image"),
        (b"%PDF-1.4", "a PDF"),
        (b"\xff\xfea", "damaged UTF-16"),
        (b"cat\0dog\nfox", r"control character U\+0000"),
        (b"cat\x07", r"control character U\+0007"),
        (b"PAR1\x15\x04", "a Parquet file"),
        (b"\xef\xbb\xbf <!DOCTYPE html><p>404", "a web page"),
        (b"{\\rtf1\\ansi cat\\par dog}", "a rich-text document"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS"),
        (b"\n \n", "holds no words"),
        (b'{"0": "cat", "1": "dog"}', "JSON, and no list of words"),
        (b"[1, 2]", "JSON, and no list of words"),
        (b'"cat\nkitten"\ndog', r"opened and not closed in '\"cat' \(line 1\)"),
        (b"# animals\ncat\ndog", r"'# animals' \(line 1\) is a comment"),
        (b"names:\n  0: cat\n  1: dog", r"'names:' \(line 1\) is a heading"),
        (b"classes = ['cat', 'dog'] + more", "is part of a program"),
        (b"sizes = [\n 1,\n 2,\n]", "JSON, and no list of words"),
        (b"cat|1\ndog|2", "looks like several values, '|'"),
    ],
)
def test_what_is_no_text(tmp_path, raw, said):
    (tmp_path / "words.txt").write_bytes(raw)
    with pytest.raises(dz.InputError, match=said):
        read_words(tmp_path / "words.txt")


def test_a_pipe_that_nobody_fills_is_not_waited_for_and_one_of_the_shell_is_read(tmp_path):
    os.mkfifo(tmp_path / "words.txt")
    for path in (tmp_path / "words.txt", Path("/dev/zero")):
        for read in (read_words, lambda p: read_names(str(p))):
            with pytest.raises(dz.InputError, match="a pipe, socket or device"):
                read(path)
    out, into = os.pipe()
    os.write(into, b"cat\ndog\n")
    os.close(into)
    assert read_words(Path(f"/dev/fd/{out}")) == ["cat", "dog"]
    os.close(out)


def test_a_file_that_never_ends_is_not_read_whole(tmp_path):
    with (tmp_path / "words.txt").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(dz.InputError, match="more than 64 MiB"):
        read_words(tmp_path / "words.txt")


def test_what_is_not_there(tmp_path):
    for read in (read_names, lambda name: read_templates([name], "{}")):
        for name in ("x" * 300, "a\0b"):
            with pytest.raises(dz.InputError, match="neither a readable file") as caught:
                read(name)
            assert len(str(caught.value)) < 500
    for path in (tmp_path / "no.txt", tmp_path):
        with pytest.raises(dz.InputError, match="cannot be read"):
            read_words(path)
        with pytest.raises(dz.InputError, match="neither a readable file of class names"):
            read_names(str(path))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cat,dog,fox\n", ["cat", "dog", "fox"]),
        ("cat;dog;fox", ["cat", "dog", "fox"]),
        ("猫，犬", ["猫", "犬"]),
        ('"red, round apple",pear', ["red, round apple", "pear"]),
        ("label\ncat\ndog\n", ["cat", "dog"]),
        ("Class_Name\ncat\ndog\n", ["cat", "dog"]),
        ("cat;\ndog;\n", ["cat", "dog"]),
        ("cat,\r\ndog,\r\n", ["cat", "dog"]),
        (
            "tench, Tinca tinca\ngoldfish, Carassius\n",
            ["tench, Tinca tinca", "goldfish, Carassius"],
        ),
        ('"a,b"\ncat\n', ["a,b", "cat"]),
        ("1,000 steps\n10,000 steps\n", ["1,000 steps", "10,000 steps"]),
        ("class\ndog\n", ["class", "dog"]),  # two words are too few to have a header
        ("\n\n  cat  \n\ndog", ["cat", "dog"]),
        ("- cat\n- dog", ["cat", "dog"]),
        ("1. cat\n2. dog", ["cat", "dog"]),
        ("0: cat\n1: dog", ["cat", "dog"]),
        ("1 dog\n2 dogs", ["1 dog", "2 dogs"]),  # how many, not which place
        ("2. Liga\n3. Liga", ["2. Liga", "3. Liga"]),
        ("'cat'\n\u201cdog\u201d\n12\"", ["cat", "dog", '12"']),
        ("cat|dog", ["cat", "dog"]),
        ("sep=,\ncat,\ndog,", ["cat", "dog"]),
        ("cat\ndog\n\x1a", ["cat", "dog"]),
        ("\u200bcat\n\u200fdog", ["cat", "dog"]),
        ('[\n "cat",\n "dog, wet"\n]', ["cat", "dog, wet"]),
    ],
)
def test_words_one_a_line_or_all_on_one(tmp_path, text, words):
    (tmp_path / "words.txt").write_text(text, encoding="utf-8", newline="")
    assert read_words(tmp_path / "words.txt") == words


@pytest.mark.parametrize(
    "text",
    ["id,label\n0,cat\n1,dog\n", "0;cat\n1;dog\n", "0\tcat\n1\tdog", "cat,dog\nfox,wolf\n",
     "猫，犬\n狐，狼\n", "0, cat\n1, dog\n", "cat, 0\ndog, 1\n"],
)  # fmt: skip
def test_a_table_instead_of_words(tmp_path, text):
    (tmp_path / "words.txt").write_text(text, encoding="utf-8")
    with pytest.raises(dz.InputError, match="looks like several values"):
        read_words(tmp_path / "words.txt")


def test_the_command_line_reads_both(monkeypatch, capsys, tmp_path):
    Image.new("RGB", (32, 32), (200, 30, 30)).save(tmp_path / "a.png")
    (tmp_path / "words.txt").write_text("\ufeffsneaker\nbag\n", encoding="utf-8")
    for given in (["--labels-file", tmp_path / "words.txt"], ["--labels", '"sneaker"，bag']):
        assert run(monkeypatch, "classify", tmp_path / "a.png", "--model", "tiny-clip", "--json",
                   *given) == 0  # fmt: skip
        assert list(json.loads(capsys.readouterr().out)["scores"]) == ["sneaker", "bag"]


# -- CSV ---------------------------------------------------------------------------------------


def pictures(folder):
    for name in ("a", "b", "c, d"):
        Image.new("RGB", (8, 8), (len(name), 0, 0)).save(folder / f"{name}.png")


ROWS = [("image", "label"), ("a.png", "cat"), ("b.png", "dog")]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("separator", [",", ";", "\t", "，", "；", "|"])
def test_every_way_to_save_a_csv(tmp_path, encoding, separator):
    pictures(tmp_path)
    text = "\r\n".join(separator.join(row) for row in ROWS)
    (tmp_path / "x.csv").write_bytes(text.encode(encoding))
    found = open_data(str(tmp_path / "x.csv"))
    assert found.classes == ["cat", "dog"] and [e.id for e in found.examples] == ["a.png", "b.png"]
    assert all(found.read(e) for e in found.examples)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ('image,label\n"c, d.png","red, round"\na.png,"x ""y"""\n', ["red, round", 'x "y"']),
        ("sep=;\nimage;label\na.png;cat, big\nb.png;dog\n", ["cat, big", "dog"]),
        ("Image , Label\na.png, cat\nb.png,dog\n", ["cat", "dog"]),
        ("id;filename;class;note\n1;a.png;cat;x,y\n2;b.png;dog;\n", ["cat", "dog"]),
        ("image,label\n\na.png,cat\n\nb.png,dog\n\n", ["cat", "dog"]),
        ('image,label\na.png,0.0\nb.png,1.0\n"c, d.png",10.0\n', ["0", "1", "10"]),
        ("image,label\na.png,0.5\nb.png,v1.0\n", ["0.5", "v1.0"]),
        ("image,label\na.png,007\nb.png,08\n", ["007", "08"]),
        (
            'image,label\na.png,cafe\u0301\nb.png,caf\u00e9\n"c, d.png",tea\n',
            ["café", "café", "tea"],
        ),
    ],
)
def test_cells_of_a_csv(tmp_path, text, labels):
    pictures(tmp_path)
    (tmp_path / "x.csv").write_text(text, encoding="utf-8", newline="")
    found = open_data(str(tmp_path / "x.csv"))
    assert [e.label for e in found.examples] == labels
    assert all(found.read(e) for e in found.examples)


def test_a_row_with_too_many_or_too_few_cells(tmp_path):
    pictures(tmp_path)
    text = "image,label\na.png,cat, big\nb.png\nb.png,dog\na.png,cat,\n"
    (tmp_path / "x.csv").write_text(text)
    found = open_data(str(tmp_path / "x.csv")).examples
    assert "3 cells for 2 columns" in found[0].problem and "has no label" in found[1].problem
    assert [e.problem for e in found[2:]] == [None, None]


@pytest.mark.parametrize(
    ("rows", "problems"),
    [
        ("a.png,0.5\nb.png,1.0\na.png,0.5\nb.png,1\n", {0: "0.5 is no whole number", 2: "0.5"}),
        ("a.png,-1\nb.png,1\nc.png,0\n", {0: "a negative number is no class"}),
        ("a.png,None\nb.png,1\nc.png,0\n", {0: "has no label"}),
        ("a.png,NA\nb.png,cat\nc.png,#N/A\nd.png,dog\n", {0: "has no label", 2: "has no label"}),
        ("a.png,cat\nb.png,dog\na.png,dog\nb.png,dog\n", {0: "(cat, dog)", 2: "(cat, dog)"}),
        ("a.png," + "x" * 200_000 + "\nb.png,dog\na.png,cat\n", {0: "", 2: ""}),
    ],
)
def test_one_bad_cell_of_a_csv_costs_its_row(tmp_path, rows, problems):
    (tmp_path / "x.csv").write_text("image,label\n" + rows + "z.png,9\ny.png,8\n")
    found = open_data(str(tmp_path / "x.csv")).examples
    assert [i for i, e in enumerate(found) if e.problem] == list(problems)
    assert all(said in found[i].problem for i, said in problems.items())


def test_paths_as_windows_writes_them(tmp_path):
    (tmp_path / "more").mkdir()
    pictures(tmp_path / "more")
    (tmp_path / "x.csv").write_text("image,label\nmore\\a.png,cat\n.\\more\\b.png,dog\n")
    found = open_data(str(tmp_path / "x.csv"))
    assert all(found.read(e) for e in found.examples)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "is empty"),
        (b"a.png,cat\nb.png,dog\n", "needs a column image or img; has a.png, cat"),
        ("image,label\na.png,café\n".encode("latin-1"), "not UTF-8 .byte 0xe9 in line 2"),
        (b"image,label\n", "holds no images"),
        (b"PK\x03\x04", "an Excel file"),
        (b'image,label\na.png,"cat\nb.png,dog\n', "cannot be read as CSV .line 3: unexpected end"),
        (b'image,label\na.png,"cat" big\nb.png,dog\n', "cannot be read as CSV .line 2"),
        (b"image,kind\na.png,cat\n", "needs a column label or fine_label; has image, kind"),
        (b"image,label,label\na.png,cat,x\nb.png,dog,y\n", "2 columns are called label"),
        (b"image,label\na.png,\nb.png,cat\n", "1 class, .* left out: a.png: the row has no label"),
    ],
)
def test_a_csv_that_cannot_be_used(tmp_path, raw, said):
    (tmp_path / "x.csv").write_bytes(raw)
    with pytest.raises(dz.InputError, match=said):
        open_data(str(tmp_path / "x.csv"))


def test_one_column_is_not_both(tmp_path):
    (tmp_path / "x.csv").write_text("image,label\na.png,cat\nb.png,dog\n")
    with pytest.raises(dz.InputError, match="cannot hold both images and labels"):
        open_data(str(tmp_path / "x.csv"), None, "image", "image")


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_of_files_are_found_in_either_form(tmp_path, form):
    other = "NFD" if form == "NFC" else "NFC"
    Image.new("RGB", (8, 8)).save(tmp_path / unicodedata.normalize(form, "é.png"))
    pictures(tmp_path)
    name = unicodedata.normalize(other, "é.png")
    (tmp_path / "x.csv").write_text(f"image,label\n{name},cat\na.png,dog\n", encoding="utf-8")
    found = open_data(str(tmp_path / "x.csv"))
    assert all(found.read(e) for e in found.examples)


def test_odd_words_on_the_command_line_are_one_sentence(tmp_path):
    from diffzero.app.build import expand
    from diffzero.app.serve import make_server
    from diffzero.data.scenes import example
    from diffzero.evaluate.store import read_config, write_json

    assert expand(["x" * 5000]) == ["x" * 5000]  # its reading says what is wrong
    with pytest.raises(dz.InputError, match="not a run"):
        read_config(Path("x" * 5000))
    with pytest.raises(dz.InputError, match="seed must be 0 or more"):
        example("train", 0, -1)
    with pytest.raises(dz.InputError, match="it is no address"):
        make_server(["tiny-clip"], None, "\ud800", 0)
    write_json(tmp_path / "a.json", {"name": "\ud800"})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"name": "\ud800"}


def test_spaces_after_separators_do_not_keep_quotes(tmp_path):
    for name in ("a", "b"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    (tmp_path / "t.csv").write_text('image, label\na.png, "cat, big"\nb.png, "dog"\n')
    assert [e.label for e in open_data(str(tmp_path / "t.csv")).examples] == ["cat, big", "dog"]


@pytest.mark.parametrize(
    "text",
    ['[\n  "cat",\n  "big dog",\n]', "classes = [\n  'cat',\n  'big dog',\n]\n",
     "n02121808 cat\nn02084071 big dog\n"],
)  # fmt: skip
def test_lists_of_programs_are_read(tmp_path, text):
    (tmp_path / "words.txt").write_text(text)
    assert read_words(tmp_path / "words.txt") == ["cat", "big dog"]


@pytest.mark.parametrize(
    "text",
    ["'a bad photo of a {}.',\n'a {}, small.',\n", '- a bad photo of a {}.\n- a {}, small.\n',
     "templates = [\n 'a bad photo of a {}.',\n 'a {}, small.',\n]"],
)  # fmt: skip
def test_templates_lose_quotes_and_bullets(tmp_path, text):
    (tmp_path / "t.txt").write_text(text)
    found = read_templates([str(tmp_path / "t.txt")], "{}")
    assert found == ["a bad photo of a {}.", "a {}, small."]


def test_labels_that_count_keep_their_numbers(tmp_path):
    (tmp_path / "words.txt").write_text("1 apple\n2 apples\n3 apples\n")
    assert read_words(tmp_path / "words.txt") == ["1 apple", "2 apples", "3 apples"]


def test_a_column_tells_the_parts_of_a_table(tmp_path):
    rows = ["image,label,split"]
    for i, (label, part) in enumerate(
        [("cat", "train"), ("dog", "train"), ("cat", "test"), ("dog", "test")]
    ):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,{label},{part}")
    path = tmp_path / "t.csv"
    path.write_text("\n".join(rows) + "\n")
    for split, names in ((None, ["2.png", "3.png"]), ("train", ["0.png", "1.png"])):
        assert [e.id for e in open_data(path, split).examples] == names
    with pytest.raises(dz.InputError, match="has no part 'val'; its column split holds train"):
        open_data(path, "val")
    path.write_text("\n".join(row.rpartition(",")[0] for row in rows) + "\n")
    assert len(open_data(path).examples) == 4
    with pytest.raises(dz.InputError, match="one file has no parts unless a column .split.*tells"):
        open_data(path, "test")


@pytest.mark.parametrize(
    ("column", "cells", "split", "kept"),
    [
        ("split", ["train", "train", "test", "", "test"], None, [2, 4]),
        ("set", ["train", "holdout", "test", "test", "train"], None, [2, 3]),
        ("split", ["data/train", "data/test", "data/test", "x", "data/train"], "test", [1, 2]),
        ("split", ["TEST", "Test", "train", "test", "val"], None, [0, 1, 3]),
        ("part", ["a", "b", "c", "d", "e"], None, [0, 1, 2, 3, 4]),
    ],
)
def test_cells_of_parts_as_people_write_them(tmp_path, column, cells, split, kept):
    rows = [f"image,label,{column}"]
    rows += [f"{i}.png,{'cat' if i % 2 else 'dog'},{cell}" for i, cell in enumerate(cells)]
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    found = open_csv(tmp_path / "t.csv", split=split)
    assert [e.id for e in found.examples] == [f"{i}.png" for i in kept]


def test_a_column_of_labels_is_no_column_of_parts(tmp_path):
    (tmp_path / "t.csv").write_text("image,part\na.png,test\nb.png,train\n")
    assert len(open_csv(tmp_path / "t.csv", label="part").examples) == 2


def test_templates_that_are_no_lists_stay(tmp_path):
    (tmp_path / "t.txt").write_text("{}\n")
    assert read_templates([str(tmp_path / "t.txt")], "x {}") == ["{}"]
    (tmp_path / "t.txt").write_text('"a {}" and "b"\n')
    assert read_templates([str(tmp_path / "t.txt")], "x {}") == ['"a {}" and "b"']
