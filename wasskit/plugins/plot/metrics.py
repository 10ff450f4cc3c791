"""Metrics across groups of runs: which there are, which way is better, their mean and deviation over seeds.

Metrics are named ``split/metric`` as in ``summary.json``. ``top1@64`` is ``top1`` at the nested dimension 64;
``recall@4`` is a metric of rank: its number is not a dimension.
"""

from __future__ import annotations

import fnmatch
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from wasskit.errors import UserError
from wasskit.evaluation.metrics import Metric, Order
from wasskit.pictures.bars import Value
from wasskit.pictures.curves import Curve
from wasskit.plugins import declared_metrics
from wasskit.plugins.plot.groups import Group
from wasskit.plugins.plot.runs import Run
from wasskit.system.hints import did_you_mean

_NESTED = re.compile(r"^(?P<base>.+)@(?P<number>\d+)$")


def declared(key: str) -> Metric:
    """What the plugin that records a metric declares of it."""
    return declared_metrics()[key.rpartition("/")[2]]


def order_of(key: str) -> Order | None:
    """Whether larger (``max``) or smaller (``min``) values of a metric are better; None for an undeclared metric."""
    return declared(key).order


def nested(key: str) -> tuple[str, int] | None:
    """``test/top1@64`` as ``("test/top1", 64)``; None for a metric without a number."""
    match = _NESTED.match(key)
    return (match["base"], int(match["number"])) if match else None


def is_ranked(base: str) -> bool:
    """Whether the number after ``@`` counts retrieved items rather than dimensions."""
    return declared_metrics().counts_ranks(base.rpartition("/")[2])


def heading(key: str, *, split: bool = True) -> str:
    """A metric's name as a paper writes it: ``test top-1@64``, ``train loss``, ``test 10-NN top-1``, ``-W2``."""
    where = key.rpartition("/")[0]
    written = declared(key).heading
    return f"{where} {written}" if split and where and where != "run" else written


def unit(key: str) -> str:
    """`` (%)`` for a metric in percent."""
    found = declared(key).unit
    return f" ({found})" if found else ""


# --- Choice -----------------------------------------------------------------------------------------------------------


def recorded(groups: Iterable[Group]) -> list[str]:
    """All metrics that have a value in some run, in the order in which they were recorded."""
    keys: dict[str, None] = {}
    for group in groups:
        for run in group.runs:
            keys |= dict.fromkeys(key for key, values in run.series.items() if values)
    return list(keys)


def keys_with_curves(groups: Iterable[Group], keys: Iterable[str]) -> list[str]:
    """Of ``keys``, those measured more than once in some run, so that there is a curve to draw."""
    runs = [run for group in groups for run in group.runs]
    return [key for key in keys if any(len(run.series.get(key, ())) > 1 for run in runs)]


def tabulated(groups: Iterable[Group]) -> list[str]:
    """All metrics that have a final value, those of time included."""
    return list(dict.fromkeys(key for group in groups for run in group.runs for key in run.final()))


def choose(patterns: Sequence[str], known: Sequence[str]) -> list[str]:
    """The metrics that ``patterns`` name: ``split/name``, a name alone, or with ``*``.

    Raises:
        UserError: a pattern names none; the nearest are offered.
    """
    chosen: dict[str, None] = {}
    for pattern in patterns:
        matches = [
            key
            for key in known
            if key == pattern
            or fnmatch.fnmatchcase(key, pattern)
            or fnmatch.fnmatchcase(key.rpartition("/")[2], pattern)
        ]
        if not matches:
            names = [*known, *(key.rpartition("/")[2] for key in known)]
            advice = did_you_mean(pattern, names)
            listed = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
            raise UserError(f"--metric: no run has recorded {pattern!r}; there is {listed or 'nothing'}.{advice}")
        chosen |= dict.fromkeys(matches)
    return list(chosen)


def main_metrics(groups: Sequence[Group], known: Sequence[str], *, limit: int) -> list[str]:
    """What to show by default: the monitored metrics, the published ones, then the other evaluations."""
    runs = [run for group in groups for run in group.runs]
    evaluated = [key for key in known if not key.startswith(("train/", "run/"))]
    plain = [key for key in evaluated if (at := nested(key)) is None or is_ranked(at[0])]
    first = [run.monitor for run in runs if run.monitor] + [
        str(key) for run in runs for key in run.paper.get("metrics", {})
    ]
    ordered = dict.fromkeys(key for key in [*first, *plain] if key in known)
    rest = evaluated or [key for key in known if not key.startswith("run/")]
    return (list(ordered) or rest)[:limit]


