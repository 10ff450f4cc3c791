"""Two views of images on disk: one decoding and batched colours, against torchvision per image in the workers.

Generated JPEGs (smooth noise, 500 x 375 pixels unless told) in a temporary folder; both ways give normalised float32
pairs of the same distribution. Images a second of wall-clock time, and of processor time, which other programs on the
machine do not change.

    python benchmarks/ssl_disk.py [--images 256] [--size 224] [--workers 1] [--seconds 5] [--json]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from wasskit.data.base import ImageDataset
from wasskit.data.loaders import TrainLoader
from wasskit.data.standard import train_transform
from wasskit.data.transforms import Augment, Normalise, PerImage
from wasskit.data.views import PerImageViews, ViewDistribution, random_views


def write_jpegs(folder: Path, count: int, width: int, height: int) -> list[Path]:
    """Images with the spectrum of photographs, roughly: noise of several scales, quality 90."""
    noise = np.random.default_rng(0)
    paths = []
    for number in range(count):
        layers = [
            np.asarray(
                Image.fromarray(noise.integers(0, 255, (side * 3 // 4, side, 3), dtype=np.uint8)).resize(
                    (width, height), Image.Resampling.BICUBIC
                ),
                np.float32,
            )
            for side in (4, 16, 64)
        ]
        pixels = 0.5 * layers[0] + 0.3 * layers[1] + 0.2 * layers[2]
        paths.append(folder / f"{number:05}.jpg")
        Image.fromarray(pixels.astype(np.uint8)).save(paths[-1], quality=90)
    return paths


class Rate(NamedTuple):
    """Images a second of wall-clock time, and of processor time in all processes: what an unburdened core gives."""

    wall: float
    core: float


def images_per_second(make: Callable[[], TrainLoader], seconds: float) -> Rate:
    """Of whole epochs until the time is over, once workers have started and caches are warm."""
    loader = make()
    for _ in loader.batches(0):
        pass
    count, epoch = 0, 1
    used, began = _processor_seconds(loader), time.perf_counter()
    while time.perf_counter() - began < seconds:
        count += sum(len(batch) for batch in loader.batches(epoch))
        epoch += 1
    wall, used = time.perf_counter() - began, _processor_seconds(loader) - used
    loader.close()
    return Rate(count / wall, count / used)


def _processor_seconds(loader: TrainLoader) -> float:
    """Of this process and of the loader's workers, as Linux counts them."""
    ticks = 0
    for worker in multiprocessing.active_children():
        user, system = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        ticks += int(user) + int(system)
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--width", type=int, default=500)
    parser.add_argument("--height", type=int, default=375)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = write_jpegs(Path(folder), arguments.images, arguments.width, arguments.height)
        dataset = ImageDataset("generated", "train", (), paths=paths, image_size=arguments.size)
        two = [ViewDistribution()] * 2
        per_image = PerImage(PerImageViews(arguments.size, two), finish=Normalise(dataset.mean, dataset.std))
        ours = random_views(dataset, *two)
        assert ours.decode is not None
        ways: dict[str, Augment | PerImage] = {
            "per image, by torchvision": per_image,
            "one decoding, batched": ours,
            "its workers alone": ours.decode,
            "one supervised view": train_transform(dataset),
        }
        for name, augment in ways.items():

            def make(augment: Augment | PerImage = augment) -> TrainLoader:
                return TrainLoader(dataset, arguments.batch_size, augment, workers=arguments.workers)

            found[name] = images_per_second(make, arguments.seconds)
    if arguments.json:
        print(json.dumps(found))
        return
    print(f"{arguments.width} x {arguments.height} JPEGs to pairs of {arguments.size}, {arguments.workers} worker(s)")
    for name, rate in found.items():
        times = rate.core / found["per image, by torchvision"].core
        print(f"{name:28}{rate.wall:9,.0f} images/s{rate.core:9,.0f} per core-second, {times:.1f} times")


if __name__ == "__main__":
    main()
