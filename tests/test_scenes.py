import io
import json
import re
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

import diffzero as dz
from diffzero import data
from diffzero.app import cli
from diffzero.data import all_captions
from diffzero.data.scene_files import ask, read, write
from diffzero.data.scenes import (
    COLOURS,
    HELD_OUT,
    KINDS,
    NUMBERS,
    SHAPES,
    TASKS,
    Scene,
    Thing,
    example,
    pairs,
    render,
)
from diffzero.train.captions import Captions
from diffzero.train.tokenizer import build

# -- reading captions and pictures anew, with nothing of the code that made them ---------------

THING = re.compile(
    rf"(?:(large|small) )?(?:({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})e?s?\b"
    rf"|({'|'.join(SHAPES)})e?s? that (?:is|are) ({'|'.join(COLOURS)}))"
)


def things_in(text):
    """(size or "", colour, shape) of each thing a text names, in order."""
    return [(s, c or c2, h or h2) for s, c, h, h2, c2 in THING.findall(text)]


def statement(text):
    """What a text says: (things, relation, dot, number)."""
    relation = next((r for r in ("left of", "right of", "above", "below") if r in text), "")
    dot = (
        {"with": True, "without": False}.get(m[1])
        if (m := re.search(r"(with\w*) a dot", text))
        else None
    )
    number = next((i + 1 for i, w in enumerate(NUMBERS) if re.search(rf"\b{w}\b", text)), None)
    return things_in(text), relation.removesuffix(" of"), dot, number


def true_of(text, scene):
    """Whether a text is true of a scene's description."""
    named, relation, dot, number = statement(text)
    own = [(t.size, t.colour, t.shape) for t in scene.things]
    found = [
        [i for i, (s, c, h) in enumerate(own) if (c, h) == n[1:] and n[0] in ("", s)]
        for n in named
    ]
    if not named or not all(found):
        return False
    if dot is not None and any(t.dot != dot for t in scene.things):
        return False
    if number is not None and number != len(scene.things):
        return False
    if relation:
        first, second = (scene.things[f[0]] for f in found)
        dx, dy = second.x - first.x, second.y - first.y
        seen = (
            ("left" if dx > 0 else "right")
            if abs(dx) > abs(dy)
            else ("above" if dy > 0 else "below")
        )
        return relation == seen
    return len({tuple(f) for f in found}) == len(named)


def masks(image):
    """For each colour that an image shows, where it does `[size, size]`."""
    pixels = image.astype(float)
    far = np.stack([np.linalg.norm(pixels - np.array(c), axis=-1) for c in COLOURS.values()])
    strong = pixels.max(-1) - pixels.min(-1) > 60
    nearest = far.argmin(0)
    found = {c: (nearest == i) & (far.min(0) < 60) & strong for i, c in enumerate(COLOURS)}
    return {c: m for c, m in found.items() if m.sum() >= 8}


def centre(mask):
    ys, xs = np.nonzero(mask)
    return xs.mean(), ys.mean()


SCENES = [(s, example(s, i)) for s in ("train", "validation") for i in range(400)]


def test_descriptions_are_deterministic_and_longer_sets_begin_with_shorter(tmp_path):
    for split, row in (("train", 3), ("validation", 8)):
        assert example(split, row, 1) == example(split, row, 1)
        assert example(split, row, 1) != example(split, row, 2)
    assert example("train", 3) != example("validation", 3)
    import pyarrow.parquet as pq

    short = pq.read_table(write(tmp_path / "a", "train", 30, 16))
    again = pq.read_table(write(tmp_path / "b", "train", 50, 16))
    assert short.equals(again.slice(0, 30))
    other = pq.read_table(write(tmp_path / "c", "train", 30, 16, seed=1))
    assert not short.column("image").equals(other.column("image"))


def test_combinations_are_held_out_but_their_colours_and_shapes_are_not():
    assert len(KINDS) == 24 and len(HELD_OUT) == 6
    assert {c for c, _ in HELD_OUT} == set(COLOURS)
    assert Counter(s for _, s in HELD_OUT).keys() == set(SHAPES)
    shown, named = Counter(), Counter()
    for row in range(2000):
        made = example("train", row)
        assert not made.held_out
        shown.update({(t.colour, t.shape) for t in made.scene.things})
        for text in (*made.captions, *made.candidates):
            named.update(n[1:] for n in things_in(text))
    assert set(shown) == set(named) == set(KINDS) - HELD_OUT


