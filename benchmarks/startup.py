"""What one bundled image costs by `classify`, against importing torch and the U-Net class alone.

    python benchmarks/startup.py [--rounds 5] photo.png

Both take turns, each in a process of its own, so that whatever else the machine does hits them
alike.
"""

import argparse
import statistics
import subprocess
import sys
import time

BARE = "import torch; from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel"
WORDS = "bag,coat,ankle boot"


def seconds(*arguments: str) -> float:
    """Of a Python process with these arguments."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    """Print both times of every round, and their medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photo")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rounds = []
    for _ in range(options.rounds):
        bare = seconds("-c", BARE)
        whole = seconds("-m", "diffzero", "classify", options.photo, "--labels", WORDS)
        rounds.append((bare, whole))
        print(f"import {bare:.2f} s, classify {whole:.2f} s, {whole / bare:.2f}")
    medians = [statistics.median(times) for times in zip(*rounds, strict=True)]
    ratio = statistics.median(whole / bare for bare, whole in rounds)
    print(f"medians: import {medians[0]:.2f} s, classify {medians[1]:.2f} s, {ratio:.2f}")


if __name__ == "__main__":
    main()
