"""Every training command of the project, with settings that take about a second. The one list that all trials use."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass
from pathlib import Path

from wasskit.cli import load_command
from wasskit.config import fields_of
from wasskit.plugins import Plugin, load_plugin, plugin_targets

__all__ = ["TRAININGS", "Training", "sample", "training_commands"]


@dataclass(frozen=True)
class Training:
    """A training command.

    Args:
        name: what tests call it.
        argv: the command line after ``wasskit``, without the run directory.
        steps: updates of the (first) training.
        drift: by how much, relatively, two ranks depart from one over the run, by rounding that training magnifies;
            None where each rank draws random numbers of its own.
        terms: the size of the terms whose sum the loss is, where they nearly cancel in it.
        waits: how often the host waits for a GPU within a steady step.
    """

    name: str
    argv: tuple[str, ...]
    steps: int
    drift: float | None = 1e-2
    terms: float = 0.1
    waits: int = 0

    @property
    def command(self) -> str:
        return "sweep" if self.argv[0] == "sweep" else " ".join(self.argv[:2])

    def on(self, run: Path | str, nproc: int = 1) -> list[str]:
        """The command line that trains in ``run`` on so many ranks."""
        flag = "--nproc-per-run" if self.is_grid else "--nproc"
        return [*self.argv, "--run-dir", str(run), *((flag, str(nproc)) if nproc > 1 else ())]

    def briefly(self, run: Path | str, device: str, nproc: int = 1) -> list[str]:
        """The same on a device, and only as long as shows steady steps."""
        argv = self.on(run, nproc)
        length = "2" if "--accumulate" in argv else "1"
        shorter = {
            "--device": device, "--epochs": length, "--steps": "6", "--eval-every": "6", "--pretrain-steps": "3",
            "--autoencoder-steps": "3", "--classifier-steps": "3", "--max-triples": "60", "--test-size": "100",
        }  # fmt: skip
        return [shorter.get(before, word) for before, word in zip(["", *argv], argv, strict=False)]

    @property
    def is_grid(self) -> bool:
        """Whether the trainings are processes of their own."""
        return self.command in ("mrl baseline", "mrl sweep", "mrl adapt-sweep", "sweep")


_IMAGES = ("--epochs", "3", "--batch-size", "358", "--no-tensorboard", "--device", "cpu", "--log-every", "1")
_MRL = (*_IMAGES, "--dims", "2,8")
_AS_AXES = ("epochs=3", "batch_size=358", "tensorboard=false", "device=cpu", "log_every=1", "dims=2:8")
# With a blend: the first training that would choose one ends, when it is stopped, as if it had not begun.
_ADAPT = (
    "--epochs", "3", "--batch-size", "358", "--hidden", "16", "--blend", "1", "--no-tensorboard", "--device", "cpu",
    "--log-every", "1",
)  # fmt: skip
_SSL = (*_IMAGES, "--projector", "16,8")
_METRIX = (
    "--epochs", "3", "--batch-size", "90", "--max-triples", "100", "--embedding-size", "8", "--no-tensorboard",
    "--device", "cpu", "--log-every", "1",
)  # fmt: skip
_STEPS = ("--batch-size", "32", "--device", "cpu", "--no-tensorboard", "--log-every", "1", "--eval-every", "4")
# What training ends with is compared: the Gaussian start, where that is kept, is the same in any case.
_W2GN = ("--hidden", "16,8", *_STEPS, "--steps", "12", "--keep", "end")
_CLOUD = (*_W2GN, "--test-size", "200")


def _declare() -> list[Training]:
    found = [
        Training("mrl-train", ("mrl", "train", *_MRL), 9),
        Training("mrl-matryoshka", ("mrl", "train", *_MRL, "--wasserstein-weight", "0"), 9),
        Training("mrl-wasserstein", ("mrl", "train", *_MRL, "--alpha", "0"), 9),
        # The published divergence asks for the diameter of the points, among others.
        Training("mrl-geomloss", ("mrl", "train", *_MRL, "--sinkhorn", "geomloss"), 9, waits=3),
        Training("mrl-tied", ("mrl", "train", *_MRL, "--tied", "--accumulate", "2"), 6),
        # Each rank drops out units of its own.
        Training("mrl-adapt", ("mrl", "adapt", *_ADAPT), 9, None),
        Training("mrl-adapt-neighbours", ("mrl", "adapt", *_ADAPT, "--learn", "neighbours"), 9, None),
        Training("mrl-baseline", ("mrl", "baseline", *_MRL), 9),
        Training("mrl-sweep", ("mrl", "sweep", "method=mwrl,matryoshka", *_MRL), 9),
        Training("sweep", ("sweep", "mrl", "train", "alpha=1,2", *_AS_AXES), 9),
        Training("mrl-adapt-sweep", ("mrl", "adapt-sweep", "cosine_weight=1,0", "--no-baselines", *_ADAPT), 9, None),
    ]
    for method in ("moco", "byol", "barlow", "zerocl"):
        for term in ((), ("--w2",), ("--lu",)):
            name = "-".join(("ssl", method, *(word[2:] for word in term)))
            found.append(Training(name, ("ssl", method, *_SSL, *term), 9, 5e-2))
    for regulariser in ("vicreg", "sigreg", "visreg"):
        found.append(
            Training(
                f"ssl-invariance-{regulariser}", ("ssl", "invariance", *_SSL, "--regulariser", regulariser), 9, 5e-2
            )
        )
    for loss in ("contrastive", "multisimilarity", "proxyanchor"):
        for mode in ("baseline", "input", "feature", "embed"):
            argv = ("metrix", "train", *_METRIX, "--loss", loss, "--mode", mode)
            compared = ("--compare", "yes" if (loss, mode) == ("contrastive", "feature") else "no")
            # The pair losses average the terms that are not zero, whose number jumps with rounding; proxies learn at a
            # hundred times the rate. (In float64 the gradients of one and two ranks agree to 1e-12.) The mixing draws
            # of each rank are its own.
            drift = (0.1 if loss == "proxyanchor" else 0.25) if mode == "baseline" else None
            # Which images are mixed follows from their similarities, which the host must know.
            waits = 1 if mode == "input" else 0
            found.append(Training(f"metrix-{loss}-{mode}", (*argv, *compared), 27, drift, waits=waits))
    field = (
        "--loss",
        "potentialfield",
        "--loss-settings",
        "proxies_per_class=2",
        "--mode",
        "feature",
        "--compare",
        "no",
    )
    found.append(Training("metrix-potentialfield-feature", ("metrix", "train", *_METRIX, *field), 27, None))
    style = ("--image-size", "8", "--width", "2", "--patches", "32", *_STEPS[2:], "--batch-size", "4")
    latent = ("--autoencoder-steps", "12", "--latent", "4", "--filters", "4")
    published = ("--start", "pretrain", "--pretrain-steps", "6", "--refine", "none")
    maps = [
        Training("w2gn-fit", ("w2gn", "fit", *_W2GN, "--discrete-rows", "64"), 12),
        Training("w2gn-fit-better", ("w2gn", "fit", *_W2GN, "--discrete-rows", "64", "--keep", "better"), 12),
        Training("w2gn-toy", ("w2gn", "toy", *_CLOUD), 12),
        Training("w2gn-toy-published", ("w2gn", "toy", *_CLOUD, *published, "--sampling", "random"), 18),
        Training("w2gn-gaussians", ("w2gn", "gaussians", *_CLOUD, "--dim", "2,3"), 12),
        Training("w2gn-benchmark", ("w2gn", "benchmark", *_CLOUD, "--dim", "2"), 12),
        Training("w2gn-color", ("w2gn", "color", *_CLOUD, "--smooth", "0"), 12),
        Training("w2gn-latent", ("w2gn", "latent", *_W2GN, *latent), 24),
        Training("w2gn-domain", ("w2gn", "domain", *_W2GN, "--classifier-steps", "12"), 24),
        Training("w2gn-style", ("w2gn", "style", *style, "--steps", "12"), 12),
    ]
    # Differences of means of squared lengths, of about the number of dimensions, which is 2 in most.
    return found + [dataclasses.replace(training, terms=2.0) for training in maps]


TRAININGS = _declare()


def sample(key: str, size: int) -> list[Training]:
    """A few of the trainings, others for another key; the same for the same."""
    return random.Random(key).sample(TRAININGS, size)


def training_commands() -> set[str]:
    """The commands of the project that train a run, those that can resume one, and the one that trains by any."""
    found = {"sweep"}
    for target in plugin_targets().values():
        plugin = load_plugin(target)
        if isinstance(plugin, Plugin):
            for name in plugin.commands:
                command = load_command(plugin, name)
                if "resume" in {known.name for known in fields_of(command.options)}:
                    found.add(command.path)
    return found
