"""What reports of the experiments hold besides tables: learning curves, clouds, images, and arrays."""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from wasskit.pictures.axes import square
from wasskit.pictures.style import PALETTE, figure
from wasskit.text import figure_text

if typing.TYPE_CHECKING:
    from matplotlib.figure import Figure

History = Mapping[str, Mapping[int, float]]
"""Metrics, as ``split/metric``, over the steps."""
Drawing = Callable[[], "Figure"]


def draw_history(
    stem: str,
    history: History | None,
    labels: Mapping[str, str],
    *,
    ylabel: str,
    levels: Mapping[str, float],
    split: str = "test",
) -> dict[str, Drawing]:
    """Metrics over the steps on a logarithmic axis, as a report's figure ``stem``; none where nothing is positive.

    Args:
        labels: of the metrics of the ``split`` to draw, by their names.
        levels: values to compare with, by their labels.
    """
    from wasskit.pictures.curves import Curve, Line, Panel, draw_curves
    from wasskit.pictures.look import Look

    lines = []
    for number, (name, label) in enumerate(labels.items()):
        known = (history or {}).get(f"{split}/{name}", {})
        points: dict[float, float] = {step: value for step, value in known.items() if value > 0}
        if points:
            left_out = " (0 or less is left out)" if len(points) < len(known) else ""
            lines.append(Line(Curve.through(points), label + left_out, number))
    panel = Panel(ylabel, lines, "step", ylabel, levels=levels)
    return {stem: lambda: draw_curves([panel], Look(), log_y=True)} if lines else {}


def principal_planes(clouds: Mapping[str, Tensor], labels: Mapping[str, Tensor] | None = None) -> Figure:
    """Clouds (N, D) in the plane of the first two principal components of the last one, coloured by label
    (N,) where given.
    """
    reference = list(clouds.values())[-1].double()
    mean = reference.mean(0)
    plane = torch.linalg.svd(reference - mean, full_matrices=False).Vh[:2].T
    drawn, axes = figure(1, len(clouds), width="double", ratio=1.0)
    flat = {name: ((points.double() - mean) @ plane).cpu().numpy() for name, points in clouds.items()}
    for number, (ax, (name, points)) in enumerate(zip(np.atleast_2d(axes).flat, flat.items(), strict=True)):
        dots: dict[str, Any] = {"linewidths": 0, "rasterized": True}
        if labels is None:
            ax.scatter(*points.T, s=3, c=PALETTE[number], alpha=0.5, **dots)
        else:
            known = labels[name].cpu().numpy()
            for label in np.unique(known):
                colour, marker = class_colour(int(label)), "o^sDvP*X<>"[int(label) % 10]
                chosen = points[known == label]
                ax.scatter(*chosen.T, s=4, alpha=0.6, label=str(label), color=colour, marker=marker, **dots)
        ax.set_title(figure_text(name))
        ax.set_xlabel("first component")
        square(ax, list(flat.values()))
    first = np.atleast_2d(axes).flat[0]
    first.set_ylabel("second component")
    if labels is not None:
        handles, names = first.get_legend_handles_labels()
        legend = drawn.legend(
            handles, names, loc="outside lower center", ncols=10, fontsize=8, markerscale=3, frameon=False
        )
        for handle in legend.legend_handles:
            if handle is not None:
                handle.set_alpha(1)
    return drawn


def class_colour(label: int) -> str:
    """Eight colours and two greys."""
    return (*PALETTE[:6], PALETTE[7], "0.25", "0.55", "0.0")[label % 10]


def image_grid(rows: Mapping[str, Tensor], columns: int = 12) -> Figure:
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
    return drawn


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


def photographs(images: Mapping[str, np.ndarray[Any, Any]], columns: int = 2) -> Figure:
    """Photographs (H, W, 3) uint8 side by side."""
    rows = math.ceil(len(images) / columns)
    shapes = [image.shape[0] / image.shape[1] for image in images.values()]
    drawn, axes = figure(rows, columns, width="double", ratio=max(shapes) + 0.06)
    for ax in np.atleast_2d(axes).flat:
        ax.set_axis_off()
    for ax, (name, image) in zip(np.atleast_2d(axes).flat, images.items(), strict=False):
        ax.imshow(image, interpolation="antialiased")
        ax.set_title(figure_text(name))
    return drawn


def arrays(**tensors: Tensor) -> Callable[[BinaryIO], None]:
    """A report's file: tensors as float32 arrays of one ``.npz``, from which ``wasskit plot`` draws."""
    kept: dict[str, Any] = {name: tensor.detach().float().cpu().numpy() for name, tensor in tensors.items()}
    return lambda file: np.savez(file, **kept)
