"""Whether explanations point at the right place: scenes, where the place is known.

Half of the images show one thing, asked about against a caption of another colour and shape; half
show two, where the false caption gives one of them another colour, so that only that one is the
right place. Reported is the share of the map's positive mass inside the thing over the thing's
share of the area; 1 is what a map that knows nothing gets. As controls, the thing that the
question is not about, and the map turned by half a turn.

    python benchmarks/explanations.py --limit 100 --draws 32
"""

import argparse
import json
from collections.abc import Iterator

import numpy as np

import diffzero as dz
from diffzero.data.scenes import COLOURS, Scene, coverage, example, noun, render
from diffzero.evaluate.intervals import mean_interval
from diffzero.methods.explain import Explanation, explain

SIZE = 32


def questions(limit: int, seed: int) -> Iterator[tuple[Scene, int, tuple[str, str]]]:
    """Scenes, half of combinations never seen; the right thing; a true and a false caption."""
    for row in range(limit):
        one = example("validation", row // 2, seed, (("object", "binding")[row % 2],))
        rng = np.random.default_rng([seed, row])
        kinds = [(thing.colour, thing.shape) for thing in one.scene.things]
        true = one.candidates[one.label]
        if len(kinds) == 1:
            colour, shape = kinds[0]
            others = [c for c in one.candidates if colour not in c and shape not in c]
            yield one.scene, 0, (true, others[rng.integers(len(others))])
            continue
        place = int(rng.integers(2))
        colours = [c for c in COLOURS if c not in (kinds[0][0], kinds[1][0])]
        wrong = list(kinds)
        wrong[place] = (colours[rng.integers(len(colours))], kinds[place][1])
        yield one.scene, place, (true, " and ".join(map(noun, wrong)))


def share(found: Explanation, cover: np.ndarray, turned: bool = False) -> float:
    """Share of positive mass inside, over the share of the area."""
    mass = np.clip(found.resized(SIZE).difference, 0, None)
    mass = mass[::-1, ::-1] if turned else mass
    return float((mass * cover).sum() / mass.sum() / cover.mean())


def said(name: str, values: list[float]) -> str:
    """Mean, interval, median and number."""
    low, high = mean_interval(np.array(values))
    return (
        f"{name}: {np.mean(values):.2f} [{low:.2f}, {high:.2f}], median "
        f"{np.median(values):.2f}, below 1 on {sum(v < 1 for v in values)}, n = {len(values)}"
    )


def main() -> None:
    """Print one line for each group of images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--draws", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="tiny-sd")
    options = parser.parse_args()
    asked = list(questions(options.limit, options.seed))
    classifier = dz.ELBO(options.model, draws=options.draws, template="{}", seed=options.seed)
    maps = explain(classifier, [render(s, SIZE) for s, _, _ in asked], [p for _, _, p in asked])
    groups: dict[str, list[float]] = {}
    for found, (scene, place, _) in zip(maps, asked, strict=True):
        cover = coverage(scene, place, SIZE)
        number = "one thing" if len(scene.things) == 1 else "two things"
        for group in ("all", number):
            groups.setdefault(group, []).append(share(found, cover))
        groups.setdefault("all, turned half round", []).append(share(found, cover, True))
        if len(scene.things) == 2:
            other = coverage(scene, 1 - place, SIZE)
            groups.setdefault("two things, the other one", []).append(share(found, other))
    for name, values in groups.items():
        print(said(name, values))
    print(json.dumps(vars(options)))


if __name__ == "__main__":
    main()
