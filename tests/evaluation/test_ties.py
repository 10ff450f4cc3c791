"""Equal points: found exactly, tied exactly, ranked alike whatever the order, the tiles and the number of processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.distributed.harness import run_ranks
from wasskit.evaluation import ranking, ties
from wasskit.evaluation.knn import knn_ranks
from wasskit.evaluation.retrieval import (
    UNRANKED,
    Similarity,
    Ties,
    best_positive_rank,
    map_at_r,
    nearest,
    recall_at_k,
    retrieval_metrics,
)
from wasskit.evaluation.ties import equal_rows, largest

Lists = list[list[int]]


def _falling(row: list[float]) -> Callable[[int], tuple[float, int]]:
    return lambda j: (-row[j], j)


def integers(items: int, dim: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Small integers: inner products and squared distances are exact in every order; many rows are equal."""
    return torch.randint(-2, 3, (items, dim), generator=torch.Generator().manual_seed(seed)).to(dtype)


def crowded(seed: int = 0) -> tuple[Tensor, Tensor]:
    """1,201 rows, about 250 of them different, in classes of some 20 that share them."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.cat([integers(240, 3, seed), integers(10, 3, seed).mul(0.0)])
    x = points[torch.randint(250, (1201,), generator=generator)]
    return x, torch.randint(60, (1201,), generator=generator)


def by_comparing(x: Tensor, labels: Tensor, metric: Similarity, rule: Ties) -> dict[str, float]:
    """recall@1, recall@8 and mAP@R from the sorted list of each query, in whole numbers."""
    rows = [[int(v) for v in row] for row in x.tolist()]
    classes = labels.tolist()
    hits_at = {1: 0, 8: 0}
    precision = 0.0
    for i, (q, label) in enumerate(zip(rows, classes, strict=True)):
        keyed = []
        for j, (item, other) in enumerate(zip(rows, classes, strict=True)):
            if i == j:
                continue
            closeness = (
                sum(a * b for a, b in zip(q, item, strict=True))
                if metric == "dot"
                else -sum((a - b) ** 2 for a, b in zip(q, item, strict=True))
            )
            same = other == label
            keyed.append((-closeness, same if rule == "pessimistic" else not same, same))
        ranked = [same for *_, same in sorted(keyed)]
        relevant = sum(ranked)
        if not relevant:
            continue
        for k in hits_at:
            hits_at[k] += any(ranked[:k])
        found, total = 0, 0.0
        for place, hit in enumerate(ranked[:relevant], start=1):
            found += hit
            total += hit * found / place
        precision += total / relevant
    return {"recall@1": hits_at[1] / len(x), "recall@8": hits_at[8] / len(x), "map@r": precision / len(x)}


@pytest.mark.parametrize("metric", ["dot", "euclidean"])
@pytest.mark.parametrize("rule", ["pessimistic", "optimistic"])
def test_order_tiles_and_blocks_do_not_show(metric: Similarity, rule: Ties, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against whole numbers; recalls are counts, so they are equal to the last bit."""
    x, labels = crowded()
    x, labels = x[:401], labels[:401]
    expected = by_comparing(x, labels, metric, rule)
    generator = torch.Generator().manual_seed(1)
    for tile, counted, budget in (((512, 1024), 32, 2**26), ((37, 50), 32, 2**26), ((64, 31), 0, 401 * 4 * 19)):
        monkeypatch.setattr(ranking, "TILE", tile)
        monkeypatch.setattr(ranking, "COUNTED", counted)
        monkeypatch.setattr(ties, "BUDGET", budget)
        order = torch.randperm(401, generator=generator)
        for rows in (torch.arange(401), order):
            found = retrieval_metrics(x[rows], labels[rows], recall=(1, 8), metric=metric, ties=rule)
            assert {k: found[k] for k in ("recall@1", "recall@8")} == {k: expected[k] for k in ("recall@1", "recall@8")}
            assert found["map@r"] == pytest.approx(expected["map@r"], abs=1e-12)


@pytest.mark.parametrize("metric", ["dot", "cosine", "euclidean"])
@pytest.mark.parametrize("width", [3, 7, 64, 513])
def test_equal_points_rank_alike_in_any_order(metric: Similarity, width: int) -> None:
    """Points with all their digits, each there four times, in two classes: equal queries of a class, equal ranks."""
    generator = torch.Generator().manual_seed(2)
    points = torch.randn(150, width, generator=generator)
    order = torch.randperm(600, generator=generator)
    x, labels = points.repeat(4, 1)[order], (torch.arange(600) % 300)[order]
    ranks = best_positive_rank(x, labels, metric=metric)
    if metric != "dot":
        # The two twins of the other class stand before the one of its own.
        assert set(ranks.tolist()) == {3}
    same = labels.argsort(stable=True).view(-1, 2)
    assert torch.equal(ranks[same[:, 0]], ranks[same[:, 1]])
    again = torch.randperm(600, generator=generator)
    assert torch.equal(best_positive_rank(x[again], labels[again], metric=metric), ranks[again])


