"""Batched views against torchvision: each operation's arithmetic for given parameters, and the parameters'
distributions."""

from __future__ import annotations

import math
import pickle
import random
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from benchmarks.ssl_views import TorchvisionViews
from wasskit.data.base import ImageDataset
from wasskit.data.loaders import TrainLoader
from wasskit.data.pixels import (
    BRIGHTNESS,
    CONTRAST,
    SATURATION,
    adjust_hue,
    blend_coefficients,
    blend_colours,
    gaussian_blur,
    grey_weights,
    resized_crop,
    solarise,
)
from wasskit.data.transforms import Normalise, PerImage, to_uint8
from wasskit.data.views import (
    RandomCrops,
    RandomViews,
    ViewDistribution,
    ViewParameters,
    _box,
    random_views,
    recoloured,
)

PLAIN = Normalise((0.0,), (1.0,))
TWO = [ViewDistribution()] * 2


def images(n: int = 6, size: int = 32, channels: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, channels, 5, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear")
    return (smooth * 200 + torch.rand(n, channels, size, size, generator=generator) * 55).to(torch.uint8)


def make_view(images: Tensor, p: ViewParameters, size: int) -> Tensor:
    """One view of uint8 images (B, C, H, W) under given parameters, float32 (B, C, size, size) in [0, 1]."""
    cropped = resized_crop(images, p.top, p.left, p.height, p.width, p.flip, size)
    return recoloured(cropped, p, ViewDistribution())


def uniform(n: int, seed: int = 0) -> Tensor:
    return RandomViews(PLAIN, TWO).draw(n, torch.Generator().manual_seed(seed))["uniform"][:, 0]


def parameters_of(transform: v2.Transform, *inputs: Tensor) -> dict[str, Any]:
    """What a transform of torchvision draws for its inputs; older versions call the method _get_params."""
    draw = getattr(transform, "make_params", None) or transform._get_params
    parameters: dict[str, Any] = draw(list(inputs))
    return parameters


def identity(n: int, size: int) -> ViewParameters:
    """Parameters that change nothing."""
    never = ViewDistribution(flip=0, jitter=0, grey=0, blur=0, solarise=0)
    whole = torch.full((n,), size)
    return replace(never.parameters(uniform(n), size, size), top=whole * 0, left=whole * 0, height=whole, width=whole)


@pytest.mark.parametrize("size", [8, 32, 40])
@pytest.mark.parametrize("channels", [1, 3])
def test_resized_crop_is_torchvisions(size: int, channels: int) -> None:
    batch = images(8, 32, channels)
    p = ViewDistribution().parameters(uniform(8), 32, 32)
    made = resized_crop(batch, p.top, p.left, p.height, p.width, p.flip, size)
    for i in range(8):
        box = [int(x[i]) for x in (p.top, p.left, p.height, p.width)]
        crop = batch[i : i + 1].float() / 255
        expected = tv.resized_crop(crop, *box, [size, size], tv.InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
        expected = tv.horizontal_flip(expected) if p.flip[i] else expected
        torch.testing.assert_close(made[i : i + 1], expected, rtol=0, atol=3e-6)
    assert p.flip.any()
    assert not p.flip.all()


def test_resized_crop_is_pils_up_to_rounding() -> None:
    """PIL rounds to 8 bits after each axis: at most one grey level from each."""
    batch = images(16)
    p = ViewDistribution().parameters(uniform(16), 32, 32)
    made = resized_crop(batch, p.top, p.left, p.height, p.width, torch.zeros(16, dtype=torch.bool), 24) * 255
    for i in range(16):
        top, left, height, width = (int(x[i]) for x in (p.top, p.left, p.height, p.width))
        picture = Image.fromarray(batch[i].permute(1, 2, 0).numpy())
        picture = picture.crop((left, top, left + width, top + height)).resize((24, 24), Image.Resampling.BICUBIC)
        expected = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float()
        assert (made[i] - expected).abs().max() < 2
        assert (made[i] - expected).abs().mean() < 0.5


def test_crops_of_the_whole_image_change_nothing() -> None:
    batch = images(3)
    torch.testing.assert_close(make_view(batch, identity(3, 32), 32), batch / 255, rtol=0, atol=1e-5)


COLOUR_OPERATIONS: list[tuple[int, Callable[[Tensor, float], Tensor]]] = [
    (BRIGHTNESS, tv.adjust_brightness),
    (CONTRAST, tv.adjust_contrast),
    (SATURATION, tv.adjust_saturation),
]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("kind", "function"), COLOUR_OPERATIONS)
def test_blends_are_torchvisions(kind: int, function: Callable[[Tensor, float], Tensor], channels: int) -> None:
    x = images(8, channels=channels) / 255
    factors = torch.linspace(0.2, 1.9, 8)
    made = blend_colours(x, *blend_coefficients(torch.full((8,), kind), factors, grey_weights(x)))
    for i in range(8):
        torch.testing.assert_close(made[i], function(x[i], float(factors[i])), rtol=0, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_hue_is_torchvisions(channels: int) -> None:
    x = images(9, channels=channels) / 255
    x[0] = 0.4
    x[1, :, :4] = 0
    x[1, :, 4:8] = 1
    if channels == 3:
        x[2, 0] = x[2, 1]
        x[3, 1] = x[3, 2]
        x[4, 2] = x[4, 0]
    shifts = torch.linspace(-0.5, 0.5, 9)
    made = adjust_hue(x, shifts)
    for i in range(9):
        torch.testing.assert_close(made[i], tv.adjust_hue(x[i], float(shifts[i])), rtol=0, atol=3e-6)


@pytest.mark.parametrize("size", [4, 8, 32, 64, 65, 96, 100])
def test_blur_is_torchvisions(size: int) -> None:
    x = images(7, size) / 255
    sigmas = torch.linspace(0.1, 2, 7)
    made = gaussian_blur(x, sigmas)
    kernel = 2 * min(6, size - 1) + 1
    for i in range(7):
        expected = tv.gaussian_blur(x[i], [kernel, kernel], [float(sigmas[i])] * 2)
        torch.testing.assert_close(made[i], expected, rtol=0, atol=2e-6)
    torch.testing.assert_close(gaussian_blur(x, torch.zeros(7)), x, rtol=0, atol=1e-6)


def test_solarisation_and_grey_are_torchvisions() -> None:
    levels = torch.arange(256, dtype=torch.uint8).repeat(3, 1).view(1, 3, 16, 16)
    made = solarise(levels / 255, torch.tensor([True])) * 255
    torch.testing.assert_close(made, tv.solarize(levels, 128).float(), rtol=0, atol=1e-3)
    torch.testing.assert_close(solarise(levels / 255, torch.tensor([False])), levels / 255)

    batch = images(4)
    chosen = torch.tensor([True, False, True, False])
    made = make_view(batch, replace(identity(4, 32), grey=chosen), 32)
    for i in range(4):
        x = batch[i] / 255
        expected = tv.rgb_to_grayscale(x, num_output_channels=3) if chosen[i] else x
        torch.testing.assert_close(made[i], expected, rtol=0, atol=2e-5)


def test_jitter_applies_each_images_operations_in_its_own_order() -> None:
    """All 24 orders of brightness, contrast, saturation and hue, against torchvision's operations one by one."""
    orders = list(permutations(range(4)))
    batch = images(24)
    p = identity(24, 32)
    blend = torch.tensor([1.35, 0.7, 1.2]).repeat(24, 1)
    order = torch.tensor([[op for op in o if op != 3] for o in orders])
    slot = torch.tensor([o.index(3) for o in orders])
    hue = torch.full((24,), 0.09)
    made = make_view(batch, replace(p, blend=blend, order=order, hue=hue, hue_slot=slot), 32)
    for i, o in enumerate(orders):
        x = batch[i] / 255
        for op in o:
            if op == 3:
                x = tv.adjust_hue(x, 0.09)
            else:
                x = COLOUR_OPERATIONS[op][1](x, float(blend[i, op]))
        torch.testing.assert_close(made[i], x, rtol=0, atol=3e-5)


def test_crops_of_files_have_torchvisions_distribution() -> None:
    n, height, width = 1500, 24, 40
    random.seed(0)
    boxes = np.array([_box(ViewDistribution(), width, height) for _ in range(n)])
    torch.manual_seed(0)
    picture = torch.zeros(3, height, width)
    theirs = [parameters_of(v2.RandomResizedCrop(16), picture) for _ in range(n)]
    for column, name in enumerate(("left", "top", "width", "height")):
        assert stats.ks_2samp(boxes[:, column], [params[name] for params in theirs]).pvalue > 1e-3, name
    left, top, w, h = boxes.T
    assert min(left.min(), top.min()) >= 0
    assert (left + w).max() <= width
    assert (top + h).max() <= height
    for shape in ((10, 90), (90, 10), (16, 16)):
        fallback = parameters_of(v2.RandomResizedCrop(8, (1.3, 1.3)), torch.zeros(3, *shape))
        found = _box(ViewDistribution(scale=(1.3, 1.3)), shape[1], shape[0])
        assert found == tuple(fallback[name] for name in ("left", "top", "width", "height"))


def test_views_of_files_are_those_of_their_crops() -> None:
    """Colours and flips of a batch of crops, against the same done with each whole crop as an image in memory."""
    crops = images(10, 16).view(5, 2, 3, 16, 16)
    two = [ViewDistribution(), ViewDistribution(solarise=0.9)]
    made = RandomViews(PLAIN, two, size=16, cropped=True)
    draws = made.draw(5, torch.Generator().manual_seed(0))
    for i, view in enumerate(made.apply(crops, draws)):
        p = two[i].parameters(draws["uniform"][:, i], 16, 16)
        whole = torch.full((5,), 16)
        p = replace(p, top=whole * 0, left=whole * 0, height=whole, width=whole)
        torch.testing.assert_close(view, make_view(crops[:, i], p, 16), rtol=0, atol=1e-5)


def test_crops_are_cut_out_of_one_decoded_image() -> None:
    """A picture of one colour on each side, cropped by the draws that the seed gives, resized by PIL."""
    picture = Image.fromarray(images(1, 64)[0].permute(1, 2, 0).numpy())
    two = (ViewDistribution(scale=(0.2, 0.5)), ViewDistribution(scale=(0.5, 1.0)))
    made = PerImage(RandomCrops(16, two))(picture, torch.Generator().manual_seed(5))
    assert isinstance(made, Tensor)
    random.seed(5)
    for view, distribution in zip(made, two, strict=True):
        left, top, width, height = _box(distribution, 64, 64)
        crop = picture.crop((left, top, left + width, top + height)).resize((16, 16), Image.Resampling.BICUBIC)
        assert torch.equal(view, to_uint8(crop))


def test_what_never_happens_is_left_out() -> None:
    """Without changes of colour a view is its crop, to the last bit."""
    batch = images(6)
    plain = RandomViews(PLAIN, [ViewDistribution().geometry()])
    draws = plain.draw(6, torch.Generator().manual_seed(0))
    p = ViewDistribution().parameters(draws["uniform"][:, 0], 32, 32)
    expected = resized_crop(batch, p.top, p.left, p.height, p.width, p.flip, 32)
    assert torch.equal(plain.apply(batch, draws)[0], PLAIN(expected))


def test_crop_parameters_have_torchvisions_distribution() -> None:
    """Kolmogorov-Smirnov on area, aspect ratio and place, on a wide image, where the ten attempts matter."""
    n, height, width = 1500, 24, 40
    distribution = ViewDistribution()
    p = distribution.parameters(uniform(n), height, width)
    torch.manual_seed(0)
    picture = torch.zeros(3, height, width)
    crop = v2.RandomResizedCrop(16, distribution.scale, distribution.ratio)
    theirs = [parameters_of(crop, picture) for _ in range(n)]
    made = {"top": p.top, "left": p.left, "height": p.height, "width": p.width}
    for name, values in made.items():
        expected = [params[name] for params in theirs]
        assert stats.ks_2samp(values.numpy(), expected).pvalue > 1e-3, name
    area = p.height * p.width
    assert stats.ks_2samp(area.numpy(), [t["height"] * t["width"] for t in theirs]).pvalue > 1e-3
    assert int((p.top + p.height).max()) <= height
    assert int((p.left + p.width).max()) <= width
    assert min(int(p.top.min()), int(p.left.min())) >= 0


def test_the_largest_uniform_number_keeps_the_crop_inside() -> None:
    """Float32 rounds its product with a count of places up to the count, for one count in four."""
    largest = torch.full((1, 36), 1 - 2.0**-24)
    for size in (32, 96, 100, 224):
        p = ViewDistribution(scale=(0.1, 0.2)).parameters(largest, size, size)
        assert int(p.top + p.height) == size
        assert int(p.left + p.width) == size


@pytest.mark.parametrize(("height", "width", "expected"), [(10, 90, (10, 13)), (90, 10, (13, 10)), (16, 16, (16, 16))])
def test_crop_falls_back_to_the_middle(height: int, width: int, expected: tuple[int, int]) -> None:
    """No box of 130 % of the area fits: torchvision's fallback is the largest central one of an allowed ratio."""
    p = ViewDistribution(scale=(1.3, 1.3)).parameters(uniform(5), height, width)
    torch.manual_seed(0)
    theirs = parameters_of(v2.RandomResizedCrop(8, (1.3, 1.3)), torch.zeros(3, height, width))
    assert (int(p.height[0]), int(p.width[0])) == expected == (theirs["height"], theirs["width"])
    assert (int(p.top[0]), int(p.left[0])) == (theirs["top"], theirs["left"])


def test_colour_parameters_have_torchvisions_distribution() -> None:
    n = 2400
    p = ViewDistribution(jitter=1.0).parameters(uniform(n), 8, 8)
    torch.manual_seed(1)
    jitter = v2.ColorJitter(0.4, 0.4, 0.2, 0.1)
    theirs = [parameters_of(jitter) for _ in range(n)]
    for column, name in enumerate(("brightness_factor", "contrast_factor", "saturation_factor")):
        assert stats.ks_2samp(p.blend[:, column].numpy(), [float(t[name]) for t in theirs]).pvalue > 1e-3, name
    assert stats.ks_2samp(p.hue.numpy(), [float(t["hue_factor"]) for t in theirs]).pvalue > 1e-3

    # Each of the 24 orders equally often, as theirs (chi-squared).
    code = p.hue_slot * 27 + (p.order * torch.tensor([9, 3, 1])).sum(dim=1)
    counts = code.unique(return_counts=True)[1]
    assert len(counts) == 24
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_probabilities_and_blur_have_their_distributions() -> None:
    n = 20000
    p = ViewDistribution().parameters(uniform(n), 8, 8)
    drawn = {
        "flip": (p.flip, 0.5), "jitter": (p.blend[:, 0] != 1, 0.8), "grey": (p.grey, 0.2),
        "blur": (p.sigma > 0, 0.5), "solarise": (p.solarise, 0.2),
    }  # fmt: skip
    for name, (chosen, probability) in drawn.items():
        deviation = math.sqrt(probability * (1 - probability) / n)
        assert abs(chosen.double().mean().item() - probability) < 4 * deviation, name
    assert torch.equal(p.hue != 0, p.blend[:, 0] != 1)
    sigma = p.sigma[p.sigma > 0].numpy()
    assert stats.kstest(sigma, stats.uniform(0.1, 1.9).cdf).pvalue > 1e-3
    # What is drawn for one operation says nothing of another.
    columns = torch.stack([chosen.double() for chosen, _ in drawn.values()])
    assert (torch.corrcoef(columns) - torch.eye(5)).abs().max() < 0.04


def test_views_are_independent_and_each_images_own() -> None:
    batch = images(40)
    augment = RandomViews(PLAIN, TWO)
    generator = torch.Generator().manual_seed(3)
    first, second = augment(batch, generator)
    assert first.shape == second.shape == batch.shape
    assert first.dtype == torch.float32
    assert (first - second).abs().flatten(1).mean(dim=1).min() > 1e-3
    assert first.min() >= 0
    assert first.max() <= 1

    again, _ = augment(batch, torch.Generator().manual_seed(3))
    assert torch.equal(first, again)
    draws = augment.draw(40, torch.Generator().manual_seed(3))
    part, _ = augment.apply(batch[7:19], {key: x[7:19] for key, x in draws.items()})
    torch.testing.assert_close(part, first[7:19], rtol=0, atol=1e-6)
    assert not torch.equal(first, augment(batch, generator)[0])


@pytest.mark.slow
def test_view_statistics_are_torchvisions() -> None:
    """Mean, spread and high frequencies of whole views, batched in float against the per-image pipeline in 8 bits."""
    batch = images(1).repeat(2000, 1, 1, 1)
    ours, _ = RandomViews(PLAIN, TWO)(batch, torch.Generator().manual_seed(0))
    pipeline = PerImage(TorchvisionViews(32, [ViewDistribution()]))
    picture = Image.fromarray(batch[0].permute(1, 2, 0).numpy())
    theirs = torch.stack([pipeline(picture, torch.Generator().manual_seed(seed))[0] for seed in range(400)]).float()
    statistics: dict[str, Callable[[Tensor], Tensor]] = {
        "mean": lambda x: x.mean(dim=(1, 2, 3)),
        "deviation": lambda x: x.std(dim=(1, 2, 3)),
        "roughness": lambda x: x.diff(dim=3).abs().mean(dim=(1, 2, 3)),
        "colour": lambda x: x.std(dim=1).mean(dim=(1, 2)),
    }
    for name, statistic in statistics.items():
        a, b = statistic(ours).numpy(), statistic(theirs / 255).numpy()
        if name != "colour":
            assert stats.ks_2samp(a, b).pvalue > 1e-3, name
        assert abs(a.mean() - b.mean()) < 0.08 * b.mean(), name


def test_small_grey_digits() -> None:
    digits = images(20, size=8, channels=1)
    first, second = RandomViews(Normalise((0.3,), (0.4,)), [ViewDistribution(scale=(0.4, 1.0))] * 2)(
        digits, torch.Generator().manual_seed(0)
    )
    assert first.shape == second.shape == (20, 1, 8, 8)
    assert torch.isfinite(first).all()


def test_views_may_differ_in_distribution_and_size() -> None:
    never = ViewDistribution(scale=(1, 1), ratio=(1, 1), flip=0, jitter=0, grey=0, blur=0, solarise=0)
    first, second = RandomViews(PLAIN, [never, ViewDistribution()], size=16)(
        images(5), torch.Generator().manual_seed(0)
    )
    expected = torch.nn.functional.interpolate(images(5) / 255, (16, 16), mode="bicubic", antialias=True)
    torch.testing.assert_close(first, expected.clamp(0, 1), rtol=0, atol=1e-5)
    assert second.shape == (5, 3, 16, 16)
    with pytest.raises(ValueError, match="1 or 3 channels"):
        RandomViews(PLAIN, TWO)(torch.zeros(2, 4, 8, 8, dtype=torch.uint8), torch.Generator())


def test_loader_gives_two_views_from_memory_and_from_files() -> None:
    stored = images(24, size=16)
    labels = torch.arange(24) % 3
    memory = ImageDataset("toy", "train", ("a", "b", "c"), labels=labels, images=stored)
    batched = random_views(memory, ViewDistribution(), ViewDistribution())
    batch = next(TrainLoader(memory, 8, batched, seed=1).batches(0))
    assert [view.shape for view in batch.views] == [(8, 3, 16, 16)] * 2

    def read(index: int) -> Image.Image:
        return Image.fromarray(stored[index].permute(1, 2, 0).numpy())

    files = ImageDataset("toy", "train", ("a", "b", "c"), labels=labels, reader=read, image_size=16)
    per_image = random_views(files, ViewDistribution(), ViewDistribution())
    assert pickle.dumps(per_image)
    assert per_image.decode is not None
    loader = TrainLoader(files, 8, per_image, seed=1, workers=0)
    one, two = next(loader.batches(0)).views
    assert one.shape == two.shape == (8, 3, 16, 16)
    assert not torch.equal(one, two)
    assert torch.equal(one, next(TrainLoader(files, 8, per_image, seed=1, workers=0).batches(0)).views[0])
