"""The label-free metrics of one's own embeddings, beside what uniform points of the same number and width show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wasskit.errors import UserError
from wasskit.evaluation.gaussianity import sigreg_statistic
from wasskit.evaluation.label_free import lidar, spectral_metrics
from wasskit.evaluation.uniform_null import NullDistribution, lidar_null, sliced_nulls, spectral_nulls
from wasskit.ot.directions import slicing_directions
from wasskit.ot.sliced import sliced_gaussian_wasserstein_squared

#: Directions of SIGReg's statistic and of sliced W2.
DIRECTIONS = 128
_ROWS = 4096

HEADINGS = {
    "rankme": "RankMe",
    "alpha_req": "alpha-ReQ",
    "sigreg": f"SIGReg, {DIRECTIONS} directions",
    "sliced_w2": f"sliced W2, {DIRECTIONS} directions",
    "lidar": "LiDAR",
}


@dataclass(frozen=True)
class LabelFree:
    """Values by name, and each one's mean and deviation over uniform samples where these are known."""

    values: dict[str, float]
    nulls: dict[str, NullDistribution]

    def rows(self) -> list[tuple[Any, ...]]:
        """Heading, value, mean and deviation under uniformity."""
        found: list[tuple[Any, ...]] = []
        for name, value in self.values.items():
            null = self.nulls.get(name)
            expected = (null.mean, null.deviation) if null is not None else (None, None)
            found.append((HEADINGS[name], value, *expected))
        return found

    def as_mapping(self) -> dict[str, float]:
        """``name``, ``name_uniform`` and ``name_uniform_sd``, for JSON."""
        found = dict(self.values)
        for name, null in self.nulls.items():
            found |= {f"{name}_uniform": null.mean, f"{name}_uniform_sd": null.deviation}
        return found


@torch.no_grad()
def measure_label_free(
    features: Tensor,
    *,
    views: Tensor | None = None,
    compared: bool = True,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> LabelFree:
    """Measure embeddings (N, m): RankMe and alpha-ReQ of them as they are, SIGReg and sliced W2 of sqrt m times
    the unit rows. Rows of length 0 are left out.

    Args:
        views: (n, q, m), q views of n samples, as they are: adds LiDAR.
        compared: whether uniform samples are measured too, which takes as long as the embeddings or longer.

    Raises:
        UserError: views of another shape or width, or not finite.
    """
    kept = torch.cat([rows.any(1) for rows in features.split(_ROWS)])
    if not bool(kept.all()):
        features = features[kept]
    n, m = features.shape
    rank, decay = spectral_metrics(features)
    values = {"rankme": float(rank), "alpha_req": float(decay)}
    nulls = spectral_nulls(n, m, seed=seed) | sliced_nulls(n, m, count=DIRECTIONS, seed=seed) if compared else {}
    scaled = torch.empty(n, m, dtype=torch.float32, device=device)
    second = torch.zeros(m, m, dtype=torch.float64, device=features.device)
    for rows, place in zip(features.split(_ROWS), scaled.split(_ROWS), strict=True):
        wide = rows.double()
        wide = wide / wide.abs().amax(1, keepdim=True)
        wide = wide * (m**0.5 / torch.linalg.vector_norm(wide, dim=1, keepdim=True))
        second.addmm_(wide.mT, wide)
        place.copy_(wide)
    axes = slicing_directions(DIRECTIONS, m, like=scaled, generator=torch.Generator().manual_seed(seed))
    axes = axes @ _frame(scaled, second)
    values["sigreg"] = float(sigreg_statistic(scaled, directions=axes))
    values["sliced_w2"] = float(sliced_gaussian_wasserstein_squared(scaled, directions=axes)) ** 0.5
    if views is not None:
        _check_views(views, m)
        values["lidar"] = float(lidar(views))
        null = lidar_null(len(views), views.shape[1], m, seed=seed) if compared else None
        if null is not None:
            nulls["lidar"] = null
    return LabelFree(values, nulls)


def _frame(x: Tensor, second: Tensor) -> Tensor:
    """Axes (m, m), as rows, that turn with the rows of x (N, m): the eigenvectors of their second moments, on the side
    of their third moment.

    Directions uniform on the sphere stay so in any frame that does not depend on them; in this one the directions
    drawn from a seed see the same of embeddings that are rotated.
    """
    vectors = torch.linalg.eigh(second).eigenvectors.to(x)
    third = torch.stack([(rows @ vectors).pow(3).sum(0) for rows in x.split(_ROWS)]).sum(0)
    axes: Tensor = vectors * torch.where(third < 0, -1.0, 1.0)
    return axes.mT


def _check_views(views: Tensor, m: int) -> None:
    if views.ndim != 3 or views.shape[2] != m:
        raise UserError(
            f"--views must hold an array (n, q, {m}), q views of n samples, not one of shape {tuple(views.shape)}."
        )
    bad = sum(int((~torch.isfinite(rows).flatten(1).all(1)).sum()) for rows in views.split(_ROWS))
    if bad:
        raise UserError(f"--views: {bad:,} of {len(views):,} samples hold NaN or infinite values.")
