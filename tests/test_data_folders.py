"""Folders: parts are no classes, leftovers are nothing, links are followed."""

import os
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import diffzero as dz
from diffzero.data import load, open_data
from diffzero.data.arrays import dealt
from diffzero.data.parts import kind_of


def picture(path, value=9):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (value, value, value)).save(path)


def tree(root, *parts, classes=("cat", "dog")):
    for part in parts:
        for name in classes:
            picture(root / part / name / "a.png", len(name))
    return str(root)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("train", "train"), ("Train", "train"), ("training_set", "train"), ("trainset", "train"),
        ("TrainImages", "train"), ("01-train", "train"), ("training data", "train"),
        ("Test", "test"), ("testing", "test"), ("test_set", "test"), ("TEST", "test"),
        ("val", "validation"), ("valid", "validation"), ("Validation", "validation"),
        ("val2017", "validation"), ("dev", "validation"), ("evaluation", "eval"),
        ("testbed", None), ("steam train", None), ("set", None), ("images", None), ("7", None),
        ("trainer", None), ("valley", None),
    ],
)  # fmt: skip
def test_names_of_parts(name, kind):
    assert kind_of(name) == kind


@pytest.mark.parametrize(
    ("parts", "used"),
    [
        (("train", "Test"), "Test"), (("training_set", "test_set"), "test_set"),
        (("training", "testing"), "testing"), (("train", "val"), "val"),
        (("train", "validation", "test"), "test"), (("Training", "Validation"), "Validation"),
        (("test", "testing"), "test"), (("TRAIN", "EVAL"), "EVAL"),
        (("seg_train", "seg_test"), "seg_test"), (("birds-train", "birds-val"), "birds-val"),
    ],
)  # fmt: skip
def test_the_part_to_evaluate_is_found_by_kind(tmp_path, parts, used):
    found = open_data(tree(tmp_path / "set", *parts))
    assert (found.split, found.classes) == (used, ["cat", "dog"])
    assert [e.id for e in found.examples] == [f"{used}/cat/a.png", f"{used}/dog/a.png"]


@pytest.mark.parametrize("parts", [("train",), ("training_set",), ("Test", "testing")])
def test_parts_that_leave_a_choice_name_split(tmp_path, parts):
    source = tree(tmp_path / "set", *parts)
    with pytest.raises(dz.InputError, match=f"parts of a data set .*{parts[0]}.*--split"):
        open_data(source)
    assert open_data(source, parts[0]).classes == ["cat", "dog"]


@pytest.mark.parametrize(
    "paths",
    [
        ("cat/train", "cat/test", "dog/train", "dog/test"),
        ("images/train/cat", "images/val/cat", "labels/train/cat"),
        ("wrapped/train/cat", "wrapped/train/dog"),
        ("wrapped/Training/cat", "wrapped/Testing/cat"),
    ],
)
def test_parts_below_are_no_images_of_a_class(tmp_path, paths):
    for path in paths:
        picture(tmp_path / path / "a.png")
    with pytest.raises(dz.InputError, match="is divided into parts .*--split"):
        open_data(str(tmp_path))


def test_words_that_share_a_part_with_no_other_are_classes(tmp_path):
    source = tree(tmp_path / "set", "steam_train/x", "test tube/y")
    assert open_data(source).classes == ["steam train", "test tube"]


@pytest.mark.parametrize(
    ("split", "part"), [("train", "Training"), ("test", "test_set"), ("TEST_SET", "test_set")]
)
def test_split_names_a_part_by_its_kind(tmp_path, split, part):
    assert open_data(tree(tmp_path / "set", "Training", "test_set"), split).split == part


def test_a_part_that_is_not_there(tmp_path):
    source = tree(tmp_path / "set", "train", "test")
    with pytest.raises(dz.InputError, match="no part 'validation'; its parts are test, train"):
        open_data(source, "validation")
    with pytest.raises(dz.InputError, match="not divided into parts"):
        open_data(tree(tmp_path / "flat", "."), "test")


def test_parts_without_class_folders_are_no_classes(tmp_path):
    for part in ("train", "test"):
        picture(tmp_path / part / "a.png")
    with pytest.raises(dz.InputError, match="train are named for parts.*--split"):
        open_data(str(tmp_path))


