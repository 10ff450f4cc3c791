"""The losses against the published numbers, plain transcriptions, degenerate batches, and on two ranks against one."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from tests.distributed.harness import run_ranks
from wasskit.distributed.group import rank, world_size
from wasskit.plugins.ssl.losses import (
    KeyQueue,
    LogUniformityLoss,
    Solver,
    W2UniformityLoss,
    ZeroCl,
    _method,
    barlow_twins_loss,
    byol_loss,
    info_nce,
    moco_loss,
    uniformity_weight,
    zca_matrix,
    zero_cl_loss,
)

Reference = Callable[[str], dict[str, Any]]


def leaves(archive: dict[str, Any], *names: str, unit: bool = False) -> list[Tensor]:
    tensors = [torch.from_numpy(archive[name]).double() for name in names]
    return [(normalize(x) if unit else x).requires_grad_() for x in tensors]


def check_gradients(loss: Tensor, inputs: list[Tensor], archive: dict[str, Any], *names: str) -> None:
    for gradient, name in zip(torch.autograd.grad(loss, inputs), names, strict=True):
        np.testing.assert_allclose(np.asarray(gradient), archive[name], rtol=1e-9, atol=1e-13)


def test_byol_matches_the_published_code(reference: Reference) -> None:
    a = reference("ssl_base_losses")
    p1, p2, t1, t2 = leaves(a, "byol0_p1", "byol0_p2", "byol0_t1", "byol0_t2")
    loss = byol_loss(p1, p2, t1, t2)
    assert loss.item() == pytest.approx(float(a["byol0_value"]), rel=1e-10)
    check_gradients(loss, [p1, p2], a, "byol0_grad_p1", "byol0_grad_p2")


@pytest.mark.parametrize("case", ["bt0", "bt1"])
def test_barlow_twins_matches_the_published_code(case: str, reference: Reference) -> None:
    a = reference("ssl_base_losses")
    z = leaves(a, f"{case}_z1", f"{case}_z2")
    loss = barlow_twins_loss(z[0], z[1], float(a[f"{case}_lambda"]))
    assert loss.item() == pytest.approx(float(a[f"{case}_value"]), rel=1e-10)
    check_gradients(loss, z, a, f"{case}_grad1", f"{case}_grad2")


@pytest.mark.parametrize("case", ["moco0", "moco1"])
def test_moco_matches_the_published_code(case: str, reference: Reference) -> None:
    a = reference("ssl_base_losses")
    q1, q2, k1, k2, queue = leaves(a, *(f"{case}_{name}" for name in ("q1", "q2", "k1", "k2", "queue")), unit=True)
    temperature = float(a[f"{case}_tau"])
    loss = moco_loss(q1, q2, k1, k2, queue, temperature)
    assert loss.item() == pytest.approx(float(a[f"{case}_value"]), rel=1e-10)
    assert info_nce(q1, k2, queue, temperature).item() == pytest.approx(float(a[f"{case}_value_q1k2"]), rel=1e-10)
    check_gradients(loss, [q1, q2], a, f"{case}_grad_q1", f"{case}_grad_q2")


@pytest.mark.parametrize("case", ["moco0", "moco1"])
def test_queue_is_the_published_ring_buffer(case: str, reference: Reference) -> None:
    a = reference("ssl_base_losses")
    start = torch.from_numpy(a[f"{case}_queue_init"])
    queue = KeyQueue(*start.shape).double()
    queue.keys.copy_(start)
    for keys, after, position in zip(
        a[f"{case}_queue_keys"], a[f"{case}_queue_after"], a[f"{case}_queue_ptr"], strict=True
    ):
        queue.push(*torch.from_numpy(keys).chunk(2))
        np.testing.assert_array_equal(queue.keys.numpy(), after)
        assert int(queue.position) == position


def test_queue_wraps_around_where_the_batch_does_not_divide_it() -> None:
    queue = KeyQueue(5, 1)
    for start in (0.0, 3.0, 6.0):
        queue.push(torch.arange(start, start + 3)[:, None])
    assert queue.keys[:, 0].tolist() == [5.0, 6.0, 7.0, 8.0, 4.0]
    assert int(queue.position) == 4
    queue.push(torch.arange(9.0, 12.0)[:, None], torch.arange(12.0, 15.0)[:, None])
    assert queue.keys[:, 0].tolist() == [10.0, 11.0, 12.0, 13.0, 14.0]
    assert int(queue.position) == 0


def test_queue_starts_from_unit_directions_of_its_seed() -> None:
    first, again, other = KeyQueue(64, 8, seed=1), KeyQueue(64, 8, seed=1), KeyQueue(64, 8, seed=2)
    torch.testing.assert_close(first.keys.norm(dim=1), torch.ones(64))
    assert torch.equal(first.keys, again.keys)
    assert not torch.equal(first.keys, other.keys)


@pytest.mark.parametrize("case", ["lambda0", "lambda1", "lambda2"])
def test_weight_schedule_is_the_published_one(case: str, reference: Reference) -> None:
    a = reference("ssl_optim")
    epochs, highest, lowest = (float(x) for x in a[f"{case}_args"])
    weights = [uniformity_weight(e, int(epochs), highest, lowest) for e in range(1, int(epochs) + 1)]
    np.testing.assert_allclose(weights, a[f"{case}_out"], rtol=1e-12, atol=1e-15)


def by_hand(first: Tensor, second: Tensor) -> Tensor:
    """Feature-wise Zero-CL, step by step, the whitening by a general matrix function."""
    whitened = []
    for z in (first, second):
        x = (z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt()
        covariance = (x.T @ x / len(x)).detach()
        u, s, _ = torch.linalg.svd(covariance)
        whitened.append(x @ (u @ torch.diag(1 / (s + 0.01).sqrt()) @ u.T))
    correlation = whitened[0].T @ whitened[1] / len(first)
    return ((1 - torch.diagonal(correlation)) ** 2).sum()


@pytest.mark.parametrize("solver", ["eigh", "polar"])
@pytest.mark.parametrize("kind", ["feature", "instance", "both"])
def test_zero_cl_by_hand(kind: ZeroCl, solver: Solver) -> None:
    generator = torch.Generator().manual_seed(0)
    z1 = torch.randn(48, 16, generator=generator, dtype=torch.float64, requires_grad=True)
    z2 = (z1.detach() + 0.5 * torch.randn(48, 16, generator=generator, dtype=torch.float64)).requires_grad_()
    along = {"feature": [(z1, z2)], "instance": [(z1.T, z2.T)], "both": [(z1, z2), (z1.T, z2.T)]}[kind]
    expected = sum((by_hand(a, b) for a, b in along), torch.zeros((), dtype=torch.float64))
    loss = zero_cl_loss(z1, z2, kind, solver)
    tolerance = 1e-9 if solver == "eigh" else 1e-5
    torch.testing.assert_close(loss, expected, rtol=tolerance, atol=0)
    for own, other in zip(torch.autograd.grad(loss, [z1, z2]), torch.autograd.grad(expected, [z1, z2]), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=tolerance)


def test_whitening_makes_the_second_moment_the_identity() -> None:
    x = torch.randn(400, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = x * torch.logspace(1, 3, 12, dtype=torch.float64)
    white = x @ zca_matrix(x, "eigh")
    torch.testing.assert_close(white.T @ white / 400, torch.eye(12, dtype=torch.float64), rtol=0, atol=2e-4)


def test_zero_cl_vanishes_for_equal_whitened_views() -> None:
    """c_ii = s / (s + 0.01) for equal views of second moment s, nearly 1 in every direction of a wide batch."""
    z = torch.linalg.qr(torch.randn(64, 8, generator=torch.Generator().manual_seed(2)))[0]
    assert zero_cl_loss(z, z).item() < 8 * 0.02**2


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "byol": lambda a, b: byol_loss(a, b, b, a),
    "moco": lambda a, b: moco_loss(normalize(a), normalize(b), normalize(a), normalize(b), KeyQueue(32, 8).keys),
    "barlow": barlow_twins_loss,
    "zero-feature": lambda a, b: zero_cl_loss(a, b, "feature"),
    "zero-instance": lambda a, b: zero_cl_loss(a, b, "instance"),
    "zero-polar": lambda a, b: zero_cl_loss(a, b, "both", "polar"),
    "w2": W2UniformityLoss(),
    "w2-ridge": W2UniformityLoss(1e-4, "polar"),
    "lu": LogUniformityLoss(),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_finite_on_degenerate_batches(name: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    point = torch.randn(1, 8, generator=generator).repeat(6, 1)
    flat = torch.randn(6, 8, generator=generator)
    flat[:, 3:] = 0
    for batch in (point, flat, torch.zeros(6, 8), torch.randn(2, 8, generator=generator)):
        a, b = (batch.clone().to(dtype).requires_grad_() for _ in range(2))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = LOSSES[name](a, b)
        loss.backward()
        assert loss.dtype == torch.float32
        assert torch.isfinite(loss)
        for x in (a, b):
            assert x.grad is None or torch.isfinite(x.grad).all()


def test_known_values() -> None:
    z = torch.eye(4, 8)
    assert byol_loss(z, z, z, z).item() == pytest.approx(0.0)
    assert byol_loss(z, z, -z, -z).item() == pytest.approx(8.0)
    # One positive and K negatives, all equally similar: log(K + 1) from either view.
    same = normalize(torch.ones(3, 8))
    assert moco_loss(same, same, same, same, same[:1].repeat(7, 1)).item() == pytest.approx(2 * math.log(8))
    # Unit columns, uncorrelated over the batch.
    signs = torch.tensor([[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])[:, 1:]
    assert barlow_twins_loss(signs, signs).item() == pytest.approx(0.0, abs=1e-8)
    assert barlow_twins_loss(signs, -signs).item() == pytest.approx(12.0, rel=1e-4)
    crossed = signs[:, [1, 0, 2]]
    assert barlow_twins_loss(signs, crossed, 0.5).item() == pytest.approx(2 + 0.5 * 2, rel=1e-4)


@pytest.mark.parametrize("case", ["b64_d32", "b128_d64"])
def test_uniformity_module_matches_the_published_moco_term(case: str, reference: Reference) -> None:
    a = reference(f"ssl_w2loss_{case}")
    x1, x2 = (torch.from_numpy(a[name]).double() for name in ("x1", "x2"))
    ridge = float(np.float32(1e-4))
    assert W2UniformityLoss(ridge)(x1, x2).item() == pytest.approx(float(a["value_moco"]), rel=1e-9)
    assert W2UniformityLoss()(x1.float(), x2.float()).item() == pytest.approx(float(a["value_byol"]), rel=1e-6)


def value_and_gradients(name: str, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and gradient of a linear encoder's weights, each rank seeing its share; reduced as in training."""
    from wasskit.distributed.collectives import average_gradients, reduce_sum

    torch.manual_seed(0)
    encoder = torch.nn.Linear(first.shape[1], 8).double()
    share = len(first) // world_size()
    rows = slice(rank() * share, (rank() + 1) * share)
    loss = LOSSES[name](encoder(first[rows]), encoder(second[rows]))
    loss.backward()
    average_gradients(encoder.parameters())
    assert encoder.weight.grad is not None
    return reduce_sum(loss.detach()) / world_size(), encoder.weight.grad


