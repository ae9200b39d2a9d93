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


def test_a_few_blank_matrices_and_vectors_of_one_number_are_no_damage():
    net = torch.nn.Sequential(
        *(torch.nn.Linear(8, 8) for _ in range(9)),
        *(torch.nn.LayerNorm(8) for _ in range(9)),
    )
    for layer in net[:3]:
        torch.nn.init.zeros_(layer.weight)
    check_filled({"unet": net})
    torch.nn.init.ones_(net[3].weight)
    with pytest.raises(dz.InputError, match=r"4 of 9 matrices of its unet.*\(0.weight, 1.weight"):
        check_filled({"unet": net})
    with pytest.raises(dz.InputError, match="2 of 2 matrices"):
        check_filled({"unet": net[:2]})


def test_what_control_adds_to_every_block_begins_at_zero():
    """Real layers of diffusers: thirteen connections are blank until they are trained."""
    from diffusers import ControlNetModel

    torch.manual_seed(0)
    net = ControlNetModel(
        block_out_channels=(8, 16, 16, 16),
        conditioning_embedding_out_channels=(4, 8),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    blank = [n for n, t in net.named_parameters() if t.ndim > 1 and not t.any()]
    assert len(blank) > 12
    check_filled({"unet": net})
    kept = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    for name, tensor in net.named_parameters():
        if name.startswith("down_blocks.1.resnets"):  # others like it are filled
            torch.nn.init.zeros_(tensor)
    with pytest.raises(dz.InputError, match=r"down_blocks\.1\.resnets"):
        check_filled({"unet": net})
    net.load_state_dict(kept)
    for name, tensor in net.named_parameters():
        if "down_blocks" in name and "controlnet" not in name:  # more than half of all
            torch.nn.init.zeros_(tensor)
    with pytest.raises(dz.InputError, match="fetch it again"):
        check_filled({"unet": net})


@pytest.mark.parametrize("kind", ["LoraConfig", "LoHaConfig", "LoKrConfig", "OFTConfig"])
def test_adapters_of_any_kind_begin_at_zero(folder, kind):
    peft = pytest.importorskip("peft")
    unet = dz.load(folder).networks()["network"]
    rank = {"oft_block_size": 4, "r": 0} if kind == "OFTConfig" else {"r": 4}
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    unet.add_adapter(getattr(peft, kind)(target_modules=targets, **rank))
    check_filled({"network": unet})
    for name, tensor in unet.named_parameters():
        if name.endswith("base_layer.weight") and "down_blocks" in name:
            torch.nn.init.zeros_(tensor)
    with pytest.raises(dz.InputError, match="base_layer"):
        check_filled({"network": unet})


def test_hidden_and_foreign_files_beside_the_weights_are_not_read(folder):
    unet = folder / "unet"
    for name in ("._diffusion_pytorch_model.safetensors", "._config.json"):  # as macOS leaves them
        (unet / name).write_bytes(b"\0\5")
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
