"""The batched augmentations, against plain reference operations with the numbers they drew."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from wasskit.data.base import ImageDataset
from wasskit.data.standard import eval_transform, train_transform
from wasskit.data.transforms import CropFlip, Normalise, PerImage, ResizeCrop, ShiftAffine

PLAIN = Normalise((0.0,), (1.0,))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator(9))


def test_normalise_is_the_formula() -> None:
    images = noise(4, 3, 5, 5)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    expected = (images.double() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    normalise = pickle.loads(pickle.dumps(Normalise(mean, std)))
    assert torch.allclose(normalise(images).double(), expected, atol=1e-6)
    assert torch.allclose(normalise(images.float() / 255), normalise(images), atol=1e-6)


def test_crop_and_flip_are_those_of_single_images() -> None:
    images = noise(32, 3, 12, 10)
    augment = CropFlip(PLAIN, padding=3)
    draws = augment.draw(32, generator())
    made = augment.apply(images, draws) * 255
    for image, out, (top, left), flip in zip(images, made, draws["offset"], draws["flip"], strict=True):
        expected = F.pad(image, [3] * 4)[:, top : top + 12, left : left + 10]
        if flip:
            expected = expected.flip(-1)
        assert torch.allclose(out, expected.float(), atol=1e-3)


def test_crop_offsets_and_flips_are_uniform() -> None:
    draws = CropFlip(PLAIN, padding=2).draw(50_000, generator())
    for axis in range(2):
        share = torch.bincount(draws["offset"][:, axis]).double() / 50_000
        assert torch.allclose(share, torch.full((5,), 0.2, dtype=torch.float64), atol=0.01)
    assert abs(float(draws["flip"].double().mean()) - 0.5) < 0.01


def test_affine_at_zero_is_the_identity_and_shifts_whole_pixels() -> None:
    images = noise(2, 1, 8, 8)
    augment = ShiftAffine(PLAIN, degrees=0, scale=0, shift=1)
    still = augment.apply(images, {"unit": torch.zeros(2, 4)})
    assert isinstance(still, torch.Tensor)
    assert torch.allclose(still * 255, images.float(), atol=1e-3)
    left = augment.apply(images, {"unit": torch.tensor([[0.0, 0, 1, 0]] * 2)})
    assert isinstance(left, torch.Tensor)
    assert torch.allclose(left[..., :-1] * 255, images[..., 1:].float(), atol=1e-2)
    assert float(left[..., -1].abs().max()) < 1e-4


def test_affine_quarter_turn_is_a_rotation() -> None:
    images = noise(1, 1, 8, 8)
    turned = ShiftAffine(PLAIN, degrees=90).apply(images, {"unit": torch.tensor([[1.0, 0, 0, 0]])})
    assert isinstance(turned, torch.Tensor)
    matches = [torch.allclose(turned[0] * 255, torch.rot90(images[0].float(), k, (1, 2)), atol=1e-2) for k in (1, 3)]
    assert any(matches)


def test_each_image_has_its_own_parameters() -> None:
    images = noise(1, 1, 8, 8).expand(64, 1, 8, 8)
    made = ShiftAffine(PLAIN)(images, generator())
    assert isinstance(made, torch.Tensor)
    assert len({tuple(image.flatten().tolist()) for image in made}) == 64


def test_per_image_pipelines_leave_the_global_generators_alone() -> None:
    import random

    pipeline = PerImage(lambda image: torch.tensor([torch.rand(()), random.random()]))
    image = Image.new("L", (2, 2))
    torch.manual_seed(1)
    random.seed(1)
    first = pipeline(image, generator(5))
    after = torch.rand(()), random.random()
    torch.manual_seed(1)
    random.seed(1)
    assert (torch.rand(()), random.random()) == after
    again = pipeline(image, generator(5))
    other = pipeline(image, generator(6))
    assert isinstance(first, torch.Tensor)
    assert isinstance(again, torch.Tensor)
    assert isinstance(other, torch.Tensor)
    assert torch.equal(first, again)
    assert not bool((first == other).any())


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (20, 300), (1, 1)])
def test_resize_crop_matches_torchvision(size: tuple[int, int]) -> None:
    v2 = pytest.importorskip("torchvision.transforms.v2")
    image = Image.fromarray(np.asarray(noise(size[1], size[0], 3)))
    ours = ResizeCrop(224, 256)(image)
    theirs = v2.Compose([v2.Resize(256), v2.CenterCrop(224), v2.PILToTensor()])(image)
    assert ours.shape == (3, 224, 224)
    assert torch.equal(ours, theirs)


def test_the_standard_transform_follows_the_size() -> None:
    def of(channels: int, size: int) -> object:
        images = torch.zeros(2, channels, size, size, dtype=torch.uint8)
        return train_transform(
            ImageDataset("x", "train", "", images=images, mean=(0.5,) * channels, std=(1,) * channels)
        )

    digits, cifar, stl = of(1, 8), of(3, 32), of(3, 96)
    assert isinstance(digits, ShiftAffine)
    assert isinstance(cifar, CropFlip)
    assert isinstance(stl, CropFlip)
    assert (cifar.padding, stl.padding) == (4, 12)
    on_disk = ImageDataset("x", "train", "", paths=[Path("p")])
    assert isinstance(train_transform(on_disk), PerImage)
    assert isinstance(eval_transform(on_disk), PerImage)
