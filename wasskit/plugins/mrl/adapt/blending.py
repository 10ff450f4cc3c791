"""Where between its start and what it learned an adaptor lies best: chosen by a first training that leaves classes out.

Labels say how the classes of the training are told apart, which others, met later, may not want. The weights between
the start, which knows no class, and the end of the training have most of both (see :class:`Adaptor`); how far to go
depends on the data.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from wasskit.data.seeds import derive_seed
from wasskit.data.splits import stratified_split
from wasskit.evaluation.ties import nearest_blocks
from wasskit.plugins.mrl.adapt.data import Vectors
from wasskit.plugins.mrl.adapt.network import AdaptorModel
from wasskit.plugins.mrl.adapt.options import AdaptTrainingOptions
from wasskit.plugins.mrl.adapt.task import Parts, adapt, build_adapt_task
from wasskit.training.cadence import Cadence
from wasskit.training.checkpoint import preserved_rng
from wasskit.training.stepper import Updates
from wasskit.training.trainer import Trainer

BLENDS = (0.0, 0.25, 0.5, 0.75, 1.0)
UNCHOSEN = 0.5
"""The blend where there are too few classes to leave some out."""
FEWEST = 10
SHARE = 0.2
"""Of the classes, that is left out; of the vectors of the others, a tenth."""
ROWS, BANK, QUERIES = 20_000, 5_000, 1_000
"""Vectors, at most, of the first training; of these that are searched; of each kind that search."""


def choose_blend(
    config: AdaptTrainingOptions, vectors: Vectors, device: torch.device | str = "cpu", *, seed: int = 0
) -> float:
    """The blend of the best sum of two accuracies of the nearest neighbour, each the mean over the prefixes: of vectors
    left out of the classes that were learned, and of those of the classes that were not, among all.

    ``config`` learns from the labels of ``vectors``. The global random numbers are left as they were.
    """
    assert vectors.labels is not None
    labels, device = vectors.labels, torch.device(device)
    classes = labels.unique()
    if len(classes) < FEWEST:
        return UNCHOSEN
    generator = torch.Generator().manual_seed(derive_seed(seed, "blend"))

    def some(rows: Tensor, most: int) -> Tensor:
        return rows[torch.randperm(len(rows), generator=generator)[:most]]

    left_out = torch.isin(labels, some(classes, max(2, round(SHARE * len(classes)))))
    known = some((~left_out).nonzero()[:, 0], ROWS)
    rest, part = stratified_split(labels[known], 0.1, seed)
    train = Vectors(vectors.rows[known[rest]], labels[known[rest]])
    with preserved_rng(device, seed):
        task, source = build_adapt_task(replace(config, blend=1.0), "labels", Parts(train, None), device, seed=seed)
        cadence = Cadence(epochs=config.epochs, eval_every=0, log_every=10**9)
        updates = Updates(clip_norm=config.update.clip_norm, accumulate=config.accumulate)
        Trainer(task, source, cadence=cadence, updates=updates, device=device, seed=seed).fit()
    bank = some(known[rest], BANK)
    queries = some(known[part], QUERIES), some(left_out.nonzero()[:, 0], QUERIES)
    scores = [_score(task.model, vectors, bank, queries, blend, device) for blend in BLENDS]
    return BLENDS[int(torch.tensor(scores).argmax())]


def _score(
    model: AdaptorModel,
    vectors: Vectors,
    bank: Tensor,
    queries: tuple[Tensor, Tensor],
    blend: float,
    device: torch.device,
) -> float:
    """The sum of the accuracies of both kinds of ``queries``, each times the number of prefixes."""
    model.network.blend = blend
    total = 0.0
    for rows, own in zip(queries, (False, True), strict=True):
        # Those of classes left out are searched among themselves too, where each finds itself.
        gallery = torch.cat([rows, bank]) if own else bank
        found = adapt(model.network, vectors.rows[torch.cat([rows, gallery])], device).to(device)
        assert vectors.labels is not None
        wanted, known = (vectors.labels[x].to(device) for x in (rows, gallery))
        for d in model.dims:
            unit = F.normalize(found[:, :d], dim=1)
            blocks = nearest_blocks(unit[: len(rows)], unit[len(rows) :], 1 + own)
            places = torch.cat([places for _, _, places in blocks])
            itself = own & (places[:, 0] == torch.arange(len(rows), device=device))
            nearest = torch.where(itself, places[:, -1], places[:, 0])
            total += float((known[nearest] == wanted).double().mean())
    return total
