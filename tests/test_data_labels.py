"""Label and image cells of tables: what fits no class costs its own row, never the run."""

import contextlib
import decimal
import io
import json

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import diffzero as dz
from diffzero.data import class_of, from_table, load, open_data
from test_cli import run

NAMES = ["cat", "dog", "red fox"]


def png(value=9):
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (value, value, value)).save(file, "PNG")
    return file.getvalue()


def write(path, labels, names=None, images=None):
    """A Parquet file as `datasets` writes it, with or without declared classes."""
    images = [png(i) for i in range(len(labels))] if images is None else images
    table = pa.table({"image": images, "label": labels})
    if names is not None:
        features = {"label": {"names": names, "_type": "ClassLabel"}}
        schema = {"huggingface": json.dumps({"info": {"features": features}})}
        table = table.replace_schema_metadata(schema)
    pq.write_table(table, path, row_group_size=2)
    return str(path)


def labels_of(source, **options):
    return [e.label for e in open_data(source, **options).examples]


@pytest.mark.parametrize(
    ("cell", "name"),
    [
        (0, "cat"), (2, "red fox"), (0.0, "cat"), (1.0, "dog"), (np.float32(2), "red fox"),
        (np.int8(1), "dog"), (decimal.Decimal(1), "dog"), ("dog", "dog"), (" dog ", "dog"),
        ("red_fox", "red fox"), ("Red Fox", "red fox"), (b"cat", "cat"), ("2", "red fox"),
        ("2.0", "red fox"),
        (memoryview(b"dog"), "dog"), (True, "dog"),
    ],
)  # fmt: skip
def test_a_cell_that_means_a_class(cell, name):
    assert class_of(cell, NAMES) == name


@pytest.mark.parametrize(
    "cell", [None, float("nan"), np.float64("nan"), "", "  ", "nan", decimal.Decimal("NaN"), b""]
)
def test_a_cell_without_a_label(cell):
    assert class_of(cell, NAMES) is None and class_of(cell) is None


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (3, "label 3 is not among the 3 classes"),
        (-1, "label -1 is not among"),
        (10**30, "not among"),
        (1.5, "1.5 is no whole number"),
        (float("inf"), "inf is no whole number"),
        ("wolf", "'wolf' is not among"),
        ("7", "'7' is not among"),
        ("9" * 5000, "not among"),
        (b"\xff\xfe\x00", "3 bytes that are no UTF-8 text"),
        (object(), "of type object"),
        (2 + 1j, "of type complex"),
        (np.datetime64("2024-01-01"), "of type date"),
    ],
)
def test_a_cell_that_means_no_class(cell, said):
    with pytest.raises(dz.InputError, match=said):
        class_of(cell, NAMES)


@pytest.mark.parametrize(
    ("cells", "classes"),
    [
        ([3, 10, 2], ["2", "3", "10"]),
        ([3.0, None, 10.0], ["3", "10"]),
        (["b", None, "a"], ["a", "b"]),
        ([b"b", b"a", b"b"], ["a", "b"]),
        (["10", "9", "9"], ["10", "9"]),
        ([True, False, True], ["False", "True"]),
        (["caf\u00e9", "cafe\u0301", "tea"], ["caf\u00e9", "tea"]),
    ],
)
def test_classes_that_nothing_declares(tmp_path, cells, classes):
    assert open_data(write(tmp_path / "x.parquet", cells)).classes == classes


