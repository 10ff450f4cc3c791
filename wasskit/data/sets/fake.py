"""Generated images."""

from __future__ import annotations

import typing

from wasskit.data.card import DatasetCard, Request, register

if typing.TYPE_CHECKING:
    from wasskit.data.base import ImageDataset


@register(
    DatasetCard(
        "fake",
        "random images with a class-dependent tint, to try things out",
        ("train", "val", "test"),
        num_classes=10,
        image_size=32,
        channels=3,
        source="generated",
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        counts={"train": 512, "val": 128, "test": 128},
    )
)
def fake(request: Request) -> ImageDataset:
    """Noise with a tint per class, 32x32 colour; a pure function of the seed and the split."""
    import torch

    from wasskit.data.seeds import derive_seed

    def generator(part: str) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(request.seed, "fake", part))

    count, classes = request.card.counts[request.split], 10
    tint = torch.randint(64, 192, (classes, 3, 1, 1), generator=generator("tint"))
    labels = torch.arange(count) % classes
    noise = torch.randint(-63, 64, (count, 3, 32, 32), generator=generator(request.split))
    names = [f"tint {c}" for c in range(classes)]
    return request.dataset(classes=names, labels=labels, images=(tint[labels] + noise).to(torch.uint8))
