"""Convex conjugates: closed forms, agreement of the solvers, Fenchel-Young, robustness."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from wasskit.models.icnn import DenseICNN
from wasskit.ot.conjugate import _LBFGS, solve_conjugate


def convex_network(dim: int, *, activation: Any = "celu", strong_convexity: float = 0.2) -> DenseICNN:
    torch.manual_seed(dim)
    network = DenseICNN(dim, (16, 12), 1, activation, strong_convexity).double()
    for p in network.parameters():
        p.data.normal_()
    network.convexify()
    return network.requires_grad_(False)


def test_quadratic_in_closed_form() -> None:
    torch.manual_seed(0)
    factor = torch.randn(4, 4, dtype=torch.float64)
    matrix = factor @ factor.T + 0.5 * torch.eye(4)

    def quadratic(x: Tensor) -> tuple[Tensor, Tensor]:
        gradient = x @ matrix
        return 0.5 * (x * gradient).sum(1), gradient

    y = torch.randn(10, 4, dtype=torch.float64)
    exact = torch.linalg.solve(matrix, y.T).T
    newton = solve_conjugate(
        quadratic, y, torch.zeros_like(y), hessian=lambda x: matrix.expand(len(x), -1, -1), evaluations=3
    )
    torch.testing.assert_close(newton.point, exact)
    torch.testing.assert_close(newton.value, 0.5 * (y * exact).sum(1))
    lbfgs = solve_conjugate(quadratic, y, torch.zeros_like(y), method="lbfgs", evaluations=60)
    torch.testing.assert_close(lbfgs.point, exact, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("activation", ["celu", "softplus"])
@pytest.mark.parametrize("method", ["newton", "lbfgs"])
def test_inverts_the_map_of_a_network(activation: Any, method: Any) -> None:
    network = convex_network(3, activation=activation)
    x = 2 * torch.randn(50, 3, dtype=torch.float64)
    y = network.gradient(x)
    hessian = network.hessian if method == "newton" else None
    evaluations = 60 if method == "newton" else 300
    found = solve_conjugate(
        network.value_and_gradient,
        y,
        torch.zeros_like(y),
        hessian=hessian,
        method=method,
        evaluations=evaluations,
        tolerance=1e-9,
    )
    assert found.residual.max() < 1e-8
    torch.testing.assert_close(found.point, x, rtol=1e-6, atol=1e-7)
    # Fenchel and Young: psi(x) + psi*(y) = <x, y> at the maximiser, and above it elsewhere.
    torch.testing.assert_close(network(x) + found.value, (x * y).sum(1), rtol=1e-8, atol=1e-8)
    elsewhere = x + torch.randn_like(x)
    assert (network(elsewhere) + found.value >= (elsewhere * y).sum(1)).all()


def test_float32_reaches_rounding_and_never_worsens_the_start() -> None:
    network = convex_network(6).float()
    x = torch.randn(40, 6)
    y = network.gradient(x)
    start = x + 0.05 * torch.randn_like(x)
    before = (network.gradient(start) - y).norm(dim=1)
    for evaluations in (1, 2, 12):
        found = solve_conjugate(network.value_and_gradient, y, start, hessian=network.hessian, evaluations=evaluations)
        assert (found.residual <= before).all()
        assert found.evaluations == evaluations
    assert found.residual.max() < 1e-4 * y.norm(dim=1).max()


def test_each_row_is_solved_as_if_alone() -> None:
    network = convex_network(4)
    y = network.gradient(2 * torch.randn(6, 4, dtype=torch.float64))
    start = torch.zeros_like(y)
    whole = solve_conjugate(network.value_and_gradient, y, start, method="lbfgs", evaluations=25)
    for i in range(len(y)):
        alone = solve_conjugate(network.value_and_gradient, y[i : i + 1], start[:1], method="lbfgs", evaluations=25)
        torch.testing.assert_close(alone.point[0], whole.point[i], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("method", ["newton", "lbfgs"])
def test_solved_rows_are_left_out_and_the_others_are_solved_as_if_alone(method: Any) -> None:
    network = convex_network(4)
    generator = torch.Generator().manual_seed(0)
    x = 2 * torch.randn(40, 4, generator=generator, dtype=torch.float64)
    y = network.gradient(x)
    start = torch.where(torch.arange(40)[:, None] % 4 == 0, torch.zeros_like(x), x)  # most are solved from the start
    start[1] += 1e-3
    evaluated: list[int] = []

    def counted(points: Tensor) -> tuple[Tensor, Tensor]:
        evaluated.append(len(points))
        return network.value_and_gradient(points)

    settings: dict[str, Any] = {"method": method, "evaluations": 60, "tolerance": 1e-3}
    if method == "newton":
        settings["hessian"] = network.hessian
    found = solve_conjugate(counted, y, start, **settings)
    assert evaluated[0] == 40
    assert evaluated[1] <= 11
    assert evaluated == sorted(evaluated, reverse=True)
    assert evaluated[-1] < evaluated[1]
    assert found.residual.max() <= 1e-3
    torch.testing.assert_close(found.residual, (network.gradient(found.point) - y).norm(dim=1), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.value, (found.point * y).sum(1) - network(found.point), rtol=1e-9, atol=1e-12)
    assert (found.point[start.eq(x).all(1)] == x[start.eq(x).all(1)]).all()
    for i in range(40):
        alone = solve_conjugate(network.value_and_gradient, y[i : i + 1], start[i : i + 1], **settings)
        torch.testing.assert_close(alone.point[0], found.point[i], rtol=1e-6, atol=1e-8)


def test_tolerance_stops_early_and_newton_needs_a_hessian() -> None:
    network = convex_network(2)
    x = torch.randn(5, 2, dtype=torch.float64)
    found = solve_conjugate(network.value_and_gradient, network.gradient(x), x, method="lbfgs", tolerance=1e-9)
    assert found.evaluations == 1
    with pytest.raises(ValueError, match="Hessian"):
        solve_conjugate(network.value_and_gradient, x, x, method="newton")


@pytest.mark.parametrize("method", ["newton", "lbfgs"])
def test_autocast_does_not_reach_the_solution(method: Any) -> None:
    """The residual is one of float32: within a few hundred eps (1.2e-7) of |y|, which is about 10; bf16 leaves 1e-2."""
    network = convex_network(3).float()
    x = 2 * torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    y = network.gradient(x).detach()
    hessian = network.hessian if method == "newton" else None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = solve_conjugate(
            network.value_and_gradient, y, torch.zeros_like(y).bfloat16(), hessian=hessian, method=method,
            evaluations=60,
        )  # fmt: skip
    assert found.point.dtype == torch.float32
    assert float(found.residual.max()) < 300 * torch.finfo(torch.float32).eps * float(y.norm(dim=1).max())


def two_loops(pairs: list[tuple[Tensor, Tensor]], g: Tensor) -> Tensor:
    """The two-loop recursion for one row (Nocedal and Wright, 2006, algorithm 7.4)."""
    pairs = [(s, y) for s, y in pairs if s @ y > 0]
    q, alphas = g.clone(), []
    for s, y in reversed(pairs):
        alphas.append((s @ q) / (s @ y))
        q -= alphas[-1] * y
    if pairs:
        q *= (pairs[-1][0] @ pairs[-1][1]) / (pairs[-1][1] @ pairs[-1][1])
    for (s, y), alpha in zip(pairs, reversed(alphas), strict=True):
        q += (alpha - (y @ q) / (s @ y)) * s
    return -q


def test_directions_are_those_of_the_two_loop_recursion() -> None:
    """With pairs that do not count, and more of them than are remembered. Each pair multiplies errors of rounding by
    about the condition of the change that it makes, below 1e3 here."""
    generator = torch.Generator().manual_seed(0)
    rows, dim, memory = 6, 5, 3
    matrix = torch.diag(torch.arange(1.0, dim + 1, dtype=torch.float64))
    points = torch.randn(9, rows, dim, generator=generator, dtype=torch.float64)
    gradients = points @ matrix
    points[3, :2] = points[2, :2]  # steps that were not taken
    gradients[3, :2] = gradients[2, :2]
    gradients[5, 2] = gradients[4, 2] - (points[5, 2] - points[4, 2])  # a negative curvature
    directions = _LBFGS(gradients[0], memory)
    assert torch.equal(directions.first(points[0], gradients[0]), -gradients[0])
    for now in range(1, 9):
        found = directions.next(points[now], gradients[now], points[now - 1], gradients[now - 1])
        for row in range(rows):
            steps = points[max(now - memory, 0) : now + 1, row].diff(dim=0)
            changes = gradients[max(now - memory, 0) : now + 1, row].diff(dim=0)
            pairs = list(zip(steps, changes, strict=True))
            if all(s @ y <= 0 for s, y in pairs):
                continue  # the scale is that of an older pair then
            expected = two_loops(pairs, gradients[now, row])
            torch.testing.assert_close(found[row], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
def test_points_where_the_potential_is_not_finite_are_not_taken(bad: float) -> None:
    """The first step leads far beyond the ball in which the potential is a number."""

    def steep(x: Tensor) -> tuple[Tensor, Tensor]:
        outside = x.norm(dim=1) > 2.0
        value = torch.where(outside, bad, 8.0 * x.square().sum(1))
        return value, torch.where(outside.unsqueeze(1), bad, 16.0 * x)

    y = torch.tensor([[16.0, 8.0], [0.5, 0.1]], dtype=torch.float64)
    found = solve_conjugate(steep, y, torch.zeros_like(y), method="lbfgs", evaluations=30)
    torch.testing.assert_close(found.point, y / 16.0)
    torch.testing.assert_close(found.value, y.square().sum(1) / 32.0)
