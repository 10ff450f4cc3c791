"""Batches for training and evaluation.

Every random number of a training batch is a pure function of (seed, epoch, batch, position in the batch): a
run resumed at any batch sees what it would have seen, whatever the number of workers, and N ranks see
together, in rank order, the batch and the augmentations of one rank.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from wasskit.data.base import ImageDataset
from wasskit.data.embeddings import Embeddings
from wasskit.data.packed import ahead
from wasskit.data.samplers import RandomSampler, Sampler
from wasskit.data.seeds import derive_seed, sample_seed
from wasskit.data.standard import eval_transform, train_transform
from wasskit.data.transforms import Augment, PerImage, RandomAugment, ResizeCrop, Views, with_margin
from wasskit.data.workers import Workers, as_tuple
from wasskit.distributed import group
from wasskit.errors import UserError
from wasskit.system.processes import cores
from wasskit.system.transfer import to_device


@dataclass(frozen=True)
class Batch:
    """``views``: float tensors (B, C, H, W), one per view; ``labels``: (B,) int64, -1 where a sample has
    none; ``indices``: (B,) int64 into the data set. All on one device, but for ``host_labels``, the same labels in the
    host's memory where the loader has them there."""

    views: tuple[Tensor, ...]
    labels: Tensor
    indices: Tensor
    host_labels: Tensor

    def __init__(self, images: Views, labels: Tensor, indices: Tensor, host_labels: Tensor | None = None) -> None:
        object.__setattr__(self, "views", (images,) if isinstance(images, Tensor) else tuple(images))
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "indices", indices)
        object.__setattr__(self, "host_labels", labels if host_labels is None else host_labels)

    @property
    def images(self) -> Tensor:
        """The only view; of several none is `the` images."""
        if len(self.views) != 1:
            raise ValueError(f"this batch has {len(self.views)} views; use batch.views")
        return self.views[0]

    def __len__(self) -> int:
        return len(self.indices)


