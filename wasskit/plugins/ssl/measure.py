"""What the commands on a pretrained model share: the model, its data, where results go."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from wasskit import console
from wasskit.config import build
from wasskit.data.base import ImageDataset
from wasskit.distributed.group import group
from wasskit.evaluation.linear import ProbeProtocol
from wasskit.plugins.ssl.evaluation import Settings, bank_and_test, features_and_projections
from wasskit.plugins.ssl.network import SslModel
from wasskit.plugins.ssl.options import EvaluationOptions, ProbeOptions
from wasskit.plugins.ssl.reports import Named, Probe
from wasskit.plugins.ssl.trained import KIND
from wasskit.trained.data import open_split, results_of
from wasskit.trained.files import is_exported
from wasskit.training.checkpoint import seed_all
from wasskit.training.run import RunDirectory


@dataclass(frozen=True)
class EvaluationSetup:
    """A model, the name of the data set, and where and how to measure."""

    model: SslModel
    config: EvaluationOptions
    dataset: str
    named: Named
    settings: Settings
    folder: Path
    _loaded: dict[str, ImageDataset] = field(default_factory=dict, repr=False)

    def split(self, name: str) -> ImageDataset:
        """A split of the data set, at the size and with the normalisation the model was trained with; read once."""
        if name not in self._loaded:
            self._loaded[name] = open_split(self.model, self.config, name)
        return self._loaded[name]


def entry_key(config: EvaluationOptions, dataset: str) -> str:
    """The name of an entry in ``evaluation.json``: the data set's, and the checkpoint's where it is not the last."""
    best = config.trained.checkpoint == "best" and config.trained.model.suffix not in (".pt", ".safetensors")
    return f"{dataset}@best" if best else dataset


def probe_of(config: ProbeOptions) -> Probe:
    """The linear probe that the options ask for; a tenth of its epochs are logged."""
    every = max(1, config.probe_epochs // 10)

    def log(epoch: int, top1: float) -> None:
        if epoch % every == 0:
            console.log(f"linear probe, epoch {epoch}/{config.probe_epochs}: {top1:.2f} %")

    return Probe(ProbeProtocol(config.probe_epochs, config.probe_lr), config.probe_batch_size, log)


@contextlib.contextmanager
def evaluation_of(config: EvaluationOptions, *files: str) -> Iterator[EvaluationSetup]:
    """Join the ranks, choose the device, load the model.

    ``files``: what is written into the folder of results, with ``{key}`` for the entry's name; ``evaluation.json`` is
    added to and not replaced."""
    with group(config.machine.device) as device:
        seed_all(config.seed)
        model = KIND.load(config.trained.model, device, config.trained.checkpoint)
        dataset = config.dataset or model.description["dataset"]
        key = entry_key(config, dataset)
        paper = (
            {} if is_exported(config.trained.model) else RunDirectory.find(config.trained.model, plugin="ssl")[0].paper
        )
        yield EvaluationSetup(
            model,
            config,
            dataset,
            Named(config.trained.model.name, key, paper),
            Settings(device, config.batch_size, config.data.workers, config.machine.precision, config.seed),
            results_of(config, "ssl", *[name.format(key=key) for name in files]),
        )


def test_embeddings(run: Path, device: str) -> Tensor:
    """Projections (N, m) float32 of the test images, on which the published W2 and L_U are measured.

    Raises ``UserError`` where the model or its data set is missing.
    """
    with evaluation_of(build(EvaluationOptions, {"model": run, "device": device})) as setup:
        _, test = bank_and_test(setup.split)
        return features_and_projections(setup.model.encoder, test, setup.settings)[1].cpu()
