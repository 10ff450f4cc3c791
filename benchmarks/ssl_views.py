"""Two views of each image: batched on the device, against torchvision per image in a DataLoader with two workers.

Both give normalised float32 pairs of the same distribution from the same random uint8 images held in memory.

    python benchmarks/ssl_views.py [--threads 1] [--device cpu] [--size 32] [--images 4096] [--workers 2] [--compile]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import torch
from PIL import Image
from torch import Tensor

from wasskit.data import views
from wasskit.data.base import ImageDataset
from wasskit.data.loaders import TrainLoader
from wasskit.data.transforms import Normalise, PerImage
from wasskit.data.views import PerImageViews, TwoViews, ViewDistribution


def pairs_per_second(loader: TrainLoader, warm: int) -> float:
    """Images per second of an epoch, once the workers have started and the caches are warm."""
    batches: Iterator[object] = loader.batches(0)
    for _ in range(warm):
        next(batches)
    began = time.perf_counter()
    count = sum(1 for _ in batches)
    if loader.device.type == "cuda":
        torch.cuda.synchronize()
    return count * loader.batch_size / (time.perf_counter() - began)


class Reader:
    """The images one by one, as a set on disk would give them, without the decoding."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __call__(self, index: int) -> Image.Image:
        return Image.fromarray(self.images[index].permute(1, 2, 0).numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="also with the colour jitter compiled")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    shape = (arguments.images, 3, arguments.size, arguments.size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    normalise = Normalise((0.5,) * 3, (0.25,) * 3)
    memory = ImageDataset("random", "train", ("a",), labels=torch.zeros(len(images)), images=images)
    files = ImageDataset(
        "random", "train", ("a",), labels=torch.zeros(len(images)), reader=Reader(images), image_size=arguments.size
    )
    batch = arguments.batch_size
    per_image = PerImage(PerImageViews(arguments.size, [ViewDistribution()] * 2), finish=normalise)
    baseline = TrainLoader(files, batch, per_image, device=arguments.device, workers=arguments.workers)
    base = pairs_per_second(baseline, warm=2 * arguments.workers)
    baseline.close()
    print(f"{arguments.size}-pixel images on {arguments.device}, {arguments.threads} threads")
    print(f"per image, {arguments.workers} workers   {base:9,.0f} pairs/s")
    ours = pairs_per_second(TrainLoader(memory, batch, TwoViews(normalise), device=arguments.device), warm=2)
    print(f"batched, one process   {ours:9,.0f} pairs/s, {ours / base:.1f} times")
    if arguments.compile:
        views.colour_jitter = torch.compile(views.colour_jitter, dynamic=False)
        compiled = pairs_per_second(TrainLoader(memory, batch, TwoViews(normalise), device=arguments.device), warm=4)
        print(f"the same, compiled     {compiled:9,.0f} pairs/s, {compiled / base:.1f} times")


if __name__ == "__main__":
    main()
