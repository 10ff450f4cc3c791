"""One training step of ``feature`` mode against three passes of the backbone, and its head against stored mixtures.

Step: forward and backward of backbone, clean and mixed loss, against three times forward and backward of the
backbone alone (clean images, anchors, items to mix), which is what separate passes cost before anything is
mixed. Head: what mixing adds to a clean step, forward and backward, from the feature maps to the mixed loss, against
two baselines. ``loop`` takes one triple after the other: mix two maps, pool and embed the mixture and the map of
the anchor. ``stored`` is the published way: the maps of the anchors and of the mixtures of all triples in one
tensor each, both pooled and embedded, and all mixtures compared with all anchors, of which the diagonal is used.
The list of triples is given to all; ours takes the anchors from the clean embeddings, whose own cost is in none.

    python benchmarks/metrix_feature.py [--threads 2] [--device cpu] [--backbone resnet50] [--image-size 224]
        [--batch 100] [--each 5] [--head-batch 20]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.harness import Case, benchmark, main
from benchmarks.metrix_pairs import our_triples
from wasskit.models.backbones import build_backbone
from wasskit.models.heads import AverageMaxPool, LinearEmbedding
from wasskit.plugins.metrix.losses.contrastive import mixed_contrastive
from wasskit.plugins.metrix.mixers.base import pair_cosines
from wasskit.plugins.metrix.mixers.feature import feature_embeddings
from wasskit.plugins.metrix.objective import MetrixLoss
from wasskit.plugins.metrix.pair_loss import mean_nonzero
from wasskit.plugins.metrix.pairs import Mixing, Triples

LAM = 0.4
MIXING = Mixing(LAM, "positive-negative")


@benchmark(
    "Metrix: a step with mixed feature maps",
    plain="three passes of the backbone",
    floor="one pass of the backbone",
    memory=True,
    quick={"backbone": "tiny", "image_size": 16, "batch": 10},
    full={"image_size": 96, "batch": 40},
)
def metrix_step(
    *, backbone: str = "resnet50", image_size: int = 224, batch: int = 100, each: int = 5, device: str = "cpu"
) -> Iterator[Case]:
    torch.manual_seed(0)
    body = build_backbone(backbone, image_size=image_size).to(device).eval()
    head = LinearEmbedding(body.map_channels, 512, kaiming=True).to(device)
    pool, loss = AverageMaxPool(), MetrixLoss("contrastive", "feature")
    labels = torch.arange(batch // each).repeat_interleave(each).to(device)
    images = torch.randn(batch, 3, image_size, image_size, device=device)
    images = images.contiguous(memory_format=torch.channels_last)

    def passes(count: int) -> None:
        for _ in range(count):
            body.feature_maps(images).sum().backward()

    def ours() -> None:
        maps = body.feature_maps(images)
        loss(head(pool(maps)), labels, maps=maps, head=head, mixing=MIXING).total.backward()

    yield Case(f"{backbone}, {batch} images of {image_size} pixels", ours, lambda: passes(3), floor=lambda: passes(1))


@benchmark(
    "Metrix: the loss of mixed feature maps",
    plain="one triple after the other, or the maps of all triples stored, as published",
    quick={"head_batch": 10},
    full={"head_batch": 10},
)
def metrix_head(*, head_batch: int = 20, each: int = 5, device: str = "cpu") -> Iterator[Case]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(head_batch // each).repeat_interleave(each)
    maps = torch.randn(head_batch, 2048, 7, 7, generator=generator).relu().to(device).requires_grad_()
    head = LinearEmbedding(2048, 512, kaiming=True).to(device)
    triples = our_triples(labels)
    there = triples.to(maps.device)
    clean = head(AverageMaxPool()(maps)).detach().requires_grad_()

    def stepped(loss: Tensor) -> Tensor:
        loss.backward()
        return loss.detach()

    def agree(ours: Tensor, theirs: Tensor) -> None:
        torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-4)

    for name, plain in (("loop", looped_head), ("stored", stored_head)):
        yield Case(
            f"{len(triples):,} triples of maps 2048 x 7 x 7; {name}",
            lambda: stepped(our_head(maps, clean, head, triples)),
            lambda plain=plain: stepped(plain(maps, head, there)),  # type: ignore[misc]
            agree=agree,
        )


def stored_head(maps: Tensor, head: LinearEmbedding, triples: Triples) -> Tensor:
    """The mixed contrastive loss with the maps of every triple stored, and all mixtures against all anchors."""

    def embed(stored: Tensor) -> Tensor:
        pooled = F.adaptive_max_pool2d(stored, 1) + F.adaptive_avg_pool2d(stored, 1)
        embedded: Tensor = head(pooled.flatten(1))
        return embedded

    anchors = embed(maps[triples.anchor])
    mixed = embed(LAM * maps[triples.x] + (1 - LAM) * maps[triples.n])
    return loss_of(torch.cdist(anchors, mixed).diagonal())


def looped_head(maps: Tensor, head: LinearEmbedding, triples: Triples) -> Tensor:
    """The same, one triple after the other."""
    pool = AverageMaxPool()
    distances = []
    for a, x, n in zip(*(part.tolist() for part in (triples.anchor, triples.x, triples.n)), strict=True):
        anchor = head(pool(maps[a : a + 1]))
        mixed = head(pool(LAM * maps[x : x + 1] + (1 - LAM) * maps[n : n + 1]))
        distances.append(torch.linalg.vector_norm(anchor - mixed))
    return loss_of(torch.stack(distances))


def loss_of(distance: Tensor) -> Tensor:
    return mean_nonzero(LAM * distance) + mean_nonzero((1 - LAM) * F.relu(0.5 - distance))


def our_head(maps: Tensor, clean: Tensor, head: LinearEmbedding, triples: Triples) -> Tensor:
    """The same from the ``clean`` embeddings (B, D) of the maps."""

    def embed(x: Tensor, n: Tensor) -> Tensor:
        return feature_embeddings(maps, head, x, n, LAM)

    return mixed_contrastive(pair_cosines(embed, clean, triples, len(maps)), LAM, clean.shape[1])


if __name__ == "__main__":
    main(__doc__, metrix_step, metrix_head)
