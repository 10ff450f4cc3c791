"""Mixtures of feature maps: pooled, and passed through the head, once for each distinct pair.

The average of a mixture is the mixture of the averages; its maximum is taken in chunks, of which only the
positions are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from wasskit.distributed.collectives import gather_with_grad
from wasskit.ot.precision import at_least_float32
from wasskit.plugins.metrix.mixers.base import Sources, pair_cosines
from wasskit.plugins.metrix.pairs import Mixing, Triples
from wasskit.system.transfer import to_device


class FeatureMixer:
    """Mixes the last feature maps of the batch; needs ``maps`` and ``head``."""

    def __init__(self, embeddings: Tensor, sources: Sources) -> None:
        maps, batch = sources.maps, len(embeddings)
        if maps is None or sources.head is None:
            raise ValueError("feature mode needs maps, the feature maps of the batch, and head")
        if maps.ndim != 4 or len(maps) != batch or not maps.is_floating_point():
            raise ValueError(
                f"maps must be the floating-point feature maps ({batch}, C, H, W) of the batch, not {maps.dtype} of "
                f"shape {tuple(maps.shape)}"
            )
        if (maps.dtype == torch.float64) != (embeddings.dtype == torch.float64):
            raise ValueError(f"maps are {maps.dtype}, the embeddings {embeddings.dtype}: take one precision")
        self.maps, self.head = maps, sources.head

    def cosines(self, anchors: Tensor, embeddings: Tensor, triples: Triples, mixing: Mixing) -> Tensor:
        maps = gather_with_grad(at_least_float32(self.maps))
        return pair_cosines(
            lambda x, n: feature_embeddings(maps, self.head, x, n, mixing.lam), anchors, triples, len(maps)
        )


def feature_embeddings(
    maps: Tensor, head: Callable[[Tensor], Tensor], x: Tensor, n: Tensor, lam: float, *, chunk_bytes: int = 32 * 2**20
) -> Tensor:
    """Embeddings (Q, D) of the mixed feature maps ``lam * maps[x] + (1 - lam) * maps[n]``.

    ``maps`` (B, C, H, W); ``x`` and ``n`` (Q,), best on the host and equal x together; ``head`` maps pooled features
    (q, C) to embeddings (q, D), row by row. Pooling is the sum of the average and the maximum over the positions. The
    pairs are pooled in chunks of ``chunk_bytes`` pooled features. Of several chunks none is kept: per pair and channel
    one byte remains (the position of the maximum), from which the backward pass pools again.
    """
    # (B, H W, C): free of cost where the maps have channels last.
    flat = maps.flatten(2).mT.contiguous()
    window = (maps.shape[2], maps.shape[3])
    chunks = list(_blocks(len(x), max(1, chunk_bytes // (maps.shape[1] * maps.element_size()))))
    parts = [_embed_chunk(head, flat, x[rows], n[rows], lam, window, keep=len(chunks) == 1) for rows in chunks]
    return torch.cat(parts)


def _embed_chunk(
    head: Callable[[Tensor], Tensor],
    flat: Tensor,
    x: Tensor,
    n: Tensor,
    lam: float,
    window: tuple[int, int],
    *,
    keep: bool,
) -> Tensor:
    """``head`` of the pooled mixtures; unless ``keep``, its graph forms them anew when it needs them."""
    pooled, positions = _MixedPool.apply(flat, x, n, lam, window)
    if keep:
        return head(pooled)

    def pack(saved: Tensor) -> Tensor | None:
        return None if saved.data_ptr() == pooled.data_ptr() and saved.shape == pooled.shape else saved

    def unpack(saved: Tensor | None) -> Tensor:
        return saved if saved is not None else _pool_again(flat.detach(), x, n, positions, lam)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return head(pooled)


class _MixedPool(Function):
    """Pooled mixtures (Q, C) of ``flat`` (B, H W, C) with ``window`` (H, W), and the positions of their maxima (Q, C).

    The positions are all that is kept for the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any, flat: Tensor, x: Tensor, n: Tensor, lam: float, window: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        pooled, positions = mixed_maximum(flat, x, n, lam, window)
        ctx.mark_non_differentiable(positions)
        x, n = (to_device(index, flat.device) for index in (x, n))
        _add_average(pooled, flat, x, n, lam)
        ctx.save_for_backward(x, n, positions)
        ctx.shape, ctx.lam = flat.shape, lam
        return pooled, positions

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        x, n, positions = ctx.saved_tensors
        items, length, channels = ctx.shape
        mean = gradient.new_zeros(items, channels)
        mean.index_add_(0, x, gradient, alpha=ctx.lam / length)
        mean.index_add_(0, n, gradient, alpha=(1 - ctx.lam) / length)
        result = mean[:, None].expand(-1, length, -1).clone(memory_format=torch.contiguous_format)
        entries = result.view(-1)
        for rows in _blocks(len(x), _cached_rows(gradient)):
            index = _entries_of(positions[rows], x[rows], length)
            entries.scatter_add_(0, index.view(-1), gradient[rows].mul(ctx.lam).view(-1))
            index += (n[rows] - x[rows])[:, None] * (length * channels)
            entries.scatter_add_(0, index.view(-1), gradient[rows].mul(1 - ctx.lam).view(-1))
        return result, None, None, None, None


