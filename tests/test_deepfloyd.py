import importlib.util

import numpy as np
import pytest
import torch

import diffzero as dz
from conftest import CAPTIONS, if_pipeline
from diffzero.models.denoiser import Limits
from diffzero.scoring.samplers import denoise
from test_stable_diffusion import TEXT_METHODS

PROMPTS = ["a photo of a cat", "A photo of a dog ", "a zebra", ""]


def test_embeddings_are_those_of_the_pipeline(if_pipe, deepfloyd):
    theirs, _ = if_pipe.encode_prompt(PROMPTS, do_classifier_free_guidance=False, device="cpu")
    assert torch.equal(deepfloyd.embed(PROMPTS).tensors["text"], theirs)
    assert theirs.shape == (4, 77, 24)
    assert deepfloyd.signature(["A cat"]) == deepfloyd.signature(["a cat "])
    assert deepfloyd.signature(["a cat"]) != deepfloyd.signature(["a dog"])


def test_betas_are_the_cosine_ones_and_pixels_are_x0(if_pipe, deepfloyd):
    bar = torch.from_numpy(np.cumprod(1 - if_pipe.scheduler.betas.double().numpy()))
    assert torch.allclose(deepfloyd.schedule.alphas_cumprod, bar, rtol=1e-4)
    halfway = float(np.cos((0.5 + 0.008) / 1.008 * np.pi / 2) ** 2)
    assert float(deepfloyd.schedule.alphas_cumprod[499]) == pytest.approx(halfway, rel=1e-3)
    images = torch.rand(2, 3, 8, 8) * 2 - 1
    assert torch.equal(deepfloyd.encode(images), images)
    assert torch.equal(deepfloyd.decode(2 * images), (2 * images).clamp(-1, 1))
    assert (deepfloyd.shape, deepfloyd.image_size, deepfloyd.grey_step) == ((3, 8, 8), 8, 2 / 255)


RULES = {
    "thresholding": {},
    "clipping": {"thresholding": False},
    "neither": {"thresholding": False, "clip_sample": False},
}


@pytest.mark.parametrize("rule", RULES)
@torch.no_grad()
def test_guidance_with_learned_variance_is_diffusers_own_step_by_step(tmp_path, rule):
    """The pipeline's guidance and its scheduler's step, on the outputs of the same network."""
    pipe = if_pipeline(tmp_path, **RULES[rule])
    backbone = dz.load(pipe)
    text, empty = pipe.encode_prompt(["a red fox"] * 2, device="cpu")
    cond = backbone.embed(["a red fox"] * 2)
    g = torch.Generator().manual_seed(0)
    seen = []
    for n in (999, 900, 600, 250, 40, 1):
        x_t = 1.5 * torch.randn(2, 3, 8, 8, generator=g)
        both = pipe.unet(torch.cat([x_t, x_t]), n, torch.cat([empty, text])).sample
        o_u, o_c = both.chunk(2)
        eps = o_u[:, :3] + 7 * (o_c[:, :3] - o_u[:, :3])
        output = torch.cat([eps, o_c[:, 3:]], 1)
        step = pipe.scheduler.step(output, n, x_t, generator=g)
        t = torch.full((2,), (n + 1) / 1000, dtype=torch.float64)
        own = backbone.guided(7.0).forward(x_t, t, cond)
        assert torch.allclose(own.eps, eps, atol=1e-4)
        x = backbone.denoiser.limits(own.x)
        assert torch.allclose(x, step.pred_original_sample, rtol=1e-3, atol=1e-4)
        seen.append(float(own.x.abs().max() - x.abs().max()))
    assert (max(seen) > 1) == (rule != "neither")  # there was something to restrict


