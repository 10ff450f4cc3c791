r"""The Potential Field loss (Bhatnagar and Ahuja, "Potential Field Based Deep Metric Learning", CVPR 2025).

Every embedding z_i of the batch and every proxy, M of each class, is a charge. At a distance d it attracts what is of
its class and repels all else by the potentials

    psi_att(d) = -1 / max(d, delta)^alpha,      psi_rep(d) = 1 / min(d, delta)^alpha,

so that attraction decays with the distance and ends within delta, and repulsion ends beyond it. The field of a class j
is Psi_j(r) = sum of psi_att(|r - z_i|) over its own charges and of psi_rep(|r - z_i|) over the others, and the energy
is that of all charges in the field of their class,

    U = sum_i Psi_{y_i}(z_i) + sum_j sum_k Psi_j(p_jk).

The loss is delta^alpha U / N with N charges, but for a constant that makes 0 of each term that exerts no force: a
potential is defined up to a constant, and the scale keeps the forces of any alpha within the range of single precision.
The equations are those that works which cite the publication give. What they do not say is chosen here: proxies are
divided by their length, as embeddings are, and charges that rounding cannot tell apart exert no force.

The mixed form is not the authors': a mixture of label lambda is attracted by lambda and repelled by 1 - lambda, by the
recipe of Metrix. Its anchors are the embeddings; proxies take no part in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from wasskit.plugins.metrix.pair_loss import ProxyLoss, Range, Sum, chord, resolution

BLOCK = 2**25
"""Pairs whose distances are in memory at a time."""


class PotentialField(ProxyLoss, name="potentialfield"):
    """``decay``: alpha; ``radius``: delta, of distances of unit vectors; ``proxies_per_class``: M."""

    search: ClassVar = {"decay": Range(1, 6), "radius": Range(0.05, 1.0, log=True)}

    def __init__(
        self,
        num_classes: int | None,
        embedding_dim: int | None,
        decay: float = 4.0,
        radius: float = 0.2,
        proxies_per_class: int = 15,
    ) -> None:
        if not (proxies_per_class >= 1 and float(proxies_per_class).is_integer()):
            raise ValueError(f"proxies_per_class must be a whole number from 1 on, not {proxies_per_class}")
        super().__init__(num_classes, embedding_dim, int(proxies_per_class))
        if not 0 < decay <= 10:
            raise ValueError(f"decay, the exponent alpha, must lie between 0 and 10, not {decay}")
        if not 0 < radius < 2:
            raise ValueError(f"radius, a distance of unit vectors, must lie between 0 and 2, not {radius}")
        self.decay, self.radius, self.width = decay, radius, self.proxies.shape[1]
        self.halves = Sum(self.attraction), Sum(self.repulsion)

    def attraction(self, cosine: Tensor) -> Tensor:
        """delta^alpha psi_att + 1, in [0, 1), of the distances of any cosines."""
        return 1 - (self.radius / chord(cosine, self.width).clamp(min=self.radius)) ** self.decay

    def repulsion(self, cosine: Tensor) -> Tensor:
        """delta^alpha psi_rep - 1, from 0 on, of the distances of any cosines."""
        least = resolution(self.width, cosine.dtype) ** 0.5
        return (self.radius / chord(cosine, self.width).clamp(least, self.radius)) ** self.decay - 1

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        charges = torch.cat([F.normalize(embeddings, dim=1), self.units(embeddings.dtype)])
        classes = torch.arange(self.num_classes, device=labels.device)
        per_class = len(self.proxies) // self.num_classes
        classes = torch.cat([labels, classes[:, None].expand(-1, per_class).flatten()])
        rows = max(1, BLOCK // max(1, len(charges)))
        energies = [
            _recomputed(len(charges) > rows, self._energy, charges, classes, low, low + rows)
            for low in range(0, len(charges), rows)
        ]
        return torch.stack(energies).sum() / len(charges)

    def _energy(self, charges: Tensor, classes: Tensor, low: int, high: int) -> Tensor:
        """Of the charges from ``low`` to ``high`` in the field of all."""
        cosine = charges[low:high] @ charges.T
        same = classes[low:high, None] == classes[None, :]
        return torch.where(same, self.attraction(cosine), self.repulsion(cosine)).sum()


def _recomputed(often: bool, function: Callable[..., Tensor], *values: object) -> Tensor:
    """The value of a function, of which nothing is kept for the backward pass where it is called ``often``."""
    if not often:
        return function(*values)
    # Nothing is drawn; to save the state of a device's generator would be to wait for it.
    kept: Tensor = checkpoint(function, *values, use_reentrant=False, preserve_rng_state=False)
    return kept
