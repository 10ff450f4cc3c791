"""How good the samples of a mapped latent space are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from wasskit.data.seeds import derive_seed
from wasskit.evaluation.transport import (
    InceptionFeatures,
    feature_moments,
    frechet_inception_distance,
    gaussian_distance,
)
from wasskit.ot.energy import energy_distance
from wasskit.ot.gaussian import Moments, square_root_factor, streamed_moments
from wasskit.plugins.w2gn.autoencoder import AutoencoderStage
from wasskit.plugins.w2gn.objective import W2GN
from wasskit.training.task import Progress


class LatentQuality:
    """Distances of mapped normals to the latents of test images."""

    def __init__(self, stage: AutoencoderStage, seed: int, count: int = 2048) -> None:
        self.stage = stage
        self.seed = seed
        generator = torch.Generator().manual_seed(derive_seed(seed, "test normal"))
        self._normal = torch.randn(count, stage.autoencoder.latent, generator=generator)
        self._test: Tensor | None = None
        self._moments: Moments | None = None
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

    def gaussian_samples(self, count: int) -> Tensor:
        """Samples of the Gaussian with the moments of the training latents."""
        if self._moments is None:
            self._moments = streamed_moments([self.stage.latents(self.stage.images)])
        moments = self._moments
        z = self.normal[:count].double()
        return (z @ square_root_factor(moments.covariance).T + moments.mean).float()

    def __call__(self, transport: W2GN, progress: Progress | None) -> dict[str, dict[str, float]]:
        latents, normal = self.test_latents(), self.normal
        mapped = transport.forward_map(normal)
        generator = torch.Generator(latents.device).manual_seed(0)
        theta = torch.randn(128, latents.shape[1], generator=generator, device=latents.device)
        if self._before is None:
            gaussian = self.gaussian_samples(len(normal))
            self._before = {
                "energy_before": float(energy_distance(normal, latents, theta)),
                "energy_gaussian": float(energy_distance(gaussian, latents, theta)),
            }
        after = {
            "energy_forward": float(energy_distance(mapped, latents, theta)),
            "moments_forward": gaussian_distance(mapped, latents),
        }
        return {"test": self._before | after}


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
