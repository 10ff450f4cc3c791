"""Time of building pairs and of the mixed loss, against a plain loop over anchors.

Contrastive loss with positive-negative mixing of embeddings, forward and backward, class-balanced batches.
The loop is written as one would write it from the formula: for every anchor its positives, for every positive
its negatives, indices appended one by one; then the embeddings of all triples are gathered, mixed, normalised
and compared with their anchors. ``all against all`` also compares every mixture with every anchor and keeps
the diagonal, which is what the published code does; it is left out where that matrix would not fit.

    python benchmarks/metrix_pairs.py [--threads 2] [--device cpu] [--batches 20 100] [--each 5]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.harness import Case, benchmark, main
from wasskit.plugins.metrix.losses.contrastive import mixed_contrastive
from wasskit.plugins.metrix.mixers.embed import embedding_cosines
from wasskit.plugins.metrix.pair_loss import mean_nonzero
from wasskit.plugins.metrix.pairs import Mixing, Triples, all_negatives, positive_negative, relations

LAM, MARGIN, DIM = 0.4, 0.5, 512
MATRIX_LIMIT = 12_000
"""Triples up to which the matrix of all against all is formed."""


def looped_triples(labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Every (anchor, positive, negative), by a loop over anchors."""
    anchors, positives, negatives = [], [], []
    for a in range(len(labels)):
        own = [p for p in range(len(labels)) if labels[p] == labels[a] and p != a]
        other = [n for n in range(len(labels)) if labels[n] != labels[a]]
        for p in own:
            for n in other:
                anchors.append(a)
                positives.append(p)
                negatives.append(n)
    return torch.tensor(anchors), torch.tensor(positives), torch.tensor(negatives)


def gathered_loss(x: Tensor, a: Tensor, p: Tensor, n: Tensor, *, matrix: bool = False) -> Tensor:
    """The mixed contrastive loss from gathered embeddings."""
    mixed = F.normalize(LAM * x[p] + (1 - LAM) * x[n], dim=1)
    anchors = F.normalize(x[a], dim=1)
    if matrix:
        distance = torch.cdist(anchors, mixed).diagonal()
    else:
        distance = (anchors - mixed).square().sum(1).clamp(min=1e-12).sqrt()
    return mean_nonzero(LAM * distance) + mean_nonzero((1 - LAM) * F.relu(MARGIN - distance))


def our_triples(labels: Tensor) -> Triples:
    positive, negative = relations(labels, labels, own=True)
    return positive_negative(positive, all_negatives(negative))


def our_loss(x: Tensor, triples: Triples) -> Tensor:
    mixing = Mixing(LAM, "positive-negative")
    return mixed_contrastive(embedding_cosines(x, x, triples, mixing), LAM, x.shape[1], margin=MARGIN)


@benchmark(
    "Metrix: mixed contrastive loss and its pairs",
    plain="a loop over anchors, positives and negatives; gathered embeddings",
    quick={"batches": (10,)},
)
def metrix_pairs(*, batches: tuple[int, ...] = (20, 100), each: int = 5, device: str = "cpu") -> Iterator[Case]:
    for batch in batches:
        yield from cases(batch, each, device)


def cases(batch: int, each: int, device: str) -> Iterator[Case]:
    host_labels = torch.arange(batch // each).repeat_interleave(each)
    labels = host_labels.to(device)
    generator = torch.Generator().manual_seed(0)
    x = F.normalize(torch.randn(batch, DIM, generator=generator)).to(device).requires_grad_()
    triples = our_triples(host_labels).to(x.device)
    lists = triples.anchor, triples.x, triples.n

    def agree(ours: Triples, theirs: tuple[Tensor, Tensor, Tensor]) -> None:
        assert torch.equal(torch.stack(theirs), torch.stack([ours.anchor, ours.x, ours.n]).cpu())

    torch.testing.assert_close(our_loss(x, triples), gathered_loss(x, *lists), rtol=1e-4, atol=1e-6)
    count = f"batch {batch}, {len(triples):,} triples"
    yield Case(f"pairs, {count}", lambda: our_triples(labels.cpu()), lambda: looped_triples(labels), agree=agree)
    yield Case(f"loss, {count}", lambda: our_loss(x, triples).backward(), lambda: gathered_loss(x, *lists).backward())
    if len(triples) <= MATRIX_LIMIT:
        yield Case(
            f"loss, {count}; all against all, as published",
            lambda: our_loss(x, triples).backward(),
            lambda: gathered_loss(x, *lists, matrix=True).backward(),
        )
    yield Case(
        f"both, {count}",
        lambda: our_loss(x, our_triples(labels.cpu()).to(x.device)).backward(),
        lambda: gathered_loss(x, *(part.to(device) for part in looped_triples(host_labels))).backward(),
    )


if __name__ == "__main__":
    main(__doc__, metrix_pairs)
