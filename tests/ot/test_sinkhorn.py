"""Nested Sinkhorn divergences: against the converged reference, closed forms, laws and finite differences."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from wasskit.ot.nesting import check_dims
from wasskit.ot.sinkhorn import (
    marginal_errors,
    nested_sinkhorn_divergences,
    self_kernel,
    self_scaling,
    self_transport_costs,
)

References = Callable[[str], dict[str, Any]]
FILES = ("mwrl_loss_small", "mwrl_loss_large1", "mwrl_loss_large2")


def unit_rows(n: int, width: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    x = torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return torch.nn.functional.normalize(x, dim=1)


def dual_divergences(x: Tensor, dims: list[int], beta: float, blur: float) -> Tensor:
    """The definition: three separate problems per pair, each dual solved in both potentials by Newton's method."""

    def transport(a: Tensor, b: Tensor) -> Tensor:
        n, eps = len(a), blur**2
        cost = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist") ** 2 / 2
        f = g = torch.zeros(n, dtype=a.dtype)
        for _ in range(100):
            f = -eps * ((g - cost) / eps - math.log(n)).logsumexp(1)
            g = -eps * ((f[:, None] - cost) / eps - math.log(n)).logsumexp(0)
        for _ in range(8):
            plan = ((f[:, None] + g - cost) / eps).exp() / n**2
            slack = torch.cat([1 / n - plan.sum(1), 1 / n - plan.sum(0)])
            hessian = torch.cat([torch.cat([plan.sum(1).diag(), plan], 1), torch.cat([plan.T, plan.sum(0).diag()], 1)])
            f, g = torch.cat([f, g]).add(eps * torch.linalg.pinv(hessian, hermitian=True) @ slack).split(n)
        return f.mean() + g.mean() + eps - eps * ((f[:, None] + g - cost) / eps).exp().mean()

    values = []
    for d, e in itertools.pairwise(dims):
        smaller = torch.cat([x[:, :d], torch.zeros_like(x[:, d:e])], 1)
        larger = torch.cat([x[:, :d], beta**0.5 * x[:, d:e]], 1)
        values.append(transport(smaller, larger) - transport(smaller, smaller) / 2 - transport(larger, larger) / 2)
    return torch.stack(values)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_converged_reference_values(reference: References, file: str, dtype: torch.dtype) -> None:
    """Converged values to 4e-6 relative (the reference itself is good to 4e-7, more when S is tiny); float32
    to 1e-6 absolute.
    """
    ref = reference(file)
    x = torch.nn.functional.normalize(torch.tensor(ref["E"]).to(dtype), dim=1)
    for (_, _, beta, blur, _), expected in zip(ref["combos"], torch.tensor(ref["w_converged"]), strict=True):
        values = nested_sinkhorn_divergences(x, ref["dims"].tolist(), beta=beta, blur=blur)
        total = nested_sinkhorn_divergences(x, ref["dims"].tolist(), beta=beta, blur=blur, reduction="sum")
        assert values.dtype == total.dtype == dtype
        if dtype == torch.float64:
            torch.testing.assert_close(values, expected, rtol=4e-6, atol=1e-9)
            torch.testing.assert_close(total, expected.sum(), rtol=1e-6, atol=0)
        else:
            torch.testing.assert_close(values.double(), expected, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(total.double(), expected.sum(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("beta", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("blur", [0.05, 0.1, 0.5])
def test_definition_with_three_problems(beta: float, blur: float) -> None:
    x, dims = unit_rows(24, 32), [2, 5, 6, 32]
    expected = dual_divergences(x, dims, beta, blur)
    torch.testing.assert_close(
        nested_sinkhorn_divergences(x, dims, beta=beta, blur=blur), expected, rtol=3e-8, atol=1e-13
    )


def test_general_problems_at_beta_one_equal_the_telescoped_ones() -> None:
    """beta = 1 takes K problems, its sum two; a beta next to 1 takes 2 (K - 1): all three agree."""
    x, dims = unit_rows(40, 64, seed=3), [4, 8, 16, 32, 64]
    each = nested_sinkhorn_divergences(x, dims)
    general = nested_sinkhorn_divergences(x, dims, beta=1 + 1e-12)
    torch.testing.assert_close(each, general, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(nested_sinkhorn_divergences(x, dims, reduction="sum"), each.sum(), rtol=1e-13, atol=0)


def test_two_diracs_have_the_closed_form() -> None:
    """Two points 2a apart in the prefix: by symmetry u is constant, OT = -eps log((1 + exp(-2 a^2 / eps)) / 2)."""
    a, b, blur = 0.6, 0.8, 0.4
    x = torch.tensor([[a, b], [-a, -b]], dtype=torch.float64)
    for beta in (1.0, 3.0):

        def cost(half_distance_squared: float) -> float:
            return -(blur**2) * math.log((1 + math.exp(-2 * half_distance_squared / blur**2)) / 2)

        expected = 0.5 * (cost(a * a) - cost(a * a + beta * b * b) + beta * b * b)
        value = nested_sinkhorn_divergences(x, [1, 2], beta=beta, blur=blur)
        assert value.item() == pytest.approx(expected, rel=1e-13)


def test_half_squared_cost_convention() -> None:
    """With a tiny blur points far apart stay put: S is half the mean squared residual (and not all of it)."""
    x = unit_rows(5, 8)
    value = nested_sinkhorn_divergences(x, [4, 8], beta=2.0, blur=1e-3)
    # In each problem a point keeps its mass: OT_eps(X, X) = eps log n, which cancels in the difference.
    torch.testing.assert_close(value, x[:, 4:].square().sum(1).mean().reshape(1), rtol=1e-12, atol=0)


# Float32, u = eps / 2: each (k e^h)_i sums n = 96 positive terms, wrong by n u in the worst order, and the update
# of h rounds some six numbers of up to log n, wrong by 6 u log n; nothing is amplified, for the spectrum of I + A
# begins at 1. The marginals are then evaluated in float64.
ROUNDING = (96 + 6 * math.log(96)) * torch.finfo(torch.float32).eps / 2


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, ROUNDING)])
@pytest.mark.parametrize("blur", [1e-3, 1e-2, 0.05, 0.1, 0.5, 5.0])
def test_marginals_reach_rounding_accuracy_for_every_blur(dtype: torch.dtype, tolerance: float, blur: float) -> None:
    clouds = [
        unit_rows(96, 8, dtype=dtype),
        unit_rows(96, 256, dtype=dtype),
        unit_rows(96, 2, dtype=dtype),
        # clusters of very different sizes, with repeated points: the extremes of the scaling
        unit_rows(6, 3, dtype=dtype)[torch.tensor([0] * 70 + [1] * 20 + [2] * 3 + [3, 4, 5])],
        torch.linspace(0, 1, 96, dtype=dtype)[:, None].expand(-1, 3),
    ]
    for cloud in clouds:
        kernel = self_kernel(cloud[None], blur)
        scaling = self_scaling(kernel)
        assert scaling.dtype == dtype
        assert marginal_errors(kernel.double(), scaling.double()).item() < tolerance
        slack = max(tolerance, 1e-6)
        assert scaling.max() <= slack  # u <= sqrt n, as log(u / sqrt n)
        assert scaling.min() >= -math.log(96) - slack  # u >= 1 / sqrt n


def test_a_single_kernel_needs_no_batch_dimension() -> None:
    kernel = self_kernel(unit_rows(12, 4), 0.5)
    torch.testing.assert_close(self_scaling(kernel), self_scaling(kernel[None])[0], rtol=0, atol=1e-14)
    assert self_scaling(kernel.expand(2, 3, 12, 12)).shape == (2, 3, 12)


def test_steps_contract_as_stated() -> None:
    """0.172 per step: sixteen steps gain eleven orders of magnitude, four at least three."""
    kernel = self_kernel(unit_rows(64, 8)[None], 0.5)
    errors = [marginal_errors(kernel, self_scaling(kernel, steps)).item() for steps in (0, 4, 8, 16)]
    assert errors[1] < 2e-2 * errors[0]
    assert errors[2] < 2e-5 * errors[0]
    assert errors[3] < 2e-11 * errors[0]


def test_self_transport_cost_of_a_constant_and_of_an_identity_kernel() -> None:
    same, apart = torch.ones(1, 7, 7, dtype=torch.float64), torch.eye(7, dtype=torch.float64)[None]
    for kernel, expected in ((same, 0.0), (apart, math.log(7))):
        scaling = self_scaling(kernel)
        assert self_transport_costs(kernel, scaling, 1.0).item() == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("beta", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("blur", [0.1, 0.5])
@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_gradient_by_finite_differences(beta: float, blur: float, reduction: Any) -> None:
    x = torch.randn(6, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / 3
    x.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda e: nested_sinkhorn_divergences(e, [2, 3, 7], beta=beta, blur=blur, steps=40, reduction=reduction),
        x,
        eps=1e-6,
        atol=1e-8,
        rtol=1e-5,
    )


def test_gradient_in_default_precisions_agrees_with_a_long_iteration() -> None:
    x = unit_rows(64, 128)
    for beta in (1.0, 10.0):
        gradients = []
        for dtype, steps in ((torch.float64, 60), (torch.float64, None), (torch.float32, None)):
            e = x.to(dtype, copy=True).requires_grad_()
            nested_sinkhorn_divergences(e, [8, 32, 128], beta=beta, blur=0.2, steps=steps, reduction="sum").backward()
            assert e.grad is not None
            gradients.append(e.grad.double())
        scale = gradients[0].norm()
        assert (gradients[1] - gradients[0]).norm() < 1e-13 * scale
        assert (gradients[2] - gradients[0]).norm() < 2e-6 * scale


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 20),
    seed=st.integers(0, 1000),
    beta=st.sampled_from([0.0, 0.1, 1.0, 7.0]),
    blur=st.floats(0.02, 2.0),
    repeats=st.integers(1, 3),
)
def test_laws(n: int, seed: int, beta: float, blur: float, repeats: int) -> None:
    """Non-negative; unchanged by the order of the batch, by repeating it, and by rotating a block; scales as
    a squared length.
    """
    dims = [3, 4, 9]
    x = unit_rows(n, 9, seed)
    values = nested_sinkhorn_divergences(x, dims, beta=beta, blur=blur)
    assert (values >= -1e-13).all()

    def same(other: Tensor, factor: float = 1.0, blur: float = blur) -> None:
        torch.testing.assert_close(
            nested_sinkhorn_divergences(other, dims, beta=beta, blur=blur), factor * values, rtol=1e-9, atol=1e-12
        )

    same(x[torch.randperm(n, generator=torch.Generator().manual_seed(seed))])
    same(x.repeat(repeats, 1))
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))).Q
    same(torch.cat([x[:, :3] @ rotation, x[:, 3:]], 1))
    same(3 * x, factor=9, blur=3 * blur)


