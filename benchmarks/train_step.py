"""What Winograd's convolutions save of a training step of `cifar10-ldm`'s U-Net on a CPU.

    OMP_NUM_THREADS=1 python benchmarks/train_step.py [--rounds 5]

Steps without and with them take turns, in one process, on random latents. Where the CPU multiplies
bfloat16 faster, or under several threads, both are the same.
"""

import argparse
import time
from contextlib import nullcontext
from statistics import median

import torch

from diffzero.train import ldm, loop
from diffzero.train.convolutions import faster_convolutions


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.manual_seed(0)
    preset = ldm.PRESETS["cpu"]
    unet = ldm.denoiser(preset, 10).to(memory_format=torch.channels_last)
    latents, labels = torch.randn(2000, ldm.CHANNELS, 8, 8), torch.randint(10, (2000,))
    loss = ldm.denoising_loss(unet, latents, labels, 10, "cpu", preset)
    run = loop._Run(unet, loop._optimizers(unet, 1e-2, "block"), loop.Ema(unet), 0)
    taken = {"as they are": [], "Winograd's": []}
    for turn in range(rounds + 1):
        for name, way in zip(taken, (nullcontext(), faster_convolutions(unet)), strict=True):
            with way:
                began = time.perf_counter()
                run.move(loss, 1e-4)
                if turn:  # the first warms up
                    taken[name].append(time.perf_counter() - began)
    plain, fast = taken.values()
    for name, seconds in taken.items():
        print(f"{name:12}  {preset.batch / median(seconds):.0f} images/s")
    ratios = sorted(a / b for a, b in zip(plain, fast, strict=True))
    print(f"ratio {median(ratios):.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}] of {rounds} pairs")


if __name__ == "__main__":
    main()
