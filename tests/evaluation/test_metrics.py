"""Declarations of metrics: found by every name under which a value is recorded."""

from __future__ import annotations

import pytest

from wasskit.evaluation.metrics import COMMON, Metric, Metrics

OWN = Metrics(
    [Metric("gap{k}", "min", "gap at {k}", "how far"), Metric("gap3", "max", "the third", "exactly", "%")], COMMON
)


@pytest.mark.parametrize(
    ("name", "heading", "order", "unit"),
    [
        ("top5", "top-5", "max", "%"),
        ("top5@64", "top-5@64", "max", "%"),
        ("recall@10", "recall@10", "max", "%"),
        ("recall@10@64", "recall@10@64", "max", "%"),
        ("map@r", "MAP@R", "max", "%"),
        ("knn20t0.07_top1", "20-NN (T = 0.07) top-1", "max", "%"),
        ("knn20t1e-05_top1", "20-NN (T = 1e-05) top-1", "max", "%"),
        ("lr_conjugate", "learning rate, conjugate", None, ""),
        ("gap4@2", "gap at 4@2", "min", ""),
        ("gap3@2", "the third@2", "max", "%"),
    ],
)
def test_names_are_found_with_their_numbers(name: str, heading: str, order: str | None, unit: str) -> None:
    found = OWN.find(name)
    assert found is not None
    assert (found.name, found.heading, found.order, found.unit) == (name, heading, order, unit)
    assert found.protocol


@pytest.mark.parametrize("name", ["novelty", "novelty@8", "toplevel", "top", "xtop1", "knn10_top1_extra"])
def test_undeclared_names_stand_for_themselves(name: str) -> None:
    assert OWN.find(name) is None
    assert OWN[name] == Metric(name, None, name, "")
    assert OWN.headings("w2", name) == {"w2": "W2", name: name}


def test_ranks_together_go_by_the_name_of_all() -> None:
    assert [OWN[name].heading for name in ("recall", "map", "precision")] == ["recall", "mAP", "precision"]
    assert OWN["recall"].unit == "%"


def test_numbers_count_ranks_or_dimensions() -> None:
    assert [OWN.counts_ranks(base) for base in ("recall", "precision", "map")] == [True] * 3
    assert [OWN.counts_ranks(base) for base in ("top1", "neg_w2", "novelty", "gap")] == [False] * 4
