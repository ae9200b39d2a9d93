import numpy as np
import pytest
import torch

import diffzero as dz
from conftest import as_x0, oracle_problem, sd_pipeline
from diffzero.methods.noise_denoise import pixel_l2, pyramid_l2, vote_logits
from diffzero.scoring.samplers import denoise, executed_steps

NAMES = ["0", "1", "2", "3"]


def test_ddim_of_the_oracle_draws_from_the_class():
    backbone, _, _ = oracle_problem(dz.DiscreteSchedule.linear(), n=1)
    g = torch.Generator().manual_seed(0)
    x_t = torch.randn(200, *backbone.shape, generator=g).double()
    cond = backbone.embed(["2"] * 200)
    drawn = denoise(backbone, x_t, cond, 1.0, 100)
    assert (backbone.posterior(drawn).argmax(1) == 2).double().mean() > 0.8


def test_ddim_is_diffusers_own(tiny_ddpm):
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(beta_schedule="linear", clip_sample=True, set_alpha_to_one=True)
    x_t = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    cond = tiny_ddpm.embed(["zero", "one"])
    ours = denoise(tiny_ddpm, x_t, cond, 0.5, 5)
    theirs, times = x_t, [499, 399, 299, 199, 99]
    scheduler.set_timesteps(10)
    for n in times:
        with torch.no_grad():
            output = tiny_ddpm.denoiser.network(
                theirs, n, class_labels=cond.tensors["class"]
            ).sample
        theirs = scheduler.step(output, n, theirs).prev_sample
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_dpm_solver_comes_near_a_fine_ddim():
    backbone = dz.load("digits-ddpm", device="cpu")
    x_t = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    cond = backbone.embed(backbone.classes[:4])
    fine = denoise(backbone, x_t, cond, 0.5, 200)
    far = (denoise(backbone, x_t, cond, 0.5, 12) - fine).abs().mean()
    near = (denoise(backbone, x_t, cond, 0.5, 12, sampler="dpm++") - fine).abs().mean()
    assert near < far < 0.2


def test_dpm_solver_needs_discrete_steps():
    backbone, pixels, _ = oracle_problem(dz.LogSNRLinearSchedule(), n=1)
    with pytest.raises(dz.InputError, match="needs discrete steps"):
        dz.NoiseDenoise(backbone, sampler="dpm++").fit(NAMES).scores(pixels)


def test_it_classifies_the_oracles_images():
    backbone, pixels, labels = oracle_problem(dz.LogSNRLinearSchedule(), n=100, spread=0.3)
    best = (backbone.posterior(as_x0(pixels)).argmax(1).numpy() == labels).mean()
    for classifier in (dz.NoiseDenoise(backbone), dz.NoiseDenoiseVote(backbone)):
        assert classifier.fit(NAMES).score(pixels, labels.astype(str)) > best - 0.15


def test_shared_noise_leaves_less_noise_in_the_differences():
    backbone, pixels, _ = oracle_problem(dz.LogSNRLinearSchedule(), n=10)

    def noise(shared):
        runs = [
            dz.NoiseDenoise(backbone, draws=1, shared_noise=shared, seed=s).fit(NAMES)
            for s in range(6)
        ]
        return np.stack([np.diff(r.scores(pixels).logits, axis=1) for r in runs]).std(0).mean()

    assert noise(True) < noise(False)


def test_votes_and_ties():
    d = np.array([[1.0, 5.0, 5.0], [2.0, 1.0, 1.0], [3.0, 3.0, 3.0]])
    assert vote_logits(d).argmax() == 1 and np.allclose(np.floor(vote_logits(d)), [1, 2, 0])
    tie = np.array([[1.0, 5.0], [2.0, 1.0], [9.0, 9.0]])  # one vote each; mean ranks 0.5, 0.5
    wins = vote_logits(tie)
    assert wins.argmax() == 1 and np.allclose(np.floor(wins), [1, 1, 0])
    ranks = np.array([[1.0, 9.0, 9.0], [2.0, 1.0, 2.0], [3.0, 3.0, 1.0]])
    assert vote_logits(ranks).argmax() == 1 and (vote_logits(ranks) % 1 < 1).all()


