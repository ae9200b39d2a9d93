"""Families of models against their own pipelines: real classes at tiny size, from a folder and in
memory.

What a pipeline gives its network, and what it makes of the answer, is read by hooks while it
runs; `test_families_facts.py` pins the same things without adapters.
"""

import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import pixel_shuffle

import diffzero as dz
import families
from conftest import from_folder
from diffzero.methods import make
from diffzero.models.attention import captured
from diffzero.models.hooks import output_replaced
from diffzero.models.quiet import quiet
from diffzero.scoring.denoising import noised
from test_families_facts import dit_calls, generated, near, noise

PROMPTS = ["a photo of a cat", "a photo of a red fox"]
ROWS = ["elbo", "likelihood", "latent-knn", "noise-denoise", "noise-denoise-vote", "weighted"]
TEXT = ["cross-attention", "textual-inversion"]
UNMIXED = [method for method in ROWS if method != "weighted"]


@dataclass(frozen=True)
class Case:
    """A family: its pipeline, how the pipeline is called for one row per prompt without guidance,
    and what a method needs."""

    build: Callable[[], Any]
    call: dict = field(default_factory=dict)
    card: dict = field(default_factory=dict)
    discrete: bool = True
    resolution: int | None = None
    methods: tuple[str, ...] = (*ROWS, *TEXT)


T5 = {"max_sequence_length": families.T5_WINDOW}
WINDOW = {"window": families.T5_WINDOW}
PIXART = {"use_resolution_binning": False}
CASES = {
    "sdxl": Case(families.sdxl_pipeline, {"guidance_scale": 1.0}),
    "sd3": Case(families.sd3_pipeline, T5 | {"guidance_scale": 1.0}, WINDOW, discrete=False),
    "sd3-no-t5": Case(
        lambda: families.sd3_pipeline(False), T5 | {"guidance_scale": 1.0}, WINDOW, discrete=False
    ),
    "flux-dev": Case(
        families.flux_pipeline, T5 | {"guidance_scale": 1.0}, WINDOW, discrete=False, resolution=16
    ),
    "flux-schnell": Case(
        lambda: families.flux_pipeline(False),
        T5,
        WINDOW,
        discrete=False,
        resolution=16,
        methods=("noise-denoise", "noise-denoise-vote", "cross-attention"),
    ),
    "dit": Case(lambda: families.dit_pipeline(5), methods=tuple(ROWS)),
    "pixart-alpha": Case(families.pixart_pipeline, PIXART | {"guidance_scale": 1.0}),
    "pixart-sizes": Case(
        lambda: families.pixart_pipeline(conditions=True),
        PIXART | {"guidance_scale": 1.0},
        resolution=16,
    ),
    "sana": Case(
        lambda: families.sana_pipeline(instruction=tuple(families.sana_instruction())),
        {
            "height": 32,
            "width": 32,
            "use_resolution_binning": False,
            "guidance_scale": 1.0,
            "max_sequence_length": families.T5_WINDOW,
        },
        WINDOW,
        discrete=False,
        methods=tuple(ROWS),
    ),
    "lumina2": Case(
        families.lumina2_pipeline,
        {"height": 64, "width": 64, "max_sequence_length": 120, "guidance_scale": 1.0},
        {"window": 120},
        discrete=False,
        methods=tuple(UNMIXED),
    ),
    "z-image": Case(
        families.z_image_pipeline,
        {"max_sequence_length": 64, "guidance_scale": 0.0},
        {"window": 64},
        discrete=False,
        resolution=16,
        methods=tuple(UNMIXED),
    ),
    "flux2-klein": Case(
        families.flux2_pipeline,
        {"max_sequence_length": 64, "guidance_scale": 1.0},
        {"window": 64},
        discrete=False,
        resolution=16,
        methods=tuple(ROWS),
    ),
    "pixart-sigma": Case(lambda: families.pixart_pipeline(True), PIXART | {"guidance_scale": 1.0}),
}


