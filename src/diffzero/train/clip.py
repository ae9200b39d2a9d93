"""`tiny-clip`: a CLIPModel trained on the captions of `tiny-sd`, the baseline and the metric.

The loss is CLIP's symmetric cross-entropy over the batch. Since a batch holds many images of one
class, every caption of the image's class is a right answer, as is its own caption elsewhere in the
batch, and the target is spread over them:

    L = 1/2 [CE(p(. | s F G^T), P) + CE(p(. | s G F^T), P)],
    P_ij ~ [class_i = class_j or caption_i = caption_j],

with F and G the unit features of images and captions and s the learned scale. Where images come
with captions to tell apart (`diffzero scenes`), a text encoder that has not read yet does so first
(see `reading`). Some of a batch then take the true one of theirs, and false ones join the
captions that every image chooses from, so that CLIP is given the contrasts `tiny-sd` is given.
Photographs are mirrored at random.

References:
    Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021.
    https://arxiv.org/abs/2103.00020
    Yuksekgonul et al., When and Why Vision-Language Models Behave like Bags-of-Words, 2023 (false
    captions in the batch). https://arxiv.org/abs/2210.01936
    Khosla et al., Supervised Contrastive Learning, 2020. https://arxiv.org/abs/2004.11362
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .. import data
from ..data import all_captions, held_out
from ..models.clip import as_vectors
from . import loop, reading, tokenizer
from .captions import Captions, jitter, mirrored, mix
from .presets import preset_of
from .stable_diffusion import (
    PRESETS,
    READ_SHARE,
    SIZE,
    WINDOW,
    Preset,
    start_from,
    text_config,
)

# Sets whose mirror images could have been taken as well; digits and scenes have a left side.
PHOTOGRAPHS = ("cifar10", "cifar100")


def build_model(tokens: Any) -> Any:
    """A CLIPModel for 32-pixel images: patches of 4, 4 layers of width 128, untrained."""
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=4,
        projection_dim=64,
    )
    text = text_config(tokens, CLIPTextConfig)
    config = CLIPConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=64
    )
    return CLIPModel(config)


def train(
    sources: Sequence[str],
    out: Path,
    minutes: float,
    *,
    device: str = "cpu",
    seed: int = 0,
    preset: str | None = None,
    init: str | None = None,
    log: Callable[[str], None] = print,
) -> None:
    """Train and save the model under `out`; run again to resume. See `stable_diffusion.train`."""
    size = PRESETS[preset_of(device, preset)]
    torch.manual_seed(seed)
    sets = [held_out(data.load(s, SIZE))[0] for s in sources]
    tokens = tokenizer.build(all_captions(sets), out, WINDOW, loop.has_begun(out))
    model = build_model(tokens)
    config: Any = model.text_model.config
    if init is not None:
        old = start_from({"model": model}, init, tokens)
        config.has_read = getattr(old["model"].config.text_config, "has_read", False)
    model = model.to(device)
    log(f"clip {sum(p.numel() for p in model.parameters()):,}")
    captions = Captions(sets, tokens)
    pixels = [torch.from_numpy(s.images).permute(0, 3, 1, 2) for s in sets]
    states = out / ".train"
    share = 0 if (states / "clip.pt").exists() else minutes * READ_SHARE
    minutes -= reading.read(
        model.text_model, pixels, sets, captions, tokens.eos_token_id, states / "text.pt", share,
        seed=seed, log=log,
    )  # fmt: skip
    loss = _contrastive_loss(model, pixels, sets, captions, device, size)
    result = loop.fit(
        model, loss, states / "clip.pt", minutes, seed=seed, log=log, weight_decay=0.05
    )
    log(f"{result['steps']:.0f} steps in {result['seconds']:.0f} s, loss {result['loss']:.4f}")
    model.half().save_pretrained(out, safe_serialization=True)
    _processor().save_pretrained(out)


def _processor() -> Any:
    """What `CLIPModel` sees of an image of `SIZE` pixels."""
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(
        size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}
    )


def _contrastive_loss(
    model: Any,
    pixels: list[Tensor],
    sets: list[data.Labelled],
    captions: Captions,
    device: str,
    size: Preset,
) -> Callable[[torch.Generator], Tensor]:
    """Cross-entropy of images over captions, false ones among them, and of captions over images.

    Captions that are the same, or of the same class, are all right answers.
    """
    processor = _processor()
    mean = torch.tensor(processor.image_mean).view(1, 3, 1, 1)
    std = torch.tensor(processor.image_std).view(1, 3, 1, 1)
    labels = [torch.from_numpy(s.labels) for s in sets]
    weights = mix(sets)
    has_mirror = [s.name in PHOTOGRAPHS for s in sets]

    def loss(generator: torch.Generator) -> Tensor:
        drawn = captions.batch([len(p) for p in pixels], labels, weights, size.batch, generator)
        rows, classes = drawn.rows, drawn.classes
        x = torch.cat([p[i] for p, i in zip(pixels, drawn.index, strict=True)]).float() / 255
        if any(has_mirror):  # else no random number is drawn: other models stay as they are
            counts = torch.tensor([len(i) for i in drawn.index])
            x = mirrored(x, generator, torch.tensor(has_mirror).repeat_interleave(counts))
        x = (jitter(x, generator) - mean) / std
        texts = torch.cat([rows, drawn.wrong])
        ids, mask = captions.ids[texts].to(device), captions.mask[texts].to(device)
        with size.precision(device):
            image = as_vectors(model.get_image_features(x.to(device))).float()
            text = as_vectors(model.get_text_features(ids, mask)).float()
        image, text = functional.normalize(image, dim=-1), functional.normalize(text, dim=-1)
        alike = rows[:, None] == texts[None]
        alike[:, : len(rows)] |= classes[:, None] == classes[None]
        target = alike.float().to(device)
        backwards = target[:, : len(rows)].T  # false captions need not be any image's
        target = target / target.sum(1, keepdim=True)
        backwards = backwards / backwards.sum(1, keepdim=True)
        logits = model.logit_scale.exp().clamp(max=100) * image @ text.T
        return 0.5 * (
            functional.cross_entropy(logits, target)
            + functional.cross_entropy(logits[:, : len(rows)].T, backwards)
        )

    return loss
