"""Where the authors' code departs from the paper: which pairs it mixes, and what their loss weighs.

It trains the contrastive loss alone.

* Mixing of embeddings and of features knows the first positive of an anchor only, repeated |P(a)| times.
* Mixing of images takes another item for the hardest negative: see :func:`hardest_as_published`.
* Anchors are mixed with negatives only where they have no positive; in "embed" mode this weighs 0.3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wasskit.plugins.metrix.pairs import Kind, Pairing, Ragged, Triples, all_negatives, join, positive_negative


@dataclass(frozen=True)
class PublishedPairing(Pairing):
    """The pairs of the authors' code, in one of the modes "input", "feature" and "embed"."""

    mode: str = "embed"

    def mixed_with_anchors(self, positive: Tensor, negative: Tensor) -> Tensor:
        return negative & ~positive.any(1, keepdim=True)

    def nearest(self, negative: Tensor, similarity: Tensor) -> Ragged:
        found = super().nearest(negative, similarity)
        return hardest_as_published(found, negative) if self.mode == "input" else found

    def mixed_with_positives(self, positive: Tensor, negatives: Ragged) -> Triples:
        pairs = positive_negative if self.mode == "input" else first_positives
        return pairs(positive, negatives)

    def weight_of(self, kind: Kind) -> float:
        return 0.3 if (self.mode, kind) == ("embed", "anchor-negative") else self.weight

    def reason_for_no_pairs(self, positive: Tensor, negative: Tensor, labels: Tensor) -> str:
        if positive.any() and (labels != labels[0]).any():
            return "every item of the batch has a positive: the published code mixes nothing"
        return super().reason_for_no_pairs(positive, negative, labels)


def first_positives(positive: Tensor, negatives: Ragged) -> Triples:
    """Each negative of an anchor with its first positive, |P(a)| times, in place of all positives."""
    anchor = positive.nonzero()[:, 0]
    return join(anchor, positive.int().argmax(1)[anchor], negatives)


def hardest_as_published(hardest: Ragged, negative: Tensor) -> Ragged:
    """What the published code takes for the hardest negatives.

    It looks up the position of a negative within its anchor's own list in the joined list of all anchors.
    """
    anchors = torch.arange(len(negative)).repeat_interleave(hardest.counts)
    positions = negative.long().cumsum(1)[anchors, hardest.items] - 1
    return Ragged(all_negatives(negative).items[positions], hardest.counts)
