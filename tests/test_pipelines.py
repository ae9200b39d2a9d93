import numpy as np
import pytest

import diffzero as dz


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


def test_errors(sd, photos):
    with pytest.raises(dz.InputError, match="single string 'cat,dog'"):
        dz.pipeline(sd)(photos[0], "cat,dog")
    with pytest.raises(dz.InputError, match="has no argument 'steps'"):
        dz.pipeline(sd, steps=3)(photos[0], ["cat", "dog"])
