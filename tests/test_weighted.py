import numpy as np
import pytest
import torch

import diffzero as dz
from conftest import as_x0, oracle_problem, sd_pipeline

NAMES = ["0", "1", "2", "3"]


def test_the_gradient_at_uniform_weights_is_the_posterior():
    backbone, pixels, _ = oracle_problem(dz.LogSNRLinearSchedule(-6, 8), n=6)
    posterior = backbone.posterior(as_x0(pixels)).numpy()
    assert 0.3 < posterior.max(1).mean() < 0.95  # overlapping: nothing is certain

    def error(draws):
        classifier = dz.Weighted(
            backbone, steps=draws // 256, draws=256, weights="elbo", batch_size=6 * 256
        )
        return classifier.fit(NAMES).gradient(pixels) - (1 - 4 * posterior)

    few, many = error(256), error(4096)
    assert np.abs(many).max() < 0.2
    assert np.abs(many).mean() < 0.5 * np.abs(few).mean()  # 16 times the draws: a quarter


@pytest.mark.parametrize("optimizer", ["mirror", "adam"])
@pytest.mark.parametrize(("steps", "draws"), [(1, 256), (16, 16)])
def test_it_finds_the_class_of_separable_mixtures(optimizer, steps, draws):
    backbone, pixels, labels = oracle_problem(dz.LogSNRLinearSchedule(), n=100, spread=0.6)
    truth = backbone.posterior(as_x0(pixels)).argmax(1).numpy()
    assert (truth == labels).all()
    classifier = dz.Weighted(
        backbone, steps=steps, draws=draws, optimizer=optimizer, batch_size=1024
    ).fit(NAMES)
    assert (classifier.predict(pixels) == labels.astype(str)).sum() == 100


def test_weights_are_a_distribution_and_cost_does_not_grow_with_classes(sd, photos):
    for words in (["cat", "dog"], ["cat", "dog", "fox", "red fox"]):
        scores = dz.Weighted(sd, steps=3, draws=2).fit(words).scores(photos)
        assert np.allclose(np.exp(scores.logits).sum(1), 1)
        assert (scores.evals == 6).all() and (scores.vjps == 6).all()


def test_evaluations_are_those_counted():
    backbone, pixels, _ = oracle_problem(dz.LogSNRLinearSchedule(), n=5)
    calls = []
    forward = backbone.forward
    backbone.forward = lambda x, t, c: calls.append(len(x)) or forward(x, t, c)
    scores = dz.Weighted(backbone, steps=3, draws=2, batch_size=4).fit(NAMES).scores(pixels)
    assert sum(calls) == scores.evals.sum() == 5 * 3 * 2


def test_no_call_is_larger_than_the_batch(sd, photos):
    calls, forward = [], sd.forward
    sd.forward = lambda x, t, c: calls.append(len(x)) or forward(x, t, c)
    try:
        few = (
            dz.Weighted(sd, steps=1, draws=12, batch_size=5).fit(["cat", "dog"]).scores(photos[:2])
        )
    finally:
        del sd.forward
    assert max(calls) == 5 and sum(calls) == 24
    whole = dz.Weighted(sd, steps=1, draws=12, batch_size=64).fit(["cat", "dog"])
    assert np.allclose(few.logits, whole.scores(photos[:2]).logits, atol=1e-5)


def test_a_rate_too_large_gives_no_nan():
    backbone, pixels, _ = oracle_problem(dz.LogSNRLinearSchedule(), n=6)
    logits = dz.Weighted(backbone, rate=100.0).fit(NAMES).scores(pixels).logits
    assert np.isfinite(logits).all() and (logits > -60).all()


def test_batch_and_neighbours_do_not_matter(sd, photos):
    one = dz.Weighted(sd, steps=2, draws=2, batch_size=2).fit(["cat", "dog"])
    all_ = dz.Weighted(sd, steps=2, draws=2, batch_size=64).fit(["cat", "dog"])
    assert np.allclose(one.scores(photos).logits, all_.scores(photos).logits, atol=1e-5)


def test_candidates_of_each_image(sd, photos):
    classifier = dz.Weighted(sd, steps=2, draws=2)
    lists = [["cat", "dog"], ["cat", "dog", "fox"], ["cat", "dog"]]
    mixed = classifier.scores(photos[:3], candidates=lists).logits
    fixed = classifier.fit(["cat", "dog"]).scores(photos[:3]).logits
    assert np.allclose(mixed[[0, 2], :2], fixed[[0, 2]], atol=1e-5)
    assert np.isneginf(mixed[[0, 2], 2]).all() and np.isfinite(mixed[1]).all()


def test_a_one_hot_mixture_is_the_class_itself(tiny_ddpm, tokenizer):
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.1, 0.5, 0.9])
    cond = tiny_ddpm.embed(tiny_ddpm.classes)
    soft = tiny_ddpm.conditioner.mix(cond, torch.eye(3))
    with torch.no_grad():
        hard = tiny_ddpm.forward(x, t, cond).eps
        assert torch.allclose(tiny_ddpm.forward(x, t, soft).eps, hard, atol=1e-6)
    assert not tiny_ddpm.denoiser.network.class_embedding._forward_hooks  # nothing stays behind
    sd = dz.load(sd_pipeline(tokenizer))
    text = sd.embed(["a cat", "a dog"])
    assert torch.allclose(
        sd.conditioner.mix(text, torch.eye(2)).tensors["text"], text.tensors["text"]
    )


def test_it_classifies_digits_with_the_class_conditional_model():
    from diffzero.data import digits_split

    images, labels = digits_split()[1]
    classifier = dz.Weighted("digits-ddpm", steps=1, draws=16)
    names = [f"{d}" for d in range(10)]
    words = dz.load("digits-ddpm", device="cpu").classes
    assert len(words) == len(names)
    guessed = classifier.fit(words).predict(list(images[:40]))
    assert (guessed == np.array(words)[labels[:40]]).mean() > 0.8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 0}, "rate must be a number above 0"),
        ({"steps": 0}, "steps must be a whole number from 1"),
        ({"optimizer": "sgd"}, "optimizer must be one of mirror, adam, simplex"),
        ({"t_range": (0.5, 0.2)}, r"t_range must be \(min, max\) with min < max"),
    ],
)
def test_bad_options(sd, options, message):
    with pytest.raises(dz.InputError, match=message):
        dz.Weighted(sd, **options).fit(["cat", "dog"])
