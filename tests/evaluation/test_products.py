"""Similarities are taken in full, whatever the products of networks may be rounded to."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.gpu_checks.losses import rounded
from wasskit.evaluation.gaussianity import sigreg_statistic
from wasskit.evaluation.knn import knn_accuracy
from wasskit.evaluation.per_query import query_metrics
from wasskit.evaluation.retrieval import nearest, recall_at_k

backends: Any = torch.backends


@contextlib.contextmanager
def tf32() -> Iterator[None]:
    """The host's products rounded as those of a GPU that takes TF32."""
    backends.mkldnn.matmul.fp32_precision = "tf32"
    try:
        with rounded():
            yield
    finally:
        backends.mkldnn.matmul.fp32_precision = "none"


def bf16() -> contextlib.AbstractContextManager[Any]:
    return torch.autocast("cpu", torch.bfloat16)


def near(count: int) -> tuple[Tensor, Tensor]:
    """Rows whose similarities to one another are apart by less than 1e-3, and classes of four."""
    draw = torch.Generator().manual_seed(0)
    rows = F.normalize(torch.ones(1, 16) + 0.02 * torch.randn(count, 16, generator=draw), dim=1)
    return rows, torch.arange(count) // 4


ROWS, LABELS = near(200)
MEASURES: dict[str, Callable[[], Tensor]] = {
    "recall": lambda: recall_at_k(ROWS, LABELS, 1),
    "nearest": lambda: nearest(ROWS, 5)[1],
    "knn": lambda: knn_accuracy(ROWS[::2], LABELS[::2], ROWS[1::2], LABELS[1::2], 20),
    "per-query": lambda: query_metrics(ROWS, LABELS).values,
    "sigreg": lambda: sigreg_statistic(50 * ROWS, generator=torch.Generator().manual_seed(0)),
}


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch before 2.9")
@pytest.mark.parametrize("arithmetic", [tf32, bf16])
@pytest.mark.parametrize("name", MEASURES)
def test_less_precision_for_networks_changes_no_measure(name: str, arithmetic: Any) -> None:
    expected = MEASURES[name]()
    with arithmetic():
        found = MEASURES[name]()
    assert torch.equal(found, expected)
