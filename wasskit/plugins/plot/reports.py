"""What the commands draw and tabulate, as reports: pure functions of runs that have been read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from wasskit.errors import UserError
from wasskit.pictures import bars, clouds, costs, curves, dimensions, maps, spectra
from wasskit.pictures.bars import Value
from wasskit.pictures.look import Look
from wasskit.plugins.plot.files import CostTable
from wasskit.plugins.plot.groups import Group
from wasskit.plugins.plot.metrics import (
    choose,
    counts_epochs,
    families,
    keys_with_curves,
    main_metrics,
    monitored,
    nested,
    recorded,
    tabulated,
    values_of,
)
from wasskit.plugins.plot.options import AxisOptions
from wasskit.plugins.plot.panels import bar_panels, cost_series, curve_panels, dimension_panels, labelled
from wasskit.plugins.plot.tables import make_table, records, to_csv, to_latex, to_markdown
from wasskit.report import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Draw = Callable[[], "Figure"]
Which = Literal["final", "best"]
Shown = Literal["loss", "metrics", "dims", "grid", "bars"]

_COSTS = {"operations": "multiply-adds", "mean_dim": "mean number of coordinates used"}


def curves_of(
    groups: Sequence[Group], keys: Sequence[str], look: Look, axes: AxisOptions, *, title: str,
    columns: int | None = None, **panels: Any,
) -> tuple[Draw, list[str]]:  # fmt: skip
    """How the curves of metrics are drawn, and remarks on it; ``panels``: settings of ``curve_panels``."""
    drawn = curve_panels(groups, keys, epochs=counts_epochs(groups, axes.x), smooth=axes.smooth, **panels)
    return (
        lambda: curves.draw_curves(drawn, look, log_x=axes.log_x, log_y=axes.log_y, columns=columns, title=title),
        curves.remarks(drawn, log_y=axes.log_y),
    )


@dataclass(frozen=True)
class Evaluations:
    """The metrics of each group at the evaluation that counts: the last, or the best by a metric."""

    which: Which
    values: Sequence[Mapping[str, Value]]
    remarks: Sequence[str] = ()


def evaluations(groups: Sequence[Group], which: Which, by: str | None) -> Evaluations:
    """The evaluations that count; the best ones by the metric ``by``, or the one that the runs monitored."""
    chosen = monitored(groups, by) if which == "best" else None
    remarks = [f"Best evaluation of each run by {chosen}."] if chosen is not None else []
    without = [str(run.path) for group in groups for run in group.runs if chosen and not run.series.get(chosen)]
    if without:
        named = ", ".join(without[:4]) + (", ..." if without[4:] else "")
        remarks.append(f"The last evaluation of runs that have not recorded it: {named}.")
    return Evaluations(which, [values_of(group, which, chosen) for group in groups], remarks)


def curves_report(
    groups: Sequence[Group], look: Look, *, metric: Sequence[str] | None = None, axes: AxisOptions
) -> Report:
    """Metrics over the course of training; ``metric``: patterns of their names, None: the main ones."""
    known = recorded(groups)
    if not known:
        raise UserError("None of the runs has recorded a metric yet: there is nothing to draw.")
    # What was measured once has no curve; it is drawn only where there is nothing else.
    with_curves = keys_with_curves(groups, known) or known
    keys = choose(metric, known) if metric else main_metrics(groups, with_curves, limit=3)
    if not metric and "train/loss" in with_curves and "train/loss" not in keys:
        keys = ["train/loss", *keys]
    draw, notes = curves_of(groups, keys, look, axes, title="Learning curves")
    return Report({"metrics": keys, "groups": described(groups)}, warnings=notes, figures={"curves": draw})


def dims_report(
    groups: Sequence[Group],
    which: Which,
    by: str | None,
    look: Look,
    *,
    metric: Sequence[str] | None = None,
    log_y: bool = False,
) -> Report:
    """Metrics over the nested dimensions, or over ranks."""
    every = families(tabulated(groups))
    if not every:
        raise UserError(
            "None of the runs has a metric at several dimensions (named like test/top1@64): draw it with `plot curves`."
        )
    if metric:
        wanted = [pattern.partition("@")[0] for pattern in metric]
        bases = {base: every[base] for base in choose(wanted, list(every))}
    else:
        evaluated = {base: numbers for base, numbers in every.items() if not base.startswith("train/")}
        bases = dict(list((evaluated or every).items())[:6])
    found = evaluations(groups, which, by)
    panels = dimension_panels(found.values, bases)
    captions = [group.caption for group in groups]
    keys = [f"{base}@{n}" for base, numbers in bases.items() for n in numbers]
    result = {
        "groups": described(groups),
        "values": [{key: own[key].mean for key in keys if key in own} for own in found.values],
    }

    def draw() -> Figure:
        return dimensions.draw_dims(captions, panels, look, log_y=log_y, title="Over the dimensions")

    return Report(result, remarks=found.remarks, figures={"dims": draw})


def compare_report(
    groups: Sequence[Group],
    which: Which,
    by: str | None,
    look: Look,
    *,
    metric: Sequence[str] | None = None,
    axes: AxisOptions,
    only: Sequence[Shown] | None = None,
) -> Report:
    """All there is to compare between runs: curves, metrics over dimensions, bars, and a table."""
    every = [key for key in tabulated(groups) if not key.startswith("run/")]
    known = recorded(groups) or every
    if not known:
        raise UserError("None of the runs has recorded a metric yet: there is nothing to compare.")
    shown = choose(metric, every) if metric else main_metrics(groups, known, limit=4)
    found = evaluations(groups, which, by)
    nests = families(shown if metric else [key for key in every if not key.startswith("train/")])
    wanted = set(only or ("loss", "metrics", "dims", "grid", "bars"))
    figures: dict[str, Draw] = {}
    notes: list[str] = []

    def add(name: Shown, keys: Sequence[str], title: str, **settings: Any) -> None:
        if name in wanted:
            figures[f"compare-{name}"], more = curves_of(groups, keys, look, axes, title=title, **settings)
            notes.extend(more)

    if keys_with_curves(groups, ["train/loss"]):
        # Losses of different methods have nothing but their name in common.
        add("loss", ["train/loss"], "Training loss", apart=True)
    if over_time := keys_with_curves(groups, shown):
        add("metrics", over_time, "Metrics")
    bases = dict(list(nests.items())[:6])
    captions = [group.caption for group in groups]
    if "dims" in wanted and bases:
        panels = dimension_panels(found.values, bases)
        figures["compare-dims"] = lambda: dimensions.draw_dims(captions, panels, look, title="Over the dimensions")
    if len(grid := _grid(groups, known, shown, nests)) > 1:
        columns = 2 if len(grid) in (2, 4) else 3
        add("grid", grid[:24], "Learning curves", columns=columns, split=True)
    if "bars" in wanted and shown:
        heights, title = bar_panels(found.values, shown), f"{which.capitalize()} values"
        figures["compare-bars"] = lambda: bars.draw_bars(captions, heights, look, title=title)
    if not figures:
        raise UserError(f"--only {','.join(only or ())}: the runs have no data for that.")
    table = make_table(groups, {str(which): found.values}, shown)
    return Report(
        {"metrics": shown, "groups": described(groups), "table": records(table)},
        [replace(table, title=f"{which.capitalize()} metrics")],
        remarks=found.remarks,
        warnings=list(dict.fromkeys([*notes, *table.notes])),
        figures=figures,
    )


def _grid(
    groups: Sequence[Group], known: Sequence[str], shown: Sequence[str], nests: Mapping[str, list[int]]
) -> list[str]:
    """Every learning curve there is: of the main metric at each dimension, else of all metrics."""
    main = next((base for base in nests if base in shown), next(iter(nests), None))
    if main is not None:
        return keys_with_curves(groups, [f"{main}@{n}" for n in nests[main]])
    terms = [key for key in known if key.startswith("train/") and nested(key) is None]
    return keys_with_curves(groups, [*terms, *(key for key in known if not key.startswith("train/"))])


def table_report(
    groups: Sequence[Group],
    which: Literal["final", "best", "both"] = "final",
    by: str | None = None,
    *,
    metric: Sequence[str] | None = None,
    against_paper: bool = False,
    digits: int | None = None,
    text: Literal["latex", "markdown", "csv"] | None = None,
    caption: str | None = None,
) -> Report:
    """Metrics as a table: for the terminal or, with ``text``, as the report's only file."""
    known = tabulated(groups)
    paper = [key for group in groups for key in group.paper.get("metrics", {})]
    if not known:
        raise UserError("None of the runs has recorded a metric yet: there is nothing to tabulate.")
    warnings = []
    if against_paper and not paper:
        # No refusal: the runs of a folder are rarely all chosen, and the table is right without that column.
        warnings.append("None of the runs has published figures: they come with a recipe that has [paper.metrics].")
    keys = choose(metric, [*known, *paper]) if metric else main_metrics(groups, known, limit=8)
    if against_paper and not metric:
        keys = list(dict.fromkeys([*paper, *keys]))[:12]
    choices: list[Which] = ["final", "best"] if which == "both" else [which]
    found = [evaluations(groups, choice, by) for choice in choices]
    values: dict[str, Sequence[Mapping[str, Value]]] = {one.which: one.values for one in found}
    table = make_table(groups, values, keys, against_paper=against_paper, digits=digits)
    result = {"metrics": keys, "rows": records(table), "sources": list(table.sources), "groups": described(groups)}
    remarks = [remark for one in found for remark in one.remarks]
    if text is not None:
        written = {
            "latex": lambda: to_latex(table, caption=caption),
            "markdown": lambda: to_markdown(table),
            "csv": lambda: to_csv(table),
        }[text]()
        # The other formats hold them.
        warnings += table.notes if text == "csv" else ()
        return Report(result, remarks=remarks, warnings=warnings, files={"table": written})
    remarks += [f"Published: {source}" for source in table.sources]
    return Report(result, [table], remarks=remarks, warnings=[*warnings, *table.notes])


