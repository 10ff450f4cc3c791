"""Measures per dimension."""

from __future__ import annotations

import pytest
import torch

from wasskit.evaluation.knn import knn_accuracy
from wasskit.evaluation.retrieval import recall_at_k
from wasskit.plugins.mrl.evaluation import between, classify_prefixes, neighbour_metrics
from wasskit.plugins.mrl.network import build_model


def test_dimensions_between() -> None:
    assert between((8, 16, 32)) == (8, 11, 16, 23, 32)
    assert between((2, 3)) == (2, 3)
    assert between((5,)) == (5,)


def test_neighbour_metrics_are_those_of_the_prefixes() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 8, generator=generator), torch.arange(60) % 3
    bank, bank_labels = torch.randn(40, 8, generator=generator), torch.arange(40) % 3
    metrics = neighbour_metrics(x, y, (2, 8), train=(bank, bank_labels), k=5)
    for d in (2, 8):
        expected = knn_accuracy(bank[:, :d], bank_labels, x[:, :d], y, 5, 0.07).item()
        assert metrics[f"knn@{d}"] == pytest.approx(100 * expected)
        assert metrics[f"precision1@{d}"] == pytest.approx(100 * recall_at_k(x[:, :d], y).item())
    assert metrics["knn"] == pytest.approx((metrics["knn@2"] + metrics["knn@8"]) / 2)
    assert "knn" not in neighbour_metrics(x, y, (2,))


def test_more_neighbours_than_images_are_all_of_them() -> None:
    x, y = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 2
    assert "knn@4" in neighbour_metrics(x, y, (4,), train=(x[:3], y[:3]), k=20)


def test_classifiers_see_normalised_prefixes() -> None:
    """Counting ranks chunk by chunk equals plain accuracy of the logits that the objective gives."""
    torch.manual_seed(0)
    model = build_model(
        {
            "backbone": "tiny", "stem": "auto", "embedding": "linear", "dims": [2, 8], "tied": True,
            "classes": list("abcde"), "image_size": 8, "channels": 1,
        }
    )  # fmt: skip
    embeddings, labels = 10 * torch.randn(2500, 8), torch.randint(0, 5, (2500,))
    logits = model.objective.logits(embeddings)
    metrics = classify_prefixes(model, torch.nn.functional.normalize(embeddings, dim=1), labels)
    for k, d in enumerate((2, 8)):
        assert metrics[f"top1@{d}"] == pytest.approx(100 * (logits[k].argmax(1) == labels).double().mean().item())
    assert metrics["top5"] == pytest.approx(100)
