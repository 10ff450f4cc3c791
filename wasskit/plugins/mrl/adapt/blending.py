"""Where between its start and what it learned an adaptor lies best: chosen by a first training that leaves classes out.

Labels say how the classes of the training are told apart, which others, met later, may not want. The weights between
the start, which knows no class, and the end of the training have most of both (see :class:`Adaptor`); how far to go
depends on the data.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from wasskit import console
from wasskit.data.seeds import derive_seed
from wasskit.evaluation.ties import nearest_blocks
from wasskit.plugins.mrl.adapt.data import Vectors
from wasskit.plugins.mrl.adapt.network import AdaptorModel
from wasskit.plugins.mrl.adapt.options import AdaptTrainingOptions
from wasskit.plugins.mrl.adapt.task import Parts, adapt, build_adapt_task
from wasskit.plugins.mrl.adapt.trained import HEADER
from wasskit.trained.files import read_model
from wasskit.training.cadence import Cadence
from wasskit.training.checkpoint import preserved_rng
from wasskit.training.stepper import Updates
from wasskit.training.trainer import Trainer

BLENDS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
UNCHOSEN = 0.5
"""The blend where there are too few classes to leave some out."""
FEWEST = 10
ROWS, MEASURED = 20_000, 2_000
"""Vectors, at most, of the first training, and of the classes left out."""


def with_blend(
    config: AdaptTrainingOptions, vectors: Vectors, device: torch.device, *, seed: int, resumed: Path | None = None
) -> AdaptTrainingOptions:
    """The configuration with a blend where it has none: that of the checkpoint that is resumed, or a chosen one."""
    if config.blend is not None:
        return config
    if resumed is not None:
        return replace(config, blend=read_model(resumed, "mrl", kinds=(HEADER,))[1]["blend"])
    blend = choose_blend(config, vectors, device, seed=seed)
    console.log(f"Of what is learned {blend:g} will be kept (--blend), as far as it serves classes left out.")
    return replace(config, blend=blend)


def choose_blend(
    config: AdaptTrainingOptions, vectors: Vectors, device: torch.device | str = "cpu", *, seed: int = 0
) -> float:
    r"""The largest blend that serves classes that were not learned as well as the start does.

    A first training learns half of the classes. Within the others, at each prefix d, :math:`e_d` is the share of
    vectors whose nearest one is of another class, :math:`e_d^0` that of the start; a blend is taken where
    :math:`\overline{\log (e_d / e_d^0)} \le 0`, the mean over the prefixes. ``config`` learns from the labels of
    ``vectors``. The global random numbers are left as they were.
    """
    assert vectors.labels is not None
    labels, device = vectors.labels, torch.device(device)
    classes = labels.unique()
    if len(classes) < FEWEST:
        return UNCHOSEN
    generator = torch.Generator().manual_seed(derive_seed(seed, "blend"))
    learned = torch.isin(labels, classes[torch.randperm(len(classes), generator=generator)[: len(classes) // 2]])

    def some(rows: Tensor, most: int) -> Vectors:
        chosen = rows.nonzero()[:, 0][torch.randperm(int(rows.sum()), generator=generator)[:most]]
        return Vectors(vectors.rows[chosen], labels[chosen])

    train, others = some(learned, ROWS), some(~learned, MEASURED)
    with preserved_rng(device, seed):
        task, source = build_adapt_task(replace(config, blend=1.0), "labels", Parts(train, None), device, seed=seed)
        cadence = Cadence(epochs=config.epochs, eval_every=0, log_every=10**9)
        updates = Updates(clip_norm=config.update.clip_norm)
        Trainer(task, source, cadence=cadence, updates=updates, device=device, seed=seed).fit()
    start = _errors(task.model, others, BLENDS[0], device)
    good = [blend for blend in BLENDS if (_errors(task.model, others, blend, device) / start).log().mean() <= 0]
    return max(good)


def _errors(model: AdaptorModel, vectors: Vectors, blend: float, device: torch.device) -> Tensor:
    """The share of vectors, one more counted as wrong, whose nearest one is of another class, at each prefix."""
    assert vectors.labels is not None
    model.network.blend = blend
    found, labels = adapt(model.network, vectors.rows, device).to(device), vectors.labels.to(device)
    errors = []
    for d in model.dims:
        unit = F.normalize(found[:, :d], dim=1)
        places = torch.cat([places for _, _, places in nearest_blocks(unit, unit, 1, own=True)])
        errors.append((labels[places[:, 0]] != labels).sum() + 1)
    return torch.stack(errors).double() / (len(labels) + 1)
