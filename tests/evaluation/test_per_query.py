"""Every metric of every query against loops over sorted lists, scikit-learn and pytorch-metric-learning."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from wasskit.errors import UserError
from wasskit.evaluation import per_query
from wasskit.evaluation.conventions import LIBRARIES, Conventions, TieRule
from wasskit.evaluation.per_query import QueryMetrics, Wanted, query_metrics
from wasskit.evaluation.ranking import UNRANKED
from wasskit.evaluation.relevance import Hidden, Relevance
from wasskit.evaluation.retrieval import retrieval_metrics

WANTED = Wanted(
    recall=(1, 3, 8), precision=(1, 5), found=(2, 6), average=(1, 4, 50), ndcg=(3, 10), full=True
)  # fmt: skip


def integers(n: int, dim: int, seed: int) -> Tensor:
    """Small integers: inner products are exact and often equal."""
    return torch.randint(-1, 2, (n, dim), generator=torch.Generator().manual_seed(seed)).double()


def one_query(gains: list[float], similarities: list[float], how: Conventions, names: list[str]) -> dict[str, float]:
    """By sorting a Python list: gains and similarities of the items that count."""
    ties: dict[str, Any] = {
        "pessimistic": lambda i: (-similarities[i], gains[i]),
        "optimistic": lambda i: (-similarities[i], -gains[i]),
        "order": lambda i: (-similarities[i], i),
        "docno": lambda i: (-similarities[i], [-ord(c) for c in names[i]] + [0]),
    }
    ranked = [gains[i] for i in sorted(range(len(gains)), key=ties[how.ties])]
    hit = [g > 0 for g in ranked]
    total = sum(hit)
    if total == 0:
        return dict.fromkeys(WANTED.names, 0.0)
    gain = [g if how.gain == "linear" else 2**g - 1 for g in ranked]

    def average(k: int) -> float:
        return sum(sum(hit[: i + 1]) / (i + 1) for i in range(min(k, len(hit))) if hit[i])

    def dcg(values: list[float], k: int) -> float:
        return sum(v / math.log2(i + 2) for i, v in enumerate(values[:k]))

    def over(k: int) -> int:
        return {"least": min(k, total), "positives": total, "found": max(sum(hit[:k]), 1)}[how.map_over]

    ideal = sorted(gain, reverse=True)
    whole = len(gain)
    return {
        **{f"recall@{k}": float(any(hit[:k])) for k in WANTED.recall},
        **{
            f"precision@{k}": sum(hit[:k]) / (min(k, total) if how.precision_over == "least" else k)
            for k in WANTED.precision
        },
        **{f"found@{k}": sum(hit[:k]) / total for k in WANTED.found},
        **{f"map@{k}": average(k) / over(k) for k in WANTED.average},
        "map@r": average(total) / total,
        **{f"ndcg@{k}": dcg(gain, k) / dcg(ideal, k) for k in WANTED.ndcg},
        "r_precision": sum(hit[:total]) / total,
        "mrr": 1 / (hit.index(True) + 1),
        "map": average(whole) / total,
        "ndcg": dcg(gain, whole) / dcg(ideal, whole),
    }


def graded(seed: int = 0) -> dict[str, Any]:
    """30 queries, 45 items; relevance 0 to 3, groups, hidden pairs. Query 3 has no positive, 4 is not judged."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randint(-4, 4, (30, 45), generator=generator).clamp(min=0)
    table[3] = 0
    named = torch.rand(30, 45, generator=generator) < 0.5
    named[3, 0], named[4] = True, False
    hidden = torch.rand(30, 45, generator=generator) < 0.1
    groups = torch.randint(5, (30,), generator=generator), torch.randint(5, (45,), generator=generator)
    labels = torch.randint(3, (30,), generator=generator), torch.randint(3, (45,), generator=generator)
    queries, items = named.nonzero(as_tuple=True)
    return {
        "x": integers(30, 4, seed + 1), "y": integers(45, 4, seed + 2), "table": torch.where(named, table, 0),
        "relevance": Relevance.of_pairs(queries, items, table[queries, items].double(), 30), "hidden": hidden,
        "groups": groups, "labels": labels,
    }  # fmt: skip


