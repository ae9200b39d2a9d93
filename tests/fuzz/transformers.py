"""Damage of the families with several text encoders or a transformer: SDXL, SD3, Flux, DiT, PixArt.

What may happen to any file is tried on the older families; here stands what is new in these: their
parts, the values that their networks, encoders and schedulers read, and classes' names.
"""

from pathlib import Path
from typing import Any

import torch

from .spoil import (
    BOUNDS,
    INF,
    NAN,
    UNET,
    VAE,
    WORKS,
    Kind,
    add,
    both,
    configs,
    drop,
    fill,
    gone,
    holds,
    replaced,
    reshape,
    sets,
    swap,
    tensors,
    values,
    weights,
    without,
)

NET = "transformer/diffusion_pytorch_model.safetensors"
SECOND, THIRD = (f"text_encoder_{i}/model.safetensors" for i in (2, 3))
CONFIG, SCHEDULER = "transformer/config.json", "scheduler/scheduler_config.json"
APART = "do not belong together|does not load"
FLOW = "flow"


def parts(prefix: str, *names: str) -> list[Kind]:
    """A folder without one of its parts each, and with an empty one."""
    return [
        kind
        for name in names
        for kind in (
            Kind(f"{prefix}-{name}-gone", gone(name), f"{name}.*missing"),
            Kind(f"{prefix}-{name}-bare", replaced(name, Path.mkdir), f"{name}.*(missing|lacks)"),
        )
    ]


def sizes(prefix: str, file: str) -> list[Kind]:
    """Values of `sample_size`."""
    odd: list[Any] = ["8", [8, 16], 0, -8, 10**6, None, 8.5, True, {}, []]
    return values(prefix, file, [("sample_size", value, "sample_size|bounds") for value in odd])


def transformers(prefix: str, *tensor: str) -> list[Kind]:
    """What may be wrong with any transformer; `tensor` is in the names of two of its tensors."""
    first, last = tensor
    return [
        Kind(f"{prefix}-whole", lambda f: None, WORKS),
        *weights(f"{prefix}-net", NET, first, first),
        *configs(f"{prefix}-net-config", CONFIG)[::4],
        Kind(f"{prefix}-deeper", tensors(NET, add("transformer_blocks.9.norm.weight", 8)),
             "blocks.9"),
        Kind(f"{prefix}-overflow", tensors(NET, fill(last, 3e38)), "NaN or infinity"),
        *parts(prefix, "transformer", "vae", "scheduler"),
        *values(f"{prefix}-net", CONFIG, [
            ("num_layers", 10**6, BOUNDS), ("num_layers", 0, BOUNDS), ("num_layers", 3, "lacks|shape"),
            ("num_layers", "2", BOUNDS), ("num_attention_heads", 0, f"{BOUNDS}|make no"),
            ("num_attention_heads", 10**6, BOUNDS + "|bytes|large|shape"),
            ("attention_head_dim", -8, BOUNDS), ("attention_head_dim", "8", BOUNDS),
            ("in_channels", 10**12, BOUNDS), ("in_channels", NAN, BOUNDS),
            ("in_channels", "4", BOUNDS), ("in_channels", 8, "shape|channels"),
            ("patch_size", 0, f"{BOUNDS}|patch"), ("patch_size", "2", f"{BOUNDS}|patch"),
            ("patch_size", INF, BOUNDS), ("_class_name", "os.system", f"{WORKS}|class"),
            ("quantization_config", {"quant_method": "torchao"}, "quanti"),
        ]),
        *values(f"{prefix}-vae", "vae/config.json", [
            ("scaling_factor", NAN, "scaling_factor"), ("scaling_factor", 0, "scaling_factor"),
            ("scaling_factor", None, "scaling_factor"), ("latent_channels", 8, "shape|8"),
            ("shift_factor", NAN, "shift_factor|bounds"), ("latents_mean", [0.1], f"{BOUNDS}|latents_mean|make"),
        ]),
        Kind(f"{prefix}-vae-of-means", sets("vae/config.json", latents_mean=[0.0] * 3,
             latents_std=[1.0] * 3), "latents_mean|make no"),
        Kind(f"{prefix}-vae-of-no-width", sets("vae/config.json", latents_mean=[0.0] * 4,
             latents_std=[0.0] * 4), "latents_std|make no"),
        Kind(f"{prefix}-swapped", swap(NET, VAE), "lacks"),
        Kind(f"{prefix}-is-sd", sets("model_index.json", _class_name="StableDiffusionPipeline"),
             "unet/ is missing"),
    ]  # fmt: skip


def flows(prefix: str) -> list[Kind]:
    """Schedulers of models that learned straight lines."""
    return [
        *configs(f"{prefix}-scheduler-config", SCHEDULER)[1::4],
        *values(f"{prefix}-scheduler", SCHEDULER, [
            ("_class_name", "DDPMScheduler", FLOW), ("_class_name", "EDMEulerScheduler", FLOW),
            ("_class_name", "EulerDiscreteScheduler", FLOW), ("_class_name", 3, BOUNDS),
            ("_class_name", "FlowMatchHeunDiscreteScheduler", WORKS),
            ("_class_name", "LCMScheduler", FLOW), ("shift", NAN, BOUNDS), ("shift", "3", BOUNDS),
            ("shift", 0, BOUNDS), ("shift", -3.0, BOUNDS), ("num_train_timesteps", 0, BOUNDS),
            ("num_train_timesteps", "1000", BOUNDS),
        ]),
    ]  # fmt: skip


