"""Batch normalisation on two ranks against torch's on the joined batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.distributed.harness import run_ranks
from tests.gpu.device import NO_WORK, LogicalCuda, _Dispatched
from wasskit.distributed import group
from wasskit.distributed.collectives import average_gradients, gather
from wasskit.distributed.group import rank, world_size
from wasskit.distributed.norm import (
    SyncBatchNorm,
    convert_sync_batchnorm,
    joint_moments,
    joint_norm,
    shuffle,
    unshuffle,
)
from wasskit.errors import UserError

NORMS: dict[int, type[nn.Module]] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
SHAPES = [(10, 3), (10, 3, 4), (10, 3, 4, 2), (10, 3, 2, 2, 2)]
SPLIT = [4, 6]


def build(shape: tuple[int, ...], dtype: torch.dtype, settings: dict[str, Any]) -> nn.Module:
    torch.manual_seed(1)
    norm = NORMS[len(shape)](shape[1], **settings).to(dtype)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    return norm


def data(shape: tuple[int, ...], dtype: torch.dtype, offset: float = 2.0) -> tuple[Tensor, Tensor]:
    """Batch and cotangent; the channels and the halves of the batch differ in mean and scale."""
    generator = torch.Generator().manual_seed(3)
    x, cotangent = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    ramp = torch.linspace(1, 3, len(x), dtype=torch.float64).view(-1, *[1] * (len(shape) - 1))
    return (x * ramp + offset * ramp).to(dtype), cotangent.to(dtype)


def joined(
    shape: tuple[int, ...], dtype: torch.dtype, settings: dict[str, Any], offset: float, device: str = "cpu"
) -> dict[str, Tensor]:
    """What the ranks together compute in two steps of training; on one rank, torch's own."""
    norm = convert_sync_batchnorm(build(shape, dtype, settings)) if world_size() > 1 else build(shape, dtype, settings)
    norm.to(device)
    x, cotangent = (part.to(device) for part in data(shape, dtype, offset))
    if world_size() > 1:
        assert isinstance(norm, SyncBatchNorm)
        x, cotangent = x.split(SPLIT)[rank()], cotangent.split(SPLIT)[rank()]
    found: dict[str, Tensor] = {}
    for step in range(2):
        own = (x * (step + 1)).clone().requires_grad_()
        norm.zero_grad()
        y = norm(own)
        # The loss of the joined batch is the mean over ranks of each rank's N-fold share.
        (y * cotangent).sum().mul(world_size()).backward()
        average_gradients(norm.parameters())
        assert own.grad is not None
        found[f"y{step}"] = gather(y)
        found[f"dx{step}"] = gather(own.grad) / world_size()
        found |= {f"{name}.grad{step}": p.grad for name, p in norm.named_parameters() if p.grad is not None}
    found |= {name: buffer.clone() for name, buffer in norm.named_buffers()}
    norm.eval()
    found["evaluated"] = gather(norm(x).detach())
    return found


SETTINGS: list[dict[str, Any]] = [{}, {"momentum": None}, {"affine": False}, {"momentum": 0.3, "eps": 1e-2}]


@pytest.mark.distributed
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_two_unequal_ranks_equal_the_joined_batch(shape: tuple[int, ...], settings: dict[str, Any]) -> None:
    expected = joined(shape, torch.float64, settings, 2.0)
    for found in run_ranks(joined, 2, shape, torch.float64, settings, 2.0):
        assert found.keys() == expected.keys()
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-10, atol=1e-10, msg=name)


def joined_by_kernels(
    shape: tuple[int, ...], dtype: torch.dtype, settings: dict[str, Any], offset: float
) -> dict[str, Tensor]:
    """The same on a logical CUDA device."""
    with LogicalCuda():
        return {name: value.cpu() for name, value in joined(shape, dtype, settings, offset, "cuda").items()}


@pytest.mark.distributed
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_kernels_of_cuda_equal_the_joined_batch(shape: tuple[int, ...], settings: dict[str, Any]) -> None:
    """With the kernels as torch describes them: what they are given, and what is made of their results."""
    expected = joined(shape, torch.float64, settings, 2.0)
    for found in run_ranks(joined_by_kernels, 2, shape, torch.float64, settings, 2.0):
        assert found.keys() == expected.keys()
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-10, atol=1e-10, msg=name)


def beside_the_kernels(shape: tuple[int, ...]) -> list[str]:
    """The operations of a step, besides the kernels, that are given activations."""
    large: list[str] = []
    with LogicalCuda() as device:
        norm = SyncBatchNorm(shape[1]).to("cuda")
        x = data(shape, torch.float32)[0].to("cuda").requires_grad_()
        cotangent = torch.ones(shape).to("cuda")
        plain = _Dispatched.target

        def target(self: Any, func: Any, name: str, args: Any, there: Any, tensors: Any, asked: Any) -> Any:
            if name not in NO_WORK:
                large.extend(name for tensor in tensors if tensor.numel() >= x.numel())
            return plain(self, func, name, args, there, tensors, asked)

        device.patch(_Dispatched, "target", target)
        norm(x).backward(cotangent)
    return large


