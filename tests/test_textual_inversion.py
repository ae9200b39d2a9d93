import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import diffzero as dz
from conftest import sd_pipeline
from diffzero.methods.textual_inversion import load_token, save_token
from diffzero.noise import gaussian, image_key, quantiles
from diffzero.scoring.engine import Batch, Subject


def fitted(sd, **options):
    return dz.TextualInversion(sd, **{"steps": 3, "draws": 2, **options}).fit(["cat", "red fox"])


def loss(classifier, vectors, views, keys, step):
    """Mean loss of each image in a step, `[b]`, of vectors `[b, d]` and views `[b, v, ...]`."""
    b, numbers = len(keys), np.arange(step * classifier.draws, (step + 1) * classifier.draws)
    t = np.concatenate([classifier.times_.at(quantiles(key, numbers)) for key in keys])
    subjects = [Subject(view, key) for view, key in zip(views, keys, strict=True)]
    nothing, place = np.zeros(len(t), np.int64), np.repeat(np.arange(b), len(numbers))
    batch = Batch(subjects, [None] * b, place, nothing, np.tile(numbers, b), t, nothing, 0)
    return classifier._losses(vectors, batch).view(b, -1).mean(1)


def test_the_gradient_agrees_with_finite_differences(tokenizer, photos):
    pipe = sd_pipeline(tokenizer).to(torch.float64)
    classifier = fitted(dz.load(pipe), augmentations=2)
    views, keys = classifier._views(photos[:2]), [image_key(0, p) for p in photos[:2]]
    start = torch.stack([classifier._start(["cat", "red fox"])] * 2).double().requires_grad_()
    (slope,) = torch.autograd.grad(loss(classifier, start, views, keys, 0).sum(), start)
    assert slope.abs().max() > 1e-6
    for image, axis in ((0, 0), (0, 7), (1, 15)):
        step = torch.zeros_like(start)
        step[image, axis] = 1e-5
        with torch.no_grad():
            up, down = (loss(classifier, start + s, views, keys, 0).sum() for s in (step, -step))
        assert slope[image, axis] == pytest.approx(float(up - down) / 2e-5, rel=1e-3, abs=1e-9)


def test_the_token_stands_where_the_label_stood(sd):
    """A learned token that equals a word's embedding gives that word's state."""
    classifier = fitted(sd, template="a photo of a {}")
    (word,) = sd.conditioner.pieces(["cat"])
    assert len(word) == 1
    for pool in ("token", "eos"):
        own = fitted(sd, pool=pool, template="a photo of a {}")
        states = own.learned_states(sd.conditioner.token_vectors(word))
        assert torch.allclose(states, own._class_states[:1], atol=1e-6)
    assert classifier.distances(sd.conditioner.token_vectors(word).numpy()).argmin() == 0


def test_prompts_by_token_are_prompts_by_text(sd, tokenizer):
    texts = ["a photo of a cat", "a red fox", ""]
    rows = sd.conditioner.pieces(texts)
    assert torch.equal(
        sd.conditioner.embed_tokens(rows).tensors["text"], sd.embed(texts).tensors["text"]
    )
    with pytest.raises(dz.InputError, match="A prompt of 40 tokens does not fit"):
        sd.conditioner.embed_tokens([[3] * 40])


def test_every_view_meets_every_time(sd, photos):
    """Times are bit-reversed, so views taken in turn would meet the same few for ever."""
    classifier = fitted(sd, augmentations=7, draws=16)
    views = classifier._views(photos[:1])
    marked = torch.arange(8.0).view(1, 8, 1, 1, 1).expand_as(views).contiguous()
    met = [[] for _ in range(8)]
    forward = sd.forward

    def met_of(x, t, c):
        alpha, sigma = sd.schedule(t)
        eps = torch.from_numpy(np.stack([gaussian(key, n, sd.shape) for n in numbers]))
        view = (x - sigma.float().view(-1, 1, 1, 1) * eps) / alpha.float().view(-1, 1, 1, 1)
        for v, time in zip(
            view.flatten(1).mean(1).round().long().tolist(), t.tolist(), strict=True
        ):
            met[v].append(time)
        return forward(x, t, c)

    key = image_key(0, photos[0])
    sd.forward = met_of
    try:
        for step in range(16):
            numbers = np.arange(step * 16, step * 16 + 16)
            loss(classifier, classifier._start(["cat"])[None], marked, [key], step)
    finally:
        del sd.forward
    for times_of_view in met:
        assert len(times_of_view) == 32
        assert min(times_of_view) < 0.2 and max(times_of_view) > 0.8


def test_learning_lowers_the_loss():
    from diffzero.data import digits_split

    images = list(digits_split()[1][0][:2])
    classifier = dz.TextualInversion("tiny-sd", steps=40, draws=8, rate=0.02)
    classifier.fit(["handwritten digit zero", "sneaker"])
    losses = classifier.learn(images).losses
    assert losses.shape == (40, 2)
    assert (losses[-10:].mean(0) < losses[:10].mean(0)).all()


