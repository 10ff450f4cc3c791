"""Two views of each image: batched on the device, against torchvision per image in a DataLoader with two workers.

Both give normalised float32 pairs of the same distribution from the same random uint8 images held in memory, in epochs
of batches. kornia makes views of the same kind of whole batches, in float32. The time is that of all processors.

    python benchmarks/ssl_views.py [--threads 1] [--device cpu] [--size 32] [--images 4096] [--workers 2] [--compile]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.harness import Case, Work, benchmark, epochs, main
from wasskit.data import views
from wasskit.data.base import ImageDataset
from wasskit.data.loaders import TrainLoader
from wasskit.data.pixels import BLUR_RADIUS
from wasskit.data.transforms import Normalise, PerImage, to_uint8
from wasskit.data.views import RandomViews, ViewDistribution


class TorchvisionViews:
    """PIL image -> uint8 views (C, size, size), one per distribution, by torchvision's transforms: for `PerImage`."""

    def __init__(self, size: int, distributions: Sequence[ViewDistribution]) -> None:
        self.pipelines = [_torchvision_pipeline(size, view) for view in distributions]

    def __call__(self, image: Image.Image) -> tuple[Tensor, ...]:
        return tuple(to_uint8(pipeline(image)) for pipeline in self.pipelines)


def _torchvision_pipeline(size: int, view: ViewDistribution) -> Callable[[Image.Image], Image.Image]:
    from torchvision.transforms import v2

    radius = min(BLUR_RADIUS, size - 1)
    pipeline: Callable[[Image.Image], Image.Image] = v2.Compose(
        [
            v2.RandomResizedCrop(size, view.scale, view.ratio, v2.InterpolationMode.BICUBIC, antialias=True),
            v2.RandomHorizontalFlip(view.flip),
            v2.RandomApply([v2.ColorJitter(view.brightness, view.contrast, view.saturation, view.hue)], view.jitter),
            v2.RandomGrayscale(view.grey),
            v2.RandomApply([v2.GaussianBlur(2 * radius + 1, view.sigma)], view.blur),
            v2.RandomSolarize(128, view.solarise),
        ]
    )
    return pipeline


class Reader:
    """The images one by one, as a set on disk would give them, without the decoding."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __call__(self, index: int) -> Image.Image:
        return Image.fromarray(self.images[index].permute(1, 2, 0).numpy())


@benchmark(
    "two random views of images in memory",
    plain="torchvision, image by image, in workers",
    clock="processes",
    threads=(1,),
    quick={"images": 128, "batch_size": 64},
    full={"images": 1024},
)
def ssl_views(
    *,
    size: int = 32,
    images: int = 4096,
    batch_size: int = 256,
    workers: int = 2,
    compile: bool = False,
    device: str = "cpu",
) -> Iterator[Case]:
    pixels = torch.randint(
        0, 256, (images, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    labels = torch.zeros(images)
    normalise = Normalise((0.5,) * 3, (0.25,) * 3)
    memory = ImageDataset("random", "train", ("a",), labels=labels, images=pixels)
    files = ImageDataset("random", "train", ("a",), labels=labels, reader=Reader(pixels), image_size=size)
    per_image = PerImage(TorchvisionViews(size, [ViewDistribution()] * 2), finish=normalise)
    baseline = TrainLoader(files, batch_size, per_image, device=device, workers=workers)

    def kornia() -> Work:
        import kornia.augmentation as K

        view = torch.nn.Sequential(
            K.RandomResizedCrop((size, size), scale=(0.08, 1.0)),
            K.RandomHorizontalFlip(),
            K.ColorJitter(0.4, 0.4, 0.2, 0.1, p=0.8),
            K.RandomGrayscale(p=0.2),
            K.RandomGaussianBlur((3, 3), (0.1, 2.0), p=0.5),
            K.RandomSolarize(p=0.2),
            K.Normalize(torch.full((3,), 0.5), torch.full((3,), 0.25)),
        )

        def work() -> None:
            for batch in pixels.to(device).split(batch_size):
                x = batch.float() / 255
                view(x), view(x)

        return work

    forms = {"": views.colour_jitter}
    if compile:
        forms["; compiled"] = torch.compile(views.colour_jitter, dynamic=False)
    for name, jitter in forms.items():
        views.colour_jitter = jitter
        yield Case(
            f"{images:,} images of {size} pixels{name}",
            epochs(TrainLoader(memory, batch_size, RandomViews(normalise, [ViewDistribution()] * 2), device=device)),
            epochs(baseline),
            {"kornia": kornia},
            items=images,
        )
    baseline.close()


if __name__ == "__main__":
    main(__doc__, ssl_views)
