"""Does a race keep its delta? On the closed-form mixture, against dense draws, three schedules.

    python benchmarks/race_error.py [--images 2000] [--draws 512] [--seed 0] [--min-draws 2]
        [--variance distance] [--no-control]

Ten overlapping classes of two components, margins of all sizes. Every draw of every class
is computed once, and races are replayed over them: the share of images on which a race's answer is
not that of all draws should be at most delta.
"""

import argparse

import numpy as np
import torch

import diffzero as dz
from diffzero.evaluate.metrics import percent
from diffzero.noise import gaussian, quantiles
from diffzero.scoring.control import NOISES, shrinkage
from diffzero.scoring.replay import simulate
from diffzero.scoring.rules import Rule
from diffzero.scoring.times import Times

SCHEDULES = {
    "linear betas": dz.DiscreteSchedule.linear(),
    "log-SNR linear": dz.LogSNRLinearSchedule(-6, 8),
    "rectified flow": dz.RectifiedFlowSchedule(),
}
DELTAS = (0.1, 0.05, 0.01)
VARIANCES = ("distance", "successive", "plain")
SHAPE = (3, 4, 4)


def problem(schedule, images, seed, k=10, m=2, spread=0.11):
    """The mixture, and images of it `[n, 3, 4, 4]`."""
    g = torch.Generator().manual_seed(seed)
    means = torch.randn(k, m, *SHAPE, generator=g).double() * spread
    stds = 0.25 + 0.1 * torch.rand(k, m, generator=g).double()
    weights = torch.full((k, m), 1 / m, dtype=torch.float64)
    label = torch.randint(0, k, (images,), generator=g)
    component = torch.randint(0, m, (images,), generator=g)
    noise = torch.randn(images, *SHAPE, generator=g).double()
    x = means[label, component] + stds[label, component].view(-1, 1, 1, 1) * noise
    return dz.MixtureBackbone(weights, means, stds, schedule), x


@torch.inference_mode()
def errors_of(backbone, x_0, key, draws):
    """Errors `[draws, k]` of one image, the places of its draws, and of `scoring.control` the
    products `[draws, k, NOISES]` and shrinkages."""
    places = quantiles(key, np.arange(draws))
    t = torch.from_numpy(Times(backbone.schedule, "uniform").at(places))
    eps = torch.from_numpy(np.stack([gaussian(key, d, SHAPE) for d in range(draws)])).double()
    alpha, sigma = (part.view(-1, 1, 1, 1) for part in backbone.schedule(t))
    x_t, k = alpha * x_0 + sigma * eps, len(backbone.classes)
    cond = backbone.embed(backbone.classes)[torch.arange(k).repeat(draws)]
    eps_hat = backbone.forward(x_t.repeat_interleave(k, 0), t.repeat_interleave(k), cond).eps
    wrong = (eps_hat - eps.repeat_interleave(k, 0)).square().flatten(1).sum(1)
    products = eps_hat.flatten(1) @ eps[:NOISES].flatten(1).T
    shrink = shrinkage(backbone.schedule.log_snr(t).numpy())
    return wrong.view(draws, k).numpy(), places, products.view(draws, k, -1).numpy(), shrink


def main() -> None:
    """Print the share of images on which races differ, with 95 % Wilson intervals."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--draws", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--min-draws", type=int, default=2)
    parser.add_argument("--variance", default="distance", choices=VARIANCES)
    parser.add_argument("--control", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    for name, schedule in SCHEDULES.items():
        backbone, x = problem(schedule, options.images, options.seed)
        differ, spent = dict.fromkeys(DELTAS, 0), dict.fromkeys(DELTAS, 0)
        for i, x_0 in enumerate(x):
            key = options.seed * 2**32 + i
            errors, places, products, shrink = errors_of(backbone, x_0, key, options.draws)
            shrink = shrink if options.control else None
            dense = errors.mean(0).argmin()
            for delta in DELTAS:
                rule = Rule(delta, options.min_draws, options.draws, variance=options.variance)
                race = simulate(errors, places, rule, products, shrink)
                differ[delta] += int(race.standing.leader != dense)
                spent[delta] += int(race.draws.sum())
        for delta in DELTAS:
            share = spent[delta] / (options.images * options.draws * 10)
            print(
                f"{name}, delta {delta}: differs on {percent(differ[delta], options.images)}, "
                f"{100 * share:.1f} % of the evaluations",
                flush=True,
            )


if __name__ == "__main__":
    main()
