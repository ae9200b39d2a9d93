"""Speed of scoring against the loop of the public diffusion classifier, paired, one core.

    git clone https://github.com/diffusion-classifier/diffusion-classifier FOLDER
    OMP_NUM_THREADS=1 python benchmarks/field_loop.py --checkout FOLDER [--rounds 15] [--batch 32]

Its own `eval_error` scores the same images, words and number of draws, with the U-Net as
diffusers loads it and its default batch of 32; encoding the images is part of both sides. What its
script imports beside the loop (data sets, torchvision) is left out. Sides take turns, and
processor time is compared, so that other work on the machine counts little. First, both sides'
errors of the same noise are compared.
"""

import argparse
import importlib
import sys
import time
import types
from pathlib import Path

import numpy as np
import torch

import diffzero as dz
from diffzero.images import to_tensor
from diffzero.noise import gaussian, image_key

NAMES = ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
         "ankle boot"]  # fmt: skip


def rival_of(checkout):
    """Its `eval_error`, with the progress bar off and stand-ins for what it does not use."""
    transforms = types.ModuleType("torchvision.transforms")
    functional = types.ModuleType("torchvision.transforms.functional")
    functional.InterpolationMode = types.SimpleNamespace(BILINEAR=0, BICUBIC=1, LANCZOS=2)
    data = types.ModuleType("diffusion.datasets")
    data.get_target_dataset = None
    torchvision = types.ModuleType("torchvision")
    torchvision.transforms = transforms
    sys.modules |= {
        "torchvision": torchvision,
        "torchvision.transforms": transforms,
        "torchvision.transforms.functional": functional,
        "diffusion.datasets": data,
    }
    sys.path.insert(0, str(checkout))
    module = importlib.import_module("eval_prob_adaptive")
    module.tqdm.trange = lambda n, **_: range(n)
    return module.eval_error


class Rival:
    """The public loop on a folder in Stable Diffusion's format."""

    def __init__(self, checkout, folder, draws, batch):
        from diffusers import DiffusionPipeline

        pipe = DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
        self.unet, self.vae, self.scheduler = pipe.unet.eval(), pipe.vae.eval(), pipe.scheduler
        self.loop, self.batch = rival_of(checkout), batch
        self.rows = [c for c in range(len(NAMES)) for _ in range(draws)]
        steps = len(self.scheduler.alphas_cumprod)
        times = np.arange(steps // draws // 2, steps, steps // draws)[:draws].tolist()
        self.times, self.places = times * len(NAMES), list(range(draws)) * len(NAMES)

    @torch.no_grad()
    def encode(self, image):
        found = self.vae.encode(image[None]).latent_dist.mean
        return found * self.vae.config.scaling_factor

    def __call__(self, images, text, noise):
        """Errors `[n, classes, draws]`: means over dimensions."""
        found = [
            self.loop(self.unet, self.scheduler, self.encode(image), eps, self.times, self.places,
                      text, self.rows, self.batch, "float32")
            for image, eps in zip(images, noise, strict=True)
        ]  # fmt: skip
        return torch.stack(found).view(len(images), len(NAMES), -1)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkout", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--batch", type=int, default=32, help="Of the public loop.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    backbone = dz.load("tiny-sd", device="cpu")
    folder = Path(dz.__file__).parent / "zoo" / "tiny-sd"
    rival = Rival(options.checkout, folder, options.draws, options.batch)
    text = backbone.embed([backbone.template.format(n) for n in NAMES]).tensors["text"]
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 256, (options.images, 32, 32, 3), dtype=np.uint8))
    pixels = to_tensor(images, backbone.image_size)
    ours = dz.ELBO(backbone, draws=options.draws).fit(NAMES)

    def timed(work):
        began = time.process_time()
        work()
        return time.process_time() - began

    def theirs():
        shape = (options.images, options.draws, *backbone.shape)
        rival(pixels, text, torch.randn(shape))

    keys = [image_key(0, image) for image in images[:2]]
    given = np.stack(
        [[gaussian(k, d, backbone.shape) for d in range(options.draws)] for k in keys]
    )
    found = rival(pixels[:2], text, torch.from_numpy(given)).mean(2).numpy()
    t = (np.array(rival.times[: options.draws]) + 1) / len(rival.scheduler.alphas_cumprod)
    ours.times_of = lambda key, draws: t[draws]
    mean = -ours.scores(images[:2]).logits / np.prod(backbone.shape)
    print(f"largest difference of mean errors {np.abs(found - mean).max():.1e}")
    del ours.times_of

    for _ in range(2):
        timed(theirs), timed(lambda: ours.scores(images))
    ratios = []
    for i in range(options.rounds):
        if i % 2:
            a, b = timed(lambda: ours.scores(images)), timed(theirs)
        else:
            b, a = timed(theirs), timed(lambda: ours.scores(images))
        ratios.append(b / a)
    evals, logs = options.images * options.draws * len(NAMES), np.log(ratios)
    half = 1.96 * logs.std(ddof=1) / np.sqrt(len(logs))
    low, middle, high = np.exp([logs.mean() - half, logs.mean(), logs.mean() + half])
    print(
        f"{middle:.3f} [{low:.3f}, {high:.3f}] times as fast over {len(ratios)} rounds of {evals} "
        f"evaluations; theirs in batches of {options.batch}, ours {backbone.default_batch_size()}"
    )
    print(f"last round: {evals / b:.0f} and {evals / a:.0f} evaluations a second")


if __name__ == "__main__":
    main()
