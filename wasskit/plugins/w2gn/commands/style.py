"""``wasskit w2gn style``: convolutional maps between two folders of images."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wasskit.candidates import complete_local_paths
from wasskit.config import Command, Invocation, group, option
from wasskit.plugins.w2gn.options import (
    ObjectiveOptions,
    PotentialOptions,
    StepOptions,
    TransportOptions,
    refuse_newton,
)


@dataclass(frozen=True, kw_only=True)
class W2gnStyle(TransportOptions):
    """Options of ``wasskit w2gn style``."""

    objective: ObjectiveOptions = ObjectiveOptions(refine_evaluations=8)
    training: StepOptions = StepOptions(steps=300, batch_size=32, lr=3e-3, ema=0.99)
    potentials: PotentialOptions = group(
        PotentialOptions(strong_convexity=0.0, pretrain_steps=500),
        help={
            "start": "Start at the optimal transport between the Gaussians of the colours, at the identity, or "
            "pre-train the published networks to the identity."
        },
        counts_with={key: {} for key in ("hidden", "rank", "activation", "dropout", "start_samples")},
    )

    images: Path | None = option(
        None, help="Folder with trainA and trainB (and testA, testB).", panel="Data", complete=complete_local_paths,
        show_default="patches of scikit-learn's two photographs",
    )  # fmt: skip
    image_size: int = option(24, help="Side of the images in pixels.", panel="Data", min=8, max=512)
    patches: int = option(
        2048, help="Patches of each photograph.", panel="Data", min=16, counts_with={"images": (None,)}
    )
    width: int = option(16, help="Channels of the convolutions (128 as published).", panel="Potentials", min=1)

    def validate(self) -> None:
        super().validate()
        refuse_newton(self.objective.refine)


def body(config: W2gnStyle, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.plugins.w2gn.core.stages import Points
    from wasskit.plugins.w2gn.experiments.style import Style, batches, conv_transport, image_folders, photograph_patches
    from wasskit.plugins.w2gn.fitting import conclude, train
    from wasskit.training.session import training_session

    with training_session(config, invocation, name="style") as session:
        config = session.config
        if config.images is not None:
            first, second = image_folders(config.images, config.image_size)
        else:
            first, second = photograph_patches(config.image_size, config.patches, config.run.seed)
        style = Style(first, second, session.device)
        transport = conv_transport(config, first.train, second.train, config.width)
        x, y = (
            batches(domain.train, config.run.seed, side, session.device)
            for domain, side in ((first, "source"), (second, "target"))
        )
        if session.device.type == "cpu":
            advise_gpu(config, seconds_per_image(transport, x(-1, 2), y(-1, 2)))
        about = {"space": "images", "domains": [first.name, second.name]}
        trained = train(session, transport, x, y, style.scores, about=about, fresh=lambda: Points(style.x, style.y))
        report = style.report(trained.transport, trained.final)
        return conclude(trained, report, ("style", "--images", "FOLDER"), ("apply", trained.map_path, "IMAGE"))


def seconds_per_image(transport: Any, x: Any, y: Any) -> float:
    """The time of a training step over the size of its batch."""
    start = time.perf_counter()
    transport(x, y).total.backward()
    transport.zero_grad(set_to_none=True)
    return (time.perf_counter() - start) / len(x)


def advise_gpu(config: W2gnStyle, per_image: float) -> None:
    """Say how long the training takes, and advise a GPU where it would take hours."""
    from wasskit import console

    seconds = per_image * config.training.batch_size * config.training.steps
    words = f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.0f} hours"
    console.log(f"About {words} of training on this machine.")
    if config.image_size >= 96 or seconds > 3600:
        console.warn(
            f"At {config.image_size} pixels and width {config.width} a GPU is advised (about {words} here); a smaller "
            "--image-size, --width or --steps is faster."
        )


command = Command(
    "w2gn style",
    W2gnStyle,
    body,
    "Convolutional maps between two folders of images.\n\n"
    "Fits convolutional input-convex potentials whose gradients map "
    "the images of one domain to the other, and draws sheets of mapped test images. Without --images the two domains "
    "are patches of two photographs. From 96 pixels on a GPU is advised.",
    (
        "wasskit w2gn style",
        "wasskit w2gn style --images summer2winter_yosemite --image-size 64",
        "wasskit w2gn style --recipe w2gn/style-paper --images summer2winter_yosemite",
    ),
)
