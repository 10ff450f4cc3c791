"""Uniformity of one's own embeddings, and in words what kind of collapse they show.

W2 to N(0, I/m) parts into what the mean and what the covariance contribute,

    W2^2 = |mu|^2 + [ 1 + tr S - (2/sqrt m) tr S^{1/2} ],

and a covariance with the same traces that is flat on d* coordinates has d* = (tr S^{1/2})^2 / tr S: the number of
dimensions that W2 sees in use. A uniform sample of N points shows m kappa^2 of them, kappa < 1 its spectral loss
(``laws.spectral_loss``); collapse is measured from there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wasskit.errors import UserError
from wasskit.evaluation.uniformity import FeatureMoments
from wasskit.plugins.study.expectations import root_of_gamma, sphere_excess
from wasskit.plugins.study.laws import nearest_neighbour_distance, spectral_loss, sphere_lu
from wasskit.plugins.study.samples import log_potentials

#: Below this share of the expected dimensions a representation counts as collapsed.
_USED = 0.75
#: |mu|^2 above which the mean counts as shifted, beyond its sampling noise 1/N.
_SHIFTED = 0.1
#: tr S below which all features are one point.
_POINT = 0.01
#: Share of distinct instances, or of clusters, below which they count as few.
_DISTINCT = 0.55
#: Twice the radius holds at most this many times the pairs where the radius separates clusters.
_PLATEAU = 1.25
_BATCH = 4096
_NEIGHBOURS = 4096


@dataclass(frozen=True)
class Measurement:
    """Everything that is measured of (N, m) embeddings, each row divided by its length.

    Args:
        zeros: rows of length 0, which have no direction and are left out (of the alignment, pairs with such a row).
        w2_expected, lu_uniform: what N uniform points would show.
        used_dims, used_dims_expected: d* and its value for N uniform points.
        location, spread: the shares |mu|^2 and the covariance's part of W2^2.
        distinct: rows that differ.
        clusters: one over the chance that two rows, drawn with replacement from the ``sampled`` ones (at most 4096),
            belong to one cluster; None where there are none. ``within`` and ``typical`` are the root mean square
            distances of two rows of one cluster, and of any two.
        neighbour, neighbour_expected: median distance to the nearest other of the sampled rows, and its value for
            uniform points.
        norm_mean, norm_sd: of the lengths before division.
        spectrum: log singular values of the covariance (1/(N-1)), descending.
    """

    n: int
    m: int
    zeros: int
    w2: float
    w2_expected: float
    lu: float
    lu_uniform: float
    lu_pairs: int
    t: float
    mean_norm: float
    location: float
    spread: float
    trace: float
    effective_rank: float
    numerical_rank: int
    used_dims: float
    used_dims_expected: float
    distinct: int
    clusters: float | None
    within: float
    typical: float
    sampled: int
    neighbour: float
    neighbour_expected: float
    norm_mean: float
    norm_sd: float
    alignment: float | None
    spectrum: Tensor


@dataclass(frozen=True)
class Finding:
    """One kind of collapse, or health, and a sentence on it."""

    kind: str
    sentence: str


def measure_embeddings(
    features: Tensor,
    *,
    pairs_of: Tensor | None = None,
    t: float = 2.0,
    pairs: int | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Measurement:
    """Measure embeddings (N, m), N >= 2.

    Args:
        pairs_of: second views (N, m) of the same samples, for the alignment.
        pairs: how many pairs of rows L_U visits at least, in an order shuffled by ``seed``; None: all.

    Raises:
        UserError: wrong shapes, values that are not finite, fewer than two rows that are not zero.
    """
    check_embeddings(features, "The embeddings")
    lengths = torch.cat([_unit(rows)[1] for rows in features.split(_BATCH)])
    kept = lengths > 0
    aligned = None
    if pairs_of is not None:
        check_embeddings(pairs_of, "The pairs")
        aligned = _alignment(features, pairs_of)
    zeros = int((~kept).sum())
    if zeros:
        features, lengths = features[kept], lengths[kept]
    n, m = features.shape

    # Rows of a file are often ordered by class: tiles of neighbours would not be a sample of all pairs.
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    moments = FeatureMoments(normalise=False, dtype=features.dtype)
    z = torch.empty(n, m, dtype=torch.float32, device=device)
    codes = []
    for places, rows in zip(order.split(_BATCH), z.split(_BATCH), strict=True):
        unit = _unit(features[places])[0].to(device)
        moments.update(unit)
        codes.append(_codes(unit))
        rows.copy_(unit)
    spectrum = moments.spectrum().cpu()
    eigenvalues = spectrum.exp() * ((n - 1) / n)
    root_trace = float(eigenvalues.sqrt().sum())
    location, trace = float(moments.mean.square().sum()), float(moments.covariance.trace())
    ones = torch.ones(n, 1, dtype=z.dtype, device=device)
    ((lu,),), visited = log_potentials(z, [m], ones, [t], pairs=pairs)
    few = _unit(features[order[:_NEIGHBOURS]])[0].to(device)
    neighbour, clusters, within = _clusters(few, trace)
    return Measurement(
        n=n, m=m, zeros=zeros, w2=float(moments.w2()),
        w2_expected=root_of_gamma(*sphere_excess(m, n))[0],
        lu=lu, lu_uniform=sphere_lu(m, t), lu_pairs=visited, t=t, mean_norm=math.sqrt(location), location=location,
        spread=1 + trace - 2 / math.sqrt(m) * root_trace, trace=trace, effective_rank=float(moments.effective_rank()),
        numerical_rank=int(torch.isfinite(spectrum).sum()),
        used_dims=root_trace**2 / trace if trace > 0 else 0.0, used_dims_expected=m * spectral_loss(m, n) ** 2,
        distinct=len(torch.unique(torch.cat(codes), dim=0)), clusters=clusters, within=within,
        typical=math.sqrt(2 * trace), sampled=len(few), neighbour=neighbour,
        neighbour_expected=nearest_neighbour_distance(m, len(few)), norm_mean=float(lengths.mean()),
        norm_sd=float(lengths.std()), alignment=aligned, spectrum=spectrum,
    )  # fmt: skip


def _unit(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows divided by their length, in float64, and the lengths; zero rows stay. Safe at any magnitude."""
    wide = rows.double()
    largest = wide.abs().amax(dim=1, keepdim=True)
    scaled = wide / torch.where(largest > 0, largest, 1.0)
    norm = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    return scaled / torch.where(norm > 0, norm, 1.0), (norm * largest)[:, 0]


