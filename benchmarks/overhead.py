"""What scoring costs beyond the network: evaluations per second against a bare loop.

    python benchmarks/overhead.py [--rounds 7] [--model tiny-sd] [--json FILE]

The bare loop calls the same U-Net on tensors made beforehand and keeps nothing: no noise, no
errors, no bookkeeping. Each side first finds its own best batch size, then both take turns in one
run, so that whatever else the machine does hits them alike. The second network is ten times
smaller, where overhead shows most.
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import torch

import diffzero as dz

BATCHES = (16, 32, 64, 128)
DRAWS, CLASSES = 16, 10
NAMES = ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
         "ankle boot"]  # fmt: skip


def smaller(backbone):
    """The same pipeline around a U-Net of a tenth of the weights, untrained."""
    from diffusers import UNet2DConditionModel

    from diffzero.models.cards import Card
    from diffzero.models.load import finished

    config = dict(backbone.denoiser.network.config) | {
        "block_out_channels": (16, 32),
        "norm_num_groups": 8,
    }
    stream = backbone.conditioner.stream
    betas = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    parts = {
        "unet": UNet2DConditionModel.from_config(config).eval(),
        "vae": backbone.codec.vae,
        "text_encoder": stream.encoder,
        "tokenizer": stream.tokenizer,
        "scheduler": betas,
    }
    return finished("stable-diffusion", parts, Card("smaller", "stable-diffusion", "memory"))


def images(n):
    rng = np.random.default_rng(0)
    return list(rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8))


@torch.inference_mode()
def bare(backbone, batch, evals):
    """Evaluations per second of the network alone."""
    text = backbone.embed([f"a photo of a {n}" for n in NAMES]).tensors["text"]
    rows = text[torch.arange(batch) % CLASSES].contiguous()
    x = torch.randn(batch, *backbone.shape).contiguous(memory_format=torch.channels_last)
    t = torch.rand(batch) * 999
    calls = max(1, evals // batch)
    began = time.perf_counter()
    for _ in range(calls):
        backbone.denoiser.network(x, t, encoder_hidden_states=rows, return_dict=False)
    return calls * batch / (time.perf_counter() - began)


def scoring(backbone, batch, evals):
    """Evaluations per second of `ELBO.scores`, encoding of the images included."""
    clf = dz.ELBO(backbone, draws=DRAWS, batch_size=batch).fit(NAMES)
    sources = images(max(1, evals // (DRAWS * CLASSES)))
    began = time.perf_counter()
    scores = clf.scores(sources)
    return scores.evals.sum() / (time.perf_counter() - began)


def compare(backbone, evals, rounds):
    for side in (bare, scoring):
        side(backbone, 32, 320)  # warm
    best = {
        s: max(BATCHES, key=lambda b, s=s: s(backbone, b, evals // 2)) for s in (bare, scoring)
    }
    pairs = []
    for i in range(rounds):
        order = (bare, scoring) if i % 2 else (scoring, bare)
        rate = {side: side(backbone, best[side], evals) for side in order}
        pairs.append((rate[scoring], rate[bare]))
    ratios = [ours / theirs for ours, theirs in pairs]
    return {
        "weights": sum(p.numel() for p in backbone.denoiser.network.parameters()),
        "batch_bare": best[bare],
        "batch_scoring": best[scoring],
        "bare_per_s": round(statistics.median(b for _, b in pairs), 1),
        "scoring_per_s": round(statistics.median(a for a, _ in pairs), 1),
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--model", default="tiny-sd")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    backbone = dz.load(options.model, device="cpu")
    result = {"machine": platform.processor() or platform.machine(), "rounds": options.rounds}
    for name, network, evals in (
        (options.model, backbone, 3200),
        ("ten times smaller", smaller(backbone), 16000),
    ):
        result[name] = compare(network, evals, options.rounds)
        print(name, json.dumps(result[name]))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