@pytest.mark.parametrize("rule", ["thresholding", "clipping"])
@torch.no_grad()
def test_a_whole_run_is_that_of_the_pipeline(tmp_path, rule):
    """diffusers' `IFPipeline` itself with its DDIM scheduler, against our sampler."""
    from diffusers import DDIMScheduler

    pipe = if_pipeline(tmp_path, variance_type="fixed_small", **RULES[rule])
    backbone = dz.load(pipe)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    pipe.set_progress_bar_config(disable=True)
    noise = torch.Generator().manual_seed(3)
    theirs = pipe(
        ["a photo of a cat", "a red fox"],
        num_inference_steps=10,
        guidance_scale=7.0,
        generator=noise,
        output_type="pt",
    ).images
    x_t = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    cond = backbone.embed(["a photo of a cat", "a red fox"])
    own = denoise(backbone.guided(7.0), x_t, cond, 1.0, 10)
    assert torch.allclose(own, theirs, atol=2e-3)
    assert not torch.allclose(own[0], own[1], atol=0.05)


def test_limits_threshold_each_image_by_itself():
    x = torch.tensor([[0.5, -0.5, 0.2, 0.1], [3.0, -1.2, 0.6, 0.0], [9.0, -9.0, 9.0, 9.0]])
    limits = Limits(quantile=0.5, most=1.5)
    assert torch.allclose(limits(x)[0], x[0])  # s is at least 1
    assert torch.allclose(limits(x)[1], torch.tensor([1.0, -1.0, 0.6, 0.0]))  # median 0.9 -> 1
    assert torch.allclose(limits(x)[2].abs(), torch.ones(4))  # s is at most 1.5
    wide = Limits(quantile=1.0, most=4.0)(x[1:2])
    assert torch.allclose(wide, x[1:2] / 3)  # pushed inwards, not cut
    assert limits(x.half()).dtype == torch.float16 and torch.equal(Limits()(x), x)


def test_a_folder_scores_like_the_pipeline_in_memory(if_pipe, deepfloyd, photos, tmp_path):
    if_pipe.save_pretrained(tmp_path / "model")
    loaded = dz.load(tmp_path / "model")
    assert (
        loaded.conditioner.stream.tokenizer("a fox").input_ids
        == if_pipe.tokenizer("a fox").input_ids
    )
    logits = [
        dz.ELBO(b, draws=2).fit(["cat", "dog"]).scores(photos[:2]).logits
        for b in (deepfloyd, loaded)
    ]
    assert np.allclose(*logits, rtol=1e-5)
    assert loaded.denoiser.limits == Limits(quantile=0.95, most=1.5)


def test_every_method_runs_on_a_real_folder(if_pipe, photos, tmp_path):
    from diffzero.methods import METHODS, make

    if_pipe.save_pretrained(tmp_path / "model")
    backbone = dz.load(tmp_path / "model")
    assert set(TEXT_METHODS) | {"clip"} == set(METHODS)
    words = ["cat", "dog", "red fox"]
    for name, options in TEXT_METHODS.items():
        classifier = make(name, backbone, options).fit(words)
        scores = classifier.scores(photos[:2])
        assert np.isfinite(scores.logits).all(), name
        most = classifier.count_evals(3)
        fewer = classifier.stops_early and scores.evals.max() <= most
        assert fewer or (scores.evals == most).all(), name
        assert np.allclose(classifier.predict_proba(photos[:2]).sum(1), 1), name
    with pytest.raises(dz.InputError, match="clip needs a CLIP model"):
        make("clip", backbone, {}).fit(words)


def test_a_vector_stands_where_its_token_stood(deepfloyd):
    """No start token: place 0 is the first word. The vector of a word gives back that word."""
    ids = deepfloyd.conditioner.pieces(["a photo of a cat"])[0]
    plain = deepfloyd.embed(["a photo of a cat"]).tensors["text"]
    for place in range(len(ids)):
        own = deepfloyd.conditioner.token_vectors([ids[place]])
        row = [*ids[:place], deepfloyd.conditioner.pieces(["dog"])[0][0], *ids[place + 1 :]]
        vector = own.clone().requires_grad_()
        states = deepfloyd.conditioner.embed_tokens([row], vector, [place]).tensors["text"]
        assert torch.allclose(states, plain, atol=1e-6)
        assert not torch.allclose(
            deepfloyd.conditioner.embed_tokens([row]).tensors["text"], plain, atol=1e-3
        )
        (slope,) = torch.autograd.grad(states.square().sum(), vector)
        assert slope.abs().max() > 0


