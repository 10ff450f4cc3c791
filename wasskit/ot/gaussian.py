"""Optimal transport between Gaussians, in closed form (Bures and Wasserstein).

Everything here is computed in float64 from factors F of the covariances, F F^T = S: by Cholesky where S is definite,
else by its eigenvalues, either to eps |S|. Roots of a product of covariances are singular values of a product of their
factors, which are not squared, so that singular covariances give finite and accurate results.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


def symmetric_power(matrix: Tensor, exponent: float, rcond: float = 1e-12) -> Tensor:
    """``matrix ** exponent`` of a symmetric positive semi-definite matrix (..., D, D).

    Eigenvalues below ``rcond`` times the largest count as zero; with a negative exponent they
    stay zero (pseudo-inverse).
    """
    return _powers(matrix, (exponent,), rcond)[0]


def _powers(matrix: Tensor, exponents: Sequence[float], rcond: float = 1e-12) -> list[Tensor]:
    """`symmetric_power` for several exponents."""
    values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    kept = values > rcond * values[..., -1:].clamp_min(0.0)
    kept_values = values.where(kept, torch.ones_like(values))
    roots = (torch.where(kept, kept_values**exponent, 0.0) for exponent in exponents)
    return [(vectors * root.unsqueeze(-2)) @ vectors.mT for root in roots]


def square_root_factor(matrix: Tensor) -> Tensor:
    """A factor ``F`` with ``F F^T`` equal to the symmetric positive semi-definite matrix (negative
    eigenvalues are noise)."""
    values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    factor: Tensor = vectors * values.clamp_min(0.0).sqrt().unsqueeze(-2)
    return factor


def bures_wasserstein_squared(mean1: Tensor, covariance1: Tensor, mean2: Tensor, covariance2: Tensor) -> Tensor:
    """``W_2^2`` between N(mean1, covariance1) and N(mean2, covariance2): the whole squared distance, not its half.

    ``|m1 - m2|^2 + tr(S1 + S2) - 2 tr((S1^{1/2} S2 S1^{1/2})^{1/2})`` (Dowson and Landau, 1982). The last trace is the
    nuclear norm of ``F2^T F1`` with ``S = F F^T``. Where the Gaussians are nearly equal and the difference would
    cancel, the part of the covariances is ``|F1 - F2 Q|^2``, Q the orthogonal polar factor of ``F2^T F1`` (Bhatia, Jain
    and Lim, 2019): a sum of squares. Shapes (..., D) and (..., D, D), the result (...), all of one dtype, in which it
    is computed: float64 is advised. Differentiable in the means. ``RuntimeError`` for shapes that do not fit.

    Example:
        >>> import torch, wasskit
        >>> mean, covariance = torch.zeros(3).double(), torch.eye(3).double()
        >>> distance = wasskit.bures_wasserstein_squared(mean, covariance, mean + 1, 4 * covariance)
        >>> round(float(distance), 6)  # 3 + 3 (2 - 1)^2
        6.0
    """
    first, second = _factor(covariance1)[0], _factor(covariance2)[0]
    product = second.mT @ first
    total = first.square().sum((-2, -1)) + second.square().sum((-2, -1))
    squared = total - 2.0 * torch.linalg.svdvals(product).sum(-1)
    if not bool((squared > _CANCELLED * total).all()):
        left, _, right = torch.linalg.svd(product)
        squared = (first - second @ (left @ right)).square().sum((-2, -1))
    distance: Tensor = (mean1 - mean2).square().sum(-1) + squared
    return distance


def gaussian_transport_map(covariance1: Tensor, covariance2: Tensor) -> Tensor:
    """The matrix ``T`` (..., D, D) of the optimal map between centred Gaussians, ``x -> T x``, symmetric and
    semi-definite.

    ``T = S1^{-1/2} (S1^{1/2} S2 S1^{1/2})^{1/2} S1^{-1/2}`` (Knott and Smith, 1984). With ``S = F F^T`` and the
    singular values ``F2^T F1 = U diag(s) V^T`` it is ``F1^{-T} V diag(s) V^T F1^{-1}``; where they are close enough to
    each other, their squares from ``F1^T S2 F1`` are as exact, in half the time. Where the source is singular
    (eigenvalues below 1e-12 of the largest) the pseudo-inverse is taken: on the source's support the map is optimal,
    and across it zero. Computed in the dtype of the covariances (..., D, D), of which float64 is advised.
    ``RuntimeError`` for shapes that do not fit.

    Example:
        >>> import torch, wasskit
        >>> wasskit.gaussian_transport_map(torch.eye(2).double(), 9 * torch.eye(2).double()).round(decimals=9)
        tensor([[3., 0.],
                [0., 3.]], dtype=torch.float64)
    """
    first, inverse = _factor_and_inverse(covariance1)
    squares, vectors = torch.linalg.eigh(first.mT @ covariance2 @ first)
    # An eigenvalue is known to eps times the largest one: from here on to eps^(3/4) of itself.
    if bool((squares[..., 0] > torch.finfo(squares.dtype).eps ** 0.25 * squares[..., -1]).all()):
        singular = squares.sqrt()
    else:
        _, singular, right = torch.linalg.svd(_factor(covariance2)[0].mT @ first)
        vectors = right.mT
    root = inverse.mT @ (vectors * singular.sqrt().unsqueeze(-2))
    transport: Tensor = root @ root.mT
    return transport


_CANCELLED = 1e-2
"""Share of the traces below which their difference has lost two digits."""


def _factor(matrix: Tensor) -> tuple[Tensor, bool]:
    """A factor ``F``, ``F F^T`` the symmetric positive semi-definite matrix, and whether it is Cholesky's."""
    lower, failed = torch.linalg.cholesky_ex((matrix + matrix.mT) / 2)
    return (square_root_factor(matrix), False) if bool(failed.any()) else (lower, True)


