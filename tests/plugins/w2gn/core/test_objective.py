"""The objective: reference losses and training steps, the refined form, the public class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from wasskit.models.icnn import DenseICNN
from wasskit.ot.gaussian import Balance, bures_wasserstein_squared, gaussian_transport_map
from wasskit.plugins.w2gn.core.objective import (
    Objective,
    cyclic_objective,
    identity_objective,
    l1_norm,
    refined_objective,
    solve,
)
from wasskit.plugins.w2gn.core.transport import W2GN, gaussian_coordinates

Reference = Callable[[str], dict[str, Any]]


def network(arrays: dict[str, Any], prefix: str) -> DenseICNN:
    state = {"final_layer.weight": arrays[f"{prefix}_final"]}
    for i in range(len(arrays["hidden"])):
        for short, name in (("A", "quadratic_decomposed"), ("w", "weight"), ("b", "bias")):
            state[f"quadratic_layers.{i}.{name}"] = arrays[f"{prefix}_quad{i}_{short}"]
        if i:
            state[f"convex_layers.{i - 1}.weight"] = arrays[f"{prefix}_convex{i}"]
    tensors = {name: torch.as_tensor(value) for name, value in state.items()}
    return DenseICNN.from_state_dict(tensors, strong_convexity=float(arrays["strong_convexity"]))


def by_published_name(net: DenseICNN, prefix: str) -> dict[str, torch.nn.Parameter]:
    names = {f"{prefix}_final": net.final_layer.weight}
    for i, layer in enumerate(net.quadratic_layers):
        names[f"{prefix}_quad{i}_A"] = layer.quadratic_decomposed  # type: ignore[assignment]
        names[f"{prefix}_quad{i}_w"] = layer.weight  # type: ignore[assignment]
        names[f"{prefix}_quad{i}_b"] = layer.bias  # type: ignore[assignment]
        if i:
            names[f"{prefix}_convex{i}"] = net.convex_layers[i - 1].weight  # type: ignore[assignment]
    return names  # type: ignore[return-value]


def published_loss(
    experiment: str, psi: DenseICNN, bar: DenseICNN, x: Tensor, y: Tensor, arrays: dict[str, Any]
) -> Objective:
    strength, l1 = float(arrays["lambda_"]), float(arrays["l1"])
    if experiment == "latent":
        return cyclic_objective(bar, psi, y, x, cycle_x=strength / 2, cycle_y=strength / 2)
    weights = {"toy": (0.0, strength), "gauss": (strength, strength)}.get(experiment, (strength / 2, strength / 2))
    return cyclic_objective(psi, bar, x, y, cycle_x=weights[0], cycle_y=weights[1], l1=l1)


@pytest.mark.parametrize("experiment", ["toy", "gauss", "adapt", "style", "latent"])
def test_reference_losses_gradients_and_steps(reference: Reference, experiment: str) -> None:
    arrays = reference(f"w2gn_train_{experiment}")
    psi, bar = network(arrays, "D"), network(arrays, "C")
    named = by_published_name(psi, "D") | by_published_name(bar, "C")
    rate, b1, b2, c1, c2, decay = (float(v) for v in arrays["adam"])
    optimisers = [
        torch.optim.Adam(psi.parameters(), rate, betas=(b1, b2), weight_decay=decay),
        torch.optim.Adam(bar.parameters(), rate, betas=(c1, c2), weight_decay=decay),
    ]
    for i, row in enumerate(arrays["log"]):
        x, y = torch.as_tensor(arrays["X"][i]), torch.as_tensor(arrays["Y"][i])
        objective = published_loss(experiment, psi, bar, x, y, arrays)
        own, pushed, cycle_y, cycle_x, l1 = (float(v) for v in row[2:])
        total = float(row[0])
        if experiment == "latent":
            # The published total also holds the constant mean <Z_inv, X>.
            total -= float(objective.constant)
            cycle_x, cycle_y = cycle_y, cycle_x
        assert objective.total.item() == pytest.approx(total, rel=1e-9, abs=1e-11)
        assert objective.correlation.item() == pytest.approx(own - pushed, rel=1e-9, abs=1e-11)
        assert objective.cycle_y.item() == pytest.approx(cycle_y, rel=1e-9)
        if experiment != "toy":
            assert objective.cycle_x.item() == pytest.approx(cycle_x, rel=1e-9)
        assert l1_norm(psi, bar).item() == pytest.approx(l1, rel=1e-9)
        for optimiser in optimisers:
            optimiser.zero_grad()
        objective.total.backward()
        if i == 0:
            for name, parameter in named.items():
                expected = torch.as_tensor(arrays[f"{name[0]}_grad{name[1:]}"])
                assert parameter.grad is not None
                torch.testing.assert_close(parameter.grad, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))
        for optimiser in optimisers:
            optimiser.step()
        psi.convexify()
        bar.convexify()
    for name, parameter in named.items():
        expected = torch.as_tensor(arrays[f"{name[0]}_after{name[1:]}"])
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("experiment", ["toy", "gauss", "adapt", "style", "latent"])
def test_pushed_batches_logged_constants_and_the_distance(reference: Reference, experiment: str) -> None:
    arrays = reference(f"w2gn_train_{experiment}")
    x, y = (torch.as_tensor(arrays[name][0]).double() for name in "XY")
    psi, bar = network(arrays, "D"), network(arrays, "C")
    # The roles of the networks are swapped in one experiment: it pushes the batch of P.
    mover, start, other = (psi, x, y) if experiment == "latent" else (bar, y, x)
    pushed = torch.as_tensor(arrays["pushed"])
    torch.testing.assert_close(mover.gradient(start), pushed, rtol=1e-9, atol=1e-9 * float(pushed.abs().max()))
    objective = published_loss(experiment, psi, bar, x, y, arrays)
    products = objective.constant.item()
    assert products == pytest.approx((pushed * start).sum(1).mean().item(), rel=1e-9)

    def half(points: Tensor) -> float:
        return 0.5 * points.square().sum(1).mean().item()

    # What the published runs log beside the loss: -1/2 |X|^2 - 1/2 |Y|^2, with the products where the loss lacks
    # them; the first three experiments take the pushed batch for Y.
    square = half(x) + half(pushed if experiment in ("toy", "gauss", "adapt") else y)
    logged = (0.0 if experiment == "latent" else products) - square
    assert logged == pytest.approx(float(arrays["log"][0, 1]), rel=1e-9)
    estimate = objective.half_squared_distance(other, start).item()
    assert estimate == pytest.approx(half(x) + half(y) - objective.correlation.item() - products)


def test_inverse_point_enters_the_potential_without_gradient() -> None:
    torch.manual_seed(0)
    psi, bar = DenseICNN(3, (8, 6)).double(), DenseICNN(3, (8, 6)).double()
    x, y = torch.randn(2, 20, 3, dtype=torch.float64)
    objective = cyclic_objective(psi, bar, x, y, cycle_x=0, cycle_y=0)
    objective.total.backward()
    for parameter in bar.parameters():
        assert parameter.grad is None or parameter.grad.abs().max() < 1e-14
    for parameter in psi.parameters():
        assert parameter.grad is not None
    expected = torch.autograd.grad(psi(x).mean() - psi(bar.gradient(y).detach()).mean(), list(psi.parameters()))
    for parameter, gradient in zip(psi.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.slow
def test_refined_objective_is_the_semi_dual_with_envelope_gradients() -> None:
    torch.manual_seed(1)
    psi, bar = (
        DenseICNN(2, (6, 5), strong_convexity=0.5).double(),
        DenseICNN(2, (6, 5), strong_convexity=0.5).double(),
    )
    x, y = torch.randn(2, 30, 2, dtype=torch.float64)
    objective = refined_objective(psi, bar, x, y, method="newton", evaluations=40)
    found = solve(psi, y, y, method="newton", evaluations=60)
    assert (objective.correlation + objective.constant).item() == pytest.approx(
        (psi(x).mean() + found.value.mean()).item()
    )
    assert objective.residual.item() < 1e-9
    gradients = torch.autograd.grad(objective.total, list(psi.parameters()))

    def semi_dual() -> float:
        return float(psi(x).mean() + solve(psi, y, found.point, method="newton", evaluations=40).value.mean())

    for parameter, gradient in zip(psi.parameters(), gradients, strict=True):
        place = tuple(int(i) for i in torch.unravel_index(gradient.abs().argmax(), gradient.shape))
        with torch.no_grad():
            parameter[place] += 1e-5
            up = semi_dual()
            parameter[place] -= 2e-5
            down = semi_dual()
            parameter[place] += 1e-5
        assert (up - down) / 2e-5 == pytest.approx(gradient[place].item(), rel=1e-5, abs=1e-9)


def gaussian_pair(dim: int, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    first, second = torch.randn(2, dim, dim)
    x, y = torch.randn(2, count, dim)
    return x @ first.T + 2, y @ second.T - 1, first @ first.T, second @ second.T


def test_gaussian_start_is_the_closed_form() -> None:
    torch.manual_seed(2)
    x, y, _, _ = gaussian_pair(3, 20000)
    transport = W2GN.dense(3, start=(x, y), hidden=(8, 8))
    mapping = gaussian_transport_map(x.double().T.cov(), y.double().T.cov()).float()
    expected = (x - x.mean(0)) @ mapping + y.mean(0)
    assert (transport.forward_map(x) - expected).norm() < 5e-3 * (expected - y.mean(0)).norm()
    assert (transport.inverse_map(transport.forward_map(x)) - x).norm() < 5e-3 * (x - x.mean(0)).norm()
    objective = transport(x, y)
    exact = bures_wasserstein_squared(*(m.double() for m in (x.mean(0), x.T.cov(), y.mean(0), y.T.cov()))) / 2
    assert transport.half_squared_distance(objective, x, y).item() == pytest.approx(exact.item(), rel=1e-2)
    x0, y0 = torch.randn(2, 5, 3)
    identity = W2GN.dense(3, hidden=(8, 8))
    assert (identity.forward_map(x0) - x0).abs().max() < 1e-5
    assert (identity.inverse_map(y0) - y0).abs().max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("refine", ["none", "lbfgs", "newton"])
def test_training_finds_a_translation_and_a_stretch(refine: Any) -> None:
    torch.manual_seed(3)
    transport = W2GN.dense(2, hidden=(16, 8), refine=refine, evaluations=4, cycle_x=10, cycle_y=10)
    optimiser = torch.optim.Adam(transport.parameters(), 1e-2)
    stretch = torch.tensor([[1.5, 0.3], [0.3, 0.8]])
    for _ in range(300):
        x, y = torch.randn(128, 2), torch.randn(128, 2) @ stretch + 1
        optimiser.zero_grad()
        transport(x, y).total.backward()
        optimiser.step()
        transport.convexify()
    x = torch.randn(500, 2)
    mapped, target = transport.forward_map(x), x @ stretch + 1
    assert (mapped - target).square().sum() < 0.03 * (target - x).square().sum()
    returned = transport.inverse_map(mapped, refine="newton")
    assert (returned - x).abs().max() < 1e-3


@pytest.mark.parametrize("refine", ["none", "newton"])
def test_the_other_dual_is_the_problem_with_exchanged_roles(refine: Any) -> None:
    torch.manual_seed(6)
    x, y = torch.randn(40, 2), torch.randn(40, 2) * 2 + 1
    settings: dict[str, Any] = {"refine": refine, "evaluations": 20, "cycle_x": 0.7, "cycle_y": 0.2}
    ours = W2GN.dense(2, start=(x, y), hidden=(6, 5), dual="target", **settings)
    with torch.no_grad():
        for p in ours.parameters():
            p.add_(0.02 * torch.rand_like(p))
    objective = ours(x, y)
    coordinates = ours.coordinates
    assert coordinates is not None
    moved = coordinates.target(y), coordinates.source(x)
    mirrored = W2GN(ours.conjugate, ours.psi, refine=refine, evaluations=20, cycle_x=0.2, cycle_y=0.7)
    expected = mirrored(*moved)
    torch.testing.assert_close(objective.total, expected.total)
    torch.testing.assert_close(objective.cycle_x, expected.cycle_y)
    plain = W2GN(ours.psi, ours.conjugate, coordinates=coordinates, **settings)
    # Both duals estimate the same distance, up to how little the two potentials are each other's conjugates.
    estimates = [w.half_squared_distance(w(x, y), x, y).item() for w in (ours, plain)]
    assert estimates[0] == pytest.approx(estimates[1], rel=0.2)


def test_a_balance_as_the_start_is_not_taken_for_a_pair_of_samples() -> None:
    """Its first two fields, matrices, are no points to adapt the networks to; and all tensors are on its device."""
    torch.manual_seed(3)
    x, y = torch.randn(200, 3, dtype=torch.float64), 2 * torch.randn(200, 3, dtype=torch.float64) + 1
    made = gaussian_coordinates(x, y)
    torch.manual_seed(4)
    given = W2GN.dense(3, start=made, hidden=(8, 8))
    torch.manual_seed(4)
    fresh = W2GN.dense(3, start="identity", hidden=(8, 8))
    for name, value in fresh.state_dict().items():
        assert torch.equal(given.state_dict()[name], value), name
    assert given.coordinates is not None
    for mine, asked in zip(given.coordinates, made, strict=True):
        assert torch.equal(mine, asked.float())
    elsewhere = W2GN.dense(3, start=Balance(*(t.to("meta") for t in made)), hidden=(8, 8))
    assert {t.device.type for t in elsewhere.state_dict().values()} == {"meta"}


def test_identity_pretraining_lowers_its_loss() -> None:
    torch.manual_seed(4)
    psi = DenseICNN(2, (16, 8))
    x = torch.randn(256, 2)
    first = identity_objective(psi, x, 1e-6)
    optimiser = torch.optim.Adam(psi.parameters(), 1e-2)
    for _ in range(100):
        optimiser.zero_grad()
        identity_objective(psi, x, 1e-6).backward()
        optimiser.step()
        psi.convexify()
    assert identity_objective(psi, x) < 0.1 * first


def test_plain_start_has_no_quadratic_form() -> None:
    transport = W2GN.dense(2, start="plain", hidden=(4,))
    assert isinstance(transport.psi, DenseICNN)
    assert isinstance(transport.frozen_copy().psi, DenseICNN)
    assert not any(p.requires_grad for p in transport.frozen_copy().parameters())


@pytest.mark.slow
@pytest.mark.parametrize("refine", ["none", "lbfgs"])
def test_compiled_objective_equals_eager(refine: Any) -> None:
    torch.manual_seed(5)
    x, y = torch.randn(2, 40, 3)
    transport = W2GN.dense(3, start=(x, y + 1), hidden=(6, 5), refine=refine, evaluations=3, cycle_x=1.0)
    with torch.no_grad():
        for p in transport.parameters():
            p.add_(0.02 * torch.rand_like(p))
    compiled = torch.compile(transport, backend="aot_eager", fullgraph=True)
    expected, got = transport(x, y), compiled(x, y)
    for a, b in zip(expected, got, strict=True):
        torch.testing.assert_close(a, b)
    gradients = torch.autograd.grad(expected.total, list(transport.parameters()))
    for a, b in zip(gradients, torch.autograd.grad(got.total, list(transport.parameters())), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("wrong", [{"refine": "bfgs"}, {"dual": "both"}, {"start": "gaussian"}])
def test_unknown_words_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"unknown {next(iter(wrong))}"):
        W2GN.dense(2, hidden=(4,), **wrong)


def test_the_distance_of_clouds_far_from_zero_keeps_its_digits() -> None:
    torch.manual_seed(3)
    # Multiples of 2^-10, which stay exact when 4096 is added in float32.
    x = (torch.randn(512, 2) * 1024).round() / 1024
    y = ((1.5 * x + torch.tensor([3.0, 0.0])) * 1024).round() / 1024
    found = []
    for far in (0.0, 4096.0):
        transport = W2GN.dense(2, hidden=(8, 8), start=(x + far, y + far))
        with torch.no_grad():
            found.append(float(transport.half_squared_distance(transport(x + far, y + far), x + far, y + far)))
    # The means are float32 numbers of 4096, each off by 2^-13 at most: the distance, of a gradient of length 3, and the
    # points about them, of length 2 or so, by a few times as much.
    assert found[1] == pytest.approx(found[0], abs=20 * 2**-13)
    assert found[0] == pytest.approx(0.5 * float((x - y).square().sum(1).mean()), rel=1e-3)


def test_points_of_a_training_in_bf16_are_those_of_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Points in the coordinates of the potentials, and the solved conjugates: both eight bits short otherwise."""
    torch.manual_seed(0)
    x, y = 5 * torch.randn(64, 3) + 2, torch.randn(64, 3) * torch.tensor([1.0, 2.0, 3.0])
    start = gaussian_coordinates([x], [y])
    transport = W2GN.dense(3, hidden=(8, 8), start=start, refine="newton", evaluations=30)
    seen: list[tuple[Tensor, ...]] = []
    plain = W2GN.objective

    def objective(self: W2GN, first: Any, second: Any, *points: Any) -> Objective:
        seen.append(points[:2])
        return plain(self, first, second, *points)

    monkeypatch.setattr(W2GN, "objective", objective)
    exact = transport(x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        reduced = transport(x, y)
    for one, other in zip(*seen, strict=True):
        assert torch.equal(one, other)
    scale = float(seen[0][1].norm(dim=1).max())
    # Both are solved: what is left are some roundings of float32.
    for found in (exact, reduced):
        assert float(found.residual) < 100 * torch.finfo(torch.float32).eps * scale