def costs_report(tables: Sequence[tuple[str, CostTable]], accuracy: str, look: Look) -> Report:
    """Accuracy against cost, of results by their names."""
    cost = tables[0][1].cost
    series = cost_series(tables, accuracy)

    def draw() -> Figure:
        return costs.draw_costs(
            series, look, xlabel=_COSTS.get(cost, cost.replace("_", " ")), ylabel=labelled(accuracy),
            wide=look.width is None and len(tables) > 1, title="Accuracy against cost",
        )  # fmt: skip

    result = {"metric": accuracy, "cost": cost, "files": [str(table.path) for _, table in tables]}
    return Report(result, figures={"retrieval": draw})


def spectrum_report(found: Mapping[str, Sequence[float]], look: Look, *, log_x: bool = False) -> Report:
    """Logarithms of singular values, by names."""

    def draw() -> Figure:
        return spectra.draw_spectra(found, look, log_x=log_x, title="Singular spectra")

    return Report({"spectra": found}, figures={"spectrum": draw})


def palette_report(palettes: Mapping[str, maps.Array], look: Look, *, points: int = 4000) -> Report:
    """Colours (N, 3) in [0, 1], by names."""
    if len(palettes) > 12:
        raise UserError(f"{len(palettes)} palettes do not fit one figure: give at most 12.")
    result = {name: {"colours": len(c), "mean": c.mean(axis=0).tolist()} for name, c in palettes.items()}

    def draw() -> Figure:
        return clouds.draw_palettes(palettes, look, points=points, title="Palettes")

    return Report({"palettes": result}, figures={"palette": draw})


def transport_report(transports: Sequence[maps.Transport], look: Look, *, arrows: bool = True) -> Report:
    """A figure of each transport."""
    figures: dict[str, Draw] = {}
    notes = []
    for number, transport in enumerate(transports, start=1):
        view = maps.view_of(transport)
        stem = "transport" if len(transports) == 1 else f"transport-{number}"
        figures[stem] = lambda view=view, name=transport.name: maps.draw_view(  # type: ignore[misc]
            view, look, arrows=arrows, title=name
        )
        notes += [f"{transport.name}: {remark}" for remark in view.remarks]
    result = {"maps": [transport.name for transport in transports], "notes": notes}
    return Report(result, warnings=notes, figures=figures)


def described(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """The groups for ``--json``."""
    return [
        {
            "label": group.label,
            "settings": dict(group.settings),
            "runs": [
                {"path": str(run.path), "seed": run.seed, "state": run.state, "problems": list(run.problems)}
                for run in group.runs
            ],
        }
        for group in groups
    ]
