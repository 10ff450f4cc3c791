"""Whether two samples come from one distribution: three distances, each with a permutation p-value.

Under the null the rows of both samples are exchangeable, so that a statistic and its values under ``R`` random
relabellings of the pooled rows are, too: ``p = (1 + #{permuted >= observed}) / (R + 1)`` is at most alpha with a
probability of at most alpha, exactly so at multiples of 1 / (R + 1) where no values tie (Phipson and Smyth, 2010).
All that is chosen besides, directions, coordinates and rows, is chosen without looking at the labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from wasskit.errors import UserError
from wasskit.evaluation.transport import gaussian_distance
from wasskit.ot.directions import slicing_directions
from wasskit.ot.energy import energy_distance
from wasskit.ot.gaussian import bures_wasserstein_squared
from wasskit.ot.sliced import sliced_wasserstein_squared

#: Coordinates in which permuted Gaussians are compared, and rows of each sample that are relabelled.
_COORDINATES = 64
_ROWS = 10_000

Statistic = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Comparison:
    """Distances of two samples (n, d) and (m, d), and their p-values.

    Args:
        frechet: squared Bures-Wasserstein distance of the samples' means and covariances, of all rows.
        sliced_w2: squared sliced W2 distance, of all rows.
        energy: sliced energy distance, unbiased (may be below 0), of all rows.
        frechet_p, sliced_w2_p, energy_p: their permutation p-values, of at most ``rows`` rows of each sample; that
            of the Frechet distance in the leading ``coordinates`` of the pooled rows.
    """

    n: int
    m: int
    dim: int
    frechet: float
    frechet_p: float
    sliced_w2: float
    sliced_w2_p: float
    energy: float
    energy_p: float
    permutations: int
    directions: int
    rows: tuple[int, int]
    coordinates: int

    def p_values(self) -> dict[str, float]:
        return {"frechet": self.frechet_p, "sliced_w2": self.sliced_w2_p, "energy": self.energy_p}


@torch.no_grad()
def compare_samples(
    x: Tensor, y: Tensor, *, permutations: int = 199, directions: int = 128, rows: int = _ROWS, seed: int = 0
) -> Comparison:
    """Compare two independent samples (n, d) and (m, d), n, m >= 2.

    Raises ``UserError`` for shapes that do not fit, values that are not finite, or fewer than two rows.
    """
    _check(x, y)
    generator = torch.Generator().manual_seed(seed)
    axes = slicing_directions(directions, x.shape[1], like=x.new_empty(0, dtype=torch.float64), generator=generator)
    parts = []
    for sample in (x, y):
        chosen = torch.randperm(len(sample), generator=generator)[:rows].to(sample.device)
        parts.append(sample[chosen].double())
    pooled, n = torch.cat(parts), len(parts[0])
    coordinates = _leading(pooled - pooled.mean(0))
    values, order = (axes @ pooled.mT).sort(1)
    first = torch.zeros(len(pooled), dtype=torch.bool, device=pooled.device)
    first[:n] = True
    statistics: dict[str, Statistic] = {
        "frechet": lambda mask: _frechet(coordinates, mask),
        "sliced_w2": _sliced_statistic(values, order, n),
        "energy": lambda mask: _energy(values, mask[order], n),
    }
    observed = {name: float(statistic(first)) for name, statistic in statistics.items()}
    reached = dict.fromkeys(statistics, 1)
    for _ in range(permutations):
        mask = first[torch.randperm(len(pooled), generator=generator).to(first.device)]
        for name, statistic in statistics.items():
            # Sums in another order may differ by their rounding where nothing else does.
            reached[name] += float(statistic(mask)) >= observed[name] * (1 - 1e-12)
    p = {name: count / (permutations + 1) for name, count in reached.items()}
    return Comparison(
        n=len(x), m=len(y), dim=x.shape[1], frechet=gaussian_distance(x, y), frechet_p=p["frechet"],
        sliced_w2=float(sliced_wasserstein_squared(x.double(), y.double(), directions=axes)),
        sliced_w2_p=p["sliced_w2"], energy=float(energy_distance(x, y, axes)), energy_p=p["energy"],
        permutations=permutations, directions=directions, rows=(n, len(parts[1])), coordinates=coordinates.shape[1],
    )  # fmt: skip


def _check(x: Tensor, y: Tensor) -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or x.shape[1] == 0:
        raise UserError(
            f"Two samples are matrices (n, d) and (m, d) of one width, not {tuple(x.shape)} and {tuple(y.shape)}."
        )
    if min(len(x), len(y)) < 2:
        raise UserError(f"A sample needs at least two rows to be compared, not {min(len(x), len(y))}.")
    for name, sample in (("first", x), ("second", y)):
        bad = sum(int((~torch.isfinite(block).all(1)).sum()) for block in sample.split(4096))
        if bad:
            raise UserError(f"{bad:,} of {len(sample):,} rows of the {name} sample hold NaN or infinite values.")


def _leading(centred: Tensor) -> Tensor:
    """Rows in their principal coordinates, at most 64."""
    _, vectors = torch.linalg.eigh(centred.mT @ centred)
    coordinates: Tensor = centred @ vectors[:, -_COORDINATES:]
    return coordinates


def _frechet(points: Tensor, mask: Tensor) -> Tensor:
    moments = [(part.mean(0), part.mT.cov(correction=1)) for part in (points[mask], points[~mask])]
    (mean1, covariance1), (mean2, covariance2) = ((a, torch.atleast_2d(b)) for a, b in moments)
    return bures_wasserstein_squared(mean1, covariance1, mean2, covariance2)


def _sliced_statistic(values: Tensor, order: Tensor, n: int) -> Statistic:
    """Sliced W2 from the pooled projections in order: a subset of them is sorted already.

    Equal weights part [0, 1] alike for every relabelling: pieces, and the ranks whose quantiles they hold,
    are found once.
    """
    total = values.shape[1]
    m = total - n
    # In units of 1 / (n m) the ends of both samples' steps are integers: no rounding decides which comes first.
    ends = torch.cat([m * torch.arange(1, n + 1), n * torch.arange(1, m + 1)]).unique()
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    masses = (ends - starts).to(values) / (n * m)
    in_x, in_y = (starts // m).to(values.device), (starts // n).to(values.device)

    def statistic(mask: Tensor) -> Tensor:
        labels = mask[order]
        x, y = values[labels].view(len(values), n), values[~labels].view(len(values), m)
        distance: Tensor = ((x[:, in_x] - y[:, in_y]).square() @ masses).mean()
        return distance

    return statistic


def _energy(values: Tensor, labels: Tensor, n: int) -> Tensor:
    """mean_theta int (F - G)^2 of the labelled values in order; the bias correction is left out, which depends on
    labels by less than the statistic does.
    """
    m = values.shape[1] - n
    share = labels.to(values.dtype)
    gap = (share / n - (1 - share) / m).cumsum(1)[:, :-1]
    return (gap.square() * values.diff(dim=1)).sum(1).mean()
