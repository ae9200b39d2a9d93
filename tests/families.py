"""The families' own pipelines from their real classes, small enough for a test.

Every builder gives a diffusers pipeline with seeded random weights, for images of 16 to 64
pixels. Tokenizers are made here from `CAPTIONS`: nothing is downloaded. Settings that an adapter
must respect are those of the published checkpoints: the noise of the scheduler, the scale and
shift of the autoencoder, the padding of the second tokenizer, the flow's shift.
"""

from copy import deepcopy
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

CAPTIONS = ["a photo of a cat", "a photo of a dog", "a photo of a red fox", "a sketch of a fox"]
CLIP_WINDOW, T5_WINDOW = 16, 24


@cache
def _clip_tokens():
    from diffzero.train.tokenizer import build

    with TemporaryDirectory() as folder:
        return build(CAPTIONS, Path(folder), CLIP_WINDOW)


@cache
def _t5_tokens():
    from diffzero.train.tokenizer import build_t5

    with TemporaryDirectory() as folder:
        return build_t5(CAPTIONS, Path(folder), T5_WINDOW)


def clip_tokenizer(pad=None):
    """CLIP's; the second tokenizer of SDXL and SD3 pads with `!`, id 0, not with the end."""
    tokens = deepcopy(_clip_tokens())
    if pad is not None:
        tokens.pad_token = pad
    return tokens


def t5_tokenizer():
    return deepcopy(_t5_tokens())


@cache
def _pieces(texts, space):
    """Vocabulary and merges of a byte-level (space None) or a Gemma-like BPE over `texts`."""
    import json

    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokens = Tokenizer(models.BPE())
    if space is None:
        tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        first = pre_tokenizers.ByteLevel.alphabet()
    else:
        tokens.normalizer = normalizers.Replace(" ", space)
        tokens.pre_tokenizer = pre_tokenizers.Split(space, "merged_with_next")
        first = [space, "\n", *map(chr, range(33, 127))]
    trainer = trainers.BpeTrainer(
        vocab_size=2048, min_frequency=1, initial_alphabet=first, show_progress=False
    )
    tokens.train_from_iterator(texts, trainer)
    model = json.loads(tokens.to_str())["model"]
    return list(model["vocab"]), [tuple(m) for m in model["merges"]]


def gemma_tokenizer(*more):
    """Gemma's: a start token, no end token; `more` are texts whose words are to be tokens."""
    from transformers import GemmaTokenizer

    pieces, merges = _pieces((*CAPTIONS, *more), "\u2581")
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    spelled = [f"<0x{i:02X}>" for i in range(256)]
    vocab = {p: i for i, p in enumerate(dict.fromkeys([*special, *spelled, *pieces]))}
    tokens = GemmaTokenizer(vocab=vocab, merges=merges, model_max_length=512, add_bos_token=True)
    return tokens


CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def qwen_tokenizer():
    """Qwen's, with a chat template of its shape."""
    from transformers import Qwen2Tokenizer

    pieces, merges = _pieces((*CAPTIONS, "user assistant think"), None)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocab = {p: i for i, p in enumerate([*pieces, *special])}
    tokens = Qwen2Tokenizer(vocab=vocab, merges=merges, model_max_length=512)
    tokens.add_special_tokens({"additional_special_tokens": special[1:]})
    tokens.chat_template = CHAT
    return tokens