def test_a_gallery_of_copies_ties() -> None:
    """Another gallery than the queries, every point there in both classes, in columns of different remainders."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(333, 19, generator=generator)
    labels = torch.arange(333) % 2
    gallery: dict[str, Any] = {
        "gallery": torch.cat([x, x[:100], x]),
        "gallery_labels": torch.cat([labels, labels[:100], 1 - labels]),
    }
    assert best_positive_rank(x, labels, **gallery).tolist() == [2] * 333
    assert set(best_positive_rank(x, labels, **gallery, ties="optimistic").tolist()) == {1}


def shared_measures() -> Tensor:
    x, labels = crowded()
    numbers = torch.randn(300, 21, generator=torch.Generator().manual_seed(4)).repeat(4, 1)
    return torch.cat(
        [
            recall_at_k(x, labels, (1, 4), metric="euclidean", sharded=True),
            recall_at_k(numbers, labels[:1200], (1, 4), sharded=True),
            map_at_r(x, labels, metric="dot", sharded=True)[None],
            map_at_r(numbers, labels[:1200], sharded=True)[None],
        ]
    )


@pytest.mark.distributed
def test_two_ranks_tie_as_one() -> None:
    expected = shared_measures()
    for found in run_ranks(shared_measures, 2):
        # Sums of 1,201 precisions, the last two, in another order: each addition rounds once.
        assert torch.equal(found[:4], expected[:4])
        torch.testing.assert_close(found, expected, rtol=1201 * torch.finfo(torch.float64).eps, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_rows_are_found_exactly(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    x = integers(900, 3, 5, dtype)
    x[::7] *= -0.0  # both zeros
    seen: dict[tuple[float, ...], int] = {}
    first = [seen.setdefault(tuple(v + 0.0 for v in row), i) for i, row in enumerate(x.tolist())]
    repeated = [i for i in range(900) if first.count(first[i]) > 1]

    def found_in(rows: Tensor) -> tuple[list[int], list[int]]:
        found = equal_rows(rows)
        return found.first.tolist(), found.repeated.tolist()

    assert found_in(x) == (first, repeated)
    assert found_in(x.T.contiguous().T) == (first, repeated)
    # A hash that tells nothing apart: every row collides with every other.
    monkeypatch.setattr(torch, "randint", lambda low, high, size, generator: torch.zeros(size, dtype=torch.int64))
    assert found_in(x) == (first, repeated)


def test_different_rows_equal_none() -> None:
    found = equal_rows(torch.arange(12.0).view(6, 2))
    assert found.first.tolist() == list(range(6))
    assert len(found.repeated) == 0


@pytest.mark.parametrize(("items", "k"), [(400, 3), (400, 60), (37, 36), (37, 37), (5, 1)])
def test_of_equals_the_first_places_are_taken(items: int, k: int) -> None:
    x = integers(50, items, 6)
    expected = [sorted(range(items), key=_falling(row))[:k] for row in x.tolist()]
    values, places = largest(x, k)
    assert places.tolist() == expected
    assert torch.equal(values, x.gather(1, places))


def lists(queries: Tensor, bank: Tensor, k: int) -> Lists:
    """The k items with the largest inner product, of equal ones the first, in whole numbers."""
    similarities = (queries.long() @ bank.long().T).tolist()
    return [sorted(range(len(bank)), key=_falling(row))[:k] for row in similarities]


@pytest.mark.parametrize("rows", [1, 13, 200])
def test_nearest_takes_equals_by_index(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    bank, queries = integers(700, 3, 7), integers(200, 3, 8)
    monkeypatch.setattr(ties, "BUDGET", rows * 700 * 4)
    for k in (1, 10, 150):
        assert nearest(queries, k, gallery=bank, metric="dot")[1].tolist() == lists(queries, bank, k)


@pytest.mark.parametrize("rows", [1, 13, 200])
def test_neighbours_are_taken_by_index(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Points with all their digits, four of each: the k-th place falls between equal ones, of different classes."""
    generator = torch.Generator().manual_seed(9)
    points = torch.randn(150, 17, generator=generator)
    bank, queries = points.repeat(4, 1), points + 0.01
    labels, answers = torch.arange(600) // 150, torch.zeros(150, dtype=torch.int64)
    expected = torch.arange(150)[:, None] + torch.tensor([0, 150, 300])
    monkeypatch.setattr(ties, "BUDGET", rows * 600 * 4)
    similarities, found = nearest(queries, 3, gallery=bank)
    assert torch.equal(found, expected)
    assert torch.equal(similarities, similarities[:, :1].expand(-1, 3))
    # One vote each for the classes 0, 1 and 2: the smallest label wins.
    assert set(knn_ranks(bank, labels, queries, answers, k=3).tolist()) == {1}
    assert set(knn_ranks(bank, labels, queries, answers + 2, k=3).tolist()) == {3}
    assert set(knn_ranks(bank, labels, queries, answers + 3, k=3).tolist()) == {UNRANKED}


def test_a_distance_of_zero_is_zero() -> None:
    """Far from the mean of the gallery, where |x|^2 - 2 <x, y> + |y|^2 keeps no digit of it."""
    generator = torch.Generator().manual_seed(10)
    gallery = torch.randn(300, 40, generator=generator) * torch.logspace(-3, 3, 300)[:, None]
    distances, found = nearest(gallery, 2, gallery=gallery, metric="euclidean")
    assert torch.equal(distances[:, 0], torch.zeros(300))
    assert torch.equal(found[:, 0], torch.arange(300))


def test_faiss_lists_the_same_items() -> None:
    pytest.importorskip("faiss")
    x, labels = torch.randn(90, 6, generator=torch.Generator().manual_seed(11)), torch.arange(90) // 3
    options: dict[str, Any] = {"recall": (1, 2, 4), "map_k": (2,)}
    assert retrieval_metrics(x, labels, **options, backend="faiss") == pytest.approx(
        retrieval_metrics(x, labels, **options), abs=1e-12
    )
