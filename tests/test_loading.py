import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import diffzero as dz
from diffzero.models.cards import cards
from diffzero.models.family import FAMILIES


@pytest.fixture
def folder(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_every_card_is_complete():
    found = cards()
    assert {"tiny-sd", "tiny-clip", "stable-diffusion-1.5", "stable-diffusion-2.1"} <= set(found)
    for card in found.values():
        assert card.family in FAMILIES
        assert card.licence and card.source
    assert found["tiny-sd"].bundled and not found["stable-diffusion-1.5"].bundled


def test_unknown_model_lists_the_known(tmp_path):
    with pytest.raises(dz.InputError, match=r"No model 'tiny-sdd'.*tiny-sd"):
        dz.load("tiny-sdd")
    with pytest.raises(dz.InputError, match="no model_index.json"):
        dz.load(tmp_path)


def test_hub_id_without_a_network_names_the_bundled_models(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(dz.InputError, match=r"could not be fetched.*tiny-sd.*local folder"):
        dz.load("someone/some-model")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.ckpt", "pickled checkpoint can run code and is refused"),
        ("model.safetensors", "single-file checkpoints are not read"),
        ("notes.txt", "a model is a folder"),
    ],
)
def test_files_get_a_clear_no(tmp_path, name, message):
    (tmp_path / name).write_text("x")
    with pytest.raises(dz.InputError, match=message):
        dz.load(tmp_path / name)


def test_missing_part(folder):
    (folder / "vae").rename(folder / "elsewhere")
    with pytest.raises(dz.InputError, match="vae/ is missing"):
        dz.load(folder)


def test_half_written_weights(folder):
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(dz.InputError, match=r"half-written \(1,000 bytes\)"):
        dz.load(folder)


def test_missing_weights_and_damaged_config(folder):
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(dz.InputError, match="no weights"):
        dz.load(folder)
    (folder / "unet" / "config.json").write_text("{")
    with pytest.raises(dz.InputError, match="damaged or half-written"):
        dz.load(folder)


def test_pickle_is_refused_unless_allowed(folder):
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    unet.save_pretrained(folder / "unet", safe_serialization=False)
    with pytest.raises(dz.InputError, match="a pickle where safetensors is expected"):
        dz.load(folder)
    assert dz.load(folder, allow_pickle=True).shape == (4, 8, 8)


def test_unsupported_pipeline_class(folder):
    index = json.loads((folder / "model_index.json").read_text())
    index["_class_name"] = "KandinskyPipeline"
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(dz.InputError, match="a KandinskyPipeline is not supported yet"):
        dz.load(folder)
    index["_class_name"] = "FluxKontextPipeline"
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(dz.InputError, match="a FluxKontextPipeline edits an image"):
        dz.load(folder)


def test_device_dtype_and_type():
    with pytest.raises(dz.InputError, match="Device 'cuda:7' is not available"):
        dz.load("tiny-sd", device="cuda:7")
    with pytest.raises(dz.InputError, match="dtype must be"):
        dz.load("tiny-sd", dtype="int8")
    with pytest.raises(dz.InputError, match="got int"):
        dz.load(3)


def test_a_compiled_network_is_the_network_that_it_was(pipe, photos):
    plain = dz.ELBO(dz.load(pipe), draws=1).fit(["cat", "dog"]).scores(photos[:1]).logits
    network = pipe.unet
    pipe.unet = torch.compile(network, backend="eager")
    try:
        model = dz.load(pipe)
    finally:
        pipe.unet = network
    assert (dz.ELBO(model, draws=1).fit(["cat", "dog"]).scores(photos[:1]).logits == plain).all()


def test_betas_of_other_steps_than_the_scheduler_has(folder):
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"trained_betas": [0.01] * 3}))
    with pytest.raises(dz.InputError, match="trained_betas has 3 values, and num_train_timesteps"):
        dz.load(folder)


def test_a_licence_not_accepted_is_seen_through_the_libraries_wrapping():
    from importlib import import_module

    from huggingface_hub.errors import GatedRepoError, Response

    from diffzero.reach import trouble

    http = import_module(Response.__module__.split(".")[0])  # the client's, of whatever name
    answer = Response(403, request=http.Request("GET", "https://huggingface.co/a/b"))
    try:
        try:
            raise GatedRepoError("Access to model a/b is restricted.", response=answer)
        except GatedRepoError as error:
            raise OSError("a/b is not a valid model identifier") from error
    except OSError as wrapped:
        assert "Accept it on" in trouble("a/b", wrapped)
    assert "Accept" not in trouble("a/b", OSError("a/b is not a valid model identifier"))


def test_weights_that_were_reserved_and_not_fetched(pipe):
    """A file of the right size whose end is zeros answered, mostly with the first label."""
    first = {name: tensor.clone() for name, tensor in pipe.unet.named_parameters()}
    with torch.no_grad():
        for tensor in pipe.unet.up_blocks.parameters():
            tensor.zero_()
    with pytest.raises(dz.InputError, match=r"matrices of its network hold one number.*up_blocks"):
        dz.load(pipe)
    pipe.unet.load_state_dict(first, strict=False)


def test_absurd_sizes_get_no_memory(folder):
    config = folder / "text_encoder" / "config.json"
    data = json.loads(config.read_text())
    config.write_text(json.dumps(data | {"vocab_size": 16_000_000}))
    with pytest.raises(dz.InputError, match=r"describes a network of 256,\d{3},\d{3} numbers"):
        dz.load(folder)


def test_names_that_do_not_print_stay_on_one_line(folder):
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file) | {"x\ny\x1b[31m": torch.zeros(2)}
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(dz.InputError, match=r"no place for \(x\\ny\\x1b\[31m\)"):
        dz.load(folder)
