"""Logits of every bundled model by every method that fits it, kept as they were first measured.

A change of the code that is meant to keep behaviour keeps these. After a change that is meant to
move them (other weights of a bundled model, another default), write them anew and say why:

    python tests/test_golden.py
"""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_sample_images

import diffzero as dz
from diffzero.methods import make

GOLDEN = Path(__file__).parent / "golden" / "logits.json"
TEXT = ["handwritten digit zero", "sneaker", "red circle", "ankle boot"]
DIGITS = [f"handwritten digit {n}" for n in ("zero", "one", "two", "three")]
ROWS = {
    "elbo": {"draws": 4},
    "likelihood": {"steps": 3},
    "latent-knn": {"steps": 4},
    "noise-denoise": {"steps": 6, "draws": 2},
    "noise-denoise-vote": {"steps": 5, "levels": (0.3, 0.6)},
}
TEXT_ROWS = ROWS | {
    "weighted": {"steps": 3, "draws": 4},
    "cross-attention": {},
    "textual-inversion": {"steps": 3, "draws": 2, "augmentations": 3},
}
MODELS = {
    "digits-ddpm": (DIGITS, ROWS | {"weighted": TEXT_ROWS["weighted"]}),
    "cifar10-ddpm": (["airplane", "cat", "frog", "truck"], ROWS),
    "tiny-sd": (TEXT, TEXT_ROWS),
    "tiny-if": (TEXT, TEXT_ROWS),
    "cifar10-ldm": (
        ["airplane", "cat", "frog", "truck"],
        {"elbo": {"draws": 4}, "noise-denoise": {"steps": 1, "draws": 2, "distance": "latent-l2"}},
    ),
    "photos-sd": (["airplane", "cat", "frog", "truck"], {"elbo": {"draws": 4}}),
    "tiny-clip": (TEXT, {"clip": {}}),
}
CASES = [(model, method) for model, (_, methods) in MODELS.items() for method in methods]


def pictures():
    """Eight images that need no file: digits, and pieces of scikit-learn's photographs."""
    digits = [(i * 255 / 16).round().astype(np.uint8) for i in load_digits().images[:4]]
    grey = [np.repeat(d[..., None], 3, -1) for d in digits]
    photos = load_sample_images().images
    corners = [(0, 0), (150, 200)]
    return grey + [p[y : y + 200, x : x + 240].copy() for p in photos for y, x in corners]


def measured(model, method):
    classes, methods = MODELS[model]
    classifier = make(method, dz.load(model, device="cpu"), dict(methods[method]))
    return classifier.fit(classes).scores(pictures())


@pytest.mark.parametrize(("model", "method"), CASES)
def test_logits_are_those_that_were_kept(model, method):
    if not (kept := json.loads(GOLDEN.read_text())).get(model):
        pytest.skip(f"no kept logits of {model}: its weights are new")
    want = kept[model][method]
    scores = measured(model, method)
    logits = np.array(want["logits"])
    # Of the summed error: sums over pixels are compared, whose differences are smaller by far.
    size = np.abs(logits).max(1, keepdims=True)
    assert (np.abs(scores.logits - logits) <= 1e-5 * np.maximum(size, 1e-3)).all()
    assert scores.evals.tolist() == want["evals"]
    assert (None if scores.vjps is None else scores.vjps.tolist()) == want["vjps"]


if __name__ == "__main__":
    kept = {}
    for model, method in CASES:
        scores = measured(model, method)
        kept.setdefault(model, {})[method] = {
            "logits": scores.logits.tolist(),
            "evals": scores.evals.tolist(),
            "vjps": None if scores.vjps is None else scores.vjps.tolist(),
        }
    GOLDEN.write_text(json.dumps(kept, indent=1) + "\n")