def families(known: Iterable[str]) -> dict[str, list[int]]:
    """Metrics measured at several dimensions (or ranks): base name -> its numbers, ascending."""
    found: dict[str, set[int]] = {}
    for key in known:
        at = nested(key)
        if at is not None:
            found.setdefault(at[0], set()).add(at[1])
    return {base: sorted(numbers) for base, numbers in found.items() if len(numbers) > 1}


def monitored(groups: Sequence[Group], by: str | None) -> str:
    """The metric that decides which evaluation of a run is its best.

    Raises:
        UserError: none is known, or its name does not say which way is better.
    """
    known = recorded(groups)
    candidates = choose([by], known) if by is not None else main_metrics(groups, known, limit=1)
    if not candidates:
        raise UserError("No run has recorded a metric yet, so there is no best evaluation: use --which final.")
    if order_of(candidates[0]) is None:
        raise UserError(f"Whether {candidates[0]!r} should be large or small is not known: name another by --by.")
    return candidates[0]


# --- Values -----------------------------------------------------------------------------------------------------------


def values_of(group: Group, which: Literal["final", "best"], by: str | None) -> dict[str, Value]:
    """The metrics of a group, over its runs, at their final evaluation or at the best by ``by``."""
    entries: dict[str, list[float]] = {}
    for run in group.runs:
        for key, value in _values(run, which, by).items():
            entries.setdefault(key, []).append(value)
    return {key: _value(values) for key, values in entries.items()}


def _values(run: Run, which: Literal["final", "best"], by: str | None) -> dict[str, float]:
    order = order_of(by) if by is not None else None
    if which == "final" or by is None or order is None:
        return run.final()
    return run.best(by, order) or run.final()


def _value(values: Sequence[float]) -> Value:
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Value(statistics.fmean(values), deviation, len(values))


def curve(group: Group, key: str, *, epochs: bool, smooth: float = 0.0) -> Curve | None:
    """The curve of one metric; None if no run has recorded it."""
    runs = [run for run in group.runs if run.series.get(key)]
    if not runs:
        return None
    smoothed = [(run, _smooth(run.series[key], smooth)) for run in runs]
    common = sorted(set.intersection(*(set(values) for _, values in smoothed)))
    shared = [[values[step] for _, values in smoothed] for step in common]
    deviation = [statistics.stdev(values) for values in shared] if len(runs) > 1 else None
    tails = []
    for run, values in smoothed:
        steps = [step for step in values if not common or step >= common[-1]]
        if len(steps) > 1 or not common:
            tails.append(([_x(run, step, epochs) for step in steps], [values[step] for step in steps]))
    x = [_x(runs[0], step, epochs) for step in common]
    return Curve(x, [statistics.fmean(values) for values in shared], deviation, tails)


def counts_epochs(groups: Sequence[Group], x: Literal["auto", "epoch", "step"]) -> bool:
    """Whether the horizontal axis is in epochs: by the option, or where all runs are measured in epochs.

    Raises:
        UserError: epochs are asked for and a run does not know them.
    """
    runs = [run for group in groups for run in group.runs if run.rows]
    without = [run for run in runs if run.steps_per_epoch is None]
    if x == "epoch" and without:
        raise UserError(f"{without[0].path} does not tell how many steps an epoch has: use --x step.")
    return x == "epoch" or (x == "auto" and not without and all("epochs" in run.options for run in runs))


def _x(run: Run, step: int, epochs: bool) -> float:
    return step / run.steps_per_epoch if epochs and run.steps_per_epoch else float(step)


def _smooth(values: Mapping[int, float], weight: float) -> dict[int, float]:
    """Exponential moving average, freed of the bias of its start."""
    if weight == 0:
        return dict(values)
    smoothed, average, mass = {}, 0.0, 0.0
    for step, value in values.items():
        average = weight * average + (1 - weight) * value
        mass = weight * mass + (1 - weight)
        smoothed[step] = average / mass
    return smoothed