def test_a_train_may_be_a_class(tmp_path):
    """CIFAR-100 has one."""
    for name in ("bus", "train", "tram"):
        picture(tmp_path / name / "a.png")
    assert open_data(str(tmp_path)).classes == ["bus", "train", "tram"]


@pytest.mark.parametrize("part", ["train", "training_set", "Train"])
def test_training_finds_its_part_and_never_measures_on_it(tmp_path, part):
    source = tree(tmp_path / "set", part)
    assert load(source, 8).classes == ["cat", "dog"]
    with pytest.raises(dz.InputError, match="no part 'validation'"):
        load(source, 8, "validation")


@pytest.mark.parametrize(
    "leftover",
    [
        "__MACOSX/cat/._a.png", "__MACOSX/b.png", ".ipynb_checkpoints/a-checkpoint.png",
        "cat/.ipynb_checkpoints/a-checkpoint.png", "cat/._a.png", "._stray.png", ".hidden/a.png",
        "cat/@eaDir/a.png", "cat/__MACOSX/x/a.png", "$RECYCLE.BIN/a.png",
    ],
)  # fmt: skip
def test_what_systems_leave_behind_is_nothing(tmp_path, leftover):
    source = tree(tmp_path / "set", ".")
    picture(tmp_path / "set" / leftover)
    found = open_data(source)
    assert found.classes == ["cat", "dog"]
    assert [e.id for e in found.examples] == ["cat/a.png", "dog/a.png"]


def test_links_are_followed_once_and_never_up(tmp_path):
    source = tree(tmp_path / "set", ".")
    for name in ("b.png", "deep/c.png"):
        picture(tmp_path / "elsewhere" / name)
    cat = tmp_path / "set" / "cat"
    (cat / "more").symlink_to(tmp_path / "elsewhere")
    (cat / "again").symlink_to(tmp_path / "elsewhere" / "deep")
    (cat / "self").symlink_to(cat)
    (cat / "up").symlink_to(tmp_path / "set")
    (cat / "top").symlink_to(tmp_path)
    (tmp_path / "elsewhere" / "back").symlink_to(cat)
    (cat / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "set" / "fox").symlink_to(tmp_path / "elsewhere")
    found = open_data(source)
    assert found.classes == ["cat", "dog", "fox"]
    own = [e.id for e in found.examples if e.label == "cat"]
    assert "cat/a.png" in own and "cat/more/b.png" in own and not any("dog" in i for i in own)
    assert sorted(Path(i).name for i in own) == ["a.png", "b.png", "c.png"]
    assert "fox/deep/c.png" in [e.id for e in found.examples]
    assert [found.read(e) for e in found.examples]


def test_a_linked_image_that_is_gone_is_a_bad_row(tmp_path):
    source = tree(tmp_path / "set", ".")
    (tmp_path / "set" / "cat" / "b.png").symlink_to(tmp_path / "nowhere.png")
    found = open_data(source)
    gone = next(e for e in found.examples if e.id == "cat/b.png")
    with pytest.raises(dz.InputError, match="cat/b.png: cannot be read \\(No such file"):
        found.read(gone)


def test_a_linked_class_that_is_gone_is_reported(tmp_path):
    source = tree(tmp_path / "set", ".")
    (tmp_path / "set" / "fox").symlink_to(tmp_path / "nowhere")
    found = open_data(source)
    assert [e.problem for e in found.examples if e.problem] == ["fox: a link to nothing."]


def test_folds_are_no_classes(tmp_path):
    source = tree(tmp_path / "set", "fold1", "fold2")
    with pytest.raises(dz.InputError, match="fold1, fold2 differ in their numbers alone"):
        open_data(source)
    assert open_data(source, "fold2").classes == ["cat", "dog"]
    for name in ("class1", "class2"):
        picture(tmp_path / "other" / name / "a.png")
    assert open_data(str(tmp_path / "other")).classes == ["class1", "class2"]


def test_a_part_within_a_folder_of_its_name(tmp_path):
    source = tree(tmp_path / "set", "seg_train/seg_train", "seg_test/seg_test")
    found = open_data(source)
    assert (found.split, found.classes) == ("seg_test", ["cat", "dog"])


