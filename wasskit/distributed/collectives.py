"""Sums and concatenations over the ranks, with and without gradients.

Parity rule. Let each of N ranks hold an equal share of the batch and compute a loss L_r, either from gathered tensors
of the whole batch (then L_r = L on every rank) or as a mean over its own share (then L = mean_r L_r). The backward of
``gather_with_grad`` and ``all_reduce_with_grad`` is that of the sum of all ranks' losses; dividing by N in
``average_gradients`` then gives the gradient of L: what one rank with the whole batch computes.

A collective is called by all ranks or by none, in the same order, and so is its backward: a gathered tensor
that requires a gradient must take part in the loss on every rank.

Sums of half precision are taken in float32; concatenations move bytes and serve every dtype on every backend.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function

from wasskit.distributed.gradients import average_gradients
from wasskit.distributed.group import channels, rank, world_size
from wasskit.distributed.messages import buckets, flatten, route, unflatten_into, widen
from wasskit.errors import UserError

__all__ = [
    "all_reduce_with_grad",
    "average_gradients",
    "broadcast_module",
    "broadcast_tensor",
    "gather",
    "gather_with_grad",
    "in_step",
    "reduce_sum",
    "stack_ranks",
]

_MAX_DIM = 8
_compared: set[tuple[tuple[int, ...], torch.dtype]] | None = None


def gather_with_grad(x: Tensor) -> Tensor:
    """Concatenate ``x`` of shape (B, ...) of all ranks, in rank order, to (N * B, ...); differentiable.

    Backward: the sum over ranks of the gradient of this rank's slice. Gradients of any order are right.
    Raises ``UserError``, on all ranks, where the shapes or dtypes differ; inside `in_step` they are compared once.
    """
    if world_size() == 1:
        return x
    kind = tuple(x.shape), x.dtype
    if _compared is None or kind not in _compared:
        _check_equal(x)
        if _compared is not None:
            _compared.add(kind)
    result: Tensor = _Concatenate.apply(x)
    return result


def _check_equal(x: Tensor) -> None:
    shapes = _shapes(x)
    if len(set(shapes)) > 1:
        listed = ", ".join(f"{shape} on rank {place}" for place, shape in enumerate(shapes))
        raise UserError(
            f"Ranks hold tensors of different shapes ({listed}), but each needs an equal share: "
            f"choose a batch size that {world_size()} ranks divide evenly."
        )


@contextlib.contextmanager
def in_step(compared: set[tuple[tuple[int, ...], torch.dtype]]) -> Iterator[None]:
    """Inside, `gather_with_grad` trusts that what the ranks once compared is equal again, and sends the tensor alone.

    For the steps of a training, which share every batch equally, so that all ranks meet another shape in the same call.
    ``compared``: what was found equal so far, by the same steps on all ranks.
    """
    global _compared
    before, _compared = _compared, compared
    try:
        yield
    finally:
        _compared = before


def all_reduce_with_grad(x: Tensor) -> Tensor:
    """Sum ``x``, of one shape on all ranks, over the ranks; differentiable, by the same sum of gradients."""
    if world_size() == 1:
        return x
    result: Tensor = _Sum.apply(x)
    return result


@torch.no_grad()
def gather(x: Tensor) -> Tensor:
    """Concatenate ``x`` of shape (B_r, ...) of all ranks, in rank order, without gradient.

    The ranks may hold different numbers of rows, also none; the other dimensions and the dtype must
    agree, ``UserError`` otherwise.
    """
    if world_size() == 1:
        return x.detach()
    shapes = _shapes(x)
    if len({shape[1:] for shape in shapes}) > 1:
        listed = ", ".join(f"{shape} on rank {place}" for place, shape in enumerate(shapes))
        raise UserError(f"Ranks hold tensors that differ in more than their number of rows: {listed}.")
    longest = max(shape[0] for shape in shapes)
    padded = x.detach()
    if len(x) < longest:
        padded = x.new_zeros((longest, *x.shape[1:]))
        padded[: len(x)] = x
    stacked = stack_ranks(padded)
    if all(shape[0] == longest for shape in shapes):
        return stacked.flatten(0, 1)
    return torch.cat([rows[: shape[0]] for rows, shape in zip(stacked, shapes, strict=True)])


@torch.no_grad()
def reduce_sum(x: Tensor) -> Tensor:
    """Sum ``x``, of one shape on all ranks, over the ranks, without gradient; integers add as int64."""
    if not x.dtype.is_floating_point and not x.dtype.is_complex:
        x = x.to(torch.int64)
    return x.detach() if world_size() == 1 else _sum(x)


@torch.no_grad()
def stack_ranks(x: Tensor) -> Tensor:
    """Stack ``x`` of all ranks to (N, *x.shape), without gradient.

    The shape must agree by construction: nothing is checked, so nothing but the tensor itself is sent.
    """
    if world_size() == 1:
        return x.detach()[None]
    sent, process_group = route(x.detach().contiguous())
    stacked = sent.new_empty((world_size(), *sent.shape))
    if sent.numel():
        # As bytes, since gloo does not send every dtype.
        parts = [part.reshape(-1).view(torch.uint8) for part in stacked]
        dist.all_gather(parts, sent.reshape(-1).view(torch.uint8), group=process_group)
    return stacked.to(x.device)


@torch.no_grad()
def broadcast_module(module: nn.Module) -> None:
    """Give every rank rank 0's parameters and buffers, in place."""
    if world_size() == 1:
        return
    tensors = [tensor.detach() for tensor in (*module.parameters(), *module.buffers())]
    for bucket in buckets(tensors):
        flat, process_group = route(flatten(bucket))
        dist.broadcast(flat.view(torch.uint8), src=0, group=process_group)
        unflatten_into(flat, bucket)


