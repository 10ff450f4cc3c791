"""``wasskit w2gn latent``: sample from an autoencoder through a map of its latent space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wasskit.candidates import complete_local_paths
from wasskit.config import Command, Invocation, group, option
from wasskit.errors import UserError
from wasskit.options import DataOptions
from wasskit.plugins.w2gn.options import StagedOptions, StepOptions

if TYPE_CHECKING:
    from wasskit.plugins.w2gn.experiments.autoencoder import AutoencoderStage


@dataclass(frozen=True, kw_only=True)
class W2gnLatent(StagedOptions):
    """Options of ``wasskit w2gn latent``."""

    data: DataOptions = group(
        DataOptions(), counts_with={key: {"images": (None,)} for key in ("dataset", "data_root", "download", "corrupt")}
    )
    training: StepOptions = StepOptions(batch_size=512, steps=1000, lr=3e-4)

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
    inception_weights: Path | None = option(
        None, help="Weights of Inception v3 for the FID (nothing is downloaded).", panel="Evaluation", runtime=True,
        complete=complete_local_paths,
    )  # fmt: skip
    fid_samples: int = option(10000, help="Samples for the FID.", panel="Evaluation", min=2)

    def validate(self) -> None:
        super().validate()
        if self.data.image_size is not None and (
            self.data.image_size < 8 or self.data.image_size & (self.data.image_size - 1)
        ):
            raise UserError(
                f"--image-size: the autoencoder takes 8, 16, 32, 64, ... pixels, not {self.data.image_size}."
            )


def body(config: W2gnLatent, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.plugins.w2gn.experiments.latent import LatentQuality
    from wasskit.plugins.w2gn.fitting import conclude, train_staged
    from wasskit.training.session import training_session

    named = config.data.dataset if config.images is None else config.images.name
    with training_session(config, invocation, name=named) as session:
        config = session.config
        stage = autoencoder_stage(config)
        quality = LatentQuality(stage, config.run.seed)
        trained = train_staged(
            session, stage, config.latent, quality.scores, floor=config.start_floor,
            first_steps=config.autoencoder_steps if config.autoencoder is None else 0,
            about={"dataset": named, "space": "latent"},
        )  # fmt: skip
        report = quality.report(
            trained.transport, trained.final, name=named, inception=config.inception_weights,
            fid_samples=config.fid_samples,
        )  # fmt: skip
        weights = session.run.path / "autoencoder.pt"
        return conclude(trained, report, ("latent", "--autoencoder", weights, "--steps", 4000))


def autoencoder_stage(config: W2gnLatent) -> AutoencoderStage:
    """The autoencoder, new or trained, and the images that it is for."""
    from wasskit.data.registry import load_dataset
    from wasskit.plugins.w2gn.experiments.autoencoder import (
        Autoencoder,
        AutoencoderStage,
        PerceptualLoss,
        load_autoencoder,
    )
    from wasskit.plugins.w2gn.experiments.latent import folder_dataset

    if config.images is not None:
        train, test = folder_dataset(config.images, config.data.image_size or 64)
    else:
        train, test = (
            load_dataset(
                config.data.dataset, split, root=config.data.data_root, download=config.data.download,
                corrupt=config.data.corrupt,
                seed=config.run.seed,
            )
            for split in ("train", "test")
        )  # fmt: skip
    size = config.data.image_size or max(8, 1 << (min(train.image_size, 64) - 1).bit_length())
    autoencoder = Autoencoder(size, train.channels, config.filters, config.latent)
    if config.autoencoder is not None:
        load_autoencoder(autoencoder, config.autoencoder)
    return AutoencoderStage(
        autoencoder, train, test, batch_size=config.autoencoder_batch_size, lr=config.autoencoder_lr,
        seed=config.run.seed, perceptual=PerceptualLoss(config.vgg_weights) if config.vgg_weights else None,
        workers=config.data.workers,
    )  # fmt: skip


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