def test_a_blank_split_is_no_part(tmp_path):
    for source in (tree(tmp_path / "set", "train", "test"), "digits"):
        with pytest.raises(dz.InputError, match="--split is blank"):
            open_data(source, "")


def test_a_pipe_named_like_an_image_does_not_hang(tmp_path):
    source = tree(tmp_path / "set", ".")
    os.mkfifo(tmp_path / "set" / "cat" / "b.png")
    found = open_data(source)
    with pytest.raises(dz.InputError, match="not a regular file"):
        found.read(next(e for e in found.examples if e.id == "cat/b.png"))


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_class_folders_are_composed(tmp_path, form):
    names = [unicodedata.normalize(form, n) for n in ("pâté", "naïve_art")]
    found = open_data(tree(tmp_path / "set", ".", classes=names))
    assert sorted(found.classes) == ["naïve art", "pâté"]
    assert {e.label for e in found.examples} == set(found.classes)


def test_two_folders_that_read_alike_are_one_class(tmp_path):
    names = ["café", unicodedata.normalize("NFD", "café"), "tea"]
    found = open_data(tree(tmp_path / "set", ".", classes=names))
    assert found.classes == ["café", "tea"] or found.classes == ["tea", "café"]
    assert [e.label for e in found.examples].count("café") == 2


@pytest.mark.parametrize(
    "name", ["x.tsv", "metadata.jsonl", "labels.json", "list.txt", "set.zip", "a.png", "model"]
)
def test_a_file_of_another_kind_says_which_are_read(tmp_path, monkeypatch, name):
    (tmp_path / name).write_text("image\tlabel\na.png\tcat\n")
    monkeypatch.chdir(tmp_path)
    for source in (str(tmp_path / name), name, f"./{name}"):
        with pytest.raises(dz.InputError, match="kind of file is not read.*CSV.*Parquet.*hub"):
            open_data(source)


@pytest.mark.parametrize("name", ["no.tsv", "no/such.jsonl", "x.zip", "./no", "/no/such/folder"])
def test_a_file_that_is_not_there(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(dz.InputError, match="no such file"):
        open_data(name)


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000])
def test_a_source_that_no_path_can_be(name):
    with pytest.raises(dz.InputError, match="no path can be so named"):
        open_data(name)


@pytest.mark.parametrize(
    ("beside", "said"),
    [
        ("metadata.jsonl", "There is metadata.jsonl, which is not read"),
        ("labels.csv", "There is labels.csv: give that file"),
        ("a.png", "in no class folder"),
    ],
)
def test_a_folder_without_classes_says_what_lies_there(tmp_path, beside, said):
    (tmp_path / beside).write_text("")
    with pytest.raises(dz.InputError, match=f"no images found.*{said}"):
        open_data(str(tmp_path))


def test_one_file_has_no_parts(tmp_path):
    (tmp_path / "x.csv").write_text("image,label\na.png,cat\nb.png,dog\n")
    with pytest.raises(dz.InputError, match="one file has no parts.*Leave --split out"):
        open_data(str(tmp_path / "x.csv"), "test")
    with pytest.raises(dz.InputError, match="one file has no parts to train and to measure on"):
        load(str(tmp_path / "x.csv"), 8)


@pytest.mark.parametrize(
    ("files", "split", "used"),
    [
        (("train-0", "Test-0"), None, "Test"), (("training-1", "testing-1"), None, "testing"),
        (("train", "val", "validation"), None, "validation"),
        (("train-0", "test-0"), "train", "train"),
        (("training-00000-of-00001", "valid-00000-of-00001"), None, "valid"),
        (("a", "b"), None, ""),
        (("TRAIN", "TEST"), "test", "test"),
    ],
)  # fmt: skip
def test_parquet_files_of_a_part(tmp_path, files, split, used):
    file = tmp_path / "i.png"
    picture(file)
    for name in files:
        table = pa.table({"image": [file.read_bytes()] * 2, "label": [name, "x"]})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    found = open_data(str(tmp_path), split)
    own = [f for f in files if f.lower().startswith(used.lower())]
    assert found.split == used and set(found.classes) == {*own, "x"}


