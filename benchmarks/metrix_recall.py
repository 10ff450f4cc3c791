"""Recall@K and mAP@R of a set that is its own gallery, against a loop over queries and three packages.

Embeddings of 512 dimensions in classes of about 6. The loop sorts the similarities of one query at a time; of the
packages, pytorch-metric-learning's calculator searches with faiss (``IndexFlatL2`` of unit vectors) for as many
neighbours as its metrics need; of small sets, open-metric-learning with its own batched search, and torchmetrics with
all similarities at once. The floor is half of the similarities, which are symmetric, in blocks that fit the cache.

    python benchmarks/metrix_recall.py [--threads 2] [--device cpu] [--sizes 10000 60000] [--loop-queries 500]
        [--no-calculator] [--peers]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.harness import Case, Work, benchmark, main
from wasskit.evaluation.retrieval import recall_at_k, retrieval_metrics

KS = (1, 10, 100)
DIM = 512
SMALL = 5_000
Pair = tuple[float, float]


def sample(size: int, device: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(size // 6, (size,), generator=generator)
    centres = torch.randn(size // 6, DIM, generator=generator)
    x = torch.randn(size, DIM, generator=generator) + 0.35 * centres[labels]
    return torch.nn.functional.normalize(x).to(device), labels.to(device)


def looped(x: Tensor, labels: Tensor, queries: int) -> list[float]:
    """Recall@K of the first ``queries`` items, one query at a time."""
    hits = [0] * len(KS)
    for i in range(queries):
        similarity = x @ x[i]
        similarity[i] = -2
        order = similarity.argsort(descending=True)
        for place, k in enumerate(KS):
            hits[place] += bool((labels[order[:k]] == labels[i]).any())
    return [hit / queries for hit in hits]


def products(x: Tensor) -> None:
    parts = x.split(512)
    for place, rows in enumerate(parts):
        for columns in parts[place:]:
            torch.mm(rows, columns.T)


@benchmark(
    "recall@1, 10 and 100",
    plain="sorted similarities, one query after the other",
    floor="half of the matrix of similarities",
    memory=True,
    quick={"sizes": (600,), "loop_queries": 20},
    full={"sizes": (20_000,), "loop_queries": 200},
)
def recall(
    *, sizes: tuple[int, ...] = (10_000, 60_000), loop_queries: int = 500, device: str = "cpu"
) -> Iterator[Case]:
    for size in sizes:
        x, labels = sample(size, device)
        some = min(loop_queries, size)
        yield recall_case(x, labels, some)


def recall_case(x: Tensor, labels: Tensor, some: int) -> Case:
    return Case(
        f"{len(x):,} x {DIM}",
        lambda: recall_at_k(x, labels, KS),
        lambda: looped(x, labels, some),
        floor=lambda: products(x),
        plain_share=some / len(x),
    )


@benchmark(
    "recall@1 and mAP@R",
    floor="half of the matrix of similarities",
    quick={"sizes": (600,)},
    full={"sizes": (20_000, SMALL)},
)
def recall_and_map(
    *, sizes: tuple[int, ...] = (10_000, 60_000), no_calculator: bool = False, device: str = "cpu"
) -> Iterator[Case]:
    for size in sizes:
        yield map_case(*sample(size, device), not no_calculator)


def map_case(x: Tensor, labels: Tensor, calculator: bool) -> Case:
    def ours() -> Pair:
        found = retrieval_metrics(x, labels, recall=(1,), lone="skip")
        return found["recall@1"], found["map@r"]

    def metric_learning() -> Work:
        import faiss  # noqa: F401
        from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

        metrics = ("precision_at_1", "mean_average_precision_at_r")
        # Of its choices of k the least that these need; without one it sorts the whole gallery for every query.
        accuracy = AccuracyCalculator(include=metrics, k="max_bin_count", device=x.device)

        def work() -> Pair:
            found = accuracy.get_accuracy(x, labels)
            return float(found[metrics[0]]), float(found[metrics[1]])

        return work

    def open_metric_learning() -> Work:
        from oml.functional.knn import batched_knn

        most = int(labels.bincount().max())
        everything = torch.arange(len(x))

        def work() -> Pair:
            found = batched_knn(x, everything, everything, top_n=most)[1]
            hits = torch.stack([labels[row] for row in found]) == labels[:, None]
            return averages(hits, labels)

        return work

    def torchmetrics() -> Work:
        from torchmetrics.functional import pairwise_cosine_similarity

        most = int(labels.bincount().max())

        def work() -> Pair:
            places = pairwise_cosine_similarity(x, zero_diagonal=False).fill_diagonal_(-2).topk(most, dim=1).indices
            return averages(labels[places] == labels[:, None], labels)

        return work

    def agree(mine: Pair, theirs: Pair) -> None:
        # Products in another order may turn two nearly equal similarities round.
        assert max(abs(a - b) for a, b in zip(mine, theirs, strict=True)) < 1e-3, (mine, theirs)

    peers = {"pytorch-metric-learning, faiss": metric_learning}
    if len(x) <= SMALL:
        peers |= {"open-metric-learning": open_metric_learning, "torchmetrics": torchmetrics}
    return Case(f"{len(x):,} x {DIM}", ours, None, peers if calculator else {}, floor=lambda: products(x), agree=agree)


def averages(hits: Tensor, labels: Tensor) -> Pair:
    """Recall@1 and mAP@R of the queries with another item of their class, from the hits (N, K) in order."""
    relevant = (labels.bincount()[labels] - 1)[:, None]
    place = torch.arange(1, hits.shape[1] + 1)
    precision = torch.where(hits & (place <= relevant), hits.cumsum(1) / place.double(), 0.0).sum(1)
    answered = relevant[:, 0] > 0
    mean = (precision / relevant[:, 0].clamp(min=1))[answered].mean()
    return float(hits[answered, 0].double().mean()), float(mean)


if __name__ == "__main__":
    main(__doc__, recall, recall_and_map)
