"""W2, its gradient and the spectrum in directions far smaller than the largest, down to the noise of rounding."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from tests.distributed.harness import run_ranks
from wasskit.distributed.group import rank, world_size
from wasskit.evaluation.uniformity import FeatureMoments, effective_rank, singular_spectrum, w2_uniformity
from wasskit.ot.polar import Method, magnitude_of, noise_level, unit_roundoff

SMALLEST = 1e-7
SPECTRA = ["exponential", "power law", "small block", "small half", "one large", "beside the split"]
SHAPES = [(96, 32), (64, 64), (40, 96), (300, 100)]
#: Value, and gradient, against the decomposition in float64.
BOUNDS = {torch.float64: (1e-9, 1e-6), torch.float32: (1e-6, 1e-3)}


def spectrum_of(kind: str, k: int, smallest: float = SMALLEST) -> Tensor:
    i = torch.arange(k, dtype=torch.float64)
    if kind == "exponential":
        return torch.logspace(0, math.log10(smallest), k, dtype=torch.float64)
    if kind == "power law":
        return (i + 1).pow(math.log(smallest) / math.log(k))
    if kind == "small block":
        return torch.where(i < k - 3, 1.0, smallest)
    if kind == "small half":
        return torch.where(i < k // 2, 1.0, smallest)
    if kind == "one large":
        return torch.where(i < 1, 1.0, 10 * smallest)
    assert kind == "beside the split"
    # A Gram matrix turns directions beside 1e-3 and 1e-4, which count as large still, towards those of 1e-7.
    return torch.where(i < k // 4, 1.0, torch.where(i < k // 2, 1.5e-3, torch.where(i < 3 * k // 4, 1.5e-4, smallest)))


def rotated(n: int, m: int, singular: Tensor, mean: float = 0.01, seed: int = 0) -> Tensor:
    """Features (n, m), float64, of that spectrum about a mean, of length about 1 in the root mean square."""
    generator = torch.Generator().manual_seed(seed)

    def noise(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=generator, dtype=torch.float64)

    left = noise(n, len(singular))
    left = torch.linalg.qr(left - left.mean(0))[0]
    right = torch.linalg.qr(noise(m, len(singular)))[0]
    scale = math.sqrt(n) / float(singular.norm())
    spread: Tensor = (left * singular * scale) @ right.mT
    return spread + mean * noise(1, m) / math.sqrt(m)


class Exact(NamedTuple):
    value: Tensor
    gradient: Tensor
    left: Tensor
    singular: Tensor
    right: Tensor


def by_decomposition(features: Tensor, ridge: float = 0.0) -> Exact:
    """W2 and its gradient by an SVD in float64, all of whose min(N - 1, m) directions are real."""
    z = features.double()
    n, m = z.shape
    # Centred twice: what the first leaves of the mean is rounding of it.
    centred = z - z.mean(0)
    left, singular, right = torch.linalg.svd(centred - centred.mean(0), full_matrices=False)
    real = min(n - 1, m)
    left, singular, right = left[:, :real], singular[:real], right[:real]
    roots = (singular.square() + n * ridge).sqrt()
    norm = roots.sum() + (m - real) * math.sqrt(n * ridge)
    value = (z.square().sum() / n + m * ridge + 1 - 2 / math.sqrt(n * m) * norm).sqrt()
    gradient = (z / n - (left * (singular / roots)) @ right / math.sqrt(n * m)) / value
    return Exact(value, gradient, left, singular, right)


def w2_and_gradient(features: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    leaf = features.clone().requires_grad_()
    value = w2_uniformity(leaf, **options)
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach().double(), gradient.double()


@pytest.mark.parametrize("method", ["eigh", "polar"])
@pytest.mark.parametrize("ridge", [0.0, 1e-10])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("n", "m"), SHAPES)
@pytest.mark.parametrize("kind", SPECTRA)
def test_every_direction_counts_down_to_1e_7_of_the_largest(
    kind: str, n: int, m: int, dtype: torch.dtype, ridge: float, method: Method
) -> None:
    x = rotated(n, m, spectrum_of(kind, min(n - 1, m))).to(dtype)
    exact = by_decomposition(x, ridge)
    value, gradient = w2_and_gradient(x, normalise=False, ridge=ridge, method=method)
    of_value, of_gradient = BOUNDS[dtype]
    torch.testing.assert_close(value, exact.value, rtol=of_value, atol=0)
    assert (gradient - exact.gradient).norm() < of_gradient * exact.gradient.norm()

    # The gradient by which each small direction would grow.
    small = exact.singular < 1e-5 * exact.singular[0]
    assert small.any()
    along, expected = (((exact.left.mT @ g @ exact.right.mT).diagonal()[small]) for g in (gradient, exact.gradient))
    if not ridge:
        assert (expected < -0.1 / math.sqrt(n * m)).all()
    torch.testing.assert_close(along, expected, rtol=of_gradient, atol=0)


@pytest.mark.parametrize("method", ["eigh", "polar"])
@pytest.mark.parametrize(("n", "m"), [(64, 16), (16, 40)])
def test_gradient_along_small_directions_by_finite_differences(n: int, m: int, method: Method) -> None:
    """Along u_j v_j^T the nuclear norm is linear until s_j is 0, so that a step of s_j / 2 >= 1e-7 leaves no error but
    that of rounding W2, 1e-16 / s_j against a slope of 1 / sqrt(n m) <= 0.04: below 1e-7 of it."""
    x = rotated(n, m, spectrum_of("exponential", min(n - 1, m)))
    exact = by_decomposition(x)
    _, gradient = w2_and_gradient(x, normalise=False, method=method)
    for j in range(-3, 0):
        step = exact.singular[j] / 2
        direction = torch.outer(exact.left[:, j], exact.right[j])
        ahead, behind = by_decomposition(x + step * direction), by_decomposition(x - step * direction)
        slope = (ahead.value - behind.value) / (2 * step)
        torch.testing.assert_close((gradient * direction).sum(), slope, rtol=2e-6, atol=0)


@pytest.mark.parametrize("method", ["eigh", "polar"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", ["exponential", "power law"])
@pytest.mark.parametrize(("n", "m"), [(200, 48), (40, 96)])
def test_normalising_rounds_no_small_direction_away(
    n: int, m: int, kind: str, dtype: torch.dtype, method: Method
) -> None:
    lengths = torch.linspace(0.5, 2, n, dtype=torch.float64)[:, None]
    x = (rotated(n, m, spectrum_of(kind, min(n - 1, m))) * lengths).to(dtype)
    leaf = x.double().requires_grad_()
    unit = normalize(leaf)
    exact = by_decomposition(unit.detach())
    assert exact.singular[-1] < 3e-7 * exact.singular[0]
    (expected,) = torch.autograd.grad(unit, leaf, exact.gradient)
    value, gradient = w2_and_gradient(x, method=method)
    torch.testing.assert_close(value, exact.value, rtol=BOUNDS[dtype][0], atol=0)
    assert (gradient - expected).norm() < BOUNDS[dtype][1] * expected.norm()


@pytest.mark.parametrize("smallest", [1e-9, 1e-11])
@pytest.mark.parametrize("kind", ["exponential", "small half", "beside the split"])
@pytest.mark.parametrize(("n", "m"), SHAPES)
def test_float64_features_show_their_spectrum_to_1e_13_of_the_largest(
    n: int, m: int, kind: str, smallest: float
) -> None:
    x = rotated(n, m, spectrum_of(kind, min(n - 1, m), smallest))
    exact = by_decomposition(x)
    spectrum = singular_spectrum(x, normalise=False)
    real = min(n - 1, m)
    assert spectrum.isfinite().tolist() == [True] * real + [False] * (m - real)
    singular = (spectrum[:real] / 2).exp() * math.sqrt(n - 1)
    # n eps of the largest, as that of the decomposition it is compared with.
    torch.testing.assert_close(singular, exact.singular, rtol=1e-11, atol=1e-13 * float(exact.singular[0]))
    value, gradient = w2_and_gradient(x, normalise=False)
    torch.testing.assert_close(value, exact.value, rtol=1e-12, atol=0)
    # The polar factor of a matrix known to eps s_max is known to eps s_max / s_min, times sqrt n for n columns.
    bound = 20 * torch.finfo(torch.float64).eps / smallest * math.sqrt(m)
    assert (gradient - exact.gradient).norm() < bound * exact.gradient.norm()
    entropy = torch.special.entr(exact.singular / exact.singular.sum()).sum()
    torch.testing.assert_close(effective_rank(x, normalise=False), entropy.exp(), rtol=1e-9, atol=0)


@pytest.mark.parametrize(("n", "m"), SHAPES)
def test_float64_gradients_lose_no_digits_to_the_squares_of_a_gram_matrix(n: int, m: int) -> None:
    """Which would leave eps / s^2 of them, 2e-8 at the share s = 1e-4, and not eps / s."""
    x = rotated(n, m, spectrum_of("small half", min(n - 1, m), 1e-4))
    exact = by_decomposition(x)
    _, gradient = w2_and_gradient(x, normalise=False)
    assert (gradient - exact.gradient).norm() < 1e-10 * exact.gradient.norm()


@pytest.mark.parametrize("method", ["eigh", "polar"])
@pytest.mark.parametrize("ridge", [1e-12, 1e-10, 1e-4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("n", "m"), [(8, 2048), (50, 12)])
def test_a_small_ridge_counts_in_every_direction(
    n: int, m: int, dtype: torch.dtype, ridge: float, method: Method
) -> None:
    """Also in those that N features leave empty: sqrt(N r) each."""
    x = normalize(rotated(n, m, torch.ones(min(n - 1, m), dtype=torch.float64))).to(dtype)
    exact = by_decomposition(x, ridge)
    value, gradient = w2_and_gradient(x, normalise=False, ridge=ridge, method=method)
    torch.testing.assert_close(value, exact.value, rtol=BOUNDS[dtype][0], atol=0)
    assert (gradient - exact.gradient).norm() < BOUNDS[dtype][1] * exact.gradient.norm()
    point = x[:1].repeat(n, 1)
    alone = w2_uniformity(point, normalise=False, ridge=ridge, method=method).double()
    expected = (point[0].double().square().sum() + 1 + m * ridge - 2 * math.sqrt(m * ridge)).sqrt()
    torch.testing.assert_close(alone, expected, rtol=BOUNDS[dtype][0], atol=0)


COLLAPSED = [(256, 64, 32), (64, 64, 32), (512, 128, 5), (128, 512, 16), (100, 100, 50), (30, 600, 10)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mean", [0.0, 3.0])
@pytest.mark.parametrize(("n", "m", "real"), COLLAPSED)
def test_rounding_noise_is_no_direction(n: int, m: int, real: int, mean: float, dtype: torch.dtype) -> None:
    """Collapsed features, turned so that rounding touches every coordinate: the empty ones show none of it."""
    generator = torch.Generator().manual_seed(1)
    turn = torch.linalg.qr(torch.randn(m, m, generator=generator, dtype=torch.float64))[0]
    x = (torch.randn(n, real, generator=generator, dtype=torch.float64) + mean) @ turn[:, :real].mT
    x = normalize(x).to(dtype)
    empty = turn[:, real:]
    centred = x.double() - x.double().mean(0)
    singular = torch.linalg.svdvals(centred)
    level = noise_level(n, m, magnitude_of(x), singular[0], unit_roundoff(dtype))
    # The estimate is of the norm of a random matrix: not far above it.
    assert 0.1 < torch.linalg.matrix_norm(centred @ empty, 2) / level < 0.95

    for unit in (False, True):
        found = singular_spectrum(x, normalise=unit).isfinite().sum()
        assert found == (singular > level).sum() == real
        # What rounds the gradient itself is of the order of its roundoff; a noise direction taken for one would have
        # a share of 1 / sqrt m and more. Products cut less sharply.
        for method, share in (("eigh", 4), ("polar", 8)):
            _, gradient = w2_and_gradient(x, normalise=unit, method=method)
            bound = share * unit_roundoff(dtype) * math.sqrt(m / real) + (1e-3 if method == "polar" else 0)
            assert (gradient @ empty).norm() < bound * gradient.norm() + (1e-3 if unit else 0)


def test_noise_of_float32_lies_between_what_was_measured_and_1e_7() -> None:
    for n, m in ((64, 64), (256, 64), (100, 400), (2048, 2048)):
        for kind in ("exponential", "power law", "small block"):
            x = rotated(n, m, spectrum_of(kind, min(n - 1, m)), mean=0.0) if n < 1000 else torch.eye(n)
            largest = torch.linalg.svdvals(x - x.mean(0))[0].double() if n < 1000 else torch.ones(())
            share = noise_level(n, m, magnitude_of(x), largest, 2.0**-24) / largest
            assert 2.5e-8 < share < 1e-7 * 0.7
    one = torch.ones((), dtype=torch.float64)
    level = noise_level(100, 60, one, one, unit_roundoff(torch.float64)).item()
    assert level == pytest.approx(160 * 2.0**-52 / math.sqrt(3), rel=1e-12)
    assert [unit_roundoff(d) for d in (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64)] == [
        2.0**-53, 2.0**-24, 2.0**-11, 2.0**-8, 2.0**-24,
    ]  # fmt: skip


@pytest.mark.parametrize("method", ["eigh", "polar"])
def test_rotations_and_copies_leave_small_directions_alone(method: Method) -> None:
    x = rotated(60, 24, spectrum_of("exponential", 24))
    turn = torch.linalg.qr(torch.randn(24, 24, generator=torch.Generator().manual_seed(3), dtype=torch.float64))[0]
    value, gradient = w2_and_gradient(x, normalise=False, method=method)
    other, turned = w2_and_gradient(x @ turn, normalise=False, method=method)
    torch.testing.assert_close(other, value, rtol=1e-12, atol=0)
    assert (turned - gradient @ turn).norm() < 1e-7 * gradient.norm()
    other, copied = w2_and_gradient(x.repeat(3, 1), normalise=False, method=method)
    torch.testing.assert_close(other, value, rtol=1e-12, atol=0)
    assert (copied - gradient.repeat(3, 1) / 3).norm() < 1e-7 * copied.norm()


@pytest.mark.parametrize("method", ["eigh", "polar"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("n", "m"), [(1, 7), (3, 3), (97, 33), (50, 700)])
def test_a_repeated_point_has_no_directions(n: int, m: int, dtype: torch.dtype, method: Method) -> None:
    """Its mean is rounded, so that in float64 no row is exactly 0 after it has been taken off."""
    point = normalize(torch.randn(1, m, generator=torch.Generator().manual_seed(5), dtype=torch.float64)).to(dtype)
    x = point.repeat(n, 1)
    assert singular_spectrum(torch.cat([x, x])).eq(-torch.inf).all()
    assert effective_rank(x) == 0
    value, gradient = w2_and_gradient(x, normalise=False, method=method)
    expected = (point.double().square().sum() + 1).sqrt()
    torch.testing.assert_close(value, expected, rtol=BOUNDS[dtype][0], atol=0)
    torch.testing.assert_close(gradient, x.double() / n / expected, rtol=1e-6, atol=1e-12 / n)


def test_repeated_features_have_as_many_directions_as_differ() -> None:
    few = rotated(6, 20, torch.ones(5, dtype=torch.float64))
    x = few.repeat(11, 1)
    spectrum = singular_spectrum(x, normalise=False)
    assert spectrum.isfinite().tolist() == [True] * 5 + [False] * 15
    for method in ("eigh", "polar"):
        _, gradient = w2_and_gradient(x, normalise=False, method=method)
        exact = by_decomposition(few)
        assert (gradient - exact.gradient.repeat(11, 1) / 11).norm() < 1e-9 * gradient.norm()


def test_moments_see_directions_to_the_resolution_of_a_covariance() -> None:
    """Off by 1e-14 / s of the largest at the share s, and none below 1.4e-7."""
    for smallest, seen in ((1e-6, 30), (1e-8, 15)):
        x = rotated(400, 30, spectrum_of("small half", 30, smallest))
        moments = FeatureMoments(normalise=False)
        for batch in x.split(64):
            moments.update(batch)
        assert moments.spectrum().isfinite().sum() == seen
        expected = singular_spectrum(x, normalise=False)
        assert expected.isfinite().sum() == 30
        found = (moments.spectrum()[:seen] / 2).exp() / (expected[0] / 2).exp()
        torch.testing.assert_close(found, (expected[:seen] / 2).exp() / (expected[0] / 2).exp(), rtol=0, atol=3e-8)
        torch.testing.assert_close(moments.w2(), w2_uniformity(x, normalise=False), rtol=0, atol=1e-7)


def half_and_double(x: Tensor) -> tuple[Tensor, Tensor]:
    """Moments of features of which one rank holds half precision, the other what that was taken to."""
    moments = FeatureMoments(normalise=False)
    first, second = x[:150], x[150:].double()
    if rank() == 0:
        moments.update(first)
    if rank() == 1 or world_size() == 1:
        moments.update(second)
    joined = moments.reduced()
    return joined.spectrum().exp(), torch.tensor(joined.roundoff)


@pytest.mark.distributed
def test_moments_remember_the_coarsest_rounding_on_every_rank() -> None:
    x = rotated(400, 30, torch.ones(10, dtype=torch.float64)).half()
    expected = half_and_double(x)
    assert expected[0].count_nonzero() == 10
    assert expected[1] == 2.0**-11
    for found in run_ranks(half_and_double, 2, x):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    told = FeatureMoments(normalise=False, dtype=torch.float16)
    told.update(x.double())
    assert told.spectrum().isfinite().sum() == 10


def test_products_see_float64_features_as_they_see_float32_ones() -> None:
    x = rotated(64, 16, spectrum_of("small half", 16, 1e-9))
    kept = by_decomposition(x).singular[:8]
    value = (x.square().sum() / 64 + 1 - 2 / 32 * kept.sum()).sqrt()
    torch.testing.assert_close(w2_uniformity(x, normalise=False, method="polar"), value, rtol=1e-10, atol=0)
