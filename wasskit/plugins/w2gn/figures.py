"""Figures of the transport experiments."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wasskit.pictures.style import COLOURS, PALETTE, figure, legend_above, save_figure, series_style
from wasskit.text import figure_text

SOURCE, TARGET, MAPPED = COLOURS["blue"], COLOURS["vermilion"], COLOURS["green"]


def plane_maps(path: Path, x: Tensor, y: Tensor, forward: Tensor, inverse: Tensor) -> Path:
    """Both measures, both maps, and where a part of the points goes."""
    drawn, axes = figure(2, 3, width="double", ratio=1.0)
    panels = [
        (axes[0, 0], x, SOURCE, "source"),
        (axes[0, 1], forward, MAPPED, "forward map of the source"),
        (axes[0, 2], y, TARGET, "target"),
        (axes[1, 1], inverse, MAPPED, "inverse map of the target"),
    ]
    for ax, points, colour, title in panels:
        scatter(ax, points, colour)
        ax.set_title(title)
    arrows(axes[1, 0], x, forward)
    axes[1, 0].set_title("displacements, forward")
    arrows(axes[1, 2], y, inverse)
    axes[1, 2].set_title("displacements, inverse")
    limits([*axes[0], axes[1, 0], axes[1, 2]], torch.cat([x, y, forward]))
    limits([axes[1, 1]], torch.cat([x, inverse]))
    return save_figure(drawn, path)


def scatter(ax: Any, points: Tensor, colour: str, size: float | None = None) -> None:
    a = points.cpu().numpy()
    radius = size or min(6.0, max(0.6, 6000.0 / len(a)))
    ax.scatter(a[:, 0], a[:, 1], s=radius, c=colour, alpha=0.6, linewidths=0, rasterized=True)
    ax.set_aspect("equal")


def arrows(ax: Any, start: Tensor, end: Tensor, count: int = 120) -> None:
    a, b = start[:count].cpu().numpy(), end[:count].cpu().numpy()
    d = b - a
    ax.quiver(
        a[:, 0], a[:, 1], d[:, 0], d[:, 1], angles="xy", scale_units="xy", scale=1, width=0.004, color="0.35",
        alpha=0.8,
    )  # fmt: skip
    ax.scatter(a[:, 0], a[:, 1], s=5, c=SOURCE, linewidths=0)
    ax.scatter(b[:, 0], b[:, 1], s=5, c=TARGET, linewidths=0)
    ax.set_aspect("equal")


def limits(axes: Sequence[Any], points: Tensor) -> None:
    """The same square window on all axes, around all but the outermost points."""
    a = points.cpu().numpy()
    low, high = np.quantile(a, 0.001, axis=0), np.quantile(a, 0.999, axis=0)
    # A single point has no extent of its own.
    middle, half = (low + high) / 2, 0.55 * (float((high - low).max()) or 1.0)
    for ax in axes:
        ax.set_xlim(middle[0] - half, middle[0] + half)
        ax.set_ylim(middle[1] - half, middle[1] + half)


def curves(
    path: Path,
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    ylabel: str,
    xlabel: str = "step",
    log: bool = True,
    lines: Mapping[str, float] | None = None,
) -> Path | None:
    """Metrics over the steps; ``lines`` are levels to compare with. None where there is nothing to draw."""
    series = {name: [(s, v) for s, v in points if not log or v > 0] for name, points in series.items()}
    if not any(series.values()):
        return None
    drawn, ax = figure(width=4.6)
    for number, (name, points) in enumerate(series.items()):
        if points:
            steps, values = zip(*points, strict=True)
            ax.plot(steps, values, label=name, markersize=3, linewidth=1.3, **series_style(number))
    for number, (name, level) in enumerate((lines or {}).items()):
        ax.axhline(level, color="0.45", linewidth=1.0, linestyle=("--", ":", "-.")[number % 3], label=name)
    if log:
        ax.set_yscale("log")
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    legend_above(ax, columns=2)
    return save_figure(drawn, path)


def principal_planes(
    path: Path, clouds: Mapping[str, Tensor], labels: Mapping[str, Tensor] | None = None
) -> Path:
    """Clouds in the plane of the first two principal components of the last one, coloured by label where
    given.
    """
    reference = list(clouds.values())[-1].double()
    mean = reference.mean(0)
    _, _, axes_ = torch.linalg.svd(reference - mean, full_matrices=False)
    plane = axes_[:2].T
    drawn, axes = figure(1, len(clouds), width="double", ratio=1.0)
    flat = {name: ((points.double() - mean) @ plane) for name, points in clouds.items()}
    for number, (ax, (name, points)) in enumerate(zip(np.atleast_2d(axes).flat, flat.items(), strict=True)):
        a = points.cpu().numpy()
        if labels is None:
            ax.scatter(a[:, 0], a[:, 1], s=3, c=PALETTE[number], alpha=0.5, linewidths=0, rasterized=True)
        else:
            known = labels[name].cpu().numpy()
            for label in np.unique(known):
                chosen = a[known == label]
                ax.scatter(
                    chosen[:, 0], chosen[:, 1], s=4, alpha=0.6, linewidths=0, rasterized=True, label=str(label),
                    color=class_colour(int(label)), marker="o^sDvP*X<>"[int(label) % 10],
                )  # fmt: skip
        ax.set_title(figure_text(name))
        ax.set_xlabel("first component")
        ax.set_aspect("equal")
    first = np.atleast_2d(axes).flat[0]
    first.set_ylabel("second component")
    limits(list(np.atleast_2d(axes).flat), torch.cat(list(flat.values())))
    if labels is not None:
        handles, names = first.get_legend_handles_labels()
        legend = drawn.legend(
            handles, names, loc="outside lower center", ncols=10, fontsize=8, markerscale=3, frameon=False
        )
        for handle in legend.legend_handles:
            if handle is not None:
                handle.set_alpha(1)
    return save_figure(drawn, path)


def class_colour(label: int) -> str:
    """Eight colours and two greys."""
    return (*PALETTE[:6], PALETTE[7], "0.25", "0.55", "0.0")[label % 10]


def palettes(path: Path, clouds: Mapping[str, Tensor], count: int = 4000) -> Path:
    """Colours (N, 3) in [0, 1] as points of the RGB cube, each in its own colour."""
    columns = min(len(clouds), 3)
    rows = math.ceil(len(clouds) / columns)
    drawn, axes = figure(rows, columns, width="double", ratio=0.95, projection="3d")
    for ax, (name, points) in zip(np.atleast_1d(axes).flat, clouds.items(), strict=False):
        a = points[:count].clamp(0, 1).cpu().numpy()
        ax.scatter(a[:, 0], a[:, 1], a[:, 2], c=a, s=2, linewidths=0, depthshade=False, rasterized=True)
        ax.set(xlim=(0, 1), ylim=(0, 1), zlim=(0, 1), xticks=[0, 1], yticks=[0, 1], zticks=[0, 1])
        ax.set_xlabel("R", labelpad=-8)
        ax.set_ylabel("G", labelpad=-8)
        ax.set_zlabel("B", labelpad=-8)
        ax.set_title(figure_text(name))
    return save_figure(drawn, path)


def sheet(path: Path, rows: Mapping[str, Tensor], columns: int = 12) -> Path:
    """Images (N, C, H, W) in [0, 1] in labelled blocks of rows, ``columns`` to a row."""
    blocks = {name: tiled(images, columns) for name, images in rows.items()}
    heights = [block.shape[0] / block.shape[1] for block in blocks.values()]
    width = 7.2
    drawn, axes = figure(len(blocks), 1, width=width, height=width * sum(heights) + 0.3 * len(blocks))
    for ax, (name, block) in zip(np.atleast_2d(axes).flat, blocks.items(), strict=True):
        ax.imshow(block, cmap="gray", vmin=0, vmax=1, interpolation="nearest", aspect="equal")
        ax.set_title(figure_text(name))
        ax.set_axis_off()
    grid = drawn.axes[0].get_gridspec()
    if grid is not None:
        grid.set_height_ratios(heights)
    return save_figure(drawn, path)


def tiled(images: Tensor, columns: int, gap: int = 1) -> np.ndarray[Any, Any]:
    """Images (N, C, H, W) side by side as one array (H', W') or (H', W', 3), white between them."""
    images = images.detach().cpu().float().clamp(0, 1)
    count, channels, height, width = images.shape
    rows = math.ceil(count / columns)
    canvas = torch.ones(channels, rows * (height + gap) - gap, columns * (width + gap) - gap)
    for i, image in enumerate(images):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        canvas[:, top : top + height, left : left + width] = image
    array: np.ndarray[Any, Any] = canvas.permute(1, 2, 0).numpy()
    return array[..., 0] if channels == 1 else array


def pictures(path: Path, images: Mapping[str, np.ndarray[Any, Any]], columns: int = 2) -> Path:
    """Photographs (H, W, 3) uint8 side by side."""
    rows = math.ceil(len(images) / columns)
    shapes = [image.shape[0] / image.shape[1] for image in images.values()]
    drawn, axes = figure(rows, columns, width="double", ratio=max(shapes) + 0.06)
    for ax in np.atleast_2d(axes).flat:
        ax.set_axis_off()
    for ax, (name, image) in zip(np.atleast_2d(axes).flat, images.items(), strict=False):
        ax.imshow(image, interpolation="antialiased")
        ax.set_title(figure_text(name))
    return save_figure(drawn, path)
