"""The debiased Sinkhorn divergence of two weighted clouds."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from wasskit.ot import sinkhorn_divergence


def cloud(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def weights(n: int, seed: int) -> Tensor:
    return 0.2 + torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def value(x: Tensor, y: Tensor, blur: float = 0.5, **options: Any) -> Tensor:
    return sinkhorn_divergence(x, y, blur=blur, tolerance=1e-11, tile=16, **options).value


def test_two_points() -> None:
    """Of two Diracs it is half the squared distance, whatever the blur."""
    x, y = torch.tensor([[1.0, 2.0]]), torch.tensor([[4.0, 6.0]])
    for blur in (0.01, 1.0, 100.0):
        torch.testing.assert_close(value(x, y, blur), torch.tensor(12.5))


def test_a_large_blur_compares_the_means() -> None:
    """S tends to half the squared distance of the means (Feydy et al., 2019); 1e-6 is of the order var^2 / eps."""
    x, y = cloud(30, 3, 0), cloud(20, 3, 1) + 1
    a = weights(30, 2)
    means = ((a / a.sum()) @ x - y.mean(0)).square().sum() / 2
    torch.testing.assert_close(value(x, y, 1e3, x_weights=a), means, rtol=1e-5, atol=0)


def test_geomloss() -> None:
    """Annealed slowly, GeomLoss comes within 1e-3 of the converged value, from below."""
    from geomloss import SamplesLoss

    x, y, a, b = cloud(40, 3, 0), cloud(25, 3, 1) + 0.3, weights(40, 2), weights(25, 3)
    reference = SamplesLoss("sinkhorn", p=2, blur=0.5, scaling=0.99, backend="tensorized")
    expected = reference(a / a.sum(), x, b / b.sum(), y)
    torch.testing.assert_close(value(x, y, x_weights=a, y_weights=b), expected, rtol=1e-3, atol=0)


def test_pot() -> None:
    """Plan and cost of POT's logarithmic solver, with its cost and entropy in our units."""
    ot = pytest.importorskip("ot")
    x, y, a, b = cloud(12, 3, 0), cloud(9, 3, 1), weights(12, 2), weights(9, 3)
    a, b = a / a.sum(), b / b.sum()
    cost = torch.cdist(x, y).square() / 2
    plan = torch.from_numpy(
        ot.sinkhorn(a.numpy(), b.numpy(), cost.numpy(), 0.25, method="sinkhorn_log", stopThr=1e-13, numItermax=100_000)
    )
    found = sinkhorn_divergence(x, y, blur=0.5, x_weights=a, y_weights=b, tolerance=1e-12, plan=True)
    assert found.plan is not None
    torch.testing.assert_close(found.plan, plan, rtol=0, atol=1e-11)
    entropy = (plan * (plan / (a[:, None] * b)).log()).sum()
    torch.testing.assert_close(found.cost, (plan * cost).sum() + 0.25 * entropy, rtol=1e-10, atol=0)


