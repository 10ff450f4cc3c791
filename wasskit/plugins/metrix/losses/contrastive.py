"""The contrastive loss, in two forms.

"euclidean" is that of the published implementation, not of the formula: s = -d with the distance d of unit vectors,
and in place of the sum over each anchor's pairs the mean over the non-zero terms of the whole batch,

    nz{ d(a, p) } + nz{ [margin - d(a, n)]+ },       mixed   nz{ lambda d_t } + nz{ (1 - lambda) [margin - d_t]+ }.

"cosine" is the formula as it stands: rho+ = -s and rho- = [s - margin]+ of cosines, sums over each anchor's pairs,
averaged over the anchors that have both a positive and a negative.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from wasskit.plugins.metrix.pair_loss import PairLoss, Range, Sum, chord, mean_nonzero
from wasskit.plugins.metrix.pairs import relations

Distance = Literal["euclidean", "cosine"]


class Contrastive(PairLoss, name="contrastive"):
    """``margin``: the distance from which, or the cosine up to which, negatives are left alone."""

    search: ClassVar = {"margin": Range(0.2, 0.99)}

    def __init__(self, distance: Distance = "euclidean", margin: float = 0.5) -> None:
        super().__init__()
        if distance not in get_args(Distance):
            raise ValueError(f"unknown distance {distance!r}: {', '.join(get_args(Distance))}")
        self.distance, self.margin = distance, margin
        self.halves = Sum(torch.neg), Sum(partial(_above, margin))
        self.needs_positive = distance == "cosine"

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        x = F.normalize(embeddings, dim=1)
        cosine = x @ x.T
        positive, negative = relations(labels, labels, own=True)
        if self.distance == "cosine":
            near, far = self.halves
            values = near.of_matrix(cosine, positive) + far.of_matrix(cosine, negative)
            counted = positive.any(1) & negative.any(1)
            return (values * counted).sum() / counted.sum().clamp(min=1)
        distance = chord(cosine, x.shape[1])
        return mean_nonzero(distance * positive) + mean_nonzero(F.relu(self.margin - distance) * negative)

    def mixed(self, cosine: Tensor, anchor: Tensor, anchors: int, lam: float, width: int) -> Tensor:
        if self.distance == "cosine":
            return super().mixed(cosine, anchor, anchors, lam, width)
        return mixed_contrastive(cosine, lam, width, margin=self.margin)


def mixed_contrastive(cosine: Tensor, lam: float, width: int, *, margin: float = 0.5) -> Tensor:
    """nz{lam d_t} + nz{(1 - lam) [margin - d_t]+} over the cosines (T,) of all triples.

    nz is the mean of the non-zero terms, d_t the distance of the unit vectors of ``width`` numbers.
    """
    distance = chord(cosine, width)
    return mean_nonzero(lam * distance) + mean_nonzero((1 - lam) * F.relu(margin - distance))


def _above(margin: float, cosine: Tensor) -> Tensor:
    return F.relu(cosine - margin)
