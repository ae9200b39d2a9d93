"""Data sets, class names, and corruptions."""

import io
import os
import re
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

import diffzero as dz
from diffzero.data import (
    ClassSet,
    Dataset,
    Example,
    class_set,
    decode,
    from_table,
    known_sets,
    load,
    match_names,
    open_data,
    set_of_hub,
)
from diffzero.evaluate.corrupt import NAMES, Corruption, enlarge
from diffzero.prompts import check_labels, check_templates

COUNTS = {
    "cifar10": 10, "cifar100": 100, "fashion-mnist": 10, "mnist": 10, "stl10": 10, "food101": 101,
    "oxford-flowers102": 102, "fgvc-aircraft": 100, "caltech101": 101, "imagenet-1k": 1000,
    "objectnet": 313, "linnaeus5": 5, "flowers10": 10, "wild-animals": 6, "oxford-pets": 37,
    "flowers12": 12,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_class_sets_are_whole_and_usable(name):
    found = class_set(name)
    assert len(found.classes) == COUNTS[name] and found.title and found.order
    check_labels(found.classes)
    assert check_templates(found.templates, "a {}") == found.templates
    assert set(found.aliases) <= set(found.classes)
    # Every class finds itself, by its own name and by every other spelling.
    spellings = {s: c for c, other in found.aliases.items() for s in other}
    names = [*found.classes, *spellings]
    matched = match_names(names, found, False, name)
    assert [matched[n] for n in names] == [*found.classes, *spellings.values()]


def test_all_class_sets_are_tested():
    assert set(COUNTS) == set(known_sets())
    assert set_of_hub("uoft-cs/cifar10").name == "cifar10" and set_of_hub("x/y") is None


def test_known_places_in_the_order():
    assert class_set("cifar10").classes[3] == "cat"
    assert class_set("cifar100").classes[99] == "worm"
    assert class_set("imagenet-1k").classes[0] == "tench"
    assert class_set("imagenet-1k").classes[999] == "toilet tissue"
    assert class_set("imagenet-1k").aliases["tench"][0] == "n01440764"
    assert class_set("oxford-flowers102").classes[0] == "pink primrose"
    assert class_set("fgvc-aircraft").classes[-1] == "Yak-42"


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion-mnist", "flowers12"])
def test_orders_are_those_of_the_data(name):
    folder = Path(os.environ.get("DIFFZERO_DATA", "nowhere")) / name
    if not folder.is_dir():
        pytest.skip(f"needs {name} Parquet files; DIFFZERO_DATA names their folder")
    found = open_data(str(folder))
    matched = match_names(found.classes, class_set(name), False, name)
    assert list(matched.values()) == class_set(name).classes


def made(n=40, classes=("cat", "dog")):
    examples = [Example(str(i), classes[i % len(classes)], i) for i in range(n)]
    pixels = np.zeros((9, 9, 3), np.uint8)
    return Dataset("made", "made", "", list(classes), examples, lambda i: pixels)


def test_smaller_parts_lie_in_larger_ones():
    chosen = {n: {e.id for e in made().choose(n, None, 0).examples} for n in (5, 10, 20)}
    assert chosen[5] < chosen[10] < chosen[20]
    assert chosen[10] != {e.id for e in made().choose(10, None, 1).examples}
    even = made().choose(None, 3, 0).examples
    assert sorted(e.label for e in even) == ["cat"] * 3 + ["dog"] * 3
    places = [int(e.id) for e in even]
    assert places == sorted(places)


def test_names_by_spelling_by_order_or_not_at_all():
    cifar = class_set("cifar10")
    assert match_names(["plane", "car"], cifar, False, "x") == {
        "plane": "airplane", "car": "automobile",
    }  # fmt: skip
    by_order = match_names([str(i) for i in range(10)], cifar, True, "x")
    assert by_order["3"] == "cat"
    with pytest.raises(dz.InputError, match="none of its classes"):
        match_names(["sofa", "table"], cifar, False, "x")
    renamed = made(4, ("plane", "sofa")).rename(cifar)
    assert renamed.examples[0].label == "airplane"
    assert "'sofa' is not among the 10 class names" in renamed.examples[1].problem


def chosen(*names, **aliases):
    return ClassSet("x", "x", "x", list(names), [], aliases=aliases)


@pytest.mark.parametrize(
    ("declared", "names"),
    [
        (["cat", "dog", "fox"], ["dog", "cat", "red fox"]),
        (["cat", "dog", "fox"], ["wolf", "cat", "dog"]),
        (["Cat", "dog_", "x", "y"], ["a", "b", "cat", "d"]),
    ],
)
def test_spelling_that_contradicts_the_order_is_refused(declared, names):
    with pytest.raises(dz.InputError, match="neither spelling nor order tells which is which"):
        match_names(declared, chosen(*names), True, "x")


def test_spelling_counts_before_the_order_and_may_agree_with_it():
    turned = match_names(["cat", "dog"], chosen("dog", "cat"), True, "x")
    assert turned == {"cat": "cat", "dog": "dog"}
    partly = match_names(["cat", "hound"], chosen("cat", "dog"), True, "x")
    assert partly == {"cat": "cat", "hound": "dog"}


@pytest.mark.parametrize(
    "declared", [["0", "1", "2"], ["1", "2", "3"], ["00", "01", "02"], ["2", "0", "1"]]
)
def test_numbers_without_a_gap_are_places(declared):
    found = match_names(declared, chosen("cat", "dog", "fox"), False, "x")
    assert [found[n] for n in sorted(declared)] == ["cat", "dog", "fox"]
    ten = [str(i) for i in range(10)]
    assert match_names(sorted(ten, reverse=True), class_set("cifar10"), False, "x")["3"] == "cat"


@pytest.mark.parametrize(
    "declared", [["0", "1", "3"], ["5", "6", "7"], ["0", "1"], ["0", "1", "01"], ["1", "2", "4"]]
)
def test_numbers_that_do_not_say_which_name_is_which(declared):
    with pytest.raises(dz.InputError, match="classes are numbers .*from 0 to 2 or from 1 to 3"):
        match_names(declared, chosen("cat", "dog", "fox"), False, "x")


@pytest.mark.parametrize(
    ("declared", "names"),
    [
        (["C", "C++"], ["C++", "C"]),
        (["\U0001f431", "\U0001f436"], ["\U0001f436", "\U0001f431"]),
        (["का", "कि"], ["कि", "का"]),
        (["cafe\u0301", "tea"], ["tea", "caf\u00e9"]),
    ],
)
def test_names_that_differ_in_signs_alone_are_kept_apart(declared, names):
    found = match_names(declared, chosen(*names), False, "x")
    assert [found[d] for d in declared] == names[::-1]


def test_a_spelling_of_two_names_finds_none():
    found = match_names(["c", "tea"], chosen("C++", "C#", "tea"), False, "x")
    assert found == {"c": None, "tea": "tea"}


def test_training_matches_words_by_spelling_and_refuses_strange_ones(tmp_path):
    for name in ("bag", "boot"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "1.png")
    loaded = load(f"fashion-mnist={tmp_path}", 8)
    assert [loaded.classes[i] for i in loaded.labels] == ["bag", "ankle boot"]
    (tmp_path / "boot").rename(tmp_path / "zebra")
    with pytest.raises(dz.InputError, match="'zebra' is none of the classes of fashion-mnist"):
        load(f"fashion-mnist={tmp_path}", 8)


def test_nothing_but_the_command_line_imports_the_recipes():
    root = Path(dz.__file__).parent
    found = set()
    for path in root.rglob("*.py"):
        package = path.relative_to(root).parts[0]
        if re.search(r"^\s*(from|import) [\w.]*\btrain\b", path.read_text(), re.M):
            found.add(package)
    assert found <= {"cli.py", "app", "train"}


def test_hub_tables_are_read_without_a_network():
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), 7, np.uint8)).save(file, "png")
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=["red_fox", "dog"])}
    )
    table = datasets.Dataset.from_dict(
        {"img": [{"bytes": file.getvalue(), "path": None}] * 3, "label": [0, 1, None]},
        features=features,
    )
    found = from_table("someone/foxes", "test", table)
    assert found.classes == ["red fox", "dog"]
    assert [e.label for e in found.examples] == ["red fox", "dog", None]
    assert "has no label" in found.examples[2].problem
    assert (decode(found.read(found.examples[0]), "x") == 7).all()