def _alignment(first: Tensor, second: Tensor) -> float | None:
    """mean |z - z'|^2 over the pairs without a zero vector, which has no direction; None where there are none."""
    total, count = 0.0, 0
    for a, b in zip(first.split(_BATCH), second.split(_BATCH), strict=True):
        (one, lengths), (other, others) = _unit(a), _unit(b)
        both = (lengths > 0) & (others > 0)
        total += float((one - other)[both].square().sum())
        count += int(both.sum())
    return total / count if count else None


def check_embeddings(features: Tensor, what: str) -> None:
    """Raises ``UserError`` unless they are a matrix (N, m), m >= 2, finite, and two rows are not zero."""
    if features.dim() != 2 or features.shape[1] < 2:
        raise UserError(
            f"{what} must be a matrix (N, m) with one row per sample and m >= 2, got shape {tuple(features.shape)}."
        )
    finite = torch.cat([torch.isfinite(rows).all(dim=1) for rows in features.split(_BATCH)])
    if not bool(finite.all()):
        bad = (~finite).nonzero()[:, 0]
        raise UserError(
            f"{what}: {len(bad):,} of {len(features):,} rows hold NaN or infinite values, the first is row "
            f"{int(bad[0])} (counted from 0)."
        )
    if sum(int(rows.any(dim=1).sum()) for rows in features.split(_BATCH)) < 2:
        raise UserError(f"{what}: uniformity is measured on at least two embeddings that are not zero vectors.")


def _codes(unit: Tensor) -> Tensor:
    """Two random projections of each row of unit length, in steps of 1e-6: rows that differ in them are distinct."""
    generator = torch.Generator().manual_seed(0)
    axes = torch.randn(unit.shape[1], 2, generator=generator, dtype=torch.float64).to(unit.device)
    return torch.round(1e6 * (unit @ axes)).long()


