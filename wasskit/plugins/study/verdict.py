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

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wasskit.errors import UserError
from wasskit.evaluation.uniformity import FeatureMoments, alignment
from wasskit.plugins.study.laws import SphereLaw, spectral_loss, sphere_lu
from wasskit.plugins.study.samples import log_potentials

__all__ = [
    "Finding",
    "Measurement",
    "as_mapping",
    "cautions",
    "measure_embeddings",
    "uniform_spectrum",
    "verdict",
]

#: Below this share of the expected dimensions a representation counts as collapsed.
_USED = 0.75
#: |mu|^2 above which the mean counts as shifted, beyond its sampling noise 1/N.
_SHIFTED = 0.1
#: tr S below which all features are one point.
_POINT = 0.01
#: Share of distinct instances below which they count as few.
_DISTINCT = 0.55
_BATCH = 4096
_NEIGHBOURS = 4096


@dataclass(frozen=True)
class Measurement:
    """Everything that is measured of (N, m) embeddings, each row divided by its length.

    Args:
        zeros: rows of length 0, which lie on no sphere and are left out.
        w2_expected, lu_uniform: what N uniform points would show.
        used_dims, used_dims_expected: d* and its value for N uniform points.
        location, spread: the shares |mu|^2 and the covariance's part of W2^2.
        distinct: rows that differ.
        clusters: one over the chance that two rows (nearly) coincide, among at most 4096; ``neighbour`` the median
            distance to the nearest other row there, ``neighbour_expected`` what it would be for points spread over
            the used dimensions.
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
    clusters: float
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
    _check(features, "The embeddings")
    lengths = torch.cat(
        [torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64) for rows in features.split(_BATCH)]
    )
    kept = lengths > 0
    if int(kept.sum()) < 2:
        raise UserError("At least two embeddings that are not zero vectors are needed to measure uniformity.")
    aligned = None
    if pairs_of is not None:
        _check(pairs_of, "The pairs")
        aligned = float(alignment(features.double(), pairs_of.double()))
    zeros = int((~kept).sum())
    if zeros:
        features, lengths = features[kept], lengths[kept]
    n, m = features.shape

    moments = FeatureMoments()
    for rows in features.split(_BATCH):
        moments.update(rows.to(device))
    spectrum = moments.spectrum().cpu()
    eigenvalues = spectrum.exp() * ((n - 1) / n)
    root_trace = float(eigenvalues.sqrt().sum())
    location, trace = float(moments.mean.square().sum()), float(moments.covariance.trace())

    # Rows of a file are often ordered by class: tiles of neighbours would not be a sample of all pairs.
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    rows = features[order].float().to(device)
    inverse = (1 / lengths[order])[:, None].to(device)
    ((lu,),), visited = log_potentials(rows, [m], inverse, [t], pairs=pairs)
    few = rows[:_NEIGHBOURS].double() * inverse[:_NEIGHBOURS]
    used = root_trace**2 / trace if trace > 0 else 0.0
    expected_used = m * spectral_loss(m, n) ** 2
    neighbour, neighbour_expected, clusters = _neighbours(few, used, trace)
    return Measurement(
        n=n, m=m, zeros=zeros, w2=float(moments.w2()),
        w2_expected=math.sqrt(2 - 2 * SphereLaw(m, n).root_trace / math.sqrt(m)),
        lu=lu, lu_uniform=sphere_lu(m, t), lu_pairs=visited, t=t, mean_norm=math.sqrt(location), location=location,
        spread=1 + trace - 2 / math.sqrt(m) * root_trace, trace=trace, effective_rank=float(moments.effective_rank()),
        numerical_rank=int(torch.isfinite(spectrum).sum()), used_dims=used, used_dims_expected=expected_used,
        distinct=_distinct(features, lengths), clusters=clusters, sampled=len(few), neighbour=neighbour,
        neighbour_expected=neighbour_expected, norm_mean=float(lengths.mean()), norm_sd=float(lengths.std()),
        alignment=aligned, spectrum=spectrum,
    )  # fmt: skip


def _check(features: Tensor, what: str) -> None:
    if features.dim() != 2 or features.shape[1] < 2:
        raise UserError(
            f"{what} must be a matrix (N, m) with one row per sample and m >= 2, got shape {tuple(features.shape)}."
        )
    for start in range(0, len(features), _BATCH):
        bad = ~torch.isfinite(features[start : start + _BATCH]).all(dim=1)
        if bool(bad.any()):
            row = start + int(bad.nonzero()[0])
            raise UserError(f"{what} hold NaN or infinite values, first in row {row}.")


def _distinct(features: Tensor, lengths: Tensor) -> int:
    """How many directions differ by more than 1e-6 in two random projections."""
    generator = torch.Generator().manual_seed(0)
    axes = torch.randn(features.shape[1], 2, generator=generator, dtype=torch.float64)
    codes = torch.cat(
        [
            torch.round(1e6 * (rows.double() @ axes) / scale[:, None]).long()
            for rows, scale in zip(features.split(_BATCH), lengths.split(_BATCH), strict=True)
        ]
    )
    return len(torch.unique(codes, dim=0))


def _neighbours(z: Tensor, used: float, trace: float) -> tuple[float, float, float]:
    """Median distance to the nearest other row; what to expect of it; and the number of clusters.

    Points spread over d dimensions have their neighbours at about n^(-1/(d-1)) of the typical distance sqrt(2 tr S).
    Rows closer than a fifth of that belong to one cluster; one over the chance that two rows do is their number.
    """
    n = len(z)
    squared = (2 - 2 * (z @ z.mT)).clamp_min_(0)
    squared.fill_diagonal_(torch.inf)
    nearest = float(squared.min(dim=1).values.median().sqrt())
    expected = math.sqrt(2 * trace) * n ** (-1 / max(1.0, used - 1))
    together = float((squared < (expected / 5) ** 2).sum()) / n**2 + 1 / n
    return nearest, expected, 1 / together


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
    findings = []
    if x.distinct <= _DISTINCT * x.n:
        findings.append(
            Finding(
                "few distinct instances",
                f"Only {x.distinct:,} of {x.n:,} embeddings differ: instances are repeated. W2 does not see this, "
                "L_U and the count do.",
            )
        )
    elif x.neighbour < x.neighbour_expected / 5 and x.clusters <= _DISTINCT * x.sampled:
        findings.append(
            Finding(
                "few distinct instances",
                f"Many embeddings nearly coincide, as if there were only about {x.clusters:,.0f} of them: tight "
                "clusters within which instances can hardly be told apart.",
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
    if not findings:
        findings.append(
            Finding(
                "healthy",
                f"No collapse: {_count(x.used_dims)} of {x.m} dimensions in use (uniform: "
                f"{_count(x.used_dims_expected)}), mean length {x.mean_norm:.2f}, W2 {x.w2:.2f} "
                f"against {x.w2_expected:.2f} of a uniform sample.",
            )
        )
    return findings


def cautions(x: Measurement) -> list[str]:
    """What limits the figures."""
    said = []
    if x.n <= x.m:
        said.append(
            f"{x.n:,} embeddings in {x.m} dimensions span at most {x.n - 1}: W2 cannot fall below "
            f"{x.w2_expected:.2f} here. Measure at least {4 * x.m:,}."
        )
    if x.zeros:
        said.append(f"{x.zeros:,} zero vectors lie on no sphere and were left out.")
    return said


def _count(dims: float) -> str:
    return f"{dims:.0f}" if dims >= 10 else f"{dims:.1f}"


def as_mapping(x: Measurement) -> dict[str, Any]:
    """Plain values of a measurement, without the spectrum."""
    return {
        name: getattr(x, name)
        for name in x.__dataclass_fields__
        if name != "spectrum" and getattr(x, name) is not None
    }


def uniform_spectrum(n: int, m: int) -> NDArray[np.float64]:
    """Log eigenvalues, descending, of the covariance of n uniform points on the sphere of R^m: quantiles of the
    limit law.

    Marchenko and Pastur's law of ratio g = m/n: m times an eigenvalue x has the density
    sqrt((b - x)(x - a)) / (2 pi g x) between a, b = (1 -+ sqrt g)^2; with n <= m, m - n + 1 are zero (-inf).
    """
    g = m / n
    low, high = (1 - math.sqrt(g)) ** 2, (1 + math.sqrt(g)) ** 2
    # With x = (a + b)/2 - cos(theta) (b - a)/2 the density has no singular end.
    theta = np.linspace(0, math.pi, 20_001)
    half = (high - low) / 2
    x = (high + low) / 2 - half * np.cos(theta)
    weight = (half * np.sin(theta)) ** 2 / np.maximum(x, 1e-300)
    share = np.concatenate([[0.0], np.cumsum((weight[1:] + weight[:-1]) / 2)])
    present = min(m, n - 1)
    quantiles = np.interp((np.arange(present) + 0.5) / present, share / share[-1], x)
    spectrum = np.full(m, -np.inf)
    spectrum[:present] = np.log(np.maximum(quantiles[::-1], 1e-300) / m)
    return spectrum