@pytest.fixture(scope="module", params=CASES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def case(name):
    return CASES[name]


@pytest.fixture(scope="module")
def folder(case, tmp_path_factory):
    where = tmp_path_factory.mktemp("model")
    with quiet():
        from_folder(case.build(), where, case.resolution, **case.card)
    return where


@pytest.fixture(scope="module")
def model(case, folder):
    return dz.load(folder, resolution=case.resolution)


def words(model):
    return PROMPTS if model.classes is None else ["1", "3"]


def latents(tensor, patches=False):
    """Sequences of patches as `x_0`: Flux's as latents, Flux.2's as patches in their places;
    Z-Image's lists of frames as latents; others as they are."""
    if isinstance(tensor, list):
        return torch.stack(tensor)[:, :, 0]
    if tensor.ndim == 4:
        return tensor
    side = round(tensor.shape[1] ** 0.5)
    whole = tensor.transpose(1, 2).unflatten(2, (side, side))
    return whole if patches else pixel_shuffle(whole, 2)


@contextmanager
def told(name, model):
    """Sana's pipeline cuts the time that it tells its network to a whole number; we do not."""

    def cut(module, args, kwargs):
        return args, kwargs | {"timestep": kwargs["timestep"].floor()}

    network = model.denoiser.network
    if name == "sana":
        handle = network.register_forward_pre_hook(cut, with_kwargs=True)
    yield
    if name == "sana":
        handle.remove()


def run_of(name, case):
    """What the pipeline's network saw at each step, and the latents it ends with."""
    pipe = case.build()
    if name == "dit":
        calls, _, _ = dit_calls(pipe, [1, 3], 1.0, steps=4)
        return calls, None
    calls, end = generated(pipe, [*PROMPTS], steps=3, **case.call)
    for call, sigma in zip(calls, pipe.scheduler.sigmas, strict=False):
        call["sigma"], call["patches"] = sigma, name.startswith("flux2")
    return calls, end


def seen(call):
    given = next(call[key] for key in ("sample", "hidden_states", "x") if key in call)
    return latents(given, call.get("patches", False))


def our_time(name, case, call):
    """The pipeline's time as ours: sigma, of which Sana tells its network a whole number."""
    if name == "sana":
        return call["sigma"].double().expand(2)
    if name in ("lumina2", "z-image"):
        t = call["timestep"] if name == "lumina2" else call["t"]
        return 1 - t.double().flatten()[:1].expand(2)
    t = torch.as_tensor(call["timestep"]).double().flatten()[:1].expand(2)
    if case.discrete:
        return (t + 1) / 1000
    return t if name.startswith("flux") else t / 1000


@pytest.mark.parametrize("where", ["folder", "memory"])
def test_prediction_is_the_pipelines_own_step(name, case, model, where):
    """From the network's input at one step to that at the next: x_0 and eps mixed anew."""
    if where == "memory":
        if case.card:  # which a pipeline in memory has not
            w = {"sana": 300, "flux-dev": 512, "flux2-klein": 512, "z-image": 512}.get(name, 256)
            case = replace(case, call=case.call | {"max_sequence_length": w})
        model = dz.load(
            case.build(), resolution=case.call.get("height", 16) if name == "sana" else 16
        )
    calls, _ = run_of(name, case)
    cond = model.embed(words(model))
    for call, later in [calls[:2]]:
        x, t = seen(call), our_time(name, case, call)
        with torch.no_grad(), told(name, model):
            said = model.forward(x, t, cond)
        alpha, sigma = (s.float().view(-1, 1, 1, 1) for s in model.schedule(t))
        near(alpha * said.x + sigma * said.eps, x, 1e-4)
        alpha, sigma = (
            s.float().view(-1, 1, 1, 1) for s in model.schedule(our_time(name, case, later))
        )
        near(alpha * said.x + sigma * said.eps, seen(later), 1e-3)


def test_last_step_gives_the_pipelines_image(name, case, model):
    if name == "flux2-klein" or name == "dit" or name.startswith(("sdxl", "pixart")):
        pytest.skip("its sampler ends at another time, is of second order, or gives no x_0")
    calls, end = run_of(name, case)
    with torch.no_grad(), told(name, model):
        said = model.forward(
            seen(calls[-1]), our_time(name, case, calls[-1]), model.embed(words(model))
        )
    near(said.x, latents(end), 1e-4)


@contextmanager
def exact(model, x_0):
    """The network's answer is the target of `x_0`, worked out from what the network was given."""
    network = model.denoiser.network
    given: list[Any] = []

    def see(module, args, kwargs):
        x = next(v for v in (*args, kwargs.get("hidden_states")) if v is not None)
        time = kwargs.get("timestep", args[1] if len(args) > 1 else None)
        given.append((x, time))

    handle = network.register_forward_pre_hook(see, with_kwargs=True)
    kind = type(network).__name__
    flow = kind.startswith(("Flux", "SD3", "Sana", "Lumina2", "ZImage"))
    turned = kind.startswith(("Lumina2", "ZImage"))

    def answer(output):
        x, time = given[-1]
        x, time = latents(x, kind.startswith("Flux2")).double(), time.double()
        if turned:
            target = (x_0 - x) / (1 - time).view(-1, 1, 1, 1)  # x_0 - eps
        elif flow:
            s = (time if kind.startswith("Flux") else time / 1000).view(-1, 1, 1, 1)
            target = (x - x_0) / s  # eps - x_0
        else:
            alpha, sigma = (s.view(-1, 1, 1, 1) for s in model.schedule((time + 1) / 1000))
            target = (x - alpha * x_0) / sigma
        if isinstance(output[0], list):
            return (list(target.float()[:, :, None]),)
        if kind.startswith("Flux2"):
            return (target.float().flatten(2).transpose(1, 2),)
        if output[0].shape[1] == 2 * target.shape[1] and output[0].ndim == 4:
            target = torch.cat([target, torch.full_like(target, 7.0)], 1)  # a variance, dropped
        if output[0].ndim == 3:
            target = torch.nn.functional.pixel_unshuffle(target, 2).flatten(2).transpose(1, 2)
        return (target.float(),)

    try:
        with output_replaced(network, answer):
            yield
    finally:
        handle.remove()


@pytest.mark.parametrize("target", ["eps", "x", "v"])
def test_exact_network_has_no_error(name, model, target, photos):
    if model.distilled:
        pytest.skip("refused")
    elbo = dz.ELBO(model, draws=4, target=target, template="{}").fit(words(model))
    x_0 = elbo._encode(photos[:1]).double()
    plain = -elbo.scores(photos[:1]).logits
    with exact(model, x_0):
        errors = -elbo.scores(photos[:1]).logits
    assert plain.min() > 0.1
    assert errors.max() < 1e-4 * plain.min()


def test_mixed_times_and_lengths_equal_one_by_one(model):
    prompts = ["a cat", "a photo of a red fox"] if model.classes is None else ["1", "3"]
    x, t = noise(2, *model.shape), torch.tensor([0.25, 0.9], dtype=torch.float64)
    with torch.no_grad():
        both = model.forward(x, t, model.embed(prompts))
        for i in range(2):
            one = model.forward(x[i : i + 1], t[i : i + 1], model.embed(prompts[i : i + 1]))
            near(one.x[0], both.x[i], 1e-4)
            near(one.eps[0], both.eps[i], 1e-4)


def test_prompts_are_kept_and_others_do_not_matter(model, photos):
    given = ["cat", "dog"] if model.classes is None else ["1", "3"]
    more = [*given, "red fox"] if model.classes is None else [*given, "4"]
    kept = [*more]
    few = make("noise-denoise", model, {"steps": 2, "draws": 1}).fit(given)
    many = make("noise-denoise", model, {"steps": 2, "draws": 1}).fit(more)
    one, other = few.scores(photos[:1]).logits, many.scores(photos[:1]).logits[:, :2]
    assert np.allclose(one, other, rtol=1e-4)
    assert more == kept


def test_half_precision_agrees(case, folder, model):
    with quiet():
        half = dz.load(folder, dtype="bfloat16", resolution=case.resolution)
    assert half.dtype == torch.bfloat16
    t = np.array([0.2, 0.7503])
    rows = [0, 0], np.arange(2)
    x_0 = noise(2, *model.shape).bfloat16()
    said, truth = {}, {}
    with torch.no_grad():
        for one, x in ((half, x_0), (model, x_0.float())):
            x_t, times, eps = noised(one, x, t, *rows)
            said[one is half] = one.forward(x_t, times, one.embed(words(one))).eps
            truth[one is half] = eps.float()
    assert said[True].dtype == torch.float32
    error = (said[True] - said[False] - truth[True] + truth[False]).norm() / said[False].norm()
    assert error < 0.05


def test_every_fitting_method_runs(case, model, photos):
    options = {
        "elbo": {"draws": 2},
        "likelihood": {"steps": 1},
        "latent-knn": {"steps": 1},
        "noise-denoise": {"steps": 2, "draws": 1},
        "noise-denoise-vote": {"steps": 2, "levels": (0.3, 0.6)},
        "cross-attention": {},
        "textual-inversion": {"steps": 1, "draws": 2, "augmentations": 1},
        "weighted": {"steps": 1, "draws": 2},
    }
    labels = ["cat", "dog", "fox"] if model.classes is None else ["1", "3", "4"]
    for method in case.methods:
        scores = make(method, model, options[method]).fit(labels).scores(photos[:1])
        assert np.isfinite(scores.logits).all(), method
        assert np.ptp(scores.logits) > 0 or method == "noise-denoise-vote", method


# What single families have of their own -----------------------------------------------------


def test_flux_noises_for_the_time_that_it_reads(tmp_path):
    """In bfloat16 the network sees another time than it was told, and `rounded` says which."""
    with quiet():
        from_folder(families.flux_pipeline(), tmp_path, 16, window=8)
        half = dz.load(tmp_path, dtype="bfloat16", resolution=16)
    read = []
    embed = half.denoiser.network.time_text_embed
    handle = embed.register_forward_pre_hook(lambda module, args: read.append(args[0]))
    t = torch.tensor([0.7503, 0.2, 0.001], dtype=torch.float64)
    with torch.no_grad():
        half.forward(noise(3, *half.shape).bfloat16(), t, half.embed(["a cat"] * 3))
    handle.remove()
    near(half.denoiser.rounded(t), read[0].double() / 1000, 1e-7)
    assert float(half.denoiser.rounded(t)[0]) == pytest.approx(0.752)
    x_0 = torch.ones(1, *half.shape, dtype=torch.bfloat16)
    x_t, times, eps = noised(half, x_0, np.array([0.7503]), [0], np.arange(1))
    near(x_t.float(), 0.248 * x_0.float() + 0.752 * eps.float(), 1e-2)
    assert float(times) == 0.7503  # it is told the time, not what it makes of it


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_maps_of_joint_attention_are_the_networks_own(name, request):
    """A times the values is what the module gives its image, whose output is not changed."""
    model = request.getfixturevalue(name)
    assert set(model.attention) == {
        f"transformer_blocks.{i}.attn" for i in range(1 if name == "flux" else 2)
    }
    cond = model.embed(PROMPTS)
    maps, inside, outside = {}, {}, {}

    def see(module, args, kwargs, output):
        inside[module], outside[module] = kwargs, output[0]

    handles = [m.register_forward_hook(see, with_kwargs=True) for m in model.attention.values()]
    x, t = noise(2, *model.shape), torch.tensor([0.3, 0.8], dtype=torch.float64)
    with torch.no_grad():
        plain = model.forward(x, t, cond).x
        with captured(model.attention, maps.__setitem__):
            assert torch.equal(model.forward(x, t, cond).x, plain)
        for key, module in model.attention.items():
            text = module.add_v_proj(inside[module]["encoder_hidden_states"])
            image = module.to_v(inside[module]["hidden_states"])
            values = torch.cat([text, image], 1).unflatten(-1, (module.heads, -1))
            mixed = (maps[key] @ values.transpose(1, 2)).transpose(1, 2).flatten(2)
            near(module.to_out[0](mixed), outside[module], 1e-4)
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("name", ["pixart", "dit"])
def test_soft_conditions_are_the_prompts_at_the_corners(name, request):
    """PixArt's masks and DiT's tables are not averaged, and weights get a gradient."""
    model = request.getfixturevalue(name)
    cond = model.embed(["a cat", *PROMPTS] if name == "pixart" else ["0", "1", "3"])
    x, t = noise(3, *model.shape), torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    with torch.no_grad():
        plain = model.forward(x, t, cond).eps
        near(model.forward(x, t, model.conditioner.mix(cond, torch.eye(3))).eps, plain, 1e-4)
    weights = torch.full((3, 3), 1 / 3, requires_grad=True)
    model.forward(x, t, model.conditioner.mix(cond, weights)).eps.square().sum().backward()
    assert weights.grad.abs().min() > 0


def test_learned_words_have_a_vector_for_each_alike_encoder(sdxl, sd3, flux):
    for model, width in ((sdxl, 16 + 24), (sd3, 16 + 24), (flux, 32)):
        text = model.conditioner
        row = text.pieces(["a photo of a cat"])[0]
        same = text.embed_tokens([row], text.token_vectors(row[1:2]), [1])
        whole = text.embed(["a photo of a cat"])
        assert text.token_vectors(row).shape == (len(row), width)
        own = slice(0, families.CLIP_WINDOW) if model is sd3 else slice(None)
        near(same.tensors["text"][:, own], whole.tensors["text"][:, own])
        near(text.embed_tokens([row]).tensors["text"], whole.tensors["text"])
        near(text.embed_tokens([row]).tensors["pooled"], whole.tensors["pooled"])


@pytest.mark.parametrize("forced", [True, False])
def test_sdxl_empty_prompt_is_as_the_pipelines(forced, tmp_path):
    pipe = families.sdxl_pipeline(forced)
    for model in (dz.load(pipe), from_folder(pipe, tmp_path)):
        empty = model.embed([""]).tensors
        given = pipe.encode_prompt("a cat")
        near(empty["text"], given[1])
        near(empty["pooled"], given[3])


def test_sdxl_latents_have_a_scale_for_each_channel(photos):
    own = {"latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [0.5, 2.0, 1.5, 1.0]}
    model = dz.load(families.sdxl_pipeline(**own))
    plain = dz.load(families.sdxl_pipeline())
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, std = (torch.tensor(own[k]).view(1, 4, 1, 1) for k in ("latents_mean", "latents_std"))
    near(model.encode(x), (plain.encode(x) - mean * 0.13025) / std)
    near(model.decode(model.encode(x)), plain.decode(plain.encode(x)))


def test_dit_knows_its_classes_by_every_name(tmp_path):
    import json

    pipe = families.dit_pipeline(3)
    model = dz.load(pipe)
    numbers = model.embed(["tench", "Tinca tinca", "goldfish", "2", ""]).tensors["class"]
    assert numbers.tolist() == [0, 0, 1, 2, 3]
    with pytest.raises(dz.InputError, match="same tokens"):
        dz.ELBO(model).fit(["tench", "Tinca tinca"])
    from_folder(pipe, tmp_path)
    index, config = tmp_path / "model_index.json", tmp_path / "transformer" / "config.json"
    names = {"0": "crane", "1": "crane, machine", "2": "tench"}
    old = ["diffusers", "Transformer2DModel"]  # as the hub's files say
    index.write_text(
        json.dumps(json.loads(index.read_text()) | {"transformer": old, "id2label": names})
    )
    config.write_text(json.dumps(json.loads(config.read_text()) | {"_class_name": old[1]}))
    model = dz.load(tmp_path)
    assert model.classes == ["0", "machine", "tench"]
    with pytest.raises(dz.InputError, match="no class 'crane'"):
        model.embed(["crane"])


@pytest.mark.parametrize("name", ["lumina2", "z-image"])
def test_language_models_tell_of_whole_prompts(name, tmp_path, photos):
    """Said in one sentence: no words to look for, nothing to mix, no prompt cut short."""
    case = CASES[name]
    model = from_folder(case.build(), tmp_path, case.resolution, **case.card)
    for method in ("cross-attention", "textual-inversion"):
        with pytest.raises(dz.InputError, match="places of single words"):
            make(method, model, {}).fit(["cat", "dog"])
    with pytest.raises(dz.InputError, match="cannot be mixed"):
        make("weighted", model, {"steps": 1, "draws": 1}).fit(["cat", "dog"]).scores(photos[:1])
    with pytest.raises(dz.InputError, match="has more"):
        model.embed(["a photo of a cat " * 30])
    cond = model.embed(["a cat", ""])
    assert cond.tensors["mask"].sum(1).unique().numel() == 2


def test_flux2_distilled_has_no_guidance():
    model = dz.load(families.flux2_pipeline(distilled=True), resolution=16)
    assert model.distilled
    with pytest.raises(dz.InputError, match="unconditional branch"):
        model.guided(2.0)
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    z, bn = model.encode(x), model.codec.vae.bn
    with torch.no_grad():
        mean = model.codec.vae.encode(x).latent_dist.mean
        near(
            z,
            (torch.nn.functional.pixel_unshuffle(mean, 2) - bn.running_mean.view(-1, 1, 1))
            / (bn.running_var + model.codec.vae.config.batch_norm_eps).sqrt().view(-1, 1, 1),
        )
        near(model.decode(z), model.codec.vae.decode(mean).sample.clamp(-1, 1), 1e-4)


# What is refused ----------------------------------------------------------------------------


def changed(pipe, part, **config):
    getattr(pipe, part).register_to_config(**config)
    return pipe


@pytest.mark.parametrize(
    ("make_pipe", "message"),
    [
        (lambda: changed(families.sdxl_pipeline(), "unet", in_channels=9), "takes 9 channels"),
        (
            lambda: changed(families.sdxl_pipeline(), "unet", time_cond_proj_dim=256),
            "latent consistency",
        ),
        (
            lambda: changed(families.sdxl_pipeline(), "unet", encoder_hid_dim_type="image"),
            "IP-Adapter",
        ),
        (lambda: changed(families.flux_pipeline(), "transformer", in_channels=96), "Fill"),
        (lambda: changed(families.sd3_pipeline(), "transformer", in_channels=33), "33 channels"),
        (
            lambda: changed(families.sd3_pipeline(), "transformer", joint_attention_dim=32),
            "not the ones it was",
        ),
        (
            lambda: families.pixart_pipeline(True, conditions=True),
            "use_additional_conditions is false",
        ),
    ],
)  # fmt: skip
def test_relatives_are_refused_by_name(make_pipe, message):
    with pytest.raises(dz.InputError, match=message):
        dz.load(make_pipe())


def test_sdxl_refiner_and_other_schedulers_are_refused():
    from diffusers import EDMEulerScheduler, LCMScheduler

    pipe = families.sdxl_pipeline()
    for scheduler in (EDMEulerScheduler(), LCMScheduler()):
        pipe.scheduler = scheduler
        with pytest.raises(dz.InputError, match="has no betas"):
            dz.load(pipe)
    pipe = families.sdxl_pipeline()
    pipe.text_encoder = pipe.tokenizer = None
    with pytest.raises(dz.InputError, match="refiner"):
        dz.load(pipe)


def test_schedulers_that_draw_otherwise_from_the_same_betas_are_read():
    from diffusers import DEISMultistepScheduler, UniPCMultistepScheduler

    pipe = families.sdxl_pipeline()
    own = dz.load(pipe).schedule
    for scheduler in (UniPCMultistepScheduler, DEISMultistepScheduler):
        pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
        t = torch.linspace(0, 1, 7, dtype=torch.float64)
        for mine, theirs in zip(own(t), dz.load(pipe).schedule(t), strict=True):
            torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize(
    ("scheduler", "said"),
    [("LCMScheduler", "few steps"), ("TCDScheduler", "few steps"), ("EDMEulerScheduler", "EDM's")],
)
def test_a_scheduler_of_other_networks_says_which(scheduler, said):
    import diffusers

    pipe = families.sdxl_pipeline()
    pipe.scheduler = getattr(diffusers, scheduler)()
    with pytest.raises(dz.InputError, match=f"{scheduler}.*{said}.*no LoRA"):
        dz.load(pipe)


def test_networks_stored_in_8_bits_answer_nearly_the_same(photos):
    def errors(pipe, **how):
        model = dz.load(pipe, resolution=16, **how)
        return dz.ELBO(model, draws=4).fit(["cat", "dog"]).scores(photos).logits

    pipe = families.sd3_pipeline()
    expected = errors(pipe)
    eight = {"storage_dtype": torch.float8_e4m3fn, "compute_dtype": torch.float32}
    pipe.transformer.enable_layerwise_casting(**eight)
    assert {p.dtype for p in pipe.transformer.parameters()} >= {torch.float8_e4m3fn}
    found = errors(pipe)
    assert np.any(found != expected)
    np.testing.assert_allclose(found, expected, rtol=0.05)
    with pytest.raises(dz.InputError, match="stored in fewer bits.*Leave out dtype"):
        errors(pipe, dtype="bfloat16")
    plain = families.sd3_pipeline()
    plain.transformer.to(torch.float8_e4m3fn)
    with pytest.raises(dz.InputError, match="float8_e4m3fn.*enable_layerwise_casting"):
        dz.load(plain)


def test_groups_of_layers_that_move_are_refused():
    pipe = families.sd3_pipeline()
    place = torch.device("cpu")
    pipe.transformer.enable_group_offload(
        onload_device=place, offload_device=place, offload_type="leaf_level"
    )
    with pytest.raises(dz.InputError, match="transformer is off-loaded"):
        dz.load(pipe)


def test_methods_that_take_an_expectation_warn_of_a_network_distilled_from_a_guided_one(
    flux, photos
):
    with pytest.warns(UserWarning, match="distilled from a guided network"):
        dz.ELBO(flux, draws=1).fit(["cat", "dog"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dz.NoiseDenoise(flux).fit(["cat", "dog"])


def test_flux_has_no_guidance_and_its_distilled_form_no_expectation(flux, photos):
    with pytest.raises(dz.InputError, match="no unconditional branch"):
        flux.guided(2.0)
    schnell = dz.load(families.flux_pipeline(False), resolution=16)
    assert schnell.distilled and not flux.distilled
    for method in ("elbo", "likelihood", "latent-knn", "weighted", "textual-inversion"):
        with pytest.raises(dz.InputError, match="distilled to draw in few steps"):
            make(method, schnell, {}).fit(["cat", "dog", "fox"])


def test_the_card_says_what_was_distilled_and_its_guidance(tmp_path):
    from_folder(families.sd3_pipeline(False), tmp_path / "turbo", distilled="true", window=8)
    assert dz.load(tmp_path / "turbo").distilled
    model = from_folder(families.flux_pipeline(), tmp_path / "dev", 16, guidance_value=3.5)
    assert model.denoiser.guidance == 3.5


@pytest.mark.parametrize("name", ["flux", "sdxl"])
def test_images_of_other_sides(name, request):
    model = request.getfixturevalue(name)
    assert model.resized(32).shape[1:] == (16, 16)
    with pytest.raises(dz.InputError, match="multiples of 4"):
        model.resized(18)


def test_sd3_knows_places_up_to_a_side(sd3):
    assert sd3.resized(40).shape == (4, 20, 20)
    with pytest.raises(dz.InputError, match="at most 48 pixels"):
        sd3.resized(64)


# Memory -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sd3", "pixart-alpha", "sana"])
def test_text_encoders_can_be_released(name, tmp_path, photos):
    model = from_folder(CASES[name].build(), tmp_path)
    options = {"draws": 2, "template": "a {}"}
    before = dz.ELBO(model, **options).fit(["cat", "dog"]).scores(photos[:1]).logits
    model.release_text_encoders(["a cat", "a dog", ""])
    assert not any("text" in part for part in model.networks())
    after = dz.ELBO(model, **options).fit(["cat", "dog"]).scores(photos[:1]).logits
    assert np.array_equal(before, after)
    dz.ELBO(model, guidance=2.0, **options).fit(["cat", "dog"]).scores(photos[:1])
    make("weighted", model, {"steps": 1, "draws": 1, "template": "a {}"}).fit(
        ["cat", "dog"]
    ).scores(photos[:1])
    with pytest.raises(dz.InputError, match="released before 'a fox' was embedded"):
        dz.ELBO(model, **options).fit(["cat", "fox"])
    with pytest.raises(dz.InputError, match="were released; load it again"):
        make("cross-attention", model, {}).fit(["cat", "dog"])


def test_only_text_encoders_are_released(dit):
    with pytest.raises(dz.InputError, match="no text encoders"):
        dit.release_text_encoders(["0"])


def test_offloaded_pipelines_are_refused():
    from accelerate import cpu_offload

    pipe = families.sd3_pipeline(False)
    cpu_offload(pipe.transformer, torch.device("cpu"))
    with pytest.raises(dz.InputError, match="transformer is off-loaded"):
        dz.load(pipe)


def test_rows_follow_free_memory():
    from diffzero.models.backbone import rows_that_fit

    large = (16, 128, 128)
    rows = [rows_that_fit(gb * 10**9, large, torch.bfloat16) for gb in (0.1, 4, 40, 4000)]
    assert rows == [1, 2, 29, 64]
    assert rows_that_fit(40 * 10**9, large, torch.float32) == 14
