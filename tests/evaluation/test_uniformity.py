"""The uniformity measures against the published figures, closed forms, finite differences and degenerate features."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from tests.distributed.harness import run_ranks
from wasskit.distributed.group import rank, world_size
from wasskit.errors import UserError
from wasskit.evaluation.uniformity import (
    FeatureMoments,
    alignment,
    effective_rank,
    gaussian_uniformity,
    singular_spectrum,
    w2_uniformity,
)
from wasskit.ot.polar import Method

Reference = Callable[[str], dict[str, Any]]

METRIC_CASES = [
    "iso_n500_m8",
    "iso_n500_m32",
    "iso_n500_m256",
    "iso_n2000_m8",
    "iso_n2000_m32",
    "iso_n2000_m256",
    "collapsed_n500_m32",
    "collapsed_n500_m256",
    "shift_n500_m8",
    "shift_n500_m32",
    "shift_n500_m256",
    "fewer_n100_m256",
    "fewer_n20_m32",
    "aniso_n500_m32",
    "raw_n500_m8",
    "point_n50_m8",
]
LOSS_CASES = ["b64_d32", "b128_d64", "b16_d64", "b256_d8"]


def features(kind: str, n: int, m: int, seed: int = 0) -> Tensor:
    """Float64 features that are exact in float32, of the named degeneracy."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, m, generator=generator, dtype=torch.float64)
    if kind == "anisotropic":
        x *= 0.98 ** torch.arange(m)
    elif kind == "collapsed":
        x[:, m // 4 :] = 0
    elif kind == "point":
        x = x[:1].repeat(n, 1)
    elif kind == "shifted":
        x += 4
    elif kind == "zero":
        x.zero_()
    else:
        assert kind == "isotropic"
    return normalize(x, dim=1).float().double()


@pytest.mark.parametrize("case", METRIC_CASES)
def test_metrics_match_the_published_code(case: str, reference: Reference) -> None:
    expected = reference(f"ssl_metrics_{case}")
    x = torch.from_numpy(expected["x"]).double()
    unit = bool(expected["normalised"])
    m = x.shape[1]

    w2 = w2_uniformity(x, normalise=unit)
    torch.testing.assert_close(w2.item(), float(expected["w2_formula"]), rtol=1e-9, atol=1e-12)
    # The training code adds 1e-8 to the eigenvalues under the root, but not to the trace.
    squared = w2_uniformity(x, normalise=unit, ridge=1e-8).square() - m * 1e-8
    torch.testing.assert_close(squared.sqrt().item(), float(expected["w2_code_formula"]), rtol=1e-9, atol=1e-9)

    for t in (1, 2, 3):
        lu = gaussian_uniformity(x, t, normalise=unit, block=128)
        torch.testing.assert_close(lu.item(), float(expected[f"uniform_t{t}"]), rtol=1e-10, atol=1e-12)
        coarse = gaussian_uniformity(x.float(), t, normalise=unit)
        torch.testing.assert_close(coarse.item(), float(expected[f"uniform_t{t}"]), rtol=2e-6, atol=1e-6)
    for alpha in (1, 2) if "y" in expected else ():
        y = torch.from_numpy(expected["y"]).double()
        value = alignment(x, y, alpha, normalise=unit)
        torch.testing.assert_close(value.item(), float(expected[f"align_a{alpha}"]), rtol=1e-10, atol=1e-12)

    rank = int(expected["spectrum_rank"])
    spectrum = singular_spectrum(x)
    np.testing.assert_allclose(spectrum[:rank], expected["spectrum"][:rank], rtol=1e-8)
    assert spectrum.shape == (m,)
    assert bool((spectrum[rank:] == -torch.inf).all())


@pytest.mark.parametrize("case", METRIC_CASES)
def test_float32_features_and_streamed_moments_agree(case: str, reference: Reference) -> None:
    expected = reference(f"ssl_metrics_{case}")
    x = torch.from_numpy(expected["x"])
    unit = bool(expected["normalised"])
    value = float(expected["w2_formula"])
    assert w2_uniformity(x, normalise=unit).dtype == torch.float32
    torch.testing.assert_close(w2_uniformity(x, normalise=unit).item(), value, rtol=2e-6, atol=0)

    moments = FeatureMoments(normalise=unit)
    for start in range(0, len(x), 37):
        moments.update(x[start : start + 37])
    assert moments.count == len(x)
    torch.testing.assert_close(moments.mean.square().sum().item(), float(expected["mean_sq"]), rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(moments.covariance.trace().item(), float(expected["trace_cov"]), rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(moments.w2().item(), value, rtol=1e-7, atol=0)
    if unit:
        torch.testing.assert_close(moments.effective_rank(), effective_rank(x), rtol=1e-6, atol=0)
        rank = int(expected["spectrum_rank"])
        np.testing.assert_allclose(moments.spectrum()[:rank], expected["spectrum"][:rank], rtol=1e-7)


@pytest.mark.parametrize("case", LOSS_CASES)
def test_losses_as_trained_match_the_published_code(case: str, reference: Reference) -> None:
    expected = reference(f"ssl_w2loss_{case}")
    for ridge, variant in ((0.0, "byol"), (1e-12, "barlow"), (float(np.float32(1e-4)), "moco")):
        z = [normalize(torch.from_numpy(expected[f"x{view}"]).double()).requires_grad_() for view in (1, 2)]
        value = w2_uniformity(torch.cat(z), normalise=False, ridge=ridge)
        gradients = torch.autograd.grad(value, z)
        # At rank deficiency the published values hold the square roots of rounding noise in each null
        # direction; here it counts as 0.
        tolerance = 1e-9 if ridge > 1e-6 or int(expected["full_rank"]) else 1e-5
        torch.testing.assert_close(value.item(), float(expected[f"analytic_value_{variant}"]), rtol=tolerance, atol=0)
        if tolerance == 1e-9 or ridge == 0:
            np.testing.assert_allclose(gradients[0], expected[f"analytic_grad1_{variant}"], rtol=1e-6, atol=1e-10)
        if int(expected["full_rank"]):
            torch.testing.assert_close(value.item(), float(expected[f"value_{variant}"]), rtol=1e-9, atol=0)
            for view in (1, 2):
                np.testing.assert_allclose(
                    gradients[view - 1], expected[f"grad{view}_{variant}"], rtol=1e-6, atol=1e-10
                )


def test_gradient_passes_through_the_normalisation(reference: Reference) -> None:
    expected = reference("ssl_w2loss_b64_d32")
    x = [torch.from_numpy(expected[f"x{view}"]).double().requires_grad_() for view in (1, 2)]
    w2_uniformity(torch.cat(x), ridge=1e-12).backward()
    np.testing.assert_allclose(np.asarray(x[0].grad), expected["grad_x1_barlow"], rtol=1e-6, atol=1e-11)


@pytest.mark.parametrize("method", ["eigh", "polar"])
@pytest.mark.parametrize("kind", ["isotropic", "anisotropic", "collapsed", "shifted"])
@pytest.mark.parametrize(("n", "m"), [(96, 32), (40, 96), (64, 64)])
def test_w2_against_the_singular_value_decomposition(kind: str, n: int, m: int, method: Method) -> None:
    """Value and gradient by an SVD in float64, null directions cut.

    Products in float32 amplify the rounding noise in null directions, of which centred data have one where N <= m.
    """
    z = features(kind, n, m)
    centred = z - z.mean(0)
    u, s, v = torch.linalg.svd(centred, full_matrices=False)
    kept = s > s[0] * max(n, m) * torch.finfo(torch.float32).eps
    value = (z.square().sum() / n + 1 - 2 / math.sqrt(n * m) * (s * kept).sum()).sqrt()
    gradient = (z / n - (u * kept) @ v / math.sqrt(n * m)) / value

    x = z.float().requires_grad_()
    computed = w2_uniformity(x, normalise=False, method=method)
    (own,) = torch.autograd.grad(computed, x)
    tolerance = 2e-7 if method == "eigh" else 1e-5 if n > m else 5e-4
    torch.testing.assert_close(computed.item(), value.item(), rtol=2e-7 if method == "eigh" else 2e-6, atol=0)
    assert ((own - gradient).norm() / gradient.norm()).item() < tolerance


@pytest.mark.parametrize("method", ["eigh", "polar"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("n", "m"), [(64, 16), (8, 32), (2, 5), (1, 4)])
@pytest.mark.parametrize("kind", ["isotropic", "collapsed", "point", "zero"])
def test_w2_is_finite_on_whatever_a_network_may_give(
    kind: str, n: int, m: int, dtype: torch.dtype, method: Method
) -> None:
    x = features(kind, n, m).to(dtype).requires_grad_()
    value = w2_uniformity(x, method=method)
    value.backward()
    assert x.grad is not None
    assert torch.isfinite(value)
    assert torch.isfinite(x.grad).all()
    assert x.grad.dtype == dtype
    if kind == "point" or n == 1:
        expected = 1.0 if kind == "zero" else math.sqrt(2)
        torch.testing.assert_close(value.item(), expected, rtol=1e-6, atol=0)
        assert x.grad.abs().max() < 1e-2
    if kind == "zero":
        torch.testing.assert_close(value.item(), 1.0, rtol=0, atol=0)


def other_view(x: Tensor) -> Tensor:
    return features("isotropic", x.shape[0], x.shape[1], seed=9).to(x.dtype)


MEASURES: dict[str, Callable[..., Tensor]] = {
    "w2": w2_uniformity,
    "w2-polar": partial(w2_uniformity, method="polar"),
    "lu": gaussian_uniformity,
    "alignment": lambda x, **options: alignment(x, other_view(x), **options),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MEASURES)
def test_a_zero_feature_among_others_counts_as_zero_and_has_no_gradient(name: str, dtype: torch.dtype) -> None:
    """It has no direction: dividing by a length that is merely kept from 0 gives gradients of 1e11 there."""
    x = features("isotropic", 24, 6).to(dtype)
    zero = torch.arange(24) % 8 == 3
    x[zero] = 0
    x[11, 2] = 1e-15
    leaf = x.clone().requires_grad_()
    value = MEASURES[name](leaf)
    (gradient,) = torch.autograd.grad(value, leaf)
    assert (gradient[zero] == 0).all()

    exact = torch.where(zero[:, None], 0, x.double()).requires_grad_()
    unit = torch.where(zero[:, None], 0, normalize(exact))
    expected = MEASURES[name](unit, normalise=False)
    (expected_gradient,) = torch.autograd.grad(expected, exact)
    torch.testing.assert_close(value.item(), expected.item(), rtol=1e-5 if dtype == torch.float32 else 2e-2, atol=0)
    error = (gradient - expected_gradient)[~zero].norm() / expected_gradient[~zero].norm()
    assert error < (1e-4 if dtype == torch.float32 else 2e-2)


@pytest.mark.parametrize("method", ["eigh", "polar"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
def test_features_that_are_not_finite_give_nan_not_an_error(shape: tuple[int, int], bad: float, method: Method) -> None:
    features = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    features[1, 2] = bad
    features.requires_grad_()
    value = w2_uniformity(features, method=method)
    (gradient,) = torch.autograd.grad(value, features)
    assert value.isnan()
    assert gradient.isnan().any()
    assert singular_spectrum(features.detach()).isnan().any()
    moments = FeatureMoments()
    moments.update(features.detach())
    assert moments.w2().isnan()


def test_gradients_stay_bounded_as_the_features_collapse() -> None:
    """The gradient of tr S^{1/2} is a polar factor over sqrt N: no longer than sqrt(rank / N), however close
    to collapse."""
    generator = torch.Generator().manual_seed(1)
    centre, spread = torch.randn(1, 32, generator=generator), torch.randn(128, 32, generator=generator)
    for scale in (1.0, 1e-2, 1e-4, 1e-6, 1e-8, 0.0):
        for method in ("eigh", "polar"):
            z = normalize(centre + scale * spread).requires_grad_()
            w2_uniformity(z, normalise=False, method=method).backward()
            assert z.grad is not None
            assert z.grad.norm() < 2 / math.sqrt(128)


def test_w2_by_finite_differences() -> None:
    x = torch.randn(12, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(w2_uniformity, x)
    assert torch.autograd.gradcheck(lambda z: w2_uniformity(z, normalise=False, ridge=1e-3), x)
    wide = x.detach().mT.contiguous().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: w2_uniformity(z, ridge=1e-3), wide)


def test_w2_closed_forms() -> None:
    """0 for the corners of the cross-polytope, sqrt(2 - 2 sqrt(d/m)) for those of one in d of m coordinates."""
    for m, d in ((6, 6), (6, 3), (64, 16)):
        corners = torch.cat([torch.eye(d, m), -torch.eye(d, m)]).double()
        expected = math.sqrt(2 - 2 * math.sqrt(d / m))
        torch.testing.assert_close(w2_uniformity(corners).item(), expected, rtol=1e-12, atol=1e-7)
        torch.testing.assert_close(w2_uniformity(corners, method="polar").item(), expected, rtol=1e-6, atol=2e-3)
        torch.testing.assert_close(effective_rank(corners).item(), float(d), rtol=1e-9, atol=0)
    balanced = torch.cat([torch.eye(4), -torch.eye(4)]).requires_grad_()
    w2_uniformity(balanced).backward()
    assert balanced.grad is not None
    assert torch.isfinite(balanced.grad).all()


def test_w2_is_unchanged_by_rotations_permutations_and_copies() -> None:
    z = features("anisotropic", 50, 12)
    generator = torch.Generator().manual_seed(3)
    rotation = torch.linalg.qr(torch.randn(12, 12, generator=generator, dtype=torch.float64))[0]
    expected = w2_uniformity(z)
    for other in (z @ rotation, z[torch.randperm(50, generator=generator)], z.repeat(3, 1), 7 * z):
        torch.testing.assert_close(w2_uniformity(other), expected, rtol=1e-12, atol=0)


def test_autocast_leaves_the_measures_alone() -> None:
    z = features("isotropic", 64, 32).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lowered = [w2_uniformity(z), w2_uniformity(z, method="polar"), gaussian_uniformity(z)]
    expected = [w2_uniformity(z), w2_uniformity(z, method="polar"), gaussian_uniformity(z)]
    torch.testing.assert_close(lowered, expected, rtol=0, atol=0)


@pytest.mark.parametrize(("n", "block"), [(50, 7), (50, 50), (50, 1000), (2, 1), (33, 32)])
def test_lu_by_explicit_pairs(n: int, block: int) -> None:
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64, requires_grad=True)
    for unit, t in ((True, 2.0), (False, 0.5)):
        z = normalize(x) if unit else x
        expected = (-t * torch.pdist(z).square()).exp().mean().log()
        (expected_gradient,) = torch.autograd.grad(expected, x)
        value = gaussian_uniformity(x, t, normalise=unit, block=block)
        (gradient,) = torch.autograd.grad(value, x)
        torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-13)
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-12)


def test_lu_of_distant_points_does_not_underflow() -> None:
    """exp(-2 * 1e4) is 0 in any format, its logarithm is not."""
    x = torch.tensor([[0.0], [100.0], [300.0]])
    expected = -2 * 100.0**2 - math.log(3)
    torch.testing.assert_close(gaussian_uniformity(x, normalise=False).item(), expected, rtol=1e-6, atol=0)
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    value = gaussian_uniformity(opposite, t=30.0)
    assert value.item() == -120.0
    (gradient,) = torch.autograd.grad(value, opposite)
    assert gradient.isfinite().all()


def test_lu_does_not_feel_a_common_offset() -> None:
    """Exponents are at most some t |z_i - z_j|^2 < 4 in size, each of 18 products with roundings of 2^-24: 1e-5."""
    x = torch.randn(200, 16, generator=torch.Generator().manual_seed(0)) * 0.1 + 300
    expected = gaussian_uniformity(x.double(), normalise=False)
    torch.testing.assert_close(gaussian_uniformity(x, normalise=False).double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("t", [20.0, 45.0, 200.0])
def test_lu_of_a_sharp_potential_does_not_underflow(t: float) -> None:
    """On the sphere of 256 dimensions most potentials are near e^-2t, in float32 0 from t = 52 on."""
    x = torch.randn(40, 256, generator=torch.Generator().manual_seed(6)).requires_grad_()
    z = normalize(x.double())
    expected = (-t * torch.pdist(z).square()).logsumexp(0) - math.log(40 * 39 / 2)
    value = gaussian_uniformity(x, t, block=16)
    # Each of about 2t rounds by a few times 2^-24.
    torch.testing.assert_close(value.double(), expected, rtol=0, atol=1e-6 * t)
    (gradient,), (exact,) = torch.autograd.grad(value, x), torch.autograd.grad(expected, x)
    torch.testing.assert_close(gradient, exact, rtol=1e-5 * t, atol=1e-5 * t * exact.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lu_and_alignment_of_a_single_point(dtype: torch.dtype) -> None:
    x = features("point", 16, 8).to(dtype).requires_grad_()
    value = gaussian_uniformity(x)
    value.backward()
    assert x.grad is not None
    torch.testing.assert_close(value.item(), 0.0, rtol=0, atol=1e-6)
    assert x.grad.abs().max() < 1e-5
    y = x.detach().clone().requires_grad_()
    alignment(y, x.detach(), alpha=1).backward()
    assert y.grad is not None
    assert (y.grad == 0).all()


def test_lu_of_many_uniform_points_nears_its_limit() -> None:
    """L_U of the uniform law on the circle, by quadrature: log mean exp(-4 (1 - cos a))."""
    angles = torch.rand(3000, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * 2 * math.pi
    points = torch.stack([angles.cos(), angles.sin()], dim=1)
    grid = torch.arange(1000, dtype=torch.float64) * 2 * math.pi / 1000
    limit = (-4 * (1 - grid.cos())).exp().mean().log()
    torch.testing.assert_close(gaussian_uniformity(points), limit, rtol=0, atol=1e-2)


def test_population_values_of_collapse(reference: Reference) -> None:
    """The published study: W2 sees a collapse to kept of total coordinates, the sample's bias apart."""
    study = reference("ssl_study_collapse")
    rng = np.random.default_rng(int(study["seed"]))
    for level, (kept_row, total_row) in enumerate(zip(study["kept"], study["total_dim"], strict=True)):
        for column, (kept, total) in enumerate(zip(kept_row, total_row, strict=True)):
            x = rng.standard_normal((int(study["N"]), int(kept)))
            if level % 8 or column > 0 or kept == 0:
                continue
            padded = torch.nn.functional.pad(torch.from_numpy(x), (0, int(total - kept)))
            torch.testing.assert_close(w2_uniformity(padded).item(), -study["neg_w2"][level, column], rtol=1e-6, atol=0)
            lu = gaussian_uniformity(padded).item()
            torch.testing.assert_close(lu, -study["neg_lu"][level, column], rtol=1e-6, atol=0)


def on_ranks(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """L_U of all pairs, shared among the ranks, on and off the sphere, and moments of each rank's share, joined."""
    moments = FeatureMoments()
    half = len(x) // 3
    moments.update(x[:half] if rank() == 0 else x[half:])
    if world_size() == 1:
        moments.update(x[half:])
    joined = moments.reduced()
    sphere = gaussian_uniformity(x, block=16, sharded=True)
    return (sphere, gaussian_uniformity(x, 0.7, normalise=False, block=16, sharded=True), joined.w2(), joined.mean)


@pytest.mark.distributed
def test_two_ranks_measure_as_one() -> None:
    x = features("anisotropic", 70, 12) * torch.linspace(0.5, 20, 70, dtype=torch.float64)[:, None]
    expected = on_ranks(x)
    torch.testing.assert_close(expected[0], gaussian_uniformity(x), rtol=1e-12, atol=0)
    torch.testing.assert_close(expected[2], w2_uniformity(x), rtol=1e-12, atol=0)
    for found in run_ranks(on_ranks, 2, x):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)


def test_joined_moments_stay_as_they_were_joined() -> None:
    x = features("isotropic", 60, 8)
    moments = FeatureMoments()
    moments.update(x[:20])
    joined = moments.reduced()
    before = joined.covariance.clone()
    moments.update(x[20:])
    assert torch.equal(joined.covariance, before)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(UserError, match="matrix"):
        w2_uniformity(torch.zeros(4))
    with pytest.raises(UserError, match="at least one row"):
        w2_uniformity(torch.zeros(0, 4))
    with pytest.raises(UserError, match="at least 2"):
        gaussian_uniformity(torch.ones(1, 4))
    with pytest.raises(UserError, match="two views"):
        alignment(torch.ones(2, 4), torch.ones(3, 4))
    with pytest.raises(UserError, match="at least two features"):
        singular_spectrum(torch.ones(1, 4))
    with pytest.raises(UserError, match="Unknown method"):
        w2_uniformity(torch.ones(2, 4), method="svd")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="at least 1"):
        FeatureMoments().w2()
    with pytest.raises(UserError, match=r"matrix \(N, m\) of at least one row, got \(4,\)"):
        alignment(torch.ones(4), torch.ones(4))
    with pytest.raises(UserError, match="cannot be negative, as -1 is"):
        w2_uniformity(torch.ones(2, 4), ridge=-1.0)
    with pytest.raises(UserError, match="blocks of at least one row, not of 0"):
        gaussian_uniformity(torch.ones(2, 4), block=0)
    for measure in (w2_uniformity, gaussian_uniformity, singular_spectrum, effective_rank):
        with pytest.raises(UserError, match=r"real numbers, got torch.complex64"):
            measure(torch.ones(3, 4, dtype=torch.complex64))
