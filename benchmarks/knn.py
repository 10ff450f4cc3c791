"""k-nearest-neighbour classification of queries among labelled embeddings, against the plain form and lightly.

The plain form is the published one: similarities of a block of queries, ``topk`` over the bank, votes with
exp(cosine / T). lightly's ``knn_predict`` is given the same blocks.

    python benchmarks/knn.py [--threads 2] [--device cpu] [--sizes 50000] [--dim 128] [--queries 1000] [--k 200]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.harness import Case, Work, benchmark, main
from wasskit.evaluation.knn import knn_accuracy

CLASSES, TEMPERATURE, BLOCK = 10, 0.1, 256


def votes(queries: Tensor, bank: Tensor, labels: Tensor, k: int) -> Tensor:
    similarities, places = (queries @ bank.T).topk(k, dim=1)
    weights = (similarities / TEMPERATURE).exp()
    return weights.new_zeros(len(queries), CLASSES).scatter_add(1, labels[places], weights).argmax(1)


@benchmark(
    "k-NN accuracy, k = 200",
    plain="`topk` of similarities, block by block",
    floor="the product of queries and bank",
    quick={"sizes": (2000,), "queries": 300},
)
def knn(
    *, sizes: tuple[int, ...] = (50_000,), dim: int = 128, queries: int = 1000, k: int = 200, device: str = "cpu"
) -> Iterator[Case]:
    for size in sizes:
        generator = torch.Generator().manual_seed(0)
        labels = torch.randint(CLASSES, (size + queries,), generator=generator)
        centres = torch.randn(CLASSES, dim, generator=generator)
        x = F.normalize(torch.randn(size + queries, dim, generator=generator) + 0.3 * centres[labels])
        yield case(x[:size].to(device), labels[:size].to(device), x[size:].to(device), labels[size:].to(device), k)


def case(bank: Tensor, known: Tensor, test: Tensor, true: Tensor, k: int) -> Case:
    def plain() -> Tensor:
        guesses = torch.cat([votes(part, bank, known, k) for part in test.split(BLOCK)])
        return (guesses == true).double().mean()

    def lightly() -> Work:
        from lightly.utils.benchmarking import knn_predict

        across = bank.T.contiguous()

        def work() -> Tensor:
            parts = [knn_predict(part, across, known, CLASSES, k, TEMPERATURE)[:, 0] for part in test.split(BLOCK)]
            return (torch.cat(parts) == true).double().mean()

        return work

    def agree(ours: Tensor, theirs: Tensor) -> None:
        # Classes whose votes are as near as rounding may come in either order.
        assert abs(float(ours - theirs)) <= 2 / len(test), (ours, theirs)

    def products() -> None:
        for part in test.split(BLOCK):
            torch.mm(part, bank.T)

    return Case(
        f"{len(bank):,} x {bank.shape[1]}, {len(test):,} queries",
        lambda: knn_accuracy(bank, known, test, true, k, TEMPERATURE),
        plain,
        {"lightly": lightly},
        floor=products,
        agree=agree,
    )


if __name__ == "__main__":
    main(__doc__, knn)