@pytest.mark.distributed
@pytest.mark.parametrize("name", LOSSES)
def test_two_ranks_equal_one(name: str) -> None:
    generator = torch.Generator().manual_seed(4)
    batch = torch.randn(2, 12, 5, generator=generator, dtype=torch.float64)
    expected = value_and_gradients(name, *batch)
    for result in run_ranks(value_and_gradients, 2, name, *batch):
        torch.testing.assert_close(result, expected, rtol=1e-6 if "polar" in name else 1e-9, atol=1e-7)


def pushed(keys: Tensor) -> tuple[Tensor, Tensor]:
    queue = KeyQueue(14, 3)
    for first, second in keys:
        share = len(first) // world_size()
        rows = slice(rank() * share, (rank() + 1) * share)
        queue.push(first[rows], second[rows])
    return queue.keys, queue.position


@pytest.mark.distributed
def test_two_ranks_fill_the_queue_as_one() -> None:
    keys = torch.randn(3, 2, 4, 3, generator=torch.Generator().manual_seed(5))
    expected = pushed(keys)
    for result in run_ranks(pushed, 2, keys):
        torch.testing.assert_close(result, expected, rtol=0, atol=0)


def test_products_are_never_chosen_where_they_see_less() -> None:
    """On a GPU for all but float64 features, whose small directions they take for the noise of float32."""
    for device, dtype, expected in (
        ("cuda", torch.float32, "polar"), ("cuda", torch.bfloat16, "polar"), ("cuda", torch.float64, "eigh"),
        ("cpu", torch.float32, "eigh"), ("cpu", torch.float64, "eigh"),
    ):  # fmt: skip
        features = cast(Tensor, SimpleNamespace(device=torch.device(device), dtype=dtype))
        assert _method("auto", features) == expected
        assert _method("polar", features) == "polar"


