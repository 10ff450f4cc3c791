"""This rank's part of a batch that is trained on, or of a data set that is evaluated."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from wasskit.distributed.collectives import gather, reduce_sum
from wasskit.distributed.group import rank, world_size


def shard_indices(n: int) -> range:
    """The indices, of ``range(n)``, that are this rank's.

    Ranks have consecutive blocks whose sizes differ by one at most. Nothing is padded: each index belongs to exactly
    one rank, so sums of counts are exact, and ``collectives.gather`` of per-sample results restores their order.
    """
    return range(n * rank() // world_size(), n * (rank() + 1) // world_size())


def shard_weight(n: int) -> float:
    """``N n_r / n`` for the ``n_r`` of ``n`` rows that `shard_indices` gives this rank, one of N.

    The mean over the ranks of ``weight * (mean over own rows)``, and of its gradient, is that over all rows, whether
    or not N divides n. 1.0 where the shares are equal.
    """
    return len(shard_indices(n)) * world_size() / n


def map_shards(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``function(x)``, without gradient, for a function of rows (n, ...) -> (n, ...): each rank computes its part.

    Called by all ranks; all have the whole result. Fewer rows than ranks are computed by every rank.
    """
    if len(x) < world_size():
        return function(x)
    rows = shard_indices(len(x))
    return gather(function(x[rows.start : rows.stop]))


def mean_over_shards(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """``function(*tensors)``, without gradient, for a mean () over the rows of tensors (n, ...) of one n.

    Called by all ranks; each computes it over its part of the rows, and all have the result.
    """
    n = len(tensors[0])
    rows = shard_indices(n)
    own = function(*(x[rows.start : rows.stop] for x in tensors)) if rows else tensors[0].new_zeros(())
    return mean_of_shares(own, n)


def mean_of_shares(own: Tensor, n: int) -> Tensor:
    """The mean over all of ``n`` rows from that over this rank's part, without gradient. Called by all ranks."""
    return reduce_sum(own * shard_weight(n)) / world_size()
