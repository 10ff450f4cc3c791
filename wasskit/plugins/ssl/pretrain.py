"""What the four pretraining commands do around their method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch

from wasskit import console
from wasskit.config import Invocation
from wasskit.data.base import ImageDataset
from wasskit.data.loaders import TrainLoader
from wasskit.data.views import random_views
from wasskit.distributed.group import world_size
from wasskit.plugins.ssl.evaluation import (
    Neighbours,
    Settings,
    bank_and_test,
    probe_metrics,
    standard_metrics,
    without_labels,
)
from wasskit.plugins.ssl.network import Encoder, SslModel, build_encoder, describe
from wasskit.plugins.ssl.options import PretrainOptions
from wasskit.plugins.ssl.reports import pretraining_report
from wasskit.plugins.ssl.tasks import Parts, PretrainTask, synchronise
from wasskit.report import conclude, write
from wasskit.training.session import Session, training_session

C = TypeVar("C", bound=PretrainOptions)


def pretrain(config: C, invocation: Invocation, make_task: Callable[[Parts[C]], PretrainTask]) -> Mapping[str, Any]:
    """Train, evaluate, compare with raw pixels and the untrained backbone, draw, report."""
    method = invocation.command.split()[-1]
    name = "-".join(part for part in (method, config.uniformity.term, config.data.dataset) if part)
    with training_session(config, invocation, name=name) as session:
        config, run, term = session.config, session.run, session.config.uniformity.term
        train, bank, test = splits_of(session)
        neighbours = None if bank is None else Neighbours.among(bank, config.knn_k)
        if neighbours is None:
            console.log(without_labels(test))
        settings = Settings(
            session.device,
            max(256, config.loop.batch_size),
            config.data.workers,
            config.machine.precision,
            config.run.seed,
        )
        model = _untrained(config, method, train)
        views = model.views

        def evaluate(encoder: Encoder, at_end: bool) -> dict[str, dict[str, float]]:
            found = standard_metrics(encoder, bank, test, views, neighbours, settings)
            if at_end and config.probe_epochs and bank is not None:
                found |= probe_metrics(encoder, bank, test, views, config.probe_epochs, settings)
            return {"test": found}

        task = make_task(Parts(model.encoder, config, model.description, evaluate))
        task.monitor = None if neighbours is None else f"test/{neighbours.name}_top1"
        synchronise(task)
        if world_size() > 1:
            console.log(f"{world_size()} processes; batch norm takes the statistics {task.batch_statistics}.")
        source = TrainLoader(
            train, config.loop.batch_size, random_views(train, views, views), device=session.device,
            seed=config.run.seed, workers=config.data.workers,
        )  # fmt: skip
        summary = session.trainer(task, source).fit(resume=session.checkpoint)
        task.eval()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.run.seed)
            untrained = _untrained(config, method, train).encoder.to(session.device).eval()
        report = pretraining_report(
            {"untrained": untrained, "trained": task.encoder}, bank, test, model, neighbours, settings,
            summary=summary, rows=run.metrics, paper=run.paper,
            title=f"{config.data.dataset}, {method}" + (f" + {term.upper()}" if term else ""),
        )  # fmt: skip
        written = write(report, run.path)
    following = ["evaluate", *(["linear"] if bank is not None else []), "export"]
    return conclude(run, summary, report, written, [(f"ssl {command}",) for command in following])


def splits_of(session: Session[C]) -> tuple[ImageDataset, ImageDataset | None, ImageDataset]:
    """The training set, the labelled set whose images vote in k-NN (None without labels), the test set."""
    config = session.config
    split = config.split or ("train+unlabelled" if config.data.dataset == "stl10" else "train")
    train = session.split(split)
    measured = {"test": config.test_split}
    bank, test = bank_and_test(lambda name: train if name == split else session.split(measured.get(name, name)))
    return train, bank, test


def _untrained(config: PretrainOptions, method: str, dataset: ImageDataset) -> SslModel:
    """The model that a configuration trains, with the weights that were asked for."""
    description = describe(config, method, dataset)
    encoder = build_encoder(
        description, pretrained=config.model.pretrained, weights=config.model.weights, download=config.data.download
    )
    return SslModel(encoder, description)