def _factor_and_inverse(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """A factor ``F`` and its inverse; of a singular matrix its root and the pseudo-inverse of that."""
    lower, definite = _factor(matrix)
    if definite:
        eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
        inverse = torch.linalg.solve_triangular(lower, eye, upper=False)
        # tr S tr S^{-1} bounds the ratio of the largest eigenvalue to the smallest.
        condition = lower.square().sum((-2, -1)) * inverse.square().sum((-2, -1))
        if bool((condition < 1e12).all()):
            return lower, inverse
    root, inverse = _powers(matrix, (0.5, -0.5))
    return root, inverse


class Moments(NamedTuple):
    """Mean (D), covariance (D, D) and number of points of a sample, in float64."""

    mean: Tensor
    covariance: Tensor
    size: int


def streamed_moments(batches: Iterable[Tensor]) -> Moments:
    """Mean and unbiased covariance of a stream of batches (B, D), accumulated in float64 (Chan, Golub and
    LeVeque, 1983).

    Raises:
        ValueError: fewer than two points.
    """
    count = 0
    mean = scatter = torch.zeros(())
    for batch in batches:
        batch = batch.double()
        size = len(batch)
        batch_mean = batch.mean(0)
        centred = batch - batch_mean
        batch_scatter = centred.T @ centred
        if count == 0:
            count, mean, scatter = size, batch_mean, batch_scatter
            continue
        shift = batch_mean - mean
        total = count + size
        scatter = scatter + batch_scatter + torch.outer(shift, shift) * (count * size / total)
        mean = mean + shift * (size / total)
        count = total
    if count < 2:
        raise ValueError("a covariance needs at least two points")
    return Moments(mean, scatter / (count - 1), count)


def shrunk_covariance(moments: Moments) -> Tensor:
    """The covariance shrunk towards a multiple of the identity, where samples are few for the dimension.

    The weight is the one that is optimal for Gaussian data (Chen, Wiesel, Eldar and Hero, 2010, the "oracle
    approximating shrinkage"), close to 1 when samples are fewer than dimensions. From 20 samples per dimension on the
    covariance is kept as it is: the weight, of the order 1/n, would still lift small eigenvalues, which transport maps
    divide by.
    """
    _, covariance, size = moments
    dim = len(covariance)
    if size >= 20 * dim:
        return covariance
    trace = covariance.trace()
    square = covariance.square().sum()
    numerator = (1.0 - 2.0 / dim) * square + trace.square()
    denominator = (size + 1.0 - 2.0 / dim) * (square - trace.square() / dim)
    weight = 1.0 if denominator <= 0 else float((numerator / denominator).clamp(0.0, 1.0))
    eye = torch.eye(dim, dtype=covariance.dtype, device=covariance.device)
    return (1.0 - weight) * covariance + weight * trace / dim * eye


def raised(covariance: Tensor, lowest: float) -> Tensor:
    """The covariance with its eigenvalues raised to ``lowest`` where they are smaller."""
    values, vectors = torch.linalg.eigh((covariance + covariance.mT) / 2)
    lifted: Tensor = (vectors * values.clamp_min(lowest)) @ vectors.mT
    return lifted


class Balance(NamedTuple):
    """Coordinates in which the optimal transport between two Gaussians is the identity; see `balance`.

    Points are (N, D), or images (N, D, H, W) whose D channels are transformed pixel by pixel.
    """

    source_transform: Tensor
    target_transform: Tensor
    source_mean: Tensor
    target_mean: Tensor
    scale: Tensor

    def source(self, x: Tensor) -> Tensor:
        """``A (x - m1)``."""
        return along_channels(self.source_transform, x - like_channels(self.source_mean, x))

    def target(self, y: Tensor) -> Tensor:
        """``c A^{-T} (y - m2)``."""
        return along_channels(self.target_transform, y - like_channels(self.target_mean, y))

    def source_back(self, x: Tensor) -> Tensor:
        """The inverse of ``source``."""
        back = along_channels(self.target_transform.mT, x) / self.scale
        return back + like_channels(self.source_mean, x)

    def gaussian_map(self, x: Tensor) -> Tensor:
        """Points of the first measure under the optimal map between the two Gaussians."""
        moved = along_channels(self.source_transform.mT, self.source(x)) / self.scale
        return moved + like_channels(self.target_mean, x)

    def to(self, like: Tensor) -> Balance:
        """The same coordinates in the dtype and on the device of ``like``."""
        return Balance(*(t.to(like) for t in self))

    def half_squared_distance(self, products: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """``E |x - y|^2 / 2`` under a coupling, from ``E <x', y'>`` of the transformed points and a batch of either
        measure. Computed about the two means, so that points far from zero lose no digits.
        """
        m, n = like_channels(self.source_mean, x), like_channels(self.target_mean, y)
        from_m, from_n = x - m, y - n
        between = ((m - n) * ((m - n) / 2 + from_m.mean(0, keepdim=True) - from_n.mean(0, keepdim=True))).sum()
        around = from_m.square().flatten(1).sum(1).mean() + from_n.square().flatten(1).sum(1).mean()
        return between + 0.5 * around - products / self.scale


def along_channels(matrix: Tensor, x: Tensor) -> Tensor:
    """``matrix`` (D, D) times the second axis of ``x`` (N, D, ...)."""
    return x @ matrix.mT if x.ndim == 2 else torch.einsum("ij,nj...->ni...", matrix, x)


def like_channels(vector: Tensor, x: Tensor) -> Tensor:
    """``vector`` (D) shaped to broadcast along the second axis of ``x`` (N, D, ...)."""
    return vector.view(1, -1, *[1] * (x.ndim - 2))


def balance(mean1: Tensor, covariance1: Tensor, mean2: Tensor, covariance2: Tensor, floor: float = 1e-4) -> Balance:
    """Change of coordinates ``x' = A (x - m1)``, ``y' = c A^{-T} (y - m2)`` that makes the optimal Gaussian
    map the identity.

    Because ``<x', y'> = c <x - m1, y - m2>``, couplings, convex potentials and optimal maps correspond one to one. With
    ``T`` the optimal map of the covariances, ``A = sqrt(c) T^{1/2}`` gives both clouds the covariance ``c T^{1/2} S1
    T^{1/2}``; ``c`` is chosen to make its mean eigenvalue one. Eigenvalues of both covariances are raised to ``floor``
    times the mean one, so that ``A`` is invertible; that of a single point counts as 1e-12 of the other's.
    """
    dim = len(covariance1)
    means = [float(covariance.diagonal().mean()) for covariance in (covariance1, covariance2)]
    least = 1e-12 * max(means) or 1.0
    first, second = (
        raised(covariance, floor * max(mean, least))
        for covariance, mean in zip((covariance1, covariance2), means, strict=True)
    )
    transport = gaussian_transport_map(first, second)
    root = symmetric_power(transport, 0.5)
    scale = dim / (root @ first @ root).trace()
    outward, inward = scale.sqrt() * root, scale.sqrt() * symmetric_power(transport, -0.5)
    return Balance(outward, inward, mean1, mean2, scale)
