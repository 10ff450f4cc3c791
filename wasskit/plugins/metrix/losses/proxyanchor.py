"""The proxy-anchor loss (Kim et al., CVPR 2020): the anchors are learned proxies, one of each class.

rho+ = e^(-alpha (s - delta)), rho- = e^(alpha (s + delta)), sigma+- = log(1 + .). The clean positive halves are
averaged over the proxies whose class is in the batch, the negative ones over all, as in pytorch-metric-learning.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from wasskit.plugins.metrix.pair_loss import LogSum, ProxyLoss, Range
from wasskit.plugins.metrix.pairs import relations
from wasskit.system.transfer import to_device


class ProxyAnchor(ProxyLoss, name="proxyanchor"):
    """``proxy_scales``: the scale alpha and the margin delta."""

    own_anchors = False
    search: ClassVar = {"proxy_scales": (Range(8, 64, log=True), Range(0.0, 0.3))}

    def __init__(
        self, num_classes: int | None, embedding_dim: int | None, proxy_scales: tuple[float, float] = (32.0, 0.1)
    ) -> None:
        super().__init__(num_classes, embedding_dim)
        if len(proxy_scales) != 2:
            raise ValueError(f"proxy_scales are 2 numbers, not {len(proxy_scales)}")
        scale, delta = proxy_scales
        if scale <= 0:
            raise ValueError("the scale alpha must be positive: at 0 nothing is learned")
        self.halves = LogSum(-scale, delta, 1.0), LogSum(scale, -delta, 1.0)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        cosine = self.units(embeddings.dtype) @ F.normalize(embeddings, dim=1).T
        classes = torch.arange(self.num_classes, device=labels.device)
        positive, negative = relations(classes, labels, own=False)
        near, far = self.halves
        present = positive.any(1).sum().clamp(min=1)
        return near.of_matrix(cosine, positive).sum() / present + far.of_matrix(cosine, negative).mean()

    def anchors(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        # Only proxies of classes in the batch have positives to mix.
        present = labels.unique()
        return self.units(embeddings.dtype).index_select(0, to_device(present, embeddings.device)), present
