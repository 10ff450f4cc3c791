"""Maps between clouds of points: arrows, the image of a grid, the inverse."""

from __future__ import annotations

import typing
from dataclasses import dataclass
from typing import Any

import numpy as np

from wasskit.errors import UserError
from wasskit.pictures.axes import square
from wasskit.pictures.look import Look
from wasskit.pictures.style import COLOURS
from wasskit.system.arrays import check_rows

if typing.TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray[Any, np.dtype[Any]]

_POINTS = 1_000
_ARROWS = 100
_GRID = 21


@dataclass(frozen=True)
class Transport:
    """Points, what a map makes of them, and what they should become.

    ``source`` (N, D) and ``forward`` (N, D) go together row by row; ``target`` (M, D) is another sample, and
    ``inverse`` (M, D) goes with it. ``grid`` and ``grid_forward`` are (G, H, 2).
    """

    name: str
    source: Array
    forward: Array | None = None
    target: Array | None = None
    inverse: Array | None = None
    grid: Array | None = None
    grid_forward: Array | None = None

    def __post_init__(self) -> None:
        dims = self.source.shape[1]
        names = {
            "source": "source",
            "forward": "image of the source",
            "target": "target",
            "inverse": "image of the target",
        }
        for attribute, what in names.items():
            cloud = getattr(self, attribute)
            if cloud is None:
                continue
            check_rows(cloud, f"The {what} of {self.name}")
            if cloud.shape[1] != dims:
                raise UserError(
                    f"{self.name}: the source has {dims} coordinates, the {what} has {cloud.shape[1]}; make them equal."
                )
        for points, images in (("source", "forward"), ("target", "inverse")):
            before, after = getattr(self, points), getattr(self, images)
            if before is not None and after is not None and len(before) != len(after):
                raise UserError(f"{self.name}: {len(before)} points but {len(after)} images; row i must go to row i.")
        if dims < 2:
            raise UserError(f"{self.name} has one coordinate: a map in the plane needs two or more.")


@dataclass(frozen=True)
class View:
    """A transport as it is drawn: in two coordinates, with a grid and its image (G, H, 2) where there is one.

    ``remarks`` say what of it is not as given.
    """

    flat: Transport
    grids: tuple[Array, Array] | None
    remarks: tuple[str, ...]


def view_of(transport: Transport) -> View:
    """The view of a transport; more than two coordinates in the plane of the target's two principal components."""
    flat, share = _in_plane(transport)
    if share is not None:
        remark = (
            f"{transport.source.shape[1]} coordinates are shown in the plane of the target's first two principal "
            f"components, which hold {share:.0%} of its variance."
        )
        return View(flat, None, (remark,))
    grids = _grid(flat)
    interpolated = grids is not None and transport.grid_forward is None
    return View(flat, grids, ("The image of the grid is interpolated between the points.",) if interpolated else ())


def draw_view(view: View, look: Look, *, arrows: bool = True, title: str = "") -> Figure:
    """Panels: source onto target with arrows, the warped grid, and the inverse map where it is known."""
    flat, grids = view.flat, view.grids
    mapped = flat.forward is not None
    panels = 1 + (grids is not None) + (flat.inverse is not None and flat.target is not None)
    fig, axes = look.figure(panels, ratio=0.95)
    rng = np.random.default_rng(0)
    place = iter(axes)
    ax = next(place)
    _draw_map(ax, flat.source, flat.forward, flat.target, ("source", "target"), rng, arrows and mapped)
    if panels > 1:
        ax.set_title("forward")
    if flat.inverse is not None and flat.target is not None:
        ax = next(place)
        _draw_map(ax, flat.target, flat.inverse, flat.source, ("target", "source"), rng, arrows)
        ax.set_title("inverse")
    if grids is not None:
        ax = next(place)
        _draw_grid(ax, *grids, flat)
        ax.set_title("image of a grid")
    return look.finish(fig, title=title, legend_from=axes, markers=2)


_LOOKS: dict[str, dict[str, Any]] = {
    "source": {"marker": "o", "color": COLOURS["sky"], "zorder": 1.2},
    "target": {"marker": "s", "color": COLOURS["orange"], "zorder": 1.1},
    "image of the source": {"marker": "^", "color": COLOURS["green"], "zorder": 1.4},
    "image of the target": {"marker": "v", "color": COLOURS["purple"], "zorder": 1.4},
}


