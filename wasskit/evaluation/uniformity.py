"""How evenly features fill the sphere: the W2 distance to a Gaussian, L_U, alignment, and the spectrum.

Following Fang, Li, Sun and Wang, "Rethinking the Uniformity Metric in Self-Supervised Learning" (ICLR 2024), and, for
L_U and alignment, Wang and Isola, "Understanding Contrastive Representation Learning through Alignment and Uniformity
on the Hypersphere" (ICML 2020). Features are (N, m), one row per sample; unless told otherwise every measure first
divides each row by its length. All are differentiable, so the same functions serve as losses.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from wasskit.distributed.collectives import gather
from wasskit.errors import UserError
from wasskit.evaluation.potential import gaussian_uniformity
from wasskit.evaluation.rows import shape_of, unit_rows, unit_rows_and_lengths, wide
from wasskit.ot.known_gradient import known_gradient
from wasskit.ot.polar import (
    Method,
    magnitude_and_squares,
    magnitude_of,
    noise_level,
    nuclear_norm_and_inverse_root,
    nuclear_norm_and_polar_factor,
    singular_values,
    symmetric_eigenvalues,
    unit_roundoff,
)
from wasskit.ot.precision import full_precision

__all__ = ["FeatureMoments", "alignment", "effective_rank", "gaussian_uniformity", "singular_spectrum", "w2_uniformity"]

_COVARIANCE_RESOLVES = 2.0**-22


def w2_uniformity(features: Tensor, *, normalise: bool = True, ridge: float = 0.0, method: Method = "eigh") -> Tensor:
    """Wasserstein-2 distance between N(0, I/m) and the Gaussian of the features' mean and covariance.

        W2^2 = |mu|^2 + 1 + tr S - (2 / sqrt m) tr S^{1/2},   S the covariance (1/N)     (Fang et al. 2024)

    With Z_c the centred features, tr S^{1/2} = |Z_c|_* / sqrt N, whose gradient is the polar factor of Z_c over sqrt
    N: finite at any rank. It is found in float64 from the smaller Gram matrix (``method="eigh"``) or by matrix products
    (``"polar"``, for GPUs); singular values of Z_c that rounding of the features may have made count as 0, those up to
    about 3.4e-8 of the largest (float32), 2.8e-4 (half), 2.3e-3 (bfloat16), or N + m times 1.3e-16 (float64, for which
    polar stops at 3.4e-8 as well): see `wasskit.ot.polar.noise_level`. ``ridge`` adds that multiple of I to S.

    ``features`` (N, m) of any floating dtype; the result is float64 for float64 features, else float32. It is 0 at
    uniformity, sqrt 2 where all features are one point, 1 where all are zero. Raises ``UserError`` unless N, m >= 1.

    Example:
        >>> import torch, wasskit
        >>> wasskit.w2_uniformity(torch.ones(10, 4))  # all features are one point
        tensor(1.4142)
    """
    shape_of(features)
    if ridge < 0:
        raise UserError(f"The ridge of W2 is added to a covariance and cannot be negative, as {ridge:g} is.")
    given = wide(features)
    roundoff = unit_roundoff(features.dtype)
    value = known_gradient(lambda x, with_gradient: _w2(x, normalise, ridge, method, roundoff, with_gradient), given)
    return value.to(features.device, given.dtype)


def _w2(
    features: Tensor, normalise: bool, ridge: float, method: Method, roundoff: float, with_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """The distance of (N, m) features, float64, and its gradient in closed form, in their dtype.

    Of Z, the features or their unit rows, W2^2 = |Z|^2 / N + 1 - 2 |Z_c|_* / sqrt(m N), so dW2 / dZ = (Z / N -
    P / sqrt(m N)) / W2, P the polar factor of Z_c. A ridge r replaces the m singular values s_i, those of missing rows
    included, by sqrt(s_i^2 + N r), P by U diag(s / sqrt(s^2 + N r)) V^T, and adds m r.
    """
    distance = _w2_by_gram if method == "eigh" else _w2_by_polar
    # Divided in float64: another rounding to float32 would turn the small directions.
    z = features.double()
    z, length = unit_rows_and_lengths(z) if normalise else (z, None)
    value, gradient = distance(z, ridge, method, roundoff, with_gradient)
    if gradient is None:
        return value, None
    if length is not None:
        # What is along a row does not turn it.
        gradient = gradient.addcmul_(z, (z * gradient).sum(dim=1, keepdim=True), value=-1).div_(length)
    return value, gradient.to(features.dtype)


def _w2_by_gram(
    z: Tensor, ridge: float, method: Method, roundoff: float, with_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """W2 and its gradient, with two products against the features in all.

    With G the smaller Gram matrix of Z_c, the gradient is ((I / N - (G + N r I)^{-1/2} / sqrt(m N)) Z_c + 1 mu^T / N) /
    W2 for N < m, and with the matrix on the other side else.
    """
    n, m = z.shape
    mean = z.mean(dim=0)
    centred = z - mean
    magnitude, squares = magnitude_and_squares(z)
    with full_precision(z):
        norm, root = nuclear_norm_and_inverse_root(
            centred, magnitude, ridge=n * ridge, roundoff=roundoff, with_inverse=with_gradient
        )
        value = _ridged_distance(squares / n, norm, n, m, ridge)
        if root is None:
            return value, None
        inverse = _inverse_distance(value)
        factor = root.mul_(-inverse / math.sqrt(m * n))
        factor.diagonal().add_(inverse / n)
        pair = (factor, centred) if n < m else (centred, factor)
        return value, torch.addmm(mean * (inverse / n), *pair)


def _w2_by_polar(
    z: Tensor, ridge: float, method: Method, roundoff: float, with_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """W2 and its gradient from the polar factor of the centred features."""
    n, m = z.shape
    magnitude, squares = magnitude_and_squares(z)
    norm, polar = nuclear_norm_and_polar_factor(
        z - z.mean(dim=0), magnitude=magnitude, method=method, ridge=n * ridge, roundoff=roundoff,
        with_polar=with_gradient,
    )  # fmt: skip
    value = _ridged_distance(squares / n, norm, n, m, ridge)
    if polar is None:
        return value, None
    inverse = _inverse_distance(value)
    return value, polar.mul_(-inverse / math.sqrt(m * n)).addcmul_(z, inverse / n)


def _ridged_distance(second_moment: Tensor, norm: Tensor, n: int, m: int, ridge: float) -> Tensor:
    """W2 from the nuclear norm of the min(n, m) singular values sqrt(s_i^2 + n ridge) of n centred features."""
    missing = max(m - n, 0) * math.sqrt(ridge)
    return _distance(second_moment + m * ridge, norm / math.sqrt(n) + missing, m)


def _inverse_distance(value: Tensor) -> Tensor:
    """1 / W2; 0 at W2 = 0, where the distance has a kink and 0 is among its subgradients."""
    return torch.where(value == 0, 0.0, 1 / value)


def alignment(first: Tensor, second: Tensor, alpha: float = 2.0, *, normalise: bool = True) -> Tensor:
    """mean_i |z_i - z'_i|^alpha over two views (N, m) of the same samples (Wang and Isola 2020).

    Float64 for float64 features, else float32. Raises ``UserError`` where the shapes differ.

    Example:
        >>> import torch, wasskit
        >>> wasskit.alignment(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))  # |(1, -1)|^2
        tensor(2.)
    """
    if first.shape != second.shape:
        shapes = f"{tuple(first.shape)} and {tuple(second.shape)}"
        raise UserError(f"Alignment compares two views of the same samples, got {shapes}.")
    shape_of(first)
    a, b = wide(first), wide(second)
    if normalise:
        a, b = unit_rows(a), unit_rows(b)
    squared = (a - b).square().sum(dim=1)
    if alpha == 2:
        return squared.mean()
    # The root has no gradient at a distance of 0; such pairs are where they should be, so theirs is 0.
    apart = squared > 0
    powers = torch.where(apart, squared, 1.0).pow(alpha / 2) * apart
    return powers.mean()


def singular_spectrum(features: Tensor, *, normalise: bool = True) -> Tensor:
    """Logarithms of the singular values, descending, of the covariance (1/(N-1)) of ``features`` (N, m).

    Returns (m,) float64; -inf for those that the rounding of the features may have made, as in `w2_uniformity`. A
    flat spectrum is a uniform representation, a cliff is dimensional collapse. Raises ``UserError`` for fewer
    than two features.

    Example:
        >>> import torch, wasskit
        >>> spectrum = wasskit.singular_spectrum(torch.randn(100, 8))
        >>> spectrum.shape, bool((spectrum.diff() <= 0).all())
        (torch.Size([8]), True)
    """
    eigenvalues, n = _covariance_eigenvalues(features, normalise)
    if n < 2:
        raise UserError("The spectrum needs at least two features, but there is only one.")
    return (eigenvalues * (n / (n - 1))).log()


def effective_rank(features: Tensor, *, normalise: bool = True) -> Tensor:
    """Exponential of the entropy of the singular values of the centred features, as shares of their sum.

    (Roy and Vetterli, "The effective rank", 2007.) ``features`` (N, m); float64 scalar between 1 and m, 0
    where all features are one point.
    """
    eigenvalues, _ = _covariance_eigenvalues(features, normalise)
    return effective_rank_of(eigenvalues)


class FeatureMoments:
    """Count, mean and covariance of features that come in batches, in float64, and what follows from them.

    ``update`` takes (B, m); batches are merged by their centred second moments (Chan, Golub and LeVeque
    1979), which loses nothing to cancellation near collapse. ``reduced`` joins the ranks' shares.

    A covariance holds the squares of the singular values, and float64 its eigenvalues to eps of the largest: singular
    values of the features below 1.4e-7 of the largest (or what the rounding of the features may have made, if more)
    count as 0, and one of the share s is off by up to 1e-14 / s of the largest. The functions of this module, which see
    all features at once, have no such limit. ``dtype``: what the features were once rounded to, where that is coarser
    than the dtype they are given in.
    """

    def __init__(self, *, normalise: bool = True, dtype: torch.dtype = torch.float64) -> None:
        self.normalise = normalise
        self.roundoff = max(unit_roundoff(dtype), _COVARIANCE_RESOLVES)
        self.count = 0
        self.mean = torch.zeros(0, dtype=torch.float64)
        self.scatter = torch.zeros(0, 0, dtype=torch.float64)
        self._found: Tensor | None = None

    @torch.no_grad()
    def update(self, features: Tensor) -> None:
        """Take in a batch (B, m)."""
        self.roundoff = max(self.roundoff, unit_roundoff(features.dtype))
        z = wide(features).double()
        z = unit_rows(z) if self.normalise else z
        n, _ = shape_of(z)
        mean = z.mean(dim=0)
        centred = z - mean
        self._merge(n, mean, centred.mT @ centred)

    def _merge(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        """Join the moments of other features; ``scatter`` becomes this object's own."""
        self._found = None
        if self.count == 0:
            self.count, self.mean, self.scatter = count, mean, scatter
            return
        total = self.count + count
        delta = mean - self.mean
        self.scatter.add_(scatter).addr_(delta, delta, alpha=self.count * count / total)
        self.mean = self.mean + delta * (count / total)
        self.count = total

    def reduced(self) -> FeatureMoments:
        """The moments of all ranks' features together, the same on every rank; each must have seen some."""
        joined = FeatureMoments(normalise=self.normalise)
        self._require(1)
        own = torch.tensor([[self.count, self.roundoff]], dtype=torch.float64, device=self.mean.device)
        means, scatters = gather(self.mean[None]), gather(self.scatter[None])
        for (count, roundoff), mean, scatter in zip(gather(own).tolist(), means, scatters, strict=True):
            joined._merge(int(count), mean, scatter.clone())  # on one rank what is gathered is this object's own
            joined.roundoff = max(joined.roundoff, roundoff)
        return joined

    @property
    def covariance(self) -> Tensor:
        """(m, m), divided by N."""
        self._require(1)
        return self.scatter / self.count

    def w2(self) -> Tensor:
        """W2 to N(0, I/m), as ``w2_uniformity``."""
        self._require(1)
        singular = self._eigenvalues().sqrt()
        second_moment = self.mean.square().sum() + self.covariance.trace()
        return _distance(second_moment, singular.sum(), len(self.mean))

    def spectrum(self) -> Tensor:
        """As ``singular_spectrum``, to the resolution of a covariance."""
        self._require(2)
        return (self._eigenvalues() * (self.count / (self.count - 1))).log()

    def effective_rank(self) -> Tensor:
        """As the function ``effective_rank``."""
        return effective_rank_of(self._eigenvalues())

    def _eigenvalues(self) -> Tensor:
        """Eigenvalues of the covariance, descending; those that are noise are 0. Found once."""
        if self._found is None:
            eigenvalues = symmetric_eigenvalues(self.covariance).flip(0).clamp_min(0)
            # Over sqrt N: the longest column, and a row, of features of one length.
            squares = self.mean.square() + self.covariance.diagonal()
            magnitude = squares.max().sqrt() + (squares.sum() / self.count).sqrt()
            singular = eigenvalues.sqrt()
            noise = noise_level(self.count, len(singular), magnitude, singular[0], self.roundoff)
            self._found = torch.where(singular <= noise, 0.0, eigenvalues)
        return self._found

    def _require(self, count: int) -> None:
        if self.count < count:
            raise UserError(f"Moments of at least {count} features were asked for, but only {self.count} were given.")


