"""The coordinates of the uniform sphere against a Gaussian, in one and in two dimensions.

Only the coordinates looked at are drawn: with g ~ N(0, I_c) and X^2 ~ chi^2 of m - c degrees of freedom, g / sqrt(|g|^2
+ X^2) has the law of c coordinates of the uniform sphere in R^m. So a sample costs the same in 256 dimensions as in 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wasskit.plugins.study import laws
from wasskit.plugins.study.figures import density_panels, distance_panel, joint_density_panels
from wasskit.report import Report, Table

Array = NDArray[np.float64]


def sphere_coordinates(generator: np.random.Generator, n: int, m: int, count: int) -> Array:
    """(n, count) float64: ``count`` coordinates of n uniform points on the unit sphere of R^m, m >= count."""
    g = generator.standard_normal((n, count))
    rest = generator.chisquare(m - count, n) if m > count else np.zeros(n)
    coordinates: Array = g / np.sqrt((g * g).sum(axis=1) + rest)[:, None]
    return coordinates


def gaussian_coordinates(generator: np.random.Generator, n: int, m: int, count: int) -> Array:
    """(n, count) float64 of N(0, 1/m)."""
    coordinates: Array = generator.standard_normal((n, count)) / np.sqrt(m)
    return coordinates


def histogram(values: Array, bins: int = 51) -> Array:
    """Share of the values (n,) in each of equal bins of [-1, 1); what lies outside is in none."""
    inside = values[(values >= -1) & (values < 1)]
    return np.bincount(_bin(inside, bins), minlength=bins) / len(values)


def joint_histogram(values: Array, bins: int = 51) -> Array:
    """(bins, bins): share of the pairs (n, 2) in each cell; what lies outside is counted at the border."""
    first, second = (_bin(np.clip(values[:, i], -1, None), bins) for i in (0, 1))
    return np.bincount(first * bins + second, minlength=bins * bins).reshape(bins, bins) / len(values)


def _bin(values: Array, bins: int) -> NDArray[np.int64]:
    return np.minimum((values + 1) / (2 / bins), bins - 1).astype(np.int64)


def density_report(
    dims: Sequence[int], joint_dims: Sequence[int], *, n: int, n_joint: int, bins: int, seed: int
) -> Report:
    """Histograms and exact densities of one coordinate and of two, and their distances to the Gaussian over m."""
    generator = np.random.default_rng(seed)
    panels, rows, curve = _one_coordinate(generator, dims, n, bins)
    joint, joint_rows = _two_coordinates(generator, joint_dims, n_joint, bins)
    columns = ("m", "TV", "W1", "TV sampled bins", "W1 sampled bins", "TV exact bins", "joint TV", "joint W1")
    distances = {
        "total variation": ([row[1] for row in rows], [row[3] for row in rows]),
        r"$W_1$": ([row[2] for row in rows], None),
        "joint total variation": ([row[6] for row in rows], None),
    }
    files = {
        "density.csv": Table(("m", "centre", "sphere", "gauss", "sphere_exact", "gauss_exact"), curve),
        "distances.csv": Table(
            ("m", "tv", "w1", "tv_sampled_bins", "w1_sampled_bins", "tv_exact_bins", "joint_tv", "joint_w1"), rows
        ),
        "joint.csv": Table(("m", "joint_tv", "joint_w1", "joint_tv_sampled_bins"), joint_rows),
    }
    return Report(
        files=files,
        tables=[Table(columns, rows, "A coordinate of the uniform sphere against N(0, 1/m)", digits=5)],
        figures={
            "density-1d": lambda: density_panels(panels), "density-2d": lambda: joint_density_panels(joint),
            "density-distances": lambda: distance_panel(dims, distances),
        },
        result={
            "n": n, "n_joint": n_joint, "bins": bins,
            **{f"{key}@{row[0]}": value for row in rows for key, value in (("tv", row[1]), ("w1", row[2]))},
            **{f"joint_tv_sampled_bins@{row[0]}": row[3] for row in joint_rows},
        },
        metrics=[
            (0, "density", {f"tv@{m}": tv, f"w1@{m}": w1, f"tv_sampled_bins@{m}": s}) for m, tv, w1, s, *_ in rows
        ],
        notes=(
            f"TV, W1 and the joint distances (two coordinates) are exact; sampled bins: histograms of {n:,} points in "
            f"{bins} bins, whose noise does not vanish with m; exact bins: the same bins without noise.",
        ),
    )  # fmt: skip


def _binned_distances(p: Array, q: Array, width: float) -> tuple[float, float]:
    """Total variation and W1 of two histograms; mass outside of [-1, 1) is left out."""
    return float(np.abs(p - q).sum() / 2), float(np.abs(np.cumsum(p - q)).sum() * width)


def _one_coordinate(
    generator: np.random.Generator, dims: Sequence[int], n: int, bins: int
) -> tuple[dict[int, dict[str, Array]], list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """For each m what is drawn, the distances of sphere and Gaussian, and the histograms with their exact shares."""
    edges = np.linspace(-1, 1, bins + 1)
    width = 2 / bins
    y = np.linspace(-1, 1, 801)
    panels: dict[int, dict[str, Array]] = {}
    rows: list[tuple[Any, ...]] = []
    curve: list[tuple[Any, ...]] = []
    for m in dims:
        sphere = histogram(sphere_coordinates(generator, n, m, 1)[:, 0], bins)
        gauss = histogram(gaussian_coordinates(generator, n, m, 1)[:, 0], bins)
        exact_sphere = np.diff(laws.coordinate_cdf(edges, m))
        exact_gauss = np.diff(laws.gaussian_cdf(edges, m))
        density = laws.coordinate_density(np.clip(y, -1 + 1e-9, 1 - 1e-9), m)
        panels[m] = {
            "edges": edges, "histogram": sphere / width, "y": y, "sphere": density,
            "gauss": laws.gaussian_density(y, m),
        }  # fmt: skip
        tv, w1 = laws.coordinate_distances(m)
        sampled_tv, sampled_w1 = _binned_distances(sphere, gauss, width)
        binned_tv, _ = _binned_distances(exact_sphere, exact_gauss, width)
        rows.append((m, tv, w1, sampled_tv, sampled_w1, binned_tv, *laws.pair_density_distances(m)))
        centres = (edges[1:] + edges[:-1]) / 2
        curve += [(m, *entry) for entry in zip(centres, sphere, gauss, exact_sphere, exact_gauss, strict=True)]
    return panels, rows, curve


def _two_coordinates(
    generator: np.random.Generator, dims: Sequence[int], n: int, bins: int
) -> tuple[dict[int, tuple[Array, Array]], list[tuple[Any, ...]]]:
    """For each m the densities of sphere and Gaussian that are drawn, and their distances."""
    width = 2 / bins
    joint: dict[int, tuple[Array, Array]] = {}
    rows: list[tuple[Any, ...]] = []
    for m in dims:
        sphere, gauss = (draw(generator, n, m, 2) for draw in (sphere_coordinates, gaussian_coordinates))
        # The figure shows densities: what lies outside is not heaped on its border.
        inside = np.abs(gauss).max(axis=1) < 1
        shown = joint_histogram(gauss[inside], bins) * inside.mean()
        counted = joint_histogram(sphere, bins)
        joint[m] = (counted / width**2, shown / width**2)
        sampled_tv = float(np.abs(counted - joint_histogram(gauss, bins)).sum() / 2)
        rows.append((m, *laws.pair_density_distances(m), sampled_tv))
    return joint, rows
