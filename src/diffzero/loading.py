"""`load`: from a card's name, a folder, a hub id or a pipeline in memory to a model.

Nothing from a checkpoint is executed or unpickled: weights are safetensors unless the caller
allows pickles, and remote code never runs.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from .errors import InputError

ZOO = Path(__file__).parent / "zoo"
DDPM_PIPELINES = ("DDPMPipeline", "DDIMPipeline")
WEIGHTED = {"unet", "vae", "text_encoder"}
IF_PARTS = ("unet", "text_encoder", "tokenizer", "scheduler")
SD_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


@dataclass(frozen=True)
class Card:
    """A checkpoint as data.

    Attributes:
        name: What `load` takes.
        family: `stable-diffusion`, `deepfloyd`, `ddpm` or `clip`.
        source: A folder, or a hub id.
        mirrors: Hub ids tried in turn when the source is gone.
        revision: Of the hub repository.
        dtype: Of the weights on a GPU; on a CPU they are float32.
        variant: Of the weight files, where a repository keeps several: `fp16` halves a download.
        prediction: What the network predicts, when its own config does not say or is wrong.
        resolution: Side in pixels of its images.
        licence: Of the weights.
        template: Prompt used when the user names none.
        temperatures: Fitted temperature by method and draws.
        vocabulary: Words of a bundled model's captions, None if open.
        classes: Class names of a class-conditional model, in the order of its embedding.
        grey_step: Width of a grey step in [-1, 1] of the images it was trained on, if not 2/255.
        accuracy: Measured accuracies, one line each.
    """

    name: str
    family: str
    source: str
    mirrors: list[str] = field(default_factory=list)
    revision: str = "main"
    dtype: str = "float32"
    variant: str | None = None
    prediction: str | None = None
    resolution: int | None = None
    licence: str = "see the model's page"
    template: str = "a photo of a {}"
    temperatures: dict[str, dict[int, float]] = field(default_factory=dict)
    vocabulary: list[str] | None = None
    classes: list[str] | None = None
    grey_step: float | None = None
    accuracy: list[str] = field(default_factory=list)

    @property
    def bundled(self) -> bool:
        """Whether the weights come with the package."""
        return Path(self.source).parent == ZOO


def cards() -> dict[str, Card]:
    """All cards by name: the bundled models first."""
    found = {}
    for path in sorted(ZOO.glob("*/card.yaml")):
        data = yaml.safe_load(path.read_text())
        found[path.parent.name] = Card(name=path.parent.name, source=str(path.parent), **data)
    listed = yaml.safe_load((Path(__file__).parent / "backbones" / "cards.yaml").read_text())
    return found | {name: Card(name=name, **data) for name, data in listed.items()}


def load(
    source: Any,
    *,
    device: str = "auto",
    dtype: str | None = None,
    allow_pickle: bool = False,
    resolution: int | None = None,
) -> Any:
    """A model ready to classify with.

    Args:
        source: A card's name (`diffzero models` lists them), a folder in diffusers' or CLIP's
            format, a hub id, or a `StableDiffusionPipeline`, `IFPipeline` or `DDPMPipeline` in
            memory.
        device: `cpu`, `cuda`, `cuda:1`, or `auto` for the best there is.
        dtype: `float32`, `float16` or `bfloat16`. If None: float32 on a CPU, the card's
            elsewhere.
        allow_pickle: Accept weights that are pickles. A pickle runs code of whoever made it.
        resolution: Side of the images in pixels, for models that take others than their own.

    Returns:
        A `Backbone`, or a `ClipBackbone`.

    Raises:
        InputError: no such model, a missing or half-written checkpoint, a pickle, a format that
            is not supported, a device that is not there.
    """
    place = _device(device)
    model = _load(source, place, dtype, allow_pickle)
    return model if resolution is None else _resized(model, resolution)


def _resized(model: Any, resolution: int) -> Any:
    """The model, its network shared, for images of another size."""
    from .backbones.stable_diffusion import StableDiffusion

    if not isinstance(model, StableDiffusion):
        raise InputError(f"{model.name} takes images of its own size only; leave out resolution.")
    return model.resized(resolution)


def _load(source: Any, place: Any, dtype: str | None, allow_pickle: bool) -> Any:
    if not isinstance(source, str | Path):
        return _from_memory(source)
    name = str(source)
    known = cards()
    if name in known:
        return _load_card(known[name], place, dtype, allow_pickle)
    path = Path(name).expanduser()
    if path.is_dir():
        family = _family_of(path, allow_pickle)
        card = _folder_card(path, family)
        return _load_card(card, place, dtype, allow_pickle)
    _refuse_files(path)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise InputError(
            f"No model {name!r}: neither a folder nor one of {', '.join(known)}. "
            "Hub ids have the form owner/name."
        )
    return _load_hub(Card(name=name, family="", source=name), place, dtype, allow_pickle)


def _folder_card(path: Path, family: str) -> Card:
    """The folder's own `card.yaml` where it has one, as `diffzero train` writes it."""
    own: dict[str, Any] = {}
    if (path / "card.yaml").is_file():
        try:
            own = yaml.safe_load((path / "card.yaml").read_text())
            return Card(**{**own, "name": path.name, "family": family, "source": str(path)})
        except (yaml.YAMLError, UnicodeDecodeError, TypeError):
            raise InputError(f"{path / 'card.yaml'}: damaged; fix it or remove it.") from None
    return Card(name=path.name, family=family, source=str(path))


