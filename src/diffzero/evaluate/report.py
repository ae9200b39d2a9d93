"""Runs side by side, as one self-contained HTML file."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np

from ..errors import InputError
from . import figures
from .compare import Pair, compare, confident_mistakes, most_different, pair, verdict
from .draws import has_matrix
from .metrics import confusion, top_k
from .page import template
from .pictures import Pictures
from .races import facts_of, survival
from .store import as_sentence
from .summary import Run

SHOWN = 12
LARGEST_CONFUSION = 30
DEFAULTS = ("value_range", "batch_size", "priors", "temperature", "template")


Comparisons = list[tuple[dict[str, Any], Pair]]


def comparisons(runs: list[Run]) -> tuple[Comparisons, list[str]]:
    """Every later run against the first.

    Returns:
        Each comparison with the images that both runs have, and why the other runs could not be
        compared.
    """
    found, refused = [], []
    for other in runs[1:]:
        try:
            matched = pair(runs[0], other)
        except InputError as error:
            refused.append(str(error))
            continue
        found.append((compare(matched), matched))
    return found, refused


def write_report(
    runs: list[Run], summaries: list[dict[str, Any]], compared: Comparisons, out: Path
) -> None:
    """One self-contained HTML file.

    Args:
        runs: What to show, the reference first.
        summaries: Of each run, see `summarise`.
        compared: What `comparisons` found.
        out: The file.

    Raises:
        InputError: the file cannot be written.
    """
    names = unique_names(runs)
    context = {
        "title": " and ".join(sorted({r.config["data"]["name"] for r in runs})),
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "runs": [
            section(r, s, n, i)
            for i, (r, s, n) in enumerate(zip(runs, summaries, names, strict=True))
        ],
        "cost": figures.cost_plot(_cost_points(summaries, names)) if _any(summaries) else None,
        "curves": _curves(runs, names),
        "comparisons": [
            {**c, "verdict": verdict(c), "pictures": _differences(found)} for c, found in compared
        ],
    }
    text = template("report.html.j2").render(**context)
    place = out.resolve()  # a link stays one
    with as_sentence(out.parent), tempfile.TemporaryDirectory(dir=place.parent) as folder:
        fresh = Path(folder) / place.name
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(place)


def unique_names(runs: list[Run]) -> list[str]:
    """What the plots call each run: model and method, with the folder where these repeat."""
    plain = [r.name for r in runs]
    return [
        n if plain.count(n) == 1 else f"{n} ({r.label})" for n, r in zip(plain, runs, strict=True)
    ]


def _any(summaries: list[dict[str, Any]]) -> bool:
    return any(s["images"] for s in summaries)


def _cost_points(summaries: list[dict[str, Any]], names: list[str]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "cost": max(1.0, s["cost"]["evaluations_per_image"]),
            "accuracy": s["metrics"]["acc1"],
            "low": s["intervals"]["acc1"][0],
            "high": s["intervals"]["acc1"][1],
        }
        for s, name in zip(summaries, names, strict=True)
        if s["images"]
    ]


def _curves(runs: list[Run], names: list[str]) -> str | None:
    from .rescore import accuracy_curve, read_scored

    curves = {
        name: accuracy_curve(read_scored(r.folder))
        for r, name in zip(runs, names, strict=True)
        if has_matrix(r.folder) and len(r.records.labels)
    }
    return figures.draws_plot(curves) if curves else None


def section(run: Run, summary: dict[str, Any], name: str, number: int) -> dict[str, Any]:
    """What the page says about one run."""
    r, k = run.records, len(run.classes)
    predicted = r.proba.argmax(1) if len(r.labels) else np.zeros(0, np.int64)
    salt = str(number)
    some = len(r.labels) > 0
    pictures = Pictures(run) if some else None
    return {
        "name": name,
        "folder": run.label,
        "summary": summary,
        "colour": figures.colour(number),
        "config": run.config,
        "settings": _settings(run),
        "warnings": caveats(run, summary),
        "confusion": figures.confusion_plot(r.labels, predicted, run.classes, salt)
        if some and k <= LARGEST_CONFUSION
        else None,
        "confused": confused_pairs(run, predicted),
        "reliability": figures.reliability_plot(r.proba.max(1), top_k(r.proba, r.labels, 1), salt)
        if some
        else None,
        "mistakes": _mistakes(run, pictures) if pictures else [],
        "no_pictures": pictures.missing if pictures else None,
        "errors": list(r.errors.values())[:10],
        "race": summary.get("race"),
        "survival": figures.survival_plot(survival(facts_of(run.folder)), salt)
        if summary.get("race")
        else None,
    }


def _settings(run: Run) -> str:
    settings = run.config["settings"]
    return ", ".join(
        f"{k} {v}" for k, v in settings.items() if v is not None and k not in DEFAULTS
    )


def caveats(run: Run, summary: dict[str, Any]) -> list[str]:
    """What a reader must know before believing the numbers."""
    found = []
    chance = 1 / len(run.classes)
    if run.config["warnings"]:
        found += [shorten(text, 300, placeholder=" ...") for text in run.config["warnings"]]
        if summary["images"]:
            low, high = summary["intervals"]["acc1"]
            against = "above" if low > chance else "below" if high < chance else "no better than"
            found.append(
                f"Accuracy is {against} chance ({100 * chance:.1f} % for {len(run.classes)} "
                "classes): this model does not know these classes, and the run says nothing about "
                "the method."
            )
    left = summary["expected"] - summary["images"] - summary["errors"]
    if left > 0:
        found.append(f"Not finished: {left:,} of {summary['expected']:,} images are still to do.")
    if summary["errors"]:
        found.append(
            f"{summary['errors']:,} of {summary['expected']:,} images could not be used and count "
            "in no number here."
        )
    return found


def confused_pairs(run: Run, predicted: np.ndarray) -> list[dict[str, Any]]:
    """The most frequent mistakes: true class, answer, count, share of the true class."""
    if not len(predicted):
        return []
    table = confusion(run.records.labels, predicted, len(run.classes))
    totals = table.sum(1)
    np.fill_diagonal(table, 0)
    order = np.argsort(-table, axis=None, kind="stable")[:8]
    pairs = [divmod(int(i), len(run.classes)) for i in order]
    return [
        {"truth": run.classes[t], "answer": run.classes[p], "count": int(table[t, p]),
         "share": table[t, p] / totals[t]}
        for t, p in pairs
        if table[t, p]
    ]  # fmt: skip


def _mistakes(run: Run, pictures: Pictures) -> list[dict[str, Any]]:
    r = run.records
    shown = []
    for row in confident_mistakes(run, SHOWN):
        best = int(r.proba[row].argmax())
        shown.append(
            {
                "uri": pictures.uri(str(r.ids[row])),
                "id": r.ids[row],
                "truth": run.classes[r.labels[row]],
                "answer": run.classes[best],
                "p": float(r.proba[row, best]),
                "p_truth": float(r.proba[row, r.labels[row]]),
            }
        )
    return shown


def _differences(found: Any) -> list[dict[str, Any]]:
    pictures = Pictures(found.first)
    one, two = found.predictions
    names = found.first.classes
    return [
        {
            "uri": pictures.uri(str(found.first.records.ids[found.rows_first[i]])),
            "id": found.first.records.ids[found.rows_first[i]],
            "truth": names[found.labels[i]],
            "first": names[one[i]],
            "second": names[two[i]],
            "first_right": bool(one[i] == found.labels[i]),
            "second_right": bool(two[i] == found.labels[i]),
        }
        for i in most_different(found, SHOWN)
    ]
