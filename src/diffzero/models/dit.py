"""DiT: a transformer on latents, under one of ImageNet's thousand classes.

Every block has a table of classes of its own, 28 of them in DiT-XL: a soft condition `w` stands
for `sum_c w_c e_c` in each of them. Half of the network's output channels are a variance, which
no method needs.

References:
    Peebles and Xie, Scalable Diffusion Models with Transformers, 2022.
    https://arxiv.org/abs/2212.09748
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ..errors import InputError
from .backbone import Backbone
from .cards import Card
from .codec import latents_for
from .conditioner import ClassTable, Condition
from .denoiser import DiscreteNetwork
from .family import Family, Parts
from .hooks import output_replaced


class DiTClasses(ClassTable):
    """Classes of which soft conditions are weights of all rows of the tables."""

    def mix(self, cond: Condition, weights: Tensor) -> Condition:
        """The weights `[b, rows]` of each class and of none."""
        rows = one_hot(cond.tensors["class"], len(self.classes) + 1).to(weights.dtype)
        return Condition({"weights": weights @ rows})


class DiTTransformer(DiscreteNetwork):
    """DiT's network; weights replace what each block's table of classes gives."""

    def _run(self, x: Tensor, step: Tensor, cond: Condition) -> Tensor:
        soft = cond.tensors.get("weights")
        if soft is None:
            return self.network(x, step, cond.tensors["class"], return_dict=False)[0]
        with ExitStack() as stack:
            for block in self.network.transformer_blocks:
                module = block.norm1.emb.class_embedder
                mixed = soft.to(x.dtype) @ module.embedding_table.weight.detach()
                stack.enter_context(output_replaced(module, partial(_instead, mixed)))
            return self.network(x, step, torch.zeros_like(step).long(), return_dict=False)[0]


def _instead(mixed: Tensor, output: Tensor) -> Tensor:
    return mixed


def build(parts: Parts, card: Card) -> Backbone:
    """DiT of its parts. Names of classes are the card's, or the pipeline's, or numbers.

    Raises:
        InputError: parts or names that do not fit each other, or norms that are not DiT's.
    """
    network, config = parts["transformer"], parts["transformer"].config
    codec = latents_for(network, parts["vae"])
    if config.norm_type != "ada_norm_zero":
        raise InputError(f"a transformer with {config.norm_type} reads no classes and is no DiT.")
    n = config.num_embeds_ada_norm
    classes, synonyms = [str(i) for i in range(n)], numbers_of(parts.get("pipeline", {}))
    if beyond := [i for i in synonyms.values() if not 0 <= i < n]:
        raise InputError(f"id2label names the class {beyond[0]}; the network has {n} of them.")
    spelled = {number: name for name, number in reversed(synonyms.items())}  # by the first
    names = card.classes or [spelled.get(i, classes[i]) for i in range(n)]
    denoiser = DiTTransformer(network, parts["scheduler"], card.prediction)
    table = DiTClasses(names, n + 1, denoiser.device, None)
    table.numbers = {name: i for i, name in enumerate(classes)} | synonyms | table.numbers
    return Backbone(card.name, codec, table, denoiser, template="{}", halvings=1)


def numbers_of(pipeline: Mapping[str, Any]) -> dict[str, int]:
    """Numbers of classes by name, of a pipeline's settings: `id2label` of `model_index.json`, such
    as `{"0": "tench, Tinca tinca"}`, or `labels` of one in memory, such as `{"tench": 0}`.

    A name that two classes share (ImageNet's crane is a bird and a machine) names neither.
    """
    pairs = [
        (name.strip(), int(number))
        for number, names in (pipeline.get("id2label") or {}).items()
        for name in str(names).split(",")
    ]
    pairs = pairs or [(name, int(i)) for name, i in (pipeline.get("labels") or {}).items()]
    shared = Counter(name for name, _ in dict.fromkeys(pairs))
    return {name: number for name, number in pairs if shared[name] == 1}


FAMILY = Family(
    "dit",
    ("DiTPipeline",),
    {
        "transformer": ("DiTTransformer2DModel",),
        "vae": ("AutoencoderKL", "AutoencoderTiny"),
        "scheduler": (),
    },
    build,
    aliases={"Transformer2DModel": "DiTTransformer2DModel"},
)