def clip_encoder(tokens, projected, width=16, act="quick_gelu"):
    """CLIPTextModel, or CLIPTextModelWithProjection of as many dimensions as its width."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=CLIP_WINDOW,
        projection_dim=width,
        hidden_act=act,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def t5_encoder(tokens, width=32):
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokens),
            d_model=width,
            d_kv=8,
            d_ff=32,
            num_layers=2,
            num_heads=3,
            feed_forward_proj="gated-gelu",
            pad_token_id=tokens.pad_token_id,
            eos_token_id=tokens.eos_token_id,
        )
    ).eval()


def gemma_encoder(tokens, width=16):
    from transformers import Gemma2Config, Gemma2Model

    return Gemma2Model(
        Gemma2Config(
            vocab_size=len(tokens),
            hidden_size=width,
            intermediate_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            pad_token_id=0,
        )
    ).eval()


def qwen_encoder(tokens, layers=3, width=16, causal=False):
    from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3Model

    config = Qwen3Config(
        vocab_size=len(tokens),
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        tie_word_embeddings=True,
    )
    return (Qwen3ForCausalLM if causal else Qwen3Model)(config).eval()


def autoencoder(channels=4, **config):
    """AutoencoderKL that halves once."""
    from diffusers import AutoencoderKL

    own = {
        "block_out_channels": (8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "latent_channels": channels,
        "norm_num_groups": 4,
        "sample_size": 16,
    }
    return AutoencoderKL(**own | config).eval()


def flow_autoencoder(scale, shift):
    """As SD3's and Flux's: a shift, no convolutions beside the latents."""
    return autoencoder(
        scaling_factor=scale,
        shift_factor=shift,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def sdxl_pipeline(force_zeros_for_empty_prompt=True, scheduler=None, **vae):
    """Stable Diffusion XL: 16-pixel images, 8x8 latents, widths 16 and 24 of the encoders."""
    from diffusers import (
        EulerDiscreteScheduler,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )

    torch.manual_seed(0)
    first, second = clip_tokenizer(), clip_tokenizer("!")
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        transformer_layers_per_block=(1, 2),
        attention_head_dim=(2, 2),
        cross_attention_dim=16 + 24,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + 24,
        norm_num_groups=4,
    ).eval()
    noise = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return StableDiffusionXLPipeline(
        vae=autoencoder(**{"scaling_factor": 0.13025} | vae),
        text_encoder=clip_encoder(first, False),
        text_encoder_2=clip_encoder(second, True, 24, "gelu"),
        tokenizer=first,
        tokenizer_2=second,
        unet=unet,
        scheduler=scheduler
        or EulerDiscreteScheduler(steps_offset=1, timestep_spacing="leading", **noise),
        force_zeros_for_empty_prompt=force_zeros_for_empty_prompt,
        add_watermarker=False,
    )


def sd3_pipeline(with_t5=True, shift=3.0, qk_norm="rms_norm", dual=(0,)):
    """Stable Diffusion 3 and 3.5: 16-pixel images, 8x8 latents, CLIP 16 + 24 beside T5's 48."""
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )

    torch.manual_seed(0)
    first, second, third = clip_tokenizer(), clip_tokenizer("!"), t5_tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_projection_dim=16,
        joint_attention_dim=48,
        pooled_projection_dim=16 + 24,
        pos_embed_max_size=12,
        qk_norm=qk_norm,
        dual_attention_layers=dual,
    ).eval()
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
        vae=flow_autoencoder(1.5305, 0.0609),
        text_encoder=clip_encoder(first, True),
        tokenizer=first,
        text_encoder_2=clip_encoder(second, True, 24, "gelu"),
        tokenizer_2=second,
        text_encoder_3=t5_encoder(third, 48) if with_t5 else None,
        tokenizer_3=third if with_t5 else None,
    )


def flux_pipeline(guidance=True):
    """Flux.1 dev (with a guidance embedding) or schnell: 16 pixels, 8x8 latents, 16 tokens."""
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        FluxPipeline,
        FluxTransformer2DModel,
    )

    torch.manual_seed(0)
    first, second = clip_tokenizer(), t5_tokenizer()
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        guidance_embeds=guidance,
        axes_dims_rope=(2, 2, 4),
    ).eval()
    scheduler = (
        FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
        if guidance
        else FlowMatchEulerDiscreteScheduler(shift=1.0)
    )
    return FluxPipeline(
        scheduler=scheduler,
        vae=flow_autoencoder(0.3611, 0.1159),
        text_encoder=clip_encoder(first, False),
        tokenizer=first,
        text_encoder_2=t5_encoder(second),
        tokenizer_2=second,
        transformer=transformer,
    )


def dit_pipeline(classes=1000):
    """DiT: 16-pixel images, 8x8 latents. Its `__call__` guides only with 1,000 classes."""
    from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        attention_bias=True,
        sample_size=8,
        num_embeds_ada_norm=classes,
    ).eval()
    scheduler = DDIMScheduler(beta_start=1e-4, beta_end=0.02, clip_sample=False)
    names = {0: "tench, Tinca tinca", 1: "goldfish"} | {i: f"class {i}" for i in range(2, classes)}
    return DiTPipeline(transformer, autoencoder(scaling_factor=0.18215), scheduler, names)


def ldm_pipeline(classes=4):
    """A U-Net under classes on 8x8 latents of 16-pixel images, with a null class."""
    from diffusers import DDPMScheduler, LDMPipeline, UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        norm_num_groups=4,
        num_class_embeds=classes,
        resnet_time_scale_shift="scale_shift",
    ).eval()
    scheduler = DDPMScheduler(prediction_type="v_prediction", trained_betas=[0.001, 0.01, 0.2] * 8,
                              num_train_timesteps=24)  # fmt: skip
    return LDMPipeline(autoencoder(scaling_factor=0.5), unet, scheduler)


