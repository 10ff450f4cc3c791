"""Dividing a labelled set into parts in which every class keeps its share."""

from __future__ import annotations

import torch
from torch import Tensor

from wasskit.data.seeds import derive_seed
from wasskit.errors import UserError


def stratified_split(
    labels: Tensor | None, fraction: float, seed: int = 0, *, size: int | None = None
) -> tuple[Tensor, Tensor]:
    """Indices ``(rest, part)``, both ascending, where ``part`` holds ``fraction`` of each class.

    Each class gives ``round(fraction * n_c)`` images, at least one where it has two or more and never its last one: a
    class of a single image stays in ``rest``. Samples without a label (-1) count as a class of their own. ``labels``:
    (N,) int64, or None with ``size`` = N for an unlabelled set. A pure function of its arguments.
    """
    if not 0 < fraction < 1:
        raise UserError(f"the part to split off must be a fraction between 0 and 1, not {fraction}")
    if labels is None:
        if size is None:
            raise ValueError("size is needed where labels is None")
        labels = torch.zeros(size, dtype=torch.int64)
    labels = labels.to("cpu", torch.int64)
    count = len(labels)
    shuffled = torch.randperm(count, generator=torch.Generator().manual_seed(derive_seed(seed, "split")))
    _, dense = torch.unique(labels, return_inverse=True)
    grouped = shuffled[torch.argsort(dense[shuffled], stable=True)]
    sizes = torch.bincount(dense)
    place = torch.arange(count) - torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
    wanted = torch.round(fraction * sizes.double()).long()
    wanted = torch.minimum(wanted.clamp(min=1), (sizes - 1).clamp(min=0))
    chosen = place < torch.repeat_interleave(wanted, sizes)
    return grouped[~chosen].sort().values, grouped[chosen].sort().values
