"""Which small network learns CIFAR-10's classes fastest from noise alone: trials of equal minutes.

    OMP_NUM_THREADS=1 python benchmarks/networks.py NET --data FOLDER [--minutes 5]
        [--optimizer muon] [--model cifar10-ldm]

Every network learns v on the latents of a model's autoencoder, as `train/ldm.py` does, and is then
asked about 400 training images held out (ten classes, eight draws), with errors of v weighed by
powers of alpha. Progress is kept in `runs/networks`, and the same command goes on.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

import diffzero as dz
from diffzero.data import held_out, load
from diffzero.evaluate.metrics import percent
from diffzero.train import ldm, loop

IMAGES, DRAWS, CLASSES, NULL = 400, 8, 10, 10
UNETS = {"unet": (False, False), "unet-attention": (False, True)}
TRANSFORMERS = {"dit-1": 1, "dit-2": 2}  # side of the patches


def build(name, side):
    from diffusers import DiTTransformer2DModel, UNet2DModel

    shape = {"sample_size": side, "in_channels": ldm.CHANNELS, "out_channels": ldm.CHANNELS}
    if name in TRANSFORMERS:
        return DiTTransformer2DModel(
            num_attention_heads=3, attention_head_dim=64, num_layers=8,
            patch_size=TRANSFORMERS[name], num_embeds_ada_norm=CLASSES, **shape,
        )  # fmt: skip
    kinds = ["AttnDownBlock2D" if attends else "DownBlock2D" for attends in UNETS[name]]
    return UNet2DModel(
        **dict(ldm.denoiser(ldm.PRESETS["cpu"], CLASSES).config)
        | shape
        | {
            "down_block_types": tuple(kinds),
            "up_block_types": tuple(k.replace("Down", "Up") for k in kinds[::-1]),
        }
    )


class Learner(torch.nn.Module):
    """The network as `ldm.denoising_loss` calls it; a transformer drops classes itself."""

    def __init__(self, network):
        super().__init__()
        self.blocks = network  # so that Muon finds its matrices by this name

    def forward(self, z, t, class_labels):
        with loop.attention_of_few_tokens("cpu"):
            return self.blocks(z, t, class_labels=class_labels)


@torch.no_grad()
def errors(learner, z):
    """Errors of v `[n, draws, classes]`, and alpha of each draw `[n, draws, 1]`."""
    generator, bars = torch.Generator().manual_seed(7), ldm.alphas_cumprod().float()
    found, alpha = torch.zeros(2, len(z), DRAWS, CLASSES, dtype=torch.float64)
    for start in range(0, len(z), 20):
        part = z[start : start + 20]
        own, rows = slice(start, start + len(part)), torch.arange(len(part))
        rows = rows.repeat_interleave(CLASSES)
        for draw in range(DRAWS):
            u = (torch.rand(len(part), generator=generator) + draw) / DRAWS
            t = ldm.steps_of_cosine(u)
            bar = bars[t].view(-1, 1, 1, 1)
            eps = torch.randn(part.shape, generator=generator)
            z_t = bar.sqrt() * part + (1 - bar).sqrt() * eps
            v = bar.sqrt() * eps - (1 - bar).sqrt() * part
            with ldm.PRESETS["cpu"].precision("cpu"):
                said = learner(z_t[rows], t[rows], torch.arange(CLASSES).repeat(len(part))).sample
            error = (said.float() - v[rows]).double().square().flatten(1).sum(1)
            found[own, draw] = error.view(-1, CLASSES)
            alpha[own, draw] = bar.view(-1, 1).sqrt().double()
    return found, alpha[..., :1]


def report(name, found, alpha, labels):
    for power in (0, 0.5, 1, 1.5, 2):
        logits = -(found * alpha**power).mean(1)
        right = int((logits.argmax(1) == labels).sum())
        cross = min(
            functional.cross_entropy(logits * c, labels).item() for c in np.geomspace(0.01, 30, 60)
        )
        print(
            f"{name}, v errors times alpha^{power:g}: {percent(right, len(labels))}, "
            f"cross-entropy {cross:.3f}"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("net", choices=[*UNETS, *TRANSFORMERS])
    parser.add_argument("--data", required=True, help="folder of CIFAR-10's Parquet files")
    parser.add_argument("--model", default="cifar10-ldm", help="whose autoencoder to use")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--optimizer", choices=("adamw", "muon"), default="muon")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    vae, preset = (
        dz.load(options.model, device="cpu", dtype="float32").codec.vae,
        ldm.PRESETS["cpu"],
    )
    learned, kept = held_out(load(f"cifar10={options.data}", ldm.SIDE))[:2]

    def latents(images):
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
        return ldm.encoded(vae, pixels, "cpu", preset) * vae.config.scaling_factor

    z, labels = latents(learned.images), torch.from_numpy(learned.labels)
    learner = Learner(build(options.net, z.shape[-1]).to(memory_format=torch.channels_last))
    state = Path("runs/networks") / f"{options.net}-{options.optimizer}.pt"
    loss = ldm.denoising_loss(learner, z, labels, NULL, "cpu", preset)
    muon = "block" if options.optimizer == "muon" else None
    result = loop.fit(learner, loss, state, options.minutes, lr=ldm.RATE, muon=muon, warmup=100)
    print(f"{options.net}, {options.optimizer}: {result['steps'] * preset.batch:,.0f} images")
    found, alpha = errors(learner, latents(kept.images[:IMAGES]).float())
    report(options.net, found, alpha, torch.from_numpy(kept.labels[:IMAGES]))


if __name__ == "__main__":
    main()