def pixart_pipeline(sigma=False, conditions=None):
    """PixArt alpha or Sigma: 16 pixels, 8x8 latents, T5 of width 32.

    Args:
        sigma: Sigma; its large checkpoints say no to extra conditions where alpha's have them.
        conditions: Resolution and aspect ratio as conditions; None leaves it to the class, which
            wants them for latents of 128x128 (`transformer.config.sample_size`).
    """
    from diffusers import (
        DPMSolverMultistepScheduler,
        PixArtAlphaPipeline,
        PixArtSigmaPipeline,
        PixArtTransformer2DModel,
    )

    torch.manual_seed(0)
    tokens = t5_tokenizer()
    transformer = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        cross_attention_dim=24,
        sample_size=128 if conditions else 8,
        caption_channels=32,
        use_additional_conditions=conditions,
    ).eval()
    return (PixArtSigmaPipeline if sigma else PixArtAlphaPipeline)(
        tokenizer=tokens,
        text_encoder=t5_encoder(tokens),
        vae=autoencoder(scaling_factor=0.13025 if sigma else 0.18215),
        transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(),
    )


def sana_instruction():
    """What SanaPipeline puts before a prompt."""
    from inspect import signature

    from diffusers import SanaPipeline

    return signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default


def sana_pipeline(scale=1.0, instruction=()):
    """Sana: 32-pixel images, 8x8 latents, Gemma of width 16. `instruction`: words to know."""
    from diffusers import (
        AutoencoderDC,
        DPMSolverMultistepScheduler,
        SanaPipeline,
        SanaTransformer2DModel,
    )

    torch.manual_seed(0)
    tokens = gemma_tokenizer(*instruction)
    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=16,
        sample_size=8,
        timestep_scale=scale,
    ).eval()
    blocks = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in (
            ("block_types", ("ResBlock", "ResBlock", "EfficientViTBlock")),
            ("block_out_channels", (8, 8, 16)),
            ("layers_per_block", (1, 1, 1)),
            ("qkv_multiscales", ((), (), (5,))),
        )
    }
    vae = AutoencoderDC(latent_channels=4, attention_head_dim=8, scaling_factor=0.41407, **blocks)
    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    return SanaPipeline(tokens, gemma_encoder(tokens), vae.eval(), transformer, scheduler)


def lumina2_pipeline():
    """Lumina 2: 64-pixel images where the pipeline takes its VAE to divide by 8 (it does by 2)."""
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        Lumina2Pipeline,
        Lumina2Transformer2DModel,
    )

    torch.manual_seed(0)
    tokens = gemma_tokenizer("You are an assistant designed to generate superior images <Prompt>")
    transformer = Lumina2Transformer2DModel(
        sample_size=8,
        in_channels=4,
        hidden_size=24,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        axes_dim_rope=(4, 4, 4),
        axes_lens=(300, 16, 16),
        cap_feat_dim=16,
    ).eval()
    return Lumina2Pipeline(
        transformer,
        FlowMatchEulerDiscreteScheduler(shift=6.0),
        flow_autoencoder(0.3611, 0.1159),
        gemma_encoder(tokens),
        tokens,
    )


def z_image_pipeline():
    """Z-Image: 16-pixel images, 8x8 latents, Qwen3 of width 16."""
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        ZImagePipeline,
        ZImageTransformer2DModel,
    )

    torch.manual_seed(0)
    tokens = qwen_tokenizer()
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=24,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[4, 4, 4],
        axes_lens=[512, 16, 16],
    ).eval()
    for token in (transformer.x_pad_token, transformer.cap_pad_token):
        torch.nn.init.normal_(token, std=0.5)
    return ZImagePipeline(
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        flow_autoencoder(0.3611, 0.1159),
        qwen_encoder(tokens),
        tokens,
        transformer,
    )


def flux2_pipeline(distilled=False):
    """Flux.2 Klein: 16-pixel images, 8x8 latents patched to 4x4; Qwen3's layers 9, 18, 27."""
    from diffusers import (
        AutoencoderKLFlux2,
        FlowMatchEulerDiscreteScheduler,
        Flux2KleinPipeline,
    )

    torch.manual_seed(0)
    tokens = qwen_tokenizer()
    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
    ).eval()
    torch.nn.init.normal_(vae.bn.running_mean, std=0.3)
    torch.nn.init.uniform_(vae.bn.running_var, 0.5, 2.0)
    return Flux2KleinPipeline(
        FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae,
        qwen_encoder(tokens, layers=28, width=8, causal=True),
        tokens,
        flux2_transformer(guidance=False),
        is_distilled=distilled,
    )


def flux2_transformer(guidance=True, text=3 * 8):
    """The network of Flux.2: dev's has a guidance embedding, Klein's has none."""
    from diffusers import Flux2Transformer2DModel

    torch.manual_seed(1)
    return Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=text,
        timestep_guidance_channels=16,
        axes_dims_rope=(2, 2, 2, 2),
        guidance_embeds=guidance,
    ).eval()
