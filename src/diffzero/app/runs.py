"""`diffzero report`, `rescore` and `calibrate`: what finished runs say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import options
from .console import note, print_table, say, say_json


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.")],
    out: Annotated[Path, typer.Option(help="HTML file.")] = Path("report.html"),
    as_json: Annotated[bool, typer.Option("--json", help="Numbers on standard output.")] = False,
) -> None:
    """Compare runs: a table here, an HTML file with plots."""
    from ..evaluate.compare import verdict
    from ..evaluate.report import comparisons, write_report
    from ..evaluate.summary import read_runs, summarise
    from .contact import check_sheet

    check_sheet(out, "--out", "report.html")
    read = read_runs(runs)
    summaries = [summarise(run) for run in read]
    compared, refused = comparisons(read)
    for reason in refused:
        note(f"not compared: {reason}")
    if as_json:
        say_json({"runs": summaries, "comparisons": [c for c, _ in compared]})
    else:
        header = ["run", "accuracy", "per class", "NLL", "ECE", "evaluations", "seconds"]
        print_table(header, [_line(r, s) for r, s in zip(read, summaries, strict=True)])
        for r, s in zip(read, summaries, strict=True):
            if s.get("race"):
                say(_race_line(r, s["race"]))
        for c, _ in compared:
            say(f"{c['first']} against {c['second']}: {verdict(c)}")
    write_report(read, summaries, compared, out)
    note(f"report: {out}")


def rescore(
    run: options.Run,
    draws: options.Draws = None,
    weights: Annotated[
        str, typer.Option(help="as-run, uniform, elbo, exp:RATE, or a calibration.json.")
    ] = "as-run",
    reduction: Annotated[str, typer.Option(help="mean, median or trimmed.")] = "mean",
    temperature: Annotated[float | None, typer.Option(help="Divides the logits.")] = None,
    race: Annotated[
        float | None, typer.Option(help="As a race with this delta, see docs/racing.md.")
    ] = None,
    curve: Annotated[bool, typer.Option(help="Accuracy against draws.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder of a new run with the result.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Numbers on standard output.")] = False,
) -> None:
    """Predictions of a run under other settings, without the network (needs --keep-draws)."""
    from ..evaluate import rescore as library
    from ..evaluate.config import command

    scored = library.read_scored(run)
    if weights.endswith(".json"):
        rest = library.without_fitted(scored, Path(weights))
        if left_out := len(scored.labels) - len(rest.labels):
            note(f"{left_out:,} images that the weights were fitted on are left out.")
        scored = rest
    if curve:
        _say_curve(library.accuracy_curve(scored, weights), as_json)
        return
    found = library.rescore(
        scored, weights=weights, reduction=reduction, draws=draws, temperature=temperature,
        race=race,
    )  # fmt: skip
    if out is not None:
        library.write_rescored(found, out, command())
    t, p, cost = found.settings["temperature"], found.mcnemar_p, float(found.evals.mean())
    if as_json:
        say_json(
            {"as_run": found.before, "rescored": found.after, "temperature": t, "mcnemar_p": p,
             "evaluations_per_image": cost}
        )  # fmt: skip
        return
    rows = [(name, _cell(found.before[name]), _cell(found.after[name])) for name in found.after]
    print_table([f"{len(scored.labels):,} images", "as run", "rescored"], rows)
    say(
        f"{cost:,.1f} evaluations per image; temperature {t:g}; McNemar against the run: "
        f"p = {p:.3g}"
    )


def calibrate(
    run: options.Run,
    draws: options.Draws = None,
    bins: Annotated[
        int | None,
        typer.Option(
            help="Weights over time; 1 fits the temperature only. 8, or as many as draws."
        ),
    ] = None,
    seed: options.Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Numbers on standard output.")] = False,
) -> None:
    """Fit temperature and weights over time on one half, report on the other."""
    from ..evaluate.calibrate import fit, write_calibration
    from ..evaluate.rescore import read_scored

    scored = read_scored(run)
    if draws is not None:
        scored = scored.cut_to(draws)
    result = fit(scored, bins, seed)
    path = write_calibration(result, run)
    if as_json:
        say_json({k: v for k, v in result.items() if k != "fitted_on"})
        return
    measured = result["held_out"]
    rows = [(m, *(_cell(measured[c][m]) for c in measured)) for m in measured["as run"]]
    print_table([f"{result['images_held_out']:,} held-out images", *measured], rows)
    weights = ", ".join(f"{w:.2f}" for w in result["relative_weights"])
    say(
        f"fitted on the other {result['images_fitted']:,}: temperature {result['temperature']:.5g}"
        f"; weights from small t to large, relative to it: {weights}; McNemar as run against "
        f"weights: p = {result['mcnemar_p']:.3g}\n{path}"
    )


def _line(run: Any, summary: dict[str, Any]) -> tuple[str, ...]:
    if not summary["images"]:
        return (f"{run.label}: {run.name}", "no images", *[""] * 5)
    low, high = (100 * v for v in summary["intervals"]["acc1"])
    m, cost = summary["metrics"], summary["cost"]
    return (
        f"{run.label}: {run.name}",
        f"{100 * m['acc1']:.1f} % [{low:.1f}, {high:.1f}] of {summary['images']:,}",
        f"{100 * m['mean_per_class_recall']:.1f} %",
        f"{m['nll']:.3f}",
        f"{m['ece']:.3f}",
        f"{cost['evaluations_per_image']:,.0f}",
        f"{cost['seconds_per_image']:.3g}",
    )


def _race_line(run: Any, race: dict[str, Any]) -> str:
    spent = race["evaluations"]
    return (
        f"{run.label}: {100 * race['decided']:.1f} % of the races were decided; evaluations "
        f"of half the images at most {spent['median']:,.0f}, of nine tenths "
        f"{spent['nine_tenths']:,.0f}; {race['survivors']['value']:.2f} of {len(run.classes)} "
        f"classes at the end, {race['label_set']['value']:.1f} in the label set"
    )


def _say_curve(points: list[dict[str, float]], as_json: bool) -> None:
    if as_json:
        say_json(points)
        return
    print_table(
        ["draws", "evaluations", "accuracy", "95 % interval"],
        [
            (str(p["draws"]), f"{p['evaluations']:,}", f"{100 * p['accuracy']:.1f} %",
             f"[{100 * p['low']:.1f}, {100 * p['high']:.1f}]")
            for p in points
        ],
    )  # fmt: skip


def _cell(metric: dict[str, float]) -> str:
    return f"{metric['value']:.4f} [{metric['low']:.4f}, {metric['high']:.4f}]"