def test_costs_and_batches():
    backbone, pixels, _ = oracle_problem(dz.LogSNRLinearSchedule(), n=5)
    calls = []
    forward = backbone.forward
    backbone.forward = lambda x, t, c: calls.append(len(x)) or forward(x, t, c)
    vote = dz.NoiseDenoiseVote(backbone, levels=(0.1, 0.5), steps=8, draws=2, batch_size=7)
    scores = vote.fit(NAMES).scores(pixels)
    assert sum(calls) == scores.evals.sum() == 5 * 4 * 2 * (1 + 4)
    del backbone.forward
    whole = dz.NoiseDenoiseVote(backbone, levels=(0.1, 0.5), steps=8, draws=2).fit(NAMES)
    assert np.allclose(whole.scores(pixels).logits, scores.logits)
    assert executed_steps(0.01, 10) == 1 and executed_steps(0.5, 9) == 4


@pytest.mark.parametrize("level", [0.5, 1.0])
def test_guidance_at_zero_terminal_snr_is_finite(tokenizer, photos, level):
    pipe = sd_pipeline(tokenizer, "v_prediction", rescale_betas_zero_snr=True)
    classifier = dz.NoiseDenoise(pipe, level=level, steps=3, draws=1, guidance=7.5)
    logits = classifier.fit(["cat", "dog"]).scores(photos[:2]).logits
    assert np.isfinite(logits).all() and (logits[:, 0] != logits[:, 1]).all()


def test_reconstructions_are_what_distances_compare():
    backbone, pixels, _ = oracle_problem(dz.LogSNRLinearSchedule(), n=3)
    classifier = dz.NoiseDenoise(backbone, draws=2).fit(NAMES)
    originals, returned = classifier.reconstructions(pixels)
    assert returned[0].shape == (4, 1, 2, *originals.shape[1:])
    for original, own, row in zip(
        originals, returned, classifier.scores(pixels).logits, strict=True
    ):
        by_hand = ((own[:, 0] - original) ** 2).mean((1, 2, 3, 4))
        assert np.allclose(-by_hand.numpy(), row)


def test_distances():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 3, 3, 8, 8, generator=g)
    assert torch.allclose(pixel_l2(x, y), ((x - y) ** 2).mean((1, 2, 3)).double(), atol=1e-6)
    shift = x + 0.5  # the same at every scale: 8, 4 and 2 pixels
    assert torch.allclose(pyramid_l2(x, shift), torch.full((3,), 0.75).double(), atol=1e-5)


def test_latent_distance_after_one_step_is_the_error_of_the_noise(tokenizer, photos):
    pipe, level = sd_pipeline(tokenizer, "v_prediction"), 0.4
    one = dz.NoiseDenoise(pipe, level=level, steps=1, draws=2, distance="latent-l2")
    logits = one.fit(["cat", "dog"]).scores(photos[:2]).logits
    same = dz.ELBO(pipe, draws=2, t_range=(level, level + 1e-9)).fit(["cat", "dog"])
    errors = np.stack(same.draw_errors(photos[:2])).mean((1, 3)) / np.prod(same.model_.shape)
    alpha, sigma = same.model_.schedule(torch.tensor(level, dtype=torch.float64))
    assert np.allclose(-logits, errors * float(sigma / alpha) ** 2, rtol=1e-4)


def test_latent_distance_of_pixels_is_that_of_pixels(tiny_ddpm):
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    logits = [
        dz.NoiseDenoise(tiny_ddpm, distance=d, draws=1, steps=2).fit(["zero", "one"])
        .scores(images).logits
        for d in ("latent-l2", "pixel-l2")
    ]  # fmt: skip
    assert np.allclose(*logits)


def test_clip_distance_reads_images(tiny_ddpm):
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    classifier = dz.NoiseDenoise(tiny_ddpm, distance="clip-l2", clip="tiny-clip", draws=1, steps=2)
    scores = classifier.fit(["zero", "one"]).scores(images)
    assert np.isfinite(scores.logits).all() and (scores.logits < 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": 0}, "level must be a number above 0 and up to 1; got 0"),
        ({"distance": "l3"}, "distance must be one of pixel-l2, pyramid-l2, latent-l2, clip-l2"),
        ({"sampler": "euler"}, "sampler must be one of ddim, dpm"),
        ({"draws": 0}, "draws must be a whole number from 1"),
    ],
)
def test_bad_options(options, message):
    backbone = oracle_problem(dz.LogSNRLinearSchedule(), n=1)[0]
    with pytest.raises(dz.InputError, match=message):
        dz.NoiseDenoise(backbone, **options).fit(NAMES)
