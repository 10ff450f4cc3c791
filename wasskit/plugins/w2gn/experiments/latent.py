"""Sampling images: a normal is mapped to the latents of an autoencoder, and decoded."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from wasskit.data.base import ImageDataset
from wasskit.data.folder import list_images
from wasskit.data.seeds import derive_seed
from wasskit.distributed.shard import map_shards
from wasskit.errors import UserError
from wasskit.evaluation.transport import InceptionFeatures, frechet_inception_distance, gaussian_distance
from wasskit.ot.energy import energy_distance, random_directions
from wasskit.ot.gaussian import square_root_factor, streamed_moments
from wasskit.plugins.w2gn.core.evaluation import flat
from wasskit.plugins.w2gn.core.transport import W2GN
from wasskit.plugins.w2gn.experiments.autoencoder import AutoencoderStage
from wasskit.plugins.w2gn.figures import image_grid, principal_planes
from wasskit.report import Report, Table

if typing.TYPE_CHECKING:
    from matplotlib.figure import Figure


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

    def scores(self, transport: W2GN) -> dict[str, dict[str, float]]:
        """Distances of the mapped normals, and of the samples that they are compared with."""
        latents, normal = self.test_latents(), self.normal
        mapped = map_shards(transport.forward_map, normal)
        if self._before is None:
            samples = {
                "before": normal,
                "gaussian": self.gaussian_samples(len(normal)),
                "training": self.training_latents()[: len(normal)],
            }
            self._before = {
                name: value for key, points in samples.items() for name, value in self.distances(key, points).items()
            }
        moments = {"moments_forward": gaussian_distance(mapped, latents)}
        return {"test": self._before | self.distances("forward", mapped) | moments}

    def distances(self, key: str, points: Tensor) -> dict[str, float]:
        """Energy distances of latents, and of the images decoded from them, to those of the test images."""
        latents = self.test_latents()
        images = self.stage.images_of(self.stage.test, len(self.normal)).flatten(1)
        decoded = self.stage.decode(points).flatten(1)
        seeded = torch.Generator(latents.device).manual_seed(0)
        return {
            f"{name}_{key}": float(energy_distance(a, b, random_directions(128, b.shape[1], like=b, generator=seeded)))
            for name, a, b in (("energy", points, latents), ("images", decoded, images))
        }

    def report(
        self,
        transport: W2GN,
        final: Mapping[str, float] | None = None,
        *,
        name: str = "images",
        inception: Path | None = None,
        fid_samples: int = 10_000,
    ) -> Report:
        """The tables, samples and latents as figures, and the autoencoder's weights.

        Args:
            final: the scores as ``split/metric``, where they are known.
            name: of the data set, in the title.
            inception: weights of Inception v3; without them there is no FID.
        """
        stage = self.stage
        final = dict(flat(self.scores(transport)) if final is None else final)
        final["test/reconstruction"] = stage.reconstruction_error()
        rows = [
            [words, final[f"test/energy_{key}"], final[f"test/images_{key}"]]
            for key, words in (
                ("before", "normal"),
                ("gaussian", "Gaussian of the latents"),
                ("forward", "normal, mapped by W2GN"),
                ("training", "(latents of the training images)"),
            )
        ]
        title = f"{name}, {stage.autoencoder.latent} latent dimensions: energy distances to the test images"
        tables = [Table(["samples", "latents", "decoded"], rows, title, digits=5)]
        label = None
        if inception is not None:
            scores, label = fid_scores(stage, transport, inception, fid_samples, self.seed)
            final |= flat({"test": scores})
            names = ("reconstructions", "decoded normal", "decoded W2GN map")
            fids = [[words, value] for words, value in zip(names, scores.values(), strict=True)]
            tables.append(Table(["images", "FID"], fids, f"FID by {label}, {fid_samples} samples"))
        return Report(
            {"final": final, "fid_by": label},
            tables,
            notes=[f"Squared error of reconstructed pixels: {final['test/reconstruction']:.4f}"],
            files={"autoencoder.pt": partial(torch.save, stage.autoencoder.state_dict())},
            figures={
                "samples": partial(self.draw_samples, transport, self.gaussian_samples(48)),
                "latents": partial(self.draw_latents, transport, self.test_latents()),
            },
        )

    def draw_samples(self, transport: W2GN, gaussian: Tensor, count: int = 48) -> Figure:
        """Test images, their reconstructions, and images decoded from three kinds of samples."""
        stage, normal = self.stage, self.normal[:count]
        rows = {
            "test images": stage.images_of(stage.test, count),
            "their reconstructions": stage.decode(self.test_latents()[:count]),
            "decoded normal samples": stage.decode(normal),
            "decoded samples of the Gaussian of the latents": stage.decode(gaussian),
            "decoded samples of the W2GN map": stage.decode(transport.forward_map(normal)),
        }
        return image_grid(rows, 16)

    def draw_latents(self, transport: W2GN, latents: Tensor, count: int = 2000) -> Figure:
        """The normal before and after the map, and the latents."""
        normal = self.normal[:count]
        clouds = {"normal": normal, "normal, mapped": transport.forward_map(normal), "latents": latents[:count]}
        return principal_planes(clouds)


@torch.no_grad()
def fid_scores(
    stage: AutoencoderStage, transport: W2GN, weights: Path, count: int, seed: int
) -> tuple[dict[str, float], str]:
    """FID of reconstructions, decoded normals and decoded mapped normals against the training images, and its label."""
    device = next(stage.autoencoder.parameters()).device
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
    real = streamed_moments(map(features, images(everything, False)))
    streams = {
        "fid_reconstructed": images(everything[:count], True),
        "fid_raw": decoded(normal),
        "fid_mapped": decoded(transport.forward_map(normal)),
    }
    scores = {
        name: frechet_inception_distance(streamed_moments(map(features, stream)), real)
        for name, stream in streams.items()
    }
    return scores, features.label


def folder_dataset(folder: Path, size: int) -> tuple[ImageDataset, ImageDataset]:
    """The images below a folder as training and test set (every tenth), read from disk when they are needed."""
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}: give one that holds images.")
    paths = list_images(folder)
    if len(paths) < 20:
        raise UserError(f"{folder} holds {len(paths)} images: an autoencoder needs at least twenty.")
    train = [path for i, path in enumerate(paths) if i % 10]

    def dataset(split: str, chosen: list[Path]) -> ImageDataset:
        return ImageDataset(folder.name, split, ("image",), paths=chosen, image_size=size)

    return dataset("train", train), dataset("test", paths[::10])
