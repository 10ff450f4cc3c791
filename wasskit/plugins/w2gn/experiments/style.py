"""Style transfer: two domains of images, convolutional maps between them, and how these are judged."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wasskit.data.base import read_image
from wasskit.data.folder import list_images
from wasskit.data.photographs import read_pixels, sample_photographs
from wasskit.data.seeds import derive_seed
from wasskit.distributed.shard import map_shards
from wasskit.errors import UserError
from wasskit.evaluation.transport import forward_inverse_error
from wasskit.models.icnn import ConvICNN, Potential, QuadraticPotential
from wasskit.ot.energy import energy_distance, random_directions
from wasskit.ot.gaussian import balance, streamed_moments
from wasskit.plugins.w2gn.core.evaluation import flat
from wasskit.plugins.w2gn.core.stages import chosen
from wasskit.plugins.w2gn.core.task import Draw, objective_settings
from wasskit.plugins.w2gn.core.transport import W2GN
from wasskit.plugins.w2gn.figures import image_grid
from wasskit.plugins.w2gn.options import TransportOptions
from wasskit.report import Report, Table
from wasskit.system.transfer import to_device

_CHUNK = 16


class ImageDomain(NamedTuple):
    """Images (N, 3, S, S) uint8 for training and for testing."""

    name: str
    train: Tensor
    test: Tensor


def image_folders(root: Path, size: int) -> tuple[ImageDomain, ImageDomain]:
    """``trainA``, ``trainB`` (and ``testA``, ``testB`` where they are) below ``root``, as CycleGAN's data sets lie.

    Images are resized to ``size`` pixels. Without test folders an eighth of the training images tests.

    Raises:
        UserError: a folder is missing or empty, or an image unreadable.
    """
    domains = []
    for letter in "AB":
        train = folder_images(root / f"train{letter}", size)
        test_folder = root / f"test{letter}"
        if test_folder.is_dir():
            test = folder_images(test_folder, size)
        else:
            count = max(len(train) // 8, min(2, len(train) // 2))
            train, test = train[count:], train[:count]
        domains.append(ImageDomain(letter, train, test))
    return domains[0], domains[1]


class Style:
    """Two domains of images and test images (N, 3, S, S) in [-1, 1], ``x`` and ``y``, of them."""

    def __init__(self, first: ImageDomain, second: ImageDomain, device: torch.device | str = "cpu") -> None:
        self.first, self.second = first, second
        self.x, self.y = (scaled(domain.test[:64]).to(device) for domain in (first, second))
        seeded = torch.Generator(device).manual_seed(0)
        self.directions, self.colour_directions = (
            random_directions(count, dim, like=self.x, generator=seeded)
            for count, dim in ((256, self.x[0].numel()), (128, 3))
        )

    def scores(self, transport: W2GN) -> dict[str, dict[str, float]]:
        """Energy distances of whole images and of their colours before and after the maps, and the cycle error."""
        x, y = self.x, self.y
        forward = map_shards(partial(transport.forward_map, chunk=_CHUNK), x)
        inverse, back = (map_shards(partial(transport.inverse_map, chunk=_CHUNK), z) for z in (y, forward))

        def images(a: Tensor, b: Tensor) -> float:
            return float(energy_distance(a.flatten(1), b.flatten(1), self.directions))

        def colours(a: Tensor, b: Tensor) -> float:
            return float(energy_distance(colour_sample(a), colour_sample(b), self.colour_directions))

        return {
            "test": {
                "energy_before": images(x, y),
                "energy_forward": images(forward, y),
                "colours_before": colours(x, y),
                "colours_forward": colours(forward, y),
                "colours_inverse": colours(inverse, x),
                "cycle_error": forward_inverse_error(x.flatten(1), back.flatten(1)),
            }
        }

    def report(self, transport: W2GN, final: Mapping[str, float] | None = None) -> Report:
        """The table, and test images with their images under the maps.

        Args:
            final: the scores as ``split/metric``, where they are known.
        """
        final = dict(flat(self.scores(transport)) if final is None else final)
        rows = [
            ["energy distance of colours, before", final["test/colours_before"]],
            ["  forward", final["test/colours_forward"]],
            ["  inverse", final["test/colours_inverse"]],
            ["energy distance of images, before", final["test/energy_before"]],
            ["  forward", final["test/energy_forward"]],
            ["forward and back, % of the variance", final["test/cycle_error"]],
        ]
        side = self.x.shape[-1]
        title = f"{self.first.name} and {self.second.name}, {side} pixels"
        count = 24 if side <= 64 else 12

        def images() -> dict[str, Tensor]:
            a, b = self.x[:count], self.y[:count]
            rows = {
                f"{self.first.name}, test images": a,
                f"mapped to {self.second.name}": transport.forward_map(a, _CHUNK),
                f"{self.second.name}, test images": b,
                f"mapped to {self.first.name}": transport.inverse_map(b, chunk=_CHUNK),
            }
            return {name: (images + 1.0) / 2.0 for name, images in rows.items()}

        return Report(
            {"final": final},
            [Table(["on test images", "value"], rows, title, digits=4)],
            figures={"mapped": lambda: image_grid(images())},
        )


def folder_images(folder: Path, size: int) -> Tensor:
    """All images below a folder at ``size`` pixels."""
    if not folder.is_dir():
        raise UserError(
            f"There is no folder {folder}: two domains lie in trainA and trainB (and testA, testB) of one folder, "
            "as in CycleGAN's data sets."
        )
    paths = list_images(folder)
    if len(paths) < 4:
        raise UserError(f"{folder} holds {len(paths)} images: a domain needs at least four.")
    arrays = [np.asarray(read_image(path, 3).resize((size, size))) for path in paths]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


def photograph_patches(size: int, count: int, seed: int) -> tuple[ImageDomain, ImageDomain]:
    """Random square patches of scikit-learn's two photographs, cut at one to three times ``size`` and resampled.

    Test patches are other random ones of the same photographs and may overlap with training patches.
    """
    domains = []
    for path in sample_photographs():
        pixels = torch.from_numpy(read_pixels(path)).permute(2, 0, 1).float()
        train = patches(pixels, size, count, derive_seed(seed, path.stem, "train"))
        domains.append(ImageDomain(path.stem, train, patches(pixels, size, 64, derive_seed(seed, path.stem, "test"))))
    return domains[0], domains[1]


def patches(pixels: Tensor, size: int, count: int, seed: int) -> Tensor:
    """``count`` random patches (count, 3, size, size) uint8 of an image (3, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    _, height, width = pixels.shape
    largest = min(3 * size, height, width)
    sides = torch.randint(min(size, largest), largest + 1, (count,), generator=generator).tolist()
    places = torch.rand(count, 2, generator=generator).tolist()
    cut = []
    for side, (down, right) in zip(sides, places, strict=True):
        top, left = int(down * (height - side + 1)), int(right * (width - side + 1))
        patch = pixels[None, :, top : top + side, left : left + side]
        cut.append(
            torch.nn.functional.interpolate(patch, (size, size), mode="bilinear", align_corners=False, antialias=True)
        )
    return torch.cat(cut).round().clamp(0, 255).to(torch.uint8)


def conv_transport(options: TransportOptions, first: Tensor, second: Tensor, width: int) -> W2GN:
    """Two convolutional potentials: starting at the transport of the colours' Gaussians or at the identity,
    or to be pre-trained to it.

    Args:
        first, second: training images (N, 3, S, S) uint8.
        width: channels of the convolutions.
    """
    pair: list[Potential] = []
    for _ in range(2):
        network = ConvICNN(first.shape[-1], 3, width, options.potentials.strong_convexity)
        network.convexify()
        if options.potentials.start != "pretrain":
            network.thin_out()
        pair.append(network if options.potentials.start == "pretrain" else QuadraticPotential(network))
    coordinates = None
    if options.potentials.start == "gaussian":
        colours = [streamed_moments(pixels(part) for part in images.split(256)) for images in (first, second)]
        coordinates = balance(colours[0].mean, colours[0].covariance, colours[1].mean, colours[1].covariance, 1e-3)
    transport = W2GN(pair[0], pair[1], coordinates=coordinates, **objective_settings(options.objective))
    if options.potentials.start != "pretrain":
        transport.center(scaled(first[:256]), scaled(second[:256]))
    return transport


def pixels(images: Tensor) -> Tensor:
    """The colours (N, 3) of images, in [-1, 1]."""
    return scaled(images).permute(0, 2, 3, 1).reshape(-1, 3)


def batches(images: Tensor, seed: int, side: str, device: torch.device) -> Draw:
    """Batches of a domain by number, mirrored at random."""

    def draw(number: int, count: int, rows: range | None = None) -> Tensor:
        batch = scaled(chosen(images, count, seed, side, number, rows=rows))
        mirrored = torch.tensor(rows or range(count)) % 2 == 1
        batch[mirrored] = batch[mirrored].flip(3)
        return to_device(batch, device)

    return draw


def colour_sample(images: Tensor) -> Tensor:
    """About 4,096 colours (N, 3) of images, evenly spread."""
    colours = images.permute(0, 2, 3, 1).reshape(-1, 3)
    return colours[:: max(1, len(colours) // 4096)]


def scaled(images: Tensor) -> Tensor:
    """uint8 to [-1, 1]."""
    return images.float() / 127.5 - 1.0
