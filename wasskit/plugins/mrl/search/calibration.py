"""How long a shortlist must be: found on rows of the index themselves, each searching all others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from wasskit.data.samplers import some_rows
from wasskit.plugins.mrl.search.codes import PrefixCode
from wasskit.plugins.mrl.search.parts import LiveRows, Part, shortlist_codes, shortlist_whole
from wasskit.plugins.mrl.search.scan import query_blocks

__all__ = ["LONGEST", "K", "Shortlist", "needed_shortlist"]

K = 10
"""Neighbours whose recall is measured."""
LONGEST = 2048
SHORTEST = 50
_QUERIES = 512
_ROWS = 1 << 20
"""Rows up to which as many queries are asked; among more, fewer, so that the time stays."""
_ONE_SIDED = 1.645


class Shortlist(NamedTuple):
    """Rows of a shortlist, and the share of the ten nearest that were among them."""

    size: int
    recall: float


@torch.no_grad()
def needed_shortlist(parts: Sequence[Part], code: PrefixCode, target: float) -> Shortlist:
    """The shortest list that holds a share ``target`` of the 10 nearest of a row, or one of ``LONGEST`` rows.

    Up to 512 random rows ask for their nearest among all others, by the codes and exactly. The mean recall of the
    size that is taken lies above the target by 1.645 standard errors: with a probability of 95 % so does the recall of
    all queries that are drawn as the rows were.

    Args:
        parts: of an index of which no row is deleted.
    """
    rows = LiveRows(parts)
    count = rows.shape[0]
    k = min(K, count - 1)
    if k < 1:
        return Shortlist(SHORTEST, 1.0)
    most = max(64, min(_QUERIES, _QUERIES * _ROWS // count))
    asked = some_rows(count, most, 0)
    longest = min(LONGEST, count - 1)
    exhaustive = all(part.graph is None for part in parts)
    # faiss finds other rows where it is asked for more of them.
    sizes = [] if exhaustive else [SHORTEST << step for step in range(6) if SHORTEST << step < longest]
    truth = _nearest(parts, rows, asked, k)
    for size in (*sizes, longest):
        near = _nearest(parts, rows, asked, size, code)
        share = (near[:, :, None] == truth[:, None]).any(2).double().cumsum(1) / k
        mean, error = share.mean(0), share.std(0) / math.sqrt(len(asked))
        enough = mean - _ONE_SIDED * error >= target
        if not exhaustive:
            enough[:-1] = False
        if bool(enough.any()):
            size = max(int(enough.nonzero()[0]) + 1, min(SHORTEST, size))
            break
    return Shortlist(size, float(mean[size - 1]))


def _nearest(parts: Sequence[Part], rows: LiveRows, asked: Tensor, size: int, code: PrefixCode | None = None) -> Tensor:
    """The ``size`` other rows that are nearest to each row ``asked`` for, (Q, size), by the code or exactly."""
    found = []
    for some in query_blocks(len(asked), size + 1):
        own = asked[some]
        x = F.normalize(rows[own], dim=1)
        near = shortlist_whole(parts, x, size + 1) if code is None else shortlist_codes(parts, code, x, size + 1)
        # The row itself goes last; where it is missing, as one of many equal ones, the last goes.
        order = (near == own[:, None]).int().argsort(dim=1, stable=True)
        found.append(near.gather(1, order)[:, :size])
    return torch.cat(found)
