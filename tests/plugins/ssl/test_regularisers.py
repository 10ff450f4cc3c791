"""VICReg, SIGReg and VISReg: values by hand, laws, gradients, and two ranks against one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.distributed.harness import run_ranks
from wasskit.distributed.shard import shard_indices
from wasskit.ot import slicing_directions
from wasskit.plugins.ssl.regularisers import (
    covariance_term,
    invariance_loss,
    sigreg_regulariser,
    variance_term,
    vicreg_regulariser,
    visreg_center,
    visreg_regulariser,
    visreg_scale,
    visreg_shape,
)

REGULARISERS: dict[str, Callable[..., Tensor]] = {
    "vicreg": vicreg_regulariser,
    "sigreg": sigreg_regulariser,
    "visreg": visreg_regulariser,
}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def apply(name: str, *views: Tensor) -> Tensor:
    options = {} if name == "vicreg" else {"count": 12, "generator": torch.Generator().manual_seed(3)}
    return REGULARISERS[name](*views, **options)


def test_vicreg_by_hand() -> None:
    """Columns of variance 2 and 0.5 (1 / (B - 1)) and covariance 0, then 1."""
    z = torch.tensor([[1.0, 0.5], [-1.0, -0.5]]).double()
    hinge = 1 - (0.5 + 1e-4) ** 0.5
    assert float(variance_term(z)) == pytest.approx(hinge / 2, rel=1e-12)
    assert float(covariance_term(z)) == pytest.approx(2 * 1.0**2 / 2, rel=1e-12)
    assert float(vicreg_regulariser(z, z, covariance_weight=0.5)) == pytest.approx(hinge / 2 + 0.5, rel=1e-12)
    assert float(covariance_term(torch.eye(2).double().repeat(2, 1) * torch.tensor([1, -1]))) > 0


def test_visreg_by_hand() -> None:
    """Two points at 1 and 5: mean 3, deviation 2; their standardised values -1 and 1 beside the quantiles of 1/3,
    2/3."""
    z = torch.tensor([[1.0], [5.0]]).double()
    quantile = float(torch.special.ndtri(torch.tensor(2 / 3, dtype=torch.float64)))
    assert float(visreg_center(z)) == pytest.approx(9)
    assert float(visreg_scale(z)) == pytest.approx(1)
    shape = (2 / (2 + 1e-4) - quantile) ** 2
    assert float(visreg_shape(z, torch.ones(1, 1))) == pytest.approx(shape, rel=1e-10)


def test_visreg_shape_is_blind_to_place_and_scale() -> None:
    """Up to the 1e-4 beside a deviation of 1 and 7."""
    z, axes = draw(40, 5), slicing_directions(9, 5, like=draw(1))
    torch.testing.assert_close(visreg_shape(7 * z + 3, axes), visreg_shape(z, axes), rtol=0, atol=1e-3)


def test_invariance_is_the_mean_square() -> None:
    x, y = draw(6, 3), draw(6, 3, seed=1)
    torch.testing.assert_close(invariance_loss(x, y), (x - y).square().sum(1).mean() / 3)


@pytest.mark.parametrize("name", ["vicreg", "sigreg"])
def test_gradients(name: str) -> None:
    x, y = draw(8, 3).requires_grad_(), draw(8, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: apply(name, x, y), (x, y))


def test_visreg_gradients() -> None:
    """Of each term by differences; the shape's with the deviation held, as published."""
    x, axes = draw(8, 3).requires_grad_(), slicing_directions(5, 3, like=draw(1))
    assert torch.autograd.gradcheck(visreg_center, (x,))
    assert torch.autograd.gradcheck(visreg_scale, (x,))
    (found,) = torch.autograd.grad(visreg_shape(x, axes), x)
    deviation = x.detach().std(0, correction=0) + 1e-4

    def held(z: Tensor) -> Tensor:
        u = (((z - z.mean(0)) / deviation) @ axes.mT).sort(0).values
        quantiles = torch.special.ndtri(torch.arange(1, 9).double() / 9)
        return (u - quantiles[:, None]).square().mean()

    torch.testing.assert_close(found, torch.autograd.grad(held(x), x)[0])


@pytest.mark.parametrize("name", REGULARISERS)
def test_a_collapsed_batch_has_a_finite_gradient(name: str) -> None:
    x = torch.full((8, 4), 0.5, requires_grad=True)
    value = apply(name, x)
    value.backward()
    assert x.grad is not None
    assert bool(torch.isfinite(value))
    assert bool(torch.isfinite(x.grad).all())


@pytest.mark.parametrize("name", REGULARISERS)
def test_normal_features_are_better_than_collapsed_ones(name: str) -> None:
    z = draw(512, 8)
    line = z[:, :1].expand(-1, 8).contiguous()
    assert float(apply(name, z)) < 0.5 * float(apply(name, line))
    assert float(apply(name, z)) < 0.5 * float(apply(name, 0.01 * z))


@pytest.mark.parametrize("name", REGULARISERS)
def test_half_precision_is_computed_in_float32(name: str) -> None:
    z = draw(32, 4).bfloat16()
    torch.testing.assert_close(apply(name, z), apply(name, z.float()), rtol=0, atol=0)


def of_share(name: str, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    own = shard_indices(len(x))
    x, y = (z[own.start : own.stop].clone().requires_grad_() for z in (x, y))
    value = apply(name, x, y)
    value.backward()
    assert x.grad is not None
    return value.detach(), x.grad


@pytest.mark.distributed
@pytest.mark.parametrize("name", REGULARISERS)
def test_two_ranks_are_as_one(name: str) -> None:
    """Each rank's loss is that of the whole batch, and its gradient, summed over ranks, twice its rows' share."""
    x, y = draw(12, 4), draw(12, 4, seed=1)
    value, gradient = of_share(name, x, y)
    ranks = run_ranks(of_share, 2, name, x, y)
    for found, _ in ranks:
        torch.testing.assert_close(found, value)
    torch.testing.assert_close(torch.cat([found for _, found in ranks]) / 2, gradient)
