"""The metrics of a run as series over its steps or epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from wasskit.training.metrics_csv import MetricRow


def over_steps(rows: Sequence[MetricRow]) -> dict[str, dict[int, float]]:
    """Each metric, named ``split/metric``, as finite values over the steps. Later rows replace earlier ones."""
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        values = found.setdefault(f"{row.split}/{row.metric}", {})
        values.pop(row.step, None)
        if math.isfinite(row.value):
            values[row.step] = row.value
    return {key: dict(sorted(values.items())) for key, values in found.items()}


def over_epochs(rows: Sequence[MetricRow]) -> dict[str, dict[float, float]]:
    """Each metric, named ``split/metric``, as finite values over the epochs, of which steps are fractions."""
    per_epoch = steps_per_epoch(rows) or 1.0
    return {
        key: {step / per_epoch: value for step, value in values.items()} for key, values in over_steps(rows).items()
    }


def steps_per_epoch(rows: Sequence[MetricRow]) -> float | None:
    """From the evaluations, which happen at whole epochs; None where there is none."""
    ratios = [row.step / row.epoch for row in rows if row.split != "train" and row.epoch > 0]
    return ratios[-1] if ratios else None


def final_values(
    series: Mapping[str, Mapping[int, float]], measured: Mapping[str, float] | None = None
) -> dict[str, float]:
    """The last value of each metric, and what was ``measured`` after the training of those that have none.

    The training's own comes first: all its metrics are then of one protocol and one step, whatever was measured
    since with other options, or before the training went on.
    """
    return {**(measured or {}), **{key: values[max(values)] for key, values in series.items() if values}}


def evaluation_values(evaluation: Mapping[str, Any] | None, options: Any) -> dict[str, float]:
    """The metrics of a run's ``evaluation.json``: named ``split/metric`` already, or under the name of a data set.

    What was measured on the test images of the run's own data set, by its ``options``, is ``test/...``, as during
    training.
    """
    found: dict[str, float] = {}
    own = options.get("dataset") if isinstance(options, Mapping) else None
    for name, values in (evaluation or {}).items():
        for key, value in values.items() if isinstance(values, Mapping) else ():
            if is_finite_number(value):
                found[str(key) if "/" in str(key) else f"{'test' if name == own else name}/{key}"] = float(value)
    return found


def is_finite_number(value: Any) -> bool:
    """Whether a value from a file is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
