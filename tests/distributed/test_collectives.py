"""Two ranks that hold different halves of a batch against one process that holds all of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.distributed.harness import RankFailed, run_ranks
from tests.gpu.device import LogicalCuda
from wasskit.distributed import messages
from wasskit.distributed.collectives import (
    all_reduce_with_grad,
    average_gradients,
    broadcast_module,
    gather,
    gather_with_grad,
    reduce_sum,
    stack_ranks,
)
from wasskit.distributed.gradients import GradientAverage
from wasskit.distributed.group import rank, world_size
from wasskit.distributed.shard import map_shards, mean_over_shards, shard_indices, shard_weight
from wasskit.errors import RunFailed, UserError

DTYPES = [torch.float32, torch.float64, torch.bfloat16]
BATCH, WIDTH, CLASSES = 12, 5, 3

pytestmark = pytest.mark.distributed


def share(batch: Tensor) -> Tensor:
    own = shard_indices(len(batch))
    return batch[own.start : own.stop]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- values ----


def values() -> dict[str, Any]:
    place = rank()
    found: dict[str, Any] = {}
    for dtype in [*DTYPES, torch.float16, torch.int64, torch.uint8, torch.bool]:
        x = torch.arange(6).reshape(3, 2).add(10 * place).to(dtype)
        found[f"gather {dtype}"] = gather(x)
        found[f"sum {dtype}"] = reduce_sum(x)
    found["uneven"] = gather(torch.full((2 * place + 1, 2), float(place)))
    found["none on rank 0"] = gather(torch.full((3 * place, 2), place))
    found["none at all"] = gather(torch.empty(0, 4))
    found["strided"] = gather(torch.arange(6.0).reshape(2, 3).t() + place)
    found["strided sum"] = reduce_sum(torch.arange(6.0).reshape(2, 3).t() * (place + 1))
    found["scalars"] = stack_ranks(torch.tensor(place))
    found["scalar sum"] = reduce_sum(torch.tensor(place + 1.0))
    return found


def test_gather_and_sum_serve_every_dtype_and_shape() -> None:
    for found in run_ranks(values, 2):
        for dtype in [*DTYPES, torch.float16, torch.int64, torch.uint8, torch.bool]:
            parts = [torch.arange(6).reshape(3, 2).add(10 * place).to(dtype) for place in range(2)]
            assert torch.equal(found[f"gather {dtype}"], torch.cat(parts))
            assert found[f"gather {dtype}"].dtype == dtype
            wide = dtype if dtype.is_floating_point else torch.int64
            assert torch.equal(found[f"sum {dtype}"], parts[0].to(wide) + parts[1].to(wide))
            assert found[f"sum {dtype}"].dtype == wide
        assert found["uneven"].tolist() == [[0.0, 0.0]] + [[1.0, 1.0]] * 3
        assert found["none on rank 0"].tolist() == [[1, 1]] * 3
        assert found["none at all"].shape == (0, 4)
        base = torch.arange(6.0).reshape(2, 3).t()
        assert torch.equal(found["strided"], torch.cat([base, base + 1]))
        assert torch.equal(found["strided sum"], 3 * base)
        assert found["scalars"].tolist() == [0, 1]
        assert found["scalar sum"].item() == 3.0


def refusals() -> list[str]:
    messages = []
    for gathering, x in (
        (gather_with_grad, torch.zeros(3 + rank(), 2)),
        (gather, torch.zeros(3, 2 + rank())),
        (gather, torch.zeros(3, 2, dtype=torch.float64 if rank() else torch.float32)),
    ):
        try:
            gathering(x)
        except UserError as error:
            messages.append(str(error))
    # All ranks refuse together: the group is still in step.
    assert reduce_sum(torch.ones(1)).item() == world_size()
    return messages


def test_shares_that_do_not_match_are_refused_on_all_ranks() -> None:
    for said in run_ranks(refusals, 2):
        assert len(said) == 3
        assert "(3, 2) on rank 0, (4, 2) on rank 1" in said[0]
        assert "(3, 2) on rank 0, (3, 3) on rank 1" in said[1]
        assert "dtypes" in said[2]


# ---- the parity rule ----


def network(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, WIDTH)).to(dtype)


def whole_batch_loss(z: Tensor, head: Tensor) -> Tensor:
    """Couples every pair of samples, and weighs each one differently, so that a wrong order shows."""
    weights = torch.arange(1, len(z) + 1, dtype=z.dtype) / len(z)
    return ((z @ z.t()).sin() * weights[:, None]).sum() + (weights * (z @ head).cos()).sum()


def losses(kind: str, x: Tensor, labels: Tensor, model: nn.Module, head: nn.Parameter) -> Tensor:
    z: Tensor = model(x)
    if kind == "gathered":
        return whole_batch_loss(gather_with_grad(z), head)
    if kind == "summed":
        return all_reduce_with_grad(z.t() @ z).sin().sum() + head.sum()
    if kind == "means":
        return F.cross_entropy(z, labels) + (z @ head).square().mean()
    gathered = gather_with_grad(z)
    return F.cross_entropy(z, labels) + 0.1 * whole_batch_loss(gathered, head)


def parity(kind: str, dtype: torch.dtype, x: Tensor, labels: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The loss, as the mean over ranks, and the averaged gradients."""
    model, head = network(dtype), nn.Parameter(normal(WIDTH, seed=7).to(dtype))
    loss = losses(kind, share(x.to(dtype)), share(labels), model, head)
    loss.backward()
    parameters = [*model.parameters(), head]
    average_gradients(parameters)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return reduce_sum(loss) / world_size(), gradients


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["gathered", "summed", "means", "mixed"])
def test_ranks_give_the_loss_and_gradient_of_one_process(kind: str, dtype: torch.dtype) -> None:
    x, labels = normal(BATCH, 4), torch.arange(BATCH) % CLASSES
    value, gradients = parity(kind, dtype, x, labels)
    tolerance = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 6e-2}[dtype]
    results = run_ranks(parity, 2, kind, dtype, x, labels)
    for found, found_gradients in results:
        torch.testing.assert_close(found, value, rtol=tolerance, atol=tolerance)
        for ours, expected in zip(found_gradients, gradients, strict=True):
            assert ours.dtype == dtype
            scale = expected.abs().max().item()
            torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance * scale)
    for ours, others in zip(results[0][1], results[1][1], strict=True):
        assert torch.equal(ours, others), "ranks must end with the same bits"