def t5(prefix: str, part: str, width: str) -> list[Kind]:
    """A T5 encoder with its tokenizer; `width` is what its network calls its width."""
    tokens = part.replace("text_encoder", "tokenizer")
    file = f"{part}/model.safetensors"
    return [
        *weights(f"{prefix}-t5", file, "wi_0.weight", "wi_0.weight"),
        *parts(prefix, part, tokens),
        Kind(f"{prefix}-t5-garbage", holds(f"{tokens}/tokenizer.json", b"\0" * 9), "token"),
        *values(f"{prefix}-t5", f"{part}/config.json", [
            ("d_model", 64, f"shape|{APART}"), ("num_layers", 10**6, BOUNDS),
            ("vocab_size", 3, "shape"), ("d_ff", -1, BOUNDS),
        ]),
        *values(f"{prefix}-net", CONFIG, [
            (width, 8, "shape"), (width, "32", BOUNDS), (width, None, f"{BOUNDS}|{APART}|shape"),
        ]),
    ]  # fmt: skip


NEWER: list[Kind] = [
    # -- SDXL
    Kind("sdxl-whole", lambda f: None, WORKS),
    *weights("sdxl-unet", UNET, "add_embedding.linear_1.weight", "add_embedding.linear_1.weight"),
    *weights("sdxl-second", SECOND, "text_projection.weight", "text_projection.weight"),
    *parts("sdxl", "text_encoder_2", "tokenizer_2", "vae", "unet", "scheduler"),
    *sizes("sdxl-unet", "unet/config.json"),
    Kind("sdxl-refiner", sets("model_index.json", text_encoder=[None, None],
         tokenizer=[None, None]), "refiner"),
    Kind("sdxl-aesthetics", sets("model_index.json", requires_aesthetics_score=True), "refiner"),
    Kind("sdxl-encoders-swapped", both(swap("text_encoder/model.safetensors", SECOND),
         swap("text_encoder/config.json", "text_encoder_2/config.json")), "lacks|shape|belong"),
    Kind("sdxl-is-sd", sets("model_index.json", _class_name="StableDiffusionPipeline"),
         "text_time|addition|belong|SDXL|sizes|channels"),
    *values("sdxl-unet", "unet/config.json", [
        ("addition_embed_type", None, "SDXL|has no place"), ("addition_embed_type", "text", BOUNDS + "|SDXL|shape|lacks"),
        ("addition_embed_type", 3, f"{BOUNDS}|SDXL"),
        ("addition_time_embed_dim", 8, "numbers of the prompt|belong"),
        ("addition_time_embed_dim", None, "."), ("addition_time_embed_dim", "4", "."),
        ("projection_class_embeddings_input_dim", 10, "shape"),
        ("projection_class_embeddings_input_dim", None, "."),
        ("transformer_layers_per_block", [1, 9], "lacks"),
        ("transformer_layers_per_block", [1, 10**5], BOUNDS),
        ("time_cond_proj_dim", 32, "time_cond_proj_dim|lacks"),
        ("encoder_hid_dim_type", "ip_image_proj", "IP-Adapter|lacks|encoder_hid_dim"),
        ("in_channels", 9, "shape|channels"), ("in_channels", 8, "shape|channels"),
        ("cross_attention_dim", 16, "shape"),
    ]),
    *values("sdxl-second", "text_encoder_2/config.json", [
        ("projection_dim", 16, "shape"), ("hidden_size", 32, f"shape|{BOUNDS}"),
        ("num_hidden_layers", 10**6, BOUNDS), ("num_hidden_layers", 1, "layers.1"),
    ]),
    *values("sdxl-index", "model_index.json", [
        ("force_zeros_for_empty_prompt", "no", f"{WORKS}|force_zeros"),
        ("text_encoder_2", ["transformers", "T5EncoderModel"], "T5EncoderModel"),
        ("unet", ["diffusers", "SD3Transformer2DModel"], "SD3Transformer"),
        ("_class_name", "StableDiffusionXLControlNetPipeline", "ControlNet"),
        ("_class_name", "StableDiffusionXLInstructPix2PixPipeline", "Pix2Pix"),
    ]),
    *values("sdxl-scheduler", SCHEDULER, [
        ("_class_name", "FlowMatchEulerDiscreteScheduler", "FlowMatch"),
        ("_class_name", "EDMDPMSolverMultistepScheduler", "EDM"),
        ("_class_name", "TCDScheduler", "TCD"), ("use_flow_sigmas", True, "flow"),
    ]),
    # -- SD3
    *transformers("sd3", "pos_embed.proj.weight", "proj_out.weight"),
    *flows("sd3"), *sizes("sd3-net", CONFIG),
    *weights("sd3-third", THIRD, "wi_0.weight", "wi_0.weight"),
    *parts("sd3", "text_encoder_2", "tokenizer"),
    Kind("sd3-without-t5", both(gone("text_encoder_3", "tokenizer_3"), sets("model_index.json",
         text_encoder_3=[None, None], tokenizer_3=[None, None])), WORKS),
    Kind("sd3-t5-without-tokens", gone("tokenizer_3"), "tokenizer_3"),
    Kind("sd3-tokens-without-t5", gone("text_encoder_3"), "text_encoder_3"),
    *values("sd3-net", CONFIG, [
        ("joint_attention_dim", 40, "shape"), ("pooled_projection_dim", 10, "shape"),
        ("pos_embed_max_size", 0, BOUNDS + "|pos_embed|shape|make no"),
        ("pos_embed_max_size", None, "."), ("pos_embed_max_size", 10**5, BOUNDS + "|shape"),
        ("qk_norm", "os.system", f"{BOUNDS}|qk_norm|unknown"), ("qk_norm", None, "has no place"),
        ("dual_attention_layers", [9], "has no place|lacks|shape"),
        ("caption_projection_dim", 32, "shape|does not"),
        ("out_channels", 8, "shape"),
    ]),
    # -- Flux
    *transformers("flux", "x_embedder.weight", "proj_out.weight"),
    *flows("flux"), *t5("flux", "text_encoder_2", "joint_attention_dim"),
    *values("flux-net", CONFIG, [
        ("guidance_embeds", False, "guidance_embedder|has no place"),
        ("guidance_embeds", "no", f"{WORKS}|guidance"),
        ("guidance_embeds", 3, f"{WORKS}|guidance"), ("axes_dims_rope", [2, 2], BOUNDS + "|axes|make|rope"),
        ("axes_dims_rope", [2, 2, 40], "axes|rope|does not|size"),
        ("axes_dims_rope", "all", BOUNDS + "|axes"), ("axes_dims_rope", [0, 4, 4], "axes|rope|does not|size"),
        ("axes_dims_rope", None, BOUNDS + "|axes"), ("pooled_projection_dim", 24, "shape"),
        ("num_single_layers", 10**6, BOUNDS), ("num_single_layers", 4, "lacks"),
    ]),
    # -- DiT
    *transformers("dit", "pos_embed.proj.weight", "proj_out_2.weight"), *sizes("dit-net", CONFIG),
    *values("dit-net", CONFIG, [
        ("num_embeds_ada_norm", 9, "shape"), ("num_embeds_ada_norm", 0, BOUNDS + "|class"),
        ("num_embeds_ada_norm", "5", f"{BOUNDS}|class"), ("num_embeds_ada_norm", None, "."),
        ("num_embeds_ada_norm", 10**12, BOUNDS), ("norm_type", "layer_norm", "."),
        ("norm_type", 3, "."), ("out_channels", 5, "shape|channels"), ("out_channels", 4, "shape"),
    ]),
    *values("dit-index", "model_index.json", [
        ("id2label", {"x": "cat"}, "id2label"), ("id2label", ["cat", "dog"], "id2label"),
        ("id2label", {"0": 3}, "id2label"), ("id2label", {"9999": "cat"}, "id2label"),
        ("id2label", {"-1": "cat"}, "id2label"), ("id2label", "cat", "id2label"),
        ("id2label", {}, WORKS), ("id2label", None, WORKS), ("id2label", {"0": None}, "id2label"),
        ("id2label", {"1.5": "cat"}, "id2label"), ("id2label", {"0": ""}, f"{WORKS}|id2label"),
    ]),
    *values("dit-scheduler", SCHEDULER, [
        ("_class_name", "FlowMatchEulerDiscreteScheduler", "FlowMatch"),
        ("beta_start", NAN, BOUNDS), ("prediction_type", "chaos", "prediction"),
    ]),
    # -- PixArt
    *transformers("pixart", "pos_embed.proj.weight", "proj_out.weight"),
    *sizes("pixart-net", CONFIG), *t5("pixart", "text_encoder", "caption_channels"),
    Kind("pixart-bare-scheduler", without(SCHEDULER, "beta_start", "beta_end", "beta_schedule",
         "trained_betas"), "betas"),
    *values("pixart-net", CONFIG, [
        ("use_additional_conditions", True, "lacks"), ("norm_type", "ada_norm_zero", "."),
        ("cross_attention_dim", 16, "shape|does not"), ("interpolation_scale", 0, "."),
        ("interpolation_scale", "a", "."), ("out_channels", 5, "shape|channels"),
    ]),
    Kind("pixart-half", tensors(NET, lambda t: t.update({k: v.to(torch.float16) for k, v in
         t.items()})), WORKS),
    Kind("pixart-no-scale-table", tensors(NET, drop("scale_shift_table")), "scale_shift_table"),
    Kind("pixart-long-table", tensors(NET, reshape("scale_shift_table")), "scale_shift_table"),
]  # fmt: skip