def test_textual_inversion_compares_the_states_at_the_token(deepfloyd, photos):
    method = dz.TextualInversion(deepfloyd, steps=5, draws=2, rate=0.05).fit(["cat", "dog"])
    # The learned token starts as the word itself: at distance 0 from its class.
    for column, word in enumerate(["cat", "dog"]):
        vector = deepfloyd.conditioner.token_vectors(
            deepfloyd.conditioner.pieces([word])[0]
        ).numpy()
        distance = method.distances(vector)[0]
        assert distance[column] == pytest.approx(0, abs=1e-5) and distance[1 - column] > 1e-3
    learned = method.learn(photos[:1], checks=[0, 5])
    assert not np.allclose(learned.vectors[0], learned.vectors[1])


def test_attention_reads_the_classes_tokens_among_text_and_image_keys(deepfloyd, photos):
    """The map of a class, worked out anew from the probabilities at the token's own key."""
    from diffzero.models.attention import captured

    method = dz.CrossAttention(deepfloyd, noised=False, baseline="none", order="given")
    method.fit(["cat", "dog"])
    logits = method.scores(photos[:1]).logits[0]
    ids = deepfloyd.conditioner.pieces(["a cat or a dog"])[0]
    places = [ids.index(deepfloyd.conditioner.pieces([word])[0][0]) for word in ("cat", "dog")]
    maps = {}
    x_0 = method._encode([photos[0]])
    with torch.no_grad(), captured(deepfloyd.attention, maps.__setitem__):
        t = torch.full((1,), method.t, dtype=torch.float64)
        deepfloyd.forward(x_0, t, deepfloyd.embed(["a cat or a dog"]))
    for probabilities in maps.values():
        assert probabilities.shape[-1] == 77 + probabilities.shape[-2]  # image keys after the text
    expected = [np.mean([float(m[..., p].mean()) for m in maps.values()]) for p in places]
    assert np.allclose(logits, expected, rtol=1e-5)
    assert abs(expected[0] - expected[1]) > 1e-6


@pytest.mark.parametrize("part", ["unet", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_part_is_named(if_pipe, tmp_path, part):
    if_pipe.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / part).rename(tmp_path / "elsewhere")
    with pytest.raises(dz.InputError, match=f"the folder {part}/ is missing"):
        dz.load(tmp_path / "model")


def test_half_written_and_pickled_weights_are_refused(if_pipe, tmp_path):
    if_pipe.save_pretrained(tmp_path / "model")
    text = tmp_path / "model" / "text_encoder"
    weights = text / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:500])
    with pytest.raises(dz.InputError, match=r"half-written \(500 bytes\)"):
        dz.load(tmp_path / "model")
    weights.unlink()
    torch.save(if_pipe.text_encoder.state_dict(), text / "pytorch_model.bin")
    with pytest.raises(dz.InputError, match="a pickle where safetensors is expected"):
        dz.load(tmp_path / "model")


def test_other_pipelines_are_refused(tmp_path):
    pipe = if_pipeline(tmp_path)
    pipe.text_encoder = None
    with pytest.raises(dz.InputError, match="the pipeline has no text_encoder"):
        dz.load(pipe)
    stage_2 = if_pipeline(tmp_path)
    stage_2.unet = type(stage_2.unet).from_config({**stage_2.unet.config, "in_channels": 6})
    with pytest.raises(dz.InputError, match="super-resolution stage"):
        dz.load(stage_2)
    odd = if_pipeline(tmp_path)
    odd.unet = type(odd.unet).from_config({**odd.unet.config, "out_channels": 4})
    with pytest.raises(dz.InputError, match="takes 3 channels and gives 4"):
        dz.load(odd)


