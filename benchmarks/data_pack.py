"""Packed images beside JPEGs: uint8 batches, in one run, from the same images.

JPEGs are generated (noise of several scales, quality 90; 500 x 375 pixels unless told) in a temporary folder and
packed there by the package's own packer. Measured are epochs of random packed squares, gathered by threads, and of the
same squares decoded from the JPEGs by as many worker processes; and, with ``--augment``, both with the crops and flips
of supervised training. Times are those of all processors, workers included, which other programs on the machine do not
change.

    python benchmarks/data_pack.py [--images 512] [--side 256] [--workers 2] [--seconds 3] [--augment] [--json]
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.harness import Case, benchmark, epochs, main
from benchmarks.ssl_disk import write_jpegs
from wasskit.data.base import ImageDataset
from wasskit.data.loaders import TrainLoader
from wasskit.data.packing import pack_split
from wasskit.data.registry import load_dataset
from wasskit.data.standard import train_transform
from wasskit.data.transforms import PerImage, ResizeCrop


def as_stored(images: Tensor, generator: torch.Generator) -> Tensor:
    """No augmentation: what reading alone costs."""
    return images


@benchmark(
    "packed images read",
    plain="JPEGs decoded and resized by workers",
    floor="copying the pixels",
    clock="processes",
    threads=(1,),
    quick={"images": 8, "width": 100, "height": 75, "side": 32, "batch_size": 4},
    full={"images": 128},
)
def data_pack(
    *,
    images: int = 512,
    width: int = 500,
    height: int = 375,
    side: int = 256,
    batch_size: int = 64,
    workers: int = 2,
    device: str = "cpu",
    augment: bool = False,
) -> Iterator[Case]:
    with tempfile.TemporaryDirectory() as folder:
        paths = write_jpegs(Path(folder), images, width, height)
        files = ImageDataset("generated", "train", (), paths=paths)
        began = time.perf_counter()
        pack_split(files, Path(folder) / "pack", side=side, workers=workers)
        packing = images / (time.perf_counter() - began)
        packed = load_dataset("packed", "train", root=Path(folder) / "pack")
        square = PerImage(ResizeCrop(side))
        pairs: dict[str, tuple[Any, Any]] = {"as stored": (as_stored, square)}
        if augment:
            pairs["augmented"] = train_transform(packed), train_transform(files)
        for name, (own, decoded) in pairs.items():
            loaders = [
                TrainLoader(dataset, batch_size, transform, workers=workers, device=device)
                for dataset, transform in ((packed, own), (files, decoded))
            ]
            yield Case(
                f"{images} of {width} x {height} as squares of {side} pixels; {name}",
                epochs(loaders[0]),
                epochs(loaders[1]),
                items=images,
                note=lambda: f"packed once at {packing:,.0f} images/s",
            )
            for loader in loaders:
                loader.close()


if __name__ == "__main__":
    main(__doc__, data_pack)
