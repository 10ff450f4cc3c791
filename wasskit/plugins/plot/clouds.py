"""Figures of arrays: singular spectra, transport maps in the plane, colours of images in space."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wasskit.errors import UserError
from wasskit.plugins.plot.files import check_rows
from wasskit.plugins.plot.look import Look, style_of
from wasskit.system.readers import reader
from wasskit.text import figure_text
from wasskit.training.figures import COLOURS

if typing.TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray[Any, np.dtype[Any]]

_POINTS = 1_000
_ARROWS = 100
_GRID = 21


# --- Spectra ----------------------------------------------------------------------------------------------------------


def draw_spectra(
    spectra: Mapping[str, Sequence[float]], look: Look, *, log_x: bool = False, title: str = ""
) -> Figure:
    """Logarithms of singular values over their rank. Directions without variance (-inf) end a line and are counted."""
    fig, (ax,) = look.figure(1)
    for number, (name, values) in enumerate(spectra.items()):
        finite = [value for value in values if np.isfinite(value)]
        gone = len(values) - len(finite)
        style = style_of(number)
        few = len(finite) <= 20
        ax.plot(
            range(1, len(finite) + 1), finite,
            label=figure_text(f"{name} ({gone} of {len(values)} zero)" if gone else name),
            **{**style, "marker": style["marker"] if few else ""}, markersize=3,
        )  # fmt: skip
    if log_x:
        ax.set_xscale("log")
    ax.set_xlabel("rank of the singular value")
    ax.set_ylabel("log singular value")
    return look.finish(fig, title=title, legend_from=[ax])


# --- Transport --------------------------------------------------------------------------------------------------------


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
                raise UserError(
                    f"{self.name}: {len(before)} points but {len(after)} images; row i must go to row i."
                )
        if dims < 2:
            raise UserError(f"{self.name} has one coordinate: a map in the plane needs two or more.")


def transport_from(name: str, arrays: Mapping[str, Array]) -> Transport:
    """A transport from the arrays of a ``transport*.npz``.

    Raises:
        UserError: there is no ``source``, or the arrays do not fit together.
    """
    if "source" not in arrays or not ({"forward", "target"} & set(arrays)):
        raise UserError(f"{name} must hold 'source' and 'forward' or 'target'; it holds {', '.join(arrays)}.")
    points = {
        k: arrays[k].astype(np.float64) for k in ("source", "forward", "target", "inverse") if k in arrays
    }
    for key, cloud in points.items():
        check_rows(cloud, f"{key!r} of {name}")
    grids = {key: arrays[key].astype(np.float64) for key in ("grid", "grid_forward") if key in arrays}
    shapes = {grid.shape for grid in grids.values()}
    if len(grids) == 2 and len(shapes) == 1 and len(next(iter(shapes))) == 3 and next(iter(shapes))[2] == 2:
        return Transport(name, **points, **grids)
    return Transport(name, **points)


def draw_transport(
    transport: Transport, look: Look, *, arrows: bool = True, title: str = ""
) -> tuple[Figure, list[str]]:
    """Panels: source onto target with arrows, the warped grid, and the inverse map where it is known.

    More than two coordinates are shown in the plane of the two principal components of the target.

    Returns:
        The figure, and remarks on what it shows.
    """
    notes = []
    flat, share = _in_plane(transport)
    if share is not None:
        notes.append(
            f"{transport.source.shape[1]} coordinates are shown in the plane of the target's first two principal "
            f"components, which hold {share:.0%} of its variance."
        )
    mapped = flat.forward is not None
    grids = _grid(flat) if share is None else None
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
        if transport.grid_forward is None:
            notes.append("The image of the grid is interpolated between the points.")
    return look.finish(fig, title=title, legend_from=axes, markers=2), notes


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
        _draw_points(ax, _some(goal, rng), names[1])
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
    _square(ax, [cloud for cloud in (start, images, goal) if cloud is not None])


def _draw_points(ax: Axes, points: Array, name: str, size: float = 2.0) -> None:
    ax.plot(
        *points.T, linestyle="", markersize=size, alpha=0.55, markeredgewidth=0, label=name, **_LOOKS[name]
    )


def _draw_grid(ax: Axes, before: Array, after: Array, flat: Transport) -> None:
    from matplotlib.collections import LineCollection

    if flat.target is not None:
        _draw_points(ax, _some(flat.target, np.random.default_rng(1), 600), "target", 1.8)
    for grid, colour, width in ((before, "0.8", 0.5), (after, COLOURS["green"], 0.8)):
        pieces = [piece for line in (*grid, *grid.transpose(1, 0, 2)) for piece in _finite_pieces(line)]
        ax.add_collection(LineCollection(pieces, colors=colour, linewidths=width))
    _square(ax, [g[np.isfinite(g).all(axis=-1)] for g in (before, after)])


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
        transport.name,
        source,
        project(transport.forward),
        project(transport.target),
        project(transport.inverse),
    )
    return projected, float((singular[:2] ** 2).sum()) / total if total else 1.0


def _some(cloud: Array, rng: np.random.Generator, count: int = _POINTS) -> Array:
    return cloud[rng.permutation(len(cloud))[:count]]


def _square(ax: Axes, clouds: Sequence[Array]) -> None:
    """Equal scales, all points in view, but for the farthest thousandth, which must not shrink the rest to a dot."""
    points = np.concatenate(clouds)
    low, high = np.quantile(points, 0.001, axis=0), np.quantile(points, 0.999, axis=0)
    middle, half = (low + high) / 2, max(float((high - low).max()) / 2 * 1.08, 1e-12)
    ax.set_xlim(middle[0] - half, middle[0] + half)
    ax.set_ylim(middle[1] - half, middle[1] + half)
    ax.set_aspect("equal", adjustable="box")


# --- Palettes ---------------------------------------------------------------------------------------------------------


@reader(
    "image",
    suffixes=(".png", ".jpg", ".tif"),
    advice="name another image",
    missing="There is no image {path}.",
)
def read_colours(path: Path) -> Array:
    """Colours (N, 3) in [0, 1] of an image file: pixels of a copy no larger than 512 on a side.

    Grey images are read as RGB, transparent pixels left out, 16-bit values scaled.

    Raises:
        UserError: the file is missing or no image, or has no visible pixel.
    """
    from PIL import Image, ImageFile

    from wasskit.data.images import opened

    ImageFile.LOAD_TRUNCATED_IMAGES = False
    with opened(path) as image:
        image.draft("RGB", (512, 512))
        if image.mode.startswith("I") or image.mode == "F":
            values = np.nan_to_num(np.asarray(image, dtype=np.float64))
            top = 65535.0 if values.max() > 255 else 255.0 if values.max() > 1 else 1.0
            image = Image.fromarray((values / top * 255).clip(0, 255).astype(np.uint8))
        image.thumbnail((512, 512))
        rgba = np.asarray(image.convert("RGBA"), dtype=np.float64).reshape(-1, 4) / 255
    visible = rgba[rgba[:, 3] > 0.5, :3]
    if len(visible) == 0:
        raise UserError(f"{path} has no visible pixel: it is transparent throughout.")
    return visible


def as_colours(array: Array, where: str) -> Array:
    """Colours (N, 3) in [0, 1] from bytes or fractions. Raises ``UserError`` for other shapes or values."""
    if array.ndim < 2 or array.shape[-1] != 3:
        raise UserError(f"{where} has shape {array.shape}: expected colours of shape (N, 3).")
    values = array.reshape(-1, 3).astype(np.float64)
    if array.dtype == np.uint8 or (np.isfinite(values).all() and values.max() > 8):
        values = values / 255
    check_rows(values, where)
    return values.clip(0, 1)


def draw_palettes(
    palettes: Mapping[str, Array], look: Look, *, points: int = 4_000, title: str = ""
) -> Figure:
    """One panel per palette: its colours as points in the RGB cube, each in its own colour."""
    columns = min(len(palettes), 3 if len(palettes) != 4 else 2)
    fig, axes = look.figure(len(palettes), columns=columns, ratio=1.0, projection="3d")
    for ax, (name, colours) in zip(axes, palettes.items(), strict=True):
        chosen = _some(colours, np.random.default_rng(0), points)
        # Light colours get a thin edge: on white paper they would vanish.
        edges = np.where(chosen.mean(axis=1, keepdims=True) > 0.85, 0.6, chosen)
        scatter: Any = ax.scatter
        scatter(*chosen.T, c=chosen, s=4, edgecolors=edges, linewidths=0.2, depthshade=False)
        ends = (0, 1)
        ax.set(xlim=ends, ylim=ends, zlim=ends, xticks=ends, yticks=ends, zticks=ends)
        ax.tick_params(labelsize=7, pad=-3)
        for axis, word in ((ax.xaxis, "red"), (ax.yaxis, "green"), (ax.zaxis, "blue")):  # type: ignore[attr-defined]
            axis.set_label_text(word, fontsize=8)
            axis.labelpad = -10
        ax.set_title(figure_text(name))
        ax.set_box_aspect((1, 1, 1), zoom=0.9)  # type: ignore[call-arg, arg-type]
        ax.view_init(elev=22, azim=-55)  # type: ignore[attr-defined]
    return look.finish(fig, title=title)