class _Loader:
    """What loaders of images share: whose part of a batch or a set is read, where it goes, what decodes it.

    ``wait_seconds`` adds up the time the caller waited for batches.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        batch_size: int,
        device: torch.device | str,
        workers: int | None,
        rank: int | None,
        world_size: int | None,
    ) -> None:
        self.rank = group.rank() if rank is None else rank
        self.world_size = group.world_size() if world_size is None else world_size
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank {self.rank} of {self.world_size}")
        self.dataset = dataset
        self.batch_size = batch_size
        self.device = torch.device(device)
        self.wait_seconds = 0.0
        self._asked = workers
        self._workers: Workers | None = None

    def close(self) -> None:
        """End the worker processes; a later epoch starts new ones."""
        if self._workers is not None:
            self._workers.close()

    def _decode_by(self, decode: PerImage, views: int = 1) -> None:
        """Have worker processes decode the images, each once for all views."""
        self._workers = Workers(self.dataset, decode, views, self.device, self._asked, self.world_size)

    def _unpacked(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """The packed images (B, C, S, S) uint8 of each batch of indices (B,), on the device, read ahead by threads."""
        packed, pin, threads = self.dataset.packed, self.device.type == "cuda", self._asked
        assert packed is not None
        if threads is None:  # copying takes little of a core, waiting for a disk more
            threads = min(4, max(1, cores() // self.world_size))
        for images in ahead(lambda index: packed.rows(index, pin=pin), batches, min(threads, 8)):
            yield images.to(self.device, non_blocking=pin)

    def _timed(self, source: Iterator[Batch]) -> Iterator[Batch]:
        while True:
            begun = time.perf_counter()
            batch = next(source, None)
            self.wait_seconds += time.perf_counter() - begun
            if batch is None:
                return
            yield batch


class TrainLoader(_Loader):
    """Shuffled, augmented batches without end.

    ``batch_size`` is that of all ranks together; each takes its equal, consecutive share. ``augment``: see
    `wasskit.data.transforms` (None: the standard one). A batched augmentation on a set that is neither in memory nor
    packed gets the images decoded by workers to one uint8 size first, by ``decode`` (default: what the augmentation
    names as its own ``decode``, else the shorter side to 8/7 of the image size, then a centre square of that side).
    ``views`` > 1 applies the augmentation that many times. ``drop_last=False`` keeps the last, smaller batch, cut to a
    multiple of the ranks. ``uneven``: batches need not divide, shares differ by one sample at most and nothing is cut,
    for losses that weigh them. ``workers``: processes for sets on disk (None: as many as there are cores, at most 8 per
    rank; 0: none), or threads that read packed images ahead; sets in memory are augmented on ``device`` without any.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        batch_size: int,
        augment: Augment | PerImage | None = None,
        *,
        device: torch.device | str = "cpu",
        seed: int = 0,
        drop_last: bool = True,
        uneven: bool = False,
        workers: int | None = None,
        sampler: Sampler | None = None,
        views: int = 1,
        decode: PerImage | None = None,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        super().__init__(dataset, batch_size, device, workers, rank, world_size)
        self.augment = train_transform(dataset) if augment is None else augment
        self.seed = seed
        self.drop_last = drop_last
        self.uneven = uneven
        self.sampler: Sampler = RandomSampler(len(dataset), seed) if sampler is None else sampler
        self.repeats = views
        if uneven and batch_size < self.world_size:
            raise UserError(
                f"a batch of {batch_size} cannot be shared by {self.world_size} processes; take a larger batch or "
                "fewer processes"
            )
        if batch_size < 1 or (batch_size % self.world_size and not uneven):
            raise UserError(
                f"a batch of {batch_size} cannot be shared equally by {self.world_size} processes; "
                f"take a multiple of {self.world_size}"
            )
        if views < 1:
            raise UserError(f"the number of views must be at least 1, not {views}")
        if self.steps_per_epoch == 0:
            raise UserError(
                f"{dataset.name}/{dataset.split} has {len(self.sampler)} images, fewer than one batch of "
                f"{batch_size}; take a smaller batch"
            )
        if not dataset.in_batches or isinstance(self.augment, PerImage):
            if isinstance(self.augment, PerImage):
                decode = self.augment
            elif decode is None:
                decode = getattr(self.augment, "decode", None)
            if decode is None:
                decode = PerImage(ResizeCrop(with_margin(dataset.image_size)))
            self._decode_by(decode, views)

    @property
    def steps_per_epoch(self) -> int:
        count = len(self.sampler)
        if self.drop_last:
            return count // self.batch_size
        return count // self.batch_size + (count % self.batch_size >= self.world_size)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """This rank's batches of an epoch from batch ``start`` on, on the device."""
        order = self.sampler.order(epoch)
        source = self._in_batches if self._workers is None else self._decoded
        return self._timed(source(order, epoch, start))

    def _share(self, step: int, count: int) -> tuple[int, int, int, int]:
        """The batch's first position in the order, this rank's first and last position in the batch, and its size."""
        first, ranks = step * self.batch_size, self.world_size
        size = min(self.batch_size, count - first)
        if not self.uneven:
            size -= size % ranks
        return first, self.rank * size // ranks, (self.rank + 1) * size // ranks, size

    def _generator(self, epoch: int, step: int) -> torch.Generator:
        return torch.Generator(device=self.device).manual_seed(derive_seed(self.seed, "augment", epoch, step))

    def _in_batches(self, order: Tensor, epoch: int, start: int) -> Iterator[Batch]:
        host_labels = self.dataset.filled_labels()[order]
        labels, places = to_device(host_labels, self.device), to_device(order, self.device)
        shares = [self._share(step, len(order)) for step in range(start, self.steps_per_epoch)]
        chosen = [slice(first + low, first + high) for first, low, high, _ in shares]
        stored: Iterator[Tensor]
        if self.dataset.packed is None:
            images = self.dataset.images_on(self.device)
            stored = (images[places[rows]] for rows in chosen)
        else:
            stored = self._unpacked(order[rows] for rows in chosen)
        for step, batch in enumerate(stored, start):
            _, low, _, size = shares[step - start]
            rows = chosen[step - start]
            views = self._augmented(batch, self._generator(epoch, step), low, size)
            yield Batch(views, labels[rows], places[rows], host_labels[rows])

    def _augmented(self, images: Tensor, generator: torch.Generator, low: int, total: int) -> Views:
        """Augment this rank's images, which are those from ``low`` on of a batch of ``total``."""
        assert not isinstance(self.augment, PerImage)
        augment = self.augment
        with torch.no_grad():
            made: list[Tensor] = []
            for _ in range(self.repeats):
                if len(images) == total:
                    out = augment(images, generator)
                elif isinstance(augment, RandomAugment) or (hasattr(augment, "draw") and hasattr(augment, "apply")):
                    draws = augment.draw(total, generator)
                    out = augment.apply(images, {key: x[low : low + len(images)] for key, x in draws.items()})
                else:
                    # The other ranks' images do not matter: each image is treated by itself.
                    filler = (torch.arange(total, device=images.device) - low).clamp(0, len(images) - 1)
                    whole = augment(images[filler], generator)
                    parts = (whole,) if isinstance(whole, Tensor) else whole
                    out = tuple(part[low : low + len(images)] for part in parts)
                made.extend((out,) if isinstance(out, Tensor) else out)
        return tuple(made)

    def _decoded(self, order: Tensor, epoch: int, start: int) -> Iterator[Batch]:
        assert self._workers is not None
        labels = self.dataset.filled_labels()
        base = derive_seed(self.seed, "image", epoch)

        shares = [self._share(step, len(order)) for step in range(start, self.steps_per_epoch)]

        def plan() -> Iterator[list[tuple[int, int]]]:
            for first, low, high, _ in shares:
                chosen = order[first + low : first + high].tolist()
                yield [(i, sample_seed(base, first + low + k)) for k, i in enumerate(chosen)]

        for step, (index, views) in enumerate(self._workers.run(plan), start):
            _, low, _, size = shares[step - start]
            if not isinstance(self.augment, PerImage):
                views = as_tuple(self._augmented(views[0], self._generator(epoch, step), low, size))
            chosen = labels[index]
            yield Batch(views, to_device(chosen, self.device), to_device(index, self.device), chosen)


