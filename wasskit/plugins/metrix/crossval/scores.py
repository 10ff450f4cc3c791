"""What a comparison measures of embeddings: MAP@R, precision@1, R-precision, of one model or of several joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from wasskit.evaluation.per_query import query_metrics

SCORES = ("map@r", "precision@1", "r_precision")


@dataclass(frozen=True)
class TestLabels:
    """Labels (N,) of the queries, and of the gallery (M,) where the queries do not search one another."""

    test: Tensor
    gallery: Tensor | None = None

    def score(self, embeddings: Mapping[str, Tensor]) -> dict[str, float]:
        """:func:`score` of embeddings by the names "test" and "gallery"."""
        return score(embeddings["test"], self.test, embeddings.get("gallery"), self.gallery)


def score(
    embeddings: Tensor, labels: Tensor, gallery: Tensor | None = None, gallery_labels: Tensor | None = None
) -> dict[str, float]:
    """MAP@R, precision@1 and R-precision in percent by cosine; a query is left out of its own gallery.

    ``embeddings`` (N, D), ``labels`` (N,); ``gallery`` (M, D) with labels; None: the queries search one another.
    """
    found = query_metrics(embeddings, labels, gallery=gallery, gallery_labels=gallery_labels).means()
    return {name: 100 * found[name] for name in SCORES}


def joined(models: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The unit embeddings (N, D) of several models, joined to (N, sum of D) and divided by their length.

    Their inner product is the mean of the models' cosines.
    """
    return {
        name: F.normalize(torch.cat([F.normalize(model[name], dim=1) for model in models], dim=1), dim=1)
        for name in models[0]
    }
