"""The multi-similarity loss (Wang et al., CVPR 2019) without its mining, as in pytorch-metric-learning.

rho+ = e^(-beta (s - m)) with sigma+ = log(1 + .) / beta, rho- = e^(gamma (s - m)) with sigma- = log(1 + .) / gamma;
the mean over all items of the batch.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from wasskit.plugins.metrix.pair_loss import LogSum, PairLoss, Range
from wasskit.plugins.metrix.pairs import relations


class MultiSimilarity(PairLoss, name="multisimilarity"):
    """``similarity_scales``: beta, gamma and the threshold m."""

    search: ClassVar = {"similarity_scales": (Range(2, 50, log=True), Range(20, 150, log=True), Range(0.4, 0.9))}

    def __init__(self, similarity_scales: tuple[float, float, float] = (18.0, 75.0, 0.77)) -> None:
        super().__init__()
        if len(similarity_scales) != 3:
            raise ValueError(f"similarity_scales are 3 numbers, not {len(similarity_scales)}")
        beta, gamma, base = similarity_scales
        if min(beta, gamma) <= 0:
            raise ValueError("the scales beta and gamma must be positive: at 0 nothing is learned")
        self.halves = LogSum(-beta, base, beta), LogSum(gamma, base, gamma)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        x = F.normalize(embeddings, dim=1)
        masks = relations(labels, labels, own=True)
        values = (half.of_matrix(x @ x.T, mask) for half, mask in zip(self.halves, masks, strict=True))
        return sum(values, x.new_zeros(len(x))).sum() / max(1, len(x))
