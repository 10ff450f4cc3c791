"""Which label-free measures predict the accuracy of trained runs: reading the runs, and the report."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from wasskit import console
from wasskit.errors import UserError
from wasskit.evaluation.intervals import holm
from wasskit.evaluation.rank_correlation import Correlation, RankCorrelation, rank_correlation
from wasskit.pictures.look import Look
from wasskit.pictures.scatter import Scatter, draw_scatter
from wasskit.plugins import declared_metrics
from wasskit.plugins.study.metrics import METRICS
from wasskit.report import Report, Table
from wasskit.system.documents import read_json
from wasskit.system.files import replace_text
from wasskit.training.run import RunDirectory
from wasskit.training.series import evaluation_values, final_values, is_finite_number, over_steps

LEAST = 3
"""Runs that a rank correlation needs."""
RECORD = "label_free.json"
"""Where the measures of a run are kept, beside the checkpoint that they are of."""
_PANELS = 9
_ALONG = ("alignment",)
"""Label-free measures that a run may have recorded itself."""


@dataclass(frozen=True)
class Probed:
    """A run and the accuracy that is to be predicted, in percent; what it recorded, by ``split/metric``."""

    run: RunDirectory
    accuracy: float
    recorded: Mapping[str, float]

    @property
    def name(self) -> str:
        return str(self.run.path)


def probed_runs(paths: Sequence[Path], accuracy: str) -> list[Probed]:
    """The runs at ``paths``, a folder that is no run standing for those right below it, with their accuracy.

    Raises:
        UserError: a path holds no run, a run lacks the accuracy, or they are fewer than three.
    """
    runs = {run.path.resolve(): run for path in paths for run in _runs_at(path)}
    if len(runs) < LEAST:
        raise UserError(
            f"A rank correlation needs at least {LEAST} runs, {'this is' if len(runs) == 1 else 'these are'} "
            f"{len(runs)}: name more run directories."
        )
    found, without, shared = [], [], None
    for run in runs.values():
        values = _recorded(run)
        tested = {key.removeprefix("test/") for key in values if key.startswith("test/")}
        shared = tested if shared is None else shared & tested
        value = values.get(f"test/{accuracy}")
        if value is None:
            without.append(run)
        else:
            found.append(Probed(run, value, values))
    if without:
        others = sorted(name for name in shared or () if declared_metrics()[name].unit == "%" and "@" not in name)
        advice = f"; or name by --accuracy what all have ({', '.join(others[:6])})" if others else ""
        run = without[0]
        probed = accuracy.startswith("linear_") and run.command.startswith("ssl ")
        probe = f": call {console.command_line('ssl linear', run.path)}" if probed else ""
        raise UserError(
            f"{len(without)} of {len(runs)} runs have no {accuracy} of their test images, the first is {run.path}"
            f"{probe}{advice}."
        )
    return found


def _runs_at(path: Path) -> list[RunDirectory]:
    if not path.is_dir() or (path / "config.toml").is_file():
        return [RunDirectory.open(path)]
    found = [RunDirectory.open(below.parent) for below in sorted(path.glob("*/config.toml"))]
    if not found:
        raise UserError(f"{path} holds no run: neither it nor a folder right below it has a config.toml.")
    return found


def _recorded(run: RunDirectory) -> dict[str, float]:
    """The last value of each metric of a run, and what else was measured of it after its training."""
    path = run.path / "evaluation.json"
    evaluation = read_json(path) if path.is_file() else None
    measured = evaluation_values(evaluation if isinstance(evaluation, Mapping) else None, run.options)
    rows = run.metrics() if (run.path / "metrics.csv").is_file() else []
    return final_values(over_steps(rows), measured)


# --- Measures ---------------------------------------------------------------------------------------------------------


def measured_run(
    probed: Probed, embed: Callable[[Path], Any], *, seed: int, device: Any, recompute: bool
) -> dict[str, float]:
    """The label-free measures of a run's test images, as kept in its ``label_free.json`` or measured and kept there.

    Args:
        embed: gives the embeddings (N, m) of a run's test images.
        recompute: measure again, whatever is kept. What is kept of another checkpoint or seed never serves.
    """
    path = probed.run.path / RECORD
    state = {"checkpoint": _checkpoint(probed.run), "seed": seed}
    if not recompute and path.is_file():
        kept = read_json(path)
        values = kept.get("measures") if isinstance(kept, Mapping) else None
        if isinstance(values, Mapping) and kept.get("of") == state and all(map(is_finite_number, values.values())):
            return {str(name): float(value) for name, value in values.items()}
    from wasskit.plugins.study.label_free import measure_label_free
    from wasskit.plugins.study.verdict import check_embeddings, measure_embeddings

    features = embed(probed.run.path)
    check_embeddings(features, probed.name)
    whole = measure_embeddings(features, pairs=10_000_000, seed=seed, device=device)
    label_free = measure_label_free(features, compared=False, seed=seed, device=device).values
    names = ("w2", "lu", "mean_norm", "used_dims", "effective_rank")
    found = {**{name: getattr(whole, name) for name in names}, **label_free}
    found = {name: value for name, value in found.items() if math.isfinite(value)}
    replace_text(path, json.dumps({"of": state, "measures": found}, indent=2) + "\n")
    return found


def _checkpoint(run: RunDirectory) -> list[int]:
    """Size and time of the checkpoint that the measures are of."""
    last = run.checkpoints / "last.pt"
    return [last.stat().st_size, last.stat().st_mtime_ns] if last.is_file() else []


# --- Report -----------------------------------------------------------------------------------------------------------


def prediction_report(
    runs: Sequence[Probed], measures: Sequence[Mapping[str, float]], accuracy: str, *, seed: int = 0
) -> Report:
    """Rank correlations of each measure with the accuracy over runs.

    Args:
        measures: of each run; those that some run lacks are left out.
    """
    columns = _columns(runs, measures)
    target = [one.accuracy for one in runs]
    found = {name: rank_correlation(values, target, seed=seed) for name, values in columns.items()}
    known = {name: one for name, one in found.items() if one is not None}
    adjusted = dict(zip(known, holm([one.spearman.p for one in known.values()]), strict=True))
    order = sorted(found, key=lambda name: -abs(known[name].spearman.value) if name in known else 1)
    declared = declared_metrics()[accuracy]
    heading = declared.heading + (f" ({declared.unit})" if declared.unit else "")
    rows = [_row(name, found[name], adjusted.get(name)) for name in order]
    data_sets = sorted({str(one.run.options.get("dataset")) for one in runs})
    warnings = [] if len(data_sets) == 1 else [
        f"The runs are of {len(data_sets)} data sets ({', '.join(data_sets[:4])}): accuracies are not alike."
    ]  # fmt: skip
    if len(set(target)) == 1:
        warnings.append(f"All runs have the same {declared.heading}: nothing can be predicted of it.")
    table = ("run", accuracy, *columns)
    per_run = [(one.name, one.accuracy, *(columns[n][i] for n in columns)) for i, one in enumerate(runs)]
    return Report(
        result={
            "accuracy": accuracy, "runs": [dict(zip(table, row, strict=True)) for row in per_run],
            "correlations": {name: _as_mapping(found[name], adjusted.get(name)) for name in order},
        },
        tables=[
            Table(
                ("measure", "better", "Spearman", "95 %", "p", "p (Holm)", "Kendall", "95 %", "p"),
                [_shown(row) for row in rows], f"Rank correlation with {declared.heading} over {len(runs)} runs",
            )
        ],
        notes=[
            "p: two-sided, by permutations of the runs; Holm: over all measures of the table. Intervals suppose "
            "independent runs."
        ],
        warnings=warnings,
        files={
            "correlations.csv": Table(
                ("measure", "better", "spearman", "spearman_low", "spearman_high", "spearman_p", "spearman_p_holm",
                 "kendall", "kendall_low", "kendall_high", "kendall_p"), rows,
            ),
            "runs.csv": Table(table, per_run),
        },
        figures={"prediction": partial(_draw, columns, target, [n for n in order if n in known], known, heading)}
        if known else {},
        metrics=[
            (0, "runs", {f"{name}_{kind}": getattr(one, kind).value for name, one in known.items()
             for kind in ("spearman", "kendall")})
        ],
    )  # fmt: skip


def _columns(runs: Sequence[Probed], measures: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """The measures that all runs have."""
    whole = []
    for one, values in zip(runs, measures, strict=True):
        along = {name: one.recorded[f"test/{name}"] for name in _ALONG if f"test/{name}" in one.recorded}
        gap = {"alpha_req_gap": abs(values["alpha_req"] - 1)} if "alpha_req" in values else {}
        whole.append({**values, **gap, **along})
    return {name: [row[name] for row in whole] for name in whole[0] if all(name in row for row in whole)}


def _row(name: str, found: RankCorrelation | None, adjusted: float | None) -> tuple[Any, ...]:
    better = {"max": "larger", "min": "smaller"}.get(METRICS[name].order or "")
    rho = [None] * 4 if found is None else _four(found.spearman)
    tau = [None] * 4 if found is None else _four(found.kendall)
    return (name, better, *rho, adjusted, *tau)


def _four(x: Correlation) -> list[float | None]:
    return [x.value, x.low, x.high, x.p]


def _shown(row: tuple[Any, ...]) -> list[Any]:
    """A row of the printed table: intervals in one column, p with three digits."""
    name, better, rho, low, high, p, adjusted, tau, first, last, q = row

    def interval(a: Any, b: Any) -> str | None:
        return None if a is None else f"{a:+.2f} {b:+.2f}"

    ps = [None if x is None else f"{x:.3g}" for x in (p, adjusted, q)]
    return [METRICS[name].heading, better, rho, interval(low, high), ps[0], ps[1], tau, interval(first, last), ps[2]]


def _as_mapping(found: RankCorrelation | None, adjusted: float | None) -> dict[str, Any] | None:
    if found is None:
        return None
    kinds = {"spearman": found.spearman, "kendall": found.kendall}
    values = {kind: {"value": x.value, "low": x.low, "high": x.high, "p": x.p} for kind, x in kinds.items()}
    values["spearman"]["p_holm"] = adjusted
    return values


def _draw(
    columns: Mapping[str, Sequence[float]], target: Sequence[float], names: Sequence[str],
    found: Mapping[str, RankCorrelation], heading: str,
) -> Any:  # fmt: skip
    panels = [
        Scatter(columns[name], target, METRICS[name].heading, f"Spearman {found[name].spearman.value:+.2f}")
        for name in names[:_PANELS]
    ]
    return draw_scatter(panels, Look("paper", "double"), ylabel=heading)