class EvalLoader(_Loader):
    """This rank's part of a data set, each sample once, in order.

    Rank r of R takes the samples from ``r N // R`` to ``(r + 1) N // R``: without padding, so that counts are exact,
    and concatenating the ranks' results in rank order gives the order of the data set. ``batch_size`` is this rank's
    own. ``transform``: a batched callable uint8 -> float, or a `PerImage` (None: the standard one).
    """

    def __init__(
        self,
        dataset: ImageDataset,
        batch_size: int = 256,
        transform: Callable[[Tensor], Tensor] | PerImage | None = None,
        device: torch.device | str = "cpu",
        workers: int | None = None,
        *,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        super().__init__(dataset, batch_size, device, workers, rank, world_size)
        if batch_size < 1:
            raise UserError(f"the batch must hold at least one image, not {batch_size}")
        self.transform = eval_transform(dataset) if transform is None else transform
        self.low, self.high = (place * len(dataset) // self.world_size for place in (self.rank, self.rank + 1))
        if not dataset.in_batches or isinstance(self.transform, PerImage):
            decode = self.transform
            if not isinstance(decode, PerImage):
                decode = PerImage(ResizeCrop(dataset.image_size, with_margin(dataset.image_size)))
            self._decode_by(decode)

    def __len__(self) -> int:
        """The number of this rank's batches."""
        return -(-(self.high - self.low) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return self._timed(self._in_batches() if self._workers is None else self._decoded())

    def _in_batches(self) -> Iterator[Batch]:
        assert not isinstance(self.transform, PerImage)
        labels = self.dataset.filled_labels().to(self.device)
        bounds = [(low, min(low + self.batch_size, self.high)) for low in range(self.low, self.high, self.batch_size)]
        stored: Iterator[Tensor]
        if self.dataset.packed is None:
            images = self.dataset.images_on(self.device)
            stored = (images[low:high] for low, high in bounds)
        else:
            stored = self._unpacked(torch.arange(*ends) for ends in bounds)
        for (low, high), batch in zip(bounds, stored, strict=True):
            with torch.no_grad():
                out = self.transform(batch)
            yield Batch(out, labels[low:high], torch.arange(low, high, device=self.device))

    def _decoded(self) -> Iterator[Batch]:
        assert self._workers is not None
        labels = self.dataset.filled_labels()

        first, last, size = self.low, self.high, self.batch_size

        def plan() -> Iterator[list[tuple[int, int]]]:
            for low in range(first, last, size):
                yield [(i, sample_seed(0, i)) for i in range(low, min(low + size, last))]

        for index, views in self._workers.run(plan):
            if not isinstance(self.transform, PerImage):
                with torch.no_grad():
                    views = (self.transform(views[0]),)
            yield Batch(views, to_device(labels[index], self.device), to_device(index, self.device))


class RowLoader:
    """Vectors of a file in order and batches, read as they are used; each rank takes every ``world_size``-th batch.

    A batch has the vectors (B, D) float32 as its images and no labels (-1).
    """

    def __init__(self, vectors: Embeddings, batch_size: int = 8192, device: torch.device | str = "cpu") -> None:
        self.vectors = vectors
        self.batch_size = batch_size
        self.device = torch.device(device)

    def __iter__(self) -> Iterator[Batch]:
        start = 0
        for number, rows in enumerate(self.vectors.chunks(self.batch_size)):
            indices = torch.arange(start, start + len(rows), device=self.device)
            start += len(rows)
            if number % group.world_size() == group.rank():
                yield Batch(to_device(rows, self.device), torch.full_like(indices, -1), indices)
