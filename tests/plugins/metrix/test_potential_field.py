"""The Potential Field loss against its energy, summed charge by charge, and its forces."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from wasskit.plugins.metrix.losses import potentialfield
from wasskit.plugins.metrix.losses.potentialfield import PotentialField
from wasskit.plugins.metrix.objective import MetrixLoss
from wasskit.plugins.metrix.pairs import Mixing


def field(classes: int = 3, dim: int = 4, **settings: Any) -> PotentialField:
    torch.manual_seed(0)
    return PotentialField(classes, dim, **settings).double()


def batch(labels: list[int], dim: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(len(labels), dim, generator=generator, dtype=torch.float64), torch.tensor(labels)


@pytest.mark.parametrize(("decay", "radius", "proxies"), [(4.0, 0.2, 2), (1.0, 0.9, 1), (6.0, 1.5, 3)])
def test_loss_is_the_energy_of_the_paper(decay: float, radius: float, proxies: int) -> None:
    loss = field(decay=decay, radius=radius, proxies_per_class=proxies)
    x, labels = batch([0, 0, 1, 2, 2, 2])
    points = [*F.normalize(x), *F.normalize(loss.proxies)]
    classes = [*labels.tolist(), *(c for c in range(3) for _ in range(proxies))]
    energy, constant = 0.0, 0
    for i, (r, own) in enumerate(zip(points, classes, strict=True)):
        for j, (z, other) in enumerate(zip(points, classes, strict=True)):
            if i == j:
                continue
            d = float((r - z).detach().norm())
            if own == other:
                energy += -(radius**-decay) if d < radius else -(d**-decay)
                constant += 1
            else:
                energy += d**-decay if d < radius else radius**-decay
                constant -= 1
    expected = (radius**decay * energy + constant) / len(points)
    assert loss(x, labels).item() == pytest.approx(expected, rel=1e-10)


def test_forces_decay_with_the_distance() -> None:
    """Attraction alpha delta^alpha / d^(alpha + 1) beyond delta and none within, repulsion the reverse."""
    loss = field(decay=3.0, radius=0.4)
    d = torch.tensor([0.1, 0.3, 0.5, 1.0, 1.9], dtype=torch.float64, requires_grad=True)
    for law, acts in ((loss.attraction, d > 0.4), (loss.repulsion, d < 0.4)):
        (force,) = torch.autograd.grad(law(1 - d.square() / 2).sum(), d)
        size = 3.0 * 0.4**3 / d.detach() ** 4
        torch.testing.assert_close(force, (size if law == loss.attraction else -size) * acts, rtol=1e-9, atol=0.0)


def test_nothing_acts_at_the_least_energy() -> None:
    """Classes in single points, farther apart than delta: the loss is 0, and so is every force."""
    loss = field(decay=4.0, radius=0.5, proxies_per_class=2)
    corners = torch.eye(3, 4, dtype=torch.float64)
    with torch.no_grad():
        loss.proxies.copy_(corners.repeat_interleave(2, 0))
    x = corners.repeat(2, 1).requires_grad_()
    value = loss(x, torch.arange(3).repeat(2))
    value.backward()
    assert value.item() == 0.0
    assert x.grad is not None
    assert loss.proxies.grad is not None
    assert not x.grad.any()
    assert not loss.proxies.grad.any()


def test_gradient_of_embeddings_and_proxies() -> None:
    loss = field(decay=2.0, radius=0.7, proxies_per_class=2)
    x, labels = batch([0, 0, 1, 2])
    proxies = loss.proxies.detach().clone().requires_grad_()

    def value(x: Tensor, proxies: Tensor) -> Tensor:
        return torch.func.functional_call(loss, {"proxies": proxies}, (x, labels))  # type: ignore[no-any-return]

    assert torch.autograd.gradcheck(value, (x.requires_grad_(), proxies))


def test_blocks_of_charges_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = field(proxies_per_class=5, radius=0.8)
    x, labels = batch([0, 1, 1, 2, 0])
    whole = loss(x.requires_grad_(), labels)
    expected = torch.autograd.grad(whole, [x, loss.proxies])
    monkeypatch.setattr(potentialfield, "BLOCK", 3 * 20)
    parts = loss(x, labels)
    assert parts.item() == pytest.approx(whole.item(), rel=1e-12)
    for ours, known in zip(torch.autograd.grad(parts, [x, loss.proxies]), expected, strict=True):
        torch.testing.assert_close(ours, known, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("decay", [1.0, 10.0])
def test_equal_items_of_two_classes_stay_finite(decay: float) -> None:
    """In single precision, where the potential of a distance of 0 would be infinite: such items exert no force."""
    loss = PotentialField(2, 512, decay=decay, proxies_per_class=1)
    x = torch.randn(1, 512, generator=torch.Generator().manual_seed(0)).repeat(2, 1).requires_grad_()
    value = loss(x, torch.tensor([0, 1]))
    value.backward()
    assert value.isfinite()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_mixtures_are_attracted_by_lambda_and_repelled_by_the_rest(lam: float) -> None:
    x, labels = batch([0, 0, 1, 1])
    x = F.normalize(x)
    objective = MetrixLoss(
        "potentialfield", "embed", num_classes=3, embedding_dim=4, settings={"radius": 0.6, "decay": 2}
    ).double()
    mixed = objective(x, labels, mixing=Mixing(lam, "positive-negative")).mixed
    expected = 0.0
    for a in range(4):
        for p in range(4):
            for n in range(4):
                if a != p and labels[a] == labels[p] and labels[a] != labels[n]:
                    d = float((x[a] - F.normalize(lam * x[p] + (1 - lam) * x[n], dim=0)).norm())
                    expected += lam * (1 - (0.6 / max(d, 0.6)) ** 2) + (1 - lam) * ((0.6 / min(d, 0.6)) ** 2 - 1)
    assert mixed.item() == pytest.approx(expected / 4, rel=1e-9)


def test_what_is_no_field_is_refused() -> None:
    for settings, message in (
        ({"decay": 0.0}, "decay, the exponent alpha, must lie between 0 and 10, not 0.0"),
        ({"decay": 11.0}, "not 11.0"),
        ({"radius": 0.0}, "radius, a distance of unit vectors, must lie between 0 and 2, not 0.0"),
        ({"radius": 2.5}, "not 2.5"),
        ({"proxies_per_class": 0}, "proxies_per_class must be a whole number from 1 on, not 0"),
        ({"proxies_per_class": 1.5}, "not 1.5"),
        ({"proxies_per_class": math.inf}, "not inf"),
        ({"proxies_per_class": math.nan}, "not nan"),
    ):
        with pytest.raises(ValueError, match=message):
            field(**settings)
