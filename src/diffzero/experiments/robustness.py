"""Section 5.2's future work and section 5.1's question: distorted images.

Part one: accuracy of the diffusion classifier and of CLIP on clean images and under the fifteen
common corruptions. Part two: "we may find a class of them, which cause a destructive effect on
false-DDPMs": does a corruption hurt the image under wrong labels more than under the right one? It
is asked twice, of the denoising error,

    [e_false(corrupted) - e_false(clean)] - [e_true(corrupted) - e_true(clean)],

and of the encoding z_c(x), by how far the corruption moves it,

    |z_false(corrupted) - z_false(clean)| - |z_true(corrupted) - z_true(clean)|,

where "false" is the mean over the wrong labels. Both are relative to the mean of the true label's
term, and above 0 where the paper's hope holds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..evaluate.corrupt import NAMES, Corruption, enlarge
from ..evaluate.intervals import mean_interval
from ..evaluate.metrics import wilson
from ..methods.clip import CLIP
from ..methods.elbo import ELBO
from ..methods.latent_knn import LatentKNN
from . import Setting, figure, write

SEVERITIES = (1, 3, 5)
MIDDLE = 3  # severity of the second part
DRAWS, STEPS = 4, 10


def run(setting: Setting, path: Path) -> dict[str, Any]:
    """Both parts on the same images."""
    data, n = setting.data, len(setting.data.labels)
    if n < 2:
        raise InputError(f"robustness needs at least two images; got {n}.")
    elbo = ELBO(setting.model, draws=DRAWS, seed=setting.seed).fit(data.classes)
    clip = CLIP(setting.clip, seed=setting.seed).fit(data.classes)
    knn = LatentKNN(setting.model, steps=STEPS, seed=setting.seed).fit(data.classes)
    clean = [enlarge(image) for image in data.images]
    errors, latents = _errors(elbo, clean), knn.latents(clean)
    right = {"clean": _right(elbo, clip, clean, errors, data.labels)}
    answers: dict[str, Any] = {}
    for name in NAMES:
        for severity in SEVERITIES:
            images = [Corruption(name, severity, setting.seed)(image) for image in clean]
            found = _errors(elbo, images)
            right[f"{name}:{severity}"] = _right(elbo, clip, images, found, data.labels)
            if severity == MIDDLE:
                moved = np.linalg.norm(_flat(knn.latents(images) - latents), axis=2)
                answers[name] = {
                    "error": _contrast((found - errors).mean(1), data.labels),
                    "encoding": _contrast(moved, data.labels),
                }
    numbers = {
        "n": n,
        "rival": clip.backbone_.name,
        "draws": DRAWS,
        "accuracy": {key: _accuracies(value) for key, value in right.items()},
        "mean_over_corruptions": _means(right),
        "false_minus_true": answers,
    }
    numbers["verdict"] = _verdict(numbers)
    _paint(setting, numbers, path)
    return numbers


def _flat(latents: np.ndarray) -> np.ndarray:
    return np.asarray(latents, dtype=np.float64).reshape(*latents.shape[:2], -1)


def _errors(elbo: ELBO, images: list[np.ndarray]) -> np.ndarray:
    """Denoising errors `[n, draws, k]`."""
    return np.stack(elbo.draw_errors(images))[..., 0]


def _right(
    elbo: ELBO, clip: CLIP, images: list[np.ndarray], errors: np.ndarray, labels: np.ndarray
) -> dict[str, np.ndarray]:
    logits = np.stack([elbo.reduce(e[..., None]) for e in errors])
    return {
        "diffusion": logits.argmax(1) == labels,
        "clip": clip.scores(images).logits.argmax(1) == labels,
    }


def _accuracies(right: dict[str, np.ndarray]) -> dict[str, Any]:
    return {
        who: {"accuracy": float(hits.mean()), "interval": wilson(int(hits.sum()), len(hits))}
        for who, hits in right.items()
    }


def _means(right: dict[str, dict[str, np.ndarray]]) -> dict[str, Any]:
    """Means over all corruptions; images are resampled whole, since their corruptions go alike."""
    rows = {
        who: np.mean([v[who] for k, v in right.items() if k != "clean"], axis=0)
        for who in ("diffusion", "clip")
    }
    result: dict[str, Any] = {
        who: {"accuracy": float(r.mean()), "interval": mean_interval(r)} for who, r in rows.items()
    }
    lost = {who: right["clean"][who].astype(float) - rows[who] for who in rows}
    more = lost["clip"] - lost["diffusion"]
    result["clip_loses_more_by"] = {"value": float(more.mean()), "interval": _signed(more)}
    return result


def _signed(values: np.ndarray) -> tuple[float, float]:
    """Interval of a mean that may lie on either side of 0."""
    shift = float(values.min()) - 1.0
    low, high = mean_interval(values - shift)
    return low + shift, high + shift


def _contrast(change: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """False minus true of `[n, k]` changes, relative to the mean size of the true ones."""
    n, k = change.shape
    own = change[np.arange(n), labels]
    others = (change.sum(1) - own) / (k - 1)
    relative = (others - own) / np.abs(own).mean()
    return {"value": float(relative.mean()), "interval": _signed(relative)}


def _verdict(numbers: dict[str, Any]) -> str:
    m = numbers["mean_over_corruptions"]
    low, high = m["clip_loses_more_by"]["interval"]
    who = "CLIP loses more" if low > 0 else "diffusion loses more" if high < 0 else "no difference"
    parts = []
    for kind in ("error", "encoding"):
        ends = {k: v[kind]["interval"] for k, v in numbers["false_minus_true"].items()}
        wrong = [k.replace("_", " ") for k, (left, _) in ends.items() if left > 0]
        right = sum(end < 0 for _, end in ends.values())
        names = ", ".join(wrong) or "none"
        parts.append(f"by {kind} {names} ({right} of {len(ends)} hurt the right one more)")
    return (
        f"Accuracy lost to corruptions, CLIP's minus diffusion's: "
        f"{100 * m['clip_loses_more_by']['value']:.1f} points [{100 * low:.1f}, {100 * high:.1f}] "
        f"({who}). Corruptions that hurt wrong labels more than the right one: {'; '.join(parts)}."
    )


def _paint(setting: Setting, numbers: dict[str, Any], path: Path) -> None:
    fig, axes = figure(13, 6.2, ncols=2, width_ratios=[1.25, 1])
    place = np.arange(len(NAMES))
    words = [name.replace("_", " ") for name in NAMES]
    who = (
        ("diffusion", setting.model.name, "#2f5d8a", 0.2),
        ("clip", numbers["rival"], "#c2410c", -0.2),
    )
    for key, title, colour, shift in who:
        clean = numbers["accuracy"]["clean"][key]["accuracy"]
        axes[0].axvline(clean, color=colour, linestyle=":", label=f"{title}, clean {clean:.2f}")
        for severity, marker in zip(SEVERITIES, "o^s", strict=True):
            values = [numbers["accuracy"][f"{n}:{severity}"][key] for n in NAMES]
            x = np.array([v["accuracy"] for v in values])
            label = f"{title}, severity {severity}"
            axes[0].plot(x, place + shift, marker, color=colour, alpha=0.75, label=label)
            if severity == MIDDLE:
                ends = np.array([v["interval"] for v in values]).T
                axes[0].hlines(place + shift, *ends, color=colour, alpha=0.35)
    axes[0].set_yticks(place, words)
    axes[0].set(xlim=(0, 1.02), xlabel="accuracy; lines: 95 % Wilson intervals at severity 3")
    axes[0].legend(frameon=False, fontsize=7, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1))
    for kind, colour, shift in (("error", "#2a7f62", 0.15), ("encoding", "#7c3aed", -0.15)):
        values = [numbers["false_minus_true"][n][kind] for n in NAMES]
        x = np.array([v["value"] for v in values])
        ends = np.array([v["interval"] for v in values]).T
        axes[1].plot(x, place + shift, "o", color=colour, label=f"{kind}, severity {MIDDLE}")
        axes[1].hlines(place + shift, *ends, color=colour, alpha=0.5)
    axes[1].axvline(0, color="#94a3b8", linewidth=1)
    axes[1].set_yticks(place, [])
    axes[1].set(xlabel="harm under wrong labels minus under the right one, relative")
    axes[1].legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1))
    name = f"{setting.model.name} and {numbers['rival']} on {setting.data.name}"
    fig.suptitle(f"{name}, n = {numbers['n']}", y=0.99)
    write(fig, path)
