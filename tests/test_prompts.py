import pytest

import diffzero as dz
from diffzero.prompts import check_labels, check_readable, check_templates, fill


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("cat,dog", r"Write \['cat', 'dog'\]"),
        ([], "empty"),
        (["cat", "  "], "Label 2 of 2 is blank"),
        (["cat", "dog", "Cat "], "repeat: 'Cat ', 'cat'"),
        (["cat"], "Only one label"),
        (["cat", "\u200b\u200e"], "Label 2 of 2 is blank"),
        (["cat", "\x1b[31mdog"], "Label 2 is no word"),
    ],
)
def test_bad_labels(labels, message):
    with pytest.raises(dz.InputError, match=message):
        check_labels(labels)


def test_templates():
    assert check_templates(None, "a {}") == ["a {}"]
    assert fill(["a {}", "the {}"], ["cat", "dog"]) == ["a cat", "the cat", "a dog", "the dog"]
    assert fill(["a {}"], ["{weird}"]) == ["a {weird}"]
    for bad in ("a photo", "{} and {}", "", "a \0 {} {}"):
        with pytest.raises(dz.InputError, match="holds one {}|at most 1,000 characters"):
            check_templates(bad, "a {}")
    with pytest.raises(dz.InputError, match="empty"):
        check_templates([], "a {}")


def test_labels_that_tokenise_alike_are_refused(sd):
    with pytest.raises(
        dz.InputError, match="reads the labels 'red fox' and 'red-fox' as the same"
    ):
        check_readable(_Coarse(), ["red fox", "red-fox"], ["{}"])
    check_readable(sd, ["cat", "dog", "zebra"], ["a {}"])


class _Coarse:
    """A reader that only sees letters, as some tokenizers do."""

    name, vocabulary = "coarse", None

    def signature(self, prompts):
        return ["".join(c for c in p if c.isalpha()) for p in prompts]


def test_words_outside_a_bundled_vocabulary_warn(sd, monkeypatch):
    monkeypatch.setattr(sd, "vocabulary", frozenset({"cat", "dog"}), raising=False)
    with pytest.warns(UserWarning, match="never saw the words colt's, foot in training"):
        dz.ELBO("tiny-sd", draws=1).fit(["colt's foot", "bag"])
    with pytest.warns(UserWarning, match="never saw the words zebra in training"):
        dz.ELBO(sd, draws=1).fit(["cat", "zebra"])


def test_two_articles_in_a_row_warn(sd):
    with pytest.warns(UserWarning, match="another from the template 'a photo of a {}'"):
        check_readable(sd, ["a cat", "the dog"], ["a photo of a {}"])
    check_readable(sd, ["a cat", "the dog"], ["{}"])


def test_label_longer_than_the_window(sd):
    with pytest.raises(dz.InputError, match="reads at most 14 tokens"):
        dz.ELBO(sd, draws=1).fit(["cat", "dog " * 40])
