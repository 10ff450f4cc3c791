"""Classification accuracy from one number per sample: the rank of its true class.

Rank 1 is the largest logit. Top-k accuracy, and the mean average precision at k over ranked classes (which,
with one true class per sample, is the mean reciprocal rank cut off at k), follow from the ranks without
sorting anything. Logits may be stacked for several heads: (K, N, C) gives one result per head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wasskit.distributed.collectives import reduce_sum
from wasskit.errors import UserError


def class_ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """Rank of each sample's true class among its logits.

    logits (..., N, C) of any floating type, labels (N,) of any integer type in [0, C); returns int64 (..., N),
    one plus the number of strictly larger logits. Ties count in favour of the true class. Logits that are not
    comparable count against it: a true class of NaN has rank C + 1, so a diverged head never scores. Labels on an
    accelerator are not looked at, which would wait for it.
    """
    _check(logits, labels, ranges=labels.device.type == "cpu")
    return _ranks(logits, labels)


def _ranks(logits: Tensor, labels: Tensor) -> Tensor:
    index = labels.long().expand(logits.shape[:-1]).unsqueeze(-1)
    true = logits.gather(-1, index)
    # "not less or equal" rather than "greater": the two differ for NaN only.
    return (~(logits <= true)).sum(dim=-1) + 1


def topk_accuracy(logits: Tensor, labels: Tensor, k: int = 1) -> Tensor:
    """Share of samples whose true class is among the k largest logits, in [0, 1].

    logits (..., N, C), labels (N,); returns float64 (...). Ties count in favour of the true class. Raises
    ``ValueError`` for labels outside [0, C), shapes that do not match, or ``k`` < 1.

    Example:
        >>> import torch, wasskit
        >>> logits = torch.tensor([[0.1, 0.7, 0.2], [0.1, 0.7, 0.2]])
        >>> wasskit.topk_accuracy(logits, torch.tensor([1, 2]), k=1)
        tensor(0.5000, dtype=torch.float64)
    """
    _check_measure(logits, labels, k)
    return (_ranks(logits, labels) <= k).to(torch.float64).mean(dim=-1)


def class_map_at_k(logits: Tensor, labels: Tensor, k: int = 10) -> Tensor:
    """Mean average precision at k over the ranked classes, in [0, 1], as published for Matryoshka embeddings.

    One class is relevant to a sample, so its average precision is 1 / rank if rank <= k, else 0. This is not
    a retrieval precision: no other sample is looked at. logits (..., N, C), labels (N,); returns float64
    (...). Raises as :func:`topk_accuracy`.

    Example:
        >>> import torch, wasskit
        >>> logits = torch.tensor([[0.1, 0.7, 0.2], [0.1, 0.7, 0.2]])
        >>> wasskit.class_map_at_k(logits, torch.tensor([1, 2]))  # (1 + 1/2) / 2
        tensor(0.7500, dtype=torch.float64)
    """
    _check_measure(logits, labels, k)
    ranks = _ranks(logits, labels).to(torch.float64)
    return torch.where(ranks <= k, 1 / ranks, 0.0).mean(dim=-1)


def _check_measure(logits: Tensor, labels: Tensor, k: int) -> None:
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    _check(logits, labels, ranges=True)


def are_integers(labels: Tensor) -> bool:
    """Whether a tensor is of an integer type, so that its entries can be labels; bool does not count."""
    return not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)


def _check(logits: Tensor, labels: Tensor, *, ranges: bool) -> None:
    """Refuse what does not fit together; the values of the labels are looked at for ``ranges`` alone."""
    if logits.ndim < 2 or labels.shape != logits.shape[-2:-1]:
        shapes = f"{tuple(logits.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"logits (..., N, C) and labels (N,) expected, not {shapes}")
    if not are_integers(labels):
        raise ValueError(f"labels must be integers, not {labels.dtype}")
    if not ranges or not labels.numel():
        return
    classes = logits.shape[-1]
    lowest, highest = (int(value) for value in labels.long().aminmax())
    if lowest < 0 or highest >= classes:
        raise ValueError(
            f"labels must lie between 0 and {classes - 1}, as there are {classes} logits, but they range from "
            f"{lowest} to {highest}"
        )


class RankCounts:
    """Exact counts of the ranks 1, ..., depth (and beyond) over batches and processes.

    ``heads`` is the leading shape of the logits: () for (N, C), (K,) for (K, N, C). Counts are int64 on the
    device, nothing is transferred before a result is asked for. Each process adds its own samples, once each,
    and ``reduce()`` sums over processes.
    """

    def __init__(
        self, heads: tuple[int, ...] = (), *, depth: int = 10, device: torch.device | str | None = None
    ) -> None:
        self.depth = depth
        self.counts = torch.zeros(*heads, depth + 1, dtype=torch.int64, device=device)

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: logits (..., N, C), labels (N,)."""
        bins = class_ranks(logits, labels).clamp(max=self.depth + 1) - 1
        self.counts.scatter_add_(-1, bins, torch.ones_like(bins))

    def reduce(self) -> RankCounts:
        """The counts summed over all processes; the same on each."""
        total = RankCounts(tuple(self.counts.shape[:-1]), depth=self.depth, device=self.counts.device)
        total.counts = reduce_sum(self.counts)
        return total

    @property
    def samples(self) -> int:
        """Number of samples counted."""
        return int(self.counts.reshape(-1, self.depth + 1)[0].sum())

    def topk(self, k: int = 1) -> Tensor:
        """Top-k accuracy in [0, 1], float64, one per head; k at most ``depth``."""
        self._check(k)
        return self.counts[..., :k].sum(dim=-1).to(torch.float64) / self.samples

    def class_map(self, k: int = 10) -> Tensor:
        """mAP at k over ranked classes in [0, 1], float64, one per head; k at most ``depth``."""
        self._check(k)
        ranks = torch.arange(1, k + 1, dtype=torch.float64, device=self.counts.device)
        return (self.counts[..., :k].to(torch.float64) / ranks).sum(dim=-1) / self.samples

    def _check(self, k: int) -> None:
        if not 1 <= k <= self.depth:
            raise ValueError(f"counted are ranks 1 to {self.depth}, so k = {k} is unknown")
        if self.samples == 0:
            raise UserError("no samples were evaluated, so there is no accuracy: is the split empty?")
