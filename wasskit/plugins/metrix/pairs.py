"""Which items of a batch are mixed, and against which anchor: lists of triples built by tensor operations.

A triple t = (a, x, n) stands for the anchor a and the mixed item v = lambda x + (1 - lambda) n with the mixed
label lambda. Its negative n has another class than a; x is a positive of a (positive-negative mixing, V(a) =
P(a) x N(a)) or a itself (anchor-negative mixing, V(a) = {a} x N(a)); Venkataramanan et al., "It Takes Two to
Tango: Mixup for Deep Metric Learning", ICLR 2022.

Lists are made on the host, from the host's copy of the labels: their lengths are then known without waiting
for a device, and a thousand integers are cheaper moved than awaited.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from wasskit.system.transfer import to_device

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
        return Triples(*(to_device(index, device) for index in (self.anchor, self.x, self.n)))


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


def join(anchor: Tensor, x: Tensor, negatives: Ragged) -> Triples:
    """Each of P pairs (anchor, x) with each negative of its anchor, in this order."""
    counts = negatives.counts[anchor]
    pair = torch.arange(len(anchor)).repeat_interleave(counts)
    # The place of a triple among those of its pair is its place in the anchor's list of negatives.
    shift = negatives.starts[anchor] - (counts.cumsum(0) - counts)
    return Triples(anchor[pair], x[pair], negatives.items[torch.arange(len(pair)) + shift[pair]])


def positive_negative(positive: Tensor, negatives: Ragged) -> Triples:
    """All (a, p, n) with p in P(a) and n in ``negatives`` of a, ordered by a, then p, then n."""
    anchor, x = positive.nonzero().unbind(1)
    return join(anchor, x, negatives)


def anchor_negative(anchors: Tensor, negatives: Ragged) -> Triples:
    """All (a, a, n) with a in ``anchors`` (ascending indices) and n in ``negatives`` of a, ordered by a, then n."""
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


@dataclass(frozen=True)
class Mixing:
    """One step's draw: the share lambda of the first item, and which pairs are mixed."""

    lam: float
    kind: Kind

    def __post_init__(self) -> None:
        if not 0 <= self.lam <= 1:
            raise ValueError(f"lambda must lie between 0 and 1, not {self.lam}")


def draw_mixing(alpha: float, rng: np.random.Generator, kinds: tuple[Kind, ...] = KINDS) -> Mixing:
    """lambda ~ Beta(alpha, alpha) and one of ``kinds`` with equal chance; one draw serves a whole step."""
    return Mixing(float(rng.beta(alpha, alpha)), kinds[int(rng.integers(len(kinds)))])


@dataclass(frozen=True)
class Pairing:
    """Which pairs a step mixes, and what their loss weighs.

    ``hardest``: only so many of the negatives most similar to an anchor; ``most``: only so many triples, drawn at
    random; ``needs_positive``: only anchors that have a positive, also in anchor-negative mixing.
    """

    weight: float
    hardest: int | None = None
    most: int | None = None
    needs_positive: bool = False

    def triples(
        self,
        anchor_labels: Tensor,
        labels: Tensor,
        kind: Kind,
        *,
        own: bool,
        similarity: Callable[[], Tensor],
        rng: np.random.Generator,
    ) -> tuple[Triples, str]:
        """The triples of a step, and why there are none (or ""), from labels on the host.

        ``own``: the anchors are the items. ``similarity`` gives (K, B), on the host, where negatives are chosen by it.
        """
        positive, negative = relations(anchor_labels, labels, own=own)
        if kind == "anchor-negative":
            negative = self.mixed_with_anchors(positive, negative)
        negatives = all_negatives(negative) if self.hardest is None else self.nearest(negative, similarity())
        if kind == "positive-negative":
            triples = self.mixed_with_positives(positive, negatives)
        else:
            triples = anchor_negative(torch.arange(len(anchor_labels)), negatives)
        if self.most is not None:
            triples = subsample(triples, self.most, rng)
        return triples, "" if len(triples) else self.reason_for_no_pairs(positive, negative, labels)

    def mixed_with_anchors(self, positive: Tensor, negative: Tensor) -> Tensor:
        """Those of the ``negative`` (K, B) that are mixed with the anchor itself."""
        return negative & positive.any(1, keepdim=True) if self.needs_positive else negative

    def nearest(self, negative: Tensor, similarity: Tensor) -> Ragged:
        """The hardest negatives of every anchor."""
        assert self.hardest is not None
        return hardest_negatives(negative, similarity, self.hardest)

    def mixed_with_positives(self, positive: Tensor, negatives: Ragged) -> Triples:
        """The triples of positive-negative mixing."""
        return positive_negative(positive, negatives)

    def weight_of(self, kind: Kind) -> float:
        """The weight of the mixed loss."""
        return self.weight

    def reason_for_no_pairs(self, positive: Tensor, negative: Tensor, labels: Tensor) -> str:
        """Why there is nothing to mix, in words."""
        if len(labels) and not (labels != labels[0]).any():
            return "the batch holds one class only: nothing to mix"
        return "no item of the batch has a positive: nothing to mix"
