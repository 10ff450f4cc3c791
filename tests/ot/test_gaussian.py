"""Gaussian transport: reference values, laws, singular covariances, moments."""

from __future__ import annotations

import decimal
from collections.abc import Callable
from typing import Any

import pytest
import torch

from wasskit.ot.gaussian import (
    Moments,
    balance,
    bures_wasserstein_squared,
    gaussian_transport_map,
    shrunk_covariance,
    streamed_moments,
    symmetric_power,
)

Reference = Callable[[str], dict[str, Any]]


def covariance(dim: int, rank: int | None = None) -> torch.Tensor:
    factor = torch.randn(dim, rank or dim, dtype=torch.float64)
    return factor @ factor.T


@pytest.mark.parametrize("case", [0, 1, 2])
def test_reference_maps_and_distances(reference: Reference, case: int) -> None:
    arrays = {key: torch.as_tensor(value) for key, value in reference("w2gn_gaussian").items()}
    sigma_x, sigma_y = arrays[f"sigma_X{case}"], arrays[f"sigma_Y{case}"]
    zero = torch.zeros(len(sigma_x), dtype=torch.float64)
    distance = bures_wasserstein_squared(zero, sigma_x, zero, sigma_y)
    torch.testing.assert_close(distance / 2, arrays[f"half_w2sq{case}"], rtol=1e-7, atol=0)
    torch.testing.assert_close(gaussian_transport_map(sigma_x, sigma_y), arrays[f"map_XY{case}"], rtol=0, atol=1e-7)
    torch.testing.assert_close(gaussian_transport_map(sigma_y, sigma_x), arrays[f"map_YX{case}"], rtol=0, atol=1e-7)


@pytest.mark.parametrize("case", [0, 1])
def test_reference_distances_with_means(reference: Reference, case: int) -> None:
    arrays = {key: torch.as_tensor(value) for key, value in reference("w2gn_gaussian").items()}
    names = ("mu1", "sigma1", "mu2", "sigma2")
    distance = bures_wasserstein_squared(*(arrays[f"mean{case}_{name}"] for name in names))
    torch.testing.assert_close(distance / 2, arrays[f"mean{case}_half_w2sq"], rtol=1e-7, atol=0)


