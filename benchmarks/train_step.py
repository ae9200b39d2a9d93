"""What faster convolutions save of a training step of `cifar10-ldm`'s U-Net on a CPU.

    OMP_NUM_THREADS=1 python benchmarks/train_step.py [--rounds 5]

Steps without and with them take turns, in one process, on random latents; where the CPU multiplies
bfloat16 faster, a third takes turns with them that has Muon in float32 as well. Under several
threads convolutions are the same.
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
    quintic = loop._quintic
    slow = lambda x, steps: loop._quintic_on_smaller_side(x.float(), steps)  # noqa: E731
    taken = {"torch's convolutions, Muon in float32": [], "torch's": [], "faster": []}
    if not loop.bfloat16_pays():
        taken = {"torch's": [], "faster": []}
    for turn in range(rounds + 1):
        for name in taken:
            loop._quintic = slow if "float32" in name else quintic
            with faster_convolutions(unet) if name == "faster" else nullcontext():
                began = time.perf_counter()
                run.move(loss, 1e-4)
                if turn:  # the first warms up
                    taken[name].append(time.perf_counter() - began)
    for name, seconds in taken.items():
        print(f"{name:38}  {preset.batch / median(seconds):.0f} images/s", end="")
        ratios = sorted(a / b for a, b in zip(seconds, taken["faster"], strict=True))
        print(f"  ratio {median(ratios):.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}]")


if __name__ == "__main__":
    main()