def test_validation_says_which_images_show_a_held_out_combination():
    seen = Counter()
    for row in range(600):
        made = example("validation", row)
        kinds = {(t.colour, t.shape) for t in made.scene.things}
        assert made.held_out == bool(kinds & HELD_OUT)
        seen[made.scene.task, made.held_out] += 1
        named = {n[1:] for text in made.candidates for n in things_in(text)}
        assert made.held_out == bool(named & HELD_OUT)
    assert set(seen.values()) == {60} and len(seen) == 2 * len(TASKS)
    for one, two in pairs(True) + pairs(False):
        assert one[0] != two[0] and one[1] != two[1]


def test_no_training_picture_shows_a_held_out_combination():
    """Found in the pixels: the colour's mask against the held-out shape and the allowed ones."""
    checked = 0
    for row in range(0, 1000, 5):  # single things
        made = example("train", row)
        thing = made.scene.things[0]
        if thing.size != "large":
            continue
        (colour, mask), *others = masks(render(made.scene, 64)).items()
        assert not others
        assert (colour, shape_of(mask)) not in HELD_OUT
        checked += 1
    assert checked > 60


def shape_of(mask):
    """The shape of one large thing, from its area, its corners and its balance."""
    mask = ndimage.binary_fill_holes(mask)
    ys, xs = np.nonzero(mask)
    box = mask[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    fill = box.mean()
    top, bottom = box[: len(box) // 3].mean(), box[-(len(box) // 3) :].mean()
    if bottom > 1.6 * top:
        return "triangle"
    if fill < 0.65:
        return "cross"
    # A turned square is taken for what it is by its moment: 1/6 of its area, a disc's is 1/2 pi.
    yy, xx = np.nonzero(box)
    spread = ((yy - yy.mean()) ** 2 + (xx - xx.mean()) ** 2).mean() / len(yy)
    return "square" if spread > 0.163 else "circle"


def test_shapes_can_be_told_from_pixels():
    wrong = 0
    for row in range(0, 1200, 5):
        for split in ("train", "validation"):
            thing = (made := example(split, row)).scene.things[0]
            if thing.size == "large":
                wrong += (
                    shape_of(next(iter(masks(render(made.scene, 64)).values()))) != thing.shape
                )
    assert wrong == 0


def test_captions_and_the_label_are_true_of_the_description_and_the_rest_false():
    for _, made in SCENES:
        for text in (*made.captions, made.caption):
            assert true_of(text, made.scene), (text, made.scene)
        truths = [true_of(text, made.scene) for text in made.candidates]
        assert truths.count(True) == 1 and truths.index(True) == made.label, made
        assert len(set(made.candidates)) == len(made.candidates)
        assert made.caption in made.captions and len(set(made.captions)) >= 4


def test_captions_are_true_of_the_pixels():
    """Colours present, things counted, places compared, dots seen, in 800 rendered images."""
    for _, made in SCENES:
        image = render(made.scene, 48)
        found = masks(image)
        truth = made.candidates[made.label]
        for text in (*made.captions, truth):
            named, relation, dot, number = statement(text)
            assert {c for _, c, _ in named} == set(found), text
            if relation:
                (x1, y1), (x2, y2) = (centre(found[c]) for _, c, _ in named)
                gap = {"left": x2 - x1, "right": x1 - x2, "above": y2 - y1, "below": y1 - y2}
                assert gap[relation] > 48 * 0.3, text
                assert gap[relation] > 2 * abs(
                    gap["above" if relation in ("left", "right") else "left"]
                )
            if number is not None:
                mask = ndimage.binary_fill_holes(found[named[0][1]])
                assert ndimage.label(mask, np.ones((3, 3)))[1] == number, text
            if dot is not None:
                assert dot == (image.min(-1) > 230).any(), text
            for size, colour, _ in named:
                if size and len(named) == 1:
                    area = ndimage.binary_fill_holes(found[colour]).mean()
                    assert (area > 0.115) == (size == "large"), text


def test_bindings_put_the_colour_on_the_named_shape():
    """The two masks of a pair, each against the four shapes drawn where it is."""
    for split in ("train", "validation"):
        for row in range(1, 400, 5):
            made = example(split, row)
            found = masks(render(made.scene, 64))
            for _, colour, shape in things_in(made.candidates[made.label]):
                thing = next(t for t in made.scene.things if t.colour == colour)
                overlap = {}
                for other in SHAPES:
                    drawn = {**vars(thing), "shape": other}
                    alone = Scene("object", (Thing(**drawn),), "", made.scene.ground)
                    mask = masks(render(alone, 64))[colour]
                    overlap[other] = (mask & found[colour]).sum() / (mask | found[colour]).sum()
                assert max(overlap, key=overlap.get) == shape


@pytest.mark.parametrize("split", ["train", "validation"])
def test_labels_and_outcomes_are_balanced(split):
    places, outcomes = Counter(), Counter()
    made = [example(split, row) for row in range(5 * 144)]
    for one in made:
        task, n = one.scene.task, len(one.candidates)
        places[task, one.held_out, n, one.label] += 1
        truth = statement(one.candidates[one.label])
        if task != "object":
            outcomes[
                task, one.held_out, truth[1:] if task != "binding" else one.scene.relation
            ] += 1
    for (task, held_out, n, _), count in places.items():
        assert count == 144 // (2 if split == "validation" else 1) // n, (task, held_out)
    assert {n for t, h, n, _ in places if t == "object"} <= {18, 24}
    for task in ("relation", "attribute", "count"):
        counts = [c for (t, _, _), c in outcomes.items() if t == task]
        assert len(set(counts)) == 1 and len(counts) == TASKS[task].choices * (
            1 + (split != "train")
        )


def test_pictures_are_anti_aliased_and_too_small_ones_refused():
    grey = (50, 50)
    thing = Thing("red", "circle", "large", False, 0.5, 0.5, 0.3, 0.0, (215, 45, 45))
    image = render(Scene("object", (thing,), "", grey), 32)
    assert image.shape == (32, 32, 3) and image.dtype == np.uint8
    red = (image[..., 0] - 50.0) / (215 - 50)
    assert red.sum() == pytest.approx(np.pi * (0.3 * 32) ** 2, rel=0.02)  # edges hold their share
    assert ((red > 0.1) & (red < 0.9)).sum() > 20
    with pytest.raises(dz.InputError, match="at least 16 pixels"):
        render(Scene("object", (thing,), "", grey), 8)
    with pytest.raises(dz.InputError, match="split must be one of train, validation; got 'test'"):
        example("test", 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """As the command writes it."""
    out = tmp_path_factory.mktemp("scenes")
    patch = pytest.MonkeyPatch()
    arguments = ["--out", out, "--train", 60, "--validation", 40, "--size", 32, "--seed", 0]
    patch.setattr(sys, "argv", ["diffzero", "scenes", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    patch.undo()
    assert not stopped.value.code
    return out


def test_parquet_is_read_by_datasets_and_comes_back_whole(folder, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path))
    assert {k: len(v) for k, v in loaded.items()} == {"train": 60, "validation": 40}
    assert isinstance(loaded["train"].features["image"], datasets.Image)
    for split in ("train", "validation"):
        for i, row in enumerate(loaded[split]):
            made = example(split, i)
            assert np.array_equal(np.asarray(row["image"]), render(made.scene, 32))
            assert tuple(row["candidates"]) == made.candidates
            assert tuple(row["captions"]) == made.captions and row["caption"] == made.caption
            assert (row["label"], row["held_out"]) == (made.label, made.held_out)
            assert row["task"] == made.scene.task
            read = json.loads(row["scene"])
            assert [t["colour"] for t in read["things"]] == [t.colour for t in made.scene.things]
    loaded["train"].to_parquet(str(tmp_path / "again" / "train.parquet"))
    again = datasets.load_dataset(str(tmp_path / "again"), cache_dir=str(tmp_path))["train"]
    assert again["candidates"][:] == loaded["train"]["candidates"][:]


def test_recipes_read_whole_captions_and_fill_no_template(folder, tokenizer):
    """A caption drawn for an image is one of its own, whatever set stands before it."""
    digits = data.load("digits=digits", 32)
    scenes = data.load(f"scenes={folder}", 32)
    assert scenes.images.shape == (60, 32, 32, 3) and scenes.labels.tolist() == list(range(60))
    assert scenes.captions() == [list(example("train", i).captions) for i in range(60)]
    assert "a photo of a digit one" in digits.captions()[1]
    captions = Captions([digits, scenes], tokenizer)
    classes = torch.arange(60) + int(captions.first_class[1])
    rows = captions.draw(classes, torch.Generator().manual_seed(0))
    texts = {t for s in (digits, scenes) for g in (*s.captions(), *s.contrasts) for t in g}
    assert len(captions.ids) == len(texts | {""})
    for i, row in enumerate(rows.tolist()):
        own = tokenizer(list(example("train", i).captions), padding="max_length", truncation=True)
        assert captions.ids[row].tolist() in own.input_ids
    assert captions.ids[captions.empty].tolist() == tokenizer("", padding="max_length").input_ids


def test_contrasts_are_the_images_own_and_digits_have_none(folder, tmp_path):
    digits = data.load("digits=digits", 32)
    scenes = data.load(f"scenes={folder}", 32)
    tokenizer = build(all_captions([digits, scenes]), tmp_path, 32)
    captions = Captions([digits, scenes], tokenizer)
    classes = torch.arange(60) + int(captions.first_class[1])
    assert (captions.sides[:10] == 0).all() and (captions.sides[classes] > 1).all()
    drawn = set()
    for seed in range(8):
        right, wrong = captions.contrast(classes, torch.Generator().manual_seed(seed))
        for i, (one, other) in enumerate(zip(right.tolist(), wrong.tolist(), strict=True)):
            made = example("train", i)
            texts = list(made.candidates)
            own = [tokenizer(text, padding="max_length").input_ids for text in texts]
            assert captions.ids[one].tolist() == own[made.label]
            place = own.index(captions.ids[other].tolist())
            assert place != made.label
            drawn.add((i, place))
    assert len(drawn) > 150  # not always the same false one
    likest = [c[:2] for c in scenes.contrasts if len(c) == 18]
    assert likest and all(
        sum(a != b for a, b in zip(one.split(), other.split(), strict=True)) == 1
        for one, other in likest
    )
    swapped = [c[:2] for c in scenes.contrasts if " and " in c[0]]
    assert swapped and all(sorted(a.split()) == sorted(b.split()) for a, b in swapped)


def test_chosen_tasks_are_taken_in_turn(tmp_path):
    made = [example("train", i, 1, ("relation", "binding")) for i in range(20)]
    assert [m.scene.task for m in made] == ["relation", "binding"] * 10
    relations = Counter(m.scene.relation for m in made[::2][:8])
    assert set(relations.values()) == {2}  # outcomes stay balanced
    assert example("train", 7, 1, tuple(TASKS)) == example("train", 7, 1)
    with pytest.raises(dz.InputError, match="tasks must be among object, .*got colour"):
        example("train", 0, 0, ("colour",))
    with pytest.raises(dz.InputError, match="got none"):
        write(tmp_path, "train", 1, 32, tasks=())


def test_questions_made_on_the_spot_are_those_of_the_file(folder):
    for one, other in zip(ask(3, 32), read(folder, limit=3), strict=True):
        assert (one.name, one.candidates) == (other.name, other.candidates)
        assert np.array_equal(one.images, other.images)
        assert np.array_equal(one.labels, other.labels)


def test_questions_are_read_back_by_task(folder, tmp_path):
    parts = read(folder)
    assert [(p.task, p.held_out) for p in parts] == [(t, h) for t in TASKS for h in (False, True)]
    assert [p.name for p in parts][:2] == ["object, seen", "object, held out"]
    rows = [i for i in range(40) if example("validation", i).held_out and i % 5 == 1]
    binding = next(p for p in parts if p.name == "binding, held out")
    assert len(binding.images) == len(rows) == 4
    for image, texts, label, i in zip(
        binding.images, binding.candidates, binding.labels, rows, strict=True
    ):
        made = example("validation", i)
        assert np.array_equal(image, render(made.scene, 32))
        assert (tuple(texts), label) == (made.candidates, made.label)
    assert [len(p.labels) for p in read(folder, limit=2)] == [2] * 10
    assert [p.held_out for p in read(folder, "train")] == [False] * 5
    with pytest.raises(dz.InputError, match="make them with diffzero scenes"):
        read(tmp_path)


def test_evaluate_refuses_places_for_classes(folder):
    from diffzero.data import open_data

    with pytest.raises(dz.InputError, match="every image has its own candidates"):
        open_data(str(folder))
    assert open_data(str(folder), label_column="task").classes == sorted(TASKS)


def test_images_are_png(folder):
    import pyarrow.parquet as pq

    row = pq.read_table(folder / "train-00000-of-00001.parquet").slice(0, 1).to_pylist()[0]
    assert Image.open(io.BytesIO(row["image"]["bytes"])).format == "PNG"


def test_an_empty_part_is_refused(tmp_path):
    with pytest.raises(dz.InputError, match="train needs at least one row; got 0"):
        write(tmp_path, "train", 0, 32)
    assert not list(tmp_path.iterdir())