@pytest.mark.parametrize(
    ("cells", "labels", "problems"),
    [
        (pa.array([0.0, None, 2.0]), ["cat", None, "red fox"], {1: "has no label"}),
        (pa.array([0.0, 0.5, 1.0]), ["cat", None, "dog"], {1: "0.5 is no whole number"}),
        (pa.array([0, 7, -1, 1]), ["cat", None, None, "dog"], {1: "label 7", 2: "label -1"}),
        (["cat", "wolf", "dog"], ["cat", None, "dog"], {1: "'wolf' is not among"}),
        ([b"cat", b"\xff", b"dog"], ["cat", None, "dog"], {1: "1 bytes that are no"}),
        (pa.array(["cat", "dog"]).dictionary_encode(), ["cat", "dog"], {}),
        (pa.array([None, 1, 0], pa.int8()), [None, "dog", "cat"], {0: "has no label"}),
    ],
)
def test_a_bad_label_is_a_bad_row(tmp_path, cells, labels, problems):
    found = open_data(write(tmp_path / "x.parquet", cells, NAMES)).examples
    assert [e.label for e in found] == labels
    assert [i for i, e in enumerate(found) if e.problem] == sorted(problems)
    for place, said in problems.items():
        assert said in found[place].problem and found[place].problem.startswith(found[place].id)


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ([0, -1, 1], "label is -1, and a negative number"),
        (["cat", "x" * 2000, "dog"], "is no word"),
        (["cat", "a\0b", "dog"], "is no word"),
        (["cat", "N/A", "dog"], "has no label"),
        (["cat", "\u200b", "dog"], "has no label"),
    ],
)
def test_a_bad_label_is_a_bad_row_where_nothing_is_declared(tmp_path, cells, said):
    found = open_data(write(tmp_path / "x.parquet", cells))
    assert found.classes == [str(cells[0]), str(cells[2])]
    assert [said in (e.problem or "") for e in found.examples] == [False, True, False]


def test_a_declared_class_may_be_called_as_missing_ones_are(tmp_path):
    assert class_of("NA", ["NA", "EU"]) == "NA" and class_of("NA") is None


@pytest.mark.parametrize(
    "cells", [["a|b", "b", "c"], ["a;b", "b;c", "d"], ["a | b", "c", "a|b|c"]]
)
def test_several_labels_joined_in_a_cell_are_refused(tmp_path, cells):
    with pytest.raises(dz.InputError, match="several labels in a row"):
        open_data(write(tmp_path / "x.parquet", cells))
    assert open_data(write(tmp_path / "y.parquet", ["a;b", "c|d"])).classes == ["a;b", "c|d"]


@pytest.mark.parametrize(
    "cells",
    [
        [[0], [1], [0, 2]],
        [["cat"], ["dog"], []],
        pa.array([[1, 0], [0, 1]], pa.list_(pa.int8(), 2)),
        [{"a": 1}, {"a": 2}],
        ["['cat', 'dog']", "['cat']", "[]"],
        ["cat", "(0, 1)", "dog"],
    ],
)
@pytest.mark.parametrize("names", [None, NAMES])
def test_several_labels_in_a_row_are_refused(tmp_path, cells, names):
    with pytest.raises(dz.InputError, match="several labels in a row.*--label-column"):
        open_data(write(tmp_path / "x.parquet", cells, names))


def test_several_labels_in_a_table_of_the_hub_are_refused():
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.Sequence(datasets.ClassLabel(names=NAMES))}
    )
    rows = {"image": [{"bytes": png(), "path": None}] * 2, "label": [[0], [1, 2]]}
    table = datasets.Dataset.from_dict(rows, features=features)
    with pytest.raises(dz.InputError, match="several labels in a row"):
        from_table("x/y", "test", table)


def test_words_that_only_look_like_lists_are_labels(tmp_path):
    cells = ["[other]", "(left)", "[other]"]
    assert open_data(write(tmp_path / "x.parquet", cells)).classes == ["(left)", "[other]"]


