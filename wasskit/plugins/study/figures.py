"""The figures of the studies, in the paper's arrangement and the toolkit's style."""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wasskit.pictures.style import COLOURS, figure, series_style
from wasskit.plugins.study.seed_metrics import SeedMetrics

if typing.TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

W2_LABEL = r"$-\mathcal{W}_2$"
LU_LABEL = r"$-\mathcal{L}_\mathcal{U}$"
#: Share of a panel's height from which the bias of finite samples is drawn.
_LARGE_GAP = 0.005


def metric_panels(
    series: Mapping[str, Sequence[tuple[float, SeedMetrics]]],
    n: int,
    xlabel: str,
    *,
    log2: bool = False,
    curves: Mapping[str, Sequence[tuple[float, float, float]]] | None = None,
) -> Figure:
    """-L_U and -W2 side by side: markers are samples, lines the law itself, dots what ``n`` points should show.

    ``curves``: the exact values at more places, as (x, -L_U, -W2); else lines join those of the cases.
    """
    fig, axes = figure(1, 2, width="double", ratio=0.82)
    left, right = axes[0]
    everything = [o for points in series.values() for _, o in points]
    shown = [value for o in everything for value in (o.neg_w2, o.neg_w2_exact)]
    gaps = [abs(o.neg_w2_expected - o.neg_w2_exact) for o in everything]
    dotted = max(gaps) > _LARGE_GAP * (max(shown) - min(shown))
    for number, (label, points) in enumerate(series.items()):
        at_cases = [(place, o.neg_lu_exact, o.neg_w2_exact) for place, o in points]
        exact = sorted((curves or {}).get(label, at_cases))
        for column, (ax, metric) in enumerate(((left, "neg_lu"), (right, "neg_w2")), start=1):
            _measured_and_exact(ax, number, label, points, metric, [e[0] for e in exact], [e[column] for e in exact])
        if dotted:
            x, expected = [x for x, _ in points], [o.neg_w2_expected for _, o in points]
            right.plot(x, expected, linestyle=":", linewidth=1, marker="none", color=series_style(number)["color"])
    for ax, label in ((left, LU_LABEL), (right, W2_LABEL)):
        ax.set_xlabel(xlabel)
        ax.set_ylabel(label)
        if log2:
            ax.set_xscale("log", base=2)
    _legend_above(fig, left, expected_at=n if dotted else None)
    return fig


def _measured_and_exact(
    ax: Axes,
    number: int,
    label: str,
    points: Sequence[tuple[float, SeedMetrics]],
    metric: str,
    exact_x: Sequence[float],
    exact: Sequence[float],
) -> None:
    style = series_style(number)
    ax.plot(exact_x, exact, color=style["color"], linestyle="-", linewidth=1, marker="none")
    ax.errorbar(
        [x for x, _ in points], [getattr(o, metric) for _, o in points],
        yerr=[getattr(o, f"{metric}_se") or 0.0 for _, o in points], color=style["color"], marker=style["marker"],
        markersize=3.8, linestyle="none", elinewidth=1, label=label,
    )  # fmt: skip


def _legend_above(fig: Figure, ax: Axes, *, expected_at: int | None = None, series: bool = True) -> None:
    """One legend for all panels, where it covers nothing: the series, then what markers and lines are.

    ``expected_at``: points of the samples whose expected values are drawn as dots.
    """
    from matplotlib.lines import Line2D

    grey = "0.35"
    entries: list[Any] = []
    if series:
        entries += [container[0] for container in ax.containers]
    labels = [str(container.get_label()) for container in ax.containers] if series else []
    entries.append(Line2D([], [], color=grey, linewidth=1))
    labels.append("exact")
    if expected_at is not None:
        entries.append(Line2D([], [], color=grey, linewidth=1, linestyle=":"))
        thousands = f"{expected_at:,}".replace(",", r"\,")
        labels.append(f"expected at $N = {thousands}$")
    if not series:
        entries.insert(0, Line2D([], [], color=grey, marker="o", markersize=3.8, linestyle="none"))
        labels.insert(0, "samples")
    fig.legend(
        entries, labels, loc="outside upper center", ncols=len(entries), frameon=False, fontsize=8,
        handlelength=1.6, columnspacing=1.4,
    )  # fmt: skip


def density_panels(panels: Mapping[int, Mapping[str, Array]]) -> Figure:
    """A coordinate of the sphere against N(0, 1/m): histogram, exact density, Gaussian density, one panel per m."""
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    fig, axes = figure(rows, columns, width="double", ratio=0.85)
    grid = np.atleast_1d(axes).reshape(rows, columns)
    for ax, (m, data) in zip(grid.flat, panels.items(), strict=False):
        ax.stairs(data["histogram"], data["edges"], fill=True, color="0.82", label="sphere, sampled", zorder=1)
        ax.plot(data["y"], data["sphere"], color=COLOURS["blue"], linestyle="-", marker="none", label="sphere, exact")
        ax.plot(
            data["y"], data["gauss"], color=COLOURS["vermilion"], linestyle="--", marker="none",
            label=r"$\mathcal{N}(0, 1/m)$",
        )  # fmt: skip
        ax.set_title(f"$m = {m}$")
        ax.set_xlim(-1, 1)
        ax.set_ylim(0, 1.12 * max(data["gauss"].max(), np.median(data["sphere"]), data["histogram"].max()))
        ax.grid(False)
    for ax in list(grid.flat)[len(panels) :]:
        ax.set_visible(False)
    for ax in grid[-1]:
        ax.set_xlabel("coordinate")
    for ax in grid[:, 0]:
        ax.set_ylabel("density")
    handles, labels = grid.flat[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    return fig


def distance_panel(
    dims: Sequence[int], distances: Mapping[str, tuple[Sequence[float], Sequence[float] | None]]
) -> Figure:
    """Distances between sphere and Gaussian over m: lines exact, hollow markers from the histograms."""
    fig, ax = figure(1, 1, width="single", ratio=0.8)
    for number, (label, (exact, sampled)) in enumerate(distances.items()):
        style = series_style(number)
        ax.plot(dims[: len(exact)], exact, label=label, **style, markersize=3.8, linewidth=1.3)
        if sampled is not None:
            ax.plot(
                dims[: len(sampled)], sampled, color=style["color"], linestyle="none", marker=style["marker"],
                markersize=6.5, markerfacecolor="none", label=f"{label}, sampled bins",
            )  # fmt: skip
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xlabel("dimension $m$")
    ax.set_ylabel("distance to the Gaussian")
    fig.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=7.5, handlelength=1.8, columnspacing=1.2)
    return fig


