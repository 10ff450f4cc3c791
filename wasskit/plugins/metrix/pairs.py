"""Which items of a batch are mixed, and against which anchor: lists of triples built by tensor operations.

A triple t = (a, x, n) stands for the anchor a and the mixed item v = lambda x + (1 - lambda) n with the mixed
label lambda. Its negative n has another class than a; x is a positive of a (positive-negative mixing, V(a) =
P(a) x N(a)) or a itself (anchor-negative mixing, V(a) = {a} x N(a)); Venkataramanan et al., "It Takes Two to
Tango: Mixup for Deep Metric Learning", ICLR 2022.

Lists are made on the host, from the host's copy of the labels: their lengths are then known without waiting
for a device, and a thousand integers are cheaper moved than awaited.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

Kind = Literal["positive-negative", "anchor-negative"]
KINDS: tuple[Kind, Kind] = ("positive-negative", "anchor-negative")


@dataclass(frozen=True)
class Triples:
    """T triples, sorted by anchor: three int64 tensors (T,), indices of anchors and of items of the batch.

    In anchor-negative mixing ``x`` numbers anchors.
    """

    anchor: Tensor
    x: Tensor
    n: Tensor

    def __len__(self) -> int:
        return len(self.anchor)

    def to(self, device: torch.device) -> Triples:
        return Triples(*(index.to(device, non_blocking=True) for index in (self.anchor, self.x, self.n)))


class Ragged(NamedTuple):
    """One list of items per anchor: all lists joined, and their lengths."""

    items: Tensor
    counts: Tensor

    @property
    def starts(self) -> Tensor:
        return self.counts.cumsum(0) - self.counts


def relations(anchor_labels: Tensor, labels: Tensor, *, own: bool) -> tuple[Tensor, Tensor]:
    """Which of B items are positives and negatives of each of K anchors: two boolean (K, B).

    ``own``: the anchors are the items themselves, and none is its own positive. Otherwise they are proxies.
    """
    same = anchor_labels[:, None] == labels[None, :]
    positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device) if own else same
    return positive, ~same


def all_negatives(negative: Tensor) -> Ragged:
    """Every negative of every anchor, in the order of the batch."""
    return Ragged(negative.nonzero()[:, 1], negative.sum(1))


def hardest_negatives(negative: Tensor, similarity: Tensor, k: int) -> Ragged:
    """The ``k`` most similar negatives of every anchor, hardest first; all of them where it has fewer."""
    k = min(k, negative.shape[1])
    items = similarity.masked_fill(~negative, -torch.inf).topk(k, dim=1).indices
    counts = negative.sum(1).clamp(max=k)
    return Ragged(items[torch.arange(k)[None, :] < counts[:, None]], counts)


def misplaced(hardest: Ragged, negative: Tensor) -> Ragged:
    """What the published code takes for the hardest negatives.

    It looks up the position of a negative within its anchor's own list in the joined list of all anchors.
    """
    anchors = torch.arange(len(negative)).repeat_interleave(hardest.counts)
    positions = negative.long().cumsum(1)[anchors, hardest.items] - 1
    return Ragged(all_negatives(negative).items[positions], hardest.counts)


def join(anchor: Tensor, x: Tensor, negatives: Ragged) -> Triples:
    """Each of P pairs (anchor, x) with each negative of its anchor, in this order."""
    counts = negatives.counts[anchor]
    pair = torch.arange(len(anchor)).repeat_interleave(counts)
    # The place of a triple among those of its pair is its place in the anchor's list of negatives.
    shift = negatives.starts[anchor] - (counts.cumsum(0) - counts)
    return Triples(anchor[pair], x[pair], negatives.items[torch.arange(len(pair)) + shift[pair]])


def positive_negative(positive: Tensor, negatives: Ragged, *, first_positive: bool = False) -> Triples:
    """All (a, p, n) with p in P(a) and n in ``negatives`` of a, ordered by a, then p, then n.

    ``first_positive`` repeats the first positive |P(a)| times in place of all of them, as the published code
    does.
    """
    anchor, x = positive.nonzero().unbind(1)
    if first_positive:
        x = positive.int().argmax(1)[anchor]
    return join(anchor, x, negatives)


def anchor_negative(anchors: Tensor, negatives: Ragged) -> Triples:
    """All (a, a, n) with a in ``anchors`` (ascending indices) and n in ``negatives`` of a, ordered by a, then
    n."""
    return join(anchors, anchors, negatives)


def subsample(triples: Triples, number: int, rng: np.random.Generator) -> Triples:
    """A uniform choice of ``number`` triples, in their order; all where there are no more."""
    if len(triples) <= number:
        return triples
    chosen = torch.from_numpy(np.sort(rng.choice(len(triples), number, replace=False)))
    return Triples(triples.anchor[chosen], triples.x[chosen], triples.n[chosen])


def unique_pairs(triples: Triples, items: int) -> tuple[Tensor, Tensor, Tensor]:
    """The distinct (x, n) of the triples: x (Q,), n (Q,), and the pair of each triple (T,)."""
    code = triples.x * items + triples.n
    size = (int(triples.x.max()) + 1) * items if len(triples) else 0
    used = torch.zeros(size, dtype=torch.bool)
    used[code] = True
    pair = (used.cumsum(0) - 1)[code]
    distinct = used.nonzero()[:, 0]
    return distinct // items, distinct % items, pair
