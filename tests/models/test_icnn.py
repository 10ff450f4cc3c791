"""Input-convex networks: reference values, gradients against autograd, convexity, monotonicity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from wasskit.models.icnn import Activation, AffinePotential, ConvICNN, DenseICNN, Potential, QuadraticPotential, sweep
from wasskit.models.icnn.jacobian import map_derivatives

Reference = Callable[[str], dict[str, Any]]
NETWORKS = ("d2_celu", "d2_softplus", "d16_celu", "d16_softplus")


def dense_state(arrays: dict[str, Any], prefix: str) -> dict[str, Tensor]:
    """A state dictionary under the published names from the arrays ``{prefix}_quad0_A`` and so on."""
    layers = len(arrays["hidden"])
    state = {"final_layer.weight": arrays[f"{prefix}_final"]}
    for i in range(layers):
        for short, name in (("A", "quadratic_decomposed"), ("w", "weight"), ("b", "bias")):
            state[f"quadratic_layers.{i}.{name}"] = arrays[f"{prefix}_quad{i}_{short}"]
        if i:
            state[f"convex_layers.{i - 1}.weight"] = arrays[f"{prefix}_convex{i}"]
    return {name: torch.as_tensor(value) for name, value in state.items()}


def dense_network(name: str, arrays: dict[str, Any], prefix: str) -> DenseICNN:
    activation = "softplus" if name.endswith("softplus") else "celu"
    return DenseICNN.from_state_dict(
        dense_state(arrays, prefix),
        activation=activation,  # type: ignore[arg-type]
        strong_convexity=float(arrays["strong_convexity"]),
    )


def relative(a: Tensor, b: Any) -> float:
    a, b = a.detach(), torch.as_tensor(b).detach()
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-300))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("prefix", ["raw", "cvx"])
def test_dense_reference(reference: Reference, name: str, prefix: str) -> None:
    arrays = reference(f"w2gn_icnn_{name}")
    network = dense_network(name, arrays, "raw")
    if prefix == "cvx":
        network.convexify()
    x = torch.as_tensor(arrays["X"])
    assert relative(network(x), arrays[f"{prefix}_value"].squeeze(1)) < 1e-9
    assert relative(network.gradient(x), arrays[f"{prefix}_push"]) < 1e-9
    single = dense_network(name, arrays, "raw").float()
    if prefix == "cvx":
        single.convexify()
    assert relative(single.gradient(x.float()), arrays[f"{prefix}_push_f32"]) < (
        1e-4 if network.rank > 1 or network.activation == "softplus" else 1e-5
    )
    if f"{prefix}_hessian" in arrays:
        assert relative(network.hessian(x), arrays[f"{prefix}_hessian"]) < 1e-11
    loss = (network.gradient(x) - x).square().sum(1).mean() + 1e-3 * sum(p.abs().sum() for p in network.parameters())
    assert relative(loss.detach(), arrays[f"{prefix}_pretrain_loss"]) < 1e-9
    loss.backward()
    gradients = {name: p.grad for name, p in network.named_parameters()}
    for key, expected in dense_state(arrays, f"{prefix}_grad").items():
        gradient = gradients[key]
        assert gradient is not None
        assert relative(gradient, expected) < 1e-9, key


@pytest.mark.parametrize("dim", [2, 8, 9, 16])
@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("activation", ["celu", "softplus"])
def test_dense_gradient_and_its_derivatives_equal_autograd(dim: int, rank: int, activation: Any) -> None:
    torch.manual_seed(dim * rank)
    network = DenseICNN(dim, (12, 10, 7), rank, activation, strong_convexity=0.1).double()
    for p in network.parameters():
        p.data.normal_()
    check_against_autograd(network, torch.randn(9, dim, dtype=torch.float64))


@pytest.mark.slow
@pytest.mark.parametrize("dim", [2, 9])
@pytest.mark.parametrize("hidden", [(5,), (5, 4, 3)])
@pytest.mark.parametrize("activation", ["celu", "softplus"])
def test_derivatives_of_a_sweep_to_third_order(dim: int, hidden: tuple[int, ...], activation: Any) -> None:
    """Of value and map, in the input and all weights, with dropout, against finite differences (torch's bounds)."""
    torch.manual_seed(dim)
    network = DenseICNN(dim, hidden, 2, activation, strong_convexity=0.3, dropout=0.3).double()
    x = torch.randn(3, dim, dtype=torch.float64, requires_grad=True)
    tensors = [t.detach().requires_grad_() for t in network._tensors()]
    form = network._form(x)

    def both(x: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        return sweep.value_and_gradient(form, x, tensors)

    if dim <= 8:  # the forms are symmetric by their making, which single entries are not
        tensors[0].requires_grad_(False)
    assert torch.autograd.gradcheck(both, (x, *tensors))
    assert torch.autograd.gradgradcheck(both, (x, *tensors))
    assert torch.autograd.gradcheck(lambda *given: sweep.value(form, given[0], given[1:]), (x, *tensors))


@pytest.mark.parametrize("dim", [2, 9])
def test_derivatives_of_a_retained_sweep_do_not_depend_on_their_order(dim: int) -> None:
    torch.manual_seed(dim)
    network = DenseICNN(dim, (5, 4), 2).double()
    x = torch.randn(3, dim, dtype=torch.float64, requires_grad=True)
    inputs = [x, *network.parameters()]
    expected = torch.autograd.grad(network(x).sum(), inputs)
    value, gradient = network.value_and_gradient(x)
    torch.autograd.grad(gradient.square().sum(), inputs, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(value.sum(), inputs), expected)


def test_weights_that_change_before_the_derivative_are_refused() -> None:
    network = DenseICNN(3, (5, 4))
    loss = network.gradient(torch.randn(2, 3)).sum()
    with torch.no_grad():
        network.hidden_weights[0].mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_frozen_potentials_keep_their_weights() -> None:
    torch.manual_seed(8)
    potential = QuadraticPotential(DenseICNN(4, (6, 5)), 4)
    torch.nn.init.normal_(potential.factor)
    x = torch.randn(7, 4)
    with torch.no_grad():
        before = potential.value_and_gradient(x)
        frozen = potential.frozen()
        for a, b in zip(frozen(x), before, strict=True):
            # The quadratic form is one product instead of two: both round every sum of four.
            torch.testing.assert_close(a, b, rtol=16 * torch.finfo(torch.float32).eps, atol=1e-5)


@pytest.mark.parametrize("size", [16, (9, 14)])
def test_conv_gradient_and_its_derivatives_equal_autograd(size: Any) -> None:
    torch.manual_seed(0)
    network = ConvICNN(size, channels=2, width=5, strong_convexity=0.05).double()
    network.convexify()
    height, width = network.image_size
    check_against_autograd(network, torch.randn(3, 2, height, width, dtype=torch.float64))


def check_against_autograd(network: Potential, x: Tensor) -> None:
    """Values, the map, and the parameter and input gradients of a loss on both, against a twice differentiated
    graph."""
    leaf = x.clone().requires_grad_()
    value = network(leaf)
    (push,) = torch.autograd.grad(value.sum(), leaf, create_graph=True)
    target = torch.sin(7.0 * x)
    expected = torch.autograd.grad((push - target).square().mean() + value.mean(), [leaf, *network.parameters()])

    again = x.clone().requires_grad_()
    fast_value, fast_push = network.value_and_gradient(again)
    loss = (fast_push - target).square().mean() + fast_value.mean()
    got = torch.autograd.grad(loss, [again, *network.parameters()])
    assert relative(fast_value.detach(), value.detach()) < 1e-12
    assert relative(fast_push.detach(), push.detach()) < 1e-12
    for a, b in zip(got, expected, strict=True):
        assert relative(a, b) < 1e-10


@pytest.mark.parametrize("activation", ["celu", "softplus"])
def test_dense_hessian_equals_autograd(activation: Any) -> None:
    torch.manual_seed(1)
    network = DenseICNN(5, (12, 10, 7), 2, activation, strong_convexity=0.3).double()
    x = torch.randn(6, 5, dtype=torch.float64)
    expected = torch.stack([torch.autograd.functional.hessian(lambda p: network(p[None])[0], point) for point in x])
    assert relative(network.hessian(x), expected) < 1e-11


@pytest.mark.parametrize("dim", [3, 12])
def test_convexity_by_chords_and_eigenvalues(dim: int) -> None:
    torch.manual_seed(2)
    network = DenseICNN(dim, (16, 16, 8), 2, strong_convexity=0.05).double()
    for p in network.parameters():
        p.data.normal_()
    network.convexify()
    x, y = 3 * torch.randn(2, 200, dim, dtype=torch.float64)
    t = torch.rand(200, 1, dtype=torch.float64)
    assert (network(t * x + (1 - t) * y) <= t[:, 0] * network(x) + (1 - t[:, 0]) * network(y)).all()
    assert torch.linalg.eigvalsh(network.hessian(x)).min() >= 0.05 - 1e-9
    products = ((network.gradient(x) - network.gradient(y)) * (x - y)).sum(1)
    assert (products >= 0.05 * (x - y).square().sum(1)).all()


def test_conv_is_convex_after_projection() -> None:
    torch.manual_seed(3)
    network = ConvICNN(8, width=4).double()
    network.convexify()
    x, y = 2 * torch.randn(2, 40, 3, 8, 8, dtype=torch.float64)
    assert (network(0.5 * (x + y)) <= 0.5 * (network(x) + network(y)) + 1e-12).all()
    products = ((network.gradient(x) - network.gradient(y)) * (x - y)).flatten(1).sum(1)
    assert (products >= -1e-12).all()


@pytest.mark.slow
def test_conv128_reference(reference: Reference) -> None:
    arrays = reference("w2gn_conv128")
    torch.manual_seed(int(arrays["torch_seed"]))
    network = ConvICNN(128)
    parameters = list(network.parameters())
    assert sum(p.numel() for p in parameters) == int(arrays["param_count"])
    same = True
    for p, shape, head in zip(parameters, arrays["param_shapes"], arrays["init_head"], strict=True):
        assert list(p.shape) == [int(n) for n in shape if n]
        found, known = p.detach().flatten()[:8].numpy(), head[: p.numel()]
        # u (b - a) + a on [-b, b]: a processor that fuses the two rounds once, at most eps b / 2, another also the
        # product, at most eps b. Of b some 8 numbers show no more than their largest: two thirds of it, say.
        bound = np.finfo(np.float32).eps * 2 * 1.5 * np.abs(known).max()
        np.testing.assert_allclose(found, known, rtol=0, atol=bound)
        same &= np.array_equal(found, known)

    index = torch.arange(3 * 128 * 128, dtype=torch.float64)
    image = (0.5 + 0.3 * torch.sin(0.013 * index) + 0.2 * torch.cos(0.31 * index)).reshape(1, 3, 128, 128)
    network.double()
    with torch.no_grad():
        value, push = network.value_and_gradient(image)
    # Weights that differ by a rounding, 6e-8 of each, through eleven layers: their product moves by up to 11 of these.
    near = 1e-9 if same else 11 * torch.finfo(torch.float32).eps
    assert relative(value, arrays["init_value"]) < near
    assert relative(push[0, :, 40:48, 60:68], arrays["init_push_slice"]) < near
    assert relative(push.norm(), arrays["init_push_norm"]) < near

    generator = np.random.default_rng(int(arrays["seed"]))
    with torch.no_grad():
        for i, p in enumerate(parameters):
            fan = p[0].numel()
            scale = 0.1 if p.ndim == 1 else (1.5 if i < 9 else 3.0) / (np.sqrt(fan) if i < 9 else fan)
            p.copy_(torch.as_tensor(generator.standard_normal(tuple(p.shape)) * scale))
        network.convexify()
        value, push = network.value_and_gradient(image)
        assert relative(value, arrays["cvx_value"]) < 1e-9
        assert relative(push[0, :, 40:48, 60:68], arrays["cvx_push_slice"]) < 1e-9
        assert relative((push.flatten() * torch.cos(0.01 * index)).sum(), arrays["cvx_push_probe"]) < 1e-8
        value, push = network.float().value_and_gradient(image.float())
        assert relative(value, arrays["cvx_value_f32"]) < 1e-5
        assert relative(push.double().norm(), arrays["cvx_push_norm_f32"]) < 1e-5


def test_conv_published_parameter_names() -> None:
    names = set(ConvICNN(128).state_dict())
    assert {
        "first_linear.3.bias",
        "first_squared.0.weight",
        "convex.9.bias",
        "convex.13.weight",
        "convex.19.bias",
    } <= names


def test_dropout_container_names_load_and_other_architectures_do_not() -> None:
    network = DenseICNN(3, (6, 5), 2)
    state = {}
    for name, value in network.state_dict().items():
        parts = name.split(".")
        state[".".join([*parts[:2], "0", parts[2]]) if parts[0] != "final_layer" else name] = value
    x = torch.randn(4, 3)
    assert torch.equal(DenseICNN.from_state_dict(state)(x), network(x))
    other = DenseICNN(3, (6, 5), 2)
    other.load_state_dict(state)
    assert torch.equal(other(x), network(x))
    with pytest.raises(ValueError, match="quadratic_layers"):
        DenseICNN.from_state_dict(ConvICNN(8, width=2).state_dict())
    with pytest.raises(ValueError, match="does not fit"):
        DenseICNN.from_state_dict({name: value for name, value in state.items() if "final" not in name})


def test_dropout_uses_one_mask_for_value_and_map() -> None:
    torch.manual_seed(4)
    network = DenseICNN(4, (32, 16), 2, dropout=0.4).double()
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    value, push = network.value_and_gradient(x)
    assert relative(push, torch.autograd.grad(value.sum(), x)[0]) < 1e-12
    assert not torch.equal(value, network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


@pytest.mark.slow
@pytest.mark.parametrize("dim", [2, 11])
def test_compiled_map_equals_eager(dim: int) -> None:
    torch.manual_seed(5)
    network = DenseICNN(dim, (8, 6), 2)
    x = torch.randn(7, dim)
    compiled = torch.compile(network.value_and_gradient, backend="aot_eager", fullgraph=True)
    for a, b in zip(compiled(x), network.value_and_gradient(x), strict=True):
        torch.testing.assert_close(a, b)


def test_wrapped_potentials_are_affine_maps_plus_the_network() -> None:
    torch.manual_seed(6)
    dim = 3
    transform = torch.randn(dim, dim, dtype=torch.float64)
    mean, image = torch.randn(2, dim, dtype=torch.float64)
    network = DenseICNN(dim, (6, 4), 1).double()
    potential = AffinePotential(
        QuadraticPotential(network, dim).double(), transform, mean, image, scale=torch.tensor(1.7, dtype=torch.float64)
    )
    x = torch.randn(20, dim, dtype=torch.float64)
    check_against_autograd(potential, x)
    expected = torch.stack(
        [torch.autograd.functional.hessian(lambda p: potential(p[None])[0], point) for point in x[:4]]
    )
    assert relative(potential.hessian(x[:4]), expected) < 1e-11
    with torch.no_grad():
        for p in network.parameters():
            p.zero_()
    network.strong_convexity = 0.0
    assert relative(potential.gradient(x), (x - mean) @ transform.T @ transform / 1.7 + image) < 1e-12


def test_centred_networks_bend_amid_the_points() -> None:
    torch.manual_seed(7)
    dense, conv = DenseICNN(5, (12, 9, 6), 2), ConvICNN((8, 12), width=6)
    x, images = 3 * torch.randn(300, 5) + 1, torch.rand(40, 3, 8, 12)
    conv.convexify()
    dense.center(x)
    conv.center(images)
    dense.requires_grad_(False)
    conv.requires_grad_(False)
    h = dense.quadratics[0](x)
    assert h.mean(0).abs().max() < 1e-5
    for layer, weight in zip(dense.quadratics[1:], dense.hidden_weights, strict=True):
        u = layer(x) + h @ weight.T
        assert u.mean(0).abs().max() < 1e-5
        h = torch.celu(u)
    h = conv.first_linear(images) + conv.first_squared(images).square()
    assert h.mean((0, 2, 3)).abs().max() < 1e-5
    for stage in conv.convex[:-1]:
        h = stage(h)
        if isinstance(stage, (torch.nn.Conv2d, torch.nn.Linear)):
            assert h.transpose(0, 1).flatten(1).mean(1).abs().max() < 1e-4
            assert float(h.std()) == pytest.approx(1.0, rel=1e-3)
    assert torch.isfinite(conv(images)).all()


@pytest.mark.parametrize("framed", [False, True])
@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("activation", ["celu", "softplus"])
def test_derivatives_of_every_point_are_those_of_autograd(activation: Activation, rank: int, framed: bool) -> None:
    torch.manual_seed(0)
    network = DenseICNN(3, (7, 5, 4), rank, activation)
    potential: Potential = network
    if framed:
        potential = QuadraticPotential(network, 3)
        network.final_layer.weight.data.uniform_()
        potential.factor.data.add_(0.1 * torch.randn(3, 3))
    potential = potential.double()
    x, v = torch.randn(2, 6, 3).double()
    found = map_derivatives(potential, x, v)
    for b in range(6):
        along = (potential.gradient(x[b : b + 1]) * v[b : b + 1]).sum()
        expected = torch.autograd.grad(along, list(potential.parameters()), allow_unused=True, materialize_grads=True)
        torch.testing.assert_close(found[b], torch.cat([own.flatten() for own in expected]), rtol=1e-11, atol=1e-11)
