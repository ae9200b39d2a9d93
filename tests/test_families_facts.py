"""What adapters rely on, pinned with diffusers alone.

Each family's own pipeline runs, hooks read what it gives its network and what it does with the
answer, and plain formulas of ours have to say the same. No adapter is tested here: when one of
these tests fails, diffusers has changed and the adapter has to.

Names: `alpha`, `sigma` scale signal and noise, `x = alpha x_0 + sigma eps` is the network's
input, flow families have alpha = 1 - sigma and `flow = eps - x_0`.
"""

from collections.abc import Mapping
from contextlib import contextmanager
from inspect import signature
from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

import families

SHORT, LONG = "a photo of a cat", "a photo of a red fox"
PROMPTS = [SHORT, LONG]


def near(one, other, tolerance=1e-5):
    assert_close(one, other, atol=tolerance, rtol=tolerance)


def copied(value):
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {k: copied(v) for k, v in value.items()}
    return [copied(v) for v in value] if isinstance(value, list | tuple) else value


@contextmanager
def watching(module):
    """Calls of a module while this holds: its arguments by name, `out` for what it returned."""
    calls, names = [], signature(module.forward)

    def hook(module, args, kwargs, out):
        out = out.sample if hasattr(out, "sample") else out
        out = out[0] if isinstance(out, tuple) else out
        calls.append(copied(dict(names.bind(*args, **kwargs).arguments)) | {"out": copied(out)})

    handle = module.register_forward_hook(hook, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def generated(pipe, prompts=PROMPTS, steps=2, **options):
    """Calls of the pipeline's network, and the latents it ends with."""
    pipe.set_progress_bar_config(disable=True)
    network = getattr(pipe, "unet", None) or pipe.transformer
    options = {"height": 16, "width": 16, "output_type": "latent"} | options
    with watching(network) as calls:
        out = pipe(
            prompt=prompts,
            **options,
            num_inference_steps=steps,
            generator=torch.Generator().manual_seed(0),
        )
    return calls, out.images


def images(n=1, side=16, seed=0):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def padded(tokens, texts, window):
    """Ids and mask of texts, padded to a window."""
    batch = tokens(texts, padding="max_length", max_length=window, return_tensors="pt")
    return batch.input_ids, batch.attention_mask


@torch.no_grad()
def clip_states(tokens, encoder, texts):
    """Last hidden states but one, without the final norm, and the pooled vectors."""
    out = encoder(padded(tokens, texts, families.CLIP_WINDOW)[0], output_hidden_states=True)
    pooled = out.text_embeds if hasattr(out, "text_embeds") else out.pooler_output
    return out.hidden_states[-2], pooled


@torch.no_grad()
def t5_states(tokens, encoder, texts, window=families.T5_WINDOW, masked=False):
    ids, mask = padded(tokens, texts, window)
    return encoder(ids, attention_mask=mask if masked else None)[0]


def guided(without, given, scale):
    assert (given - without).abs().max() > 1e-4  # or their order would not matter
    return without + scale * (given - without)


def table(scheduler):
    """alpha and sigma of the steps 0, 1, ... that a discrete network was trained on."""
    return scheduler.alphas_cumprod.sqrt(), (1 - scheduler.alphas_cumprod).sqrt()


def alone(network, call, rows, names):
    """The network's answers to each row of a call by itself; `names` are the rows' arguments."""
    parts = []
    for i in range(rows):
        one = {k: row_of(v, i) if k in names else v for k, v in call.items() if k != "out"}
        with torch.no_grad():
            parts.append(network(**one | {"return_dict": False})[0][0])
    return parts


def row_of(value, i):
    if isinstance(value, dict):
        return {k: v[i : i + 1] for k, v in value.items()}
    return value[i : i + 1]


# Stable Diffusion XL ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sdxl():
    return families.sdxl_pipeline()


def sdxl_condition(pipe, texts):
    first, _ = clip_states(pipe.tokenizer, pipe.text_encoder, texts)
    second, pooled = clip_states(pipe.tokenizer_2, pipe.text_encoder_2, texts)
    return torch.cat([first, second], -1), pooled


def test_sdxl_condition(sdxl):
    """Two encoders' last states but one side by side, the second's projection, six numbers."""
    calls, _ = generated(sdxl, guidance_scale=3.0)
    states, pooled = sdxl_condition(sdxl, PROMPTS)
    call = calls[0]
    near(call["encoder_hidden_states"], torch.cat([torch.zeros_like(states), states]))
    added = call["added_cond_kwargs"]
    near(added["text_embeds"], torch.cat([torch.zeros_like(pooled), pooled]))
    near(added["time_ids"], torch.tensor([[16.0, 16, 0, 0, 16, 16]] * 4))
    assert added["time_ids"].dtype == torch.float32
    assert call["timestep"].ndim == 0  # one time a batch; the network takes a vector as well


def test_sdxl_empty_prompt_is_zeros_or_encoded():
    """What `force_zeros_for_empty_prompt` of model_index.json says, and only with no prompt."""
    pipe = families.sdxl_pipeline(force_zeros_for_empty_prompt=False)
    states, pooled = sdxl_condition(pipe, [""])
    given = pipe.encode_prompt("a cat")
    near(given[1], states)
    near(given[3], pooled)
    forced = families.sdxl_pipeline()
    assert not forced.encode_prompt("a cat")[1].any()
    assert forced.encode_prompt("a cat", negative_prompt="")[1].any()


def test_sdxl_second_tokenizer_pads_with_another_token(sdxl):
    (first, _), (second, _) = (
        padded(t, [SHORT], families.CLIP_WINDOW) for t in (sdxl.tokenizer, sdxl.tokenizer_2)
    )
    assert first[0, -1] == sdxl.tokenizer.eos_token_id
    assert second[0, -1] == sdxl.tokenizer_2.convert_tokens_to_ids("!")


def test_sdxl_time_and_step(sdxl):
    """Euler's x is x / alpha; the network sees x at the step of the table; the output is eps."""
    calls, end = generated(sdxl, guidance_scale=3.0)
    alpha, sigma = table(sdxl.scheduler)
    steps = [int(call["timestep"]) for call in calls]
    assert steps == [501, 1]
    for call in calls:
        assert call["timestep"].dtype == torch.float32
        near(call["sample"][:2], call["sample"][2:])
    eps = guided(*calls[0]["out"].chunk(2), 3.0)
    s, later = steps
    x_0 = (calls[0]["sample"][:2] - sigma[s] * eps) / alpha[s]
    near(alpha[later] * x_0 + sigma[later] * eps, calls[1]["sample"][:2], 2e-5)
    eps = guided(*calls[1]["out"].chunk(2), 3.0)
    near((calls[1]["sample"][:2] - sigma[1] * eps) / alpha[1], end)


def test_sdxl_first_input_is_pure_noise_of_the_table(sdxl):
    """`init_noise_sigma` is sqrt(sigma^2 + 1), which the network's input undoes."""
    calls, _ = generated(sdxl, guidance_scale=1.0)
    assert len(calls[0]["sample"]) == 2  # no guidance, no unconditional rows
    near(calls[0]["sample"], noise(2, 4, 8, 8))


@pytest.mark.parametrize("scaled", [False, True])
def test_sdxl_codec(scaled):
    """`(z - mean) scale / std` where the config has them, as Playground's, else `z scale`."""
    from diffusers import StableDiffusionXLImg2ImgPipeline

    own = {"latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [0.5, 2.0, 1.5, 1.0]}
    pipe = families.sdxl_pipeline(**own if scaled else {})
    mean, std = (
        torch.tensor(own[k]).view(1, 4, 1, 1) if scaled else s
        for k, s in (("latents_mean", 0.0), ("latents_std", 1.0))
    )
    vae, x = pipe.vae, images()
    assert vae.config.force_upcast
    with torch.no_grad():
        z = vae.encode(x).latent_dist.sample(torch.Generator().manual_seed(3))
        latents = StableDiffusionXLImg2ImgPipeline(**pipe.components).prepare_latents(
            x, None, 1, 1, torch.float32, "cpu", torch.Generator().manual_seed(3), False
        )
        near(latents, (z - mean) * 0.13025 / std)
    _, end = generated(pipe, [SHORT])
    _, pixels = generated(pipe, [SHORT], output_type="pt")
    with torch.no_grad():
        near(pixels, (vae.decode(end * std / 0.13025 + mean).sample / 2 + 0.5).clamp(0, 1))


def test_sdxl_mixed_times_and_missing_conditions(sdxl):
    calls, _ = generated(sdxl, guidance_scale=3.0)
    call = calls[0] | {"timestep": torch.tensor([0.0, 10.5, 500.25, 999.0])}
    rows = {"sample", "timestep", "encoder_hidden_states", "added_cond_kwargs"}
    with torch.no_grad():
        both = sdxl.unet(**{k: v for k, v in call.items() if k != "out"})[0]
        for one, row in zip(alone(sdxl.unet, call, 4, rows), both, strict=True):
            near(one, row)
        with pytest.raises(TypeError, match="NoneType"):
            sdxl.unet(call["sample"], 1, call["encoder_hidden_states"])


# Stable Diffusion 3 -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sd3():
    return families.sd3_pipeline()


def sd3_condition(pipe, texts, window=families.T5_WINDOW):
    """CLIP's states zero-padded to T5's width, then T5's; both projections side by side."""
    first, one = clip_states(pipe.tokenizer, pipe.text_encoder, texts)
    second, two = clip_states(pipe.tokenizer_2, pipe.text_encoder_2, texts)
    width = pipe.transformer.config.joint_attention_dim
    states = torch.zeros(len(texts), families.CLIP_WINDOW + window, width)
    states[:, : families.CLIP_WINDOW, : first.shape[-1] + second.shape[-1]] = torch.cat(
        [first, second], -1
    )
    if pipe.text_encoder_3 is not None:
        states[:, families.CLIP_WINDOW :] = t5_states(
            pipe.tokenizer_3, pipe.text_encoder_3, texts, window
        )
    return states, torch.cat([one, two], -1)


@pytest.mark.parametrize("with_t5", [True, False])
def test_sd3_condition(with_t5):
    """The empty prompt is encoded; without T5 its tokens are zeros, and still there."""
    pipe = families.sd3_pipeline(with_t5)
    calls, _ = generated(pipe, guidance_scale=3.0, max_sequence_length=families.T5_WINDOW)
    states, pooled = sd3_condition(pipe, ["", "", *PROMPTS])
    near(calls[0]["encoder_hidden_states"], states)
    near(calls[0]["pooled_projections"], pooled)
    assert set(calls[0]) == {
        "hidden_states",
        "timestep",
        "encoder_hidden_states",
        "pooled_projections",
        "joint_attention_kwargs",
        "return_dict",
        "out",
    }


def test_sd3_reads_padding_where_pixart_does_not(sd3):
    """Another window of T5 is another prediction: the window belongs to the model's card."""
    x, t = noise(1, 4, 8, 8), torch.tensor([500.0])
    found = []
    for window in (24, 40):
        states, pooled = sd3_condition(sd3, [SHORT], window)
        with torch.no_grad():
            found.append(sd3.transformer(x, states, pooled, t)[0])
    assert (found[0] - found[1]).abs().max() > 1e-4
    pixart = families.pixart_pipeline()
    found = []
    for window in (24, 40):
        ids, mask = padded(pixart.tokenizer, [SHORT], window)
        with torch.no_grad():
            states = pixart.text_encoder(ids, attention_mask=mask)[0]
            more = {"resolution": None, "aspect_ratio": None}
            found.append(pixart.transformer(x, states, t, more, encoder_attention_mask=mask)[0])
    near(found[0], found[1])


def test_sd3_time_and_step(sd3):
    """Time is 1000 sigma in float32, the output eps - x_0, and the last step gives x_0."""
    calls, end = generated(sd3, guidance_scale=3.0, max_sequence_length=families.T5_WINDOW)
    sigmas = [call["timestep"][0] / 1000 for call in calls] + [0.0]
    near(sigmas[0], torch.tensor(1.0))
    inputs = [call["hidden_states"] for call in calls] + [torch.cat([end, end])]
    for call, (sigma, later), (x, after) in zip(
        calls, pairwise(sigmas), pairwise(inputs), strict=True
    ):
        assert call["timestep"].shape == (4,)
        assert call["timestep"].dtype == torch.float32
        flow = guided(*call["out"].chunk(2), 3.0)
        x_0, eps = x[:2] - sigma * flow, x[:2] + (1 - sigma) * flow
        near((1 - later) * x_0 + later * eps, after[:2])


def test_sd3_codec(sd3):
    from diffusers import StableDiffusion3InpaintPipeline

    check_shifted_codec(sd3, StableDiffusion3InpaintPipeline(**sd3.components)._encode_vae_image)


def check_shifted_codec(pipe, encode, **options):
    """`(z - shift) scale`, and back."""
    config, x = pipe.vae.config, images()
    with torch.no_grad():
        z = pipe.vae.encode(x).latent_dist.sample(torch.Generator().manual_seed(3))
        near(
            encode(x, torch.Generator().manual_seed(3)),
            (z - config.shift_factor) * config.scaling_factor,
        )
    _, end = generated(pipe, [SHORT], **options)
    _, pixels = generated(pipe, [SHORT], output_type="pt", **options)
    if end.ndim == 3:
        end = unpacked(end, 4)
    with torch.no_grad():
        decoded = pipe.vae.decode(end / config.scaling_factor + config.shift_factor).sample
        near(pixels, (decoded / 2 + 0.5).clamp(0, 1))


def test_sd3_mixed_times(sd3):
    calls, _ = generated(sd3, guidance_scale=3.0, max_sequence_length=families.T5_WINDOW)
    call = calls[0] | {"timestep": torch.tensor([3.0, 250.25, 752.0, 1000.0])}
    rows = {"hidden_states", "timestep", "encoder_hidden_states", "pooled_projections"}
    with torch.no_grad():
        both = sd3.transformer(**{k: v for k, v in call.items() if k != "out"})[0]
    for one, row in zip(alone(sd3.transformer, call, 4, rows), both, strict=True):
        near(one, row)


def test_sd3_smaller_images_read_the_middle_of_the_positions(sd3):
    """No size is interpolated: 8x8 latents are 4x4 tokens of the middle of 12x12."""
    embed = sd3.transformer.pos_embed
    grid = embed.pos_embed.view(12, 12, -1)
    x = noise(1, 4, 8, 8)
    tokens = embed.proj(x).flatten(2).transpose(1, 2)
    near(embed(x), tokens + grid[4:8, 4:8].reshape(1, 16, -1))


# Flow-matching scheduler --------------------------------------------------------------------


def flow_scheduler(**config):
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**config)


def test_flow_scheduler_noise_and_sign():
    """Exact targets give the image back, whatever the step: the sign is eps - x_0."""
    scheduler, x_0, eps = flow_scheduler(shift=3.0), noise(1, 4, 8, 8), noise(1, 4, 8, 8, seed=1)
    scheduler.set_timesteps(4)
    for i, t in enumerate(scheduler.timesteps):
        sigma, later = scheduler.sigmas[i : i + 2]
        x = scheduler.scale_noise(x_0, t[None], eps)
        near(x, (1 - sigma) * x_0 + sigma * eps)
        scheduler._step_index = None
        after = scheduler.step(eps - x_0, t, x).prev_sample
        near(after, (1 - later) * x_0 + later * eps)
        scheduler._step_index = None


def test_flow_scheduler_takes_times_of_its_table_only():
    scheduler = flow_scheduler(shift=3.0)
    assert not hasattr(scheduler, "add_noise")
    t = scheduler.timesteps[900]
    x = noise(1, 4)
    scheduler.scale_noise(x, t[None], x)
    with pytest.raises(IndexError):
        scheduler.scale_noise(x, t[None].round() + 0.5, x)


def test_flow_scheduler_shifts_twice_and_pipelines_rely_on_it():
    """The table starts shifted, and `set_timesteps` shifts its ends once more."""

    def shifted(sigma):
        return 3 * sigma / (1 + 2 * sigma)

    scheduler = flow_scheduler(shift=3.0)
    near(scheduler.sigmas[-1], torch.tensor(shifted(0.001)), 1e-6)
    scheduler.set_timesteps(10)
    near(scheduler.sigmas[-2], torch.tensor(shifted(shifted(0.001))), 1e-6)
    scheduler.set_timesteps(timesteps=[1000, 500])
    near(scheduler.timesteps, torch.tensor([1000.0, 500.0]))
    near(scheduler.sigmas[:2], torch.tensor([1.0, 0.75]))  # not 0.5: the two disagree


def test_flow_scheduler_dynamic_shift():
    from math import exp

    scheduler = flow_scheduler(use_dynamic_shifting=True)
    scheduler.set_timesteps(sigmas=[1.0, 0.5], mu=0.7)
    near(scheduler.sigmas[:2], torch.tensor([1.0, exp(0.7) / (exp(0.7) + 1)]))
    with pytest.raises(ValueError, match="mu"):
        scheduler.set_timesteps(4)


# Flux.1 -------------------------------------------------------------------------------------


def packed(x):
    """`[b, c, h, w]` to `[b, h/2 w/2, 4 c]`; a channel's 2x2 patch stays together."""
    b, c, h, w = x.shape
    x = x.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(b, h * w // 4, 4 * c)


def unpacked(tokens, side):
    """Back to `[b, c, 2 side, 2 side]`."""
    x = tokens.unflatten(-1, (-1, 2, 2)).unflatten(1, (side, side)).permute(0, 3, 1, 4, 2, 5)
    return x.flatten(4, 5).flatten(2, 3)


@pytest.fixture(scope="module", params=["dev", "schnell"])
def flux(request):
    return families.flux_pipeline(request.param == "dev")


FLUX = {"max_sequence_length": families.T5_WINDOW}


def test_flux_condition(flux):
    """T5's last states without a mask, CLIP's pooled vector unprojected, places, guidance."""
    calls, _ = generated(flux, guidance_scale=2.5, **FLUX)
    call = calls[0]
    near(call["encoder_hidden_states"], t5_states(flux.tokenizer_2, flux.text_encoder_2, PROMPTS))
    near(call["pooled_projections"], clip_states(flux.tokenizer, flux.text_encoder, PROMPTS)[1])
    near(call["txt_ids"], torch.zeros(families.T5_WINDOW, 3))
    near(call["img_ids"], torch.tensor([[0.0, i, j] for i in range(4) for j in range(4)]))
    if flux.transformer.config.guidance_embeds:
        near(call["guidance"], torch.full((2,), 2.5))
    else:
        assert call["guidance"] is None
    assert len(calls) == 2  # one call a step: there is no unconditional branch
    near(call["hidden_states"], packed(noise(2, 4, 8, 8)))
    near(unpacked(call["hidden_states"], 4), noise(2, 4, 8, 8))


def test_flux_time_and_step(flux):
    """Time is sigma itself; the shift, static or by the number of tokens, is the sampler's."""
    from math import exp

    calls, end = generated(flux, **FLUX)
    config = flux.scheduler.config
    slope = (config.max_shift - config.base_shift) / (4096 - 256)
    mu = slope * 16 + config.base_shift - 256 * slope
    half = exp(mu) / (exp(mu) + 1) if config.use_dynamic_shifting else 0.5
    near([float(call["timestep"][0]) for call in calls], [1.0, half])
    inputs = [call["hidden_states"] for call in calls] + [end]
    for call, (x, after), later in zip(calls, pairwise(inputs), (half, 0.0), strict=True):
        sigma = call["timestep"][0]
        x_0, eps = x - sigma * call["out"], x + (1 - sigma) * call["out"]
        near((1 - later) * x_0 + later * eps, after)


def test_flux_codec(flux):
    from diffusers import FluxImg2ImgPipeline

    check_shifted_codec(flux, FluxImg2ImgPipeline(**flux.components)._encode_vae_image, **FLUX)


def test_flux_guides_only_when_asked_twice():
    """A negative prompt and `true_cfg_scale` over 1: a second call, the same guidance in both."""
    pipe = families.flux_pipeline()
    calls, end = generated(pipe, negative_prompt=["", ""], true_cfg_scale=2.0, steps=1, **FLUX)
    given, without = calls
    near(given["guidance"], without["guidance"])
    empty = t5_states(pipe.tokenizer_2, pipe.text_encoder_2, [""] * 2)
    near(without["encoder_hidden_states"], empty)
    near(end, given["hidden_states"] - guided(without["out"], given["out"], 2.0))


def test_flux_mixed_times(flux):
    calls, _ = generated(flux, **FLUX)
    call = calls[0] | {"timestep": torch.tensor([0.03, 0.775])}
    rows = {
        "hidden_states",
        "timestep",
        "encoder_hidden_states",
        "pooled_projections",
        "guidance",
    }
    rows = {name for name in rows if call[name] is not None}
    with torch.no_grad():
        both = flux.transformer(**{k: v for k, v in call.items() if k != "out"})[0]
    for one, row in zip(alone(flux.transformer, call, 2, rows), both, strict=True):
        near(one, row)


# DiT ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dit():
    return families.dit_pipeline()


def dit_calls(pipe, classes, guidance_scale=4.0, steps=2):
    pipe.set_progress_bar_config(disable=True)
    given = {"generator": torch.Generator().manual_seed(0), "num_inference_steps": steps}
    with watching(pipe.transformer) as calls, watching(pipe.vae.decoder) as decoded:
        out = pipe(classes, guidance_scale=guidance_scale, output_type="pt", **given)
    return calls, decoded[0], out.images


def test_dit_rows_and_guidance(dit):
    """The classes come first and the null class 1000 after them; four channels are guided."""
    calls, _, _ = dit_calls(dit, [1, 7])
    assert calls[0]["class_labels"].tolist() == [1, 7, 1000, 1000]
    assert calls[0]["timestep"].tolist() == [500] * 4
    assert calls[0]["timestep"].dtype == torch.int64
    near(calls[0]["hidden_states"], noise(2, 4, 8, 8).repeat(2, 1, 1, 1))
    assert calls[0]["out"].shape == (4, 8, 8, 8)
    given, without = calls[0]["out"][:, :4].chunk(2)
    eps = guided(without, given, 4.0)
    alpha, sigma = table(dit.scheduler)
    x = calls[0]["hidden_states"][:2]
    x_0 = (x - sigma[500] * eps) / alpha[500]
    near(alpha[0] * x_0 + sigma[0] * eps, calls[1]["hidden_states"][:2], 2e-5)


def test_dit_codec(dit):
    """One over the scale; the last DDIM step leads to x_0 since `set_alpha_to_one`."""
    calls, decoder, pixels = dit_calls(dit, [3], 1.0)
    assert calls[0]["class_labels"].tolist() == [3]
    alpha, sigma = table(dit.scheduler)
    last = calls[-1]
    assert last["timestep"].tolist() == [0]
    end = (last["hidden_states"] - sigma[0] * last["out"][:, :4]) / alpha[0]
    with torch.no_grad():
        decoded = dit.vae.decode(end / 0.18215).sample
    near(pixels, (decoded / 2 + 0.5).clamp(0, 1))


def test_dit_null_class_is_the_last_row_but_the_pipeline_says_1000():
    pipe = families.dit_pipeline(classes=3)
    embedders = [block.norm1.emb.class_embedder for block in pipe.transformer.transformer_blocks]
    assert [e.embedding_table.weight.shape[0] for e in embedders] == [4, 4]
    assert embedders[0].num_classes == pipe.transformer.config.num_embeds_ada_norm == 3
    with pytest.raises(IndexError):
        dit_calls(pipe, [1])
    dit_calls(pipe, [1], guidance_scale=1.0)


def test_dit_takes_fractional_and_mixed_times(dit):
    calls, _, _ = dit_calls(dit, [1, 7])
    call = calls[0] | {"timestep": torch.tensor([0.0, 10.5, 500.25, 999.0])}
    rows = {"hidden_states", "timestep", "class_labels"}
    with torch.no_grad():
        both = dit.transformer(**{k: v for k, v in call.items() if k != "out"})[0]
    for one, row in zip(alone(dit.transformer, call, 4, rows), both, strict=True):
        near(one, row)


def test_dit_drops_labels_in_training_mode():
    pipe = families.dit_pipeline(classes=3)
    embedder = pipe.transformer.transformer_blocks[0].norm1.emb.class_embedder.train()
    assert embedder.dropout_prob == 0.1
    labels = torch.zeros(500, dtype=torch.long)
    torch.manual_seed(0)
    dropped = embedder(labels).eq(embedder.embedding_table.weight[3]).all(1).sum()
    assert 20 < dropped < 100
    assert not embedder.eval()(labels).eq(embedder.embedding_table.weight[3]).all(1).any()


def test_dit_mixes_classes_in_every_blocks_own_table():
    """Hooks on each `class_embedder` mix; the first block's is read twice."""
    pipe = families.dit_pipeline(classes=3)
    network, read = pipe.transformer, []
    weights = torch.tensor([[0.0, 1.0, 0.0], [0.2, 0.3, 0.5]])

    def mixed(module, inputs, out):
        read.append(module)
        return weights @ module.embedding_table.weight[:3]

    x, t = noise(2, 4, 8, 8), torch.tensor([5.0, 900.0])
    with torch.no_grad():
        plain = network(x, t, torch.tensor([1, 1])).sample
        handles = [
            block.norm1.emb.class_embedder.register_forward_hook(mixed)
            for block in network.transformer_blocks
        ]
        found = network(x, t, torch.tensor([0, 0])).sample
    for handle in handles:
        handle.remove()
    near(found[0], plain[0])
    assert (found[1] - plain[1]).abs().max() > 1e-4
    assert len(read) == len(network.transformer_blocks) + 1


def test_dit_sizes():
    """Other squares work, their positions computed anew; what is not square comes out wrong."""
    network = families.dit_pipeline(classes=3).transformer
    t, label = torch.tensor([5.0]), torch.tensor([1])
    with torch.no_grad():
        assert network(noise(1, 4, 12, 12), t, label).sample.shape == (1, 8, 12, 12)
        with pytest.raises(RuntimeError, match="invalid for input"):
            network(noise(1, 4, 8, 12), t, label)


def test_dit_from_a_folder(tmp_path):
    """The hub's config says Transformer2DModel; names of classes live in model_index.json."""
    import json

    from diffusers import DiTPipeline, DiTTransformer2DModel

    pipe = families.dit_pipeline(classes=3)
    assert pipe.labels["Tinca tinca"] == pipe.labels["tench"] == 0
    pipe.save_pretrained(tmp_path)
    index = tmp_path / "model_index.json"
    parts = json.loads(index.read_text())
    assert "id2label" not in parts  # saving loses the names, so the hub's file was made by hand
    parts |= {"transformer": ["diffusers", "Transformer2DModel"], "id2label": {"0": "tench"}}
    index.write_text(json.dumps(parts))
    config = tmp_path / "transformer" / "config.json"
    old = json.loads(config.read_text()) | {"_class_name": "Transformer2DModel"}
    config.write_text(json.dumps(old))
    loaded = DiTPipeline.from_pretrained(tmp_path)
    assert isinstance(loaded.transformer, DiTTransformer2DModel)
    assert loaded.labels == {"tench": 0}


# PixArt -------------------------------------------------------------------------------------


PIXART = {"use_resolution_binning": False, "max_sequence_length": families.T5_WINDOW}


@pytest.fixture(scope="module", params=["alpha", "sigma"])
def pixart(request):
    return families.pixart_pipeline(request.param == "sigma")


def test_pixart_condition(pixart):
    """T5 under its mask, the mask to the network too, the empty prompt encoded, first."""
    calls, _ = generated(pixart, guidance_scale=3.0, **PIXART)
    call, texts = calls[0], ["", "", *PROMPTS]
    _, mask = padded(pixart.tokenizer, texts, families.T5_WINDOW)
    near(
        call["encoder_hidden_states"],
        t5_states(pixart.tokenizer, pixart.text_encoder, texts, masked=True),
    )
    assert call["encoder_attention_mask"].tolist() == mask.tolist()
    assert mask[0].sum() == 1  # the end token alone
    assert call["added_cond_kwargs"] == {"resolution": None, "aspect_ratio": None}


def test_pixart_windows_of_the_families():
    """120 tokens in alpha and 300 in Sigma; prompts are lower-cased and stripped."""
    for sigma, window in ((False, 120), (True, 300)):
        pipe = families.pixart_pipeline(sigma)
        states, mask, *_ = pipe.encode_prompt("  A Photo of a CAT", False)
        assert states.shape[1] == mask.shape[1] == window
        near(states, pipe.encode_prompt(SHORT, False)[0])


def test_pixart_time_and_step(pixart):
    """All eight channels are guided, then the last four dropped; the first four are eps."""
    calls, _ = generated(pixart, guidance_scale=3.0, **PIXART)
    alpha, sigma = table(pixart.scheduler)
    steps = [int(call["timestep"][0]) for call in calls]
    assert calls[0]["timestep"].dtype == torch.int64
    assert steps == [999, 500]
    s, later = steps
    eps = guided(*calls[0]["out"].chunk(2), 3.0)[:, :4]
    x = calls[0]["hidden_states"][:2]
    x_0 = (x - sigma[s] * eps) / alpha[s]
    near(alpha[later] * x_0 + sigma[later] * eps, calls[1]["hidden_states"][:2], 1e-3)


def test_pixart_alpha_has_resolution_and_aspect_and_sigma_none():
    """The class wants them for latents of 128x128 unless `use_additional_conditions` says no."""
    alpha = families.pixart_pipeline(conditions=True)
    calls, _ = generated(alpha, guidance_scale=3.0, **PIXART)
    near(calls[0]["added_cond_kwargs"]["resolution"], torch.full((4, 2), 16.0))
    near(calls[0]["added_cond_kwargs"]["aspect_ratio"], torch.ones(4, 1))
    sigma = families.pixart_pipeline(sigma=True)
    sigma.transformer.register_to_config(sample_size=128)
    calls, _ = generated(sigma, **PIXART)
    assert calls[0]["added_cond_kwargs"] == {"resolution": None, "aspect_ratio": None}


def test_pixart_extra_conditions_are_an_attribute_not_the_config():
    from diffusers import PixArtTransformer2DModel

    small = {"num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 1}
    wide = PixArtTransformer2DModel(sample_size=128, cross_attention_dim=24, **small)
    assert wide.config.use_additional_conditions is None
    assert wide.use_additional_conditions
    assert not PixArtTransformer2DModel(
        sample_size=64, cross_attention_dim=24, **small
    ).use_additional_conditions


def test_pixart_codec(pixart):
    scale = pixart.vae.config.scaling_factor
    _, end = generated(pixart, [SHORT], **PIXART)
    _, pixels = generated(pixart, [SHORT], output_type="pt", **PIXART)
    with torch.no_grad():
        near(pixels, (pixart.vae.decode(end / scale).sample / 2 + 0.5).clamp(0, 1))


def test_pixart_mixed_times_and_lengths(pixart):
    """Rows are their own: neither times nor the lengths of other prompts reach them."""
    calls, _ = generated(pixart, guidance_scale=3.0, **PIXART)
    call = calls[0] | {"timestep": torch.tensor([0.0, 10.5, 500.25, 999.0])}
    rows = {"hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask"}
    with torch.no_grad():
        both = pixart.transformer(**{k: v for k, v in call.items() if k != "out"})[0]
    for one, row in zip(alone(pixart.transformer, call, 4, rows), both, strict=True):
        near(one, row)


def test_pixart_alpha_cannot_take_a_single_step():
    """`step(...)[1]` of a scheduler that returns one thing; distilled ones bring LCM's."""
    pipe = families.pixart_pipeline()
    with pytest.raises(IndexError):
        generated(pipe, steps=1, **PIXART)


# Sana ---------------------------------------------------------------------------------------


SANA = {
    "height": 32,
    "width": 32,
    "use_resolution_binning": False,
    "max_sequence_length": 24,
    "complex_human_instruction": ["Given a user prompt.", "User Prompt: "],
}


@pytest.fixture(scope="module")
def sana():
    return families.sana_pipeline(instruction=SANA["complex_human_instruction"])


def gemma_states(pipe, texts, window, layer=-1):
    ids, mask = padded(pipe.tokenizer, texts, window)
    with torch.no_grad():
        out = pipe.text_encoder(ids, attention_mask=mask, output_hidden_states=True)
    return out.hidden_states[layer], mask


def test_sana_condition(sana):
    """The instruction is read and cut away but for its last token; none before a negative."""
    calls, _ = generated(sana, guidance_scale=3.0, **SANA)
    window, before = 24, "Given a user prompt.\nUser Prompt: "
    skipped = len(sana.tokenizer(before).input_ids) - 2
    states, mask = gemma_states(sana, [before + p for p in PROMPTS], skipped + window)
    kept = [0, *range(skipped + 1, skipped + window)]
    empty, bare = gemma_states(sana, ["", ""], window)
    assert sana.tokenizer.padding_side == "right"  # the pipeline sets it; Gemma's is left
    near(calls[0]["encoder_hidden_states"], torch.cat([empty, states[:, kept]]))
    assert calls[0]["encoder_attention_mask"].equal(torch.cat([bare, mask[:, kept]]))


def test_sana_time_and_step(sana):
    """The pipeline's time is 1000 sigma cut to a whole number; sigma itself is not cut."""
    calls, end = generated(sana, guidance_scale=3.0, steps=3, **SANA)
    sigmas = sana.scheduler.sigmas
    times = [float(call["timestep"][0]) for call in calls]
    assert times == [int(1000 * float(s)) for s in sigmas[:-1]]
    assert abs(times[1] - 1000 * float(sigmas[1])) > 0.1
    flow = guided(*calls[0]["out"].chunk(2), 3.0)
    x = calls[0]["hidden_states"][:2]
    x_0, eps = x - sigmas[0] * flow, x + (1 - sigmas[0]) * flow
    near((1 - sigmas[1]) * x_0 + sigmas[1] * eps, calls[1]["hidden_states"][:2], 1e-4)
    flow = guided(*calls[-1]["out"].chunk(2), 3.0)
    near(calls[-1]["hidden_states"][:2] - sigmas[-2] * flow, end, 1e-4)


def test_sana_time_is_scaled_by_the_networks_config():
    pipe = families.sana_pipeline(0.5, SANA["complex_human_instruction"])
    calls, _ = generated(pipe, **SANA)
    assert float(calls[0]["timestep"][0]) == 0.5 * int(1000 * float(pipe.scheduler.sigmas[0]))


def test_sana_codec(sana):
    """Deterministic: `latent`, no distribution; a scale and no shift."""
    with torch.no_grad():
        encoded = sana.vae.encode(images(side=32))
        assert encoded.latent.shape == (1, 4, 8, 8)
        assert not hasattr(encoded, "latent_dist")
    _, end = generated(sana, [SHORT], **SANA)
    _, pixels = generated(sana, [SHORT], output_type="pt", **SANA)
    with torch.no_grad():
        near(pixels, (sana.vae.decode(end / 0.41407).sample / 2 + 0.5).clamp(0, 1))


def test_sana_mixed_times_and_lengths(sana):
    calls, _ = generated(sana, guidance_scale=3.0, **SANA)
    call = calls[0] | {"timestep": torch.tensor([3.0, 250.25, 752.0, 1000.0])}
    rows = {"hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask"}
    with torch.no_grad():
        both = sana.transformer(**{k: v for k, v in call.items() if k != "out"})[0]
    for one, row in zip(alone(sana.transformer, call, 4, rows), both, strict=True):
        near(one, row)


# Lumina 2 -----------------------------------------------------------------------------------


LUMINA = {"height": 64, "width": 64, "max_sequence_length": 120}


@pytest.fixture(scope="module")
def lumina2():
    return families.lumina2_pipeline()


def test_lumina2_condition(lumina2):
    """Last states but one under a mask; the system prompt precedes prompts, not negatives."""
    calls, _ = generated(lumina2, guidance_scale=3.0, **LUMINA)
    given, without = calls[:2]
    before = f"{lumina2.system_prompt} <Prompt Start> "
    states, mask = gemma_states(lumina2, [before + p for p in PROMPTS], 120, -2)
    near(given["encoder_hidden_states"], states)
    assert given["encoder_attention_mask"].equal(mask)
    empty, bare = gemma_states(lumina2, ["", ""], 120, -2)
    near(without["encoder_hidden_states"], empty)
    assert without["encoder_attention_mask"].equal(bare)


@pytest.mark.parametrize("normalised", [True, False])
def test_lumina2_time_sign_and_step(lumina2, normalised):
    """Time is 1 - sigma, not times 1000, the output x_0 - eps; guidance is rescaled by rows."""
    calls, end = generated(lumina2, guidance_scale=3.0, cfg_normalization=normalised, **LUMINA)
    given, without = calls[2:]
    sigma = 1 - given["timestep"][0]
    near(given["timestep"], without["timestep"])
    toward = guided(without["out"], given["out"], 3.0)
    if normalised:  # over the width of the image alone
        toward *= given["out"].norm(dim=-1, keepdim=True) / toward.norm(dim=-1, keepdim=True)
    near(given["hidden_states"] + sigma * toward, end)
    embed = lumina2.transformer.time_caption_embed.time_proj
    with watching(embed) as seen, torch.no_grad():
        lumina2.transformer(**{k: v for k, v in given.items() if k != "out"})
    near(seen[0]["timesteps"], given["timestep"])


def test_lumina2_codec(lumina2):
    """Shift and scale; the pipeline takes the factor for 8 whatever the VAE's."""
    assert lumina2.vae_scale_factor == 8
    config = lumina2.vae.config
    _, end = generated(lumina2, [SHORT], **LUMINA)
    _, pixels = generated(lumina2, [SHORT], output_type="pt", **LUMINA)
    with torch.no_grad():
        z = end / config.scaling_factor + config.shift_factor
        near(pixels, (lumina2.vae.decode(z).sample / 2 + 0.5).clamp(0, 1))


def test_lumina2_mixed_times_and_lengths(lumina2):
    calls, _ = generated(lumina2, **LUMINA)
    call = calls[0] | {"timestep": torch.tensor([0.25, 0.9])}
    rows = {"hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask"}
    assert call["encoder_attention_mask"].sum(1).unique().numel() == 2
    with torch.no_grad():
        both = lumina2.transformer(**{k: v for k, v in call.items() if k != "out"})[0]
    for one, row in zip(alone(lumina2.transformer, call, 2, rows), both, strict=True):
        near(one, row)


# Z-Image ------------------------------------------------------------------------------------


Z_IMAGE = {"max_sequence_length": 64}


@pytest.fixture(scope="module")
def z_image():
    return families.z_image_pipeline()


def z_states(pipe, texts):
    """States of each text's own tokens, of different lengths."""
    chats = [
        pipe.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=True,
        )
        for text in texts
    ]
    states, mask = gemma_states(pipe, chats, 64, -2)
    return [rows[on.bool()] for rows, on in zip(states, mask, strict=True)]


def test_z_image_condition(z_image):
    """Lists, one tensor a row and no padding; prompts first, the empty one after them."""
    calls, _ = generated(z_image, list(PROMPTS), guidance_scale=3.0, **Z_IMAGE)
    for found, own in zip(
        calls[0]["cap_feats"], z_states(z_image, [*PROMPTS, "", ""]), strict=True
    ):
        near(found, own)
    assert [x.shape for x in calls[0]["x"]] == [(4, 1, 8, 8)] * 4


def test_z_image_changes_the_callers_prompts(z_image):
    prompts = [SHORT]
    generated(z_image, prompts, guidance_scale=0.0, **Z_IMAGE)
    assert prompts != [SHORT]


def test_z_image_time_sign_and_step(z_image):
    """Time is 1 - sigma, the output x_0 - eps, and guidance g here is 1 + g elsewhere."""
    calls, end = generated(z_image, [SHORT], guidance_scale=3.0, **Z_IMAGE)
    last = calls[-1]
    sigma = 1 - last["t"][0]
    assert last["t"].dtype == torch.float32
    given, without = (x.squeeze(1) for x in last["out"])
    toward = guided(without, given, 1 + 3.0)
    near((last["x"][0].squeeze(1) + sigma * toward)[None], end)
    calls, end = generated(z_image, [SHORT], guidance_scale=0.0, **Z_IMAGE)
    last = calls[-1]
    assert len(last["x"]) == 1
    near((last["x"][0] + sigma * last["out"][0]).squeeze(1)[None], end)


def test_z_image_codec(z_image):
    from diffusers import ZImageImg2ImgPipeline

    pipe, config = ZImageImg2ImgPipeline(**z_image.components), z_image.vae.config
    pipe.scheduler.set_timesteps(4)
    sigma, t = pipe.scheduler.sigmas[2], pipe.scheduler.timesteps[2:3]
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        found = pipe.prepare_latents(images(), t, 1, 4, 16, 16, torch.float32, "cpu", g)
        g.manual_seed(3)
        z = pipe.vae.encode(images()).latent_dist.sample(g)
    x_0, eps = (z - config.shift_factor) * config.scaling_factor, torch.randn(z.shape, generator=g)
    near(found, (1 - sigma) * x_0 + sigma * eps)
    _, end = generated(z_image, [SHORT], guidance_scale=0.0, **Z_IMAGE)
    _, pixels = generated(z_image, [SHORT], guidance_scale=0.0, output_type="pt", **Z_IMAGE)
    with torch.no_grad():
        z = end / config.scaling_factor + config.shift_factor
        near(pixels, (z_image.vae.decode(z).sample / 2 + 0.5).clamp(0, 1))


def test_z_image_mixed_times_and_lengths(z_image):
    """Captions of different multiples of 32 tokens are masked, and do not reach one another."""
    network = z_image.transformer
    captions = [noise(n, 16, seed=n) for n in (9, 40)]
    x, t = list(noise(2, 4, 1, 8, 8)), torch.tensor([0.25, 0.9])
    with torch.no_grad():
        both = network(x, t, captions).sample
        for i in range(2):
            near(network([x[i]], t[i : i + 1], [captions[i]]).sample[0], both[i])


# Flux.2 -------------------------------------------------------------------------------------


FLUX2 = {"max_sequence_length": 40}


def patched(z):
    """`[b, c, h, w]` to `[b, 4 c, h/2, w/2]`, a channel's 2x2 patch together."""
    b, c, h, w = z.shape
    z = z.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4)
    return z.reshape(b, 4 * c, h // 2, w // 2)


@pytest.fixture(scope="module")
def flux2():
    return families.flux2_pipeline()


def test_flux2_condition(flux2):
    """Three of the encoder's layers side by side, read under a mask that the network lacks."""
    calls, _ = generated(flux2, guidance_scale=3.0, **FLUX2)
    given, without = calls[:2]
    for call, texts in ((given, PROMPTS), (without, ["", ""])):
        chats = [
            flux2.tokenizer.apply_chat_template(
                [{"role": "user", "content": text}],
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,
            )
            for text in texts
        ]
        ids, mask = padded(flux2.tokenizer, chats, 40)
        with torch.no_grad():
            hidden = flux2.text_encoder(
                ids, attention_mask=mask, output_hidden_states=True
            ).hidden_states
        near(call["encoder_hidden_states"], torch.cat([hidden[k] for k in (9, 18, 27)], -1))
        assert call["guidance"] is None
    near(given["txt_ids"], torch.tensor([[0, 0, 0, i] for i in range(40)]).repeat(2, 1, 1))
    places = torch.tensor([[0, i, j, 0] for i in range(4) for j in range(4)])
    near(given["img_ids"], places.repeat(2, 1, 1))
    near(given["hidden_states"], noise(2, 16, 4, 4).flatten(2).transpose(1, 2))


def test_flux2_time_and_step(flux2):
    calls, _ = generated(flux2, guidance_scale=3.0, **FLUX2)
    (given, without), (after, _) = calls[:2], calls[2:]
    near(given["timestep"], torch.ones(2))
    flow = guided(without["out"], given["out"], 3.0)
    later = after["timestep"][0]
    near(given["hidden_states"] + (later - 1) * flow, after["hidden_states"])


def test_flux2_distilled_has_no_unconditional_branch():
    """Only model_index.json tells the distilled one."""
    pipe = families.flux2_pipeline(distilled=True)
    assert pipe.config.is_distilled
    assert len(generated(pipe, guidance_scale=3.0, **FLUX2)[0]) == 2


def test_flux2_codec(flux2):
    """Patches of latents, normalised by the running statistics of a batch norm."""
    bn = flux2.vae.bn
    mean = bn.running_mean.view(1, -1, 1, 1)
    std = (bn.running_var + flux2.vae.config.batch_norm_eps).sqrt().view(1, -1, 1, 1)
    with torch.no_grad():
        z = flux2.vae.encode(images()).latent_dist.mode()
        near(flux2._encode_vae_image(images(), None), (patched(z) - mean) / std)
    calls, z = generated(flux2, [SHORT], guidance_scale=1.0, steps=1, **FLUX2)
    end = (calls[0]["hidden_states"] - calls[0]["out"]).transpose(1, 2).unflatten(2, (4, 4))
    near(patched(z), end * std + mean)  # `output_type="latent"` is already unpatched
    _, pixels = generated(flux2, [SHORT], guidance_scale=1.0, steps=1, output_type="pt", **FLUX2)
    with torch.no_grad():
        near(pixels, (flux2.vae.decode(z).sample / 2 + 0.5).clamp(0, 1))


def test_flux2_mixed_times_and_guidance():
    network = families.flux2_transformer()
    x, states = noise(2, 16, 16), noise(2, 40, 24, seed=1)
    places = torch.tensor([[0, i, j, 0] for i in range(4) for j in range(4)])
    words = torch.tensor([[0, 0, 0, i] for i in range(40)])
    t, g = torch.tensor([0.3, 0.9]), torch.tensor([1.0, 4.0])

    def answer(rows):
        with torch.no_grad():
            return network(x[rows], states[rows], t[rows], places, words, g[rows]).sample

    both = answer(slice(0, 2))
    for i in range(2):
        near(answer(slice(i, i + 1))[0], both[i])


# Half precision -----------------------------------------------------------------------------


def seen_times(network, embed, call):
    """What the sinusoids of time read when the network is in bfloat16 and time is not."""
    with watching(embed) as seen, torch.no_grad():
        network.to(torch.bfloat16)(**call)
    return next(iter(seen[0].values()))


def half(*shape):
    return noise(*shape).to(torch.bfloat16)


def time_readers():
    """Family, network, the module that reads time, and a call at 750.3 of 1000."""
    t, mask = torch.tensor([750.3]), torch.ones(1, 8, dtype=torch.int64)
    x = half(1, 4, 8, 8)
    unet = families.sdxl_pipeline().unet
    more = {"text_embeds": half(1, 24), "time_ids": torch.zeros(1, 6)}
    call = {"sample": x, "timestep": t, "encoder_hidden_states": half(1, 8, 40)}
    yield "sdxl", unet, unet.time_proj, call | {"added_cond_kwargs": more}
    sd3 = families.sd3_pipeline().transformer
    call = {"encoder_hidden_states": half(1, 8, 48), "pooled_projections": half(1, 40)}
    call |= {"hidden_states": x, "timestep": t}
    yield "sd3", sd3, sd3.time_text_embed.time_proj, call
    dit = families.dit_pipeline(3).transformer
    call = {"hidden_states": x, "timestep": t, "class_labels": torch.tensor([1])}
    yield "dit", dit, dit.transformer_blocks[0].norm1.emb.time_proj, call
    pixart = families.pixart_pipeline().transformer
    call = {"encoder_hidden_states": half(1, 8, 32), "encoder_attention_mask": mask}
    call |= {"hidden_states": x, "timestep": t}
    call |= {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}
    yield "pixart", pixart, pixart.adaln_single.emb.time_proj, call
    sana = families.sana_pipeline().transformer
    call = {"encoder_hidden_states": half(1, 8, 16), "encoder_attention_mask": mask}
    yield "sana", sana, sana.time_embed.emb.time_proj, call | {"hidden_states": x, "timestep": t}
    lumina = families.lumina2_pipeline().transformer
    call |= {"hidden_states": x, "timestep": t}
    yield "lumina2", lumina, lumina.time_caption_embed.time_proj, call
    z_image = families.z_image_pipeline().transformer
    call = {"x": [half(4, 1, 8, 8)], "t": t / 1000, "cap_feats": [half(8, 16)]}
    yield "z-image", z_image, z_image.t_embedder, call


def test_time_stays_float32_in_half_precision():
    """Given float32, these read float32: only the sinusoids are rounded, not the time."""
    found = {name: seen_times(*rest) for name, *rest in time_readers()}
    assert len(found) == 7
    for times in found.values():
        near(times, torch.tensor([750.3]), 1e-4)


@pytest.mark.parametrize("second", [False, True])
def test_flux_rounds_time_and_guidance(second):
    """Flux multiplies by 1000 after its cast: the time it reads is a function of the cast one."""
    call = {"hidden_states": half(1, 16, 16), "timestep": torch.tensor([0.7503])}
    call["guidance"] = torch.tensor([3.5])
    if second:
        network = families.flux2_transformer()
        embed = network.time_guidance_embed.time_proj
        call |= {"img_ids": torch.zeros(16, 4), "txt_ids": torch.zeros(8, 4)}
        call |= {"encoder_hidden_states": half(1, 8, 24)}
    else:
        network = families.flux_pipeline().transformer
        embed = network.time_text_embed.time_proj
        call |= {"img_ids": torch.zeros(16, 3), "txt_ids": torch.zeros(8, 3)}
        call |= {"encoder_hidden_states": half(1, 8, 32), "pooled_projections": half(1, 16)}
    with watching(embed) as seen, torch.no_grad():
        network.to(torch.bfloat16)(**call)
    time, guidance = (next(iter(s.values())).float() for s in seen)
    assert time.tolist() == [752.0]
    assert guidance.tolist() == [3504.0]
    read = (torch.tensor([0.7503]).to(torch.bfloat16) * 1000).float() / 1000
    near(time, 1000 * read, 1e-4)  # noise with `read`, and both agree


# Attention ----------------------------------------------------------------------------------


def heads(attn, projected, norm):
    """`[b, n, heads, d]`, normalised where the checkpoint does."""
    split = projected.unflatten(-1, (attn.heads, -1))
    return split if norm is None else norm(split)


def joint_probabilities(attn, call, text_first):
    """Attention of every token to every token, `[b, heads, n, n]`, and the values `[b, n, ...]`.

    From what a forward hook with keyword arguments sees: nothing is patched.
    """
    from diffusers.models.embeddings import apply_rotary_emb

    x, text = call["hidden_states"], call.get("encoder_hidden_states")
    q, k = heads(attn, attn.to_q(x), attn.norm_q), heads(attn, attn.to_k(x), attn.norm_k)
    v = heads(attn, attn.to_v(x), None)
    if text is not None:
        own = (
            heads(attn, attn.add_q_proj(text), attn.norm_added_q),
            heads(attn, attn.add_k_proj(text), attn.norm_added_k),
            heads(attn, attn.add_v_proj(text), None),
        )
        pairs = zip(own, (q, k, v), strict=True)
        q, k, v = (torch.cat([a, b] if text_first else [b, a], 1) for a, b in pairs)
    places = call.get("image_rotary_emb")
    if places is not None:
        q, k = (apply_rotary_emb(z, places, sequence_dim=1) for z in (q, k))
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5
    return scores.softmax(-1), v


def mixed_values(probabilities, values):
    return torch.einsum("bhqk,bkhd->bqhd", probabilities, values).flatten(2)


def attention_calls(pipe, name, **options):
    module = pipe.transformer.get_submodule(name)
    with watching(module) as calls:
        generated(pipe, steps=1, **options)
    return module, calls[0]


def test_sd3_joint_attention_puts_the_image_first(sd3):
    attn, call = attention_calls(
        sd3, "transformer_blocks.0.attn", max_sequence_length=families.T5_WINDOW
    )
    with torch.no_grad():
        probabilities, values = joint_probabilities(attn, call, text_first=False)
        n = call["hidden_states"].shape[1]
        assert n == 16
        assert probabilities.shape[-1] == n + families.CLIP_WINDOW + families.T5_WINDOW
        image = mixed_values(probabilities, values)[:, :n]
        near(attn.to_out[0](image), call["out"])
    assert sd3.transformer.transformer_blocks[0].attn2.add_k_proj is None  # image alone


def test_flux_joint_attention_puts_the_text_first(flux):
    attn, call = attention_calls(flux, "transformer_blocks.0.attn", **FLUX)
    with torch.no_grad():
        probabilities, values = joint_probabilities(attn, call, text_first=True)
        image = mixed_values(probabilities, values)[:, families.T5_WINDOW :]
        near(attn.to_out[0](image), call["out"])
    attn, call = attention_calls(flux, "single_transformer_blocks.0.attn", **FLUX)
    assert call["hidden_states"].shape[1] == families.T5_WINDOW + 16  # one stream, text first
    with torch.no_grad():
        near(mixed_values(*joint_probabilities(attn, call, text_first=True)), call["out"])


@pytest.mark.parametrize("name", ["pixart", "sana"])
def test_cross_attention_is_masked(name, request):
    """`attn2` of every block has the text for keys, -10,000 on its padding."""
    pipe = request.getfixturevalue("alpha_pixart" if name == "pixart" else name)
    options = PIXART | {"steps": 2} if name == "pixart" else SANA
    attn = pipe.transformer.transformer_blocks[0].attn2
    with watching(attn) as calls:
        generated(pipe, guidance_scale=1.0, **options)
    call = calls[0]
    text, mask = call["encoder_hidden_states"], call["attention_mask"]
    with torch.no_grad():
        q = heads(attn, attn.to_q(call["hidden_states"]), None)
        k, v = (heads(attn, f(text), None) for f in (attn.to_k, attn.to_v))
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5 + mask[:, None]
        probabilities = scores.softmax(-1)
        near(attn.to_out[0](mixed_values(probabilities, v)), call["out"])
    assert mask.shape == (2, 1, 24)
    assert mask.unique().tolist() == [-10000.0, 0.0]


@pytest.fixture(scope="module")
def alpha_pixart():
    return families.pixart_pipeline()


# Siblings -----------------------------------------------------------------------------------


def test_pipelines_of_the_same_parts():
    """The parts of a family serve its other pipelines; some families have no other."""
    from diffusers import AutoPipelineForImage2Image, AutoPipelineForInpainting

    def siblings(pipe):
        for auto in (AutoPipelineForImage2Image, AutoPipelineForInpainting):
            try:
                yield type(auto.from_pipe(pipe)).__name__
            except ValueError:
                yield None

    for pipe, expected in (
        (
            families.sdxl_pipeline(),
            ["StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline"],
        ),
        (
            families.sd3_pipeline(),
            ["StableDiffusion3Img2ImgPipeline", "StableDiffusion3InpaintPipeline"],
        ),
        (families.flux_pipeline(), ["FluxImg2ImgPipeline", "FluxInpaintPipeline"]),
        (families.z_image_pipeline(), ["ZImageImg2ImgPipeline", "ZImageInpaintPipeline"]),
        (families.flux2_pipeline(), ["Flux2KleinPipeline", None]),
        (families.pixart_pipeline(), [None, None]),
        (families.sana_pipeline(), [None, None]),
        (families.lumina2_pipeline(), [None, None]),
        (families.dit_pipeline(3), [None, None]),
    ):
        assert list(siblings(pipe)) == expected


# Text encoders ------------------------------------------------------------------------------


def encoders():
    sd3, z_image = families.sd3_pipeline(), families.z_image_pipeline()
    yield "clip", sd3.text_encoder, sd3.tokenizer
    yield "t5", sd3.text_encoder_3, sd3.tokenizer_3
    sana = families.sana_pipeline()
    yield "gemma", sana.text_encoder, sana.tokenizer
    yield "qwen", z_image.text_encoder, z_image.tokenizer


def test_tokens_vectors_are_replaced_by_a_hook():
    """Every encoder reads the embedding that it names, T5 perhaps a twin inside its stack, and a
    hook on it serves textual inversion, with gradients."""
    for name, encoder, tokens in encoders():
        embedding = encoder.get_input_embeddings()
        read = encoder.encoder.embed_tokens if name == "t5" else embedding
        assert read.weight is embedding.weight, name
        ids = tokens([LONG], return_tensors="pt").input_ids
        vector = read(torch.tensor(5)).detach().clone().requires_grad_()
        place = torch.arange(ids.shape[1]) == 3

        def put(module, inputs, out, place=place, vector=vector):
            return torch.where(place[:, None], vector, out)

        handle = read.register_forward_hook(put)
        states = encoder(ids, output_hidden_states=True).hidden_states[-2]
        handle.remove()
        other = torch.where(place, 5, ids)
        plain = encoder(other, output_hidden_states=True).hidden_states[-2]
        near(states, plain)
        states.square().sum().backward()
        assert vector.grad.abs().max() > 0, name
        assert vector.equal(read.weight[5]) == (name != "gemma")  # which scales its vectors


def test_encoders_states_last_but_one_have_no_final_norm():
    """`hidden_states[-2]` is what the last block reads; where the last one stands is another
    matter, so adapters take it by that name and never count from the end of a norm."""
    pipe = families.sd3_pipeline()
    ids, _ = padded(pipe.tokenizer, [SHORT], families.CLIP_WINDOW)
    layers = [m for m in pipe.text_encoder.modules() if type(m).__name__ == "CLIPEncoderLayer"]
    with watching(layers[1]) as calls, torch.no_grad():
        out = pipe.text_encoder(ids, output_hidden_states=True)
    assert len(out.hidden_states) == len(layers) + 1 == 4
    near(out.hidden_states[-2], calls[0]["out"])


def test_masks_do_not_mix(alpha_pixart):
    """Half a mask is a mask of zero; prompts are mixed side by side, with a bias of log w."""
    network = alpha_pixart.transformer
    ids, mask = padded(alpha_pixart.tokenizer, PROMPTS, families.T5_WINDOW)
    x, t = noise(1, 4, 8, 8), torch.tensor([500.0])
    rest = {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}
    with torch.no_grad():
        states = alpha_pixart.text_encoder(ids, attention_mask=mask)[0]

        def answer(text, on):
            return network(x, text, t, encoder_attention_mask=on, **rest).sample

        longer = mask[1:].float()
        cut = torch.where(mask[:1].bool(), longer, 0.5 * longer)
        near(answer(states[1:], cut), answer(states[1:], longer * mask[:1]))
        beside = states.flatten(0, 1)[None]
        for i in range(2):
            weights = torch.full((2, 1), -10000.0)
            weights[i] = 0
            bias = (weights + (1 - mask.float()) * -10000).view(1, 1, -1)
            near(answer(beside, bias), answer(states[i : i + 1], mask[i : i + 1]))
