"""Energy distances: reference values, the unbiased form, laws."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from wasskit.ot.energy import energy_distance, energy_distance_limit

Reference = Callable[[str], dict[str, Any]]


@pytest.mark.parametrize("case", [0, 1, 2])
def test_reference(reference: Reference, case: int) -> None:
    arrays = {key: torch.as_tensor(value) for key, value in reference("w2gn_energy").items()}
    x, y, theta = arrays[f"X{case}"], arrays[f"Y{case}"], arrays[f"thetas{case}"]
    biased = energy_distance(x, y, theta, unbiased=False)
    torch.testing.assert_close(biased, arrays[f"fixed{case}"][1], rtol=1e-6, atol=0)
    torch.testing.assert_close(energy_distance(x, y, theta), arrays[f"corrected{case}"][0], rtol=1e-9, atol=1e-12)
    exact = arrays[f"exact{case}"]
    torch.testing.assert_close(energy_distance_limit(x, y), exact[0], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(energy_distance_limit(x, y, unbiased=False, chunk=7), exact[1], rtol=1e-9, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("case", [0, 1, 2])
def test_random_directions_agree_with_the_limit(reference: Reference, case: int) -> None:
    arrays = {key: torch.as_tensor(value) for key, value in reference("w2gn_energy").items()}
    generator = torch.Generator().manual_seed(case)
    values = torch.stack(
        [energy_distance(arrays[f"X{case}"], arrays[f"Y{case}"], generator=generator, count=500) for _ in range(20)]
    )
    error = values.std() / 20**0.5
    assert (values.mean() - arrays[f"exact{case}"][0]).abs() < 5 * error
    # The published average over other directions, whose sign error is repaired in `corrected`.
    assert (values.mean() - arrays[f"corrected{case}"][1]).abs() < 5 * error + 10 * arrays[f"average{case}"][1]
    average = energy_distance(arrays[f"X{case}"], arrays[f"Y{case}"], unbiased=False, generator=generator, count=10000)
    assert (average - arrays[f"average{case}"][2]).abs() < 10 * arrays[f"average{case}"][3]


def test_unbiased_is_zero_in_the_mean_for_equal_measures() -> None:
    generator = torch.Generator().manual_seed(0)
    values = []
    for _ in range(300):
        x, y = torch.randn(2, 20, 3, generator=generator)
        values.append(torch.stack([energy_distance_limit(x, y), energy_distance_limit(x, y, unbiased=False)]))
    mean, error = torch.stack(values).mean(0), torch.stack(values).std(0) / 300**0.5
    assert mean[0].abs() < 4 * error[0]
    assert mean[1] > 20 * error[1]


def test_one_dimension_by_hand() -> None:
    # F steps at 0 and 1, G at 2: (1/2)^2 on [0, 1] and 1 on [1, 2].
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [2.0]])
    direction = torch.tensor([[-3.0]])
    assert energy_distance(x, y, direction, unbiased=False).item() == pytest.approx(1.25)
    assert energy_distance(x, y, direction).item() == pytest.approx(1.25 - 0.25)


def test_translation_invariance_and_scaling() -> None:
    torch.manual_seed(1)
    x, y = torch.randn(30, 4), torch.randn(25, 4) + 1
    base = energy_distance_limit(x, y)
    torch.testing.assert_close(energy_distance_limit(2 * x + 5, 2 * y + 5), 2 * base, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(energy_distance_limit(y, x), base)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="shapes"):
        energy_distance(torch.zeros(3, 2), torch.zeros(3, 4))
    with pytest.raises(ValueError, match="two points"):
        energy_distance(torch.zeros(1, 2), torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"^the energy distance needs at least a point"):
        energy_distance(torch.zeros(0, 2), torch.zeros(3, 2), unbiased=False)


@pytest.mark.parametrize("dim", [3, 20])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_value_and_gradient_are_those_of_all_distances(dim: int, offset: float) -> None:
    """Blocks from differences (few dimensions) and from products, with equal points within and between the samples."""
    generator = torch.Generator().manual_seed(dim)
    x, y = (torch.randn(n, dim, generator=generator, dtype=torch.float64) + offset for n in (37, 50))
    x[1], y[:4] = x[0], x[:4]
    x.requires_grad_()
    y.requires_grad_()

    def plain(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        direct = [torch.cdist(p, q, compute_mode="donot_use_mm_for_euclid_dist").mean() for p, q in pairs(a, b)]
        constant = math.exp(math.lgamma(dim / 2) - math.lgamma((dim + 1) / 2)) / math.pi**0.5
        distance: torch.Tensor = 0.5 * constant * (2 * direct[0] - direct[1] - direct[2])
        return distance

    def pairs(a: torch.Tensor, b: torch.Tensor) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
        return (a, b), (a, a), (b, b)

    ours, expected = energy_distance_limit(x, y, unbiased=False, chunk=16), plain(x, y)
    # Points a thousand from 0 are given to eps times a thousand.
    bound = 1e-11 * max(1.0, offset)
    torch.testing.assert_close(ours, expected, rtol=bound, atol=bound)
    for own, other in zip(torch.autograd.grad(ours, (x, y)), torch.autograd.grad(expected, (x, y)), strict=True):
        torch.testing.assert_close(own, other, rtol=bound, atol=bound)
    alone = torch.autograd.grad(energy_distance_limit(x, y.detach(), unbiased=False), x)[0]
    torch.testing.assert_close(alone, torch.autograd.grad(plain(x, y), x)[0], rtol=bound, atol=bound)
