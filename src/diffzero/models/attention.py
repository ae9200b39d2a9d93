"""Cross-attention maps, read off a network while it runs.

A hook sees what goes into an attention module and works out the probabilities

    A = softmax(Q K^T / sqrt(d))    [b, heads, pixels, keys]

beside it. The module's own computation is not touched, so that the network's output with and
without capture is the same to the bit, whatever attention kernel it uses.

In joint attention (Stable Diffusion 3, Flux) places of the image and tokens of the text attend to
each other; what is kept are the image's rows, with keys of the text first and then of the image:

    A = softmax(Q_image [K_text, K_image]^T / sqrt(d)).

References:
    Hertz et al., Prompt-to-Prompt Image Editing with Cross Attention Control, 2022.
    https://arxiv.org/abs/2208.01626
    Tang et al., What the DAAM, 2022. https://arxiv.org/abs/2210.04885
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .hooks import inputs_seen

Keep = Callable[[str, Tensor], None]


def cross_attention_modules(network: Any) -> dict[str, Any]:
    """The modules of a diffusers network that attend to text, by name.

    In DeepFloyd IF's and in joint attention they hold keys of the image beside those of the text
    (`added_kv_proj_dim`). Blocks of Flux that join text and image before attention are left out.
    """
    from diffusers.models.attention_processor import Attention
    from diffusers.models.transformers.transformer_flux import FluxAttention

    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, Attention | FluxAttention)
        and (getattr(module, "is_cross_attention", False) or module.added_kv_proj_dim is not None)
    }


@contextmanager
def captured(modules: dict[str, Any], keep: Keep) -> Iterator[None]:
    """While this holds, `keep(name, probabilities)` is called for every run of the modules from
    this thread.

    Args:
        modules: As `cross_attention_modules` gives.
        keep: Receives probabilities `[b, heads, pixels, keys]` without gradient, float32; the
            text's keys come first. It should reduce them at once, since they are large.
    """

    def see(name: str, module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        names = ("hidden_states", "encoder_hidden_states", "attention_mask", "image_rotary_emb")
        given = dict(zip(names, args, strict=False))
        given |= {k: v for k, v in kwargs.items() if v is not None}
        with torch.no_grad():
            hidden, text = given["hidden_states"], given["encoder_hidden_states"]
            if getattr(module, "add_q_proj", None) is not None:
                places = given.get("image_rotary_emb")
                keep(name, joint_probabilities(module, hidden, text, places))
            else:
                mask = given.get("attention_mask")
                keep(name, attention_probabilities(module, hidden, text, mask))

    with inputs_seen(modules, see):
        yield


def attention_probabilities(
    module: Any, hidden: Tensor, text: Tensor, mask: Tensor | None = None
) -> Tensor:
    """`softmax(Q K^T / sqrt(d) + mask)` of a diffusers `Attention`, `[b, heads, pixels, keys]`.

    Args:
        module: The attention module.
        hidden: Image features `[b, pixels, c]`, or `[b, c, h, w]`.
        text: Text features `[b, n, d]`.
        mask: Additive, `[b, 1, keys]`, as diffusers passes it on.
    """
    if hidden.ndim == 4:
        hidden = hidden.flatten(2).transpose(1, 2)
    added = module.added_kv_proj_dim is not None
    if module.group_norm is not None:
        hidden = module.group_norm(hidden.transpose(1, 2)).transpose(1, 2)
    if module.norm_cross:
        text = module.norm_encoder_hidden_states(text)
    keys = [module.add_k_proj(text) if added else module.to_k(text)]
    if added and not module.only_cross_attention:
        keys.append(module.to_k(hidden))
    query, key = (_heads(x, module.heads) for x in (module.to_q(hidden), torch.cat(keys, 1)))
    if module.norm_q is not None:
        query = module.norm_q(query)
    if module.norm_k is not None:
        key = module.norm_k(key)
    scores = query.float() @ key.float().transpose(-1, -2) / query.shape[-1] ** 0.5
    if mask is not None:
        length = hidden.shape[1] if added else text.shape[1]
        bias = module.prepare_attention_mask(mask, length, len(hidden))
        scores = scores + bias.view(len(hidden), module.heads, -1, bias.shape[-1])
    return scores.softmax(-1)


def joint_probabilities(
    module: Any, image: Tensor, text: Tensor, places: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Rows of the image in joint attention, `[b, heads, pixels, tokens + pixels]`.

    Args:
        module: The attention module of Stable Diffusion 3 or Flux.
        image: Image features `[b, pixels, c]`.
        text: Text features `[b, tokens, c]`.
        places: Cosines and sines `[tokens + pixels, d]` by which queries and keys are rotated.
    """
    from diffusers.models.embeddings import apply_rotary_emb

    def normed(norm: Any, x: Tensor) -> Tensor:
        x = x.unflatten(-1, (module.heads, -1))  # [b, n, heads, d]
        return x if norm is None else norm(x)

    query = normed(module.norm_q, module.to_q(image))
    keys = (
        normed(module.norm_added_k, module.add_k_proj(text)),
        normed(module.norm_k, module.to_k(image)),
    )
    key = torch.cat(keys, 1)
    if places is not None:
        own = (places[0][text.shape[1] :], places[1][text.shape[1] :])
        query = apply_rotary_emb(query, own, sequence_dim=1)
        key = apply_rotary_emb(key, places, sequence_dim=1)
    query, key = query.transpose(1, 2).float(), key.transpose(1, 2).float()
    return (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)


def _heads(x: Tensor, heads: int) -> Tensor:
    """`[b, n, heads d]` to `[b, heads, n, d]`."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)
