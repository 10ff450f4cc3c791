"""The dual value, and when training counts as better than its start."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import wasskit.plugins.w2gn.core.dual as dual
from wasskit.models.icnn import ConvICNN, QuadraticPotential
from wasskit.ot.gaussian import balance, bures_wasserstein_squared, gaussian_transport_map
from wasskit.plugins.w2gn.core.dual import Gain, Mean, better_of, dual_value, gain, gaussian_start
from wasskit.plugins.w2gn.core.transport import W2GN
from wasskit.plugins.w2gn.maps import plain_coordinates


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def stretched(factor: Tensor, **settings: object) -> W2GN:
    """Potentials 1/2 |L x|^2 and 1/2 |L^-1 y|^2: the maps L^2 and its inverse, in coordinates that change nothing."""
    torch.manual_seed(0)
    dim = len(factor)
    transport = W2GN.dense(dim, hidden=(4, 3), strong_convexity=0.0, start=plain_coordinates(dim))
    with torch.no_grad():
        transport.psi.factor.copy_(factor)  # type: ignore[operator]
        transport.conjugate.factor.copy_(torch.linalg.inv(factor))  # type: ignore[operator]
    return transport


LENGTHS = torch.tensor([1.3, 0.8])


def test_the_gain_of_quadratic_potentials_is_their_closed_form() -> None:
    x, y = draw(40, 2), draw(30, 2, seed=1) * LENGTHS.double() ** 2
    found = gain(stretched(LENGTHS.diag()), x, y)
    squares = LENGTHS.double().square()
    of_x = (x.square() * (1 - squares) / 2).sum(1)
    of_y = (y.square() * (1 - 1 / squares) / 2).sum(1)
    # float32 weights: the factor and its inverse are those of each other to 6e-8.
    assert found.forward.value == pytest.approx(float(of_x.mean() + of_y.mean()), rel=1e-5)
    error = (of_x.var() / 40 + of_y.var() / 30).sqrt()
    assert found.forward.error == pytest.approx(float(error), rel=1e-5)
    assert found.inverse.value == pytest.approx(found.forward.value, rel=1e-5)
    assert found.points == 30


def test_the_true_map_is_kept_and_a_wrong_one_is_not() -> None:
    x, y = draw(500, 2), draw(500, 2, seed=1) * LENGTHS.double() ** 2
    true, wrong = stretched(LENGTHS.diag()), stretched((1 / LENGTHS).diag())
    maps, kept = better_of(true, x, y)
    assert maps is true
    assert kept.trained
    maps, kept = better_of(wrong, x, y)
    assert not kept.trained
    torch.testing.assert_close(maps.forward_map(x.float()), x.float())
    assert "the answer" in kept.note()
    assert kept.as_dict()["kept"] == "start"
    assert "training gains -" in kept.note()
    never = kept._replace(gained=False)
    assert "at no evaluation did training gain" in never.note()
    assert "standard error" not in never.note(), "the gain of the start over itself"


def test_one_good_map_of_two_is_not_enough() -> None:
    x, y = draw(500, 2), draw(500, 2, seed=1) * LENGTHS.double() ** 2
    half = stretched(LENGTHS.diag())
    with torch.no_grad():
        half.conjugate.factor.copy_(LENGTHS.diag())  # type: ignore[operator]
    found = gain(half, x, y)
    assert found.forward.value > 5 * found.forward.error
    assert not found.shown()


def test_the_start_gains_nothing_on_itself() -> None:
    start = stretched(torch.eye(2))
    found = gain(start, draw(50, 2), draw(50, 2, seed=1))
    assert found.total == pytest.approx(0, abs=1e-12)
    assert not found.shown()


def test_the_start_of_networks_for_images_gains_nothing_on_itself() -> None:
    """The strong convexity of a network counts as often as its gain says."""
    torch.manual_seed(0)
    networks = [ConvICNN(8, 3, 2, strong_convexity=0.5) for _ in range(2)]
    for network in networks:
        network.convexify()
    start = W2GN(QuadraticPotential(networks[0]), QuadraticPotential(networks[1]))
    x, y = draw(20, 3, 8, 8), draw(20, 3, 8, 8, seed=1)
    start.center(x.float(), y.float())
    assert isinstance(start.psi.gain, Tensor)
    assert float(start.psi.gain) < 1
    # Conjugates of a hundred or so are solved until residuals are below 1e-6, whose squares are their errors.
    assert gain(start, x, y).total == pytest.approx(0, abs=1e-9)


def test_few_points_must_show_more() -> None:
    def shown(points: int, gained: float, candidates: int = 1) -> bool:
        return Gain(Mean(gained, 1.0), Mean(10.0, 1.0), points).shown(candidates)

    # Upper quantiles at 0.00135 of the normal distribution, and of Student's with four degrees of freedom.
    assert shown(10**7, 3.001)
    assert not shown(10**7, 2.999)
    assert shown(5, 6.63)
    assert not shown(5, 6.61)
    assert not shown(10**7, 3.5, candidates=10)
    assert not shown(10**7, float("nan"))


def test_what_is_not_solved_counts_against_training(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = draw(50, 2), draw(50, 2, seed=1)
    transport = stretched(LENGTHS.diag())
    with torch.no_grad():
        transport.conjugate.factor.mul_(1.5)  # type: ignore[operator]
    solved = gain(transport, x, y).forward.value
    monkeypatch.setattr(dual, "EVALUATIONS", 1)
    assert gain(transport, x, y).forward.value < solved


def test_the_dual_value_of_the_optimal_potential_is_the_distance() -> None:
    first, second = (a.T @ a + 0.3 * torch.eye(3).double() for a in (draw(3, 3), draw(3, 3, seed=1)))
    means = draw(3, seed=2), draw(3, seed=3)
    coordinates = balance(means[0], first, means[1], second)
    torch.manual_seed(0)
    transport = W2GN.dense(3, hidden=(4, 3), strong_convexity=0.0, start=coordinates)
    x = draw(4000, 3, seed=4) @ torch.linalg.cholesky(first).T + means[0]
    mapping = gaussian_transport_map(first, second)
    y = (draw(4000, 3, seed=5) @ torch.linalg.cholesky(first).T) @ mapping + means[1]
    exact = 0.5 * float(bures_wasserstein_squared(means[0], first, means[1], second))
    found = dual_value(transport, x, y)
    assert abs(found.value - exact) < 4 * found.error
    assert found.error < 0.1 * exact
    # Moved to their centres, with the distance of these told apart.
    offset = means[1] - means[0]
    centred = W2GN.dense(3, hidden=(4, 3), strong_convexity=0.0, start=coordinates._replace(
        source_mean=torch.zeros(3), target_mean=torch.zeros(3)
    ))  # fmt: skip
    moved = dual_value(centred, x - means[0], y - means[1], offset=offset)
    assert moved.value + 0.5 * float(offset.square().sum()) == pytest.approx(found.value, rel=1e-5)
    assert moved.error == pytest.approx(found.error, rel=1e-5)


def test_the_gain_is_the_difference_of_dual_values() -> None:
    first, second = (a.T @ a + 0.3 * torch.eye(3).double() for a in (draw(3, 3), draw(3, 3, seed=1)))
    coordinates = balance(draw(3, seed=2), first, draw(3, seed=3), second)
    torch.manual_seed(0)
    transport = W2GN.dense(3, hidden=(8, 5), start=coordinates)
    with torch.no_grad():
        transport.psi.network.final_layer.weight.uniform_(0, 0.2)  # type: ignore[union-attr, operator]
        transport.psi.factor.mul_(0.9)  # type: ignore[operator]
    x, y = draw(60, 3, seed=4) + 1, draw(50, 3, seed=5) * 2
    start = gaussian_start(transport)
    expected = dual_value(transport, x, y).value - dual_value(start, x, y).value
    # Both are solved to residuals of 1e-6, of which the values err by the square.
    assert gain(transport, x, y).forward.value == pytest.approx(expected, rel=1e-6, abs=1e-8)


def test_networks_without_a_quadratic_form_have_no_gaussian_start() -> None:
    with pytest.raises(TypeError, match="has no Gaussian start"):
        gaussian_start(W2GN.dense(2, hidden=(4, 3), start="plain"))