def test_value_and_potentials_of_pot() -> None:
    """Of the three problems, each solved by POT. Its potentials are of exp((f + g - c) / eps), without the weights, and
    free up to a constant.
    """
    ot = pytest.importorskip("ot")
    x, y, a, b = cloud(12, 3, 0), cloud(9, 3, 1), weights(12, 2), weights(9, 3)
    a, b = a / a.sum(), b / b.sum()

    def solved(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Any:
        cost = (torch.cdist(x, y).square() / 2).numpy()
        return ot.solve(cost, a.numpy(), b.numpy(), reg=0.25, reg_type="KL", max_iter=2000, tol=1e-12)

    both, first, second = solved(x, y, a, b), solved(x, x, a, a), solved(y, y, b, b)
    found = sinkhorn_divergence(x, y, blur=0.5, x_weights=a, y_weights=b, tolerance=1e-12)
    expected = both.value - (first.value + second.value) / 2
    assert float(found.value) == pytest.approx(float(expected), rel=1e-9)
    for ours, theirs, weight in ((found.f, both.potentials[0], a), (found.g, both.potentials[1], b)):
        shift = ours + 0.25 * weight.log() - torch.as_tensor(theirs)
        torch.testing.assert_close(shift, shift[:1].expand_as(shift), rtol=0, atol=1e-9)


def test_potentials_of_geomloss() -> None:
    """Its potentials are those of the divergence, f - f_self.

    Its fixed number of sweeps leaves relative errors of 1.5e-3 in the marginals, which move a potential by epsilon = 4
    times as much: 6e-3. With a blur small beside the clouds, parts that exchange no mass shift against each other
    by far more.
    """
    from geomloss import SamplesLoss

    x, y, a, b = cloud(40, 3, 0), cloud(25, 3, 1) + 0.3, weights(40, 2), weights(25, 3)
    a, b = a / a.sum(), b / b.sum()
    reference = SamplesLoss("sinkhorn", p=2, blur=2.0, scaling=0.99, potentials=True, backend="tensorized")
    found = sinkhorn_divergence(x, y, blur=2.0, x_weights=a, y_weights=b, tolerance=1e-11)
    for ours, theirs, weight in zip(
        (found.f - found.f_self, found.g - found.g_self), reference(a, x, b, y), (a, b), strict=True
    ):
        ours, theirs = (side - weight @ side for side in (ours, theirs.flatten()))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=4 * 2e-3)


def test_potentials_and_plan_fit_each_other() -> None:
    x, y, a, b = cloud(12, 3, 0), cloud(9, 3, 1), weights(12, 2), weights(9, 3)
    found = sinkhorn_divergence(x, y, blur=0.5, x_weights=a, y_weights=b, tolerance=1e-12, plan=True)
    assert found.plan is not None
    a, b = a / a.sum(), b / b.sum()
    gibbs = ((found.f[:, None] + found.g - torch.cdist(x, y).square() / 2) / 0.25).exp()
    torch.testing.assert_close(found.plan, a[:, None] * b * gibbs)
    torch.testing.assert_close(found.plan.sum(1), a, rtol=0, atol=1e-11)
    torch.testing.assert_close(found.plan.sum(0), b, rtol=0, atol=1e-11)
    torch.testing.assert_close(found.cost, a @ found.f + b @ found.g)
    assert found.marginal_error <= 1e-12


def test_laws() -> None:
    """Zero at equality, symmetric, invariant to rigid motions, of degree two, blind to how mass is written."""
    x, y, a, b = cloud(20, 3, 0), cloud(15, 3, 1), weights(20, 2), weights(15, 3)
    found = value(x, y, x_weights=a, y_weights=b)
    assert float(found) > 0
    assert abs(float(value(x, x, x_weights=a, y_weights=a))) < 1e-12
    torch.testing.assert_close(value(y, x, x_weights=b, y_weights=a), found)
    rotation = torch.linalg.qr(cloud(3, 3, 4)).Q
    torch.testing.assert_close(value(x @ rotation + 100, y @ rotation + 100, x_weights=a, y_weights=b), found)
    torch.testing.assert_close(value(7 * x, 7 * y, 3.5, x_weights=a, y_weights=b), 49 * found)
    split = torch.cat([a / 3, 2 * a / 3])
    torch.testing.assert_close(value(torch.cat([x, x]), y, x_weights=split, y_weights=5 * b), found)
    padded = torch.cat([x, 50 + cloud(3, 3, 5)]), torch.cat([a, torch.zeros(3, dtype=torch.float64)])
    torch.testing.assert_close(value(padded[0], y, x_weights=padded[1], y_weights=b), found)


@pytest.mark.parametrize("tile", [1, 7, 4096])
def test_tiles_change_nothing(tile: int) -> None:
    x, y = cloud(20, 3, 0), cloud(15, 3, 1)
    found = sinkhorn_divergence(x, y, blur=0.5, tolerance=1e-11, tile=tile)
    torch.testing.assert_close(found.value, value(x, y), rtol=1e-12, atol=0)


