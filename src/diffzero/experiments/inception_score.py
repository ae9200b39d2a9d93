"""Section 4.1's claim: images encoded under a false label decode to a lower Inception Score.

Every image is encoded under its true label and under one false label, and both latents are decoded
under every label but the one they were encoded with (that one returns the original). A classifier
trained here on the training images judges what comes out,

    IS = exp(mean over images of KL(p(y | x) || p(y))),

and the difference true minus false gets a bootstrap interval over images.

References:
    Salimans et al., Improved Techniques for Training GANs, 2016. https://arxiv.org/abs/1606.03498
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import rel_entr

from ..images import fit_square, to_tensor
from ..noise import generator as seeded
from ..scoring.ode import flow, log_grid, s_range
from . import Setting, figure, sheet, short, write

STEPS, RESAMPLES, JUDGED = 15, 2000, 20000


def inception_score(proba: np.ndarray) -> float:
    """`exp(mean KL(p(y|x) || p(y)))` of `[n, k]`, between 1 and k."""
    return float(np.exp(rel_entr(proba, proba.mean(0)).sum(1).mean()))


def run(setting: Setting, path: Path) -> dict[str, Any]:
    """Scores of both kinds, with a verdict."""
    model, data = setting.model, setting.data
    judge, accuracy = _judge(setting)
    n, k = len(data.labels), len(model.classes)
    generator = seeded(setting.seed)
    false = (data.labels + generator.integers(1, k, n)) % k
    groups = {
        "true": _decoded(model, data.images, data.labels),
        "false": _decoded(model, data.images, false),
    }
    proba = {kind: judge(images.reshape(-1, *images.shape[2:])) for kind, images in groups.items()}
    by_image = {kind: p.reshape(n, k - 1, -1) for kind, p in proba.items()}
    scores = {kind: inception_score(p) for kind, p in proba.items()}
    differences = []
    for _ in range(RESAMPLES):
        pick = generator.integers(0, n, n)
        a, b = (inception_score(by_image[c][pick].reshape(-1, k)) for c in ("true", "false"))
        differences.append(a - b)
    low, high = np.percentile(differences, [2.5, 97.5])
    verdict = (
        "the claim holds: falsely encoded images decode to a lower score"
        if low > 0
        else "the claim fails: falsely encoded images decode to a higher score"
        if high < 0
        else "undecided: the interval holds zero"
    )
    fig, axes = figure(12, 4.2, ncols=2, width_ratios=[1, 1.4])
    bars = [scores["true"], scores["false"]]
    axes[0].bar(["true label", "false label"], bars, color=["#2a7f62", "#c2410c"])
    for i, value in enumerate(bars):
        axes[0].text(i, value, f"{value:.2f}", ha="center", va="bottom")
    axes[0].set(ylabel=f"Inception-style score (1 to {k})", xlabel="encoded under")
    axes[0].set_ylim(0, 1.12 * max(bars))
    words = verdict.replace(": ", ":\n")
    title = f"{words}\ntrue - false: [{low:.2f}, {high:.2f}], n = {n}"
    axes[0].set_title(title, fontsize=9)
    _strips(axes[1], model, data, groups, false)
    fig.subplots_adjust(wspace=0.4)  # class names beside the strips are long
    write(fig, path)
    return {
        "score": scores,
        "difference_95": [float(low), float(high)],
        "n": n,
        "judge_accuracy": accuracy,
        "verdict": verdict,
        "evals": 2 * 2 * STEPS * n * (1 + k - 1),
    }


def _strips(axis: Any, model: Any, data: Any, groups: dict, false: np.ndarray) -> None:
    """Three images: decoded from the true latent above, from the false one below."""
    rows, labels = [], []
    for i in range(min(3, len(data.labels))):
        for kind, own in (("true", data.labels[i]), ("false", false[i])):
            rows.append(groups[kind][i] / 255)
            labels.append(f"{short(model.classes[own])} ({kind})")
    pixels, middles, _ = sheet(np.stack(rows))
    axis.imshow(pixels, interpolation="nearest")
    axis.set_yticks(middles, labels, fontsize=8)
    axis.set(xticks=[])
    axis.set_title("encoded under the label at the left, decoded under all the others", fontsize=9)


def _decoded(model: Any, images: Any, labels: np.ndarray) -> np.ndarray:
    """uint8 images `[n, k - 1, s, s, 3]`: encoded under the label, decoded under all others."""
    low, high = s_range(model.schedule)
    k, out = len(model.classes), []
    for image, label in zip(images, labels, strict=True):
        x_0 = model.encode(to_tensor([image], model.image_size).to(model.device, model.dtype))
        latent = flow(model, x_0, model.embed([model.classes[label]]), log_grid(low, high, STEPS))
        others = [c for i, c in enumerate(model.classes) if i != label]
        start = latent.expand(k - 1, *model.shape).contiguous()
        back = model.decode(flow(model, start, model.embed(others), log_grid(high, low, STEPS)))
        grey = ((back.float() + 1) * 127.5).round().to(torch.uint8)
        out.append(grey.permute(0, 2, 3, 1).cpu().numpy())
    return np.stack(out)


def _judge(setting: Setting) -> tuple[Any, float]:
    """A classifier of pixels trained on the training images, and its accuracy on the others."""
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    side = setting.model.image_size

    def vectors(images: Any) -> np.ndarray:
        return np.stack([fit_square(i, side).ravel() for i in images]).astype(np.float32) / 255

    train = setting.train
    pick = seeded(setting.seed).permutation(len(train.labels))[:JUDGED]
    network = MLPClassifier((128,), early_stopping=True, random_state=0, max_iter=60)
    judge = make_pipeline(StandardScaler(), network)
    judge.fit(vectors([train.images[i] for i in pick]), train.labels[pick])
    accuracy = float(judge.score(vectors(setting.data.images), setting.data.labels))
    return lambda images: judge.predict_proba(vectors(images)), accuracy