def _refuse_files(path: Path) -> None:
    if path.suffix in (".ckpt", ".pt", ".pth", ".bin", ".pkl"):
        raise InputError(
            f"{path}: a pickled checkpoint can run code and is refused. Convert it to a folder "
            "in diffusers' format with safetensors weights."
        )
    if path.suffix == ".safetensors":
        raise InputError(
            f"{path}: single-file checkpoints are not read, since their configuration has to be "
            "guessed. Convert it once with StableDiffusionPipeline.from_single_file(...)."
            "save_pretrained(FOLDER) and give the folder."
        )
    if path.is_file():
        raise InputError(f"{path}: a model is a folder; this is a file.")


def _device(device: str) -> Any:
    import torch

    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("cpu")
    if device.startswith("mps"):
        raise InputError(
            "Device 'mps' has no double precision, which noise schedules are computed in. Use cpu."
        )
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError):
        raise InputError(
            f"Device {device!r} is not available here. Use cpu, or auto for the best there is."
        ) from None
    return place


def _dtype(dtype: str | None, card: Card, place: Any) -> Any:
    import torch

    name = dtype or ("float32" if place.type == "cpu" else card.dtype)
    if name not in ("float32", "float16", "bfloat16"):
        raise InputError(f"dtype must be float32, float16 or bfloat16; got {name!r}.")
    return getattr(torch, name)


def _from_memory(source: Any) -> Any:
    from .backbone import Backbone
    from .backbones.clip import ClipBackbone
    from .backbones.deepfloyd import DeepFloyd
    from .backbones.stable_diffusion import StableDiffusion

    if isinstance(source, Backbone | ClipBackbone):
        return source
    if hasattr(source, "unet") and hasattr(source, "vae"):
        return StableDiffusion(source, getattr(source, "name_or_path", None) or "pipeline")
    if hasattr(source, "unet") and hasattr(source, "text_encoder"):
        return DeepFloyd(source, getattr(source, "name_or_path", None) or "pipeline")
    if hasattr(source, "unet") and hasattr(source, "scheduler"):
        from .backbones.ddpm import DDPM

        return DDPM(source.unet, source.scheduler, name=source.name_or_path or "pipeline")
    raise InputError(
        "A model is a card's name, a folder, a hub id or a diffusers pipeline; got "
        f"{type(source).__name__}."
    )


def _load_card(card: Card, place: Any, dtype: str | None, allow_pickle: bool) -> Any:
    if not Path(card.source).is_dir():
        return _load_hub(card, place, dtype, allow_pickle)
    _family_of(Path(card.source), allow_pickle)
    return _build(card, card.source, place, dtype, allow_pickle, local=True)


def _load_hub(card: Card, place: Any, dtype: str | None, allow_pickle: bool) -> Any:
    """Download, mirrors in turn; the family of a bare hub id is what its index says."""
    error: Exception | None = None
    for repository in [card.source, *card.mirrors]:
        for family in [card.family] if card.family else _hub_families(repository):
            attempt = Card(**{**card.__dict__, "family": family})
            try:
                return _build(attempt, repository, place, dtype, allow_pickle, local=False)
            except InputError:
                raise
            except Exception as caught:  # the hub client raises a dozen types for "not there"
                error = error or caught
    bundled = [c.name for c in cards().values() if c.bundled]
    if _is_gated(error):
        raise InputError(
            f"{card.source} is given out only to those who accepted its licence. Accept it on "
            f"https://huggingface.co/{card.source}, run: hf auth login, and try again."
        )
    raise InputError(
        f"{card.source} could not be fetched from the hub ({type(error).__name__}). Without a "
        f"network use a bundled model ({', '.join(bundled) or 'none yet'}) or a local folder."
    )


