"""Packed images beside JPEGs: uint8 batches a second, in one run, from the same images.

JPEGs are generated (noise of several scales, quality 90; 500 x 375 pixels unless told) in a temporary folder and packed
there by the package's own packer. Measured are, each after an epoch that warms the caches and for as many epochs as fill
the time: gathering random batches of the packed squares by threads; the same on the way to a training (augmented on the
device); and decoding the JPEGs by as many worker processes, to the same squares, as batches of a loader.

    python benchmarks/data_pack.py [--images 512] [--side 256] [--workers 2] [--seconds 3] [--augment] [--json]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from ssl_disk import write_jpegs
from torch import Tensor

from wasskit.data.base import ImageDataset
from wasskit.data.loaders import TrainLoader
from wasskit.data.packing import pack_split
from wasskit.data.registry import load_dataset
from wasskit.data.transforms import PerImage, ResizeCrop, train_transform


def as_stored(images: Tensor, generator: torch.Generator) -> Tensor:
    """No augmentation: what reading alone costs."""
    return images


def images_per_second(make: Callable[[], TrainLoader], seconds: float) -> float:
    loader = make()
    for _ in loader.batches(0):
        pass
    count, epoch, began = 0, 1, time.perf_counter()
    while time.perf_counter() - began < seconds:
        count += sum(len(batch) for batch in loader.batches(epoch))
        epoch += 1
    rate = count / (time.perf_counter() - began)
    loader.close()
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--width", type=int, default=500)
    parser.add_argument("--height", type=int, default=375)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--augment", action="store_true", help="also augmented, as supervised training does")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = write_jpegs(Path(folder), arguments.images, arguments.width, arguments.height)
        files = ImageDataset("generated", "train", (), paths=paths)
        began = time.perf_counter()
        pack_split(files, Path(folder) / "pack", side=arguments.side, workers=arguments.workers)
        found["packing, once"] = arguments.images / (time.perf_counter() - began)
        packed = load_dataset("packed", "train", root=Path(folder) / "pack")
        settings = {"workers": arguments.workers, "device": arguments.device}
        square = PerImage(ResizeCrop(arguments.side))
        batch = arguments.batch_size
        ways: dict[str, Callable[[], TrainLoader]] = {
            "JPEG": lambda: TrainLoader(files, batch, square, **settings),
            "packed": lambda: TrainLoader(packed, batch, as_stored, **settings),
        }
        if arguments.augment:
            ways["JPEG, augmented"] = lambda: TrainLoader(files, batch, train_transform(files), **settings)
            ways["packed, augmented"] = lambda: TrainLoader(packed, batch, train_transform(packed), **settings)
        for name, make in ways.items():
            found[name] = images_per_second(make, arguments.seconds)
    if arguments.json:
        print(json.dumps({**vars(arguments), **found}))
        return
    print(
        f"{arguments.images} JPEGs of {arguments.width} x {arguments.height}, squares of {arguments.side}, "
        f"{arguments.workers} workers or threads, device {arguments.device}"
    )
    for name, rate in found.items():
        print(f"{name:20}{rate:10,.0f} images/s")
    print(f"packed / JPEG       {found['packed'] / found['JPEG']:10,.1f}")


if __name__ == "__main__":
    main()
