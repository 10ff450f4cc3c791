"""Two ranks with half a batch each give the loss, the gradient and the recalls of one rank with the whole batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.distributed.harness import run_ranks
from wasskit.distributed.collectives import average_gradients
from wasskit.distributed.shard import shard_indices
from wasskit.evaluation.retrieval import retrieval_metrics
from wasskit.plugins.metrix.measure import utilisation
from wasskit.plugins.metrix.mixers import Mode
from wasskit.plugins.metrix.objective import MetrixLoss
from wasskit.plugins.metrix.pairs import Kind, Mixing

pytestmark = pytest.mark.distributed


class Small(nn.Module):
    """A convolution, both poolings, a linear layer, the unit sphere."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 6, 3, padding=1)
        self.linear = nn.Linear(6, 5)

    def maps(self, images: Tensor) -> Tensor:
        return torch.relu(self.convolution(images))

    def head(self, pooled: Tensor) -> Tensor:
        return self.linear(pooled)  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> Tensor:
        maps = self.maps(images)
        return F.normalize(self.head(maps.mean((2, 3)) + maps.amax((2, 3))))


def step(form: str, mode: Mode, kind: Kind, published: bool) -> tuple[Tensor, list[Tensor], int]:
    """Total loss and averaged gradients of this rank, from its share of 13 classes' worth of labels."""
    torch.manual_seed(0)
    network = Small().double()
    objective = MetrixLoss(
        "contrastive" if form == "cosine" else form,
        mode,
        num_classes=5,
        embedding_dim=5,
        published=published,
        distance="cosine" if form == "cosine" else "euclidean",
    ).double()
    # Pairs that cross the ranks: the classes are spread over the batch; two items are alone in theirs.
    labels = torch.tensor([0, 1, 2, 0, 1, 3, 2, 2, 0, 4, 1, 0])
    images = torch.randn(12, 2, 4, 4, dtype=torch.float64)
    mine = torch.tensor(list(shard_indices(12)))
    terms = objective(
        network(images[mine]),
        labels[mine],
        maps=network.maps(images[mine]),
        head=network.head,
        images=images[mine],
        network=network,
        mixing=Mixing(0.35, kind),
    )
    terms.total.backward()
    parameters = [*network.parameters(), *objective.parameters()]
    average_gradients(parameters)
    return terms.total.detach(), [p.grad for p in parameters if p.grad is not None], terms.triples


@pytest.mark.parametrize("loss", ["contrastive", "cosine", "multisimilarity", "proxyanchor", "potentialfield"])
@pytest.mark.parametrize("mode", ["baseline", "embed", "feature", "input"])
@pytest.mark.parametrize("kind", ["positive-negative", "anchor-negative"])
def test_pairs_cross_the_ranks(loss: str, mode: Mode, kind: Kind) -> None:
    if loss == "proxyanchor" and mode in ("feature", "input") and kind == "anchor-negative":
        pytest.skip("proxies have no image")
    expected, gradients, triples = step(loss, mode, kind, False)
    assert mode == "baseline" or triples > 0
    for value, theirs, number in run_ranks(step, 2, loss, mode, kind, False):
        assert number == triples
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(theirs, gradients, rtol=1e-9, atol=1e-12)


def test_published_lists_over_two_ranks() -> None:
    for mode in ("embed", "feature", "input"):
        expected, gradients, _ = step("contrastive", mode, "anchor-negative", True)
        for value, theirs, _ in run_ranks(step, 2, "contrastive", mode, "anchor-negative", True):
            torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(theirs, gradients, rtol=1e-9, atol=1e-12)


def draws() -> tuple[float, float]:
    """Without a generator given, all ranks draw the same mixing."""
    torch.manual_seed(torch.distributed.get_rank() if torch.distributed.is_initialized() else 0)
    labels = torch.arange(4).repeat_interleave(3)
    x = F.normalize(torch.randn(12, 5, generator=torch.Generator().manual_seed(1)))
    mine = torch.tensor(list(shard_indices(12)))
    terms = MetrixLoss("contrastive", max_triples=7)(x[mine], labels[mine])
    return float(terms.total), float(terms.mixed)


def test_ranks_draw_alike() -> None:
    first, second = run_ranks(draws, 2)
    assert first == second == draws()


def measured(separate: bool) -> tuple[dict[str, float], float]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(1300, 6, generator=generator)
    labels = torch.randint(40, (1300,), generator=generator)
    y, y_labels = (x[:700], labels[:700]) if separate else (None, None)
    queries, theirs = (x[700:], labels[700:]) if separate else (x, labels)
    values = retrieval_metrics(
        queries, theirs, gallery=y, gallery_labels=y_labels, recall=(1, 4), map_k=(5,), sharded=True
    )
    recall = retrieval_metrics(
        queries, theirs, gallery=y, gallery_labels=y_labels, recall=(1, 4), map_r=False, sharded=True
    )
    unit = F.normalize(x)
    return values | {f"alone {k}": v for k, v in recall.items()}, utilisation(unit[:99], unit[99:])


@pytest.mark.parametrize("separate", [True, False])
def test_evaluation_is_shared(separate: bool) -> None:
    values, used = measured(separate)
    for theirs, also in run_ranks(measured, 2, separate):
        assert theirs == pytest.approx(values, abs=1e-12)
        assert also == pytest.approx(used, abs=1e-9)
