"""What the maps of a fit are worth: energy distances, distances, residuals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from wasskit.data.seeds import derive_seed
from wasskit.distributed.shard import map_shards
from wasskit.evaluation.transport import forward_inverse_error, l2_uvp
from wasskit.ot.assignment import assignment_wasserstein_squared
from wasskit.ot.energy import energy_distance
from wasskit.ot.gaussian import bures_wasserstein_squared
from wasskit.plugins.w2gn.clouds.data import Cloud, Clouds
from wasskit.plugins.w2gn.clouds.task import Fitted, directions_for
from wasskit.plugins.w2gn.core.dual import dual_value, gaussian_start
from wasskit.plugins.w2gn.core.frame import unframed
from wasskit.plugins.w2gn.figures import Drawing, History, draw_history, principal_planes
from wasskit.report import Report, Table

_DRAWN = 2048


@torch.no_grad()
def measured(fitted: Fitted, clouds: Clouds, *, discrete_rows: int = 2048) -> dict[str, float]:
    """The metrics of the maps on the rows that measure. Called by all ranks.

    Distances are in the coordinates of the fit, whole (not half, not squared). ``w2_dual`` is the dual bound, from rows
    that the maps were not fitted to, with its standard error; ``w2_displacement`` the root mean square of what the
    forward map moves a row by; ``w2_gaussian`` that of the two Gaussians, no larger than W2; ``w2_discrete`` the exact
    one of two samples, which is too large by what their size is too small.
    """
    x, y = clouds.measured_by()
    offset, maps, directions = clouds.offset, fitted.maps, directions_for(x)
    forward, inverse = map_shards(maps.forward_map, x), map_shards(maps.inverse_map, y)
    returned, repeated = map_shards(maps.inverse_map, forward), map_shards(maps.forward_map, inverse)

    def energy(a: Tensor, b: Tensor) -> float:
        return float(energy_distance(a, b, directions))

    def distance(half_square: float) -> float:
        """Of the clouds, from half the squared distance of the centred ones."""
        return float(max(2.0 * half_square + float(offset.square().sum()), 0.0) ** 0.5)

    dual = dual_value(maps, x, y, offset=offset)
    moved = 0.5 * (forward.double() - x.double()).square().sum(1).mean()
    # The mean displacement and the offset together are the difference of the images' mean and the rows' mean.
    shift = float(((forward.double() - x.double()).mean(0) * offset).sum())
    scores = {
        "energy_before": energy(x.double(), y.double() + offset),
        "energy_forward": energy(forward, y),
        "energy_inverse": energy(inverse, x),
        "energy_floor": _floor(clouds.target, len(y), directions),
        "w2_dual": distance(dual.value),
        "w2_displacement": distance(float(moved) + shift),
        "w2_gaussian": distance(0.5 * _gaussian(clouds)),
        "w2_discrete": distance(_discrete(clouds, discrete_rows)),
        "cycle_error": forward_inverse_error(x, returned),
        "cycle_error_target": forward_inverse_error(y, repeated),
    }
    scores["w2_dual_error"] = dual.error / scores["w2_dual"] if scores["w2_dual"] > 0 else 0.0
    if maps.coordinates is not None:
        start = gaussian_start(maps)
        scores["energy_mapped_gaussian"] = energy(map_shards(start.forward_map, x), y)
    if clouds.truth is not None:
        rows = clouds.source.stored[clouds.source.measure].to(x)
        centre, matrix = clouds.target.centre.to(x), clouds.target.matrix
        matrix = None if matrix is None else matrix.to(x)
        scores["uvp_forward"] = l2_uvp(unframed(forward, centre, matrix), clouds.truth(rows))
        if maps.coordinates is not None:
            images = unframed(gaussian_start(maps).forward_map(x), centre, matrix)
            scores["uvp_gaussian"] = l2_uvp(images, clouds.truth(rows))
    return scores


def _gaussian(clouds: Clouds) -> float:
    first, second = clouds.source.moments, clouds.target.moments
    return float(bures_wasserstein_squared(first.mean, first.covariance, second.mean, second.covariance))


def _discrete(clouds: Clouds, rows: int) -> float:
    """Half the squared distance of equally many rows of both clouds, trained on or not."""
    size = min(rows, len(clouds.source.stored), len(clouds.target.stored))
    x, y = (_sample(cloud, size, "discrete") for cloud in (clouds.source, clouds.target))
    shift = float(((y.double().mean(0) - x.double().mean(0)) * clouds.offset).sum())
    return 0.5 * float(assignment_wasserstein_squared(x, y)) + shift


def _floor(cloud: Cloud, size: int, directions: Tensor, pairs: int = 8) -> float:
    """The root mean square of the energy distance, whose mean is zero, between rows of one cloud and as many others."""
    size = min(size, len(cloud.stored) // 2)
    distances = []
    for number in range(pairs):
        rows = _sample(cloud, 2 * size, "floor", number)
        distances.append(energy_distance(rows[:size], rows[size:], directions))
    return float(torch.stack(distances).square().mean().sqrt())


def _sample(cloud: Cloud, size: int, *purpose: str | int) -> Tensor:
    generator = torch.Generator().manual_seed(derive_seed(0, *purpose))
    return cloud.rows(torch.randperm(len(cloud.stored), generator=generator)[:size])


_ROWS = {
    "energy_before": "energy distance of the clouds",
    "energy_mapped_gaussian": "  of the source under the Gaussian map, to the target",
    "energy_forward": "  of the source under the map, to the target",
    "energy_inverse": "  of the target under the inverse map, to the source",
    "energy_floor": "  of two samples of the target (rms)",
    "w2_dual": "W2, estimated by duality",
    "w2_dual_error": "  its standard error",
    "w2_displacement": "  root mean square displacement by the map",
    "w2_gaussian": "  of the Gaussians (a lower bound)",
    "w2_discrete": "  of a sample, exact (too large)",
    "cycle_error": "forward and back, % of the source's variance",
    "cycle_error_target": "back and forward, % of the target's variance",
    "uvp_forward": "error of the map, % of the target's variance",
    "uvp_gaussian": "  of the Gaussian map",
}


def fit_report(fitted: Fitted, clouds: Clouds, scores: Mapping[str, float], history: History | None = None) -> Report:
    """The table, the clouds before and after the map in the plane of their components, and the learning curves."""
    counts = " and ".join(
        f"{len(cloud.measure):,} of {len(cloud.stored):,}" for cloud in (clouds.source, clouds.target)
    )
    title = f"{clouds.names[0]} to {clouds.names[1]}, dimension {clouds.dim:,}"
    rows = [[label, scores[name]] for name, label in _ROWS.items() if name in scores]
    table = Table([f"on {counts} rows, held out", "value"], rows, title, digits=5)
    curves = {"energy_forward": "forward", "energy_inverse": "inverse"}
    figures = draw_history(
        "energy", history, curves, ylabel="energy distance",
        levels={"two samples of the target (rms)": scores["energy_floor"]}, split="val",
    )  # fmt: skip
    if clouds.dim > 1:
        figures["clouds"] = _planes(fitted, clouds)
    notes = [] if fitted.kept is None else [fitted.kept.note()]
    return Report({"final": {f"test/{name}": value for name, value in scores.items()}}, [table], notes, figures=figures)


def _planes(fitted: Fitted, clouds: Clouds) -> Drawing:
    def draw() -> Any:
        x, y = (points[:_DRAWN] for points in clouds.measured_by())
        offset = clouds.offset.to(x)
        mapped = fitted.maps.forward_map(x) + offset
        return principal_planes({clouds.names[0]: x, "mapped": mapped, clouds.names[1]: y + offset})

    return draw
