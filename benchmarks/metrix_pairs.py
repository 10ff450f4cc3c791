"""Time of building pairs and of the mixed loss, against a plain loop over anchors.

Contrastive loss with positive-negative mixing of embeddings, forward and backward, class-balanced batches.
The loop is written as one would write it from the formula: for every anchor its positives, for every positive
its negatives, indices appended one by one; then the embeddings of all triples are gathered, mixed, normalised
and compared with their anchors. ``all against all`` also compares every mixture with every anchor and keeps
the diagonal, which is what the published code does; it is left out where that matrix would not fit.

    python benchmarks/metrix_pairs.py [--threads 2] [--device cpu] [--batches 20 100] [--each 5]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from wasskit.plugins.metrix.losses.contrastive import mixed_contrastive
from wasskit.plugins.metrix.mixers.embed import embedding_cosines
from wasskit.plugins.metrix.objective import MetrixLoss
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


def gathered_loss(x: Tensor, a: Tensor, p: Tensor, n: Tensor, *, matrix: bool) -> Tensor:
    """The mixed contrastive loss from gathered embeddings."""
    mixed = F.normalize(LAM * x[p] + (1 - LAM) * x[n], dim=1)
    anchors = F.normalize(x[a], dim=1)
    if matrix:
        distance = torch.cdist(anchors, mixed).diagonal()
    else:
        distance = (anchors - mixed).square().sum(1).clamp(min=1e-12).sqrt()
    return mean_nonzero(LAM * distance) + mean_nonzero((1 - LAM) * F.relu(MARGIN - distance))


def ours_triples(labels: Tensor) -> Triples:
    positive, negative = relations(labels, labels, own=True)
    return positive_negative(positive, all_negatives(negative))


def measure(case: Callable[[], object], device: str, seconds: float = 1.0) -> float:
    """Best wall time in milliseconds."""
    times: list[float] = []
    while sum(times) < seconds or len(times) < 2:
        if device != "cpu":
            torch.cuda.synchronize()
        began = time.perf_counter()
        case()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return 1e3 * min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batches", type=int, nargs="+", default=[20, 100])
    parser.add_argument("--each", type=int, default=5, help="images per class")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.device}, {options.threads} threads, milliseconds")
    for batch in options.batches:
        generator = torch.Generator().manual_seed(0)
        host_labels = torch.arange(batch // options.each).repeat_interleave(options.each)
        labels = host_labels.to(options.device)
        x = F.normalize(torch.randn(batch, DIM, generator=generator)).to(options.device).requires_grad_()
        lists = tuple(part.to(options.device) for part in looped_triples(host_labels))
        triples = ours_triples(host_labels).to(x.device)
        mixing = Mixing(LAM, "positive-negative")

        def loss(x: Tensor = x, triples: Triples = triples, mixing: Mixing = mixing) -> Tensor:
            return mixed_contrastive(embedding_cosines(x, x, triples, mixing), LAM, x.shape[1], margin=MARGIN)

        assert torch.equal(torch.stack(lists), torch.stack([triples.anchor, triples.x, triples.n]))
        torch.testing.assert_close(loss(), gathered_loss(x, *lists, matrix=False), rtol=1e-4, atol=1e-6)
        number = len(triples)
        cases: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
            "pairs": (
                lambda labels=labels: looped_triples(labels),  # type: ignore[misc]
                lambda labels=labels: ours_triples(labels.cpu()),  # type: ignore[misc]
            ),
            "mixed loss": (
                lambda x=x, lists=lists: gathered_loss(x, *lists, matrix=False).backward(),  # type: ignore[misc]
                lambda loss=loss: loss().backward(),  # type: ignore[misc]
            ),
        }
        if number <= MATRIX_LIMIT:
            cases["mixed loss, all against all"] = (
                lambda x=x, lists=lists: gathered_loss(x, *lists, matrix=True).backward(),  # type: ignore[misc]
                cases["mixed loss"][1],
            )
        sums: dict[str, tuple[float, float]] = {}
        for name, (plain, ours) in cases.items():
            theirs, mine = measure(plain, options.device), measure(ours, options.device)
            sums[name] = theirs, mine
            print(
                f"batch {batch:>4}, {number:>7,} triples  {name:<28} loop {theirs:>10.2f}  ours {mine:>8.3f}  "
                f"{theirs / mine:>7.0f}x",
                flush=True,
            )
        theirs, mine = (sum(pair) for pair in zip(sums["pairs"], sums["mixed loss"], strict=True))
        print(f"batch {batch:>4}  pairs and mixed loss together: {theirs / mine:.0f}x", flush=True)
        whole = MetrixLoss("contrastive")
        step = lambda w=whole, x=x, y=labels, m=mixing: w(x, y, mixing=m).total.backward()  # noqa: E731
        both = measure(step, options.device)
        print(f"batch {batch:>4}  MetrixLoss, clean and mixed, with its pairs: {both:.2f}", flush=True)


if __name__ == "__main__":
    main()
