"""The table of what shortened and coded embeddings keep, against brute force and laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from torch import Tensor

from wasskit.evaluation.compression import Bank, compression_rows

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(120, 24, generator=GENERATOR)
BANK = torch.randn(200, 24, generator=GENERATOR)
LABELS = torch.randint(5, (120,), generator=GENERATOR)
BANK_LABELS = torch.randint(5, (200,), generator=GENERATOR)


def one(x: Tensor, dim: int, code: str = "float32", **more: object) -> dict[str, float]:
    rows = compression_rows({"x": x}, [dim], reference=X, codes=(code,), **more)  # type: ignore[arg-type]
    return dict(rows[0].metrics)


def nearest(x: np.ndarray, k: int) -> np.ndarray:
    found: np.ndarray = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute").fit(x).kneighbors()[1]
    return found


@pytest.mark.parametrize("dim", [4, 11])
def test_scikit_learn_finds_the_same(dim: int) -> None:
    found = one(X, dim, labels=LABELS, bank=Bank({"x": BANK}, BANK_LABELS))
    prefix, labels = X[:, :dim].double().numpy(), LABELS.numpy()
    kept = [len(set(a) & set(b)) for a, b in zip(nearest(X.double().numpy(), 10), nearest(prefix, 10), strict=True)]
    assert found["overlap10"] == pytest.approx(10 * np.mean(kept))
    for k in (1, 10):
        hits = (labels[nearest(prefix, k)] == labels[:, None]).any(1)
        assert found[f"recall@{k}"] == pytest.approx(100 * hits.mean())
    classifier = KNeighborsClassifier(1, metric="cosine", algorithm="brute")
    classifier.fit(BANK[:, :dim].double().numpy(), BANK_LABELS.numpy())
    assert found["nn1"] == pytest.approx(100 * classifier.score(prefix, labels))


def test_the_whole_vector_keeps_everything_under_a_rotation() -> None:
    rotation = torch.linalg.qr(torch.randn(24, 24, generator=torch.Generator().manual_seed(1)))[0]
    assert one(X @ rotation, 24)["overlap10"] == 100


def test_every_code_of_copies_finds_the_copy() -> None:
    twice, labels = torch.cat([X, X]), torch.arange(120).repeat(2)
    rows = compression_rows({"x": twice}, [24], reference=twice, labels=labels)
    assert [row.code for row in rows] == ["float32", "int8", "binary"]
    assert [row.bytes for row in rows] == [96, 24, 3]
    # 24 bits of 120 random vectors differ; a tie would be counted against the copy.
    assert [row.metrics["recall@1"] for row in rows] == [100, 100, 100]


def test_a_collapsed_representation_finds_nothing() -> None:
    metrics = one(torch.ones(120, 4), 4, labels=LABELS)
    assert metrics["recall@1"] == 0


def test_a_prefix_that_a_method_lacks_is_left_out() -> None:
    rows = compression_rows({"x": X, "y": X[:, :4]}, [4, 8], reference=X, codes=("float32",))
    assert [(row.method, row.dim) for row in rows] == [("x", 4), ("x", 8), ("y", 4)]


def test_bad_vectors_are_refused() -> None:
    bad = X.clone()
    bad[3, 2] = torch.nan
    with pytest.raises(ValueError, match="x has values that are not finite"):
        one(bad, 4)
    with pytest.raises(ValueError, match=r"x has shape \(3, 24\): expected 120 rows"):
        one(X[:3], 4)