@torch.no_grad()
def broadcast_tensor(x: Tensor) -> Tensor:
    """Rank 0's ``x``, in host memory and of one shape and dtype on all ranks by construction, on every rank."""
    if world_size() > 1:
        x = x.contiguous()
        dist.broadcast(x, src=0, group=channels().host)
    return x


class _Sum(Function):
    """y = sum_r x_r on every rank. The Jacobian is symmetric: the backward is the same sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _sum(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _Sum.apply(gradients[0])


class _Concatenate(Function):
    """y = (x_1, ..., x_N) on every rank; its adjoint sums over the ranks and takes this rank's slice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return stack_ranks(x).flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _SumSlice.apply(gradients[0])


class _SumSlice(Function):
    """The adjoint of ``_Concatenate``, and the other way round: gradients of any order need but the two."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        # Every rank has a gradient of the whole; the sum over ranks of this rank's rows is theirs.
        rows = len(y) // world_size()
        return _sum(y)[rank() * rows : (rank() + 1) * rows].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _Concatenate.apply(gradients[0])


def _sum(x: Tensor) -> Tensor:
    total, process_group = route(widen(x.detach()).clone(memory_format=torch.contiguous_format))
    dist.all_reduce(total, group=process_group)
    return total.to(x.device, x.dtype)


def _shapes(x: Tensor) -> list[tuple[int, ...]]:
    """The shape of ``x`` on every rank, exchanged between the hosts; dtypes that differ raise."""
    if not 1 <= x.dim() <= _MAX_DIM:
        raise ValueError(f"a tensor of 1 to {_MAX_DIM} dimensions is needed, got shape {tuple(x.shape)}")
    header = torch.zeros(2 + _MAX_DIM, dtype=torch.int64)
    header[0], header[1] = x.dim(), zlib.crc32(str(x.dtype).encode())
    header[2 : 2 + x.dim()] = torch.tensor(x.shape)
    headers = [torch.empty_like(header) for _ in range(world_size())]
    dist.all_gather(headers, header, group=channels().host)
    rows = [one.tolist() for one in headers]
    if len({row[1] for row in rows}) > 1:
        raise UserError(f"Ranks hold tensors of different dtypes, {x.dtype} on rank {rank()}.")
    return [tuple(row[2 : 2 + row[0]]) for row in rows]