def _distance(second_moment: Tensor, root_trace: Tensor, m: int) -> Tensor:
    """sqrt(E|z|^2 + 1 - (2 / sqrt m) tr S^{1/2}); gradient 0 where rounding leaves nothing under the root."""
    squared = second_moment + 1 - 2 / math.sqrt(m) * root_trace
    nothing = squared <= 0
    return torch.where(nothing, 1.0, squared).sqrt() * ~nothing


@torch.no_grad()
def _covariance_eigenvalues(features: Tensor, normalise: bool) -> tuple[Tensor, int]:
    """The m eigenvalues, descending, of the covariance (1/N) and N; those that are noise are 0."""
    z = wide(features).double()
    z = unit_rows(z) if normalise else z
    n, m = shape_of(z)
    singular = singular_values(z - z.mean(dim=0), magnitude_of(z), roundoff=unit_roundoff(features.dtype))
    return functional.pad(singular.square() / n, (0, m - len(singular))), n


def effective_rank_of(eigenvalues: Tensor) -> Tensor:
    """`effective_rank` from the eigenvalues (k,) of the covariance, none below 0."""
    singular = eigenvalues.sqrt()
    total = singular.sum()
    shares = singular / torch.where(total > 0, total, 1.0)
    rank_of_shares: Tensor = torch.special.entr(shares).sum().exp() * (total > 0)
    return rank_of_shares