def joint_density_panels(joint: Mapping[int, tuple[Array, Array]]) -> Figure:
    """Joint histograms of two coordinates, sphere above, Gaussian below; one column and colour scale per m."""
    fig, axes = figure(2, len(joint), width="double", ratio=0.95, sharex=True, sharey=True)
    grid = np.atleast_1d(axes).reshape(2, len(joint))
    for column, (m, pair) in enumerate(joint.items()):
        # The rim of m = 2 and the border bins would take the whole scale.
        top = float(np.quantile(pair[0][pair[0] > 0], 0.995)) if m == 2 else max(p.max() for p in pair)
        for row, (density, label) in enumerate(zip(pair, ("sphere", "Gaussian"), strict=True)):
            ax = grid[row, column]
            image = ax.imshow(
                density.T, origin="lower", extent=(-1, 1, -1, 1), vmin=0, vmax=top, interpolation="nearest",
                cmap="viridis",
            )  # fmt: skip
            ax.grid(False)
            ax.set_title(f"{label}, $m = {m}$")
            ax.set_xticks([-1, 0, 1])
            ax.set_yticks([-1, 0, 1])
        bar = fig.colorbar(image, ax=list(grid[:, column]), location="bottom", shrink=0.85, pad=0.02)
        bar.set_label("density", fontsize=8)
        bar.ax.tick_params(labelsize=7)
    for ax in grid[:, 0]:
        ax.set_ylabel("second coordinate")
    for ax in grid[-1]:
        ax.set_xlabel("first coordinate")
    return fig


def circle_panels(clouds: Mapping[float, Array]) -> Figure:
    """Normalised points on the circle, one panel per shift of the mean."""
    columns = min(4, len(clouds))
    rows = -(-len(clouds) // columns)
    fig, axes = figure(rows, columns, width="double", ratio=1.05, sharex=True, sharey=True)
    grid = np.atleast_1d(axes).reshape(rows, columns)
    angle = np.linspace(0, 2 * np.pi, 200)
    for ax, (shift, z) in zip(grid.flat, clouds.items(), strict=False):
        ax.plot(np.cos(angle), np.sin(angle), color="0.8", linestyle="-", linewidth=0.8, marker="none", zorder=1)
        points = ax.scatter(z[:, 0], z[:, 1], s=7, color=COLOURS["blue"], alpha=0.45, linewidths=0, zorder=2)
        (mean,) = ax.plot(
            *z.mean(axis=0), marker="X", color=COLOURS["vermilion"], markersize=6, linestyle="none", zorder=3
        )
        ax.set_title(f"$k = {shift:g}$")
        ax.set_aspect("equal")
        ax.set_xticks([-1, 0, 1])
        ax.set_yticks([-1, 0, 1])
    for ax in list(grid.flat)[len(clouds) :]:
        ax.set_visible(False)
    fig.supxlabel("first coordinate", fontsize=9)
    fig.supylabel("second coordinate", fontsize=9)
    fig.legend(
        [points, mean], ["normalised points", "their mean"], loc="outside upper center", ncols=2, frameon=False,
        fontsize=8,
    )  # fmt: skip
    return fig


def shift_panels(points: Sequence[tuple[float, SeedMetrics]], curve: Sequence[tuple[float, float, float]]) -> Figure:
    """-L_U and -W2 over the shift of the mean; ``curve``: exact values (k, -L_U, -W2)."""
    fig, axes = figure(1, 2, width="double", ratio=0.75)
    panels = ((axes[0, 0], "neg_lu", LU_LABEL), (axes[0, 1], "neg_w2", W2_LABEL))
    for column, (ax, metric, label) in enumerate(panels, start=1):
        _measured_and_exact(ax, 0, "samples", points, metric, [c[0] for c in curve], [c[column] for c in curve])
        # Linear up to the first doubling, with a slope that is continuous there: linscale / (1 - 1/2) = 1 / ln 2.
        ax.set_xscale("symlog", base=2, linthresh=0.5, linscale=0.5 / math.log(2))
        ax.set_xticks([k for k, _ in points], [f"{k:g}" for k, _ in points])
        ax.minorticks_off()
        ax.set_xlabel("shift $k$ of both coordinates")
        ax.set_ylabel(label)
    _legend_above(fig, axes[0, 0], series=False)
    return fig