def test_images_learn_as_if_alone(sd, photos):
    calls, forward = [], sd.forward
    sd.forward = lambda x, t, c: calls.append(len(x)) or forward(x, t, c)
    try:
        tight = fitted(sd, draws=5, batch_size=2).scores(photos[:1])
    finally:
        del sd.forward
    assert max(calls) == 2 and sum(calls) == 15
    assert np.allclose(tight.logits, fitted(sd, draws=5).scores(photos[:1]).logits, atol=1e-4)
    with torch.no_grad():  # learning needs gradients whoever calls
        together = fitted(sd, batch_size=64).scores(photos[:3])
    alone = fitted(sd, batch_size=2).scores(photos[:3])
    assert np.allclose(together.logits, alone.logits, atol=1e-4)
    assert (together.evals == 6).all() and (together.vjps == 6).all()


def test_checks_are_stops_on_the_way(sd, photos):
    classifier = fitted(sd)
    learned = classifier.learn(photos[:2], checks=(0, 1, 3))
    assert learned.vectors.shape[:2] == (3, 2)
    assert np.allclose(
        learned.vectors[0], torch.stack([classifier._start(["cat", "red fox"])] * 2)
    )
    short = dz.TextualInversion(sd, steps=1, draws=2).fit(["cat", "red fox"])
    assert np.allclose(-classifier.distances(learned.vectors[1]), short.scores(photos[:2]).logits)


def test_candidates(sd, photos):
    lists = [["cat", "dog"], ["cat", "dog", "fox"]]
    logits = fitted(sd).scores(photos[:2], candidates=lists).logits
    assert np.isneginf(logits[0, 2]) and np.isfinite(logits[1]).all() and (logits[:, 0] < 0).all()


def test_tokens_travel_to_diffusers_and_back(tokenizer, photos, tmp_path):
    pipe = sd_pipeline(tokenizer)
    classifier = fitted(dz.load(pipe))
    vector = classifier.learn(photos[:1]).vectors[0, 0]
    path = tmp_path / "photo.safetensors"
    save_token(vector, "<photo>", path)
    name, back = load_token(path)
    assert name == "<photo>" and np.array_equal(back.numpy(), vector)
    pipe.load_textual_inversion(str(path))
    state = dz.load(pipe).embed(["a photo of a <photo>"]).tensors["text"]
    place = classifier.backbone_.conditioner.first_token + len(classifier._before)
    ours = classifier.learned_states(torch.from_numpy(vector)[None])
    assert torch.allclose(state[0, place].double(), ours[0], atol=1e-5)
    again = dz.TextualInversion(classifier.backbone_, start=str(path)).fit(["cat", "red fox"])
    assert np.allclose(again._start(["cat"]).numpy(), vector)


def test_bad_token_files(sd, tmp_path):
    with pytest.raises(dz.InputError, match=r"written to a \.safetensors file"):
        save_token(np.zeros(4), "<x>", tmp_path / "x.bin")
    save_token(np.zeros(7), "<x>", tmp_path / "narrow.safetensors")
    with pytest.raises(dz.InputError, match="a token of 7 numbers; .* embeds tokens in 16"):
        fitted(sd, start=str(tmp_path / "narrow.safetensors"))
    save_file({"<x>": np.zeros((2, 16), dtype=np.float32)}, tmp_path / "two.safetensors")
    with pytest.raises(dz.InputError, match=r"one vector is read; it holds tensors \[\[2, 16\]\]"):
        load_token(tmp_path / "two.safetensors")
    with pytest.raises(dz.InputError, match="start is blank"):
        fitted(sd, start=" ")
    with pytest.raises(dz.InputError, match=r"checks are numbers of steps.*got \(-1,\)"):
        fitted(sd).learn([np.zeros((8, 8, 3), np.uint8)], checks=(-1,))
    (tmp_path / "x.safetensors").write_bytes(b"nonsense")
    with pytest.raises(dz.InputError, match="not a readable safetensors file"):
        load_token(tmp_path / "x.safetensors")


def test_a_model_without_text_is_refused(tiny_ddpm, clip):
    with pytest.raises(dz.InputError, match="needs a model that reads text, and tiny does not"):
        dz.TextualInversion(tiny_ddpm).fit(["zero", "one"])
    with pytest.raises(dz.InputError, match="textual-inversion needs a diffusion model"):
        dz.TextualInversion(clip).fit(["zero", "one"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 0}, "rate must be a number above 0"),
        ({"augmentations": -1}, "augmentations must be a whole number from 0"),
        ({"pool": "mean"}, "pool must be one of token, eos"),
        ({"t_range": (0.9, 0.1)}, r"t_range must be \(min, max\) with min < max"),
    ],
)
def test_bad_options(sd, options, message):
    with pytest.raises(dz.InputError, match=message):
        fitted(sd, **options)