def _add_average(pooled: Tensor, flat: Tensor, x: Tensor, n: Tensor, lam: float) -> None:
    """Add the average of the mixtures, which is the mixture of the averages: (B, L, C) to (Q, C)."""
    mean = flat.mean(1)
    for rows in _blocks(len(x), _cached_rows(flat)):
        pooled[rows] += torch.lerp(mean.index_select(0, n[rows]), mean.index_select(0, x[rows]), lam)


def _pool_again(flat: Tensor, x: Tensor, n: Tensor, positions: Tensor, lam: float) -> Tensor:
    """The pooled mixtures once more, from the ``positions`` of their maxima: (B, L, C) to (Q, C)."""
    channels = flat.shape[2]
    pooled = flat.new_empty(len(x), channels)
    x, n = (to_device(index, flat.device) for index in (x, n))
    entries = flat.flatten()
    for rows in _blocks(len(x), _cached_rows(flat)):
        index = _entries_of(positions[rows], x[rows], flat.shape[1])
        first = entries.index_select(0, index.view(-1))
        index += (n[rows] - x[rows])[:, None] * flat[0].numel()
        second = entries.index_select(0, index.view(-1))
        pooled[rows] = torch.lerp(second, first, lam).view(-1, channels)
    _add_average(pooled, flat, x, n, lam)
    return pooled


def _cached_rows(like: Tensor) -> int:
    """Rows of (rows, C) intermediate results that stay in the cache of a CPU; on other devices all are one block."""
    return max(1, 2**16 // like.shape[-1]) if like.device.type == "cpu" else 2**30


def _entries_of(positions: Tensor, item: Tensor, length: int) -> Tensor:
    """Where in a flattened (B, L, C) the entries (item[q], positions[q, c], c) lie: (Q, C) int64."""
    channels = positions.shape[1]
    index = positions.long().add_((item * length)[:, None]).mul_(channels)
    return index.add_(torch.arange(channels, device=index.device))


@torch.no_grad()
def mixed_maximum(flat: Tensor, x: Tensor, n: Tensor, lam: float, window: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Maximum over dimension 1 of ``lam * flat[x] + (1 - lam) * flat[n]`` and its position, the first of equals.

    ``flat`` (B, H W, C) with ``window`` (H, W); ``x`` and ``n`` (Q,) best on the host and equal x together. Returns
    (Q, C) twice, the positions in the smallest type that holds them. The mixtures are formed in tiles: an item
    against all others where most of its pairs are wanted, else the pairs alone.
    """
    items, length, channels = flat.shape
    values = flat.new_empty(len(x), channels)
    kinds = (torch.uint8, torch.int16, torch.int32)
    kind = next(kind for kind in kinds if length - 1 <= torch.iinfo(kind).max)
    positions = torch.empty((len(x), channels), dtype=kind, device=flat.device)
    tile = 2**21 if flat.device.type == "cpu" else 2**26
    each = max(1, tile // (length * channels))  # mixtures
    room = flat.new_empty(0)

    def maximum(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal room
        shape = torch.broadcast_shapes(first.shape, second.shape)
        number = shape.numel()
        if room.numel() < number:
            # One allocation for all tiles: fresh pages cost more than the sums that fill them.
            room = flat.new_empty(number)
        mixture = torch.lerp(second, first, lam, out=room[:number].view(shape))
        # Images with channels last, as (N, C, H, W).
        images = mixture.view(-1, *window, channels).permute(0, 3, 1, 2)
        value, position = F.max_pool2d(images, window, return_indices=True)
        return value.view(-1, channels), position.view(-1, channels)

    x, n = x.cpu(), n.cpu()
    distinct, counts = x.unique_consecutive(return_counts=True)
    if 2 * len(x) <= len(distinct) * items:
        x, n = (to_device(index, flat.device) for index in (x, n))
        for rows in _blocks(len(x), each):
            values[rows], position = maximum(flat[x[rows]], flat[n[rows]])
            positions[rows] = position.to(positions.dtype)
        return values, positions
    # The wanted pairs of a block of items are picked from all its pairs.
    ends = [0, *counts.cumsum(0).tolist()]
    run = torch.arange(len(distinct)).repeat_interleave(counts)
    for block in _blocks(len(distinct), max(1, each // items)):
        rows = slice(ends[block.start], ends[block.stop])
        pick = (run[rows] - block.start) * items + n[rows]
        firsts, pick = (to_device(index, flat.device) for index in (distinct[block], pick))
        # Several items at a time have room for all others, a single one may not.
        tiles = [maximum(flat[firsts, None], flat[None, others]) for others in _blocks(items, each)]
        value, position = (torch.cat(part) if len(tiles) > 1 else part[0] for part in zip(*tiles, strict=True))
        values[rows] = value.index_select(0, pick)
        positions[rows] = position.to(positions.dtype).index_select(0, pick)
    return values, positions


def _blocks(length: int, size: int) -> Iterator[slice]:
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))
