"""The polar factor by matrix products, and the nuclear norm at the edge of its rank."""

from __future__ import annotations

import pytest
import torch

from wasskit.ot.polar import nuclear_norm, polar_factor, polar_schedule


@pytest.mark.parametrize("smallest", [0.5, 1e-2, 1e-4, 1e-6])
def test_schedule_maps_its_interval_to_one(smallest: float) -> None:
    x = torch.logspace(torch.tensor(smallest).log10().item(), 0, 4001, dtype=torch.float64)
    for a, b, c in polar_schedule(smallest):
        x = a * x + b * x**3 + c * x**5
    assert (x - 1).abs().max() < 2e-6


def test_first_quintic_is_the_best_one() -> None:
    """Four points of equal error and alternating sign: no odd quintic is nearer to 1 (Chebyshev)."""
    a, b, c = polar_schedule(0.05)[0]
    x = torch.linspace(0.05, 1, 200001, dtype=torch.float64)
    error = a * x + b * x**3 + c * x**5 - 1
    extreme = error.abs().max()
    touching = error[(error.abs() > extreme * (1 - 1e-6))].sign()
    changes = 1 + int((touching[1:] != touching[:-1]).sum())
    assert changes == 4


def test_interval_must_be_proper() -> None:
    with pytest.raises(ValueError, match="smallest"):
        polar_schedule(0.0)


@pytest.mark.parametrize("shape", [(6, 6), (5, 40)])
def test_polar_factor_of_known_singular_vectors(shape: tuple[int, int]) -> None:
    n, m = shape
    generator = torch.Generator().manual_seed(0)
    u = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))[0]
    v = torch.linalg.qr(torch.randn(m, n, generator=generator, dtype=torch.float64))[0]
    s = torch.logspace(0, -3, n, dtype=torch.float64)
    for scale in (1e-12, 1.0, 1e12):
        torch.testing.assert_close(polar_factor(scale * (u * s) @ v.mT), u @ v.mT, rtol=0, atol=2e-6)
    s[-2:] = 0
    null = torch.cat([torch.ones(n - 2), torch.zeros(2)]).double()
    torch.testing.assert_close(polar_factor((u * s) @ v.mT), (u * null) @ v.mT, rtol=0, atol=2e-6)


def test_nuclear_norm_has_the_shortest_subgradient_at_its_kink() -> None:
    x = torch.diag(torch.tensor([3.0, 2.0, 0.0, 0.0])).requires_grad_()
    value = nuclear_norm(x)
    value.backward()
    assert value.item() == pytest.approx(5.0)
    torch.testing.assert_close(x.grad, torch.diag(torch.tensor([1.0, 1.0, 0.0, 0.0])), rtol=0, atol=1e-12)


def test_magnitude_tells_noise_from_a_small_matrix() -> None:
    small = 1e-9 * torch.eye(3)
    assert nuclear_norm(small).item() == pytest.approx(3e-9, rel=1e-6)
    assert nuclear_norm(small, magnitude=torch.tensor(1.0)).item() == 0.0
