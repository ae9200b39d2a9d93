"""`tiny-flow`'s recipe: it learns, and goes on from another model of its own."""

import numpy as np
import pytest
import torch

import diffzero as dz
from diffzero.data.digits import digits_split
from diffzero.train import flow

SILENT = {"log": lambda line: None}


def test_the_recipe_goes_on_from_its_own_model(tmp_path, monkeypatch):
    monkeypatch.setattr(flow, "STATISTICS", 64)  # latents of few images say enough here
    flow.train(["digits=digits"], tmp_path / "on", 0, init="tiny-flow", **SILENT)
    old, new = (dz.load(m, device="cpu", dtype="float32") for m in ("tiny-flow", tmp_path / "on"))
    theirs, ours = old.denoiser.network.state_dict(), new.denoiser.network.state_dict()
    assert all(torch.equal(theirs[key], value) for key, value in ours.items())
    # Fewer words than tiny-flow knows, in another order: each keeps its own embedding.
    assert torch.allclose(*(m.embed(["a photo of a seven"]).tensors["pooled"] for m in (old, new)),
                          atol=1e-2)  # fmt: skip
    images = list(digits_split()[1][0][:3])
    scores = dz.ELBO(new, draws=2).fit(["zero", "one"]).scores(images)
    assert np.isfinite(scores.logits).all()


def test_weights_of_another_recipe_are_refused(tmp_path):
    with pytest.raises(dz.InputError, match="do not fit this recipe"):
        flow.train(["digits=digits"], tmp_path, 0, init="cifar10-ldm", **SILENT)
