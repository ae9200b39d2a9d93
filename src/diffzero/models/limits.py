"""What values of configuration files may be, checked before anything is built of them.

Every number of a file lies within common bounds, since an absurd one would build for minutes or
fill the memory; values that are read here by name have a check of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import InputError
from ..options import (
    FLAG,
    NOTHING,
    WORDS,
    Check,
    check_value,
    number,
    one_of,
    several,
    short,
    whole,
)

MOST_LAYERS, MOST_WIDTH, MOST_ITEMS = 512, 2**24, 4096
MOST_HEADS = 2**15  # heads times their width; the largest known has 4,096
MOST_SIDE = 2**13  # of images, in pixels
NETWORK_SIDE = 2**10  # of what a network is built for, in places of `x_0`

_POSITIVE = number(0, above=True)
_DTYPES = ("float32", "float16", "bfloat16", "float64")
_DTYPE = NOTHING | one_of(*_DTYPES, *(f"torch.{name}" for name in _DTYPES))
_COUNT, _IN_BLOCK = whole(1, MOST_LAYERS), whole(1, 64)
_THREE = Check(
    "three numbers up to 1,000",
    lambda v: isinstance(v, list) and len(v) == 3 and several(number(-1_000, 1_000)).fits(v),
)
_AXES = several(
    Check("an even number from 2 to 1,024", lambda v: whole(2, 1024).fits(v) and v % 2 == 0)
)
_SIDE = whole(1, MOST_SIDE)
_SIDES = _SIDE | Check(
    f"named sides from 1 to {MOST_SIDE:,}",
    lambda v: isinstance(v, dict) and several(_SIDE).fits([*v.values()]),
)

_NAMES_OF_CLASSES = NOTHING | Check(
    "names by the number of their class",
    lambda v: (
        isinstance(v, dict)
        and all(str(k).isdecimal() and isinstance(name, str) and name for k, name in v.items())
    ),
)

CHECKS: dict[str, dict[str, Check]] = {
    "model_index.json": {"_class_name": WORDS, "id2label": _NAMES_OF_CLASSES},
    "config.json": {
        "num_hidden_layers": _COUNT,
        "num_layers": _COUNT,
        "layers_per_block": _IN_BLOCK | several(_IN_BLOCK | several(_IN_BLOCK)),
        "guidance_embeds": FLAG | NOTHING,
        **dict.fromkeys(("axes_dims_rope", "axes_dim_rope", "axes_dims"), _AXES),
        "axes_lens": several(whole(1, 2**20)),
        "dtype": _DTYPE,
        "torch_dtype": _DTYPE,
        "quantization_config": Check(
            "missing: quantised folders are not read, but a pipeline that diffusers loaded from "
            "one is, given in memory",
            lambda v: v is None,
        ),
    },
    "scheduler_config.json": {
        "_class_name": WORDS,
        "beta_start": number(0, 1, above=True),
        "beta_end": number(0, 1, above=True),
        "beta_schedule": one_of("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"),
        "trained_betas": NOTHING | several(number(0, 1)),
        "num_train_timesteps": whole(2, 100_000),
        "shift": NOTHING | _POSITIVE,
        "thresholding": FLAG | NOTHING,
        "clip_sample": FLAG | NOTHING,
        "rescale_betas_zero_snr": FLAG | NOTHING,
        "clip_sample_range": _POSITIVE,
        "dynamic_thresholding_ratio": number(0, 1),
        "sample_max_value": number(1),
    },
    "tokenizer_config.json": {"model_max_length": NOTHING | number(1)},
    "preprocessor_config.json": {
        "size": _SIDES,
        "crop_size": _SIDES,
        "image_mean": _THREE,
        "image_std": Check(
            "three numbers from 0.001 to 1,000", lambda v: _THREE.fits(v) and min(v) >= 1e-3
        ),
        "rescale_factor": number(1e-6, 1_000),
        "resample": NOTHING | whole(0, 5),
    },
}


def check_values(where: Any, file: str, data: Mapping[str, Any]) -> None:
    """Go through the values of a configuration file.

    Args:
        where: For messages: the file, or the pipeline that holds its content.
        file: The file's name.
        data: What it holds.

    Raises:
        InputError: the first value that is not allowed.
    """
    for key, check in CHECKS.get(file, {}).items():
        if key in data:
            check_value(f"{where}: {key}", data[key], check)
    if file == "scheduler_config.json":
        _check_betas(where, data)
    if file == "config.json":
        _check_transformer(where, data)
        _check_moments(where, data)
    if file in ("config.json", "scheduler_config.json", "preprocessor_config.json"):
        _check_numbers(where, data)


def _check_betas(where: Any, data: Mapping[str, Any]) -> None:
    """Refuse trained betas of other steps than the scheduler says it has."""
    betas, steps = data.get("trained_betas"), data.get("num_train_timesteps", 1000)
    if betas is not None and len(betas) != steps:
        raise InputError(
            f"{where}: trained_betas has {len(betas):,} values, and num_train_timesteps says "
            f"{steps:,}; they do not belong together."
        )


def _check_transformer(where: Any, data: Mapping[str, Any]) -> None:
    """Refuse a transformer of images whose side is no number, or whose heads have no bounds.

    Its table of places is made for the side, so that a wrong one fails while it is built.
    """
    name, side = data.get("_class_name"), data.get("sample_size", 1)
    if not (isinstance(name, str) and name.endswith("Transformer2DModel")):
        return
    sides = whole(1, NETWORK_SIDE)
    if not sides.fits(side):
        raise InputError(f"{where}: sample_size must be {sides.says}; got {short(side)}.")
    heads, width = data.get("num_attention_heads", 1), data.get("attention_head_dim", 1)
    if isinstance(heads, int) and isinstance(width, int) and heads * width > MOST_HEADS:
        raise InputError(
            f"{where}: num_attention_heads times attention_head_dim is out of all bounds "
            f"({short(heads)} times {short(width)})."
        )


def _check_moments(where: Any, data: Mapping[str, Any]) -> None:
    """Refuse a mean and a deviation of latents that are not one number for each channel."""
    means, widths = data.get("latents_mean"), data.get("latents_std")
    if means is None and widths is None:
        return
    channels = data.get("latent_channels", data.get("z_dim"))
    for values in (means, widths):
        if not (isinstance(values, list | tuple) and several(number()).fits(list(values))):
            raise InputError(
                f"{where}: latents_mean and latents_std must both be lists of numbers; got "
                f"{short(means)} and {short(widths)}."
            )
        if channels is not None and len(values) != channels:
            raise InputError(
                f"{where}: latents_mean and latents_std must have one number for each of "
                f"{short(channels)} channels; got {short(values)}."
            )
    if isinstance(widths, list | tuple) and min(widths, default=1) <= 0:
        raise InputError(f"{where}: latents_std must be above 0; got {short(widths)}.")


def _check_numbers(where: Any, data: Mapping[str, Any]) -> None:
    """Refuse sizes that would build for minutes or fill the memory."""
    for key, value in data.items():
        if key == "lambda_min_clipped":  # DPM-Solver's, which is minus infinity where it is unused
            continue
        if isinstance(value, dict):
            _check_numbers(where, value)
        values = value if isinstance(value, list | tuple) else [value]
        flat = [v for one in values for v in (one if isinstance(one, list | tuple) else [one])]
        numbers = [v for v in flat if isinstance(v, int | float) and not isinstance(v, bool)]
        most = MOST_LAYERS if "layers" in key or "blocks" in key else MOST_WIDTH
        unbounded = key.startswith(("transformers", "_")) or "token_id" in key
        many = MOST_ITEMS if key != "trained_betas" else 100_000
        if len(values) > many or any(
            not abs(v) < float("inf") or (abs(v) > most and not unbounded) for v in numbers
        ):
            raise InputError(f"{where}: {key} is out of all bounds ({short(value)}).")
