"""Two views of images on disk: one decoding and batched colours, against torchvision per image in the workers.

Generated JPEGs (smooth noise, 500 x 375 pixels unless told) in a temporary folder; both ways give normalised float32
pairs of the same distribution. Times are those of all processors, workers included, which other programs on the machine
do not change.

    python benchmarks/ssl_disk.py [--images 256] [--size 224] [--workers 1] [--seconds 5] [--json]
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.harness import Case, benchmark, epochs, main
from benchmarks.ssl_views import TorchvisionViews
from wasskit.data.base import ImageDataset
from wasskit.data.loaders import TrainLoader
from wasskit.data.standard import train_transform
from wasskit.data.transforms import Augment, Normalise, PerImage
from wasskit.data.views import ViewDistribution, random_views


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


@benchmark(
    "two random views of JPEGs",
    plain="torchvision, image by image",
    clock="processes",
    threads=(1,),
    quick={"images": 8, "width": 100, "height": 75, "size": 32, "batch_size": 4},
    full={"images": 64},
)
def ssl_disk(
    *, images: int = 256, width: int = 500, height: int = 375, size: int = 224, batch_size: int = 32, workers: int = 1
) -> Iterator[Case]:
    with tempfile.TemporaryDirectory() as folder:
        paths = write_jpegs(Path(folder), images, width, height)
        dataset = ImageDataset("generated", "train", (), paths=paths, image_size=size)
        two = [ViewDistribution()] * 2
        ours = random_views(dataset, *two)
        assert ours.decode is not None

        def loader(augment: Augment | PerImage) -> TrainLoader:
            return TrainLoader(dataset, batch_size, augment, workers=workers)

        plain = loader(PerImage(TorchvisionViews(size, two), finish=Normalise(dataset.mean, dataset.std)))
        ways: dict[str, Augment | PerImage] = {
            "one decoding, batched": ours,
            "its workers alone": ours.decode,
            "one supervised view": train_transform(dataset),
        }
        for name, augment in ways.items():
            own = loader(augment)
            title = f"{images} JPEGs of {width} x {height} to {size} pixels; {name}"
            yield Case(title, epochs(own), epochs(plain), items=images)
            own.close()
        plain.close()


if __name__ == "__main__":
    main(__doc__, ssl_disk)
