"""How good the samples of a mapped latent space are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from wasskit.data.seeds import derive_seed
from wasskit.distributed.shard import map_shards
from wasskit.evaluation.transport import (
    InceptionFeatures,
    feature_moments,
    frechet_inception_distance,
    gaussian_distance,
)
from wasskit.ot.energy import energy_distance
from wasskit.ot.gaussian import square_root_factor, streamed_moments
from wasskit.plugins.w2gn.core.objective import W2GN
from wasskit.plugins.w2gn.experiments.autoencoder import AutoencoderStage
from wasskit.training.task import Progress


class LatentQuality:
    """Distances of mapped normals, and of the images decoded from them, to those of the test images."""

    def __init__(self, stage: AutoencoderStage, seed: int, count: int = 2048) -> None:
        self.stage = stage
        self.seed = seed
        generator = torch.Generator().manual_seed(derive_seed(seed, "test normal"))
        self._normal = torch.randn(count, stage.autoencoder.latent, generator=generator)
        self._test: Tensor | None = None
        self._training: Tensor | None = None
        self._before: dict[str, float] | None = None

    @property
    def normal(self) -> Tensor:
        """Test points of the normal, on the autoencoder's device."""
        return self._normal.to(next(self.stage.autoencoder.parameters()).device)

    def test_latents(self) -> Tensor:
        """Latents of the test images; made once, when the autoencoder is trained."""
        if self._test is None:
            self._test = self.stage.latents(self.stage.test)
        return self._test

    def training_latents(self) -> Tensor:
        """Latents of the training images; made once as well."""
        if self._training is None:
            self._training = self.stage.latents(self.stage.images)
        return self._training

    def gaussian_samples(self, count: int) -> Tensor:
        """Samples of the Gaussian with the moments of the training latents."""
        moments = streamed_moments([self.training_latents()])
        z = self.normal[:count].double()
        return (z @ square_root_factor(moments.covariance).T + moments.mean).float()

    def __call__(self, transport: W2GN, progress: Progress | None) -> dict[str, dict[str, float]]:
        latents, normal = self.test_latents(), self.normal
        mapped = map_shards(transport.forward_map, normal)
        if self._before is None:
            samples = {
                "before": normal,
                "gaussian": self.gaussian_samples(len(normal)),
                "training": self.training_latents()[: len(normal)],
            }
            self._before = {
                name: value
                for key, points in samples.items()
                for name, value in self.distances(key, points).items()
            }
        moments = {"moments_forward": gaussian_distance(mapped, latents)}
        return {"test": self._before | self.distances("forward", mapped) | moments}

    def distances(self, key: str, points: Tensor) -> dict[str, float]:
        """Energy distances of latents, and of the images decoded from them, to those of the test images."""
        latents = self.test_latents()
        images = self.stage.images_of(self.stage.test, len(self.normal)).flatten(1)
        decoded = self.stage.decode(points).flatten(1)
        generator = torch.Generator(latents.device).manual_seed(0)
        theta, directions = (
            torch.randn(128, width, generator=generator, device=latents.device)
            for width in (latents.shape[1], images.shape[1])
        )
        return {
            f"energy_{key}": float(energy_distance(points, latents, theta)),
            f"images_{key}": float(energy_distance(decoded, images, directions)),
        }


@torch.no_grad()
def fid_scores(
    stage: AutoencoderStage, transport: W2GN, weights: Path, count: int, seed: int, device: torch.device
) -> tuple[dict[str, float], str]:
    """FID of reconstructions, decoded normals and decoded mapped normals against the training images,
    and its label.
    """
    features = InceptionFeatures(weights).to(device)
    generator = torch.Generator().manual_seed(derive_seed(seed, "fid"))
    normal = torch.randn(count, stage.autoencoder.latent, generator=generator).to(device)

    def images(dataset_indices: Tensor, restore: bool) -> Iterator[Tensor]:
        for index in dataset_indices.split(64):
            batch = stage.load(stage.images, index).to(device)
            yield ((stage.autoencoder(batch)[0] if restore else batch) + 1) / 2

    def decoded(latents: Tensor) -> Iterator[Tensor]:
        for part in latents.split(64):
            yield stage.decode(part)

    everything = torch.arange(len(stage.images))
    real = feature_moments(images(everything, False), features)
    streams = {
        "fid_reconstructed": images(everything[:count], True),
        "fid_raw": decoded(normal),
        "fid_mapped": decoded(transport.forward_map(normal)),
    }
    scores = {
        name: frechet_inception_distance(feature_moments(stream, features), real)
        for name, stream in streams.items()
    }
    return scores, features.label
