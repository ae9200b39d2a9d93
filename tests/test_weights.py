"""Files of the right size that hold nothing, and what belongs to nobody beside them."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import diffzero as dz
from conftest import sd_pipeline
from diffzero.errors import said
from diffzero.models.weights import check_filled


@pytest.fixture
def folder(tokenizer, tmp_path):
    sd_pipeline(tokenizer).save_pretrained(tmp_path / "sd")
    return tmp_path / "sd"


def test_a_download_that_ended_early_is_refused(folder):
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    matrices = [name for name, tensor in tensors.items() if tensor.ndim > 1]
    for name in matrices[len(matrices) // 2 :]:
        tensors[name] = torch.zeros_like(tensors[name])
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(
        dz.InputError, match=r"matrices of its network hold one number.*fetch it again"
    ):
        dz.load(folder)


def test_one_blank_matrix_and_vectors_of_one_number_are_no_damage():
    net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8), torch.nn.LayerNorm(8))
    torch.nn.init.zeros_(net[0].weight)
    check_filled({"unet": net})
    torch.nn.init.ones_(net[1].weight)
    with pytest.raises(dz.InputError, match="2 of 2 matrices"):
        check_filled({"unet": net})


def test_hidden_and_foreign_files_beside_the_weights_are_not_read(folder):
    unet = folder / "unet"
    (unet / "._diffusion_pytorch_model.safetensors").write_bytes(b"\0\5")
    (unet / "old-model.safetensors").write_bytes(b"no")
    scores = dz.ELBO(dz.load(folder), draws=1).fit(["cat", "dog"])
    assert np.isfinite(scores.scores([np.zeros((32, 32, 3), np.uint8)]).logits).all()
    (unet / "diffusion_pytorch_model.safetensors").rename(unet / "weights.safetensors")
    with pytest.raises(dz.InputError, match="no name that weights are looked for"):
        dz.load(folder)


def test_what_others_say_fits_one_line():
    assert said(KeyError("unet")) == "there is no 'unet'"
    assert said(ValueError("Half of\nit. The rest is advice.")) == "Half of it"
    assert said(RuntimeError("x\x1b[31m" + "y" * 300)).startswith("x\\x1b[31m")
    assert len(said(RuntimeError("y" * 300))) == 200
    error = RuntimeError("[enforce fail] . DefaultCPU: can't: you tried to allocate 99999 bytes.")
    assert said(error) == "it needs 99,999 bytes of memory at once, more than there are"
