"""What a mixer does: the cosine similarity of each anchor to its mixed items, m = lambda x + (1 - lambda) n."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from wasskit.distributed.collectives import gather_with_grad
from wasskit.distributed.group import rank, world_size
from wasskit.ot.precision import full_precision
from wasskit.plugins.metrix.pairs import Mixing, Triples, unique_pairs
from wasskit.system.transfer import to_device

EPS = 1e-12


@dataclass(frozen=True)
class Sources:
    """What this rank's part of the batch was embedded from, as far as it is known.

    ``maps`` (B, C, H, W) and ``head``, pooled features (q, C) to embeddings (q, D); ``images`` (B, ...) and
    ``network``, images to embeddings.
    """

    maps: Tensor | None = None
    head: Callable[[Tensor], Tensor] | None = None
    images: Tensor | None = None
    network: Callable[[Tensor], Tensor] | None = None


class Mixer(Protocol):
    """One way to mix, made for one step from ``(embeddings, sources)`` of this rank.

    Its constructor raises ``ValueError`` for sources that lack something, or do not fit the embeddings (B, D).
    """

    def cosines(self, anchors: Tensor, embeddings: Tensor, triples: Triples, mixing: Mixing) -> Tensor:
        """cos(a, m) of every triple on the host, (T,), in the dtype of the ``anchors`` (K, D).

        ``embeddings`` (B, D) are those of all ranks.
        """
        ...


def pair_cosines(embed: Callable[[Tensor, Tensor], Tensor], anchors: Tensor, triples: Triples, items: int) -> Tensor:
    """cos(a, m) of every triple, (T,), in the dtype of the anchors (K, D).

    ``embed(x, n)`` gives the embeddings (Q, D) of the distinct pairs, whose indices it gets on the host, by
    ascending x; the pairs are divided over the ranks. Autocast is for ``embed`` alone: the losses put
    similarities into exponents.
    """
    x, n, pair = unique_pairs(triples, items)
    device = anchors.device
    mixed = _shared(embed, x, n).to(anchors.dtype)
    if mixed.shape != (len(x), anchors.shape[1]):
        raise ValueError(
            f"the embeddings of {len(x)} mixtures must have the shape {(len(x), anchors.shape[1])} that the batch's "
            f"have, not {tuple(mixed.shape)}"
        )
    with full_precision(anchors):
        # Scaled after the product: the (Q, D) unit vectors of the mixtures are never formed.
        length = torch.linalg.vector_norm(mixed, dim=1, keepdim=True).clamp(min=EPS)
        cosines = mixed @ F.normalize(anchors, dim=1).T / length
    return entries(cosines, to_device(pair, device), to_device(triples.anchor, device))


def _shared(embed: Callable[[Tensor, Tensor], Tensor], x: Tensor, n: Tensor) -> Tensor:
    """``embed(x, n)``, of which every rank does an equal share; the last is filled up with pairs that are dropped."""
    if world_size() == 1:
        return embed(x, n)
    each = -(-len(x) // world_size())
    mine = torch.arange(rank() * each, (rank() + 1) * each).clamp(max=len(x) - 1)
    return gather_with_grad(embed(x[mine], n[mine]))[: len(x)]


def entries(matrix: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """``matrix[row, column]`` through one flat index, whose backward is one scatter."""
    return matrix.flatten().index_select(0, row * matrix.shape[1] + column)