def test_a_hub_id_without_a_network(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(dz.InputError, match="neither a local file or folder nor a data set"):
        open_data("nobody/nothing-at-all")


def test_images_without_a_class_folder_are_problems(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "1.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "stray.png")
    found = open_data(str(tmp_path))
    assert [e.id for e in found.examples] == ["cat/1.png", "dog/1.png", "stray.png"]
    with pytest.raises(dz.InputError, match="lies in no class folder"):
        found.read(found.examples[2])
    with pytest.raises(dz.InputError, match="has 1 class, and there is nothing"):
        (tmp_path / "dog" / "1.png").unlink()
        (tmp_path / "dog").rmdir()
        open_data(str(tmp_path))


def test_parquet_that_is_none(tmp_path):
    (tmp_path / "x.parquet").write_text("no")
    with pytest.raises(dz.InputError, match="not readable as Parquet"):
        open_data(str(tmp_path / "x.parquet"))
    (tmp_path / "x.csv").write_text("picture,kind\n1.png,cat\n")
    with pytest.raises(dz.InputError, match="needs a column image or img; has picture, kind"):
        open_data(str(tmp_path / "x.csv"))


try:
    import imagecorruptions

    MISSING = ""
except ImportError as error:  # also where a system library of OpenCV is missing
    imagecorruptions, MISSING = None, str(error)

corruptions = pytest.mark.skipif(bool(MISSING), reason=f"no imagecorruptions: {MISSING}")


@corruptions
@pytest.mark.parametrize("name", NAMES)
def test_corruptions_repeat_and_leave_the_generator_alone(name):
    y, x = np.mgrid[:40, :48]
    image = np.stack([x * 5, y * 6, (x + y) * 2], 2).astype(np.uint8)
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    one, two = (Corruption(name, 3)(image) for _ in range(2))
    assert (np.random.get_state()[1] == before).all()
    assert one.dtype == np.uint8 and one.shape == image.shape
    assert (one == two).all() and (one != image).any()
    difference = [np.abs(Corruption(name, s)(image).astype(float) - image).mean() for s in (1, 5)]
    assert difference[1] > difference[0] or name in ("snow", "elastic_transform", "zoom_blur")


@corruptions
def test_random_corruptions_follow_the_seed_and_small_images_are_enlarged():
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert enlarge(image).shape == (32, 32, 3)
    assert enlarge(np.zeros((8, 16, 3), np.uint8)).shape == (32, 64, 3)
    noisy = [Corruption("gaussian_noise", 2, seed)(image) for seed in (0, 1)]
    assert noisy[0].shape == (32, 32, 3) and (noisy[0] != noisy[1]).any()


@corruptions
def test_the_package_has_the_same_fifteen():
    assert list(NAMES) == imagecorruptions.get_corruption_names("common")
    assert len(NAMES) == 15 and all(re.fullmatch(r"[a-z_]+", n) for n in NAMES)


def test_a_part_is_chosen_by_a_seed_of_any_sign():
    digits = open_data("digits")
    parts = [[e.id for e in digits.choose(5, None, seed).examples] for seed in (-1, 2**64 - 1, 1)]
    assert parts[0] == parts[1] != parts[2]
