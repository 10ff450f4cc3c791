r"""Metrics that predict a probe's accuracy without labels, each as published.

* RankMe (Garrido, Balestriero, Najman and LeCun, 2023): the exponential of the entropy of the singular values.
* alpha-ReQ (Agrawal, Mondal, Ghosh and Richards, 2022): the decay of the covariance's eigenvalues as a power of
their rank.
* LiDAR (Thilak et al., 2024): RankMe of the discriminant matrix of several views per sample.
* Sliced W2 to N(0, I / m) of unit features, the sliced counterpart of ``w2_uniformity``.

Features are (N, m), used as they are unless told otherwise; batches of rows are read in float64, so that memory is
that of m x m. SIGReg's statistic is in :mod:`wasskit.evaluation.gaussianity`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wasskit.errors import UserError
from wasskit.evaluation.rows import shape_of, unit_rows
from wasskit.evaluation.uniformity import FeatureMoments
from wasskit.ot.directions import slicing_directions
from wasskit.ot.precision import at_least_float32
from wasskit.ot.sliced import sliced_gaussian_wasserstein_squared

_ROWS = 4096
_ENTROPY_EPS = 1e-7
_LIDAR_RIDGE = 1e-4


def rankme(features: Tensor) -> Tensor:
    r"""exp(-sum_k p_k log p_k), p_k = s_k / |s|_1 + 1e-7, for the singular values s of ``features`` (N, m), not
    centred.

    (Garrido et al., 2023, eqs. 1 and 2.) A float64 scalar, about 1 to min(N, m); 0 for features that are all zero.
    Singular values come from the second moments: those below 1e-8 of the largest are not told from 0.

    Example:
        >>> import torch, wasskit
        >>> round(float(wasskit.rankme(torch.eye(8))), 3)
        8.0
    """
    return spectral_metrics(features)[0]


def alpha_req(features: Tensor, ranks: tuple[int, int] | None = None) -> Tensor:
    """The decay alpha of the eigenvalues of the covariance of ``features`` (N, m): lambda_j ~ j^-alpha.

    (Agrawal et al., 2022; the fit is Stringer et al.'s, 2019: ``power_law_decay``.) A float64 scalar; 0 for a flat
    spectrum, NaN where fewer than two eigenvalues are in the range.

    Args:
        ranks: first and last rank of the fit, counted from 1; by default ``default_ranks`` of the number of
            eigenvalues above 0. The published ranges differ between data sets.

    Raises:
        UserError: no matrix of at least one row, or invalid ranks.

    Example:
        >>> import torch, wasskit
        >>> scales = torch.arange(1, 65).double() ** -0.5  # eigenvalues j^-1
        >>> features = torch.linalg.qr(torch.randn(999, 64).double())[0] * scales
        >>> 0.9 < float(wasskit.alpha_req(features)) < 1.1
        True
    """
    return spectral_metrics(features, ranks)[1]


def spectral_metrics(features: Tensor, ranks: tuple[int, int] | None = None) -> tuple[Tensor, Tensor]:
    """``rankme`` and ``alpha_req`` in one sweep over the rows.

    Raises ``UserError`` for anything but a matrix (N, m) with N, m >= 1.
    """
    shape_of(features)
    largest = max(float(rows.abs().amax()) for rows in features.split(_ROWS))
    moments = FeatureMoments(normalise=False, dtype=features.dtype)
    for rows in features.split(_ROWS):  # both metrics are blind to scale, which may be too large to square
        moments.update(rows.double() / (largest or 1.0))
    covariance = moments.covariance
    second = covariance + torch.outer(moments.mean, moments.mean)
    singular = torch.linalg.eigvalsh(second).clamp_min(0).sqrt().flip(0)[: min(features.shape)]
    eigenvalues = torch.linalg.eigvalsh(covariance).flip(0)[: min(len(features) - 1, features.shape[1])]
    return entropy_rank(singular), power_law_decay(eigenvalues, ranks)


def entropy_rank(values: Tensor) -> Tensor:
    """exp(-sum p log p), p = v / sum v + 1e-7, of values (k,) not below 0: RankMe and LiDAR. 0 where all are 0."""
    total = values.sum()
    shares = values / torch.where(total > 0, total, 1.0) + _ENTROPY_EPS
    entropy = -(shares * shares.log()).sum()
    return torch.where(total > 0, entropy.exp(), 0.0)


def default_ranks(count: int) -> tuple[int, int]:
    """The ranks that alpha is fitted on: 11 to 50 as published for neural data; the middle of shorter spectra."""
    if count >= 60:
        return 11, 50
    return min(max(count // 5, 1), max(count - 1, 1)), max(count - count // 5, min(2, count))


def power_law_decay(eigenvalues: Tensor, ranks: tuple[int, int] | None = None) -> Tensor:
    """alpha of the least squares fit log lambda_j = c - alpha log j over a range of ranks, with the weights 1 / j.

    ``eigenvalues`` (k,), descending; those that are not above 1e-14 of the largest are left out. (Stringer
    et al., 2019.)
    """
    kept = eigenvalues[eigenvalues > 1e-14 * eigenvalues[:1].clamp_min(0)] if len(eigenvalues) else eigenvalues
    if len(kept) < 2:
        return eigenvalues.new_full((), torch.nan)
    first, last = ranks or default_ranks(len(kept))
    if not 1 <= first < last:
        raise UserError(f"A decay is fitted between two ranks, the first at least 1, not {first} and {last}.")
    chosen = kept[first - 1 : last]
    if len(chosen) < 2:
        return eigenvalues.new_full((), torch.nan)
    rank = torch.arange(first, first + len(chosen), dtype=chosen.dtype, device=chosen.device)
    weights = 1 / rank
    x, y = rank.log(), chosen.log()
    centred = x - (weights @ x) / weights.sum()
    return -(weights * centred) @ y / ((weights * centred) @ centred)


def lidar(views: Tensor, ridge: float = _LIDAR_RIDGE) -> Tensor:
    r"""The rank that a discriminant of samples from their views sees, for ``views`` (n, q, m): q >= 2 views of n
    samples.

    .. math::
        S_b = \tfrac1{n-1} \sum_x (\mu_x - \mu)(\mu_x - \mu)^\top, \quad
        S_w = \tfrac1{n(q-1)} \sum_x \sum_v (z_{xv} - \mu_x)(z_{xv} - \mu_x)^\top + \delta I

    and ``entropy_rank`` of the eigenvalues of :math:`S_w^{-1/2} S_b S_w^{-1/2}` (Thilak et al., 2024;
    :math:`\delta` = ``ridge``). A float64 scalar, about 1 to min(m, n - 1). Raises ``UserError`` for other shapes.

    Example:
        >>> import torch, wasskit
        >>> samples = torch.randn(500, 1, 16)
        >>> 12 < float(wasskit.lidar(samples + 0.01 * torch.randn(500, 4, 16))) <= 16
        True
    """
    if views.ndim != 3 or len(views) < 2 or views.shape[1] < 2 or views.shape[2] < 1:
        raise UserError(
            f"LiDAR needs views of shape (n, q, m), at least two views of two samples, got {tuple(views.shape)}."
        )
    n, q, m = views.shape
    means = FeatureMoments(normalise=False)
    within = torch.zeros(m, m, dtype=torch.float64, device=views.device)
    for block in views.split(max(1, _ROWS // q)):
        wide = block.double()
        centres = wide.mean(1)
        means.update(centres)
        apart = (wide - centres.unsqueeze(1)).flatten(0, 1)
        within.addmm_(apart.mT, apart)
    within /= n * (q - 1)
    within.diagonal().add_(ridge)
    between = means.scatter / (n - 1)
    values, vectors = torch.linalg.eigh(within)
    # Without a ridge, directions along which the views agree wholly are left out rather than divided by 0.
    root = vectors * torch.where(values > 0, values, torch.inf).rsqrt()
    eigenvalues = torch.linalg.eigvalsh(root.mT @ between @ root).clamp_min(0).flip(0)
    return entropy_rank(eigenvalues[: min(n - 1, m)])


def sliced_uniformity(
    features: Tensor,
    *,
    normalise: bool = True,
    directions: Tensor | None = None,
    count: int = 256,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""sqrt m times the sliced W2 distance of features (N, m), of unit length, to N(0, I / m).

    The factor makes it sqrt(mean over directions of W2^2 to N(0, 1) of sqrt m times the projections): 1 for one
    point at the origin, whatever m. Differentiable; float64 for float64 features, else float32. Raises
    ``UserError`` for anything but a matrix.

    Example:
        >>> import torch, wasskit
        >>> even, collapsed = torch.randn(500, 8), torch.randn(500, 1) * torch.ones(8)
        >>> bool(wasskit.sliced_uniformity(even) < wasskit.sliced_uniformity(collapsed))
        True
    """
    _, m = shape_of(features)
    x = at_least_float32(features)
    x = unit_rows(x) if normalise else x
    if directions is None:
        directions = slicing_directions(count, m, like=x.detach(), generator=generator)
    return sliced_gaussian_wasserstein_squared(x * m**0.5, directions=directions).sqrt()