def _draw_map(
    ax: Axes, start: Array, images: Array | None, goal: Array | None, names: tuple[str, str],
    rng: np.random.Generator, arrows: bool,
) -> None:  # fmt: skip
    """Clouds lightly, and on top of them the arrows of a few points."""
    if goal is not None:
        _draw_points(ax, subsampled(goal, rng), names[1])
    chosen = rng.permutation(len(start))[:_POINTS]
    _draw_points(ax, start[chosen], names[0])
    if images is not None:
        _draw_points(ax, images[chosen], f"image of the {names[0]}")
        if arrows:
            few = chosen[:_ARROWS]
            ax.quiver(
                *start[few].T, *(images[few] - start[few]).T, angles="xy", scale_units="xy", scale=1, width=0.004,
                headwidth=4.5, headlength=5.5, color="0.1", alpha=0.65, zorder=3,
            )  # fmt: skip
    square(ax, [cloud for cloud in (start, images, goal) if cloud is not None])


def _draw_points(ax: Axes, points: Array, name: str, size: float = 2.0) -> None:
    ax.plot(*points.T, linestyle="", markersize=size, alpha=0.55, markeredgewidth=0, label=name, **_LOOKS[name])


def _draw_grid(ax: Axes, before: Array, after: Array, flat: Transport) -> None:
    from matplotlib.collections import LineCollection

    if flat.target is not None:
        _draw_points(ax, subsampled(flat.target, np.random.default_rng(1), 600), "target", 1.8)
    for grid, colour, width in ((before, "0.8", 0.5), (after, COLOURS["green"], 0.8)):
        pieces = [piece for line in (*grid, *grid.transpose(1, 0, 2)) for piece in _finite_pieces(line)]
        ax.add_collection(LineCollection(pieces, colors=colour, linewidths=width))
    square(ax, [g[np.isfinite(g).all(axis=-1)] for g in (before, after)])


def _grid(flat: Transport) -> tuple[Array, Array] | None:
    """A regular grid over the source and its image: as given, or interpolated linearly between the points."""
    if flat.grid is not None and flat.grid_forward is not None:
        return flat.grid, flat.grid_forward
    if flat.forward is None or len(flat.source) < 4:
        return None
    from scipy.interpolate import LinearNDInterpolator
    from scipy.spatial import QhullError

    chosen = np.random.default_rng(0).permutation(len(flat.source))[:_POINTS]
    source, images = flat.source[chosen], flat.forward[chosen]
    low, high = source.min(axis=0), source.max(axis=0)
    sides = np.linspace(low, high, _GRID)
    grid = np.stack(np.meshgrid(sides[:, 0], sides[:, 1], indexing="ij"), axis=-1)
    try:
        return grid, LinearNDInterpolator(source, images)(grid)
    except QhullError:  # all points on one line
        return None


def _finite_pieces(line: Array) -> list[Array]:
    """A polyline cut where the interpolation knows nothing, outside the convex hull of the points."""
    finite = np.isfinite(line).all(axis=-1)
    pieces = np.split(line, np.flatnonzero(np.diff(finite.astype(int))) + 1)
    return [piece for piece in pieces if len(piece) > 1 and np.isfinite(piece).all()]


def _in_plane(transport: Transport) -> tuple[Transport, float | None]:
    """The transport in two coordinates, and the share of the target's variance that they hold if there are more."""
    if transport.source.shape[1] == 2:
        return transport, None
    reference = transport.target if transport.target is not None else transport.source
    mean = reference.mean(axis=0)
    _, singular, axes = np.linalg.svd(reference - mean, full_matrices=False)
    basis = axes[:2].T
    total = float((singular**2).sum())

    def project(cloud: Array | None) -> Array | None:
        return None if cloud is None else (cloud - mean) @ basis

    source = project(transport.source)
    assert source is not None
    projected = Transport(
        transport.name, source, project(transport.forward), project(transport.target), project(transport.inverse)
    )
    return projected, float((singular[:2] ** 2).sum()) / total if total else 1.0


def subsampled(cloud: Array, rng: np.random.Generator, count: int = _POINTS) -> Array:
    return cloud[rng.permutation(len(cloud))[:count]]