def test_pot() -> None:
    """Distance and map of POT, whose distance is the root; both from eigenvalues in float64."""
    ot = pytest.importorskip("ot")
    torch.manual_seed(3)
    means = torch.randn(2, 6, dtype=torch.float64)
    first, second = covariance(6), covariance(6)
    arrays = [tensor.numpy() for tensor in (*means, first, second)]
    distance = bures_wasserstein_squared(means[0], first, means[1], second)
    assert float(distance) == pytest.approx(float(ot.gaussian.bures_wasserstein_distance(*arrays)) ** 2, rel=1e-9)
    matrix, shift = (torch.from_numpy(array) for array in ot.gaussian.bures_wasserstein_mapping(*arrays))
    found = gaussian_transport_map(first, second)
    torch.testing.assert_close(found, matrix, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(means[1] - found @ means[0], shift.flatten(), rtol=1e-9, atol=1e-9)


def test_map_pushes_forward_and_inverts() -> None:
    torch.manual_seed(0)
    first, second = covariance(6), covariance(6)
    there, back = gaussian_transport_map(first, second), gaussian_transport_map(second, first)
    torch.testing.assert_close(there @ first @ there, second)
    torch.testing.assert_close(there @ back, torch.eye(6, dtype=torch.float64))
    assert torch.linalg.eigvalsh(there).min() > 0


def test_distance_is_a_metric_and_scales() -> None:
    torch.manual_seed(1)
    means = torch.randn(3, 4, dtype=torch.float64)
    covariances = torch.stack([covariance(4), covariance(4, 2), covariance(4)])
    square = bures_wasserstein_squared(means[:, None], covariances[:, None], means[None], covariances[None])
    root = square.clamp_min(0).sqrt()
    assert root.diagonal().max() < 1e-6
    torch.testing.assert_close(root, root.T)
    assert (root[0, 1] + root[1, 2] >= root[0, 2]).all()
    scaled = bures_wasserstein_squared(3 * means[0], 9 * covariances[0], 3 * means[1], 9 * covariances[1])
    torch.testing.assert_close(scaled, 9 * square[0, 1])
    # Diracs five apart: the squared distance, not its half.
    zero = torch.zeros(2, 2, dtype=torch.float64)
    assert bures_wasserstein_squared(torch.zeros(2), zero, torch.tensor([3.0, 4.0]), zero).item() == pytest.approx(25.0)


def test_singular_covariances() -> None:
    torch.manual_seed(2)
    basis = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    first = basis @ torch.diag(torch.tensor([4.0, 1.0, 0.0, 0.0, 0.0], dtype=torch.float64)) @ basis.T
    second = basis @ torch.diag(torch.tensor([1.0, 9.0, 0.0, 4.0, 0.0], dtype=torch.float64)) @ basis.T
    zero = torch.zeros(5, dtype=torch.float64)
    expected = (2 - 1) ** 2 + (1 - 3) ** 2 + 4.0
    assert bures_wasserstein_squared(zero, first, zero, second).item() == pytest.approx(expected, abs=1e-7)
    mapping = basis.T @ gaussian_transport_map(first, second) @ basis
    torch.testing.assert_close(
        mapping, torch.diag(torch.tensor([0.5, 3.0, 0.0, 0.0, 0.0], dtype=torch.float64)), atol=1e-7, rtol=0
    )
    assert bures_wasserstein_squared(zero, first, zero, first).item() == pytest.approx(0.0, abs=1e-7)


def test_symmetric_power_inverts_on_the_support() -> None:
    torch.manual_seed(3)
    matrix = covariance(5, 3)
    root, inverse = symmetric_power(matrix, 0.5), symmetric_power(matrix, -0.5)
    torch.testing.assert_close(root @ root, matrix)
    torch.testing.assert_close(root @ inverse @ root, root)


def test_streamed_moments_equal_those_of_the_whole() -> None:
    torch.manual_seed(4)
    points = 100 + torch.randn(1000, 4)
    moments = streamed_moments(points.split([1, 400, 599]))
    torch.testing.assert_close(moments.mean, points.double().mean(0))
    torch.testing.assert_close(moments.covariance, points.double().T.cov(), rtol=1e-10, atol=1e-12)
    assert moments.size == 1000
    with pytest.raises(ValueError, match="two points"):
        streamed_moments([points[:1]])


def test_shrinkage_helps_few_samples_and_leaves_many_alone() -> None:
    torch.manual_seed(5)
    dim = 40
    truth = torch.diag(torch.linspace(0.5, 2.0, dim, dtype=torch.float64))
    errors = []
    for count in (20, 2000):
        points = torch.randn(count, dim, dtype=torch.float64) @ truth.sqrt()
        moments = streamed_moments([points])
        shrunk = shrunk_covariance(moments)
        errors.append(((shrunk - truth).norm() / (moments.covariance - truth).norm()).item())
    assert errors[0] < 0.4
    assert errors[1] == 1
    one = Moments(torch.zeros(3), 2 * torch.eye(3, dtype=torch.float64), 10)
    torch.testing.assert_close(shrunk_covariance(one), one.covariance)


def test_balanced_coordinates_make_the_optimal_map_the_identity() -> None:
    torch.manual_seed(6)
    dim = 5
    first, second = covariance(dim), covariance(dim)
    mean1, mean2 = torch.randn(2, dim, dtype=torch.float64)
    b = balance(mean1, first, mean2, second, floor=0.0)
    moved1 = b.source_transform @ first @ b.source_transform.T
    moved2 = b.target_transform @ second @ b.target_transform.T
    torch.testing.assert_close(moved1, moved2)
    assert moved1.trace().item() == pytest.approx(dim)
    x, y = torch.randn(2, 30, dim, dtype=torch.float64)
    expected = (x - mean1) @ gaussian_transport_map(first, second) + mean2
    torch.testing.assert_close(b.gaussian_map(x), expected)
    products = (b.source(x) * b.target(y)).sum(1).mean()
    torch.testing.assert_close(b.half_squared_distance(products, x, y), 0.5 * (x - y).square().sum(1).mean())
    torch.testing.assert_close(b.source_back(b.source(x)), x)
    images = torch.randn(4, dim, 3, 2, dtype=torch.float64)
    pixels = images.permute(0, 2, 3, 1).reshape(-1, dim)
    torch.testing.assert_close(b.source(images).permute(0, 2, 3, 1).reshape(-1, dim), b.source(pixels))
    torch.testing.assert_close(b.source_back(b.source(images)), images)
    others = torch.randn(4, dim, 3, 2, dtype=torch.float64)
    products = (b.source(images) * b.target(others)).flatten(1).sum(1).mean()
    half = 0.5 * (images - others).square().flatten(1).sum(1).mean()
    torch.testing.assert_close(b.half_squared_distance(products, images, others), half)


def test_balance_of_a_degenerate_cloud_is_finite() -> None:
    torch.manual_seed(7)
    b = balance(torch.zeros(6), covariance(6, 2), torch.zeros(6), covariance(6))
    assert torch.isfinite(b.source_transform).all()
    assert torch.isfinite(b.target_transform).all()


def test_balance_with_a_single_point_maps_onto_it() -> None:
    torch.manual_seed(8)
    cloud, point = covariance(3), torch.zeros(3, 3, dtype=torch.float64)
    there = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    x = torch.randn(5, 3, dtype=torch.float64)
    onto = balance(torch.zeros(3), cloud, there, point)
    torch.testing.assert_close(onto.gaussian_map(x), there.expand(5, 3), rtol=0, atol=1e-4)
    between = balance(torch.zeros(3), point, there, point)
    torch.testing.assert_close(between.gaussian_map(torch.zeros(1, 3, dtype=torch.float64)), there[None])
    away = balance(there, point, torch.zeros(3), cloud)
    assert torch.isfinite(away.source_transform).all()
    torch.testing.assert_close(away.gaussian_map(there[None]), torch.zeros(1, 3, dtype=torch.float64))


@pytest.mark.parametrize("relative", [1e-2, 1e-5, 1e-8, 1e-10])
def test_nearly_equal_gaussians_do_not_cancel(relative: float) -> None:
    """Against 60 digits: tr S1 + tr S2 - 2 sqrt(tr S1 S2 + 2 sqrt(det S1 det S2)) for two by two covariances."""
    first = torch.tensor([[2.0, 0.7], [0.7, 1.0]], dtype=torch.float64)
    second = first + relative * torch.tensor([[1.0, -0.5], [-0.5, 0.25]], dtype=torch.float64)
    with decimal.localcontext() as context:
        context.prec = 60
        (a, b), (_, c) = [[decimal.Decimal(v) for v in row] for row in first.tolist()]
        (d, e), (_, f) = [[decimal.Decimal(v) for v in row] for row in second.tolist()]
        product = a * d + 2 * b * e + c * f
        root = ((a * c - b * b) * (d * f - e * e)).sqrt()
        expected = float(a + c + d + f - 2 * (product + 2 * root).sqrt())
    zero = torch.zeros(2, dtype=torch.float64)
    value = bures_wasserstein_squared(zero, first, zero, second).item()
    # The factors are exact to some eps = 2e-16, their difference to that over the relative difference.
    assert value == pytest.approx(expected, rel=1e-12 + 2e-15 / relative, abs=0)


def turned(values: torch.Tensor, seed: int) -> torch.Tensor:
    """A covariance with these eigenvalues in random directions."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64)).Q
    matrix: torch.Tensor = (basis * values) @ basis.T
    return matrix


@pytest.mark.parametrize("dim", [1, 2, 64])
@pytest.mark.parametrize("zeros", [0, 1])
def test_covariances_with_common_directions(dim: int, zeros: int) -> None:
    """sum (sqrt(a_i) - sqrt(b_i))^2, plus the squared distance of the means: diagonal, and turned together."""
    generator = torch.Generator().manual_seed(dim)
    a, b = 10.0 ** torch.empty(2, dim, dtype=torch.float64).uniform_(-3, 3, generator=generator)
    if zeros:
        a[: dim // 2], b[dim // 3 : dim // 2 + 1] = 0.0, 0.0
    means = torch.randn(2, dim, generator=generator, dtype=torch.float64)
    expected = (a.sqrt() - b.sqrt()).square().sum() + (means[0] - means[1]).square().sum()
    for first, second in ((a.diag(), b.diag()), (turned(a, 1), turned(b, 1))):
        value = bures_wasserstein_squared(means[0], first, means[1], second)
        # An eigenvalue is known to eps |S|, a small root to sqrt(eps |S|): D of them at most, squared, and their
        # product with the distance itself.
        noise = dim * torch.finfo(torch.float64).eps * float(a.max() + b.max())
        assert value.item() == pytest.approx(expected.item(), abs=noise + 2 * (noise * expected.item()) ** 0.5)


@pytest.mark.parametrize("dim", [2, 5, 64])
def test_against_the_matrix_root_in_random_directions(dim: int) -> None:
    """Different eigenvectors: tr S1 + tr S2 - 2 tr (S1 S2)^(1/2) from the eigenvalues of the product."""
    values = torch.logspace(-1, 1, dim, dtype=torch.float64)
    first, second = turned(values, 2), turned(values.flip(0) + 0.5, 3)
    roots = torch.linalg.eigvals(first @ second).real.clamp(min=0).sqrt().sum()
    expected = first.trace() + second.trace() - 2 * roots
    zero = torch.zeros(dim, dtype=torch.float64)
    forth = bures_wasserstein_squared(zero, first, zero, second)
    torch.testing.assert_close(forth, expected, rtol=1e-11, atol=0)
    torch.testing.assert_close(bures_wasserstein_squared(zero, second, zero, first), forth, rtol=1e-13, atol=0)


@pytest.mark.parametrize("rank", [0, 1, 20, 64])
def test_equal_gaussians_and_moved_ones(rank: int) -> None:
    """Equal ones are 0 but for rounding, moved ones as far apart as their means."""
    values = torch.zeros(64, dtype=torch.float64)
    values[:rank] = torch.logspace(-4, 2, rank, dtype=torch.float64) if rank else 0.0
    matrix = turned(values, 4)
    zero, shift = torch.zeros(64, dtype=torch.float64), torch.linspace(-1, 1, 64, dtype=torch.float64)
    eps = torch.finfo(torch.float64).eps
    # On the support |F - F Q|^2 with Q, the polar factor of F^T F, off by D eps cond along the smallest root. Off the
    # support the eigenvalues are noise, D eps |S| at most, and their Q is anything: |F|^2 + |F Q|^2 at most doubles it.
    lowest, largest = (float(values[0]), float(values.max())) if rank else (1.0, 0.0)
    on, off = lowest * (64 * eps * largest / lowest) ** 2, 4 * (64 - rank) * 64 * eps * largest
    bound = on + off
    assert 0 <= bures_wasserstein_squared(zero, matrix, zero, matrix).item() <= bound
    moved = bures_wasserstein_squared(zero, matrix, shift, matrix)
    torch.testing.assert_close(moved, shift.square().sum(), rtol=1e-14, atol=bound)