def test_the_loss_lifts_a_nearly_collapsed_direction() -> None:
    """At a standard deviation of 1e-5 of the largest, as any other: by 1 / sqrt(N m) along its singular vectors."""
    n, m = 128, 16
    x = torch.randn(n, m, generator=torch.Generator().manual_seed(0))
    x[:, -1] *= 1e-5
    for solver in ("eigh", "polar"):
        leaf = x.clone().requires_grad_()
        loss = W2UniformityLoss(solver=solver)
        (gradient,) = torch.autograd.grad(loss(leaf), leaf)
        column = normalize(x[:, -1] - x[:, -1].mean(), dim=0)
        lengths = torch.linalg.vector_norm(x, dim=1)
        # Behind the normalisation, with the row lengths taken off again; the direction's own column alone is left.
        slope = (gradient[:, -1] * lengths) @ column
        assert slope < -0.5 / math.sqrt(n * m)


def test_a_loss_survives_the_push_of_its_keys() -> None:
    """Forward, push, backward: the gradient is that with the queue of the forward pass."""
    queue = KeyQueue(16, 4)
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    query, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    info_nce(other, x, queue.keys.clone()).backward()
    loss = info_nce(query, x, queue.keys)
    queue.push(x)
    loss.backward()
    torch.testing.assert_close(query.grad, other.grad, rtol=0, atol=0)


