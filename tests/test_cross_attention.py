import numpy as np
import pytest
import torch

import diffzero as dz
from conftest import sd_pipeline


def fitted(sd, words=("cat", "dog", "fox"), **options):
    return dz.CrossAttention(sd, **options).fit(list(words))


def test_a_prompt_holds_every_class_at_known_tokens(sd):
    classifier = fitted(sd, ["cat", "red fox"], form="photo")
    ids, spans = classifier._prompt(["cat", "red fox"])
    assert ids == sd.conditioner.pieces(["a photo of a cat or a photo of a red fox"])[0]
    assert [[ids[i] for i in span] for span in spans] == sd.conditioner.pieces(["cat", "red fox"])
    short = fitted(sd, ["cat", "red fox"])
    assert short._prompt(["cat", "red fox"])[0] == sd.conditioner.pieces(["a cat or a red fox"])[0]


def test_maps_are_the_attention_to_the_class_tokens(sd, photos):
    """By hand, from the maps of one layer in one pass over the clean image."""
    from diffzero.images import to_tensor
    from diffzero.models.attention import captured

    classifier = fitted(sd, order="given", baseline="none", noised=False, t=0.4)
    ids, spans = classifier._prompt(["cat", "dog", "fox"])
    raw = {}
    with torch.no_grad(), captured(sd.attention, raw.__setitem__):
        x = sd.encode(to_tensor(photos[:1], sd.image_size))
        sd.forward(x, torch.tensor([0.4], dtype=torch.float64), sd.conditioner.embed_tokens([ids]))
    expected = []
    for span in spans:
        tokens = [i + sd.conditioner.first_token for i in span]
        layers = [m[0].mean(0)[:, tokens].mean() for m in raw.values()]
        expected.append(float(torch.stack(layers).mean()))
    assert np.allclose(classifier.scores(photos[0]).logits[0], expected, rtol=1e-5)


def test_cyclic_orders_make_the_order_of_the_words_irrelevant(sd, photos):
    words, turned = ["cat", "dog", "fox"], ["dog", "fox", "cat"]
    for aggregate in ("mean", "count"):
        a = fitted(sd, words, aggregate=aggregate).scores(photos).logits
        b = fitted(sd, turned, aggregate=aggregate).scores(photos).logits
        assert np.allclose(a, b[:, [2, 0, 1]], atol=1e-6)
    a = fitted(sd, words, order="given").scores(photos).logits
    b = fitted(sd, turned, order="given").scores(photos).logits
    assert not np.allclose(a, b[:, [2, 0, 1]], atol=1e-6)


def test_an_image_of_pure_noise_has_nothing_above_the_baseline(sd, photos):
    """At t = 1 the image's noise and pure noise are almost the same input."""
    far, near = (np.abs(fitted(sd, t=t).scores(photos).logits).max() for t in (1.0, 0.05))
    assert far < 0.3 * near


def test_groups_and_their_final(sd, photos):
    words = ["cat", "dog", "fox", "red fox", "red cat"]
    classifier = fitted(sd, words, group=2, order="given", baseline="none")
    scores = classifier.scores(photos)
    assert (scores.evals == classifier.count_evals(5)).all()
    for i, row in enumerate(scores.logits):
        winners = []
        for group in classifier._split(words):
            if len(group) > 1:
                pair = fitted(sd, [words[c] for c in group], order="given", baseline="none")
                own = pair.scores(photos[i]).logits[0]
                winners.append(group[own.argmax()])
                assert row[group].argmax() == own.argmax()
                assert np.ptp(row[group]) == pytest.approx(np.ptp(own), abs=1e-6)
            else:
                winners += group
        assert row.argmax() in winners


def test_costs_are_counted_and_batches_do_not_matter(sd, photos):
    calls = []
    forward = sd.forward
    sd.forward = lambda x, t, c: calls.append(len(x)) or forward(x, t, c)
    try:
        classifier = fitted(sd, draws=2, batch_size=5)
        scores = classifier.scores(photos)
        assert sum(calls) == scores.evals.sum() == 5 * classifier.count_evals(3)
    finally:
        del sd.forward
    assert classifier.count_evals(3) == 2 * 3 * 2
    assert fitted(sd, order="given", baseline="none").count_evals(3) == 1
    assert np.allclose(fitted(sd, draws=2).scores(photos).logits, scores.logits, atol=1e-6)


