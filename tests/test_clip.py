import numpy as np
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
