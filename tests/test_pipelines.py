import numpy as np
import pandas as pd
import pytest
import torch

import diffzero as dz
from diffzero.pipelines import TASK


def test_one_image_gives_one_ranking_and_many_give_a_list(sd, photos):
    classify = dz.pipeline(sd, method="elbo", draws=2)
    one = classify(photos[0], ["cat", "dog", "fox"])
    assert {r["label"] for r in one} == {"cat", "dog", "fox"}
    assert sum(r["score"] for r in one) == pytest.approx(1)
    assert [r["score"] for r in one] == sorted((r["score"] for r in one), reverse=True)
    many = classify(photos[:2], ["cat", "dog", "fox"])
    assert len(many) == 2
    assert [r["label"] for r in many[0]] == [r["label"] for r in one]
    assert len(classify([photos[0]], ["cat", "dog"])) == 1
    stack = np.stack([photos[0]] * 2)
    assert len(classify(stack, ["cat", "dog"])) == 2


def test_template_and_clip(clip, photos):
    ranking = dz.pipeline(clip, method="clip")(
        photos[0], candidate_labels=["cat", "dog"], hypothesis_template="a sketch of a {}"
    )
    expected = dz.CLIP(clip, template="a sketch of a {}").fit(["cat", "dog"])
    assert ranking[0]["label"] == expected.predict(photos[0])[0]


def test_a_collection_of_one_gives_a_list_of_one(clip, photos):
    rank = dz.pipeline(clip)
    one = photos[0]
    for many in ([one], (one,), (p for p in [one]), pd.Series([one]), one[None]):
        (ranking,) = rank(many, ["cat", "dog"])
        assert {r["label"] for r in ranking} == {"cat", "dog"}
    assert isinstance(rank(one, ["cat", "dog"])[0], dict)


def test_calling_form_of_transformers(clip, photos):
    plain = dz.pipeline(clip, method="clip")(photos[0], ["cat", "dog", "red fox"])
    rank = dz.pipeline("zero-shot-image-classification", model=clip, device=-1)
    assert rank.method == "clip" and dz.pipeline(task=TASK, model=clip).method == "clip"
    for given in ({"image": photos[0]}, {"images": photos[0]}):
        assert rank(**given, candidate_labels="cat, dog, red fox", batch_size=1) == plain
    assert rank(photos[0], candidate_labels=["cat", "dog", "red fox"], top_k=1) == plain[:1]
    beforehand = dz.pipeline(
        model=clip, candidate_labels=["cat", "dog", "red fox"], top_k=2, torch_dtype=torch.float32
    )
    assert beforehand(photos[0]) == plain[:2]
    assert beforehand(photos[0], top_k=9) == plain


def test_labels_with_commas_stand_in_quotes(clip, photos):
    ranking = dz.pipeline(clip)(photos[0], '"cat, sketched", dog')
    assert {r["label"] for r in ranking} == {"cat, sketched", "dog"}
    for text in ("cat\uff0cdog", "cat; dog", "cat\ndog", '["cat", "dog"]'):
        assert {r["label"] for r in dz.pipeline(clip)(photos[0], text)} == {"cat", "dog"}


def test_a_model_in_memory_answers_to_every_name_of_its_device(clip):
    for device in ("cpu", "cpu:0", -1, torch.device("cpu"), "auto", None):
        assert dz.pipeline(clip, device=device).model is clip


def test_method_fits_the_model(sd, clip):
    assert dz.pipeline(sd).method == "elbo"
    assert dz.pipeline(clip).method == "clip"
    assert dz.pipeline(sd, method="likelihood").method == "likelihood"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda clip: dz.pipeline("image-to-text", model=clip), "The only task is"),
        (lambda clip: dz.pipeline(clip, steps=3), "no argument 'steps'; it has model, .*template"),
        (lambda clip: dz.pipeline(clip, method=["elbo"]), "method is the name of a method"),
        (lambda clip: dz.pipeline(clip, method="vit"), "No method 'vit'"),
        (lambda clip: dz.pipeline(clip, device="cuda:7"), "cuda:7"),
        (lambda clip: dz.pipeline(clip, device=[0]), "device is a name"),
        (lambda clip: dz.pipeline(clip, dtype="float16"), "is loaded with dtype torch.float32"),
        (lambda clip: dz.pipeline(clip, dtype="float16", torch_dtype="float32"), "one argument"),
        (lambda clip: dz.pipeline(clip)("a.png", "cat"), "Only one label"),
        (lambda clip: dz.pipeline(clip)("a.png"), "candidate_labels are missing"),
        (lambda clip: dz.pipeline(clip)(candidate_labels="a,b"), "its images, once"),
        (lambda clip: dz.pipeline(clip)("a", "b,c", image="a"), "its images, once"),
        (lambda clip: dz.pipeline(clip)("a.png", "a,b", timeout=3), "no argument 'timeout'; it"),
        (lambda clip: dz.pipeline(clip)("a.png", "a,b", top_k=0), "top_k is a number of labels"),
        (lambda clip: dz.pipeline(clip)("a.png", "a,b", top_k="2"), "top_k is a number of labels"),
        (lambda clip: dz.pipeline(clip)("a.png", "a,b", top_k=True), "top_k is a number"),
        (lambda clip: dz.pipeline(clip)("a.png", "a,b"), "Image 0: a.png: no such file"),
        (lambda clip: dz.pipeline("image-classification"), "The only task is"),
        (lambda clip: dz.pipeline(clip, device="c"), "is loaded with device cpu"),
        (lambda clip: dz.pipeline(clip, device=""), "is loaded with device cpu"),
        (lambda clip: dz.pipeline("tiny-clip", device="meta"), "'meta' is not available"),
        (lambda clip: dz.pipeline(clip, top_k="x"), "top_k is a number"),
        (lambda clip: dz.pipeline(clip, batch_size=0), "batch_size must be a whole number"),
        (lambda clip: dz.pipeline(clip, candidate_labels=["a"]), "Only one label"),
        (lambda clip: dz.pipeline(clip)("a", '"b,c'), "A quote is opened and not closed"),
        (lambda clip: dz.pipeline(clip)("a", "b,c", ""), "A template holds one {}"),
        (lambda clip: dz.pipeline(clip, hypothesis_template="a {}", template="{}"), "are one arg"),
        (
            lambda clip: dz.pipeline("tiny-sd", method="cross-attention")("a", "b,c", "a {}"),
            "writes its prompts itself",
        ),
    ],
)
def test_errors(call, message, clip):
    with pytest.raises(dz.InputError, match=message):
        call(clip)