def _is_gated(error: BaseException | None) -> bool:
    """Whether a licence that was not accepted is behind the error, however it was wrapped."""
    while error is not None:
        if "gated" in f"{type(error).__name__} {error}".lower():
            return True
        error = error.__cause__ or error.__context__
    return False


def _hub_families(repository: str) -> list[str]:
    """The family of a hub repository; those without a pipeline's index, if it has none.

    Raises:
        InputError: a pipeline that is not supported.
    """
    from huggingface_hub import hf_hub_download

    try:
        index = Path(hf_hub_download(repository, "model_index.json"))
    except Exception:  # no index, no network, no such repository: loading tells which
        return ["ddpm", "clip"]
    return [_supported(_read_json(index).get("_class_name", ""), repository)[0]]


def _family_of(path: Path, allow_pickle: bool) -> str:
    """Tell the format of a folder, and that nothing is missing from it."""
    index, config = path / "model_index.json", path / "config.json"
    if index.is_file():
        name = _read_json(index).get("_class_name", "")
        family, parts = _supported(name, path)
        for part in parts:
            if not (path / part).is_dir():
                raise InputError(f"{path}: the folder {part}/ is missing; fetch it again.")
        for part in WEIGHTED.intersection(parts):
            _check_weights(path / part, allow_pickle)
        return family
    if config.is_file():
        kind = _read_json(config).get("model_type")
        if kind != "clip":
            raise InputError(f"{path}: model type {kind!r} is not supported; CLIP is.")
        _check_weights(path, allow_pickle)
        return "clip"
    raise InputError(
        f"{path}: no model_index.json (diffusers) and no config.json (CLIP) in this folder."
    )


def _supported(name: str, where: Any) -> tuple[str, tuple[str, ...]]:
    """Family of a pipeline's class, and the folders it needs.

    Raises:
        InputError: a pipeline that is not supported.
    """
    family, parts = _family_of_pipeline(name)
    if family is None:
        raise InputError(
            f"{where}: a {name or 'pipeline of unknown class'} is not supported yet; "
            "StableDiffusionPipeline, IFPipeline, DDPMPipeline and CLIP folders are."
        )
    return family, parts


def _family_of_pipeline(name: str) -> tuple[str | None, tuple[str, ...]]:
    """Family of a pipeline's class, and the folders it needs; None for what is not supported."""
    if name.startswith("StableDiffusionPipeline"):
        return "stable-diffusion", SD_PARTS
    if name == "IFPipeline":
        return "deepfloyd", IF_PARTS
    return ("ddpm", ("unet", "scheduler")) if name in DDPM_PIPELINES else (None, ())


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise InputError(f"{path}: damaged or half-written; fetch it again.") from None


def _check_weights(folder: Path, allow_pickle: bool) -> None:
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: config.json is missing; fetch the checkpoint again.")
    _read_json(folder / "config.json")
    tensors = sorted(folder.glob("*.safetensors"))
    for path in tensors:
        _check_safetensors(path)
    if tensors:
        return
    pickles = sorted(folder.glob("*.bin"))
    if pickles and not allow_pickle:
        raise InputError(
            f"{pickles[0]}: a pickle where safetensors is expected, and a pickle can run code. "
            "Convert it, or pass allow_pickle (--allow-pickle) if you trust its maker."
        )
    if not pickles:
        raise InputError(f"{folder}: no weights (*.safetensors); fetch the checkpoint again.")


