"""What one network evaluation of each family takes: weights, multiplications, expected seconds.

    python benchmarks/families.py [--tflops 100] [--words 10] [--json FILE]

No weights are needed: networks are built on torch's `meta` device, configured as the checkpoint
is, from memory, and one forward pass is counted there (`torch.utils.flop_counter`: products of
matrices, convolutions and attention, two operations for a multiplication and its addition). Text
encoders and autoencoders, which run once per prompt and once per image, are left out. Seconds
follow from a speed that a GPU is taken to keep up. Lumina and Z-Image read the lengths of prompts
from numbers, which `meta` does not have, and are missing.

    seconds per image = words x draws x FLOP of an evaluation / speed
"""

import argparse
import json
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

CONFIGS = {
    "stable-diffusion-1.5": ("UNet2DConditionModel", 64, 77, {
        "cross_attention_dim": 768, "sample_size": 64}),
    "stable-diffusion-2.1": ("UNet2DConditionModel", 96, 77, {
        "cross_attention_dim": 1024, "sample_size": 96, "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True}),
    "sdxl-base": ("UNet2DConditionModel", 128, 77, {
        "cross_attention_dim": 2048, "sample_size": 128, "attention_head_dim": (5, 10, 20),
        "block_out_channels": (320, 640, 1280), "transformer_layers_per_block": (1, 2, 10),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "use_linear_projection": True, "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816}),
    "sd3-medium": ("SD3Transformer2DModel", 128, 77 + 256, {
        "sample_size": 128, "num_layers": 24, "num_attention_heads": 24,
        "caption_projection_dim": 1536, "pos_embed_max_size": 192}),
    "sd3.5-medium": ("SD3Transformer2DModel", 128, 77 + 256, {
        "sample_size": 128, "num_layers": 24, "num_attention_heads": 24,
        "caption_projection_dim": 1536, "pos_embed_max_size": 384, "qk_norm": "rms_norm",
        "dual_attention_layers": tuple(range(13))}),
    "sd3.5-large": ("SD3Transformer2DModel", 128, 77 + 256, {
        "sample_size": 128, "num_layers": 38, "num_attention_heads": 38,
        "caption_projection_dim": 2432, "pos_embed_max_size": 192, "qk_norm": "rms_norm"}),
    "flux-dev": ("FluxTransformer2DModel", 128, 512, {"guidance_embeds": True}),
    "dit-xl-2-256": ("DiTTransformer2DModel", 32, 0, {
        "num_layers": 28, "in_channels": 4, "out_channels": 8, "sample_size": 32,
        "num_embeds_ada_norm": 1000}),
    "pixart-sigma": ("PixArtTransformer2DModel", 128, 300, {
        "sample_size": 128, "caption_channels": 4096, "use_additional_conditions": False}),
    "sana": ("SanaTransformer2DModel", 32, 300, {}),
}  # fmt: skip


def inputs(kind: str, config, side: int, tokens: int) -> dict:
    """Arguments of one forward pass, on `meta`."""

    def full(*shape, dtype=torch.bfloat16):
        return torch.zeros(shape, device="meta", dtype=dtype)

    whole = torch.long
    one = full(1)
    if kind == "UNet2DConditionModel":
        found = {
            "sample": full(1, config.in_channels, side, side), "timestep": one,
            "encoder_hidden_states": full(1, tokens, config.cross_attention_dim),
        }  # fmt: skip
        if config.addition_embed_type:
            found["added_cond_kwargs"] = {"text_embeds": full(1, 1280), "time_ids": full(1, 6)}
        return found
    x = {"hidden_states": full(1, config.in_channels, side, side), "timestep": one}
    if kind == "SD3Transformer2DModel":
        text, pooled = full(1, tokens, config.joint_attention_dim), full(1, 2048)
        return x | {"encoder_hidden_states": text, "pooled_projections": pooled}
    if kind == "FluxTransformer2DModel":
        places = (side // 2) ** 2
        return {
            "hidden_states": full(1, places, config.in_channels), "timestep": one, "guidance": one,
            "encoder_hidden_states": full(1, tokens, config.joint_attention_dim),
            "pooled_projections": full(1, config.pooled_projection_dim),
            "txt_ids": full(tokens, 3), "img_ids": full(places, 3),
        }  # fmt: skip
    if kind == "DiTTransformer2DModel":
        return x | {"timestep": full(1, dtype=whole), "class_labels": full(1, dtype=whole)}
    if kind == "PixArtTransformer2DModel":
        return x | {
            "encoder_hidden_states": full(1, tokens, config.caption_channels),
            "encoder_attention_mask": full(1, tokens),
            "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
        }
    if kind == "SanaTransformer2DModel":
        return x | {"encoder_hidden_states": full(1, tokens, config.caption_channels)}
    raise ValueError(kind)


def counted(name: str) -> dict:
    """Weights and FLOP of one evaluation."""
    import diffusers

    kind, side, tokens, options = CONFIGS[name]
    with torch.device("meta"):
        network = getattr(diffusers, kind)(**options).to(torch.bfloat16).eval()
    weights = sum(p.numel() for p in network.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(**inputs(kind, network.config, side, tokens))
    return {"weights": weights, "flop": counter.get_total_flops()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tflops", type=float, default=100)
    parser.add_argument("--words", type=int, default=10)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = {}
    print("| card | weights, 10^9 | TFLOP per evaluation | seconds per image: 32 draws, 8 draws |")
    print("|---|---|---|---|")
    for name in CONFIGS:
        found[name] = counted(name)
        tera = found[name]["flop"] / 1e12
        each = [options.words * draws * tera / options.tflops for draws in (32, 8)]
        print(
            f"| `{name}` | {found[name]['weights'] / 1e9:.2f} | {tera:.2f} | "
            f"{each[0]:.1f}, {each[1]:.1f} |"
        )
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
