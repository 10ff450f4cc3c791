"""Convolutional autoencoders, and the first stage that trains one and gives its latent points."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wasskit.data.base import ImageDataset
from wasskit.data.decode import threaded
from wasskit.data.seeds import derive_seed
from wasskit.distributed.collectives import reduce_sum
from wasskit.distributed.norm import convert_sync_batchnorm
from wasskit.distributed.shard import map_shards, shard_indices, shard_weight
from wasskit.models.weights import load_state, read_state
from wasskit.ot.precision import autocast
from wasskit.plugins.w2gn.core.stages import FirstStage, Points
from wasskit.plugins.w2gn.core.task import own_rows
from wasskit.system.transfer import to_device
from wasskit.training.optim import build_optimizer
from wasskit.training.schedules import cosine
from wasskit.training.task import Losses, Optimisation, Plan, Progress


class _Encoder(nn.Module):
    """Convolutions of stride 2 down to 4 x 4, one of 4 x 4, and a linear layer to whitened latents (DCGAN's shape)."""

    def __init__(self, image_size: int, channels: int, filters: int, latent: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        widths = stage_widths(image_size, filters)
        for i, (narrow, wide) in enumerate(zip([channels, *widths[:-1]], widths, strict=True)):
            layers.append(nn.Conv2d(narrow, wide, 4, 2, 1, bias=False))
            if i:
                layers.append(nn.BatchNorm2d(wide))
            layers.append(nn.LeakyReLU(0.2))
        layers.append(nn.Conv2d(widths[-1], widths[-1], 4, 2, 0, bias=False))
        self.features = nn.Sequential(*layers)
        self.fc_out = nn.Sequential(
            nn.Linear(widths[-1], latent), nn.LeakyReLU(0.2), nn.BatchNorm1d(latent, affine=False)
        )

    def forward(self, images: Tensor) -> Tensor:
        latents: Tensor = self.fc_out(self.features(images).flatten(1))
        return latents


class Decoder(nn.Module):
    """The mirror image of the encoder, ending in tanh."""

    def __init__(self, image_size: int, channels: int, filters: int, latent: int) -> None:
        super().__init__()
        widths = stage_widths(image_size, filters)[::-1]
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(widths[0], widths[0], 4, 1, 0, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
        ]
        for wide, narrow in itertools.pairwise(widths):
            layers += [nn.ConvTranspose2d(wide, narrow, 4, 2, 1, bias=False), nn.BatchNorm2d(narrow), nn.ReLU()]
        layers += [nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1, bias=False), nn.Tanh()]
        self.features = nn.Sequential(*layers)
        self.fc_in = nn.Sequential(nn.Linear(latent, widths[0]), nn.LeakyReLU(0.2), nn.BatchNorm1d(widths[0]))

    def forward(self, latents: Tensor) -> Tensor:
        images: Tensor = self.features(self.fc_in(latents)[:, :, None, None])
        return images


class Autoencoder(nn.Module):
    """Encoder and decoder of images (B, C, S, S) in [-1, 1], S a power of two from 8 on.

    At S = 64 with 3 channels it is the published network, parameter names included.
    """

    def __init__(self, image_size: int, channels: int = 3, filters: int = 32, latent: int = 16) -> None:
        super().__init__()
        if image_size < 8 or image_size & (image_size - 1):
            raise ValueError(f"the side of the images must be a power of two from 8 on, not {image_size}")
        self.image_size, self.channels, self.latent = image_size, channels, latent
        self.encoder = _Encoder(image_size, channels, filters, latent)
        self.decoder = Decoder(image_size, channels, filters, latent)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstructions and latents."""
        latents = self.encoder(images)
        return self.decoder(latents), latents


def stage_widths(image_size: int, filters: int) -> list[int]:
    """Channels after every halving of the side down to 4."""
    halvings = image_size.bit_length() - 3
    return [filters * 2 ** min(i, 3) for i in range(halvings)]


class PerceptualLoss(nn.Module):
    """Mean squared differences of four layers of VGG-16, from torchvision's weights in a local file."""

    layers = (3, 8, 15, 22)

    def __init__(self, weights: Path) -> None:
        super().__init__()
        from torchvision.models import vgg16

        network: Any = vgg16(weights=None)
        load_state(network, read_state(weights), weights, "torchvision's VGG-16")
        self.features = network.features[: self.layers[-1] + 1].eval().requires_grad_(False)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        loss = first.new_zeros(())
        a, b = (part.expand(-1, 3, -1, -1) if part.shape[1] == 1 else part for part in (first, second))
        for number, layer in enumerate(self.features):
            a, b = layer(a), layer(b)
            if number in self.layers:
                loss = loss + F.mse_loss(a, b)
        return loss


class AutoencoderStage(FirstStage):
    """Train the autoencoder; the points are a normal sample and the latents of all training images.

    Args:
        images: training images that fit in memory (uint8), or on disk.
        perceptual: VGG loss instead of the mean squared error of pixels.
        workers: threads that decode images on disk; 0: none beside the one that trains; None: by the number of cores.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        images: ImageDataset,
        test: ImageDataset,
        *,
        batch_size: int,
        lr: float,
        seed: int,
        perceptual: PerceptualLoss | None = None,
        workers: int | None = None,
    ) -> None:
        super().__init__()
        self.threads = None if workers is None else max(workers, 1)
        self.autoencoder = convert_sync_batchnorm(autoencoder)
        self.images, self.test = images, test
        self.batch_size, self.lr, self.seed = batch_size, lr, seed
        # In a list, so that its weights are not in the checkpoints.
        self._perceptual = [perceptual]

    def batch(self, number: int) -> Tensor:
        rows = own_rows(self.batch_size, "--autoencoder-batch-size")
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "autoencoder", number, 0))
        index = torch.randint(len(self.images), (self.batch_size,), generator=generator)
        return self.load(self.images, index[rows.start : rows.stop])

    def load(self, dataset: ImageDataset, index: Tensor) -> Tensor:
        """Images of a data set, (B, C, S, S) in [-1, 1]."""
        return loaded(dataset, index, self.autoencoder.image_size, self.autoencoder.channels, self.threads)

    def images_of(self, dataset: ImageDataset, count: int) -> Tensor:
        """The first ``count`` images of a data set, (B, C, S, S) in [0, 1], on the autoencoder's device."""
        device = next(self.autoencoder.parameters()).device
        index = torch.arange(min(count, len(dataset)))
        return (self.load(dataset, index).to(device) + 1.0) / 2.0

    def optimisations(self, plan: Plan) -> list[Optimisation]:
        adam = build_optimizer("adam", self.autoencoder.parameters(), lr=self.lr)
        return [Optimisation(adam, cosine(plan.total_steps, end=0.02), "autoencoder")]

    def step(self, batch: Tensor, stepper: Any) -> Losses:
        images = to_device(batch, stepper.device)
        with stepper.autocast():
            restored, _ = self.autoencoder(images)
            perceptual = self._perceptual[0]
            loss = (
                F.mse_loss(restored, images) if perceptual is None else perceptual.to(images.device)(restored, images)
            )
        losses = Losses(loss).weighted(shard_weight(self.batch_size))
        stepper.backward(losses.total)
        stepper.update("autoencoder")
        return losses

    def evaluate(self, progress: Progress) -> dict[str, dict[str, float]]:
        return {"test": {"reconstruction": self.reconstruction_error()}}

    @torch.no_grad()
    def reconstruction_error(self) -> float:
        """Mean squared error of test pixels, in [-1, 1]. Called by all ranks."""
        device = next(self.autoencoder.parameters()).device
        total, count = 0.0, 0
        rows = shard_indices(len(self.test))
        for start in range(0, len(rows), 256):
            images = self.load(self.test, torch.tensor(rows[start : start + 256])).to(device)
            with autocast(device, self.precision):
                restored, _ = self.autoencoder(images)
            total += float((restored - images).square().sum())
            count += images.numel()
        sums = reduce_sum(torch.tensor([total, count], dtype=torch.float64))
        return float(sums[0] / sums[1])

    @torch.no_grad()
    def latents(self, dataset: ImageDataset) -> Tensor:
        """Latents (N, d) of a data set. Called by all ranks."""
        device = next(self.autoencoder.parameters()).device

        def latents(own: Tensor) -> Tensor:
            parts = (self.load(dataset, index).to(device) for index in own.split(512))
            return torch.cat([self.autoencoder.encoder(images) for images in parts])

        return map_shards(latents, torch.arange(len(dataset)))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images (N, C, S, S) in [0, 1]."""
        parts = [self.autoencoder.decoder(part) for part in latents.split(512)]
        return (torch.cat(parts) + 1.0) / 2.0

    def points(self) -> Points:
        latents = self.latents(self.images)
        return Points(self.normal(max(len(latents), 100_000), "normal").to(latents.device), latents)

    def fresh(self) -> Points:
        latents = self.latents(self.test)
        return Points(self.normal(len(latents), "fresh normal").to(latents.device), latents)

    def normal(self, count: int, purpose: str) -> Tensor:
        """``count`` standard normal points (count, d)."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, purpose))
        return torch.randn(count, self.autoencoder.latent, generator=generator)


def loaded(dataset: ImageDataset, index: Tensor, size: int, channels: int, threads: int | None = None) -> Tensor:
    """Images of a data set (B, C, S, S) in [-1, 1], resampled to ``size`` and in ``channels`` colours.

    Those on disk are decoded by ``threads`` (None: by the number of cores).
    """
    if dataset.images is not None:
        images = dataset.images[index].float()
    else:
        from torchvision.transforms.functional import pil_to_tensor

        def decoded(place: int) -> Tensor:
            pixels: Tensor = pil_to_tensor(dataset.image(int(index[place])).resize((size, size)))
            return pixels

        images = torch.stack([*threaded(decoded, len(index), threads)]).float()
    if images.shape[1] == 1 and channels == 3:
        images = images.expand(-1, 3, -1, -1)
    elif images.shape[1] == 3 and channels == 1:
        images = images.mean(1, keepdim=True)
    if images.shape[-2:] != (size, size):
        images = F.interpolate(images, (size, size), mode="bilinear", align_corners=False, antialias=True)
    return images / 127.5 - 1.0


def load_autoencoder(autoencoder: Autoencoder, path: Path) -> None:
    """Load weights of an autoencoder of this architecture. Raises `UserError` for whatever does not fit."""
    load_state(autoencoder, read_state(path), path, "the network that --image-size, --filters and --latent ask for")