def _clusters(z: Tensor, trace: float) -> tuple[float, float | None, float]:
    """Median distance to the nearest other row; the number of clusters; the distance within them.

    Where rows form clusters, the number of pairs within a radius hardly grows between the largest distance inside of a
    cluster and the smallest between two: it has a plateau. On a cloud spread over d dimensions it grows like the
    radius to the power d. The largest radius, of those in steps of a quarter octave below half of the typical distance
    sqrt(2 tr S), whose double holds at most 1.25 times as many pairs (a row with itself included) separates clusters;
    one over the chance that two rows are within it is their number.
    """
    n = len(z)
    squared = (2 - 2 * (z @ z.mT)).clamp_min_(0).fill_diagonal_(0)
    nearest = float(squared.clone().fill_diagonal_(torch.inf).amin(dim=1).median().sqrt())
    steps = [2 * trace * 2 ** (-place / 2) for place in range(64)]
    edges = torch.tensor(steps[::-1], dtype=squared.dtype, device=squared.device)
    found = torch.bincount(torch.bucketize(squared, edges).view(-1), minlength=len(steps) + 1)
    held = found[:-1].cumsum(0).flip(0).tolist()  # pairs at most as far apart as each step
    for radius, inner, outer in zip(steps[4:], held[4:], held, strict=False):
        if outer <= _PLATEAU * inner:
            pairs = inner - n
            if pairs:
                within = math.sqrt(float(squared[squared <= radius].sum()) / pairs)
                return nearest, n * n / inner, within
            break
    return nearest, None, 0.0


def verdict(x: Measurement) -> list[Finding]:
    """What the figures say, the gravest first; a single finding ``healthy`` where nothing is wrong."""
    if x.trace < _POINT:
        return [
            Finding(
                "complete collapse",
                f"All embeddings are (nearly) one point: their spread around the mean is {x.trace:.1e} of their "
                "squared length. Nothing can be told apart from them.",
            )
        ]
    return _partial_findings(x) or [_sound_finding(x)]


def _partial_findings(x: Measurement) -> list[Finding]:
    """What is wrong short of a complete collapse."""
    findings = []
    if x.distinct <= _DISTINCT * x.n:
        findings.append(
            Finding(
                "few distinct instances",
                f"Only {x.distinct:,} of {x.n:,} embeddings differ: instances are repeated. W2 does not see this, "
                "L_U and the count do.",
            )
        )
    elif x.clusters is not None and x.clusters <= _DISTINCT * x.sampled:
        findings.append(
            Finding(
                "clusters",
                f"The embeddings form about {_count(x.clusters)} clusters: two within one are {x.within:.2g} apart, "
                f"any two {x.typical:.2g}. Classes may be told apart, instances within a cluster hardly.",
            )
        )
    if x.location > _SHIFTED + 4 / x.n:
        findings.append(
            Finding(
                "mean shift",
                f"The embeddings share a direction: their mean has the length {x.mean_norm:.2f} (0 where uniform) and "
                f"makes {x.location / x.w2**2:.0%} of W2 squared. Centre them, or penalise W2.",
            )
        )
    share = x.used_dims / x.used_dims_expected
    if share < _USED:
        empty = x.m - x.numerical_rank if x.numerical_rank < min(x.m, x.n - 1) else 0
        findings.append(
            Finding(
                "dimensional collapse",
                f"The embeddings use about {_count(x.used_dims)} of {x.m} dimensions, where {x.n:,} uniform points "
                f"would show {_count(x.used_dims_expected)}: a collapse of {1 - share:.0%}"
                + (f"; {empty} dimensions are empty." if empty else "."),
            )
        )
    return findings


def _sound_finding(x: Measurement) -> Finding:
    """What can be said where nothing is wrong."""
    if x.n <= x.m:
        return Finding(
            "undecided",
            f"Nothing speaks of collapse, but {x.n:,} embeddings span at most {x.n - 1} of {x.m} dimensions, "
            "whatever the others do.",
        )
    return Finding(
        "healthy",
        f"No collapse: {_count(x.used_dims)} of {x.m} dimensions in use (uniform: "
        f"{_count(x.used_dims_expected)}), mean length {x.mean_norm:.2g}, W2 {x.w2:.3f} "
        f"against {x.w2_expected:.3f} of a uniform sample.",
    )


def cautions(x: Measurement) -> list[str]:
    """What limits the figures."""
    said = []
    if x.n <= x.m:
        said.append(
            # On n - 1 dimensions tr S^{1/2} is at most sqrt((n - 1) tr S), and |mu|^2 + tr S is 1.
            f"{x.n:,} embeddings in {x.m} dimensions span at most {x.n - 1}: W2 cannot fall below "
            f"{math.sqrt(2 - 2 * math.sqrt((x.n - 1) / x.m)):.2f} here. Measure at least {4 * x.m:,}."
        )
    if x.zeros:
        said.append(f"{x.zeros:,} zero vectors lie on no sphere and were left out.")
    return said


def _count(dims: float) -> str:
    return f"{dims:.0f}" if dims >= 10 else f"{dims:.1f}"


def as_mapping(x: Measurement) -> dict[str, Any]:
    """Plain values of a measurement, without the spectrum."""
    return {
        name: getattr(x, name) for name in x.__dataclass_fields__ if name != "spectrum" and getattr(x, name) is not None
    }
