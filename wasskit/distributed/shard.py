"""This rank's part of a data set that is evaluated."""

from __future__ import annotations

from wasskit.distributed.group import rank, world_size

__all__ = ["shard_indices"]


def shard_indices(n: int) -> range:
    """The indices, of ``range(n)``, that this rank evaluates.

    Ranks have consecutive blocks whose sizes differ by one at most. Nothing is padded: each index belongs to
    exactly one rank, so sums of counts are exact, and ``collectives.gather`` of per-sample results restores
    their order.
    """
    return range(n * rank() // world_size(), n * (rank() + 1) // world_size())