def test_of_a_batch_longer_than_the_queue_the_latest_keys_stay() -> None:
    whole, parts = KeyQueue(5, 3), KeyQueue(5, 3)
    keys = torch.randn(13, 3, generator=torch.Generator().manual_seed(2))
    whole.push(keys)
    for part in keys.split(4):
        parts.push(part)
    assert torch.equal(whole.keys, parts.keys)
    assert whole.position.item() == parts.position.item() == 13 % 5


@pytest.mark.parametrize("temperature", [0.2, 0.005])
def test_info_nce_has_the_gradient_of_cross_entropy(temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, queue = (normalize(torch.randn(n, 6, generator=generator, dtype=torch.float64)) for n in (5, 5, 30))
    query.requires_grad_()
    logits = torch.cat([(query * key).sum(1, keepdim=True), query @ queue.T], 1) / temperature
    expected = torch.nn.functional.cross_entropy(logits, torch.zeros(5, dtype=torch.long))
    loss = info_nce(query, key, queue, temperature)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, query)[0] for value in (loss, expected)))


@pytest.mark.parametrize("kind", ["random", "constant", "equal", "one image"])
def test_barlow_twins_has_the_gradient_of_its_formula(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 1 if kind == "one image" else 9, 4, generator=generator, dtype=torch.float64)
    if kind == "constant":
        first = torch.full_like(first, 3.0)
    if kind == "equal":
        second = first.clone()
    views = [first.requires_grad_(), second.requires_grad_()]
    a, b = ((x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt() for x in views)
    c = a.T @ b / len(a)
    expected = (1 - c.diagonal()).square().sum() + 0.08 * (c - c.diagonal().diag()).square().sum()
    loss = barlow_twins_loss(*views)
    torch.testing.assert_close(loss, expected)
    for own, other in zip(torch.autograd.grad(loss, views), torch.autograd.grad(expected, views), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_losses_take_their_tensors_by_name(dtype: torch.dtype) -> None:
    first, second, third, fourth = torch.randn(4, 9, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(barlow_twins_loss(first=first, second=second), barlow_twins_loss(first, second))
    assert torch.equal(info_nce(first, queue=third, key=second), info_nce(first, second, third))
    named = byol_loss(prediction1=first, prediction2=second, target1=third, target2=fourth)
    assert torch.equal(named, byol_loss(first, second, third, fourth))
    assert named.dtype is torch.promote_types(dtype, torch.float32)
