"""How often "none of these" is right: Fashion-MNIST's words on its images and on others.

    python benchmarks/none_of_these.py --data FOLDER [--split validation] [--other FOLDER]

FOLDER holds Fashion-MNIST as Parquet files. Images of no class are scikit-learn's digits and
scenes, and those of another data set with `--other`. With `--split train` images that `tiny-sd`
was not trained on are taken, the last 2,000, to choose a threshold from.
"""

import argparse

import numpy as np

from diffzero.data import digits_split, open_data, read_names
from diffzero.data.dataset import decode
from diffzero.data.scenes import example, render
from diffzero.evaluate.metrics import percent
from diffzero.methods.open_set import THRESHOLD, OpenSet


def clothes(folder: str, split: str, limit: int) -> list[np.ndarray]:
    """Images of the classes, held out of training."""
    data = open_data(folder, split)
    begin = len(data.examples) - 2000 if split == "train" else 0
    chosen = begin + np.random.default_rng(11).permutation(len(data.examples) - begin)[:limit]
    return [decode(data.read(data.examples[i]), str(i)) for i in sorted(chosen)]


def others(split: str, limit: int) -> dict[str, list[np.ndarray]]:
    """Images of no class, from parts that nothing was trained on."""
    train, test = digits_split()
    digits = train[0][-137:] if split == "train" else test[0]
    order = np.random.default_rng(11).permutation(len(digits))[:limit]
    seed = 77 if split == "train" else 0
    return {
        "digits": [digits[i] for i in order],
        "scenes": [render(example(split, row, seed).scene, 32) for row in range(limit)],  # type: ignore[arg-type]
    }


def main() -> None:
    """Print how many of each kind were taken wrongly."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--other")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--draws", type=int, default=16)
    options = parser.parse_args()
    words = read_names("fashion-mnist").classes
    classifier = OpenSet("tiny-sd", draws=options.draws).fit(words)
    groups = others(options.split, options.limit // 2)
    if options.other:
        data = open_data(options.other, options.split).choose(options.limit // 2, None, 5)
        groups[options.other] = [decode(data.read(e), e.id) for e in data.examples]
    own = clothes(options.data, options.split, options.limit)
    rejected = classifier.none(classifier.scores(own))
    print(f"threshold {THRESHOLD}, {options.draws} draws, {options.split}")
    print(f"clothes taken for none of these: {percent(int(rejected.sum()), len(own))}")
    for name, images in groups.items():
        accepted = ~classifier.none(classifier.scores(images))
        print(f"{name} taken for clothes: {percent(int(accepted.sum()), len(images))}")


if __name__ == "__main__":
    main()
