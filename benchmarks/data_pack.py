"""Packed images beside JPEGs: uint8 batches a second, in one run, from the same images.

JPEGs are generated (noise of several scales, quality 90; 500 x 375 pixels unless told) in a temporary folder and
packed there by the package's own packer. Measured are, each after an epoch that warms the caches and for as many epochs
as fill the time: batches of random packed squares, gathered by threads; batches of the same squares decoded from the
JPEGs by as many worker processes; and, with ``--augment``, both with the crops and flips of supervised training. Images
a second of wall-clock time, and of processor time in all processes, which other programs on the machine do not change.

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
from ssl_disk import Rate, images_per_second, write_jpegs  # type: ignore[import-not-found]
from torch import Tensor

from wasskit.data.base import ImageDataset
from wasskit.data.loaders import TrainLoader
from wasskit.data.packing import pack_split
from wasskit.data.registry import load_dataset
from wasskit.data.standard import train_transform
from wasskit.data.transforms import PerImage, ResizeCrop


def as_stored(images: Tensor, generator: torch.Generator) -> Tensor:
    """No augmentation: what reading alone costs."""
    return images


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
    found: dict[str, Rate] = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = write_jpegs(Path(folder), arguments.images, arguments.width, arguments.height)
        files = ImageDataset("generated", "train", (), paths=paths)
        began = time.perf_counter()
        pack_split(files, Path(folder) / "pack", side=arguments.side, workers=arguments.workers)
        packing = arguments.images / (time.perf_counter() - began)
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
        print(json.dumps({**vars(arguments), "packing": packing, **{k: v._asdict() for k, v in found.items()}}))
        return
    print(
        f"{arguments.images} JPEGs of {arguments.width} x {arguments.height}, squares of {arguments.side}, "
        f"{arguments.workers} workers or threads, device {arguments.device}"
    )
    print(f"{'packing, once':20}{packing:10,.0f} images/s")
    for name, rate in found.items():
        print(f"{name:20}{rate.wall:10,.0f} images/s{rate.core:10,.0f} per core-second")
    ratios = (a / b for a, b in zip(found["packed"], found["JPEG"], strict=True))
    print("packed / JPEG       " + " ".join(f"{ratio:10,.1f}         " for ratio in ratios))


if __name__ == "__main__":
    main()
