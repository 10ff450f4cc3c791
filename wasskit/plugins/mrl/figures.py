"""Figures of ``wasskit mrl``: metrics over the dimensions, learning curves, accuracy against cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wasskit.pictures.style import figure, label_points, legend_above, save_figure, series_style
from wasskit.plugins.mrl.metrics import CLASSIFICATION
from wasskit.text import figure_text
from wasskit.training.run import Metric, RunDirectory


def draw_training(run: RunDirectory) -> list[Path]:
    """The figures of a finished training, from its ``metrics.csv``."""
    rows = run.metrics()
    drawn = [draw_curves(run.figures / "learning_curves.png", rows)]
    final = final_metrics(rows)
    dims = dims_of(final)
    if len(dims) > 1:
        series = {
            name: [final[f"{key}@{d}"] for d in dims]
            for key, name in CLASSIFICATION.items()
            if f"{key}@{dims[0]}" in final
        }
        drawn.insert(0, draw_dimensions(run.figures / "dimensions.png", dims, series))
    return drawn


def final_metrics(rows: Sequence[Metric], split: str = "test") -> dict[str, float]:
    """The last value of each metric of a split."""
    return {row.metric: row.value for row in rows if row.split == split}


def dims_of(metrics: Mapping[str, float], name: str = "top1") -> list[int]:
    """The dimensions at which a metric was measured."""
    return sorted(int(key.partition("@")[2]) for key in metrics if key.startswith(f"{name}@"))


def draw_dimensions(
    path: Path,
    dims: Sequence[int],
    series: Mapping[str, Sequence[float]],
    *,
    deviations: Mapping[str, Sequence[float]] | None = None,
    label: str = "test metric (%)",
    title: str | None = None,
) -> Path:
    """Metrics over the dimensions, on a log2 axis; with deviations as bars where given, without values that
    are NaN.
    """
    fig, ax = figure(width=4.5)
    for number, (name, values) in enumerate(series.items()):
        style: dict[str, Any] = series_style(number)
        shown = figure_text(name)
        measured = [i for i, value in enumerate(values) if not math.isnan(value)]
        x, y = [dims[i] for i in measured], [values[i] for i in measured]
        if deviations is not None and any(deviations[name]):
            ax.errorbar(x, y, yerr=[deviations[name][i] for i in measured], label=shown, capsize=2, **style)
        else:
            ax.plot(x, y, label=shown, **style)
    log2_axis(ax, dims)
    ax.set_xlabel("dimension")
    ax.set_ylabel(figure_text(label))
    if title:
        ax.set_title(figure_text(title))
    ax.legend()
    return save_figure(fig, path)


def log2_axis(ax: Any, dims: Sequence[int]) -> None:
    """Base 2; where ticks at all dimensions would run into each other, only at every other one."""
    from matplotlib.ticker import NullLocator

    ax.set_xscale("log", base=2)
    shown = dims if len(dims) <= 10 else dims[::2]
    ax.set_xticks(list(shown), [str(d) for d in shown])
    ax.xaxis.set_minor_locator(NullLocator())


def draw_curves(path: Path, rows: Sequence[Metric]) -> Path:
    """Left the terms of the loss over the epochs, right the top-1 accuracy at each dimension."""
    fig, axes = figure(1, 2, width="double")
    losses, accuracies = axes.flat
    steps_per_epoch = _steps_per_epoch(rows)
    names = ("ce", "wasserstein")
    labels = {"ce": "cross entropies (mean)", "wasserstein": "Sinkhorn divergences (sum)"}
    for name in names:
        points = [
            (row.step / steps_per_epoch, row.value)
            for row in rows
            if row.split == "train" and row.metric == name and math.isfinite(row.value)
        ]
        if points:
            losses.plot(*zip(*points, strict=True), label=labels[name], marker="")
    losses.set_xlabel("epoch")
    losses.set_ylabel("training loss")
    losses.set_ylim(bottom=0)
    losses.legend()

    dims = dims_of(final_metrics(rows))
    shown = dims if len(dims) <= 8 else dims[:7] + dims[-1:]
    for d in shown:
        points = [(row.epoch, row.value) for row in rows if row.split == "test" and row.metric == f"top1@{d}"]
        accuracies.plot(
            *zip(*points, strict=True), label=str(d), **({"marker": ""} if len(points) > 15 else {})
        )
    accuracies.set_xlabel("epoch")
    accuracies.set_ylabel("test top-1 (%)")
    accuracies.legend(title="dimension", ncols=2)
    return save_figure(fig, path)


def draw_costs(
    path: Path,
    points: Mapping[str, Sequence[tuple[float, float, str]]],
    *,
    cost: str,
    label: str,
    title: str | None = None,
) -> Path:
    """Accuracy against cost on a logarithmic axis; each point is (cost, accuracy, text beside it)."""
    fig, ax = figure(width=5.0)
    labels: list[tuple[float, float, str, Any]] = []
    for number, (name, series) in enumerate(points.items()):
        style = series_style(number)
        ax.plot([x for x, _, _ in series], [y for _, y, _ in series], label=figure_text(name), **style)
        labels += [(x, y, text, style["color"]) for x, y, text in series if text]
    ax.set_xscale("log")
    ax.margins(y=0.12)  # room for the texts beside the outermost points
    ax.set_xlabel(cost)
    ax.set_ylabel(figure_text(label))
    if title:
        fig.suptitle(figure_text(title), fontsize=9)
    legend_above(ax, columns=len(points))
    label_points(fig, ax, labels)
    return save_figure(fig, path)


def _steps_per_epoch(rows: Sequence[Metric]) -> float:
    last = max((row for row in rows), key=lambda row: row.step, default=None)
    return last.step / last.epoch if last is not None and last.epoch else 1.0
