"""Damaged and hostile checkpoints: folders of real classes at tiny size, each spoilt in one way.

    python -m fuzz.checkpoints --only sd-wrong-shape     # from tests/

A kind names the folder it spoils, what it does, and what the answer must say; `WORKS` stands for
those that are no damage. Whatever would execute code writes a file called `executed`.
"""

import argparse
import json
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

import diffzero as dz
from diffzero.errors import InputError

from .spoil import (
    BOUNDS,
    CLIP,
    INF,
    NAN,
    TEXT,
    UNET,
    VAE,
    WORKS,
    Kind,
    add,
    both,
    code,
    configs,
    drop,
    elsewhere,
    fill,
    gone,
    header,
    holds,
    linked,
    made,
    pickle_for,
    pickled,
    replaced,
    retype,
    sets,
    shards,
    swap,
    tensors,
    values,
    weights,
    without,
)
from .transformers import NEWER

SECONDS = 15

KINDS: list[Kind] = [
    # -- what is loaded at all
    Kind("sd-whole", lambda f: None, WORKS),
    Kind("ddpm-whole", lambda f: None, WORKS),
    Kind("if-whole", lambda f: None, WORKS),
    Kind("clip-whole", lambda f: None, WORKS),
    Kind("sd-nowhere", elsewhere("nowhere"), "nowhere"),
    Kind("sd-nul-in-its-name", lambda f: "mod\0el", "mod"),
    Kind("sd-name-too-long", lambda f: "m" * 5000, "mmm"),
    Kind("sd-name-of-slashes", lambda f: "/" * 5000, "no model_index"),
    Kind("sd-loop-of-links", lambda f: made(f.parent / "loop", linked("loop")), "loop"),
    Kind("sd-pipe", lambda f: made(f.parent / "pipe", os.mkfifo), "pipe"),
    Kind("sd-empty-folder", lambda f: made(f.parent / "empty", Path.mkdir), "no model_index"),
    # -- shards
    Kind("sd-shards", shards(lambda i: None), WORKS),
    Kind("sd-shard-missing", shards(lambda i: None, "*00002-of*"), "00002-of-00002.*missing"),
    Kind("sd-shards-without-index", both(shards(lambda i: None), gone(UNET + ".index.json")),
         "index"),
    Kind("sd-index-lacks-a-tensor", shards(
        lambda i: i["weight_map"].pop("conv_in.weight")), "conv_in.weight"),
    Kind("sd-index-names-strangers", shards(
        lambda i: i["weight_map"].update(other=min(i["weight_map"].values()))), "other"),
    Kind("sd-index-leads-out", shards(
        lambda i: i["weight_map"].update({"conv_in.weight": "../../../etc/passwd"})), "passwd"),
    Kind("sd-index-is-absolute", shards(
        lambda i: i["weight_map"].update({"conv_in.weight": "/etc/passwd"})), "passwd"),
    Kind("sd-index-of-numbers", shards(
        lambda i: i["weight_map"].update({"conv_in.weight": 3})), "3 is missing|damaged"),
    Kind("sd-index-without-a-map", shards(lambda i: i.pop("weight_map")), "index.json.*damaged"),
    Kind("sd-index-is-a-list", shards(lambda i: i.update(weight_map=[1])), "index.json.*damaged"),
    Kind("sd-index-swaps-shards", shards(lambda i: i.update(weight_map=dict(zip(
        i["weight_map"], reversed(i["weight_map"].values()), strict=True)))), "shard|lacks|hold"),
    Kind("sd-index-without-size", shards(lambda i: i.pop("metadata")), f"{WORKS}|metadata"),
    # -- weights that are something else
    *weights("sd-unet", UNET, "conv_in.weight", "conv_in.weight"),
    *weights("sd-vae", VAE, "encoder.conv_in.weight", "encoder.conv_in.weight"),
    *weights("sd-text", TEXT, "fc1.weight", "fc1.weight"),
    *weights("if-text", TEXT, "wi_0.weight", "wi_0.weight"),
    *weights("clip", CLIP, "text_projection.weight", "text_projection.weight"),
    *weights("ddpm-unet", UNET, "class_embedding.weight", "class_embedding.weight"),
    Kind("sd-vae-decoder-gone", tensors(VAE, drop("decoder.conv_in.weight")), "lacks.*decoder"),
    Kind("sd-overflow", tensors(UNET, fill("conv_in.weight", 3e38)), "NaN or infinity"),
    Kind("sd-unet-of-sdxl", tensors(UNET, add("add_embedding.linear_1.weight", 64, 4)),
         "add_embedding.linear_1.weight"),
    Kind("sd-unet-deeper", tensors(UNET, add("down_blocks.0.resnets.9.conv1.weight", 8, 8, 3, 3)),
         "down_blocks.0.resnets.9"),
    Kind("sd-text-deeper", tensors(TEXT, add("encoder.layers.9.mlp.fc1.weight", 32, 16)),
         "layers.9"),
    Kind("sd-text-with-projection", tensors(TEXT, add("text_projection.weight", 16, 16)), WORKS),
    Kind("sd-vae-deeper", tensors(VAE, add("encoder.down_blocks.7.conv.weight", 8)),
         "down_blocks.7"),
    Kind("clip-deeper", tensors(CLIP, add("vision_model.encoder.layers.9.mlp.fc1.weight", 8, 8)),
         "layers.9"),
    Kind("sd-parts-swapped", swap(UNET, VAE), "lacks"),
    Kind("sd-bool-weights", tensors(UNET, retype("conv_out.weight", torch.bool)), "conv_out"),
    Kind("sd-byte-weights", tensors(UNET, retype("conv_out.weight", torch.uint8)), "conv_out"),
    Kind("sd-half-weights", tensors(UNET, retype("conv_out.weight", torch.float16)), WORKS),
    Kind("sd-weights-pipe", replaced(UNET, os.mkfifo), "not a file"),
    Kind("sd-weights-directory", replaced(UNET, Path.mkdir), "not a file"),
    Kind("sd-weights-dangling", replaced(UNET, linked("../../gone")), "link to nothing"),
    Kind("sd-weights-loop", replaced(UNET, linked(Path(UNET).name)), "link to nothing"),
    Kind("sd-weights-endless", replaced(UNET, linked("/dev/zero")), "not a file"),
    Kind("sd-weights-html", holds(UNET, b"<html>404 not found</html>"), "half-written"),
    Kind("sd-weights-lfs", holds(UNET, "version https://git-lfs.github.com/spec/v1\n"
         "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
         "size 12345\n"), "git-lfs|git lfs|Git LFS"),
    Kind("sd-header-lies", holds(UNET, header(2**60, b"{}")), "half-written"),
    Kind("sd-header-short", holds(UNET, b"\x10\0"), "half-written"),
    Kind("sd-header-list", holds(UNET, header(None, b"[1, 2, 3]")), "half-written"),
    Kind("sd-header-garbage", holds(UNET, header(None, b"\xff" * 64)), "half-written"),
    Kind("sd-header-beyond", holds(UNET, header(None, json.dumps(
        {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 2**40]}}).encode())),
        "half-written"),
    Kind("sd-header-overlaps", holds(UNET, header(None, json.dumps(
        {n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in "ab"}).encode(),
        bytes(4))), "half-written"),
    Kind("sd-header-shape-lies", holds(UNET, header(None, json.dumps(
        {"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 4]}}).encode(),
        bytes(4))), "half-written"),
    Kind("sd-header-dtype-lies", holds(UNET, header(None, json.dumps(
        {"a": {"dtype": "os.system", "shape": [1], "data_offsets": [0, 4]}}).encode(), bytes(4))),
        "half-written"),
    # -- what would run code
    Kind("sd-pickle", pickle_for(UNET, "unet/diffusion_pytorch_model.bin"), "a pickle"),
    Kind("sd-pickle-allowed", pickle_for(UNET, "unet/diffusion_pytorch_model.bin"),
         "diffusion_pytorch_model.bin|does not load", allow_pickle=True),
    Kind("clip-pickle", pickle_for(CLIP, "pytorch_model.bin"), "a pickle"),
    Kind("clip-pickle-allowed", pickle_for(CLIP, "pytorch_model.bin"),
         "pytorch_model.bin|does not load|do not belong", allow_pickle=True),
    Kind("sd-pickle-named-safetensors", lambda f: pickled(f, UNET), "half-written"),
    Kind("sd-torch-zip-named-safetensors", lambda f: torch.save({"a": 1}, f / UNET),
         "half-written"),
    Kind("sd-ckpt", lambda f: made(f.parent / "m.ckpt", lambda p: p.write_bytes(b"x")),
         "pickled checkpoint"),
    Kind("sd-single-file", lambda f: f / UNET, "single-file"),
    Kind("sd-custom-pipeline", both(code("."), sets("model_index.json",
         _class_name=["mine", "Mine"])), "not supported|damaged|must be"),
    Kind("sd-custom-unet", both(code("unet"), sets("model_index.json", unet=["mine", "Mine"])),
         "unet.*Mine"),
    Kind("sd-unet-of-os", sets("model_index.json", unet=["os", "system"]), "unet.*system"),
    Kind("sd-unet-dunder", sets("model_index.json", unet=["builtins", "__import__"]), "unet"),
    Kind("sd-remote-unet", both(code("unet"), sets("unet/config.json", trust_remote_code=True,
         auto_map={"AutoModel": "mine.Mine"})), WORKS),
    Kind("sd-remote-tokenizer", both(code("tokenizer"), sets("tokenizer/tokenizer_config.json",
         trust_remote_code=True, auto_map={"AutoTokenizer": ["mine.Mine", "mine.Mine"]})), WORKS),
    Kind("clip-remote-code", both(code("."), sets("config.json", trust_remote_code=True,
         auto_map={"AutoModel": "mine.Mine", "AutoConfig": "mine.Mine"})), WORKS),
    Kind("clip-remote-type", both(code("."), sets("config.json", model_type="mine",
         auto_map={"AutoModel": "mine.Mine"})), "model type 'mine'"),
    Kind("sd-quantised", sets("unet/config.json", quantization_config={
        "quant_method": "bitsandbytes", "load_in_4bit": True}), "quanti"),
    Kind("clip-quantised", sets("config.json", quantization_config={
        "quant_method": "gptq", "bits": 4}), "quanti"),
    Kind("sd-card-runs", holds("card.yaml", "!!python/object/apply:pathlib.Path.touch [executed]"),
         "card.yaml.*damaged"),
    # -- the index
    *configs("sd-index", "model_index.json"),
    *values("sd-index", "model_index.json", [
        ("_class_name", None, "unknown class|None"), ("_class_name", 3, "3|text"),
        ("_class_name", ["a"], "text|not supported"), ("_class_name", {"a": 1}, "."),
        ("_class_name", "StableDiffusionXLPipeline", "text_encoder_2/ is missing"),
        ("_class_name", "os.system", "os.system is not supported"),
        ("_class_name", "x" * 5000, "not supported"), ("_class_name", "\ud800", "text"),
        ("unet", None, WORKS), ("unet", "UNet2DConditionModel", WORKS), ("unet", 7, "unet"),
        ("unet", [None, None], "unet"), ("unet", ["diffusers", "UNet2DModel"], "UNet2DModel"),
        ("unet", ["diffusers", "FlaxUNet2DConditionModel"], "Flax"),
        ("unet", ["diffusers"], "unet"), ("unet", ["diffusers", 5], "unet"),
        ("vae", ["diffusers", "VQModel"], "VQModel"),
        ("vae", ["diffusers", "ConsistencyDecoderVAE"], "ConsistencyDecoder"),
        ("vae", ["diffusers", "AutoencoderTiny"], "vae"),
        ("text_encoder", ["transformers", "T5EncoderModel"], "T5EncoderModel"),
        ("tokenizer", ["transformers", "GPT2Tokenizer"], "GPT2"),
        ("scheduler", ["diffusers", "FlowMatchEulerDiscreteScheduler"], f"{WORKS}|Flow"),
    ]),
    # -- the U-Net's configuration
    *configs("sd-unet-config", "unet/config.json"),
    Kind("sd-unet-config-gone", gone("unet/config.json"), "config.json is missing"),
    Kind("sd-unet-config-huge", lambda f: (f / "unet/config.json").write_text(
        '{"a": "' + " " * (66 * 2**20) + '"}'), "damaged|bytes|large"),
    *values("sd-unet", "unet/config.json", [
        ("in_channels", -4, BOUNDS), ("in_channels", 0, BOUNDS), ("in_channels", "4", BOUNDS),
        ("in_channels", 4.5, BOUNDS), ("in_channels", 10**12, BOUNDS), ("in_channels", 9, "shape|9"),
        ("in_channels", NAN, BOUNDS), ("in_channels", None, BOUNDS), ("in_channels", [4], BOUNDS),
        ("in_channels", True, BOUNDS), ("in_channels", INF, BOUNDS),
        ("layers_per_block", 10**6, BOUNDS), ("layers_per_block", -1, BOUNDS),
        ("layers_per_block", 300, BOUNDS), ("layers_per_block", [1, 2, 3], BOUNDS),
        ("layers_per_block", "two", BOUNDS),
        ("block_out_channels", [8, 16] * 400, BOUNDS), ("block_out_channels", [], BOUNDS),
        ("block_out_channels", [8, -16], BOUNDS), ("block_out_channels", 8, BOUNDS),
        ("block_out_channels", [2**23, 2**23], "bounds|large|bytes"),
        ("block_out_channels", ["8", "16"], BOUNDS), ("block_out_channels", [8, 10**30], BOUNDS),
        ("block_out_channels", [8, 16, 32], BOUNDS), ("block_out_channels", [[8], [16]], BOUNDS),
        ("block_out_channels", [8, 18], "does not|shape"),
        ("down_block_types", [1, 2], BOUNDS), ("down_block_types", "DownBlock2D", BOUNDS),
        ("down_block_types", ["os.system", "DownBlock2D"], BOUNDS), ("down_block_types", {}, BOUNDS),
        ("mid_block_type", 4, BOUNDS), ("mid_block_type", "Nothing", BOUNDS),
        ("act_fn", "os.system", BOUNDS), ("act_fn", 3, BOUNDS), ("act_fn", ["silu"], BOUNDS),
        ("cross_attention_dim", 32, "shape"), ("cross_attention_dim", 0, BOUNDS + "|shape"),
        ("cross_attention_dim", "16", BOUNDS), ("cross_attention_dim", -16, BOUNDS),
        ("attention_head_dim", 0, BOUNDS), ("attention_head_dim", 5, BOUNDS + "|shape|5"),
        ("attention_head_dim", "2", BOUNDS), ("norm_num_groups", 0, BOUNDS),
        ("norm_num_groups", 7, BOUNDS), ("norm_num_groups", "4", BOUNDS),
        ("sample_size", "8", "sample_size"), ("sample_size", [8, 16], "sample_size"),
        ("sample_size", [8, 8], WORKS), ("sample_size", 0, "sample_size"),
        ("sample_size", -8, "sample_size"), ("sample_size", 10**9, "sample_size|bounds"),
        ("sample_size", 10**6, "sample_size|bounds"), ("sample_size", None, "sample_size"),
        ("sample_size", 8.0, "sample_size"), ("sample_size", True, "sample_size"),
        ("sample_size", {}, "sample_size"), ("sample_size", [], "sample_size"),
        ("time_cond_proj_dim", 32, "time_cond_proj_dim|lacks"),
        ("addition_embed_type", "text_time", "addition|lacks|does not"),
        ("class_embed_type", "timestep", "class_embed_type|lacks"),
        ("num_class_embeds", 10, "num_class_embeds|lacks"),
        ("encoder_hid_dim_type", "ip_image_proj", "encoder_hid_dim|lacks|does not"),
        ("transformer_layers_per_block", 10**5, BOUNDS), ("dropout", 3.0, BOUNDS),
        ("center_input_sample", "yes", WORKS), ("_class_name", 3, f"{WORKS}|class"),
        ("_class_name", "AutoencoderKL", f"{WORKS}|class|AutoencoderKL"),
        ("nobody_knows_this", {"a": [1]}, WORKS),
    ]),
    # -- the VAE's
    *configs("sd-vae-config", "vae/config.json")[::3],
    *values("sd-vae", "vae/config.json", [
        ("scaling_factor", NAN, "scaling_factor"), ("scaling_factor", 0, "scaling_factor"),
        ("scaling_factor", "0.18", "scaling_factor"), ("scaling_factor", None, "scaling_factor"),
        ("scaling_factor", [0.18], "scaling_factor"), ("scaling_factor", 1e300, "scaling_factor"),
        ("scaling_factor", True, "scaling_factor"), ("shift_factor", "a", "shift_factor"),
        ("shift_factor", INF, "shift_factor"), ("latent_channels", 8, "shape|8"),
        ("latent_channels", -4, BOUNDS), ("latent_channels", "4", BOUNDS),
        ("block_out_channels", [8] * 30, "bounds|does not|lacks"),
        ("block_out_channels", [8, 8, 8], "does not|lacks|is not"),
        ("in_channels", 1, "shape|channels"), ("norm_num_groups", 3, BOUNDS),
        ("layers_per_block", 10**7, BOUNDS), ("force_upcast", "maybe", WORKS),
        ("mid_block_add_attention", False, "mid_block.attentions"),
    ]),
    # -- the text encoder's
    *configs("sd-text-config", "text_encoder/config.json")[1::3],
    *values("sd-text", "text_encoder/config.json", [
        ("hidden_size", 0, BOUNDS), ("hidden_size", -16, BOUNDS), ("hidden_size", "16", BOUNDS),
        ("hidden_size", 24, "shape|does not|cannot"), ("num_hidden_layers", 10**6, BOUNDS),
        ("num_hidden_layers", 2.5, BOUNDS), ("num_hidden_layers", 3, "lacks"),
        ("num_hidden_layers", 1, "layers.1"), ("num_hidden_layers", -2, BOUNDS),
        ("num_hidden_layers", "2", BOUNDS), ("num_hidden_layers", None, BOUNDS),
        ("vocab_size", 10**12, BOUNDS), ("vocab_size", 4, "shape"), ("vocab_size", -1, BOUNDS),
        ("num_attention_heads", 3, BOUNDS), ("num_attention_heads", 0, BOUNDS),
        ("hidden_act", "os.system", BOUNDS), ("hidden_act", 4, BOUNDS), ("hidden_act", [], BOUNDS),
        ("max_position_embeddings", 0, BOUNDS + "|shape"), ("max_position_embeddings", -5, BOUNDS),
        ("max_position_embeddings", "16", BOUNDS), ("max_position_embeddings", 2**40, BOUNDS),
        ("eos_token_id", "a", BOUNDS), ("eos_token_id", 10**9, f"{WORKS}|eos"),
        ("layer_norm_eps", "small", BOUNDS), ("layer_norm_eps", NAN, BOUNDS),
        ("model_type", "siglip", f"{WORKS}|model"), ("model_type", 3, f"{WORKS}|model"),
        ("torch_dtype", "os.system", f"{WORKS}|dtype"), ("dtype", "float128", f"{WORKS}|dtype"),
        ("dtype", 16, f"{WORKS}|dtype"), ("architectures", "CLIPTextModel", WORKS),
        ("attention_dropout", "much", BOUNDS), ("intermediate_size", 10**15, BOUNDS),
        ("projection_dim", -1, BOUNDS + f"|{WORKS}"), ("_attn_implementation", "os.system",
        f"{WORKS}|attention|does not"),
    ]),
    *values("if-text", "text_encoder/config.json", [
        ("d_model", 0, BOUNDS), ("d_model", 32, "shape"), ("d_kv", -8, BOUNDS),
        ("num_layers", 10**6, BOUNDS), ("num_layers", 1, "block.1"), ("num_layers", "2", BOUNDS),
        ("feed_forward_proj", "os.system", f"{BOUNDS}|{WORKS}"), ("feed_forward_proj", 3, BOUNDS),
        ("num_heads", 0, BOUNDS), ("vocab_size", 3, "shape"),
        ("relative_attention_num_buckets", -1, BOUNDS),
    ]),
    # -- the scheduler's
    *configs("sd-scheduler-config", "scheduler/scheduler_config.json")[2::3],
    Kind("sd-scheduler-gone", gone("scheduler"), "scheduler/ is missing"),
    Kind("sd-scheduler-empty", gone("scheduler/scheduler_config.json"), "scheduler"),
    Kind("sd-scheduler-bare", without("scheduler/scheduler_config.json", "beta_start", "beta_end",
         "beta_schedule", "trained_betas"), "betas"),
    *values("sd-scheduler", "scheduler/scheduler_config.json", [
        ("beta_start", NAN, BOUNDS), ("beta_start", -1.0, BOUNDS), ("beta_start", "a", BOUNDS),
        ("beta_end", 5.0, "beta_end must"), ("beta_end", None, BOUNDS), ("beta_end", [0.1], BOUNDS),
        ("beta_schedule", "os.system", BOUNDS), ("beta_schedule", 3, BOUNDS),
        ("beta_schedule", None, BOUNDS), ("num_train_timesteps", 0, BOUNDS),
        ("num_train_timesteps", -1, BOUNDS), ("num_train_timesteps", 10**12, BOUNDS),
        ("num_train_timesteps", "1000", BOUNDS), ("num_train_timesteps", 1000.5, BOUNDS),
        ("num_train_timesteps", 10**7, BOUNDS), ("num_train_timesteps", 1, BOUNDS),
        ("trained_betas", [0.1, NAN], BOUNDS), ("trained_betas", ["a", "b"], BOUNDS),
        ("trained_betas", 3, BOUNDS), ("trained_betas", [2.0, 3.0], BOUNDS),
        ("trained_betas", [0.1] * 10**5, "belong together"), ("trained_betas", "linear", BOUNDS),
        ("prediction_type", "nothing", "prediction type"), ("prediction_type", 3, "prediction type"),
        ("prediction_type", ["epsilon"], "prediction type"),
        ("prediction_type", None, "prediction type"),
        ("prediction_type", "flow_prediction", "prediction type|flow"),
        ("rescale_betas_zero_snr", True, "zero signal"), ("use_flow_sigmas", True, "flow"),
        ("_class_name", "FlowMatchEulerDiscreteScheduler", "FlowMatch"),
        ("_class_name", "LCMScheduler", "LCM"), ("_class_name", "EDMEulerScheduler", "EDM"),
        ("_class_name", "IPNDMScheduler", "IPNDM"), ("_class_name", 3, BOUNDS + "|3"),
        ("_class_name", ["x"], BOUNDS + "|x"), ("thresholding", "yes", f"{BOUNDS}|{WORKS}"),
        ("clip_sample_range", "wide", f"{BOUNDS}|{WORKS}"),
    ]),
    *values("if-scheduler", "scheduler/scheduler_config.json", [
        ("dynamic_thresholding_ratio", 2.0, BOUNDS), ("dynamic_thresholding_ratio", "a", BOUNDS),
        ("sample_max_value", "b", BOUNDS), ("sample_max_value", -1.0, BOUNDS),
    ]),
    # -- tokenizers
    Kind("sd-tokenizer-is-a-file", replaced("tokenizer", lambda p: p.write_text("x")), "tokenizer"),
    Kind("sd-tokenizer-bare", replaced("tokenizer", Path.mkdir), "tokenizer"),
    *configs("sd-tokenizer", "tokenizer/tokenizer.json")[:9:2],
    *configs("sd-tokenizer-config", "tokenizer/tokenizer_config.json")[:8:3],
    *values("sd-tokenizer", "tokenizer/tokenizer.json", [
        ("model", {}, "tokenizer"), ("model", None, "tokenizer"), ("model", 3, "tokenizer"),
        ("model__vocab", [], "tokenizer"), ("model__vocab", {"a": -1}, "tokenizer"),
        ("model__vocab", {"a": "b"}, "tokenizer"), ("model__vocab", {"a": 10**30}, "tokenizer"),
        ("model__vocab", {"a": 1.5}, "tokenizer"), ("model__vocab", {}, "token"),
        ("model__vocab", {"a": 4_000_000_000}, "token"),
        ("model__merges", [["x", "y"]], "token"), ("model__merges", [1, 2], "token"),
        ("model__type", "Nothing", "tokenizer"), ("added_tokens", "all", "tokenizer"),
        ("added_tokens", [{"id": "a"}], f"{WORKS}|tokenizer"), ("normalizer", {"type": "No"}, "tokenizer"),
        ("pre_tokenizer", 5, "tokenizer"), ("post_processor", [], "tokenizer"),
        ("version", 9, "tokenizer"),
    ]),
    *values("sd-tokenizer-config", "tokenizer/tokenizer_config.json", [
        ("model_max_length", "77", "model_max_length"), ("model_max_length", -7, "model_max|text"),
        ("model_max_length", [1], "model_max_length"), ("model_max_length", None, f"model|{WORKS}"),
        ("model_max_length", NAN, f"model_max_length|{WORKS}"), ("model_max_length", 10**30, WORKS),
        ("model_max_length", 0, f"model_max_length|{WORKS}"), ("model_max_length", 3, "token|text"),
        ("tokenizer_class", "os.system", f"{WORKS}|tokenizer"), ("tokenizer_class", 3,
        f"{WORKS}|tokenizer"), ("bos_token", None, f"{WORKS}|oken"),
        ("eos_token", None, f"{WORKS}|oken"), ("pad_token", None, f"{WORKS}|pad"),
        ("bos_token", 3, "token"), ("bos_token", ["a"], "token"), ("bos_token", "<mine>", "token"),
        ("eos_token", {"content": 3}, "token"), ("pad_token", {"a": "b"}, f"{WORKS}|token"),
        ("unk_token", 7, "token"), ("added_tokens_decoder", {"a": 3}, "token"),
        ("added_tokens_decoder", {"99999": {"content": "<x>"}}, f"{WORKS}|token"),
        ("additional_special_tokens", 3, "token"), ("errors", 3, f"{WORKS}|token"),
        ("auto_map", 3, f"{WORKS}|token"),
    ]),
    Kind("if-tokenizer-garbage", holds("tokenizer/tokenizer.json", b"\0" * 99), "tokenizer"),
    Kind("if-spiece-alone", both(gone("tokenizer/tokenizer.json"),
         holds("tokenizer/spiece.model", b"\x0a\xff\xff\xff garbage")), "tokenizer"),
    Kind("if-tokenizer-gone", gone("tokenizer/tokenizer.json"), "tokenizer"),
    Kind("clip-tokenizer-gone", gone("tokenizer.json", "vocab.json", "merges.txt"), "token"),
    Kind("clip-merges-garbage", both(gone("tokenizer.json"), holds("merges.txt", b"\xff\xfe a\n"),
         holds("vocab.json", b'{"a": 1}')), "oken"),
    Kind("clip-vocab-list", both(gone("tokenizer.json"), holds("vocab.json", b"[1]"),
         holds("merges.txt", b"a b\n")), "token|vocab"),
    # -- CLIP
    *configs("clip-config", "config.json")[::2],
    *values("clip", "config.json", [
        ("model_type", None, "model type"), ("model_type", 3, "model type"),
        ("model_type", ["clip"], "model type"), ("model_type", "siglip", "siglip"),
        ("text_config", None, "text_config|do not belong together"), ("text_config", 3, "text_config"),
        ("text_config", [], "text_config"), ("text_config__hidden_size", "a", BOUNDS),
        ("text_config__num_hidden_layers", 10**6, BOUNDS),
        ("vision_config", "x", "vision_config"), ("vision_config__patch_size", 0, BOUNDS),
        ("vision_config__patch_size", -4, BOUNDS), ("vision_config__patch_size", 5, "shape"),
        ("vision_config__image_size", 64, "shape"), ("vision_config__image_size", 10**6, BOUNDS + "|do not belong"),
        ("vision_config__num_hidden_layers", 10**6, BOUNDS),
        ("vision_config__num_hidden_layers", 3, "layers.3"),
        ("vision_config__num_channels", 4, "shape"), ("projection_dim", 128, "shape"),
        ("projection_dim", -1, BOUNDS), ("projection_dim", None, BOUNDS),
        ("logit_scale_init_value", "a", BOUNDS), ("initializer_factor", INF, BOUNDS),
    ]),
    Kind("clip-scale-infinite", tensors(CLIP, lambda t: t["logit_scale"].fill_(1000.0)),
         "logit_scale|NaN"),
    Kind("clip-scale-of-two", tensors(CLIP, lambda t: t.update(logit_scale=torch.zeros(2))),
         "logit_scale"),
    Kind("clip-processor-gone", gone("preprocessor_config.json", "processor_config.json"),
         "preprocessor"),
    *configs("clip-processor", "preprocessor_config.json")[::4],
    *values("clip-processor", "preprocessor_config.json", [
        ("size", "big", "preprocessor|size|process"), ("size", {"shortest_edge": -3}, "size"),
        ("size", {"shortest_edge": "a"}, "."), ("size", {"shortest_edge": 10**6}, BOUNDS),
        ("crop_size", {"height": 48, "width": 48}, "48"), ("crop_size", 10**9, BOUNDS),
        ("crop_size", {"height": 0, "width": 0}, "."), ("do_center_crop", False, WORKS),
        ("image_mean", ["a", "b", "c"], "."), ("image_mean", [0.5], f"{WORKS}|."),
        ("image_mean", [0.5, 0.5], "."), ("image_std", [0, 0, 0], "."),
        ("image_std", [NAN, 1, 1], "."), ("image_mean", 3, f"{WORKS}|."),
        ("rescale_factor", "x", "."), ("rescale_factor", INF, "."), ("resample", 99, "."),
        ("resample", "a", "."), ("image_processor_type", "os.system", f"{WORKS}|."),
        ("do_resize", "a", f"{WORKS}|."),
    ]),
    # -- class-conditional models
    *values("ddpm-unet", "unet/config.json", [
        ("num_class_embeds", None, "class|num_class"), ("num_class_embeds", 0, "class"),
        ("num_class_embeds", -3, BOUNDS), ("num_class_embeds", 10**9, BOUNDS),
        ("num_class_embeds", "4", BOUNDS), ("num_class_embeds", 9, "shape"),
        ("class_embed_type", "timestep", "class"), ("class_embed_type", "identity", "class"),
        ("in_channels", 5, "shape|channels"), ("sample_size", 7, "."), ("sample_size", None, "size"),
        ("out_channels", 2, "shape|channels"),
    ]),
    # -- cards
    *[Kind(f"ddpm-card-{name}", holds("card.yaml", text), says) for name, text, says in [
        ("binary", b"\x00\xff\xfe", "card.yaml"), ("list", "- 1", "card.yaml"),
        ("unknown", "colour: red", "colour"), ("open", "classes: [a", "card.yaml"),
        ("empty", "", f"card.yaml|{WORKS}"),
        ("numbers", "classes: [1, 2, 3]", "classes"), ("classes-short", "classes: [a]", "classes"),
        ("classes-text", "classes: abc", "classes"), ("patch", "patch: 0", "patch"),
        ("patch-text", "patch: two", "patch"), ("patch-large", "patch: 3", "patch|blocks|channel"),
        ("grey-nan", "grey_step: .nan", "grey_step"), ("grey", "grey_step: -1", "grey_step"),
        ("grey-zero", "grey_step: 0", "grey_step"),
        ("prediction", "prediction: chaos", "prediction"), ("template", "template: a photo",
        "template"), ("temperatures", "temperatures: [1]", "temperatures"),
        ("temperature-text", "temperatures: [{method: elbo, settings: {}, fitted: {1: hot}}]",
         "temperatures"),
        ("temperature-nan", "temperatures: [{method: elbo, settings: {}, fitted: {1: .nan}}]",
         "temperatures"),
        ("temperature-keys", "temperatures: [{method: elbo, settings: {}, fitted: {a: 1.0}}]",
         "temperatures"),
        ("dtype", "dtype: os.system", f"dtype|{WORKS}"), ("vocabulary", "vocabulary: 3", "vocab"),
        ("deep", "[" * 5000, "card.yaml"), ("source", "source: /etc", WORKS),
        ("resolution", "resolution: -8", "resolution"), ("family", "family: [1]", "family"),
        ("anchors", "a: &a [x, x, x, x, x, x, x, x, x]\n" + "\n".join(
            f"{c}: &{c} [{', '.join(['*' + p] * 9)}]" for p, c in zip("abcdefgh", "bcdefghi",
            strict=True)), "card.yaml"),
    ]],
    *NEWER,
]  # fmt: skip


# -- what becomes of them ------------------------------------------------------------------


def originals(folder: Path) -> None:
    """The folders that are spoilt, one for each family."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
    from transformers import CLIPImageProcessor

    import families
    from conftest import CAPTIONS, if_pipeline, sd_pipeline
    from diffzero.train import tokenizer
    from diffzero.train.clip import build_model

    tokens = tokenizer.build(CAPTIONS, folder / "tokens", 16)
    sd_pipeline(tokens).save_pretrained(folder / "sd")
    if_pipeline(folder / "t5").save_pretrained(folder / "if")
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=8,
        num_class_embeds=3,
    )
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(folder / "ddpm")
    build_model(tokens).save_pretrained(folder / "clip")
    tokens.save_pretrained(folder / "clip")
    for name, make in (
        ("sdxl", families.sdxl_pipeline),
        ("sd3", families.sd3_pipeline),
        ("flux", families.flux_pipeline),
        ("dit", lambda: families.dit_pipeline(5)),
        ("pixart", families.pixart_pipeline),
    ):
        make().save_pretrained(folder / name)
    size = {"height": 32, "width": 32}
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder / "clip")


class Hang(BaseException):
    """It took too long; nothing in between may catch it."""


def _hang(*_: Any) -> None:
    raise Hang


def answer(kind: Kind, folder: Path) -> str:
    """`works`, the sentence of an `InputError`, or any other exception with its place."""
    words = ["0", "1", "2"] if kind.name.startswith(("ddpm", "dit")) else ["cat", "dog", "red fox"]
    rng = np.random.default_rng(0)
    try:
        path = kind.spoil(folder)
        if not isinstance(path, str | Path):
            path = folder
        side = 16 if kind.name.startswith("flux") else None  # Flux's own would be 1,024 pixels
        model = dz.load(path, allow_pickle=kind.allow_pickle, resolution=side)
        method = dz.CLIP(model) if kind.name.startswith("clip") else dz.ELBO(model, draws=2)
        proba = method.fit(words).predict_proba(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8))
    except InputError as error:
        return str(error)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"!{type(error).__name__} at {Path(place.filename).name}:{place.lineno}: {error}"
    except Hang:
        return "!hangs"
    return WORKS if np.isfinite(proba).all() else "!not finite"


def fault(kind: Kind, said: str, folder: Path, seconds: float) -> str | None:
    """What is wrong with an answer, if anything."""
    if any(folder.parent.rglob("executed")) or Path("executed").exists():
        return "code was executed"
    if said.startswith("!"):
        return said
    if "\n" in said or len(said) > 700 or "bug in diffzero" in said:
        return f"not one sentence: {said}"
    fits = said == WORKS if kind.says == WORKS else bool(re.search(kind.says, said))
    if not fits or (said == WORKS and WORKS not in kind.says):
        return f"says: {said}"
    return f"{seconds:.1f} s" if seconds > SECONDS else None


def survey(kinds: list[Kind], mark: Path | None = None, loud: bool = False) -> dict[str, Any]:
    """What is wrong with the answers to some kinds, and the longest time that one took."""
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, _hang)
    wrong, slowest = {}, (0.0, "")
    with tempfile.TemporaryDirectory() as place:
        originals(Path(place) / "whole")
        for kind in kinds:
            if mark is not None:
                mark.write_text(kind.name)
            with tempfile.TemporaryDirectory(dir=place) as own:
                folder = Path(own) / "model"
                shutil.copytree(Path(place) / "whole" / kind.name.split("-")[0], folder)
                began = time.perf_counter()
                signal.alarm(2 * SECONDS)
                said = answer(kind, folder)
                signal.alarm(0)
                seconds = time.perf_counter() - began
                if (what := fault(kind, said, folder, seconds)) is not None:
                    wrong[kind.name] = what
                if loud:
                    print(f"{kind.name}: {said[:300]}", file=sys.stderr, flush=True)
            slowest = max(slowest, (seconds, kind.name))
    return {"wrong": wrong, "seconds": round(slowest[0], 2), "slowest": slowest[1]}


def main() -> None:
    """Spoil checkpoints and print what is wrong with the answers as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=int, default=1, help="take one kind of so many")
    parser.add_argument("--only", default="", help="kinds whose name holds this")
    parser.add_argument("--loud", action="store_true", help="print every answer")
    parser.add_argument("--mark", type=Path, help="file that names the kind in progress")
    chosen = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (12 * 2**30, 12 * 2**30))
    kinds = [kind for kind in KINDS if chosen.only in kind.name][:: chosen.every]
    json.dump(survey(kinds, chosen.mark, chosen.loud) | {"kinds": len(kinds)}, sys.stdout)


if __name__ == "__main__":
    main()