def test_without_sentencepiece_the_sentence_says_what_to_install(if_pipe, tmp_path, monkeypatch):
    if_pipe.save_pretrained(tmp_path / "model")
    monkeypatch.setitem(__import__("sys").modules, "sentencepiece", None)
    assert importlib.util.find_spec("sentencepiece") is None
    with pytest.raises(dz.InputError, match="pip install sentencepiece"):
        dz.load(tmp_path / "model")


def test_a_vocabulary_in_sentencepiece_format_is_read(if_pipe, photos, tmp_path):
    """The published checkpoints hold `spiece.model` and no `tokenizer.json`."""
    import json

    import sentencepiece

    folder = tmp_path / "model"
    if_pipe.save_pretrained(folder)
    for file in (folder / "tokenizer").iterdir():
        file.unlink()
    with (folder / "tokenizer" / "spiece.model").open("wb") as out:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(CAPTIONS * 20),
            model_writer=out,
            vocab_size=19,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            minloglevel=2,
        )
    config = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0, "model_max_length": 512}
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(config))
    backbone = dz.load(folder)
    reference = sentencepiece.SentencePieceProcessor(str(folder / "tokenizer" / "spiece.model"))
    text = "a photo of a red fox"
    assert backbone.conditioner.pieces([text]) == [reference.encode(text)]
    assert backbone.conditioner.room == 76  # IF's own window, whatever T5 could take
    scores = dz.ELBO(backbone, draws=1).fit(["cat", "dog"]).scores(photos[:1])
    assert np.isfinite(scores.logits).all()


LOAD = """
import sys
import diffzero as dz
from diffzero.models.cards import Card
from diffzero.models.hub import fetch_card
try:
    model = dz.load("someone/small-if")
    print(type(model.conditioner).__name__, model.shape)
    card = Card("small", "deepfloyd", "someone/half", variant="fp16")
    model = dz.load(fetch_card(card))
    print(float(model.embed(["a cat"]).tensors["text"].sum()))
    dz.load("someone/odd")
except dz.InputError as error:
    print(error)
"""


def test_hub_repositories_are_known_by_their_index(if_pipe, tmp_path):
    """From the hub client's own cache, offline; one holds half-precision files alone."""
    import json
    import os
    import subprocess
    import sys

    def repository(name):
        home = tmp_path / "hub" / f"models--someone--{name}"
        (home / "refs").mkdir(parents=True)
        (home / "refs" / "main").write_text("0" * 40)
        return home / "snapshots" / ("0" * 40)

    if_pipe.save_pretrained(repository("small-if"))
    half = repository("half")
    if_pipe.save_pretrained(half, variant="fp16")
    assert not (half / "unet" / "diffusion_pytorch_model.safetensors").exists()
    odd = repository("odd")
    odd.mkdir(parents=True)
    (odd / "model_index.json").write_text(json.dumps({"_class_name": "IFSuperResolutionPipeline"}))
    names = {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", LOAD], env=os.environ | names, capture_output=True, text=True
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "Text (3, 8, 8)", done.stderr
    expected = float(dz.load(if_pipe).embed(["a cat"]).tensors["text"].sum())
    assert float(lines[1]) == pytest.approx(expected, rel=1e-4)
    in_a_folder = dz.load(half).embed(["a cat"]).tensors["text"].sum()
    assert float(in_a_folder) == pytest.approx(expected, rel=1e-4)
    assert lines[2].startswith("someone/odd: a IFSuperResolutionPipeline is not supported yet")


def test_long_prompts_are_refused(deepfloyd):
    with pytest.raises(dz.InputError, match="reads at most 76 tokens"):
        deepfloyd.embed(["a photo of a " + "cat " * 80])
