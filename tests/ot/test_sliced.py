"""Sliced W2 between clouds and to the normal law, and the directions it is taken along."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from wasskit.ot import sliced_gaussian_wasserstein_squared, sliced_wasserstein_squared, slicing_directions


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def share(n: int, seed: int) -> Tensor:
    return 0.1 + torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


ONE = torch.ones(1, 1, dtype=torch.float64)


def test_the_assignment_of_equal_points() -> None:
    """In one dimension: the best of all permutations."""
    x, y = draw(5, 1), draw(5, 1, seed=1)
    best = min(float((x - y[list(order)]).square().mean()) for order in itertools.permutations(range(5)))
    assert float(sliced_wasserstein_squared(x, y, directions=ONE)) == pytest.approx(best, rel=1e-14)


def test_weights_and_sizes_against_a_linear_program() -> None:
    from scipy.optimize import linprog

    x, y, a, b = draw(5, 1), draw(4, 1, seed=1), share(5, 2), share(4, 3)
    costs = (x - y.T).square().numpy().ravel()
    rows = np.kron(np.eye(5), np.ones(4)), np.kron(np.ones(5), np.eye(4))
    sums = np.concatenate([(a / a.sum()).numpy(), (b / b.sum()).numpy()])
    best = linprog(costs, A_eq=np.concatenate(rows), b_eq=sums).fun
    found = sliced_wasserstein_squared(x, y, x_weights=a, y_weights=b, directions=ONE)
    assert float(found) == pytest.approx(best, rel=1e-9)


def test_pot() -> None:
    ot = pytest.importorskip("ot")
    x, y, a, b = draw(40, 4), draw(27, 4, seed=1), share(40, 2), share(27, 3)
    axes = slicing_directions(30, 4, like=x)
    expected = ot.sliced_wasserstein_distance(
        x.numpy(), y.numpy(), (a / a.sum()).numpy(), (b / b.sum()).numpy(), projections=axes.T.numpy()
    )
    found = sliced_wasserstein_squared(x, y, x_weights=a, y_weights=b, directions=axes)
    assert float(found) == pytest.approx(expected**2, rel=1e-12)


def test_laws() -> None:
    """Symmetry; a shift t adds |t|^2 / d over all of an orthonormal base; degree two; mass may be split."""
    x, y, a, b = draw(12, 3), draw(9, 3, seed=1), share(12, 2), share(9, 3)
    base = slicing_directions(3, 3, like=x)

    def distance(x: Tensor, y: Tensor, a: Tensor | None = None, b: Tensor | None = None) -> Tensor:
        return sliced_wasserstein_squared(x, y, x_weights=a, y_weights=b, directions=base)

    found = distance(x, y, a, b)
    torch.testing.assert_close(distance(y, x, b, a), found)
    torch.testing.assert_close(distance(3 * x, 3 * y, a, 8 * b), 9 * found)
    torch.testing.assert_close(distance(x.repeat(2, 1), y, torch.cat([a / 4, 3 * a / 4]), b), found)
    torch.testing.assert_close(distance(x.repeat(3, 1), y), distance(x, y))
    assert float(distance(x, x[torch.randperm(12)])) < 1e-28
    torch.testing.assert_close(distance(x, x + torch.tensor([1.0, -2.0, 2.0])), torch.tensor(3.0).double())


def test_blocks_of_directions_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, a = draw(12, 3), draw(9, 3, seed=1), share(12, 2)
    axes = slicing_directions(20, 3, like=x)
    whole = sliced_wasserstein_squared(x, y, x_weights=a, directions=axes)
    normal = sliced_gaussian_wasserstein_squared(x, directions=axes)
    monkeypatch.setattr("wasskit.ot.sliced._BLOCK", 50)
    torch.testing.assert_close(sliced_wasserstein_squared(x, y, x_weights=a, directions=axes), whole)
    torch.testing.assert_close(sliced_gaussian_wasserstein_squared(x, directions=axes), normal)


def test_gradients() -> None:
    x, y, a, b = draw(8, 3).requires_grad_(), draw(5, 3, seed=1).requires_grad_(), share(8, 2), share(5, 3)
    axes = slicing_directions(7, 3, like=x)
    assert torch.autograd.gradcheck(
        lambda x, y: sliced_wasserstein_squared(x, y, x_weights=a, y_weights=b, directions=axes), (x, y)
    )
    assert torch.autograd.gradcheck(lambda x, y: sliced_wasserstein_squared(x, y, directions=axes), (x, y))
    assert torch.autograd.gradcheck(lambda x: sliced_gaussian_wasserstein_squared(x, scale=0.7, directions=axes), (x,))


def test_one_point_has_a_finite_gradient() -> None:
    """Of a collapsed batch: every point moves by the same bins of the normal law, along each direction."""
    x = torch.zeros(6, 3, requires_grad=True)
    found = sliced_gaussian_wasserstein_squared(x)
    found.backward()
    torch.testing.assert_close(found.detach(), torch.tensor(1.0))
    assert x.grad is not None
    assert bool(torch.isfinite(x.grad).all())
    assert float(x.grad.norm()) > 0


def test_the_normal_law_is_the_limit_of_its_quantiles() -> None:
    """2^20 quantiles miss the law's second moment by 3e-6, which is the bound."""
    x = draw(11, 1)
    steps = (torch.arange(2**20, dtype=torch.float64) + 0.5) / 2**20
    expected = sliced_wasserstein_squared(x, 0.7 * torch.special.ndtri(steps)[:, None], directions=ONE)
    found = sliced_gaussian_wasserstein_squared(x, scale=0.7, directions=ONE)
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-6)


def test_one_point_against_the_normal_law() -> None:
    """(x - 0)^2 + s^2."""
    found = sliced_gaussian_wasserstein_squared(torch.tensor([[3.0]]), scale=2.0, directions=ONE)
    torch.testing.assert_close(found, torch.tensor(13.0))


@pytest.mark.parametrize("kind", ["orthogonal", "random", "sobol"])
def test_directions_are_uniform(kind: Any) -> None:
    """Their second moment is I / d: each entry of 6,000 has a standard error below 1 / sqrt 6000 = 0.013."""
    axes = slicing_directions(6000, 4, like=draw(1), kind=kind, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(axes.norm(dim=1), torch.ones(6000).double())
    assert float((axes.mT @ axes / 6000 - torch.eye(4) / 4).abs().max()) < 0.04
    assert float(axes.mean(0).abs().max()) < 0.04


def test_orthogonal_directions_measure_a_quadratic_exactly() -> None:
    axes = slicing_directions(6, 3, like=draw(1))
    torch.testing.assert_close(axes[:3] @ axes[:3].mT, torch.eye(3).double())
    torch.testing.assert_close(axes.mT @ axes / 6, torch.eye(3).double() / 3)


def test_wrong_input() -> None:
    x = draw(4, 3)
    with pytest.raises(ValueError, match=r"directions must be a matrix \(k, 3\)"):
        sliced_wasserstein_squared(x, x, directions=torch.ones(2, 2))
    with pytest.raises(ValueError, match="not zero"):
        sliced_wasserstein_squared(x, x, directions=torch.zeros(2, 3))
    with pytest.raises(ValueError, match="orthogonal, random or sobol, not 'grid'"):
        slicing_directions(2, 3, like=x, kind="grid")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one direction"):
        slicing_directions(0, 3, like=x)
    with pytest.raises(ValueError, match="scale must be zero or positive"):
        sliced_gaussian_wasserstein_squared(x, scale=-1)
