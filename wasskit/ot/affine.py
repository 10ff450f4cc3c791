r"""The optimal map between the Gaussians of two weighted clouds, as an affine pair, both ways.

:math:`T(x) = A x + s` with :math:`A = \Sigma_1^{-1/2} (\Sigma_1^{1/2} \Sigma_2 \Sigma_1^{1/2})^{1/2} \Sigma_1^{-1/2}`
and :math:`s = m_2 - A m_1` (Knott and Smith, 1984), for means and covariances :math:`m_k = \sum_i a_i x_i`,
:math:`\Sigma_k = \sum_i a_i (x_i - m_k)(x_i - m_k)^\top` under weights of sum one: no correction by n - 1, so that a
point given twice is a point of twice the weight.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from wasskit.ot.clouds import check_clouds, normalised_weights
from wasskit.ot.gaussian import gaussian_transport_map

_ROWS = 65536


class AffineMap(NamedTuple):
    """``x -> matrix x + shift``: matrix (d, d), symmetric positive semi-definite, and shift (d,), float64."""

    matrix: Tensor
    shift: Tensor

    def __call__(self, points: Tensor) -> Tensor:
        """Points (n, d) under the map, in their dtype; the products are taken in float64."""
        return torch.addmm(self.shift, points.double(), self.matrix.mT).to(points.dtype)


class GaussianMaps(NamedTuple):
    """The map of the first cloud's Gaussian to the second's, and the map back."""

    forward: AffineMap
    inverse: AffineMap


@torch.no_grad()
def gaussian_maps(
    x: Tensor, y: Tensor, *, x_weights: Tensor | None = None, y_weights: Tensor | None = None
) -> GaussianMaps:
    """The optimal affine maps between the Gaussians of two weighted clouds (n, d) and (m, d), in both directions.

    Where a covariance is singular its pseudo-inverse is taken: across the support of the source the map is constant.
    The two maps are then no inverses of each other. Float64.

    Raises ``ValueError`` for shapes or weights that do not fit, and for values that are not finite.

    Example:
        >>> import torch, wasskit
        >>> x = torch.randn(50, 2)
        >>> maps = wasskit.gaussian_maps(x, 2 * x + 1)
        >>> bool(torch.allclose(maps.forward(x.double()), 2 * x.double() + 1, atol=1e-5))
        True
    """
    check_clouds(x, y)
    (mean_x, covariance_x), (mean_y, covariance_y) = (
        _weighted_moments(cloud, normalised_weights(weights, cloud))
        for cloud, weights in ((x, x_weights), (y, y_weights))
    )
    there = gaussian_transport_map(covariance_x, covariance_y)
    back = gaussian_transport_map(covariance_y, covariance_x)
    return GaussianMaps(AffineMap(there, mean_y - there @ mean_x), AffineMap(back, mean_x - back @ mean_y))


def _weighted_moments(cloud: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (d,) and covariance (d, d) under weights of sum one, float64, a block of rows at a time."""
    dim = cloud.shape[1]
    mean = torch.zeros(dim, dtype=torch.float64, device=cloud.device)
    for rows, shares in zip(cloud.split(_ROWS), weights.split(_ROWS), strict=True):
        mean += shares @ rows.double()
    covariance = torch.zeros(dim, dim, dtype=torch.float64, device=cloud.device)
    for rows, shares in zip(cloud.split(_ROWS), weights.split(_ROWS), strict=True):
        centred = (rows.double() - mean) * shares.sqrt().unsqueeze(1)
        covariance.addmm_(centred.mT, centred)
    return mean, covariance
