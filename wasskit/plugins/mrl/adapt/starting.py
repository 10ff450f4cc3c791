"""The axes that an adaptor of labelled vectors starts from: principal ones, or those that tell classes apart.

Whether the latter serve is seen on classes that are left out: a class that is met later has to gain by them too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from wasskit.data.seeds import derive_seed
from wasskit.evaluation.ties import blocks, nearest_blocks
from wasskit.plugins.mrl.adapt.data import Vectors
from wasskit.plugins.mrl.adapt.network import principal_axes, turned

RIDGES = (10.0, 1.0)
WORTH = 0.9
"""The share of the errors of principal axes that others must come below: a choice among few errors is noise."""
FEWEST = 10
"""Classes of which some can be left out."""
ROWS, MEASURED = 20_000, 2_000
"""Vectors, at most, that a choice learns from, and that it measures."""


def starting_axes(vectors: Vectors, dims: Sequence[int], *, seed: int = 0) -> tuple[Tensor, Tensor]:
    r"""Mean (D,) and axes (D, D) to start from: the principal ones, or :func:`discriminant_axes`.

    Of half of the classes the axes are found, and within the others, at each prefix d, :math:`e_d` is the share of
    vectors whose nearest one is of another class, and both ways around. The ridge with the least
    :math:`\overline{\log (e_d / e_d^0)}` is taken, :math:`e_d^0` being that of principal axes, where it is below
    :math:`\log` ``WORTH``.
    """
    assert vectors.labels is not None
    labels = vectors.labels
    classes = labels.unique()
    found: dict[float, list[Tensor]] = {ridge: [] for ridge in (math.inf, *RIDGES)}
    if len(classes) >= FEWEST:
        generator = torch.Generator().manual_seed(derive_seed(seed, "start"))
        for held in classes[torch.randperm(len(classes), generator=generator)].chunk(2):
            left = torch.isin(labels, held)
            known, others = some(vectors, ~left, ROWS, generator), some(vectors, left, MEASURED, generator)
            for ridge, errors in found.items():
                errors.append(prefix_errors(projected(others.rows, *_axes(known, ridge)), others.labels, dims))
        first = torch.stack(found[math.inf])
        gains = {ridge: float((torch.stack(errors) / first).log().mean()) for ridge, errors in found.items()}
        best = min(gains, key=lambda ridge: gains[ridge])
        if gains[best] < math.log(WORTH):
            return _axes(vectors, best)
    return principal_axes(vectors.rows)


def _axes(vectors: Vectors, ridge: float) -> tuple[Tensor, Tensor]:
    assert vectors.labels is not None
    if math.isinf(ridge):
        return principal_axes(vectors.rows)
    return discriminant_axes(vectors.rows, vectors.labels, ridge)


@torch.no_grad()
def discriminant_axes(x: Tensor, labels: Tensor, ridge: float = 1.0) -> tuple[Tensor, Tensor]:
    r"""Mean (D,) and axes (D, D), as rows, of the unit rows of ``x`` (N, D) with classes ``labels`` (N,); float32.

    The axes a solve :math:`S a = \lambda (W + \rho \bar{w} I) a` by falling :math:`\lambda`, S being the covariance,
    W that within the classes and :math:`\bar{w}` its mean eigenvalue (linear discriminant analysis with the ridge
    :math:`\rho`, whose large values lead to the principal axes; Friedman, Regularized discriminant analysis, 1989).
    They are scaled together so that the total variance is that of the rows. Where no class varies, they are the
    principal axes. Float64 sums over blocks of rows: O(D (D + classes)) memory besides ``x``.
    """
    width = x.shape[1]
    classes, dense = labels.unique(return_inverse=True)
    sums = x.new_zeros(len(classes), width, dtype=torch.float64)
    second = x.new_zeros(width, width, dtype=torch.float64)
    for rows in blocks(len(x), 4096):
        unit = F.normalize(x[rows].float(), dim=1).double()
        sums.index_add_(0, dense[rows], unit)
        second += unit.mT @ unit
    counts = dense.bincount(minlength=len(classes)).to(sums)
    mean = sums.sum(0) / len(x)
    covariance = second / len(x) - torch.outer(mean, mean)
    within = (second - sums.mT @ (sums / counts[:, None])) / len(x)
    scatter = float(within.trace()) / width
    if scatter <= 1e-12 * float(covariance.trace()) / width:
        return principal_axes(x)
    ridged = within + ridge * scatter * torch.eye(width, dtype=within.dtype, device=within.device)
    root = torch.linalg.cholesky(ridged)
    half = torch.linalg.solve_triangular(root, covariance, upper=False)
    whitened = torch.linalg.solve_triangular(root, half.mT, upper=False)
    values, vectors = torch.linalg.eigh((whitened + whitened.mT) / 2)
    axes = torch.linalg.solve_triangular(root.mT, vectors, upper=True).mT.flip(0)
    scale = (covariance.trace() / values.clamp_min(0).sum()).sqrt()
    return mean.float(), (turned(axes) * scale).float()


def some(vectors: Vectors, which: Tensor, most: int, generator: torch.Generator) -> Vectors:
    """The vectors where ``which`` (N,) is true, ``most`` of them drawn where they are more."""
    assert vectors.labels is not None
    rows = which.nonzero()[:, 0]
    rows = rows[torch.randperm(len(rows), generator=generator)[:most]]
    return Vectors(vectors.rows[rows], vectors.labels[rows])


def projected(rows: Tensor, mean: Tensor, axes: Tensor) -> Tensor:
    """Coordinates (N, D) of the unit ``rows`` about a mean (D,) on axes (D, D)."""
    return (F.normalize(rows.float(), dim=1) - mean) @ axes.mT


def prefix_errors(
    found: Tensor, labels: Tensor | None, dims: Sequence[int], bank: Tensor | None = None, known: Tensor | None = None
) -> Tensor:
    """The share of vectors ``found`` (N, m), one more counted as wrong, whose nearest one is of another class, at each
    prefix; the nearest of the others, or of a ``bank`` (M, m) with the classes ``known`` (M,)."""
    assert labels is not None
    errors = []
    for d in dims:
        unit = F.normalize(found[:, :d], dim=1)
        items = unit if bank is None else F.normalize(bank[:, :d], dim=1)
        places = torch.cat([one for _, _, one in nearest_blocks(unit, items, 1, own=bank is None)])
        errors.append(((labels if known is None else known)[places[:, 0]] != labels).sum() + 1)
    return torch.stack(errors).double() / (len(labels) + 1)