@pytest.mark.parametrize("metadata", [b"{", b"[1]", b'{"info": 3}', b'{"info": {"features": 3}}'])
def test_a_damaged_schema_is_named(tmp_path, metadata):
    table = pa.table({"image": [png()] * 2, "label": [0, 1]})
    pq.write_table(
        table.replace_schema_metadata({"huggingface": metadata}), tmp_path / "x.parquet"
    )
    with pytest.raises(dz.InputError, match="description of its columns .* is damaged"):
        open_data(str(tmp_path / "x.parquet"))


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (pa.array([[1, 2, 3], [4], []]), "holds a list, neither"),
        (pa.array([1, 2, 3]), "holds int 1, neither"),
        (pa.array([0.5, 1.5, 2.5]), "holds float 0.5, neither"),
        (pa.array([True, False, True]), "holds bool True"),
        (pa.array(["a\0.png", "b\0", "\0"]), "holds a NUL character"),
        (pa.array(["", " ", None]), "is missing|neither"),
        (pa.array([b"", b"x", b"GIF89a"]), ""),
        (pa.array(["no.png", "/no/such.png", "."]), "cannot be read"),
        (pa.array(["https://x.org/a.png"] * 3), "URLs are not fetched"),
        (pa.array([{"other": 1}] * 3), "is missing"),
        (pa.array([{"bytes": None, "path": None}] * 3), "is missing"),
        (pa.array([{"bytes": [1, 2], "path": "a"}] * 3), "holds a list"),
        (pa.array(["a" * 5000] * 3), "cannot be read"),
    ],
)
def test_an_image_cell_that_is_none(tmp_path, images, said):
    from diffzero.data import decode

    found = open_data(write(tmp_path / "x.parquet", [0, 1, 2], NAMES, images))
    for place, example in enumerate(found.examples):
        with pytest.raises(dz.InputError, match=said if place == 0 else "") as raised:
            decode(found.read(example), example.id)
        assert str(raised.value).startswith(f"x.parquet#{place}")


@pytest.mark.parametrize("kind", ["list", "number", "nul"])
def test_a_run_goes_on_past_bad_cells_and_resumes(monkeypatch, capsys, tmp_path, kind):
    """Bad rows of CSV and Parquet become records; the same command then has nothing to do."""
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "b.png").write_bytes(png(200))
    if kind == "list":  # every row, labels bad as well
        source = write(tmp_path / "x.parquet", [0.0, None, 1.5], NAMES, pa.array([[1], [2], [3]]))
        errors = 3
    elif kind == "number":
        images = pa.array([{"bytes": png(), "path": None}, None, {"bytes": None, "path": "b.png"}])
        source = write(tmp_path / "x.parquet", pa.array(["cat", "dog", "wolf"]), NAMES, images)
        errors = 2
    else:
        (tmp_path / "x.csv").write_text("image,label\na.png,cat\nb\0.png,dog\nb.png,dog\n,cat\n")
        source, errors = str(tmp_path / "x.csv"), 2
    for _ in range(2):
        assert run(monkeypatch, "evaluate", "--data", source, "--model", "tiny-clip",
                   "--out", tmp_path / "out") == 2  # fmt: skip
    lines = (tmp_path / "out" / "records.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == len({r["id"] for r in rows})
    assert sum("error" in r for r in rows) == errors
    assert "bug in diffzero" not in capsys.readouterr().err


def test_training_leaves_unusable_rows_out_and_says_so(tmp_path):
    write(tmp_path / "train.parquet", pa.array([0.0, None, 2.0]), NAMES)
    with pytest.warns(UserWarning, match="1 of 3 images are left out.*has no label"):
        loaded = load(str(tmp_path), 8)
    assert loaded.labels.tolist() == [0, 2] and loaded.classes == NAMES


def test_a_damaged_column_is_named(tmp_path):
    path = tmp_path / "x.parquet"
    raw = write(path, [0, 1, 2], NAMES) and path.read_bytes()
    place = raw.rindex(b"PNG", 0, len(raw) // 2)
    path.write_bytes(raw[: place + 60] + bytes(60) + raw[place + 120 :])
    try:
        found = open_data(str(path))
    except dz.InputError as error:
        assert str(error).startswith(str(path))
    else:
        for example in found.examples:
            with contextlib.suppress(dz.InputError):
                found.read(example)


def test_numbers_without_names_are_places_for_training(tmp_path):
    write(tmp_path / "train.parquet", [0, 3, 3])
    loaded = load(f"x={tmp_path}", 8)
    assert loaded.classes == ["0", "1", "2", "3"] and loaded.labels.tolist() == [3, 0, 3]
    named = load(f"fashion-mnist={tmp_path}", 8)
    assert named.classes[3] == "dress" and named.labels.tolist() == [3, 0, 3]
