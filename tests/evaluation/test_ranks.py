"""Evaluation shared by two processes gives what one process gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.distributed.harness import run_ranks
from tests.gpu.device import LogicalCuda
from wasskit.data.base import ImageDataset
from wasskit.data.embeddings import Embeddings
from wasskit.data.loaders import EvalLoader, RowLoader
from wasskit.distributed.shard import shard_indices
from wasskit.evaluation.accuracy import RankCounts, class_map_at_k, topk_accuracy
from wasskit.evaluation.embedding import extract_features, write_embeddings
from wasskit.evaluation.knn import knn_accuracy
from wasskit.evaluation.linear import ProbeProtocol, new_classifier, train_probe

pytestmark = pytest.mark.distributed


def problem(samples: int = 41) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 12, (samples,), generator=generator)
    return torch.eye(12)[labels] + torch.randn(samples, 12, generator=generator), labels


def accuracies() -> Tensor:
    logits, labels = problem()
    mine = torch.tensor(shard_indices(len(labels)))
    counts = RankCounts((2,))
    counts.update(torch.stack([logits, -logits])[:, mine], labels[mine])
    total = counts.reduce()
    return torch.stack([total.topk(1), total.topk(5), total.class_map(10)])


def neighbours() -> Tensor:
    features, labels = problem()
    return knn_accuracy(features[:30], labels[:30], features[30:], labels[30:], k=7, topk=(1, 5), sharded=True)


def probe(samples: int, whole: bool = False) -> Tensor:
    features, labels = problem(samples)
    rows = torch.arange(samples) if whole else torch.tensor(shard_indices(samples))
    classifier = new_classifier(12, 12).double()
    batch = (features[rows].double(), labels[rows])
    train_probe(classifier, lambda _: [batch], ProbeProtocol(epochs=5), distributed=not whole)
    return classifier.weight.detach()


def dataset(samples: int) -> ImageDataset:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (samples, 1, 4, 4), dtype=torch.uint8, generator=generator)
    return ImageDataset("made up", "test", ("a",), images=pixels)


def embed(folder: str, samples: int) -> Tensor:
    loader = EvalLoader(dataset(samples), 3, lambda images: images.float())
    write_embeddings(Path(folder, "a.npy"), nn.Flatten(), loader, names=[str(i) for i in range(samples)])
    return extract_features(nn.Flatten(), loader).features


def place_of_features() -> str:
    with LogicalCuda():
        rows = Embeddings("three rows", torch.arange(6.0).view(3, 2))  # one batch, which is rank 0's
        return extract_features(nn.Identity(), RowLoader(rows, device="cuda")).features.device.type


def test_a_rank_without_a_batch_has_the_result_where_the_others_have_it() -> None:
    """Elsewhere the ranks would send by different process groups, and wait for each other without end."""
    assert run_ranks(place_of_features, 2) == ["cuda", "cuda"]


def test_counts() -> None:
    logits, labels = problem()
    heads = torch.stack([logits, -logits])
    expected = torch.stack(
        [topk_accuracy(heads, labels), topk_accuracy(heads, labels, 5), class_map_at_k(heads, labels)]
    )
    for found in run_ranks(accuracies, 2):
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)


def test_nearest_neighbours() -> None:
    expected = neighbours()
    assert all(torch.equal(found, expected) for found in run_ranks(neighbours, 2))


@pytest.mark.parametrize("samples", [40, 41])
def test_linear_probe(samples: int) -> None:
    first, second = run_ranks(probe, 2, samples)
    assert torch.equal(first, second)
    torch.testing.assert_close(first, probe(samples, whole=True), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("samples", [11, 1])
def test_embeddings(tmp_path: Path, samples: int) -> None:
    expected = dataset(samples).images
    assert expected is not None
    for found in run_ranks(embed, 2, str(tmp_path), samples):
        assert torch.equal(found, expected.flatten(1).float())
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), expected.flatten(1).numpy())