@pytest.mark.parametrize("ties", get_args(TieRule))
@pytest.mark.parametrize("masked", ["", "pairs", "groups", "labels"])
@pytest.mark.parametrize("others", [{}, {"map_over": "positives", "precision_over": "least", "gain": "exponential"}])
def test_graded_pairs_equal_sorted_lists(
    ties: TieRule, masked: str, others: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(per_query, "rows_for", lambda *_: 4 * 7)  # several blocks
    data, how = graded(), Conventions(ties=ties, **others)
    kept = torch.ones(30, 45, dtype=torch.bool)
    hidden = Hidden()
    if masked == "pairs":
        hidden, kept = Hidden(pairs=data["hidden"].nonzero(as_tuple=True)), ~data["hidden"]
    elif masked:
        same = data["groups"][0][:, None] == data["groups"][1]
        if masked == "labels":
            same &= data["labels"][0][:, None] == data["labels"][1]
        hidden = Hidden(groups=data["groups"], labels=data["labels"] if masked == "labels" else None)
        kept = ~same
    found = query_metrics(
        data["x"], gallery=data["y"], relevance=data["relevance"], hidden=hidden, wanted=WANTED, conventions=how,
        metric="dot",
    )  # fmt: skip
    assert found.judged.tolist() == [i != 4 for i in range(30)]
    similarities = data["x"] @ data["y"].T
    for i in range(30):
        items = kept[i].nonzero()[:, 0].tolist()
        gains = data["table"][i, items].tolist()
        expected = one_query(gains, similarities[i, items].tolist(), how, [str(j) for j in items])
        assert dict(zip(found.names, found.values[i].tolist(), strict=True)) == pytest.approx(expected, abs=1e-12)
        assert int(found.positives[i]) == sum(g > 0 for g in gains)
        best = 1 / expected["mrr"] if expected["mrr"] else UNRANKED
        assert int(found.ranks[i]) == pytest.approx(best)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("ties", ["pessimistic", "optimistic"])
def test_labels_give_what_the_counts_give(metric: Any, own: bool, ties: Any) -> None:
    """The same numbers as the means of `retrieval_metrics`, which counts tile by tile, duplicates included."""
    x, y = torch.randn(120, 6, dtype=torch.float64), torch.randn(150, 6, dtype=torch.float64)
    x[60:70], y[:10] = x[:10], x[20:30]
    labels, other = torch.randint(9, (120,)), torch.randint(11, (150,))
    gallery: dict[str, Any] = {} if own else {"gallery": y, "gallery_labels": other}
    wanted = Wanted(recall=(1, 4), average=(5,))
    found = query_metrics(x, labels, wanted=wanted, metric=metric, conventions=Conventions(ties=ties), **gallery)
    expected = retrieval_metrics(x, labels, recall=(1, 4), map_k=(5,), metric=metric, ties=ties, **gallery)
    means = found.means()
    assert {name: means[name] for name in expected} == pytest.approx(expected, abs=1e-12)


def test_scikit_learn_agrees() -> None:
    """nDCG with graded relevance, average precision and mean reciprocal rank, where nothing ties."""
    from sklearn.metrics import average_precision_score, ndcg_score

    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((20, 5)), rng.standard_normal((40, 5))
    table = rng.integers(0, 4, (20, 40))
    queries, items = (torch.from_numpy(a) for a in table.nonzero())
    relevance = Relevance.of_pairs(queries, items, torch.from_numpy(table)[queries, items], 20)
    found = query_metrics(
        torch.from_numpy(x), gallery=torch.from_numpy(y), relevance=relevance, wanted=WANTED, metric="dot"
    ).means()
    scores = x @ y.T
    assert found["ndcg@10"] == pytest.approx(ndcg_score(table, scores, k=10), abs=1e-12)
    assert found["ndcg"] == pytest.approx(ndcg_score(table, scores), abs=1e-12)
    # No score is met twice: the steps of the precision-recall curve are the ranks.
    assert found["map"] == pytest.approx(average_precision_score(table > 0, scores, average="samples"), abs=1e-12)


@pytest.mark.parametrize("per_class", [False, True])
def test_pytorch_metric_learning_agrees(per_class: bool) -> None:
    """Under its convention, with classes of one item that it leaves out; its nearest neighbours are exact."""
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    x = torch.randn(80, 6, generator=torch.Generator().manual_seed(5))
    labels = torch.cat([torch.arange(77) % 9, torch.tensor([20, 21, 22])])
    include = ("precision_at_1", "mean_average_precision_at_r", "mean_average_precision", "r_precision")
    for k, kept in ((None, include), (20, include[:1] + include[2:3])):
        calculator = AccuracyCalculator(
            include=kept, k=k, knn_func=CustomKNN(CosineSimilarity()), avg_of_avgs=per_class,
            device=torch.device("cpu"),
        )  # fmt: skip
        expected = calculator.get_accuracy(x, labels)
        how = replace(LIBRARIES["pytorch-metric-learning"], average="classes" if per_class else "queries")
        means = query_metrics(x, labels, wanted=Wanted(average=(20,), full=True), conventions=how).means(labels)
        ours = {
            "precision_at_1": means["precision@1"], "mean_average_precision_at_r": means["map@r"],
            "mean_average_precision": means["map"] if k is None else means["map@20"],
            "r_precision": means["r_precision"],
        }  # fmt: skip
        # It sums in float64 and averages over 80 queries; similarities are of float32, but nothing ties.
        assert {name: ours[name] for name in kept} == pytest.approx(expected, abs=1e-9)


def test_torchmetrics_agrees() -> None:
    """Under its convention, query by query, where nothing ties; its functions take one query each, in float32."""
    functional = pytest.importorskip("torchmetrics.functional.retrieval")
    generator = torch.Generator().manual_seed(6)
    x, y = (torch.randn(n, 5, generator=generator) for n in (20, 40))
    table = torch.randint(0, 4, (20, 40), generator=generator) * (torch.rand(20, 40, generator=generator) < 0.3)
    queries, items = table.nonzero(as_tuple=True)
    relevance = Relevance.of_pairs(queries, items, table[queries, items].float(), 20)
    hit, k = table > 0, 7
    # Its average precision takes no item of a score below zero for a positive: all are raised above it.
    scores = x @ y.T + 100
    wanted = Wanted(recall=(k,), precision=(k,), found=(k,), average=(k,), ndcg=(k,), full=True)
    found = query_metrics(
        x, gallery=y, relevance=relevance, wanted=wanted, metric="dot", conventions=LIBRARIES["torchmetrics"]
    )
    expected: dict[str, Callable[[int], Any]] = {
        f"recall@{k}": lambda i: functional.retrieval_hit_rate(scores[i], hit[i], top_k=k),
        f"precision@{k}": lambda i: functional.retrieval_precision(scores[i], hit[i], top_k=k),
        f"found@{k}": lambda i: functional.retrieval_recall(scores[i], hit[i], top_k=k),
        f"map@{k}": lambda i: functional.retrieval_average_precision(scores[i], hit[i], top_k=k),
        f"ndcg@{k}": lambda i: functional.retrieval_normalized_dcg(scores[i], table[i], top_k=k),
        "r_precision": lambda i: functional.retrieval_r_precision(scores[i], hit[i]),
        "mrr": lambda i: functional.retrieval_reciprocal_rank(scores[i], hit[i]),
        "map": lambda i: functional.retrieval_average_precision(scores[i], hit[i]),
        "ndcg": lambda i: functional.retrieval_normalized_dcg(scores[i], table[i]),
    }
    for name, measure in expected.items():
        theirs = torch.stack([measure(i).double() for i in range(20)])
        # Sums of up to 40 terms of at most 1, in float32.
        torch.testing.assert_close(found.values[:, found.names.index(name)], theirs, rtol=0, atol=40 * 2**-24)


def test_what_other_libraries_count() -> None:
    """One query, ranked + - + + - with R = 4 of which one is not among the first five; by hand from their sources."""
    similarities = torch.tensor([[0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]])
    relevance = Relevance.of_pairs(torch.zeros(4, dtype=torch.int64), torch.tensor([0, 2, 3, 6]), torch.ones(4), 1)
    summed = 1 + 2 / 3 + 3 / 4
    for library, divisor in (
        ("wasskit", 4), ("open-metric-learning", 4), ("pytorch-metric-learning", 4), ("trec_eval", 4),
        ("torchmetrics", 3),
    ):  # fmt: skip
        how = LIBRARIES[library]  # type: ignore[index]
        found = query_metrics(
            torch.ones(1, 1), gallery=similarities.T, relevance=relevance, metric="dot", conventions=how,
            wanted=Wanted(average=(5, 3), precision=(5, 6)),
        ).means()  # fmt: skip
        assert found["map@5"] == pytest.approx(summed / divisor)
        three = {"wasskit": 3, "open-metric-learning": 3, "torchmetrics": 2}.get(library, 4)
        assert found["map@3"] == pytest.approx((1 + 2 / 3) / three)
        assert found["precision@6"] == pytest.approx(3 / (4 if library == "open-metric-learning" else 6))


def lone() -> QueryMetrics:
    x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    return query_metrics(x, torch.tensor([5, 5, 7]))


def test_queries_without_a_positive() -> None:
    found = lone()
    assert found.ranks.tolist() == [1, 1, UNRANKED]
    assert found.means()["mrr"] == pytest.approx(2 / 3)
    assert replace(found, conventions=Conventions(lone="skip")).means()["mrr"] == 1
    x, labels = torch.eye(3), torch.tensor([5, 5, 7])
    with pytest.raises(UserError, match="1 of 3 queries have no positive in the gallery"):
        query_metrics(x, labels, conventions=Conventions(lone="error"))
    with pytest.raises(UserError, match="No query has a positive"):
        query_metrics(x, torch.arange(3), conventions=Conventions(lone="skip")).means()


def test_means_over_classes() -> None:
    """Classes of three and of one query count alike."""
    found = lone()
    labels = torch.tensor([0, 0, 1])
    classes, counts, means = found.by_class(labels)
    assert (classes.tolist(), counts.tolist()) == ([0, 1], [2, 1])
    assert means[:, found.names.index("mrr")].tolist() == [1, 0]
    macro = replace(found, conventions=Conventions(average="classes"))
    assert macro.means(labels)["mrr"] == 0.5
    with pytest.raises(UserError, match="need labels"):
        macro.means()


def test_laws() -> None:
    """A rotation changes nothing; items that nothing is known of and hidden ones do not count; a collapsed embedding
    scores the least that its ties allow."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 8, generator=generator, dtype=torch.float64)
    labels = torch.randint(6, (60,), generator=generator)
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64))[0]
    before = query_metrics(x, labels, wanted=WANTED).values
    # Similarities move by some 1e-16; here no two are so close.
    torch.testing.assert_close(query_metrics(x @ rotation, labels, wanted=WANTED).values, before)
    # Whoever hides all of its class but one item leaves a positive alone.
    groups = torch.arange(60)
    assert torch.equal(query_metrics(x, labels, hidden=Hidden(groups=(groups, groups)), wanted=WANTED).values, before)
    everything = Hidden(groups=(labels, labels))
    assert query_metrics(x, labels, hidden=everything).positives.sum() == 0
    point = torch.ones(60, 8)
    assert query_metrics(point, labels).means()["r_precision"] == 0
    assert query_metrics(point, labels, conventions=Conventions(ties="optimistic")).means()["map@r"] == 1


def test_wrong_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="given twice"):
        Relevance.of_pairs(torch.tensor([0, 0]), torch.tensor([1, 1]), torch.ones(2), 1)
    with pytest.raises(ValueError, match="need labels"):
        query_metrics(torch.eye(3))
