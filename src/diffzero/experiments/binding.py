"""Does a model that names things also know which word belongs to which thing?

Every task of the compositional set (`diffzero scenes`), on combinations of colour and shape that
training saw and on others that it never saw, by every method and by CLIP trained on the same
captions. ELBO and CLIP answer all images (a quarter of those with combinations seen in training);
the other methods, most of which cost more, the first of each part.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..data.scene_files import Questions, ask
from ..data.scenes import TASKS
from ..errors import InputError
from ..evaluate.metrics import mcnemar
from . import Kept, Setting, canvas, discordant, fingerprint, write
from .text_table import PLAN, classifier_of, outcome

SIDE = 32  # pixels, of the pictures; models bring them to their own size
DRAWS, MOST = 32, 20  # of ELBO; images a part for the other methods at most
SEEN_LESS = 4  # times fewer images of combinations seen in training
KINDS = {"seen": False, "held out": True}
COLOURS = {"elbo": "#3b5b92", "clip": "#c2410c"}


def run(setting: Setting, path: Path) -> dict[str, Any]:
    """Accuracy of each method on each part, and McNemar's test of ELBO against CLIP."""
    parts = ask(setting.limit, SIDE)
    models = [fingerprint(setting.model), fingerprint(setting.clip)]
    key = [*models, setting.seed, setting.limit]
    kept = Kept(path.with_suffix(".partial"), key)
    plan = {f"elbo, {DRAWS} draws": ("elbo", {"draws": DRAWS}), "clip": ("clip", {})}
    plan |= {k: v for k, v in PLAN.items() if v[0] not in ("elbo", "clip")}
    lines: dict[str, dict[str, Any]] = {}
    for name, (method, options) in plan.items():
        lines[name] = {}
        for part in parts:
            n = _images(setting, method, part.held_out)
            lines[name][part.name] = kept.get(
                f"{name}, {part.name}",
                {**options, "images": n},
                partial(_measure, setting, method, options, part, n),
            )
    diffusion, clip = list(lines.values())[:2]
    tests = {part.name: _compare(diffusion[part.name], clip[part.name]) for part in parts}
    _paint(setting, parts, lines, path)
    kept.remove()
    return {
        "n": setting.limit,
        "n_seen": _images(setting, "elbo", False),
        "rival": setting.clip.name,
        "lines": lines,
        "elbo_against_clip": tests,
        "verdict": _verdict(tests),
    }


def _images(setting: Setting, method: str, held_out: bool) -> int:
    """How many a method is asked of a part: all of what was never seen, fewer of the rest."""
    n = setting.limit if held_out else max(1, setting.limit // SEEN_LESS)
    return n if method in COLOURS else min(n, MOST)


def _measure(
    setting: Setting, method: str, options: dict[str, Any], part: Questions, n: int
) -> dict[str, Any]:
    """One method on the first n images of a part, or why it cannot answer."""
    whole = {"form" if method == "cross-attention" else "template": "{}"}
    classifier = classifier_of(setting, method, whole | options)
    try:
        scores = classifier.scores(part.images[:n], candidates=part.candidates[:n])
    except InputError as error:  # latent kNN and two candidates, for one
        return {"refused": str(error)}
    return outcome(scores, part.labels[:n])


def _compare(diffusion: dict[str, Any], clip: dict[str, Any]) -> dict[str, Any]:
    ours, theirs = discordant(diffusion["right"], clip["right"])
    return {
        "only_elbo_right": ours,
        "only_clip_right": theirs,
        "mcnemar_p": mcnemar(ours, theirs),
        "elbo": diffusion["accuracy"],
        "clip": clip["accuracy"],
    }


def _verdict(tests: dict[str, dict[str, Any]]) -> str:
    """Who wins where, in plain words; five tasks share the error of 5 % (Bonferroni)."""
    sentences = []
    for kind in KINDS:
        found: dict[str, list[str]] = {}
        for task in TASKS:
            test = tests[f"{task}, {kind}"]
            ahead = test["only_elbo_right"] > test["only_clip_right"]
            sure = test["mcnemar_p"] < 0.05 / len(TASKS)
            winner = "diffusion wins" if ahead else "CLIP wins"
            who = winner if sure else "no difference is shown"
            found.setdefault(who, []).append(f"{task} (p = {test['mcnemar_p']:.2g})")
        said = "; ".join(f"{who} on {', '.join(tasks)}" for who, tasks in found.items())
        never = "never " if KINDS[kind] else ""
        sentences.append(f"Combinations {never}seen in training: {said}.")
    return " ".join(sentences)


def _paint(setting: Setting, parts: list[Questions], lines: dict[str, Any], path: Path) -> None:
    names = list(lines)
    fig = canvas(15, 2.6 + 0.42 * len(names))
    grid = fig.add_gridspec(2, len(TASKS), height_ratios=[1.5, 0.42 * len(names)], hspace=0.42)
    place = np.arange(len(names))[::-1]
    for column, task in enumerate(TASKS):
        shown = next(p for p in parts if p.task == task and p.held_out)
        axis = fig.add_subplot(grid[0, column])
        axis.imshow(shown.images[0], interpolation="nearest")
        axis.set_axis_off()
        texts, label = shown.candidates[0], int(shown.labels[0])
        false = texts[1 if label == 0 else 0]
        axis.set_title(task, size=11)
        axis.text(0.5, -0.06, f"“{texts[label]}”", size=7, color="#2a7f62", ha="center", va="top",
                  transform=axis.transAxes)  # fmt: skip
        axis.text(0.5, -0.21, f"“{false}”", size=7, color="#8a8a8a", ha="center", va="top",
                  transform=axis.transAxes)  # fmt: skip
        axis = fig.add_subplot(grid[1, column])
        for kind, shift in zip(KINDS, (0.14, -0.14), strict=True):
            for y, name in zip(place, names, strict=True):
                line = lines[name][f"{task}, {kind}"]
                if "refused" in line:
                    continue
                value = line["correct"] / len(line["right"])
                colour = COLOURS.get(name.split(",")[0], "#777777")
                axis.hlines(y + shift, *line["interval_95"], color=colour, alpha=0.5)
                axis.plot(value, y + shift, "o", color=colour, markersize=5,
                          markerfacecolor="white" if kind == "seen" else colour)  # fmt: skip
        chance = np.mean([1 / len(c) for c in shown.candidates])
        axis.axvline(chance, color="grey", linestyle=":", linewidth=1)
        axis.set_yticks(place, names if column == 0 else [])
        axis.set(xlim=(-0.02, 1.02), ylim=(-0.6, len(names) - 0.4), xlabel="accuracy")
        axis.grid(axis="y", color="#eeeeee")
    seen, few = _images(setting, "elbo", False), _images(setting, "weighted", True)
    few_seen = _images(setting, "weighted", False)
    fig.suptitle(
        f"{setting.model.name} and {setting.clip.name} on scenes: open circles, combinations seen "
        f"in training; full ones, never seen; dotted, chance\nn = {setting.limit} a full circle "
        f"and {seen} an open one for ELBO and CLIP, {few} and {few_seen} for others; 95 % Wilson "
        "intervals",
        size=11,
        y=1.0,
    )  # fmt: skip
    write(fig, path)
