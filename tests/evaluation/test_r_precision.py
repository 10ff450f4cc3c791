from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wasskit.evaluation.r_precision import r_precision
from wasskit.evaluation.ranking import Lone, Metric, Ties
from wasskit.evaluation.retrieval import map_at_r


def by_sorting(
    x: Tensor, labels: Tensor, y: Tensor, y_labels: Tensor, own: bool, metric: Metric, ties: Ties
) -> list[float | None]:
    """R-precision of every query, one by one; None for a query without a positive."""
    values: list[float | None] = []
    for i in range(len(x)):
        others = [j for j in range(len(y)) if not (own and i == j)]
        if metric == "euclidean":
            similarity = [-float((y[j] - x[i]).square().sum()) for j in others]
        else:
            a, b = (torch.nn.functional.normalize(z, dim=1) if metric == "cosine" else z for z in (x, y))
            similarity = [float(a[i] @ b[j]) for j in others]
        relevant = [bool(y_labels[j] == labels[i]) for j in others]
        worse = 1 if ties == "pessimistic" else -1
        order = sorted(range(len(others)), key=lambda k: (-similarity[k], worse * relevant[k]))
        number = sum(relevant)
        values.append(sum(relevant[k] for k in order[:number]) / number if number else None)
    return values


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("ties", ["pessimistic", "optimistic"])
@pytest.mark.parametrize("lone", ["zero", "skip"])
@pytest.mark.parametrize("own", [True, False])
def test_it_is_what_sorting_gives(metric: Metric, ties: Ties, lone: Lone, own: bool) -> None:
    """Small integers, whose products and sums of squares are exact: many ties; a class of one image; one without."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randint(-2, 3, (40, 3), generator=generator).double()
    x[x.abs().sum(1) == 0] = 1.0
    # Along the axes cosines are exact as well.
    if metric == "cosine":
        x = torch.nn.functional.one_hot(x.abs().argmax(1), 3) * x.sum(1).sign().masked_fill(x.sum(1) == 0, 1)[:, None]
    labels = torch.randint(4, (40,), generator=generator)
    labels[0], labels[1] = 7, 8
    y, y_labels = (x, labels) if own else (x[5:30], labels[5:30])
    others = {} if own else {"gallery": y, "gallery_labels": y_labels}
    expected = by_sorting(x, labels, y, y_labels, own, metric, ties)
    answered = [value for value in expected if value is not None]
    assert 0 < len(answered) < len(expected)
    found = r_precision(x, labels, metric=metric, ties=ties, lone=lone, **others)
    assert found.dtype == torch.float64
    # Sums of at most 40 ratios in float64.
    assert float(found) == pytest.approx(
        sum(answered) / (len(answered) if lone == "skip" else len(expected)), rel=40 * 2**-52
    )


def test_of_a_few_items_by_hand() -> None:
    """On a line: R is 2 for the items of class 0, at 0, 2.5 and 10, and 1 for those of class 1, at 1 and 10.9."""
    x = torch.tensor([[0.0], [1.0], [2.5], [10.0], [10.9]])
    labels = torch.tensor([0, 1, 0, 0, 1])
    # Nearest first, 0: 1, 2.5 -> 1/2; 1: 0 -> 0; 2.5: 1, 0 -> 1/2; 10: 10.9, 2.5 -> 1/2; 10.9: 10 -> 0.
    assert float(r_precision(x, labels, metric="euclidean")) == pytest.approx(1.5 / 5, rel=1e-15)


def test_it_is_never_below_average_precision_and_one_where_classes_are_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (200,), generator=generator)
    x = torch.randn(200, 8, generator=generator)
    assert 0.02 < float(map_at_r(x, labels)) < 0.1
    assert 0.15 < float(r_precision(x, labels)) < 0.25  # by chance, one of five classes
    apart = torch.eye(5)[labels]
    assert float(r_precision(apart, labels)) == 1.0


def test_many_rows_are_cut_into_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    labels, x = torch.randint(9, (150,), generator=generator), torch.randn(150, 4, generator=generator)
    whole = r_precision(x, labels)
    monkeypatch.setattr("wasskit.evaluation.ties.BUDGET", 4 * 150 * 7)
    assert float(r_precision(x, labels)) == pytest.approx(float(whole), rel=150 * 2**-52)


def test_unknown_choices_are_named() -> None:
    with pytest.raises(ValueError, match="ties='fair'"):
        r_precision(torch.eye(2), torch.tensor([0, 0]), ties="fair")  # type: ignore[arg-type]