def test_one_sample_pays_its_residual() -> None:
    x = unit_rows(1, 8).requires_grad_()
    values = nested_sinkhorn_divergences(x, [2, 5, 8], beta=3.0)
    torch.testing.assert_close(values, torch.stack([1.5 * x[0, 2:5].square().sum(), 1.5 * x[0, 5:].square().sum()]))
    values.sum().backward()
    expected = torch.cat([torch.zeros(2, dtype=torch.float64), 3 * x.detach()[0, 2:]])
    torch.testing.assert_close(x.grad, expected[None])


@pytest.mark.parametrize("beta", [1.0, 5.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_identical_points(beta: float, dtype: torch.dtype) -> None:
    """A collapsed batch behaves as one sample: finite, with the residual as value and gradient."""
    x = unit_rows(1, 8, dtype=dtype).expand(16, 8).clone().requires_grad_()
    values = nested_sinkhorn_divergences(x, [2, 8], beta=beta, blur=0.1)
    torch.testing.assert_close(values, (beta / 2 * x[0, 2:].square().sum()).reshape(1))
    values.sum().backward()
    expected = torch.cat([torch.zeros(16, 2, dtype=dtype), beta * x.detach()[:, 2:] / 16], 1)
    torch.testing.assert_close(x.grad, expected, rtol=1e-5, atol=1e-7)


def test_a_prefix_that_explains_everything_costs_nothing() -> None:
    x = unit_rows(12, 4)
    padded = torch.cat([x, torch.zeros(12, 4, dtype=torch.float64)], 1)
    torch.testing.assert_close(
        nested_sinkhorn_divergences(padded, [4, 8]), torch.zeros(1, dtype=torch.float64), rtol=0, atol=1e-14
    )


def test_half_precision_is_computed_in_float32() -> None:
    x = unit_rows(16, 32, dtype=torch.float32).bfloat16().requires_grad_()
    value = nested_sinkhorn_divergences(x, [8, 32], beta=2.0, reduction="sum")
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, nested_sinkhorn_divergences(x.float(), [8, 32], beta=2.0).sum())
    value.backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = nested_sinkhorn_divergences(x.float(), [8, 32], beta=2.0, reduction="sum")
    assert inside.item() == value.item()


def test_columns_beyond_the_largest_dimension_are_ignored() -> None:
    x = unit_rows(8, 12).requires_grad_()
    value = nested_sinkhorn_divergences(x, [2, 6], beta=0.5, reduction="sum")
    torch.testing.assert_close(value, nested_sinkhorn_divergences(x[:, :6], [2, 6], beta=0.5).sum())
    value.backward()
    assert x.grad is not None
    assert x.grad[:, 6:].abs().sum() == 0
    assert x.grad[:, :6].abs().sum() > 0


def test_one_dimension_has_no_pair() -> None:
    x = unit_rows(8, 12)
    assert nested_sinkhorn_divergences(x, [12]).shape == (0,)
    assert nested_sinkhorn_divergences(x, [12], reduction="sum").item() == 0


def test_nan_is_not_hidden() -> None:
    x = unit_rows(8, 12)
    x[3, 1] = math.nan
    assert nested_sinkhorn_divergences(x, [4, 12], reduction="sum").isnan()


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        ([], "at least one"),
        ([0, 4], "positive"),
        ([-2, 4], "positive"),
        ([4, 6.5], "whole numbers"),
        ([8, 4], "must increase, but 4 follows 8"),
        ([4, 4, 8], "4 is repeated"),
        ([4, 16], "16 is larger than the embedding, which has 12"),
    ],
)
def test_wrong_dimensions(dims: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nested_sinkhorn_divergences(unit_rows(8, 12), dims)
    with pytest.raises(ValueError, match=message):
        check_dims(dims, 12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blur": 0.0}, "blur"),
        ({"blur": math.nan}, "blur"),
        ({"beta": -1.0}, "beta"),
        ({"reduction": "mean"}, "reduction"),
    ],
)
def test_wrong_parameters(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nested_sinkhorn_divergences(unit_rows(8, 12), [4, 12], **options)


def test_empty_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="non-empty"):
        nested_sinkhorn_divergences(torch.zeros(0, 12), [4, 12])


@pytest.mark.gpu
def test_gpu_equals_cpu_even_where_tf32_is_allowed() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    x = unit_rows(128, 256, dtype=torch.float32)
    expected = nested_sinkhorn_divergences(x.double(), [8, 64, 256], beta=10.0)
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        values = nested_sinkhorn_divergences(x.cuda(), [8, 64, 256], beta=10.0)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(precision)
    torch.testing.assert_close(values.cpu().double(), expected, rtol=1e-5, atol=1e-6)
