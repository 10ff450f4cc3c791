"""What the four pretraining commands do around their method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from wasskit import console
from wasskit.config import Invocation
from wasskit.data.base import ImageDataset
from wasskit.data.loaders import TrainLoader
from wasskit.data.registry import load_dataset
from wasskit.data.views import random_views
from wasskit.distributed.group import is_main, world_size
from wasskit.models.catalog import SMALL_IMAGE
from wasskit.plugins.ssl.evaluation import (
    Neighbours,
    Settings,
    bank_and_test,
    comparison,
    features_and_projections,
    spectrum_of,
    standard_metrics,
    without_labels,
)
from wasskit.plugins.ssl.figures import draw_comparison, draw_spectrum, draw_training
from wasskit.plugins.ssl.network import Encoder, build_encoder, describe, views_of
from wasskit.plugins.ssl.options import PretrainOptions
from wasskit.plugins.ssl.results import record, save_spectra, show_comparison, show_metrics
from wasskit.plugins.ssl.tasks import Evaluate, PretrainTask, synchronise
from wasskit.training.session import training_session

C = TypeVar("C", bound=PretrainOptions)
MakeTask = Callable[[Encoder, C, Mapping[str, Any], Evaluate], PretrainTask]


def pretrain(config: C, invocation: Invocation, make_task: MakeTask[C]) -> Mapping[str, Any]:
    """Train, evaluate, compare with raw pixels and the untrained backbone, draw, report."""
    method = invocation.command.split()[-1]
    name = "-".join(part for part in (method, config.term, config.dataset) if part)
    if config.resume is None:
        config.refuse_idle_settings(invocation.given)
    with training_session(config, invocation, name=name) as session:
        config, run = session.config, session.run
        train, bank, test = splits_of(config)
        for note in dict.fromkeys((*train.notes, *test.notes)):
            console.log(console.escape(note))
        description = describe(config, method, train)
        views = views_of(description)
        neighbours = None if bank is None else Neighbours.among(bank, config.knn_k)
        if neighbours is None:
            console.log(without_labels(test))
        settings = Settings(
            session.device, max(256, config.batch_size), config.workers, config.precision, config.seed
        )

        def evaluate(encoder: Encoder) -> dict[str, dict[str, float]]:
            return {"test": standard_metrics(encoder, bank, test, views, neighbours, settings)}

        encoder = build_encoder(
            description, pretrained=config.pretrained, weights=config.weights, download=config.download
        )
        task = make_task(encoder, config, description, evaluate)
        task.monitor = None if neighbours is None else f"test/{neighbours.name}_top1"
        synchronise(task)
        if world_size() > 1:
            console.log(f"{world_size()} processes; batch norm takes the statistics {task.batch_statistics}.")
        source = TrainLoader(
            train, config.batch_size, random_views(train, views, views), device=session.device,
            seed=config.seed, workers=config.workers,
        )  # fmt: skip
        summary = session.trainer(task, source).fit(resume=session.checkpoint)

        task.eval()
        untrained = _untrained(description, config).to(session.device).eval()
        spectra = {
            name: spectrum_of(features_and_projections(network, test, settings)[1])
            for name, network in {"untrained": untrained, "trained": task.encoder}.items()
        }
        compared: dict[str, dict[str, float]] = {}
        if bank is not None and neighbours is not None and train.in_memory and test.image_size <= SMALL_IMAGE:
            networks = {
                "raw pixels": nn.Flatten(),
                "untrained": untrained.backbone,
                "trained": task.encoder.backbone,
            }
            compared = comparison(networks, bank, test, views, neighbours, settings)
        figures = []
        if is_main():
            save_spectra(run.path / "spectrum.npz", spectra)
            figures.append(draw_training(run))
            figures.append(draw_spectrum(run.figures / "spectrum.png", spectra, description["projector"][-1]))
            if compared:
                record(run.path, "comparison", compared)
                title = f"{config.dataset}, {method}" + (f" + {config.term.upper()}" if config.term else "")
                figures.append(draw_comparison(run.figures / "comparison.png", compared, title))

    rows = {"last": _of_test(summary.final)}
    if summary.best is not None:
        rows[f"best (epoch {summary.best.epoch})"] = _of_test(summary.best.metrics)
    measured_on = f"{test.name}/{test.split}"
    show_metrics(f"{measured_on}, after {summary.epochs:g} epochs", rows, run.paper)
    if compared:
        show_comparison(compared, measured_on)
    rate = f", {summary.samples_per_second:,.0f} images/s" if summary.samples_per_second else ""
    console.log(
        f"Trained in {summary.wall_seconds:.1f} s{rate}, {100 * summary.waiting_share:.1f} % of it waiting for data."
    )
    if not config.json:
        for figure in figures:
            console.result(f"Figure: {console.escape(str(figure))}")
        console.result("Next:")
        for command in ("evaluate", *(["linear"] if bank is not None else []), "export"):
            console.result(f"  {console.command_line(f'ssl {command}', run.path)}")
    return summary.as_dict() | {
        "run": str(run.path),
        "comparison": compared,
        "figures": [str(figure) for figure in figures],
    }


def splits_of(config: PretrainOptions) -> tuple[ImageDataset, ImageDataset | None, ImageDataset]:
    """The training set, the labelled set whose images vote in k-NN (None without labels), the test set."""

    def load(split: str) -> ImageDataset:
        return load_dataset(
            config.dataset, split, root=config.data_root, download=config.download, corrupt=config.corrupt,
            image_size=config.image_size,
        )  # fmt: skip

    split = config.split or ("train+unlabelled" if config.dataset == "stl10" else "train")
    train = load(split)
    bank, test = bank_and_test(lambda name: train if name == split else load(name))
    return train, bank, test


def _untrained(description: Mapping[str, Any], config: PretrainOptions) -> Encoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return build_encoder(
            description, pretrained=config.pretrained, weights=config.weights, download=config.download
        )


def _of_test(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name.partition("/")[2]: value for name, value in metrics.items() if name.startswith("test/")}