def second_order(x: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of a gradient penalty, through both collectives."""
    own = share(x).clone().requires_grad_()
    gathered = gather_with_grad(own)
    loss = (gathered @ gathered.t()).sin().sum() + all_reduce_with_grad(own.pow(3)).sum().sin()
    (first,) = torch.autograd.grad(loss, own, create_graph=True)
    (second,) = torch.autograd.grad(first.pow(2).sum(), own)
    return gather(first.detach()), gather(second)


def second_order_of_one_process(x: Tensor) -> tuple[Tensor, Tensor]:
    # Every one of the two ranks adds its loss; the penalty of a rank is that of its own rows.
    whole = x.clone().requires_grad_()
    halves = whole.chunk(2)
    summed = halves[0].pow(3) + halves[1].pow(3)
    loss = 2 * ((whole @ whole.t()).sin().sum() + summed.sum().sin())
    (first,) = torch.autograd.grad(loss, whole, create_graph=True)
    (second,) = torch.autograd.grad(first.pow(2).sum(), whole)
    return first.detach(), second


def test_gradients_of_gradients_cross_the_ranks() -> None:
    x = normal(6, 3, seed=2) / 4
    expected = second_order_of_one_process(x)
    for found in run_ranks(second_order, 2, x):
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


# ---- gradients and modules ----


def averaged(bucket_bytes: int) -> list[Any]:
    before = messages.BUCKET_BYTES
    messages.BUCKET_BYTES = bucket_bytes
    try:
        place = rank()
        parameters = [nn.Parameter(torch.zeros(2, 3)) for _ in range(4)]
        parameters += [nn.Parameter(torch.zeros(5, dtype=dtype)) for dtype in DTYPES]
        parameters.append(nn.Parameter(torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last)))
        frozen = nn.Parameter(torch.zeros(2), requires_grad=False)
        for number, parameter in enumerate(parameters):
            if number == 0 or (number == 1 and place == 1):
                continue
            parameter.grad = torch.arange(parameter.numel()).to(parameter).view(parameter.shape) + place
        average_gradients(iter([*parameters, frozen]))
        return [None if p.grad is None else p.grad for p in [*parameters, frozen]]
    finally:
        messages.BUCKET_BYTES = before


@pytest.mark.parametrize("bucket_bytes", [1, 40, 2**20])
def test_average_of_missing_mixed_and_many_gradients(bucket_bytes: int) -> None:
    for found in run_ranks(averaged, 2, bucket_bytes):
        assert found[0] is None, "without a gradient anywhere there is none afterwards"
        assert found[-1] is None
        assert torch.equal(found[1], torch.arange(6.0).view(2, 3) / 2)
        for gradient in found[2:-1]:
            ramp = torch.arange(gradient.numel(), dtype=torch.float64).view(gradient.shape)
            torch.testing.assert_close(gradient.double(), ramp + 0.5, rtol=2e-2, atol=0)


def broadcast() -> dict[str, Tensor]:
    torch.manual_seed(rank())
    norm = nn.BatchNorm2d(4)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.Linear(4, 2).double())
    norm.load_state_dict({"num_batches_tracked": torch.tensor(rank() + 5)}, strict=False)
    broadcast_module(module)
    return module.state_dict()


def test_broadcast_gives_all_ranks_the_first_ones_module() -> None:
    first, second = run_ranks(broadcast, 2)
    torch.manual_seed(0)
    assert torch.equal(first["0.weight"], nn.Conv2d(3, 4, 3).weight)
    assert second["1.num_batches_tracked"].item() == 5
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_one_rank_is_the_identity() -> None:
    x = normal(3, 2).requires_grad_()
    assert gather_with_grad(x) is x
    assert all_reduce_with_grad(x) is x
    assert not gather(x).requires_grad
    assert torch.equal(gather(x), x)
    assert reduce_sum(torch.tensor([True, True])).tolist() == [1, 1]
    assert stack_ranks(x).shape == (1, 3, 2)


# ---- the harness ----


def fail_on_one_rank() -> int:
    if rank() == 1:
        raise ValueError("the reason")
    return int(reduce_sum(torch.ones(1)).item())


@pytest.mark.slow
def test_a_failing_rank_is_reported_and_the_ranks_are_renewed() -> None:
    with pytest.raises(RankFailed, match="the reason"):
        run_ranks(fail_on_one_rank, 2)
    assert len(run_ranks(refusals, 2)) == 2


# ---- parts of different sizes ----


def unequal(rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """A gradient from parts that a weight makes equal, a mean, and a function of all rows."""
    x = normal(rows, 3)
    weights = torch.ones(3, dtype=torch.float64, requires_grad=True)
    if len(share(x)):
        ((share(x) @ weights).square().mean() * shard_weight(rows)).backward()
    gradient = weights.grad if weights.grad is not None else torch.zeros(3, dtype=torch.float64)
    mean = mean_over_shards(lambda a, b: (a * b).sum(1).mean(), x, 2 * x)
    return reduce_sum(gradient) / world_size(), mean, map_shards(lambda part: part.cumsum(1), x)


@pytest.mark.parametrize("rows", [1, 2, 7, 12])
def test_parts_of_different_sizes_give_the_whole(rows: int) -> None:
    expected = unequal(rows)
    for found in run_ranks(unequal, 3, rows):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_gradient_of_some_ranks_only_is_found_out_however_far_behind_the_device_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Event:
        done = False

        def record(self) -> None: ...

        def query(self) -> bool:
            return Event.done

    monkeypatch.setattr(torch.cuda, "Event", Event)
    average, own = GradientAverage([]), [True, False]
    with LogicalCuda():
        alone, also = torch.tensor([2.0, 0.0], device="cuda"), torch.tensor([2.0, 1.0], device="cuda")
        for flags in (alone, also, alone, alone):
            assert average._anywhere(flags, own) == [True, False]
        Event.done = True
        with pytest.raises(RunFailed, match="had a gradient on some ranks only"):
            average._anywhere(alone, own)
