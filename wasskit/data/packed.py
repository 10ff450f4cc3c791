"""Images that lie in packs, read by whole batches without decoding."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wasskit.data.formats.pack import Pack

S = TypeVar("S")
T = TypeVar("T")


class PackedImages:
    """The images of one or several packs of one size, or some of them: ``index`` (M,) int64, in that order.

    Files are mapped when they are first read, in each process anew: copies in other processes carry their paths alone.
    """

    def __init__(self, packs: Sequence[Pack], index: Tensor | None = None) -> None:
        if len({(pack.header.channels, pack.header.side) for pack in packs}) != 1:
            raise ValueError("packs of one size and one number of channels are needed")
        self.packs = tuple(packs)
        self.channels, self.side = packs[0].header.channels, packs[0].header.side
        self._ends = np.cumsum([pack.header.count for pack in packs])
        self._index = None if index is None else index.numpy()
        self._maps: list[NDArray[np.uint8]] | None = None

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._index is None else len(self._index)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": None}

    def subset(self, index: Tensor) -> PackedImages:
        """The images at ``index`` (M,) int64, in that order."""
        return PackedImages(self.packs, index if self._index is None else torch.from_numpy(self._index[index.numpy()]))

    def rows(self, index: Tensor, *, pin: bool = False) -> Tensor:
        """The images at ``index`` (B,) int64 as uint8 (B, C, S, S), copied from the files by one gather for each.

        ``pin``: in memory that a GPU copies from by itself.
        """
        if self._maps is None:
            self._maps = [pack.map_pixels() for pack in self.packs]
        places = index.numpy() if self._index is None else self._index[index.numpy()]
        images = torch.empty((len(places), self.channels, self.side, self.side), dtype=torch.uint8, pin_memory=pin)
        room = images.view(len(places), self.channels * self.side**2).numpy()
        if len(self._maps) == 1:
            # Clipping, which does nothing to indices that are right, lets numpy write into the room directly.
            np.take(self._maps[0], places, axis=0, out=room, mode="clip")
            return images
        which = np.searchsorted(self._ends, places, side="right")
        for number, mapped in enumerate(self._maps):
            here = which == number
            room[here] = mapped[places[here] - (self._ends[number] - len(mapped))]
        return images


def ahead(function: Callable[[S], T], items: Iterable[S], threads: int) -> Iterator[T]:
    """``function(item)`` of each item in order, computed by threads up to ``threads + 1`` items ahead; by 0: here."""
    if not threads:
        yield from map(function, items)
        return
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="ahead") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > threads + 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