def _check_safetensors(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt"):
            pass
    except (SafetensorError, OSError):
        raise InputError(
            f"{path}: damaged or half-written ({path.stat().st_size:,} bytes); fetch it again."
        ) from None


def _build(
    card: Card, where: str, place: Any, dtype: str | None, allow_pickle: bool, *, local: bool
) -> Any:
    builder = {
        "stable-diffusion": _build_stable_diffusion,
        "deepfloyd": _build_deepfloyd,
        "ddpm": _build_ddpm,
        "clip": _build_clip,
    }[card.family]
    options: dict[str, Any] = {"local_files_only": True} if local else {"revision": card.revision}
    with quiet():
        return builder(card, where, place, _dtype(dtype, card, place), allow_pickle, options)


def _build_stable_diffusion(
    card: Card, where: str, place: Any, dtype: Any, allow_pickle: bool, options: dict
) -> Any:
    from diffusers import StableDiffusionPipeline

    from .backbones.stable_diffusion import StableDiffusion

    pipeline = StableDiffusionPipeline.from_pretrained(
        where,
        torch_dtype=dtype,
        use_safetensors=None if allow_pickle else True,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **options,
    ).to(place)
    return _apply(card, StableDiffusion(pipeline, card.name, card.prediction))


def _build_deepfloyd(
    card: Card, where: str, place: Any, dtype: Any, allow_pickle: bool, options: dict
) -> Any:
    """Part by part, so that safety checker and watermarker are neither fetched nor loaded."""
    if find_spec("sentencepiece") is None:
        raise InputError(
            f"{card.name} reads text with T5, whose vocabulary needs the package sentencepiece, "
            "which is not installed. Run: pip install sentencepiece"
        )
    from diffusers import DDPMScheduler, IFPipeline, UNet2DConditionModel
    from transformers import T5EncoderModel, T5TokenizerFast

    from .backbones.deepfloyd import DeepFloyd

    safe, weights = None if allow_pickle else True, {"variant": _variant(card, where), **options}
    tokenizer = T5TokenizerFast.from_pretrained(where, subfolder="tokenizer", **options)
    scheduler = DDPMScheduler.from_pretrained(where, subfolder="scheduler", **options)
    unet = UNet2DConditionModel.from_pretrained(
        where, subfolder="unet", torch_dtype=dtype, use_safetensors=safe, **weights
    )
    text = T5EncoderModel.from_pretrained(
        where, subfolder="text_encoder", dtype=dtype, use_safetensors=safe, **weights
    )
    pipeline = IFPipeline(
        tokenizer=tokenizer,
        text_encoder=text,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    ).to(place)
    return _apply(card, DeepFloyd(pipeline, card.name, card.prediction))


def _variant(card: Card, where: str) -> str | None:
    """The card's variant of the weight files; in a folder, half precision if all there is."""
    if not Path(where).is_dir():
        return card.variant
    names = [p.name for p in (Path(where) / "unet").glob("*.safetensors")]
    return "fp16" if names and all("fp16" in name for name in names) else None


def _build_ddpm(
    card: Card, where: str, place: Any, dtype: Any, allow_pickle: bool, options: dict
) -> Any:
    from diffusers import DDPMScheduler, UNet2DModel

    from .backbones.ddpm import DDPM

    safe = None if allow_pickle else True
    unet = UNet2DModel.from_pretrained(
        where, subfolder="unet", torch_dtype=dtype, use_safetensors=safe, **options
    )
    scheduler = DDPMScheduler.from_pretrained(where, subfolder="scheduler", **options)
    model = DDPM(unet.to(place), scheduler, card.classes, card.name, card.prediction)
    if card.grey_step is not None:
        model.grey_step = card.grey_step
    return _apply(card, model)


def _build_clip(
    card: Card, where: str, place: Any, dtype: Any, allow_pickle: bool, options: dict
) -> Any:
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    from .backbones.clip import ClipBackbone

    safe = None if allow_pickle else True
    model = CLIPModel.from_pretrained(where, dtype=dtype, use_safetensors=safe, **options)
    tokenizer = CLIPTokenizer.from_pretrained(where, **options)
    processor = CLIPImageProcessor.from_pretrained(where, **options)
    return _apply(card, ClipBackbone(model.to(place), tokenizer, processor, card.name))


def _apply(card: Card, model: Any) -> Any:
    if card.family != "ddpm" or card.template != Card.template:
        model.template = card.template
    model.temperatures = card.temperatures
    if card.vocabulary is not None:
        model.vocabulary = frozenset(card.vocabulary)
    return model


@contextmanager
def quiet() -> Iterator[None]:
    """Loading without the libraries' chatter, which would drown our own messages."""
    loggers = [logging.getLogger(n) for n in ("diffusers", "transformers", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    _set_bars(False)
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        _set_bars(True)


def _set_bars(on: bool) -> None:
    import diffusers.utils.logging as diffusers_logging
    import transformers.utils.logging as transformers_logging

    for module in (diffusers_logging, transformers_logging):
        (module.enable_progress_bar if on else module.disable_progress_bar)()