@pytest.mark.slow
def test_gradients() -> None:
    """In points and weights, by differences; also where points of both clouds coincide."""
    x, y = cloud(9, 2, 0), cloud(6, 2, 1)
    y[:3] = x[:3]
    inputs = (x.requires_grad_(), y.requires_grad_(), weights(9, 2).requires_grad_(), weights(6, 3).requires_grad_())

    def loss(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return sinkhorn_divergence(x, y, blur=0.7, x_weights=a, y_weights=b, tolerance=1e-13, tile=4).value

    assert torch.autograd.gradcheck(loss, inputs, atol=1e-7)


def test_equal_clouds_have_no_gradient() -> None:
    x = cloud(9, 2, 0).requires_grad_()
    value(x, x.detach()).backward()
    assert x.grad is not None
    assert float(x.grad.abs().max()) < 1e-10


def test_gradients_of_float32_clouds() -> None:
    """Computed in float64 and rounded once: one unit of float32, of the largest entry."""
    wide = cloud(9, 2, 0).float().requires_grad_()
    exact = wide.detach().double().requires_grad_()
    y = cloud(6, 2, 1).float()
    value(wide, y).backward()
    value(exact, y.double()).backward()
    assert wide.grad is not None
    assert exact.grad is not None
    bound = torch.finfo(torch.float32).eps * float(exact.grad.abs().max())
    torch.testing.assert_close(wide.grad.double(), exact.grad, rtol=0, atol=bound)


def test_float32_keeps_small_divergences() -> None:
    """Inside all is float64: of points that float32 holds exactly, only the result is rounded."""
    x = torch.randint(-64, 64, (30, 3), generator=torch.Generator().manual_seed(0)) / 64
    y = x + 1 / 1024
    torch.testing.assert_close(value(x, y).double(), value(x.double(), y.double()), rtol=2**-23, atol=0)
    assert float(value(x, y)) == pytest.approx(1.5 / 1024**2, rel=1e-6)


def test_it_says_when_it_has_not_converged() -> None:
    with pytest.warns(RuntimeWarning, match="stopped after 3 sweeps with a marginal error of"):
        found = sinkhorn_divergence(cloud(20, 3, 0), cloud(15, 3, 1), blur=0.05, max_steps=3)
    assert found.marginal_error > 1e-6
    assert math.isfinite(float(found.value))


def test_wrong_input() -> None:
    x, y = cloud(4, 3, 0), cloud(5, 3, 1)
    with pytest.raises(ValueError, match=r"not \(4, 3\) and \(5, 2\)"):
        sinkhorn_divergence(x, y[:, :2], blur=1.0)
    with pytest.raises(ValueError, match="blur must be positive"):
        sinkhorn_divergence(x, y, blur=0.0)
    with pytest.raises(ValueError, match="4 points, weights of shape"):
        sinkhorn_divergence(x, y, blur=1.0, x_weights=torch.ones(5))
    with pytest.raises(ValueError, match="not negative"):
        sinkhorn_divergence(x, y, blur=1.0, x_weights=torch.tensor([1.0, -1.0, 1.0, 1.0]))
    x[2, 1] = torch.nan
    with pytest.raises(ValueError, match="1 of 4 points of the first cloud are not finite"):
        sinkhorn_divergence(x, y, blur=1.0)


def test_more_steps_never_lower_the_dual_value() -> None:
    """Whatever is extrapolated: a small blur, a point of next to no weight."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in (7, 5))
    shares = torch.tensor([1e-200, *[1.0] * 6], dtype=torch.float64)
    costs = []
    for steps in (1, 4, 16, 64, 256, 1024):
        with pytest.warns(RuntimeWarning, match=f"stopped after {steps} sweeps"):
            found = sinkhorn_divergence(x, y, blur=0.02, x_weights=shares, max_steps=steps)
        costs.append(float(found.cost))
    # Potentials are off by some eps of their size, which grows to that of eps log 1e200.
    assert all(later >= earlier - 1e-12 for earlier, later in itertools.pairwise(costs))
    # The entropic cost lies between the unregularised one, of 7 by 5 pairs, and that of the independent coupling.
    largest = 0.5 * torch.cdist(x[1:], y).square().mean()
    assert 0 < costs[0] <= costs[-1] <= float(largest)
