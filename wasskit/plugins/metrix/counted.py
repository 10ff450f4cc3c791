"""What a retrieval scores under named conventions: the metrics, and tables of every query and of every class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from wasskit.evaluation.embedding import Features
from wasskit.evaluation.per_query import QueryMetrics, Wanted, query_metrics
from wasskit.evaluation.ranking import UNRANKED
from wasskit.evaluation.relevance import Hidden
from wasskit.plugins.metrix.metrics import METRICS
from wasskit.report import Table

if TYPE_CHECKING:
    from wasskit.plugins.metrix.counting import CountingOptions, Judgement


@dataclass(frozen=True)
class Counting:
    """What is measured of each query, and how.

    Args:
        judgement: what answers the test queries.
        classes: names of the classes, for tables.
    """

    options: CountingOptions
    judgement: Judgement
    classes: Sequence[str]


def count(
    queries: Features, gallery: Features | None, recalls: Sequence[int], counting: Counting, *, judged: bool
) -> QueryMetrics:
    """The metrics of every query; shared by all ranks, which must all call. ``judged``: by ``counting.judgement``."""
    options, judgement = counting.options, counting.judgement if judged else None
    at = options.at
    wanted = Wanted(recalls, sorted({1, *at}), at, at, at, options.full_ranking)
    return query_metrics(
        queries.features,
        queries.labels,
        gallery=None if gallery is None else gallery.features,
        gallery_labels=None if gallery is None else gallery.labels,
        relevance=None if judgement is None else judgement.relevance,
        hidden=Hidden() if judgement is None else judgement.hidden,
        names=None if judgement is None else judgement.gallery.names,
        wanted=wanted,
        conventions=options.conventions,
        metric=options.similarity,
        sharded=True,
    )


def protocol(options: CountingOptions) -> str:
    """The conventions in words."""
    how = options.conventions
    ties = {
        "pessimistic": "ties count against the model",
        "optimistic": "ties count for the model",
        "order": "equally similar items stand in the order of the file",
        "docno": "of equally similar items the later name comes first",
    }
    over = {"least": "min(R, K)", "positives": "R", "found": "the positives within K"}
    similarity = {"cosine": "cosine similarity", "dot": "inner product", "euclidean": "Euclidean distance"}
    return "; ".join(
        [
            similarity[options.similarity],
            "a query is left out of its own gallery",
            ties[how.ties],
            "queries without a positive "
            + {"zero": "count as 0", "skip": "are left out", "error": "are refused"}[how.lone],
            f"AP@K over {over[how.map_over]} for R positives",
            f"precision@K over {'K' if how.precision_over == 'k' else 'min(R, K)'}",
            f"{how.gain} gain",
            f"mean over {how.average}",
        ]
    )


def summary(found: QueryMetrics, options: CountingOptions) -> dict[str, Any]:
    """What a result says of the conventions and of the queries."""
    return {
        "conventions": {**asdict(options.conventions), "similarity": options.similarity},
        "queries_without_positive": int((found.judged & (found.positives == 0)).sum()),
        "queries_not_judged": int((~found.judged).sum()),
    }


def remarks(found: QueryMetrics) -> list[str]:
    """What there is to say of queries that have no positive, or are not judged."""
    lone, unknown = int((found.judged & (found.positives == 0)).sum()), int((~found.judged).sum())
    counted = "are left out of the means" if found.conventions.lone == "skip" else "count as 0"
    return [
        *([f"{lone:,} queries have no positive in the gallery: they {counted}."] if lone else []),
        *([f"{unknown:,} queries are in none of the pairs: they are not measured."] if unknown else []),
    ]


def ranking_table(values: Mapping[str, Mapping[str, float]]) -> Table:
    """The metrics that the table of recalls leaves out, one a row, and the splits beside each other."""
    names = [
        name
        for name in next(iter(values.values()))
        if not name.startswith(("recall@", "map@")) and name != "precision@1"
    ]
    rows = [[METRICS[name].heading, *(row.get(name) for row in values.values())] for name in names]
    return Table(["measure", *values], rows, "Ranking (percent)")


def query_table(found: QueryMetrics, labels: torch.Tensor, counting: Counting) -> Table:
    """Every judged query: its name, class, number of positives, rank of the best, and its metrics in percent.

    Those of a query that no mean counts are empty.
    """
    names, counted = counting.judgement.queries.names, found.counted.tolist()
    ranks, positives, judged = found.ranks.tolist(), found.positives.tolist(), found.judged.tolist()
    values, classes = (100 * found.values).tolist(), _named(labels, counting.classes)
    rows = [
        [
            names[i], classes[i], positives[i], None if ranks[i] == UNRANKED else ranks[i],
            *(values[i] if counted[i] else [None] * len(found.names)),
        ]
        for i in range(len(ranks))
        if judged[i]
    ]  # fmt: skip
    return Table(["query", "class", "positives", "rank", *found.names], rows)


def class_table(found: QueryMetrics, labels: torch.Tensor, classes: Sequence[str]) -> Table:
    """Every class with queries that count: how many, and the means of their metrics in percent."""
    present, counts, means = found.by_class(labels)
    names, numbers, values = _named(present, classes), counts.tolist(), (100 * means).tolist()
    rows = [[name, number, *row] for name, number, row in zip(names, numbers, values, strict=True)]
    return Table(["class", "queries", *found.names], rows)


def _named(labels: torch.Tensor, classes: Sequence[str]) -> list[str | int | None]:
    known: Sequence[str | int] = classes
    return [None if i < 0 else (known[i] if known else i) for i in labels.tolist()]
