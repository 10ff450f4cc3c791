"""What is measured of an embedding: retrieval, and how training items and their mixtures fill the sphere.

Alignment and uniformity are those of Wang and Isola (ICML 2020), over the test embeddings; utilisation is
that of Metrix (Venkataramanan et al., ICLR 2022): the mean squared distance of a test embedding to the
nearest embedding of the training set,

    u(Q, X) = 1 / |Q| sum_{q in Q} min_{x in X} |q - x|^2,

which is small where training covers the places that test classes will take. With the mixtures of training
embeddings added to X it shows how much of the sphere mixing explores beyond the training classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wasskit.data.base import ImageDataset
from wasskit.data.loaders import EvalLoader
from wasskit.data.metric_sets import MetricSplits
from wasskit.data.seeds import derive_seed
from wasskit.distributed.collectives import gather
from wasskit.distributed.shard import shard_indices
from wasskit.evaluation.embedding import Features, extract_features
from wasskit.evaluation.retrieval import Backend, nearest, retrieval_metrics
from wasskit.evaluation.rows import inner_products
from wasskit.evaluation.uniformity import gaussian_uniformity
from wasskit.models.catalog import SMALL_IMAGE

MAP_LIMIT = 10**9
"""Queries times gallery items up to which mAP@R is measured at every evaluation; recall is always."""


def retrieval_percent(
    queries: Features,
    gallery: Features | None,
    recalls: Sequence[int],
    *,
    map_r: bool = True,
    backend: Backend = "exact",
) -> dict[str, float]:
    """recall@K, precision@1 and mAP@R in percent; the work is shared by all ranks, which must all call."""
    values = retrieval_metrics(
        queries.features,
        queries.labels,
        recall=recalls,
        map_r=map_r,
        gallery=None if gallery is None else gallery.features,
        gallery_labels=None if gallery is None else gallery.labels,
        sharded=True,
        backend=backend,
    )
    return {name: 100 * value for name, value in values.items()}


def raw_pixels(part: ImageDataset, device: torch.device) -> Features | None:
    """The pixels of small images that lie in memory, as a network would see them: what a training is to beat. None of
    other images. All ranks must call."""
    if not part.in_memory or part.image_size > SMALL_IMAGE:
        return None
    return extract_features(nn.Flatten(), EvalLoader(part, min(256, len(part)), device=device))


def pixels_percent(parts: MetricSplits, recalls: Sequence[int], device: torch.device) -> dict[str, float] | None:
    """:func:`retrieval_percent` of raw pixels; None where they are not compared. All ranks must call."""
    queries = raw_pixels(parts.test, device)
    gallery = None if parts.gallery is None else raw_pixels(parts.gallery, device)
    if queries is None or (parts.gallery is not None and gallery is None):
        return None
    size = len(queries.labels) * len((gallery or queries).labels)
    return retrieval_percent(queries, gallery, recalls, map_r=size <= MAP_LIMIT)


def positive_alignment(features: Tensor, labels: Tensor) -> float:
    """Mean |x - x'|^2 over all pairs of one class; NaN where no class has two items.

    Per class of n items, the sum over ordered pairs is 2 n sum |x|^2 - 2 |sum x|^2.
    """
    x = F.normalize(features.double(), dim=1)
    classes, number = labels.unique(return_inverse=True)
    counts = number.bincount(minlength=len(classes)).double()
    sums = torch.zeros(len(classes), x.shape[1], dtype=x.dtype, device=x.device).index_add_(0, number, x)
    squares = torch.zeros(len(classes), dtype=x.dtype, device=x.device).index_add_(0, number, x.square().sum(1))
    total = 2 * (counts * squares).sum() - 2 * sums.square().sum()
    return float(total / (counts * (counts - 1)).sum())


def utilisation(queries: Tensor, items: Tensor) -> float:
    """Mean squared distance of each query to the nearest item, on the unit sphere. Shared by all ranks."""
    mine = torch.tensor(list(shard_indices(len(queries))), device=queries.device)
    best = queries.new_empty(0)
    if len(mine):
        best = nearest(queries[mine], 1, gallery=items)[0][:, 0]
    return float((2 - 2 * gather(best).double()).clamp(min=0).mean())


@dataclass(frozen=True)
class Geometry:
    """How embeddings lie: see the module's docstring. ``mixed``: the number of mixtures added to the training set."""

    alignment: float
    uniformity: float
    utilisation: float
    mixed_utilisation: float
    mixed: int


def geometry(test: Features, train: Features, *, mixed: int, alpha: float = 2.0, seed: int = 0) -> Geometry:
    """Alignment and uniformity of the test embeddings; utilisation by the training set without and with mixtures.

    ``mixed`` pairs of training embeddings of different classes are mixed, each with lambda ~ Beta(alpha, alpha).
    """
    clean = F.normalize(train.features, dim=1)
    mixtures = mix_pairs(clean, train.labels, mixed, alpha, seed)
    return Geometry(
        alignment=positive_alignment(test.features, test.labels),
        uniformity=float(gaussian_uniformity(test.features, sharded=True)),
        utilisation=utilisation(test.features, clean),
        mixed_utilisation=utilisation(test.features, torch.cat([clean, mixtures])),
        mixed=len(mixtures),
    )


def mix_pairs(features: Tensor, labels: Tensor, number: int, alpha: float, seed: int) -> Tensor:
    """About ``number`` normalised mixtures of random pairs of different classes: (about number, D)."""
    rng = np.random.default_rng(derive_seed(seed, "mixtures"))
    x, n = (torch.from_numpy(rng.integers(len(features), size=number)).to(features.device) for _ in range(2))
    lam = torch.from_numpy(rng.beta(alpha, alpha, size=number)).to(features)
    different = labels[x] != labels[n]
    x, n, lam = x[different], n[different], lam[different, None]
    return F.normalize(lam * features[x] + (1 - lam) * features[n], dim=1)


def nearest_of_each_kind(
    queries: Features, gallery: Features | None, *, most: int = 4000, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Cosine of a query to its nearest positive and to its nearest negative, for up to ``most`` random queries.

    Two tensors (n,); queries that lack one of the two are left out.
    """
    order = torch.randperm(len(queries.labels), generator=torch.Generator().manual_seed(seed))[:most]
    order = order.to(queries.features.device)
    items = queries if gallery is None else gallery
    y = F.normalize(items.features, dim=1)
    positives, negatives = [], []
    for rows in order.split(256):
        similarity = inner_products(F.normalize(queries.features[rows], dim=1), y)
        same = queries.labels[rows, None] == items.labels[None, :]
        if gallery is None:
            similarity.scatter_(1, rows[:, None], -torch.inf)
        positives.append(similarity.masked_fill(~same, -torch.inf).amax(1))
        negatives.append(similarity.masked_fill(same, -torch.inf).amax(1))
    positive, negative = torch.cat(positives), torch.cat(negatives)
    both = positive.isfinite() & negative.isfinite()
    return positive[both], negative[both]