@pytest.mark.distributed
def test_nothing_but_the_kernels_passes_over_the_activations() -> None:
    for large in run_ranks(beside_the_kernels, 2, (10, 3, 8, 8)):
        assert large == []


def of_another_layout(last: bool) -> Tensor:
    """The gradient by activations of one layout, from a gradient of the other."""
    formats = torch.contiguous_format, torch.channels_last
    with LogicalCuda():
        norm = SyncBatchNorm(3).to("cuda")
        x, cotangent = data((10, 3, 4, 2), torch.float64)
        x = x.to("cuda").contiguous(memory_format=formats[last]).requires_grad_()
        norm(x).backward(cotangent.to("cuda").contiguous(memory_format=formats[not last]))
        assert x.grad is not None
        return x.grad.cpu().contiguous()


@pytest.mark.distributed
def test_a_gradient_gets_the_layout_of_its_activations() -> None:
    first, last = (run_ranks(of_another_layout, 2, last)[0] for last in (False, True))
    # The sums of eighty numbers in another order.
    torch.testing.assert_close(first, last, rtol=1e-10, atol=1e-10)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
def test_the_kernels_of_a_gpu_are_as_described(kind: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """One rank that believes to be one of two with the same batch: what torch's own gives for the batch twice."""
    monkeypatch.setattr("wasskit.distributed.norm.world_size", lambda: 2)
    monkeypatch.setattr("wasskit.distributed.norm.stack_ranks", lambda x: torch.stack([x, x]))
    monkeypatch.setattr("wasskit.distributed.norm.reduce_sum", lambda x: 2 * x)
    x, cotangent = (part.cuda() for part in data(SHAPES[2], kind))
    ours, theirs = SyncBatchNorm(3).cuda(), nn.BatchNorm2d(3).cuda()
    own, both = x.clone().requires_grad_(), torch.cat([x, x]).requires_grad_()
    y, expected = ours(own), theirs(both)
    y.backward(cotangent)
    expected.backward(torch.cat([cotangent, cotangent]))
    assert own.grad is not None
    assert both.grad is not None
    # Activations of about 10, in the roundings of their own dtype.
    close: dict[str, Any] = {"rtol": 0, "atol": 40 * torch.finfo(kind).eps}
    torch.testing.assert_close(y, expected[: len(x)], **close)
    torch.testing.assert_close(own.grad, both.grad[: len(x)], **close)
    torch.testing.assert_close(ours.running_var, theirs.running_var)


@pytest.mark.distributed
def test_a_mean_far_from_zero_costs_no_precision() -> None:
    shape = SHAPES[2]
    expected = joined(shape, torch.float64, {}, 1000.0)
    for found in run_ranks(joined, 2, shape, torch.float32, {}, 1000.0):
        torch.testing.assert_close(found["y0"].double(), expected["y0"], rtol=0, atol=2e-3)
        torch.testing.assert_close(found["running_var"].double(), expected["running_var"], rtol=1e-4, atol=0)


@pytest.mark.distributed
def test_without_running_statistics() -> None:
    settings = {"track_running_stats": False}
    expected = joined(SHAPES[2], torch.float64, settings, 2.0)
    for found in run_ranks(joined, 2, SHAPES[2], torch.float64, settings, 2.0):
        torch.testing.assert_close(found["dx1"], expected["dx1"], rtol=1e-10, atol=1e-10)


def autocast_input() -> tuple[Tensor, ...]:
    norm = convert_sync_batchnorm(build(SHAPES[2], torch.float32, {}))
    x, cotangent = (part.split(SPLIT)[rank()] for part in data(SHAPES[2], torch.bfloat16))
    x.requires_grad_()
    y = norm(x)
    (y * cotangent).sum().backward()
    assert x.grad is not None
    return gather(y), gather(x.grad), *norm.buffers()


@pytest.mark.distributed
def test_bfloat16_inputs_keep_float32_statistics() -> None:
    x, _ = data(SHAPES[2], torch.bfloat16)
    norm = build(SHAPES[2], torch.float32, {})
    y = norm(x.float())
    for found, gradient, mean, variance, _ in run_ranks(autocast_input, 2):
        assert (found.dtype, gradient.dtype) == (torch.bfloat16, torch.bfloat16)
        torch.testing.assert_close(found.float(), y, rtol=2e-2, atol=2e-2)
        torch.testing.assert_close(mean, norm.running_mean)
        torch.testing.assert_close(variance, norm.running_var)


def one_row_each() -> Tensor:
    y: Tensor = SyncBatchNorm(2, affine=False)(torch.tensor([[1.0, 5.0], [3.0, 1.0]])[rank()][None])
    return y


@pytest.mark.distributed
def test_one_row_per_rank_is_a_batch() -> None:
    first, second = run_ranks(one_row_each, 2)
    torch.testing.assert_close(first, torch.tensor([[-1.0, 1.0]]))
    torch.testing.assert_close(second, torch.tensor([[1.0, -1.0]]))


# ---- conversion ----


def test_conversion_keeps_parameters_names_and_behaviour() -> None:
    torch.manual_seed(0)
    shared = nn.BatchNorm1d(4)
    model = nn.Sequential(nn.Linear(3, 4), shared, nn.Sequential(nn.Linear(4, 4), shared), nn.BatchNorm1d(4).eval())
    state = {name: value.clone() for name, value in model.state_dict().items()}
    parameters = list(model.parameters())
    x = torch.randn(6, 3)
    reference = model(x)
    model.load_state_dict(state)

    converted = convert_sync_batchnorm(model)

    assert converted is model
    norms = [module for module in model.modules() if isinstance(module, SyncBatchNorm)]
    assert len(norms) == 2
    assert model[1] is model[2][1]  # type: ignore[index]
    assert not model[3].training
    assert all(ours is theirs for ours, theirs in zip(model.parameters(), parameters, strict=True))
    assert list(model.state_dict()) == list(state)
    assert torch.equal(model(x), reference)
    assert convert_sync_batchnorm(model) is model
    assert [module for module in model.modules() if isinstance(module, SyncBatchNorm)] == norms


def test_conversion_reaches_every_name_of_a_norm() -> None:
    shared = nn.BatchNorm1d(4)
    model = convert_sync_batchnorm(nn.Sequential(shared, nn.Linear(4, 4), shared))
    assert isinstance(model[0], SyncBatchNorm)
    assert model[2] is model[0]


def test_conversion_of_a_lone_norm_and_of_torchs_own() -> None:
    norms: list[nn.Module] = [nn.BatchNorm2d(3), nn.SyncBatchNorm(3)]
    for norm in norms:
        assert type(convert_sync_batchnorm(norm)) is SyncBatchNorm


class NormWithActivation(nn.BatchNorm2d):
    """As timm builds them."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.drop = nn.Identity()
        self.act = nn.ReLU()

    def forward(self, input: Tensor) -> Tensor:
        result: Tensor = self.act(self.drop(super().forward(input)))
        return result


class NormOfItsOwnKind(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return input


def test_conversion_keeps_an_activation_and_refuses_the_unknown() -> None:
    x = torch.randn(4, 3, 2, 2)
    converted = convert_sync_batchnorm(nn.Sequential(NormWithActivation(3)))
    assert isinstance(converted[0], SyncBatchNorm)
    torch.testing.assert_close(converted(x), NormWithActivation(3)(x))
    with pytest.raises(UserError, match="NormOfItsOwnKind"):
        convert_sync_batchnorm(nn.Sequential(NormOfItsOwnKind(3)))


def test_one_rank_refuses_what_batch_norm_refuses() -> None:
    with pytest.raises(ValueError, match="more than 1 value"):
        SyncBatchNorm(2)(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="at least 2 dimensions"):
        SyncBatchNorm(2)(torch.zeros(2))


def test_joint_moments_on_one_rank() -> None:
    x = torch.randn(7, 3, 5, dtype=torch.float64)
    mean, variance, count = joint_moments(x)
    torch.testing.assert_close(mean, x.mean((0, 2)))
    torch.testing.assert_close(variance, x.var((0, 2), correction=0))
    assert count.item() == 35


# ---- shuffling ----


def shuffled() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x = torch.arange(4)[:, None] + 4 * rank()
    # Generators that differ must not matter: the first rank's order counts.
    dealt, order = shuffle(x, torch.Generator().manual_seed(rank()))
    return x, dealt, order, unshuffle(dealt * 10, order)


@pytest.mark.distributed
def test_shuffle_deals_every_row_once_and_unshuffle_undoes_it() -> None:
    first, second = run_ranks(shuffled, 2)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.cat([first[1], second[1]])[:, 0], order)
    for x, _, own_order, restored in (first, second):
        assert torch.equal(own_order, order)
        assert torch.equal(restored, 10 * x)


def test_shuffle_on_one_rank() -> None:
    x = torch.arange(6)[:, None]
    dealt, order = shuffle(x, torch.Generator().manual_seed(1))
    assert torch.equal(dealt, x[order])
    assert torch.equal(unshuffle(dealt, order), x)


def choices(device: str, identity: tuple[str, str] | None) -> list[bool]:
    """How batch norm is computed by default, wanted joint and wanted local, with this GPU as each rank's."""
    kept, plain, group._identity = group._channels, group._identity, lambda device: identity
    try:
        group._open_channels(torch.device(device))
        return [joint_norm(wanted) for wanted in (None, True, False)]
    finally:
        group._channels, group._identity = kept, plain


@pytest.mark.distributed
def test_batch_norm_is_local_where_ranks_share_a_gpu_and_nothing_else_is_wanted() -> None:
    """Slices have no identity for nccl; two ranks with one GPU have the same."""
    for identity in (None, ("here", "one")):
        assert run_ranks(choices, 2, "cuda", identity) == [[False, True, False]] * 2
    assert run_ranks(choices, 2, "cpu", None) == [[True, True, False]] * 2
    assert not joint_norm(True), "alone there is nothing to join"
