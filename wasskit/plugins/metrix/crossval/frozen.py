"""What a frozen trunk makes of the images, computed once and kept in files: pooled features, feature maps, images.

A file's name holds a hash of the set, the trunk's weights and the transform, so that another one is never taken for it.
Feature maps are kept as float16, with channels last, and are read through a memory map; pooled features are made of the
maps as they are kept, so that a mixture with itself is the item itself.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wasskit import console
from wasskit.data.base import ImageDataset
from wasskit.data.loaders import EvalLoader
from wasskit.data.samplers import ClassBalancedSampler, RandomSampler, Sampler
from wasskit.errors import UserError
from wasskit.evaluation.embedding import evaluating
from wasskit.plugins.metrix.network import MetricNetwork
from wasskit.plugins.metrix.options import TrainingOptions
from wasskit.system.arrays import map_array, read_array, write_header
from wasskit.system.files import replacing, writing
from wasskit.system.transfer import to_device

BATCH = 32
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class CachedPart:
    """A part of a data set through a trunk.

    ``pooled`` (N, C) float32 on the device; ``maps`` (N, H, W, C) and ``images`` (N, channels, side, side), normalised,
    are float16 memory maps, or None where they were not asked for. ``labels`` (N,) lie on the host.
    """

    labels: Tensor
    pooled: Tensor
    maps: Array | None = None
    images: Array | None = None


def as_trained(part: ImageDataset, network: MetricNetwork) -> ImageDataset:
    """The part, normalised as the images that the trunk's weights have learned from, where that is known."""
    known = network.trunk.backbone.normalisation
    return part if known is None else part.prepared_as(*known, margin=part.margin)


def cached(
    part: ImageDataset, network: MetricNetwork, folder: Path, *, wanted: Collection[str], digest: str,
    device: torch.device, workers: int | None = None,
) -> CachedPart:  # fmt: skip
    """The part through the trunk of ``network``, from ``folder`` where it is there already.

    Args:
        wanted: "maps", "images", both or none.
        digest: of the trunk's weights, see :func:`weights_digest`.

    Raises:
        UserError: images or files cannot be read, or files not be written.
    """
    stem = f"{part.split}-{_key(part, network.pooling, digest)}"
    paths = {name: folder / f"{stem}-{name}.npy" for name in ("pooled", *sorted(wanted))}
    if not all(path.is_file() for path in paths.values()):
        console.log(f"{len(part):,} images of {part.name}/{part.split} through the frozen trunk, once")
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        loader = EvalLoader(part, BATCH, device=device, workers=workers)
        try:
            _write(loader, network.eval(), paths, len(part))
        finally:
            loader.close()
    kept = {name: map_array(path) for name, path in paths.items() if name != "pooled"}
    pooled = torch.from_numpy(read_array(paths["pooled"])).to(device)
    return CachedPart(part.filled_labels(), pooled, **kept)


def _write(loader: EvalLoader, network: MetricNetwork, paths: dict[str, Path], rows: int) -> None:
    """Write the files; all appear only when they are complete. Plain writes: on a full disk these raise."""
    with contextlib.ExitStack() as stack:
        temporary = {name: stack.enter_context(replacing(path)) for name, path in paths.items()}
        opened = {name: stack.enter_context(path.open("wb")) for name, path in temporary.items()}
        for place, batch in enumerate(loader):
            for name, values in _through(network, batch.images, paths).items():
                array = values.cpu().numpy()
                if place == 0:
                    write_header(opened[name], (rows, *array.shape[1:]), array.dtype)
                opened[name].write(array.tobytes())


def _through(network: MetricNetwork, images: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
    with evaluating(network):
        images = images.contiguous(memory_format=torch.channels_last)
        found = {"images": images.half().contiguous()} if "images" in wanted else {}
        if network.pooling == "own":
            return {**found, "pooled": network.trunk.backbone(images).float()}
        maps = network.trunk(images).half()
        if "maps" in wanted:
            found["maps"] = maps.permute(0, 2, 3, 1).contiguous()
        return {**found, "pooled": network.pool(maps.float())}


def weights_digest(module: nn.Module) -> str:
    """A hash of all parameters and buffers with their names."""
    digest = hashlib.blake2b(digest_size=8)
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _key(part: ImageDataset, pooling: str, digest: str) -> str:
    """A hash of what the features depend on: weights, transform, labels; pixels, or names and sizes of files."""
    found = hashlib.blake2b(digest_size=8)
    transform = (part.image_size, part.channels, tuple(part.mean), tuple(part.std), part.margin, pooling)
    found.update(repr((digest, part.name, part.split, len(part), list(part.classes), transform)).encode())
    found.update(part.filled_labels().numpy().tobytes())
    if part.images is not None:
        found.update(part.images.numpy().tobytes())
    for path in part.paths or ():
        found.update(f"{path.parent.name}/{path.name} {path.stat().st_size}".encode(errors="surrogateescape"))
    return found.hexdigest()


@dataclass(frozen=True)
class CachedBatch:
    """``pooled`` (B, C), ``maps`` (B, C, H, W) and ``images`` (B, channels, side, side) float32 on the device."""

    pooled: Tensor
    maps: Tensor | None
    images: Tensor | None
    host_labels: Tensor


class CachedSource:
    """Batches of a training from the ``rows`` (n,) of a part, whose ``labels`` (n,) are those of the training."""

    def __init__(self, part: CachedPart, rows: Tensor, labels: Tensor, config: TrainingOptions, device: torch.device):
        size, each, seed = config.loop.batch_size, config.images_per_class, config.run.seed
        if len(rows) < size:
            raise UserError(f"a fold trains on {len(rows)} images, fewer than one batch of {size}; lower --batch-size.")
        self.sampler: Sampler = (
            RandomSampler(len(rows), seed) if each is None else ClassBalancedSampler(labels, size, each, seed)
        )
        self.part, self.rows, self.labels, self.batch_size, self.device = part, rows, labels, size, device

    @property
    def steps_per_epoch(self) -> int:
        return len(self.sampler) // self.batch_size

    def batches(self, epoch: int, start: int = 0) -> Iterator[CachedBatch]:
        order = self.sampler.order(epoch)
        for step in range(start, self.steps_per_epoch):
            chosen = order[step * self.batch_size : (step + 1) * self.batch_size]
            rows = self.rows[chosen]
            maps = self._read(self.part.maps, rows)
            yield CachedBatch(
                self.part.pooled[to_device(rows, self.device)],
                None if maps is None else maps.permute(0, 3, 1, 2),
                self._read(self.part.images, rows),
                self.labels[chosen],
            )

    def _read(self, kept: Array | None, rows: Tensor) -> Tensor | None:
        """Rows of a memory map, as float32 on the device."""
        return None if kept is None else to_device(torch.from_numpy(kept[rows.numpy()]), self.device).float()
