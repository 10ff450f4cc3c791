"""Figures that only ``wasskit metrix`` draws: pictures of what was retrieved, histograms of similarities."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wasskit.data.base import ImageDataset
from wasskit.evaluation.embedding import Features
from wasskit.evaluation.retrieval import nearest
from wasskit.pictures.style import COLOURS, figure, series_style
from wasskit.text import figure_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_neighbours(
    queries: Sequence[Image.Image],
    found: Sequence[Sequence[Image.Image]],
    *,
    similarities: Sequence[Sequence[float]],
    right: Sequence[Sequence[bool | None]],
    titles: Sequence[str] | None = None,
) -> Figure:
    """Queries in the first column, what they retrieve in the others, best first.

    A frame says whether the class is the query's: solid where it is, dashed where it is not, none where it is unknown.
    """
    rows, columns = len(queries), 1 + max(len(row) for row in found)
    width = min(7.2, 0.9 * columns)
    fig, axes = figure(rows, columns, width=width, height=1.08 * rows + 0.3)
    axes = np.asarray(axes).reshape(rows, columns)
    for ax in axes.flat:
        ax.set_axis_off()
    for row in range(rows):
        _show(axes[row, 0], queries[row], (titles[row] if titles else "query"))
        for column, image in enumerate(found[row], start=1):
            mark = right[row][column - 1]
            ax = axes[row, column]
            _show(ax, image, f"{similarities[row][column - 1]:.2f}")
            if mark is not None:
                ax.set_axis_on()
                ax.grid(visible=False)
                ax.set_xticks([])
                ax.set_yticks([])
                for spine in ax.spines.values():
                    spine.set(
                        visible=True,
                        linewidth=2.0,
                        color=COLOURS["blue"] if mark else COLOURS["vermilion"],
                        linestyle="-" if mark else (0, (2, 1.5)),
                        capstyle="butt",
                    )
    says = "Left: the query. Above the others: their cosine similarity."
    if any(mark is not None for row in right for mark in row):
        says = says.replace("query", "query and its class") + " Solid frame: same class; dashed: another class."
    fig.supxlabel("\n".join(textwrap.wrap(says, int(18 * width))), fontsize=7)
    return fig


def _show(ax: Axes, image: Image.Image, title: str) -> None:
    small = max(image.size) < 64
    grey = image.mode == "L"
    # Pixels of tiny images as squares, anything else as a picture.
    ax.imshow(
        np.asarray(image),
        cmap="gray" if grey else None,
        interpolation="nearest" if small else "antialiased",
        vmin=0 if grey else None,
        vmax=_white(image) if grey else None,
    )
    ax.set_title(figure_text(title), pad=2)


def _white(image: Image.Image) -> int:
    """White of a grey picture: its own largest value, so that dim characters are seen."""
    return max(int(np.asarray(image).max()), 1)


def draw_similarities(positive: Tensor, negative: Tensor) -> Figure:
    """Histograms of each query's similarity to its nearest positive and to its nearest negative."""
    fig, ax = figure(width=4.5)
    # Rounding takes cosines of equal items above 1, where no bin is.
    kinds = {"nearest positive": positive.clamp(max=1), "nearest negative": negative.clamp(max=1)}
    low = min(0.98, *(float(values.min()) for values in kinds.values()))
    edges = np.linspace(low, 1.0, 41)
    for number, (name, values) in enumerate(kinds.items()):
        style = series_style(number)
        ax.hist(
            values.cpu().numpy(), bins=list(edges), histtype="step", label=name, linewidth=1.4,
            color=style["color"], linestyle=style["linestyle"],
        )  # fmt: skip
    ax.set_xlabel("cosine similarity")
    ax.set_ylabel("queries")
    ax.legend(loc="upper left")
    return fig


def picture(dataset: ImageDataset, index: int, side: int = 160) -> Image.Image:
    """Image ``index`` as it is drawn: small enough for a page."""
    image = dataset.image(index)
    image.thumbnail((side, side))
    return image


def draw_retrieved(
    queries: tuple[ImageDataset, Features],
    gallery: tuple[ImageDataset, Features],
    *,
    own: bool,
    number: int,
    columns: int = 7,
    seed: int = 0,
) -> Figure:
    """Random queries of a data set with their nearest images; ``own``: the queries search one another."""
    dataset, features = queries
    searched, items = gallery
    chosen = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[:number]
    similarities, indices = nearest(features.features[chosen], columns + own, gallery=items.features)
    found: list[list[Image.Image]] = []
    scores: list[list[float]] = []
    right: list[list[bool | None]] = []
    titles: list[str] = []
    for row, query in enumerate(chosen.tolist()):
        hits = [
            (s, i)
            for s, i in zip(similarities[row].tolist(), indices[row].tolist(), strict=True)
            if not (own and i == query)
        ][:columns]
        found.append([picture(searched, i) for _, i in hits])
        scores.append([s for s, _ in hits])
        label = features.labels[query]
        right.append([bool(items.labels[i] == label) for _, i in hits])
        titles.append(_short(dataset.classes[int(label)]))
    return draw_neighbours(
        [picture(dataset, i) for i in chosen.tolist()], found, similarities=scores, right=right, titles=titles
    )


def _short(name: str, most: int = 12) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
