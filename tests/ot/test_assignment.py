"""Exact transport between clouds of one size."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from wasskit.ot import assignment_wasserstein_squared, sinkhorn_divergence
from wasskit.ot.assignment import optimal_assignment


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_it_is_the_least_over_all_bijections() -> None:
    x, y = draw(6, 3), draw(6, 3, seed=1) + 0.5
    costs = [(x - y[list(order)]).square().sum(1).mean() for order in itertools.permutations(range(6))]
    torch.testing.assert_close(assignment_wasserstein_squared(x, y), torch.stack(costs).min())
    partners, squares = optimal_assignment(x, y)
    torch.testing.assert_close(squares, (x - y[partners]).square().sum(1))
    assert sorted(partners.tolist()) == list(range(6))


def test_in_one_dimension_it_sorts() -> None:
    x, y = draw(50, 1), draw(50, 1, seed=1).exp()
    expected = (x.sort(0).values - y.sort(0).values).square().mean()
    torch.testing.assert_close(assignment_wasserstein_squared(x, y), expected)


def test_a_translation_costs_its_square() -> None:
    x = draw(40, 5)
    shift = draw(5, seed=2)
    torch.testing.assert_close(assignment_wasserstein_squared(x, x + shift), shift.square().sum())


def test_it_is_that_of_pot() -> None:
    pot = pytest.importorskip("ot")
    x, y = draw(40, 3), 2 * draw(40, 3, seed=1) + 1
    weights = torch.full((40,), 1 / 40, dtype=torch.float64).numpy()
    expected = pot.emd2(weights, weights, pot.dist(x.numpy(), y.numpy()))
    assert float(assignment_wasserstein_squared(x, y)) == pytest.approx(expected, rel=1e-10)


@pytest.mark.slow
def test_sinkhorn_of_small_blur_comes_to_half_of_it() -> None:
    x, y = draw(30, 2), draw(30, 2, seed=1) + 2
    exact = float(assignment_wasserstein_squared(x, y))
    value = float(sinkhorn_divergence(x, y, blur=0.03, max_steps=20_000).value)
    # |OT_eps - OT| <= eps log(n) for each of the three problems of the divergence, of which two count half.
    bound = 2 * 0.03**2 * 3.5
    assert value == pytest.approx(exact / 2, abs=bound)


def test_it_is_that_of_geomloss() -> None:
    geomloss = pytest.importorskip("geomloss")
    x, y = draw(30, 2), draw(30, 2, seed=1) + 2
    loss = geomloss.SamplesLoss("sinkhorn", p=2, blur=0.03, scaling=0.98, backend="tensorized")
    assert float(loss(x, y)) == pytest.approx(float(assignment_wasserstein_squared(x, y)) / 2, abs=2 * 0.03**2 * 3.5)


def test_clouds_of_two_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="of one size, not of 3 and 4 points"):
        assignment_wasserstein_squared(draw(3, 2), draw(4, 2))
