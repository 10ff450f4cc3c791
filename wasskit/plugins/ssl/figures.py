"""Figures of ``wasskit ssl``: learning curves, representations compared, singular spectra."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wasskit.pictures.style import COLOURS, figure, legend_above, save_figure, series_style
from wasskit.plugins.ssl.metrics import METRICS
from wasskit.text import figure_text
from wasskit.training.run import Metric, RunDirectory

_TERMS = {"loss": "total", "method": "method", "w2": "$W_2$ of the batch", "lu": "$L_U$ of the batch"}


def draw_training(run: RunDirectory) -> Path:
    """Losses, k-NN accuracy, and the three uniformity measures over the epochs, from ``metrics.csv``."""
    rows = run.metrics()
    fig, axes = figure(1, 3, width="double", ratio=0.95)
    losses, accuracy, measures = axes.flat
    terms = [name for name in _TERMS if any(row.split == "train" and row.metric == name for row in rows)]
    for name in terms if len(terms) > 1 else ["loss"]:
        _curve(losses, rows, "train", name, _TERMS[name], marker="")
    losses.set_ylabel("training loss")
    if len(terms) > 1:
        legend_above(losses)
    knn = sorted({row.metric for row in rows if row.split == "test" and row.metric.startswith("knn")})
    for name in knn:
        _curve(accuracy, rows, "test", name, METRICS[name].heading)
    accuracy.set_ylabel("test accuracy (%)")
    if knn:
        legend_above(accuracy)
    for name, label in (("w2", "$W_2$"), ("lu", "$L_U$"), ("alignment", "alignment")):
        _curve(measures, rows, "test", name, label)
    measures.set_ylabel("test projections")
    legend_above(measures)
    for ax in axes.flat:
        ax.set_xlabel("epoch")
        ax.xaxis.get_major_locator().set_params(integer=True)
    return save_figure(fig, run.figures / "learning_curves.png")


def _curve(ax: Any, rows: Sequence[Metric], split: str, metric: str, label: str, **style: Any) -> None:
    last = max(rows, key=lambda row: row.step)
    per_epoch = last.step / last.epoch if last.epoch else 1.0
    points = [
        (row.step / per_epoch, row.value)
        for row in rows
        if row.split == split and row.metric == metric and math.isfinite(row.value)
    ]
    if points:
        ax.plot(*zip(*points, strict=True), label=label, **style)


def draw_comparison(path: Path, found: Mapping[str, Mapping[str, float]], title: str) -> Path:
    """k-NN accuracies of several representations, on whole and on cropped test images, as bars."""
    fig, ax = figure(width=4.2, ratio=0.62)
    groups = list(found)
    kinds = {"whole images": COLOURS["sky"], "random crops": COLOURS["vermilion"]}
    for number, (kind, colour) in enumerate(kinds.items()):
        heights = [list(found[group].values())[number] for group in groups]
        places = [place + (number - 0.5) * 0.38 for place in range(len(groups))]
        bars = ax.bar(places, heights, 0.36, label=kind, color=colour, hatch="" if number == 0 else "//")
        ax.bar_label(bars, fmt="%.1f", fontsize=7, padding=1)
    ax.set_xticks(range(len(groups)), groups)
    ax.set_ylim(0, 108)
    ax.set_yticks(range(0, 101, 20))
    ax.grid(axis="x", visible=False)
    ax.set_ylabel(f"{METRICS[next(iter(found[groups[0]]))].heading} (%)")
    ax.set_xlabel(figure_text(title))
    legend_above(ax, columns=2)
    return save_figure(fig, path)


def draw_spectrum(path: Path, spectra: Mapping[str, Sequence[float]], width: int) -> Path:
    """Logarithms of the singular values of the projections' covariance: flat is uniform, a cliff is
    collapse."""
    fig, ax = figure(width=4.2, ratio=0.62)
    for number, (name, values) in enumerate(spectra.items()):
        style = {**series_style(number), "marker": "" if len(values) > 24 else series_style(number)["marker"]}
        ax.plot(range(1, len(values) + 1), values, label=f"{name} ({len(values)} of {width})", **style)
    ax.axhline(-math.log(width), color="0.4", linewidth=0.8, linestyle=":", label="uniform on the sphere")
    ax.set_xlabel("rank of the singular value")
    ax.set_ylabel("log singular value")
    legend_above(ax, columns=2)
    return save_figure(fig, path)
