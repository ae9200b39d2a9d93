"""Every method of class-conditional pixel models on the same images.

Model cards and the table of the paper's sections 4.1 and 4.2 are made of these lines.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from ..classifier import Scores
from ..data import Labelled
from ..methods.elbo import ELBO
from ..methods.latent_knn import LatentKNN
from ..methods.likelihood import Likelihood
from ..methods.noise_denoise import NoiseDenoise, NoiseDenoiseVote
from .metrics import expected_calibration_error, percent, wilson

# Noise level and steps of a full run; one step returns what the network first makes of x_t.
DENOISE: list[dict[str, Any]] = [
    {"level": level, "steps": steps} for level in (0.3, 0.5, 0.7) for steps in (1, 20)
]
DISTANCES_OF_LATENTS = ("latent-l2", "pixel-l2")
LIKELIHOOD_STEPS = 12
Keep = Callable[[str, Callable[[], Any]], Any]


@dataclass(frozen=True)
class Line:
    """One method on the validation images.

    Attributes:
        method: Its name in `diffzero methods`.
        settings: Those that are not its defaults.
        accuracy: With n and a 95 % Wilson interval.
        ece: Of `predict_proba`, None where no temperature was fitted.
        evals: Network evaluations per image.
        vjps: Vector-Jacobian products per image.
        seconds: An image.
        correct: Images classified rightly.
        low: Lower end of the interval.
        high: Upper end.
        bits: Bits per dimension under the true class, of likelihood.
    """

    method: str
    settings: str
    accuracy: str
    ece: float | None
    evals: int
    vjps: int
    seconds: float
    correct: int
    low: float
    high: float
    bits: float | None


def denoise_choices(model: Any) -> list[dict[str, Any]]:
    """Settings of noise-denoise to choose among: of a latent model the distance too."""
    if model.grey_step is not None:
        return DENOISE
    return [{**options, "distance": d} for options in DENOISE for d in DISTANCES_OF_LATENTS]


def best_denoise(
    model: Any, held: Labelled, log: Callable[[str], None], seed: int = 0
) -> dict[str, Any]:
    """Settings of noise-denoise with the best accuracy of two draws on held-out images."""
    choices, accuracy = denoise_choices(model), []
    for options in choices:
        classifier = NoiseDenoise(model, **options, draws=2, seed=seed).fit(held.classes)
        best = classifier.scores(list(held.images)).logits.argmax(1)
        accuracy.append(float((best == held.labels).mean()))
        log(f"held-out accuracy of noise-denoise, {options}: {accuracy[-1]:.3f}")
    return choices[int(np.argmax(accuracy))]


def plan(
    model: Any, denoise: dict[str, Any], reference: list[np.ndarray], seed: int = 0
) -> list[tuple[Any, str]]:
    """Every method with its settings in words.

    Args:
        model: A class-conditional backbone.
        denoise: Settings of noise-denoise, of `denoise_choices`.
        reference: Images that latent kNN may take its units from.
        seed: Of all noise.
    """
    k = min(4, len(model.classes) - 1)
    steps = denoise["steps"]
    taken = f"{steps} step{'s' * (steps > 1)}"
    shared = {key: value for key, value in denoise.items() if key != "level"}
    distance = f", {denoise['distance']}" if "distance" in denoise else ""
    neighbours: list[tuple[Any, str]] = [
        (LatentKNN(model, seed=seed), "outlier, k = 2"),
        (LatentKNN(model, guidance=3.0, seed=seed), "outlier, k = 2, guidance 3"),
        (
            LatentKNN(model, guidance=3.0, k=k, reference=reference, seed=seed),
            f"outlier, k = {k}, guidance 3, {len(reference)} reference images",
        ),
    ]
    if len(model.classes) < 3:  # of two latents neither stands apart
        neighbours = []
    return [
        (ELBO(model, draws=8, seed=seed), "8 draws"),
        (ELBO(model, draws=32, seed=seed), "32 draws"),
        (
            Likelihood(model, steps=LIKELIHOOD_STEPS, seed=seed),
            f"{LIKELIHOOD_STEPS} steps, 1 probe",
        ),
        (
            Likelihood(model, steps=LIKELIHOOD_STEPS, paired=False, seed=seed),
            f"{LIKELIHOOD_STEPS} steps, unpaired probes",
        ),
        (
            NoiseDenoise(model, **denoise, draws=4, seed=seed),
            f"level {denoise['level']:g}, {taken}, 4 draws{distance}",
        ),
        (NoiseDenoiseVote(model, **shared, seed=seed), f"levels 0.3 to 0.7, {taken}{distance}"),
        *neighbours,
    ]


def measure_all(
    model: Any,
    denoise: dict[str, Any],
    held: Labelled,
    labelled: Labelled,
    log: Callable[[str], None],
    keep: Keep = lambda name, make: make(),
    seed: int = 0,
) -> list[Line]:
    """A line for each method of `plan`, and one for the other reading of each latent kNN.

    Args:
        model: A class-conditional backbone.
        denoise: Settings of noise-denoise, of `denoise_choices`.
        held: Images held out of training.
        labelled: Images to measure on.
        log: Called with lines of progress.
        keep: Given a name and what measures it, returns what that returns, now or before.
        seed: Of all noise.
    """
    lines = []
    for classifier, settings in plan(model, denoise, list(held.images), seed):
        measured = keep(
            f"{classifier.method} ({settings})", partial(_measure, classifier, settings, labelled)
        )
        lines += [Line(**fields) for fields in measured]
        for fields in measured:
            log(str(fields))
    return lines


def _measure(classifier: Any, settings: str, labelled: Labelled) -> list[dict[str, Any]]:
    """Fields of a method's line, and for latent kNN of that of the other reading."""
    scores, seconds = _timed(classifier, labelled)
    lines = [_line(classifier, scores, labelled.labels, settings, seconds)]
    if isinstance(classifier, LatentKNN):
        # The inlier's logits are minus the outlier's: the latents need not be encoded again.
        other = Scores(-scores.logits, scores.evals)
        words = settings.replace("outlier", "inlier")
        lines.append(_line(classifier, other, labelled.labels, words, seconds))
    return [asdict(line) for line in lines]


def _timed(classifier: Any, labelled: Labelled) -> tuple[Scores, float]:
    """Scores, and seconds per image."""
    classifier.fit(labelled.classes)
    began = time.perf_counter()
    scores = classifier.scores(list(labelled.images))
    return scores, (time.perf_counter() - began) / len(labelled.labels)


def _line(
    classifier: Any, scores: Scores, labels: np.ndarray, settings: str, seconds: float
) -> Line:
    """Accuracy, calibration and cost."""
    proba = classifier.probabilities(scores)
    right = scores.logits.argmax(1) == labels
    calibrated = classifier.temperature_in_use() != 1
    own = scores.details.get("bits_per_dim")
    n = len(right)
    low, high = wilson(int(right.sum()), n)
    return Line(
        classifier.method,
        settings,
        percent(int(right.sum()), n),
        expected_calibration_error(proba.max(1), right) if calibrated else None,
        round(float(scores.evals.mean())),
        0 if scores.vjps is None else round(float(scores.vjps.mean())),
        seconds,
        int(right.sum()),
        float(low),
        float(high),
        None if own is None else float(own[np.arange(n), labels].mean()),
    )
