"""A compositional set made by code: coloured shapes whose truth can be counted.

A scene holds one thing, two things beside or above each other, or several of a kind, on a grey
ground. Every caption and candidate is made from the scene's description, so that it is known to be
true or false. Five tasks, each with candidates of which exactly one is true:

| task      | candidates                                                    | chance |
|-----------|---------------------------------------------------------------|--------|
| object    | every colour x shape, "a red circle"                          | 1/24   |
| binding   | each of two shapes in each of two colours                     | 1/4    |
| relation  | to the left of, to the right of, above, below                 | 1/4    |
| attribute | with a dot, without a dot                                     | 1/2    |
| count     | one, two, three, four                                         | 1/4    |

Six of the 24 combinations of colour and shape never occur in training, while each of their colours
and shapes does. In the validation part half of each task shows one of them. Training candidates,
and those of validation images that show none, leave them out too (object then has 18), so
that an answer cannot be ruled out for never having been seen. In `binding` this asks for pairs
whose recoloured versions are all seen.

Everything derives from (seed, split, row): a longer set begins with the shorter one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

import numpy as np

from ..errors import InputError

COLOURS = {
    "red": (215, 45, 45),
    "green": (45, 170, 60),
    "blue": (55, 85, 225),
    "yellow": (235, 210, 50),
    "purple": (165, 60, 195),
    "cyan": (60, 205, 215),
}
SHAPES = ("circle", "square", "triangle", "cross")
KINDS = tuple(product(COLOURS, SHAPES))
# Every colour loses one shape, and every shape one or two colours.
HELD_OUT = frozenset(
    {
        ("red", "triangle"),
        ("green", "cross"),
        ("blue", "circle"),
        ("yellow", "square"),
        ("purple", "triangle"),
        ("cyan", "cross"),
    }
)
SEEN = tuple(kind for kind in KINDS if kind not in HELD_OUT)
NUMBERS = ("one", "two", "three", "four")
RELATIONS = {
    "left": "to the left of",
    "right": "to the right of",
    "above": "above",
    "below": "below",
}
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
Split = Literal["train", "validation"]
SPLITS = ("train", "validation")
Kind = tuple[str, str]
SUPERSAMPLING = 8
SMALLEST = 16  # pixels; below it a cross and a circle are the same blob


@dataclass(frozen=True)
class Thing:
    """A shape in a scene. Lengths are in sides of the image, the origin at the top left.

    Attributes:
        colour: A name in `COLOURS`.
        shape: A name in `SHAPES`.
        size: `large`, `small`, or empty where a scene does not tell sizes apart.
        dot: Whether it carries a white dot.
        x: Centre.
        y: Centre.
        radius: Of the circle; other shapes cover about the same area.
        angle: Turn in radians.
        rgb: Its colour in this image, 0 to 255.
    """

    colour: str
    shape: str
    size: str
    dot: bool
    x: float
    y: float
    radius: float
    angle: float
    rgb: tuple[int, int, int]


@dataclass(frozen=True)
class Scene:
    """What is in an image.

    Attributes:
        task: A name in `TASKS`.
        things: One, two different ones, or up to four of a kind.
        relation: How the first of two lies to the second, a name in `RELATIONS`; else empty.
        ground: Grey of the ground at the top and at the bottom, 0 to 255.
    """

    task: str
    things: tuple[Thing, ...]
    relation: str
    ground: tuple[int, int]


@dataclass(frozen=True)
class Example:
    """A row of the set.

    Attributes:
        scene: What is in the image.
        captions: True captions in several wordings.
        caption: One of them.
        candidates: Captions to choose from, exactly one of them true.
        label: Place of the true one.
        held_out: Whether a combination is shown that training never shows.
    """

    scene: Scene
    captions: tuple[str, ...]
    caption: str
    candidates: tuple[str, ...]
    label: int
    held_out: bool


# -- scenes ------------------------------------------------------------------------------------


def pairs(held_out: bool) -> list[tuple[Kind, Kind]]:
    """Two things that differ in colour and shape; see the module for which."""
    found = []
    for one, two in product(KINDS, KINDS):
        if one[0] == two[0] or one[1] == two[1]:
            continue
        swapped = {(one[0], two[1]), (two[0], one[1])}
        shown = {one, two}
        if (shown & HELD_OUT) if held_out else not ((shown | swapped) & HELD_OUT):
            found.append((one, two))
    return found


def _thing(
    rng: np.random.Generator, kind: Kind, x: float, y: float, radius: float, **own: Any
) -> Thing:
    rgb = np.clip(np.array(COLOURS[kind[0]]) + rng.integers(-12, 13, 3), 0, 255)
    angle = float(rng.uniform(-0.17, 0.17))
    return Thing(
        *kind,
        size=own.get("size", ""),
        dot=own.get("dot", False),
        x=x,
        y=y,
        radius=radius,
        angle=angle,
        rgb=(int(rgb[0]), int(rgb[1]), int(rgb[2])),
    )


def _kind(rng: np.random.Generator, held_out: bool) -> Kind:
    among = sorted(HELD_OUT) if held_out else SEEN
    return among[rng.integers(len(among))]


def _single(rng: np.random.Generator, held_out: bool, choice: int) -> tuple[list[Thing], str]:
    """One thing anywhere; `choice` decides on the dot."""
    size = ("large", "small")[rng.integers(2)]
    radius = float(rng.uniform(0.26, 0.32) if size == "large" else rng.uniform(0.14, 0.18))
    x, y = rng.uniform(1.25 * radius, 1 - 1.25 * radius, 2)
    kind = _kind(rng, held_out)
    return [_thing(rng, kind, float(x), float(y), radius, size=size, dot=bool(choice % 2))], ""


def _two(rng: np.random.Generator, held_out: bool, choice: int) -> tuple[list[Thing], str]:
    """Two things side by side or one above the other; `choice` decides on the relation."""
    among = pairs(held_out)
    kinds = among[rng.integers(len(among))]
    relation = list(RELATIONS)[choice % 4]
    near, far = rng.uniform(0.24, 0.29), rng.uniform(0.71, 0.76)
    along = (near, far) if relation in ("left", "above") else (far, near)
    across = rng.uniform(0.3, 0.7) + rng.uniform(-0.05, 0.05, 2)
    things = []
    for kind, a, b in zip(kinds, along, across, strict=True):
        size = ("large", "small")[rng.integers(2)]
        radius = rng.uniform(0.17, 0.19) if size == "large" else rng.uniform(0.11, 0.125)
        x, y = (a, b) if relation in ("left", "right") else (b, a)
        things.append(_thing(rng, kind, float(x), float(y), float(radius), size=size))
    return things, relation


def _several(rng: np.random.Generator, held_out: bool, choice: int) -> tuple[list[Thing], str]:
    """One to four of a kind, apart from each other; `choice` decides how many."""
    kind, n, radius = _kind(rng, held_out), 1 + choice % 4, float(rng.uniform(0.115, 0.135))
    while True:  # two in five throws of four are apart
        centres = rng.uniform(1.25 * radius, 1 - 1.25 * radius, (n, 2))
        gaps = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
        if n == 1 or gaps[np.triu_indices(n, 1)].min() > 2.9 * radius:
            return [_thing(rng, kind, float(x), float(y), radius) for x, y in centres], ""


# -- captions ----------------------------------------------------------------------------------


def noun(kind: Kind) -> str:
    """ "a red circle"."""
    return f"a {kind[0]} {kind[1]}"


def _loose(kind: Kind) -> str:
    return f"a {kind[1]} that is {kind[0]}"


def _sized(thing: Thing) -> str:
    return f"a {thing.size} {thing.colour} {thing.shape}"


def _single_captions(scene: Scene) -> list[str]:
    thing = scene.things[0]
    kind = (thing.colour, thing.shape)
    dot = "with a dot" if thing.dot else "without a dot"
    return [
        noun(kind),
        f"a picture of {noun(kind)}",
        _loose(kind),
        _sized(thing),
        f"{noun(kind)} {dot}",
        f"{_sized(thing)} {dot}",
        f"{_loose(kind)}, {dot}",
        f"one {thing.colour} {thing.shape}",
    ]


def _two_captions(scene: Scene) -> list[str]:
    one, two = scene.things
    first, second = (one.colour, one.shape), (two.colour, two.shape)
    here, there = RELATIONS[scene.relation], RELATIONS[OPPOSITE[scene.relation]]
    found = [
        f"{noun(first)} and {noun(second)}",
        f"{noun(second)} and {noun(first)}",
        f"{_loose(first)} and {_loose(second)}",
        f"a picture of {noun(second)} and {noun(first)}",
        f"{noun(first)} {here} {noun(second)}",
        f"{noun(second)} {there} {noun(first)}",
        f"a picture of {noun(first)} {here} {noun(second)}",
        f"{_loose(second)}, {there} {_loose(first)}",
    ]
    if one.size != two.size:
        found += [
            f"{_sized(one)} and {_sized(two)}",
            f"{_sized(two)} {there} {_sized(one)}",
        ]
    return found


def counted(n: int, kind: Kind) -> str:
    """ "three red circles"."""
    ending = "" if n == 1 else "es" if kind[1] == "cross" else "s"
    return f"{NUMBERS[n - 1]} {kind[0]} {kind[1]}{ending}"


def _several_captions(scene: Scene) -> list[str]:
    n, kind = len(scene.things), (scene.things[0].colour, scene.things[0].shape)
    text = counted(n, kind)
    number, colour, shapes = text.split()
    verb = "is" if n == 1 else "are"
    return [
        text,
        f"a picture of {text}",
        f"{number} {shapes} that {verb} {colour}",
        f"there {verb} {text}",
    ]


# -- tasks -------------------------------------------------------------------------------------


def _object(scene: Scene, held_out: bool) -> tuple[list[str], str]:
    thing = scene.things[0]
    kinds = KINDS if held_out else SEEN
    return [noun(kind) for kind in kinds], noun((thing.colour, thing.shape))


def _binding(scene: Scene, held_out: bool) -> tuple[list[str], str]:
    one, two = scene.things
    colours = (one.colour, two.colour)
    texts = [
        f"{noun((c, one.shape))} and {noun((d, two.shape))}" for c, d in product(colours, colours)
    ]
    return texts, f"{noun((one.colour, one.shape))} and {noun((two.colour, two.shape))}"


def _relation(scene: Scene, held_out: bool) -> tuple[list[str], str]:
    one, two = (noun((t.colour, t.shape)) for t in scene.things)
    texts = {name: f"{one} {words} {two}" for name, words in RELATIONS.items()}
    return list(texts.values()), texts[scene.relation]


def _attribute(scene: Scene, held_out: bool) -> tuple[list[str], str]:
    thing = scene.things[0]
    texts = [f"{noun((thing.colour, thing.shape))} {w} a dot" for w in ("with", "without")]
    return texts, texts[0 if thing.dot else 1]


def _count(scene: Scene, held_out: bool) -> tuple[list[str], str]:
    kind = (scene.things[0].colour, scene.things[0].shape)
    return [counted(n, kind) for n in (1, 2, 3, 4)], counted(len(scene.things), kind)


@dataclass(frozen=True)
class Task:
    """How the scenes of a task are made and put into words.

    Attributes:
        arrange: Things and relation, from (generator, held out, a number to balance by).
        captions: True captions of a scene.
        candidates: Candidates in a fixed order, and the true one, from (scene, held out).
        choices: How many outcomes the number to balance by decides between.
    """

    arrange: Callable[[np.random.Generator, bool, int], tuple[list[Thing], str]]
    captions: Callable[[Scene], list[str]]
    candidates: Callable[[Scene, bool], tuple[list[str], str]]
    choices: int


TASKS = {
    "object": Task(_single, _single_captions, _object, 2),
    "binding": Task(_two, _two_captions, _binding, 4),
    "relation": Task(_two, _two_captions, _relation, 4),
    "attribute": Task(_single, _single_captions, _attribute, 2),
    "count": Task(_several, _several_captions, _count, 4),
}


def example(split: Split, row: int, seed: int = 0, tasks: Sequence[str] = tuple(TASKS)) -> Example:
    """The row of this number: tasks in turn, and in validation seen and held-out in turn.

    Args:
        split: `train` or `validation`.
        row: From 0.
        seed: Of everything.
        tasks: Names in `TASKS` to take in turn.

    Raises:
        InputError: an unknown split or task, no task, or a negative seed.
    """
    if split not in SPLITS:
        raise InputError(f"split must be one of {', '.join(SPLITS)}; got {split!r}.")
    if not tasks or not set(tasks) <= set(TASKS):
        raise InputError(
            f"tasks must be among {', '.join(TASKS)}; got {', '.join(tasks) or 'none'}."
        )
    if seed < 0:
        raise InputError(f"seed must be 0 or more; got {seed}.")
    part = SPLITS.index(split)
    number, place = divmod(row, len(tasks))
    name = tasks[place]
    task, place = TASKS[name], list(TASKS).index(name)
    held_out = split == "validation" and number % 2 == 1
    turn = number // 2 if split == "validation" else number
    rng = np.random.default_rng([seed, part, row])
    choice = _in_turn([seed, part, place, held_out, 0], turn, task.choices)
    things, relation = task.arrange(rng, held_out, choice)
    grey = rng.integers(30, 75, 2)
    scene = Scene(name, tuple(things), relation, (int(grey[0]), int(grey[1])))
    texts, true = task.candidates(scene, held_out)
    label = _in_turn([seed, part, place, held_out, 1], turn, len(texts))
    others = [text for text in texts if text != true]
    rng.shuffle(others)
    captions = task.captions(scene)
    return Example(
        scene=scene,
        captions=tuple(captions),
        caption=captions[rng.integers(len(captions))],
        candidates=(*others[:label], true, *others[label:]),
        label=label,
        held_out=held_out,
    )


def _in_turn(key: list[int], number: int, n: int) -> int:
    """An outcome of n, each once in every n numbers, in an order that the key decides."""
    block, place = divmod(number, n)
    return int(np.random.default_rng([*key, block]).permutation(n)[place])


# -- pictures ----------------------------------------------------------------------------------


def render(scene: Scene, size: int) -> np.ndarray:
    """The image, uint8 `[size, size, 3]`, averaged over 8 x 8 points a pixel.

    Raises:
        InputError: a size below 16 pixels.
    """
    from PIL import Image, ImageDraw

    if size < SMALLEST:
        raise InputError(
            f"Scenes need at least {SMALLEST} pixels a side, or shapes are not told apart; "
            f"got {size}."
        )
    fine = size * SUPERSAMPLING
    ramp = np.linspace(*scene.ground, fine).round().astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(np.broadcast_to(ramp[:, None], (fine, fine))))
    image = image.convert("RGB")
    draw = ImageDraw.Draw(image)
    for thing in scene.things:
        for outline in _outlines(thing):
            draw.polygon([(x * fine, y * fine) for x, y in outline], fill=thing.rgb)
        if thing.dot:
            r = max(0.3 * thing.radius, 0.06)
            box = [(thing.x - r) * fine, (thing.y - r) * fine]
            draw.ellipse([*box, (thing.x + r) * fine, (thing.y + r) * fine], fill=(250, 250, 250))
    return np.asarray(image.reduce(SUPERSAMPLING))


def coverage(scene: Scene, place: int, size: int) -> np.ndarray:
    """How much of each pixel one thing of a scene covers, float64 `[size, size]` in [0, 1].

    Args:
        scene: With things that do not hide each other, as all tasks make them.
        place: Of the thing in `scene.things`.
        size: Side in pixels.
    """
    shape = replace(scene.things[place], dot=False)
    bright, dark = (
        render(replace(scene, things=(replace(shape, rgb=(grey,) * 3),)), size)[..., 0]
        for grey in (255, 0)
    )
    return (bright - dark.astype(np.float64)) / 255


def _outlines(thing: Thing) -> Iterator[np.ndarray]:
    """Polygons `[n, 2]` that make up the shape."""
    bar = np.array([[-1.1, -0.38], [1.1, -0.38], [1.1, 0.38], [-1.1, 0.38]])
    match thing.shape:
        case "circle":
            turn = np.linspace(0, 2 * np.pi, 64, endpoint=False)
            parts = [np.stack([np.cos(turn), np.sin(turn)], 1)]
        case "square":
            parts = [0.89 * np.array([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])]
        case "triangle":
            turn = np.deg2rad([-90, 30, 150])
            parts = [1.25 * np.stack([np.cos(turn), np.sin(turn)], 1)]
        case _:
            parts = [bar, bar[:, ::-1]]
    c, s = np.cos(thing.angle), np.sin(thing.angle)
    for part in parts:
        yield thing.radius * part @ np.array([[c, s], [-s, c]]) + [thing.x, thing.y]
