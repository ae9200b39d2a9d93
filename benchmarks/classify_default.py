"""`classify` of one image: a race, its default, against dense draws, the default before.

    OMP_NUM_THREADS=1 python benchmarks/classify_default.py [--images 20] [--commands 5]

Ten words and one photo at a time, first within one process (the model loaded), then as whole
commands with their start-up. Both sides take turns in one run, so that whatever else the machine
does hits them alike; ratios are medians over images or pairs of commands.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

import diffzero as dz
from diffzero.data import caption_words, digits_split


def timed(work) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--commands", type=int, default=5)
    options = parser.parse_args()
    images, labels = digits_split()[1][0], digits_split()[1][1]
    words = list(caption_words()["digits"]["classes"])
    model = dz.load("tiny-sd")
    race, dense = dz.Race(model).fit(words), dz.ELBO(model).fit(words)
    race.predict([images[0]]), dense.predict([images[0]])  # nothing is slow the first time
    ratios, evals, right = [], [], {"race": 0, "dense": 0}
    for image, label in zip(images[: options.images], labels, strict=False):
        seconds = {}
        for name, classifier in (("race", race), ("dense", dense)):
            began = time.perf_counter()
            scores = classifier.scores([image])
            seconds[name] = time.perf_counter() - began
            right[name] += int(scores.logits[0].argmax() == label)
            if name == "race":
                evals.append(int(scores.evals[0]))
        ratios.append(seconds["dense"] / seconds["race"])
    print(
        f"one process, {len(ratios)} images: {statistics.median(ratios):.2f} times faster "
        f"({min(ratios):.2f} to {max(ratios):.2f}); {statistics.mean(evals):.0f} evaluations "
        f"against {dense.count_evals(len(words))}; right {right['race']} and {right['dense']}"
    )
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder) / "digit.png"
        Image.fromarray(images[0]).save(photo)
        line = [sys.executable, "-m", "diffzero", "classify", str(photo), "--labels",
                ",".join(words)]  # fmt: skip
        pairs = []
        for _ in range(options.commands):
            each = [
                timed(lambda extra=extra: subprocess.run(
                    line + extra, check=True, capture_output=True))
                for extra in ([], ["--method", "elbo"])
            ]  # fmt: skip
            pairs.append(each[1] / each[0])
    print(f"whole commands, {len(pairs)} pairs: {statistics.median(pairs):.2f} times faster")


if __name__ == "__main__":
    main()
