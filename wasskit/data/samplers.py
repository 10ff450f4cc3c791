"""The order of the samples in an epoch, as a pure function of (seed, epoch)."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from wasskit.data.seeds import derive_seed
from wasskit.errors import UserError


class Sampler(Protocol):
    """``len`` samples per epoch; ``order(epoch)`` is (len,) int64, dataset indices on the CPU.

    A loader cuts the order into consecutive global batches.
    """

    def __len__(self) -> int: ...

    def order(self, epoch: int) -> Tensor: ...


def _generator(seed: int, purpose: str, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(seed, purpose, epoch))


class RandomSampler:
    """A fresh permutation of ``size`` samples in each epoch."""

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.seed = seed

    def __len__(self) -> int:
        return self.size

    def order(self, epoch: int) -> Tensor:
        return torch.randperm(self.size, generator=_generator(self.seed, "order", epoch))


class ClassBalancedSampler:
    """Each batch of ``batch_size`` holds ``images_per_class`` images of each of batch_size / images_per_class classes.

    The classes of a batch are distinct and drawn uniformly; images of a batch lie grouped by class. Within an epoch a
    class walks round a shuffled ring of its images, so an image comes again only after all others of its class, and
    within one batch only where the class has fewer than ``images_per_class``. Samples labelled -1 are never drawn.

    ``labels``: (N,) int64. Raises `UserError` where the batch is not a multiple of ``images_per_class`` or asks
    for more classes than there are.
    """

    def __init__(
        self, labels: Tensor | None, batch_size: int, images_per_class: int, seed: int, steps: int | None = None
    ) -> None:
        if labels is None or not bool((labels >= 0).any()):
            raise UserError("class-balanced batches need labels, and this data set has none")
        if images_per_class < 1 or batch_size < 1 or batch_size % images_per_class:
            raise UserError(
                f"a batch of {batch_size} cannot hold whole groups of {images_per_class} images per class; "
                "make the batch a multiple of the images per class"
            )
        labels = labels.to("cpu", torch.int64)
        present, sizes = torch.unique(labels[labels >= 0], return_counts=True)
        self.groups = batch_size // images_per_class
        if self.groups > len(present):
            raise UserError(
                f"a batch of {batch_size} with {images_per_class} images per class needs {self.groups} "
                f"classes, but there are {len(present)}; take a smaller batch or more images per class"
            )
        self.members = torch.nonzero(labels >= 0).reshape(-1)
        self.member_class = torch.searchsorted(present, labels[self.members])
        self.sizes = sizes
        self.starts = sizes.cumsum(0) - sizes
        self.images_per_class = images_per_class
        self.batch_size = batch_size
        self.seed = seed
        self.steps = max(1, len(self.members) // batch_size) if steps is None else steps

    def __len__(self) -> int:
        return self.steps * self.batch_size

    def order(self, epoch: int) -> Tensor:
        generator = _generator(self.seed, "balanced", epoch)
        shuffled = torch.randperm(len(self.members), generator=generator)
        rings = self.members[shuffled[torch.argsort(self.member_class[shuffled], stable=True)]]
        keys = torch.rand(self.steps, len(self.sizes), generator=generator)
        drawn = keys.topk(self.groups, dim=1).indices.reshape(-1)

        # How often each drawn class was drawn before in this epoch: its place on the ring.
        by_class = torch.argsort(drawn, stable=True)
        counts = torch.bincount(drawn, minlength=len(self.sizes))
        first = (counts.cumsum(0) - counts)[drawn[by_class]]
        before = torch.empty_like(drawn)
        before[by_class] = torch.arange(len(drawn)) - first

        place = before[:, None] * self.images_per_class + torch.arange(self.images_per_class)
        return rings[self.starts[drawn, None] + place % self.sizes[drawn, None]].reshape(-1)


def some_rows(count: int, most: int, seed: int) -> Tensor:
    """Up to ``most`` of ``count`` rows at random, int64, ascending; always the same of one seed."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:most].sort().values
