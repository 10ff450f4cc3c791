"""Recall@K against a per-sample loop and pytorch-metric-learning's calculator, with equal results.

Embeddings of 512 dimensions in classes of about 6. The loop sorts the similarities of one query at a time.
The calculator searches with its own brute-force k-NN (``CustomKNN``) in batches, its k set to the largest K +
1; recall@K is then 1 for queries with a hit among the first K, and precision@1 is its own. ``matrix product``
is the time of all similarities alone, in blocks that fit the cache.

    python benchmarks/metrix_recall.py [--threads 2] [--device cpu] [--sizes 10000 60000] [--loop-queries 500]
"""

from __future__ import annotations

import argparse
import resource
import time

import torch
from torch import Tensor

from wasskit.evaluation.retrieval import best_positive_rank, recall_at_k, retrieval_metrics

KS = (1, 10, 100)
DIM = 512


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


def calculator(x: Tensor, labels: Tensor) -> float:
    """precision@1 by pytorch-metric-learning, from k = max K + 1 neighbours."""
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    accuracy = AccuracyCalculator(
        include=("precision_at_1",),
        k=max(KS) + 1,
        device=x.device,
        knn_func=CustomKNN(CosineSimilarity(), batch_size=1024),
    )
    return float(accuracy.get_accuracy(x, labels)["precision_at_1"])


def products(x: Tensor) -> None:
    for rows in x.split(512):
        for columns in x.split(1024):
            torch.mm(rows, columns.T)


def timed(device: str, function: object, *args: object) -> tuple[object, float]:
    if device != "cpu":
        torch.cuda.synchronize()
    began = time.perf_counter()
    result = function(*args)  # type: ignore[operator]
    if device != "cpu":
        torch.cuda.synchronize()
    return result, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 60_000])
    parser.add_argument("--loop-queries", type=int, default=500, help="queries of the loop; its time is scaled up")
    parser.add_argument("--no-calculator", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.device}, {options.threads} threads, seconds")
    for size in options.sizes:
        x, labels = sample(size, options.device)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        ours, seconds = timed(options.device, recall_at_k, x, labels, KS)
        assert isinstance(ours, Tensor)
        memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        queries = min(options.loop_queries, size)
        some, loop_seconds = timed(options.device, looped, x, labels, queries)
        loop_seconds *= size / queries
        _, product_seconds = timed(options.device, products, x)
        everything, all_seconds = timed(options.device, retrieval_metrics, x, labels)
        assert isinstance(everything, dict)
        print(
            f"{size:>6} x {DIM}: recall@K {seconds:.2f} ({memory:.0f} MiB more); matrix product {product_seconds:.2f} "
            f"({seconds / product_seconds:.2f} of it); loop {loop_seconds:.0f} ({loop_seconds / seconds:.0f}x); "
            f"with mAP@R {all_seconds:.2f}",
            flush=True,
        )
        first = best_positive_rank(x, labels)[:queries]
        assert [float((first <= k).double().mean()) for k in KS] == some
        if not options.no_calculator:
            theirs, their_seconds = timed(options.device, calculator, x, labels)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            # The calculator leaves out queries without a second item of their class.
            answered = float(recall_at_k(x, labels, 1, lone="skip"))
            print(
                f"        calculator {their_seconds:.2f} ({their_seconds / seconds:.1f}x), "
                f"process peak {peak:.0f} MiB; "
                f"precision@1 {theirs:.6f} against {answered:.6f}",
                flush=True,
            )
            assert isinstance(theirs, float)
            # Products in another order may turn two nearly equal similarities round.
            assert abs(answered - theirs) < 1e-4


if __name__ == "__main__":
    main()