def test_candidates_and_layers(sd, photos):
    classifier = fitted(sd, layers="up_*")
    assert 0 < len(classifier._modules) < len(classifier.layer_names())
    lists = [["cat", "dog"], ["cat", "dog", "fox"]]
    logits = classifier.scores(photos[:2], candidates=lists).logits
    assert np.isneginf(logits[0, 2]) and np.isfinite(logits[1]).all()


def test_heat_maps(sd, photos):
    classifier = fitted(sd, baseline="none")
    maps = classifier.heat_maps(photos[:2])
    assert len(maps) == 2 and maps[0].shape == (3, 8, 8) and (maps[0] > 0).all()
    # Averaged over pixels a map is the logit, where all layers are of one size.
    one = fitted(sd, layers=classifier.layer_names()[0], baseline="none")
    logits = one.scores(photos[:2]).logits
    assert np.allclose([m.mean((1, 2)) for m in one.heat_maps(photos[:2])], logits, atol=1e-6)
    # What lies left in the image lies left in the map.
    left = np.zeros((16, 16, 3), dtype=np.uint8)
    left[:, :8] = 255
    a, b = (one.heat_maps([i])[0] for i in (left, np.ascontiguousarray(left[:, ::-1])))
    sides = [m[0, :, :4].mean() - m[0, :, 4:].mean() for m in (a, b)]
    assert sides[0] * sides[1] < 0


def test_words_that_do_not_fit_are_grouped_or_refused(tokenizer, photos):
    sd = dz.load(sd_pipeline(tokenizer))
    words = ["a photo of a cat", "a photo of a dog", "a sketch of a fox", "red cat"]
    classifier = fitted(sd, words)
    assert len(classifier._split(words)) > 1
    assert np.isfinite(classifier.scores(photos[0]).logits).all()
    long = ["a photo of a red cat cat", "a photo of a red dog dog"]
    for words in (long, [long[0], "fox", long[1], "dog"]):  # they would meet in the final
        with pytest.raises(dz.InputError, match="too few for 'a photo of a red cat cat' and"):
            fitted(sd, words)
        with pytest.raises(dz.InputError, match="in one prompt of the form 'a {}'"):
            dz.CrossAttention(sd).scores(photos[:1], candidates=[words])


def test_cost_is_predicted_where_words_force_groups(sd, photos):
    words = [f"a red {a} {b}" for a, b in (("cat", "dog"), ("dog", "cat"), ("fox", "dog"))]
    words += [f"a {a} {b} {b}" for a, b in (("cat", "dog"), ("dog", "cat"), ("fox", "dog"))]
    classifier = fitted(sd, words)
    assert len(classifier._split(words)) > 1
    assert (classifier.scores(photos).evals == classifier.count_evals(6)).all()
    odd = fitted(sd, ["cat", "dog", "fox", "red fox", "red cat"], group=2)  # one has no rival
    assert (odd.scores(photos).evals == odd.count_evals(5)).all()
    # 2 + 2 + 1 classes, then two winners, then two more: each pair in both orders, with noise.
    assert odd.count_evals(5) == 4 * (2 * 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"t": 0}, r"t must be a number above 0 and up to 1; got 0"),
        ({"layers": "nothing*"}, "match none of"),
        ({"form": "no label"}, "a text with one {} for the label"),
        ({"group": 1}, "group must be a whole number from 2"),
        ({"aggregate": "sum"}, "aggregate must be one of mean, count"),
    ],
)
def test_bad_options(sd, options, message):
    with pytest.raises(dz.InputError, match=message):
        fitted(sd, **options)


def test_a_model_without_text_is_refused(tiny_ddpm):
    with pytest.raises(dz.InputError, match="cross-attention needs a model that reads text"):
        dz.CrossAttention(tiny_ddpm).fit(["zero", "one"])


def test_an_encoder_that_splits_words_more_finely_is_given_room():
    words = ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker"]
    classifier = dz.CrossAttention("tiny-flow").fit(words)  # CLIP's "t-shirt" is three words of T5
    logits = classifier.scores(np.zeros((32, 32, 3), np.uint8)).logits
    assert logits.shape == (1, 8) and np.isfinite(logits).all()
