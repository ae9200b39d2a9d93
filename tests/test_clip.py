import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import diffzero as dz


def test_logits_are_those_of_transformers(clip, photos):
    names = ["cat", "dog", "red fox"]
    scores = dz.CLIP(clip).fit(names).scores(photos)
    tokens = clip.tokenizer(
        [f"a photo of a {n}" for n in names], padding="max_length", return_tensors="pt"
    )
    pixels = clip.processor([Image.fromarray(p) for p in photos], return_tensors="pt")
    with torch.no_grad():
        expected = clip.model(**tokens, **pixels).logits_per_image.numpy()
    assert np.allclose(scores.logits, expected, atol=1e-4)
    assert scores.evals.tolist() == [1] * len(photos)


def test_template_ensemble_is_the_normalised_mean(clip, photos):
    templates = ["a photo of a {}", "a sketch of a {}"]
    classifier = dz.CLIP(clip, template=templates).fit(["cat", "dog"])
    features = clip.text_features([t.format("cat") for t in templates]).mean(0)
    cosine = clip.image_features(photos[:1])[0] @ features / features.norm()
    logit = classifier.scores(photos[:1]).logits[0, 0]
    assert np.isclose(logit, clip.logit_scale * float(cosine), atol=1e-5)


def test_batches_and_candidates(clip, photos):
    whole = dz.CLIP(clip).fit(["cat", "dog", "fox"]).scores(photos).logits
    small = dz.CLIP(clip, batch_size=2).fit(["cat", "dog", "fox"]).scores(photos).logits
    assert np.allclose(whole, small, atol=1e-5)
    own = dz.CLIP(clip).scores(photos[:2], candidates=[["fox", "cat"], ["cat", "dog", "fox"]])
    assert np.allclose(own.logits[0, :2], whole[0, [2, 0]], atol=1e-5)
    assert np.isneginf(own.logits[0, 2])


def test_prompts_are_embedded_some_at_a_time(clip, monkeypatch):
    """Eighty templates of a thousand words in one call would take some 50 GB."""
    prompts = [f"a photo of a {n}" for n in ("cat", "dog", "fox", "red fox", "red cat")]
    whole, rows, ask = clip.text_features(prompts), [], clip.model.get_text_features
    monkeypatch.setattr("diffzero.models.clip.PROMPTS_AT_ONCE", 2)
    monkeypatch.setattr(
        clip.model,
        "get_text_features",
        lambda ids, mask: (rows.append(len(ids)), ask(ids, mask))[1],
    )
    assert torch.allclose(clip.text_features(prompts), whole, atol=1e-6)
    assert rows == [2, 2, 1]


def peak():
    """Bytes that this process held at most since the last call."""
    high = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
    Path("/proc/self/clear_refs").write_text("5")
    return 1024 * int(high)


def clip_at_224(clip, **processing):
    """A tiny CLIP of real classes that takes images of the usual size."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    from diffzero.models.clip import ClipBackbone

    torch.manual_seed(0)
    tiny = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2}  # fmt: skip
    vision = tiny | {"image_size": 224, "patch_size": 32}
    model = CLIPModel(CLIPConfig(text_config=tiny, vision_config=vision, projection_dim=8))
    return ClipBackbone(model, clip.tokenizer, CLIPImageProcessor(**processing))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("shape", [(4000, 1, 3), (1, 4000, 3), (3, 30_000, 3)])
def test_slender_images_are_cropped_before_they_are_enlarged(clip, shape):
    """At 224 pixels, 4,000 x 1 would become 896,000 x 224: 600 MB, and more as floats."""
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    model = clip_at_224(clip)
    model.image_features([image[:20, :20]])  # what happens once
    peak()
    before = peak()
    assert torch.isfinite(model.image_features([image])).all()
    assert peak() - before < 60e6


def test_slender_images_give_what_the_processor_makes_of_them_whole(clip):
    wave = 127 + 120 * np.sin(np.arange(630) / 15)[None, :, None] * np.array([1, 0.5, -1])
    image = np.repeat(wave, 30, 0).round().astype(np.uint8)
    for processing in ({}, {"do_center_crop": False, "size": {"height": 224, "width": 224}}):
        model = clip_at_224(clip, **processing)
        whole = model.processor([Image.fromarray(image)], return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            want = model.model.get_image_features(whole)
        want = getattr(want, "pooler_output", want)
        found = model.image_features([image])
        assert torch.allclose(found, torch.nn.functional.normalize(want, dim=-1), atol=1e-2)


def test_prompts_are_padded_on_the_right_by_any_thread():
    """Tokenizers keep how they pad in a state of their own, which threads share."""
    from concurrent.futures import ThreadPoolExecutor

    model = dz.load("tiny-clip", device="cpu")
    few, many = ["a bag"], ["a photo of a sneaker", "an ankle boot"]
    expected = {1: model.text_features(few), 2: model.text_features(many)}
    with ThreadPoolExecutor(8) as pool:
        asked = [few, many] * 40
        for prompts, found in zip(asked, pool.map(model.text_features, asked), strict=True):
            assert torch.allclose(found, expected[len(prompts)], atol=1e-6)
    model.tokenizer.padding_side = "left"
    assert torch.equal(model.text_features(many), expected[2])
