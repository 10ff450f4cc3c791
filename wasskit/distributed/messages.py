"""How tensors travel between ranks: by which process group, and many of them in one message."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from wasskit.distributed.group import channels

T = TypeVar("T", bound=Tensor)

BUCKET_BYTES = 16 * 2**20
"""Few enough messages, and enough of them for most to be sent before the backward pass has ended."""


def route(x: Tensor) -> tuple[Tensor, dist.ProcessGroup]:
    """``x`` where a process group can take it (on its device, else in host memory), and that group."""
    channel = channels()
    if x.is_cuda and channel.cuda is not None:
        return x, channel.cuda
    return x.cpu(), channel.host


def widen(x: Tensor) -> Tensor:
    """Half precision as float32: its sum loses no bits, and gloo of older versions adds no bfloat16."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def buckets(tensors: Iterable[T]) -> Iterator[list[T]]:
    """Lists of tensors of one device and dtype, of ``BUCKET_BYTES`` at most, in one order on all ranks."""
    alike: dict[tuple[torch.device, torch.dtype], list[T]] = {}
    for tensor in tensors:
        alike.setdefault((tensor.device, tensor.dtype), []).append(tensor)
    for members in alike.values():
        bucket: list[T] = []
        size = 0
        for tensor in members:
            if bucket and size + tensor.nbytes > BUCKET_BYTES:
                yield bucket
                bucket, size = [], 0
            bucket.append(tensor)
            size += tensor.nbytes
        yield bucket


def flatten(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def unflatten_into(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    start = 0
    for tensor in tensors:
        tensor.copy_(flat[start : start + tensor.numel()].view(tensor.shape))
        start += tensor.numel()