def test_training_and_evaluation_read_a_folder_alike(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("red_fox", "dog"):
        for i in range(3):
            path = tmp_path / "train" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (9, 7, 3), dtype=np.uint8)).save(path)
    from diffzero.data import decode

    opened, loaded = open_data(str(tmp_path), "train"), load(str(tmp_path), None)
    assert opened.classes == loaded.classes == ["dog", "red fox"]
    labels = np.array([opened.classes.index(e.label) for e in opened.examples])
    order = dealt(labels)  # no class comes last as a whole
    assert labels[order].tolist() == loaded.labels.tolist()
    for example, image in zip([opened.examples[i] for i in order], loaded.images, strict=True):
        assert np.array_equal(decode(opened.read(example), example.id), image)


def labelled_table(path, names, labels):
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=names)}
    )
    rows = {"image": [Image.new("RGB", (8, 8)) for _ in labels], "label": labels}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(path))


def test_shards_name_their_own_labels(tmp_path):
    labelled_table(tmp_path / "test-00000-of-00002.parquet", ["cat", "dog"], [0, 1])
    labelled_table(tmp_path / "test-00001-of-00002.parquet", ["dog", "cat"], [0, 1])
    found = open_data(str(tmp_path))
    assert [e.label for e in found.examples] == ["cat", "dog", "dog", "cat"]
    labelled_table(tmp_path / "test-00001-of-00002.parquet", ["dog", "fox"], [0, 1])
    with pytest.raises(dz.InputError, match="declares other classes"):
        open_data(str(tmp_path))


def test_parquet_parts_do_not_leak_into_each_other(tmp_path):
    for name in ("test", "test_hard", "train"):
        labelled_table(tmp_path / f"{name}.parquet", ["cat", "dog"], [0, 1])
    assert (
        len(open_data(str(tmp_path)).examples)
        == len(open_data(str(tmp_path), "test").examples)
        == 2
    )
    assert open_data(str(tmp_path), "test_hard").examples[0].id.startswith("test_hard.parquet")
    with pytest.raises(dz.InputError, match="no file of split 't'"):
        open_data(str(tmp_path), "t")
    (tmp_path / "test.parquet").unlink()
    (tmp_path / "test_hard.parquet").unlink()
    with pytest.raises(dz.InputError, match="parts to train on .train.. Name the part"):
        open_data(str(tmp_path))


def test_parquet_parts_are_known_by_their_twins(tmp_path):
    for name in ("cifar_test", "cifar_train"):
        labelled_table(tmp_path / f"{name}-00000-of-00001-9a1b.parquet", ["cat", "dog"], [0, 1])
    for split in (None, "test"):
        (first, _) = open_data(str(tmp_path), split).examples
        assert first.id.startswith("cifar_test")


@pytest.mark.parametrize(
    ("names", "split", "expected"),
    [
        (["test2017", "test2018", "train"], "test2017", ["test2017"]),
        (["test-2017-00000-of-00001", "test-2018-00000-of-00001"], "test-2017",
         ["test-2017-00000-of-00001"]),
        (["fold1", "fold2"], "fold1", ["fold1"]),
        (["fold1", "fold2"], None, ["fold1", "fold2"]),
        (["TEST-00000-OF-00002", "TEST-00001-OF-00002"], None,
         ["TEST-00000-OF-00002", "TEST-00001-OF-00002"]),
        (["validation_matched-00000-of-00001", "train-0"], None,
         ["validation_matched-00000-of-00001"]),
        (["validation_matched-00000-of-00001", "train-0"], "validation",
         ["validation_matched-00000-of-00001"]),
        (["train_a", "test_a", "test_b"], None, "test may be test_a, test_b"),
        (["test2017", "test2018"], None, "test may be test2017, test2018"),
    ],
)  # fmt: skip
def test_names_of_parquet_parts(names, split, expected):
    from diffzero.data.parquet import split_files

    files = [Path(f"{name}.parquet") for name in names]
    if isinstance(expected, str):
        with pytest.raises(dz.InputError, match=expected):
            split_files(files, split)
    else:
        assert [f.stem for f in split_files(files, split)[0]] == expected
