"""Which small network learns CIFAR-10 fastest: trials of equal processor time on one core.

    OMP_NUM_THREADS=1 python benchmarks/networks.py NET --data FOLDER [--minutes 12]

Every network learns `v = alpha eps - sigma x` of class-conditional images under cosine alphas, and
is asked about 300 training images held out (the last 2,000 are), ten classes, eight draws.
Processor time, not wall time, is the budget, so that trials beside other work compare. Progress is
kept in `runs/networks`, and the same command goes on.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from diffzero.data import load

HELD_OUT, CLASSES, NULL = 2000, 10, 10
UNETS = {  # side of the blocks that become channels, channels, which levels attend, layers
    "unet-16": (2, (64, 128, 192), (False, True, True), 1),
    "unet-8": (4, (128, 192), (True, True), 2),
    "unet-32": (1, (32, 64, 96), (False, False, True), 1),
}
TRANSFORMERS = {"dit-192": (3, 8), "dit-256": (4, 6)}  # heads of 64, layers; patches of 4


def build(name):
    from diffusers import DiTTransformer2DModel, UNet2DModel

    if name in TRANSFORMERS:
        heads, layers = TRANSFORMERS[name]
        return DiTTransformer2DModel(
            num_attention_heads=heads, attention_head_dim=64, in_channels=3, out_channels=3,
            num_layers=layers, sample_size=32, patch_size=4, num_embeds_ada_norm=CLASSES,
        )  # fmt: skip
    patch, channels, attention, layers = UNETS[name]
    return UNet2DModel(
        sample_size=32 // patch,
        in_channels=3 * patch**2,
        out_channels=3 * patch**2,
        layers_per_block=layers,
        block_out_channels=channels,
        down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attention),
        up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in attention[::-1]),
        norm_num_groups=16,
        attention_head_dim=32,
        num_class_embeds=CLASSES + 1,
        resnet_time_scale_shift="scale_shift",
    )


def noised(x, t, eps):
    """`(x_t, v)` under `alpha = cos(pi t / 2)`."""
    alpha = torch.cos((t + 0.008) / 1.008 * math.pi / 2).view(-1, 1, 1, 1)
    sigma = (1 - alpha**2).sqrt()
    return alpha * x + sigma * eps, alpha * eps - sigma * x


def call(network, x_t, t, labels):
    x_t = x_t.contiguous(memory_format=torch.channels_last)
    # The fused attention of CPUs is slow backwards on so few tokens; bfloat16 pays on some CPUs.
    with sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", torch.bfloat16):
        return network(x_t, t * 1000 - 1, class_labels=labels, return_dict=False)[0].float()


class Optimizers:
    """AdamW for all, or Muon for the matrices inside blocks and AdamW for the rest."""

    def __init__(self, network, kind, lr):
        def inner(name, p):
            return kind == "muon" and p.ndim == 2 and "blocks" in name and ".emb." not in name

        named = list(network.named_parameters())
        matrices = [p for name, p in named if inner(name, p)]
        rest = [p for name, p in named if not inner(name, p)]
        self.all = [torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.99))]
        if matrices:
            muon = torch.optim.Muon(
                matrices, lr=lr, momentum=0.95, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
            )
            self.all.append(muon)
        self.lr = lr

    def step(self, share):
        for optimizer in self.all:
            for group in optimizer.param_groups:
                group["lr"] = self.lr * share
            optimizer.step()


def blocks(name, x):
    patch = UNETS[name][0] if name in UNETS else 1
    return functional.pixel_unshuffle(x, patch) if patch > 1 else x


@torch.no_grad()
def accuracy(network, name, x, y, draws=8):
    """Share of images named rightly, and the least cross-entropy over temperatures."""
    network.eval()
    g = torch.Generator().manual_seed(7)
    errors = torch.zeros(len(x), CLASSES, dtype=torch.float64)
    for start in range(0, len(x), 10):
        part = blocks(name, x[start : start + 10].float() / 127.5 - 1)
        b = len(part)
        for draw in range(draws):
            t = (torch.rand(b, generator=g) + draw) / draws * 0.85 + 0.05
            x_t, v = noised(part, t, torch.randn(part.shape, generator=g))
            rows = torch.arange(b).repeat_interleave(CLASSES)
            said = call(network, x_t[rows], t[rows], torch.arange(CLASSES).repeat(b))
            error = (said - v[rows]).double().square().flatten(1).sum(1)
            errors[start : start + b] += error.view(b, CLASSES) / draws
    network.train()
    cross = [functional.cross_entropy(-errors / c, y).item() for c in np.geomspace(0.01, 10, 40)]
    return (errors.argmin(1) == y).double().mean().item(), min(cross)


def times(n, kind, g):
    """Stratified uniform times, or half of them about where classes are told apart."""
    u = (torch.arange(n) + torch.rand(n, generator=g)) / n
    u = u[torch.randperm(n, generator=g)]
    if kind == "mixed":
        middle = torch.sigmoid(torch.randn(n, generator=g) * 0.7 + 0.2)
        u = torch.where(torch.rand(n, generator=g) < 0.5, middle, u)
    return u.clamp(0.001, 0.999)


def batch(name, images, labels, size, kind, g):
    index = torch.randint(len(images), (size,), generator=g)
    x, y = images[index].float() / 127.5 - 1, labels[index].clone()
    mirror = torch.rand(size, generator=g) < 0.5
    x[mirror] = x[mirror].flip(-1)
    x = blocks(name, x + (torch.rand(x.shape, generator=g) - 0.5) * 2 / 255)
    if name in UNETS:  # the transformer drops labels itself
        y[torch.rand(size, generator=g) < 0.1] = NULL
    t = times(size, kind, g)
    return *noised(x, t, torch.randn(x.shape, generator=g)), t, y


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("net", choices=[*UNETS, *TRANSFORMERS])
    parser.add_argument("--data", required=True, help="folder of CIFAR-10's Parquet files")
    parser.add_argument("--minutes", type=float, default=12.0, help="processor time")
    parser.add_argument("--times", choices=("uniform", "mixed"), default="uniform")
    parser.add_argument("--optimizer", choices=("adamw", "muon"), default="adamw")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=5e-4)
    trial(parser.parse_args())


def trial(a):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    train = load(f"cifar10={a.data}", 32)
    images = torch.from_numpy(train.images).permute(0, 3, 1, 2).contiguous()
    labels = torch.from_numpy(train.labels)
    network = build(a.net).to(memory_format=torch.channels_last)
    optimizers = Optimizers(network, a.optimizer, a.lr)
    average = {k: v.clone() for k, v in network.state_dict().items()}
    names = [k for k, v in average.items() if v.is_floating_point()]
    path = Path("runs/networks") / f"{a.net}-{a.times}-{a.optimizer}-{a.lr:g}-{a.batch}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    step, spent = 0, 0.0
    if path.exists():
        kept = torch.load(path, weights_only=True)
        network.load_state_dict(kept["network"])
        for optimizer, state in zip(optimizers.all, kept["optimizer"], strict=True):
            optimizer.load_state_dict(state)
        average, step, spent = kept["average"], kept["step"], kept["spent"]
    g = torch.Generator().manual_seed(step)
    budget, saved = a.minutes * 60, spent
    while spent < budget:
        began = time.process_time()
        x_t, v, t, y = batch(a.net, images[:-HELD_OUT], labels[:-HELD_OUT], a.batch, a.times, g)
        loss = functional.mse_loss(call(network, x_t, t, y), v)
        fall = max(0.05, 0.5 * (1 + math.cos(math.pi * spent / budget)))
        network.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizers.step(min(1, (step + 1) / 300) * fall)
        step += 1
        live = network.state_dict()
        near = 1 - min(0.999, (1 + step) / (10 + step))
        torch._foreach_lerp_([average[k] for k in names], [live[k] for k in names], near)
        spent += time.process_time() - began
        if spent - saved > 120 or spent >= budget:
            saved = spent
            states = [optimizer.state_dict() for optimizer in optimizers.all]
            kept = {"network": live, "optimizer": states, "average": average}
            torch.save(kept | {"step": step, "spent": spent}, path)
            print(f"{step * a.batch:,} images, {spent / 60:.1f} min, loss {loss:.4f}", flush=True)
    network.load_state_dict(average)
    held = slice(len(images) - HELD_OUT, len(images) - HELD_OUT + 300)
    share, cross = accuracy(network, a.net, images[held], labels[held])
    weights = sum(p.numel() for p in network.parameters())
    print(
        f"{a.net} ({weights:,} weights), {a.times} times, {a.optimizer} {a.lr:g}: "
        f"{step * a.batch:,} images, accuracy {share:.3f} of 300, cross-entropy {cross:.3f}"
    )


if __name__ == "__main__":
    main()
