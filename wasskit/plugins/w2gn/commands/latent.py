"""``wasskit w2gn latent``: sample from an autoencoder through a map of its latent space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wasskit.config import Command, Invocation, option
from wasskit.errors import UserError
from wasskit.options import DataOptions, complete_local_paths, override
from wasskit.plugins.w2gn.options import PotentialOptions, StepOptions, TransportOptions


@dataclass(frozen=True, kw_only=True)
class W2gnLatent(TransportOptions, DataOptions):
    """Options of ``wasskit w2gn latent``."""

    images: Path | None = option(
        None,
        help="A folder of images instead of a data set; every tenth tests.",
        panel="Data",
        complete=complete_local_paths,
    )
    latent: int = option(16, help="Dimension of the latent space.", panel="Autoencoder", min=1)
    filters: int = option(32, help="Channels of its first convolution.", panel="Autoencoder", min=1)
    autoencoder: Path | None = option(
        None, help="Use a trained autoencoder (.pt) instead of training one.", panel="Autoencoder",
        complete=complete_local_paths,
    )  # fmt: skip
    autoencoder_steps: int = option(1500, help="Its training steps.", panel="Autoencoder", min=1)
    autoencoder_batch_size: int = option(128, help="Images per step.", panel="Autoencoder", min=2)
    autoencoder_lr: float = option(1e-3, help="Its learning rate.", panel="Autoencoder", above=0)
    vgg_weights: Path | None = option(
        None, help="Train it on VGG-16 features, from torchvision's weights here.", panel="Autoencoder",
        complete=complete_local_paths,
    )  # fmt: skip
    start_floor: float = option(
        1e-3,
        help="Smallest variance for the Gaussian start, over the mean one.",
        panel="Potentials",
        above=0,
        below=1,
    )
    inception_weights: Path | None = option(
        None, help="Weights of Inception v3 for the FID (nothing is downloaded).", panel="Evaluation", runtime=True,
        complete=complete_local_paths,
    )  # fmt: skip
    fid_samples: int = option(10000, help="Samples for the FID.", panel="Evaluation", min=2)
    batch_size: int = override(StepOptions, "batch_size", 512)
    steps: int = override(StepOptions, "steps", 1000)
    lr: float = override(StepOptions, "lr", 3e-4)
    rank: int = override(PotentialOptions, "rank", 1)

    def validate(self) -> None:
        super().validate()
        if self.image_size is not None and (self.image_size < 8 or self.image_size & (self.image_size - 1)):
            raise UserError(
                f"--image-size: the autoencoder takes 8, 16, 32, 64, ... pixels, not {self.image_size}."
            )


def body(config: W2gnLatent, invocation: Invocation) -> Mapping[str, Any]:
    import torch

    from wasskit import console
    from wasskit.data.registry import load_dataset
    from wasskit.distributed.group import is_main
    from wasskit.plugins.w2gn.experiments.autoencoder import (
        Autoencoder,
        AutoencoderStage,
        PerceptualLoss,
        load_autoencoder,
    )
    from wasskit.plugins.w2gn.experiments.images import folder_dataset
    from wasskit.plugins.w2gn.experiments.latent import LatentQuality, fid_scores
    from wasskit.plugins.w2gn.fitting import next_steps, say_where, train_staged
    from wasskit.system.files import replace_file
    from wasskit.training.session import training_session

    named = config.dataset if config.images is None else config.images.name
    with training_session(config, invocation, name=named) as session:
        config = session.config
        parts = [] if config.images is None else list(folder_dataset(config.images, config.image_size or 64))
        parts = parts or [
            load_dataset(
                config.dataset,
                split,
                root=config.data_root,
                download=config.download,
                corrupt=config.corrupt,
                seed=config.seed,
            )
            for split in ("train", "test")
        ]
        size = config.image_size or max(8, 1 << (min(parts[0].image_size, 64) - 1).bit_length())
        autoencoder = Autoencoder(size, parts[0].channels, config.filters, config.latent)
        steps = config.autoencoder_steps
        if config.autoencoder is not None:
            load_autoencoder(autoencoder, config.autoencoder)
            steps = 0
        stage = AutoencoderStage(
            autoencoder, parts[0], parts[1], batch_size=config.autoencoder_batch_size, lr=config.autoencoder_lr,
            seed=config.seed, perceptual=PerceptualLoss(config.vgg_weights) if config.vgg_weights else None,
        )  # fmt: skip
        quality = LatentQuality(stage, config.seed)
        trained = train_staged(
            session, stage, config.latent, quality, first_steps=steps, floor=config.start_floor,
            about={"dataset": named, "space": "latent"},
        )  # fmt: skip
        final = dict(trained.summary.final)
        final["test/reconstruction"] = stage.reconstruction_error()
        maps = trained.transport.to(session.device)
        normal, latents = quality.normal, quality.test_latents()
        gaussian = quality.gaussian_samples(len(normal))
        figures: list[Path | None] = []
        label = ""
        if config.inception_weights is not None:
            scores, label = fid_scores(
                stage, maps, config.inception_weights, config.fid_samples, config.seed, session.device
            )
            final |= {f"test/{name}": value for name, value in scores.items()}
        if is_main():
            from wasskit.plugins.w2gn import figures as draw

            count = 48
            rows = {
                "test images": stage.images_of(stage.test, count),
                "their reconstructions": stage.decode(latents[:count]),
                "decoded normal samples": stage.decode(normal[:count]),
                "decoded samples of the Gaussian of the latents": stage.decode(gaussian[:count]),
                "decoded samples of the W2GN map": stage.decode(maps.forward_map(normal[:count])),
            }
            figures.append(draw.sheet(session.run.figures / "samples.png", rows, 16))
            shown = 2000
            clouds = {
                "normal": normal[:shown],
                "normal, mapped": maps.forward_map(normal[:shown]),
                "latents": latents[:shown],
            }
            figures.append(draw.principal_planes(session.run.figures / "latents.png", clouds))
            replace_file(
                session.run.path / "autoencoder.pt", lambda file: torch.save(autoencoder.state_dict(), file)
            )
        table = [
            [word, final[f"test/energy_{key}"], final[f"test/images_{key}"]]
            for key, word in (
                ("before", "normal"),
                ("gaussian", "Gaussian of the latents"),
                ("forward", "normal, mapped by W2GN"),
                ("training", "(latents of the training images)"),
            )
        ]
        console.table(
            f"{named}, {config.latent} latent dimensions: energy distances to the test images",
            ["samples", "latents", "decoded"],
            table,
            digits=5,
        )
        console.result(f"Squared error of reconstructed pixels: {final['test/reconstruction']:.4f}")
        if label:
            fids = [
                [word, final[f"test/fid_{key}"]]
                for key, word in (
                    ("reconstructed", "reconstructions"),
                    ("raw", "decoded normal"),
                    ("mapped", "decoded W2GN map"),
                )
            ]
            console.table(f"FID by {label}, {config.fid_samples} samples", ["images", "FID"], fids)
        say_where(figures, trained.map_path)
        next_steps(("latent", "--autoencoder", session.run.path / "autoencoder.pt", "--steps", 4000))
    return trained.summary.as_dict() | {
        "final": final, "map": str(trained.map_path), "run": str(session.run.path), "fid_by": label or None,
    }  # fmt: skip


command = Command(
    "w2gn latent",
    W2gnLatent,
    body,
    "Transport a normal to the latent distribution of an autoencoder and sample images.\n\n"
    "Trains an autoencoder (or loads "
    "one), fits the optimal map from a standard normal to its latents, and decodes mapped samples. The FID is computed "
    "where weights are given.",
    (
        "wasskit w2gn latent",
        "wasskit w2gn latent --images img_align_celeba --image-size 64 --latent 128 --filters 128",
        "wasskit w2gn latent --autoencoder runs/w2gn/digits/autoencoder.pt --inception-weights inception.pth",
    ),
)
