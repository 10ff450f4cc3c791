"""Worker processes that decode and transform images on disk."""

from __future__ import annotations

import contextlib
import gc
import math
import multiprocessing
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from wasskit.data.base import BadImage, ImageDataset, UnreadableImage
from wasskit.data.seeds import sample_seed
from wasskit.data.transforms import PerImage, Views
from wasskit.errors import RunFailed, UserError
from wasskit.system.processes import cores
from wasskit.system.signals import shield, shielded


def as_tuple(views: Views) -> tuple[Tensor, ...]:
    return (views,) if isinstance(views, Tensor) else tuple(views)


@dataclass(frozen=True)
class _Failure:
    """What a worker sends instead of an image: exceptions lose their message's shape on the way."""

    bad: BadImage


class _Decoder(Dataset[Any]):
    """[(dataset index, seed), ...] -> a batch of decoded and transformed views; lives in the worker processes."""

    def __init__(self, dataset: ImageDataset, transform: PerImage, views: int) -> None:
        self.dataset = dataset
        self.transform = transform
        self.views = views

    def __getitems__(self, items: list[tuple[int, int]]) -> tuple[Tensor, tuple[Tensor, ...]] | _Failure:
        """The indices (B,) and the views, each (B, ...): every image is written to its place once it is made."""
        batch: tuple[Tensor, ...] = ()
        for place, (index, seed) in enumerate(items):
            try:
                image = self.dataset.image(index)
            except UnreadableImage as error:
                return _Failure(error.bad)
            made: list[Tensor] = []
            for number in range(self.views):
                generator = torch.Generator().manual_seed(seed if number == 0 else sample_seed(seed, number))
                made.extend(as_tuple(self.transform(image, generator)))
            if not batch:
                batch = tuple(_room(len(items), view) for view in made)
            for room, view in zip(batch, made, strict=True):
                room[place] = view
        return torch.tensor([index for index, _ in items], dtype=torch.int64), batch


def _room(count: int, sample: Tensor) -> Tensor:
    """Room for a batch of tensors like ``sample``; of a worker, in memory that it shares with the main process."""
    shape = (count, *sample.shape)
    if get_worker_info() is None:
        return sample.new_empty(shape)
    storage = torch.UntypedStorage._new_shared(math.prod(shape) * sample.element_size(), device="cpu")
    return torch.empty(0, dtype=sample.dtype).set_(storage).view(shape)


def _as_it_is(batch: Any) -> Any:
    return batch


def _start_worker(_: int) -> None:
    # A signal to the whole process group is for the main process, which saves its state and then ends its
    # workers; were they to die first, it would fail for want of data. Without a main process they end anyway.
    shield()
    # The garbage collector must not free here what was inherited from the main process: workers of an earlier loader
    # would be killed, and their queues closed, under it.
    gc.freeze()
    gc.enable()
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _end(iterators: list[Any], owner: int) -> None:
    """End the worker processes of an iterator, in the process that started them.

    They are asked to end first: torch raises an error in the main process for a worker that is killed before. Then they
    are killed, since they block the SIGTERM by which torch and multiprocessing would end them.
    """
    while iterators and os.getpid() == owner:
        iterator = iterators.pop()
        iterator._shutdown_workers()
        for process in iterator._workers:
            process.kill()
            process.join()


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without garbage collection: processes that are forked meanwhile begin without, too."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


class _Plan:
    """The batches to come, made by what knows nothing of a loader. Read anew in each epoch, in the main process."""

    def __init__(self) -> None:
        self.batches: Callable[[], Iterator[list[tuple[int, int]]]] = lambda: iter(())

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self.batches()


class Workers:
    """A DataLoader whose worker processes outlive the epochs."""

    def __init__(
        self,
        dataset: ImageDataset,
        transform: PerImage,
        views: int,
        device: torch.device,
        workers: int | None,
        world_size: int,
    ) -> None:
        if workers is not None and workers < 0:
            raise UserError(f"the number of workers must be 0 or more, not {workers}")
        self.decoder = _Decoder(dataset, transform, views)
        self.finish = transform.finish
        self.device = device
        self.workers = min(8, max(1, cores() // world_size)) if workers is None else workers
        self.plan = _Plan()
        self.loader: DataLoader[Any] | None = None
        # Held from outside, and without a way from it to here: the collector would close the connections of an iterator
        # that it finds before, or while, the iterator uses them to end its workers.
        self._iterators: list[Any] = []
        weakref.finalize(self, _end, self._iterators, os.getpid())  # and when this process ends

    def run(self, plan: Callable[[], Iterator[list[tuple[int, int]]]]) -> Iterator[tuple[Tensor, tuple[Tensor, ...]]]:
        self.plan.batches = plan
        if self.loader is None:
            self.loader = DataLoader(
                self.decoder,
                batch_sampler=self.plan,
                num_workers=self.workers,
                collate_fn=_as_it_is,
                pin_memory=self.device.type == "cuda",
                worker_init_fn=_start_worker if self.workers else None,
                persistent_workers=self.workers > 0,
                prefetch_factor=4 if self.workers else None,
                # The loader draws a seed for its workers, which must not come from the global generator.
                generator=torch.Generator(),
            )
        with shielded(), _uncollected():  # also while they start
            batches = iter(self.loader)
        self._iterators[:] = [batches] if self.workers else []
        try:
            for batch in batches:
                if isinstance(batch, _Failure):
                    raise UnreadableImage(batch.bad)
                index, views = batch
                moved = tuple(view.to(self.device, non_blocking=True) for view in views)
                if self.finish is not None:
                    with torch.no_grad():
                        moved = tuple(self.finish(view) for view in moved)
                yield index, moved
        except RuntimeError as error:
            if "DataLoader worker" in str(error):
                self.close()
                raise RunFailed(
                    f"a data loading process died ({error}); memory may have run out: take fewer --workers"
                ) from error
            raise

    def close(self) -> None:
        """End the worker processes; `run` starts new ones."""
        _end(self._iterators, os.getpid())
        self.loader = None
