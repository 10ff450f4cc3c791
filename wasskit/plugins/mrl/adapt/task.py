"""The training of an adaptor: its data divided, its objective, what is measured on the validation part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wasskit.data.splits import stratified_split
from wasskit.distributed.collectives import reduce_sum
from wasskit.distributed.shard import shard_indices
from wasskit.errors import UserError
from wasskit.evaluation.embedding import evaluating
from wasskit.evaluation.ties import nearest_blocks
from wasskit.ot.nesting import check_dims
from wasskit.ot.precision import Precision, autocast
from wasskit.plugins.mrl.adapt.data import (
    LabelSource,
    NeighbourSource,
    Pairs,
    PairSource,
    RowSource,
    Vectors,
    split_pairs,
)
from wasskit.plugins.mrl.adapt.losses import LabelLoss, NeighbourLoss, PairLoss
from wasskit.plugins.mrl.adapt.network import Adaptor, AdaptorModel, build_adaptor, principal_axes, random_rotation
from wasskit.plugins.mrl.adapt.options import AdaptTrainingOptions, Learns, adapted_dims
from wasskit.plugins.mrl.adapt.starting import starting_axes
from wasskit.plugins.mrl.adapt.trained import HEADER
from wasskit.plugins.mrl.options import check_weights
from wasskit.plugins.mrl.task import published_schedule
from wasskit.trained.files import checkpoint_entry
from wasskit.training.cadence import Cadence
from wasskit.training.checkpoint import preserved_rng
from wasskit.training.optim import build_optimizer, parameter_groups
from wasskit.training.stepper import Updates
from wasskit.training.task import Losses, Optimisation, Plan, Progress, Task
from wasskit.training.trainer import Trainer

BANK = 20_000
"""Training vectors, at most, among which the validation looks for neighbours during training."""


@dataclass(frozen=True)
class Parts:
    """The vectors to train on and those kept for validation (None: none), with the pairs of either."""

    train: Vectors
    validation: Vectors | None


def divide(vectors: Vectors, learns: Learns, fraction: float, seed: int) -> Parts:
    """Keep a part of the vectors (of each class where there are labels) for validation; of pairs, some queries.

    With pairs all vectors stay on both sides: it is the judgements of the queries kept that are not trained on.
    Raises ``UserError`` where labels are learned of which no class has two vectors, or one vector alone is kept, which
    has no neighbour.
    """
    if learns == "pairs":
        if vectors.pairs is None:
            raise UserError("learning from pairs needs pairs")
        train, held = split_pairs(vectors.pairs, fraction, seed)
        return Parts(Vectors(vectors.rows, None, train), Vectors(vectors.rows, None, held))
    rest, part = stratified_split(vectors.labels, fraction, seed, size=len(vectors))
    if not len(part):  # every class has one vector
        if learns == "labels":
            raise UserError("--labels: no class has two vectors; of those, --learn neighbours can learn.")
        rest, part = stratified_split(None, fraction, seed, size=len(vectors))
    if len(part) < 2:
        raise UserError(
            f"--validation: {fraction:g} of the {len(vectors)} vectors of {vectors.name} leaves one for validation, "
            "which has no neighbours; name a larger share, or more vectors."
        )
    return Parts(*(_chosen(vectors, rows) for rows in (rest, part)))


def _chosen(vectors: Vectors, rows: Tensor) -> Vectors:
    labels = None if vectors.labels is None else vectors.labels[rows]
    return Vectors(vectors.rows[rows], labels, name=vectors.name)


class Batch(Protocol):
    """What a source of this package gives."""

    def losses(self, network: Adaptor, objective: Any) -> Losses: ...


class AdaptTask(Task):
    """Trains an :class:`AdaptorModel`."""

    def __init__(
        self, model: AdaptorModel, objective: nn.Module, config: AdaptTrainingOptions, check: Validation | None
    ) -> None:
        super().__init__()
        self.network = model.network
        self.objective = objective
        self.model = model
        self.config = config
        self.check = check
        self.monitor = None if check is None else f"val/{check.decides}"

    def networks(self) -> list[nn.Module]:
        return []

    def optimisations(self, plan: Plan) -> list[Optimisation]:
        config = self.config
        assert config.lr is not None
        groups = parameter_groups(self.network, lr=config.lr, weight_decay=config.update.weight_decay)
        heads = list(self.objective.parameters())
        if heads:
            groups.append({"params": heads, "lr": config.head_lr, "weight_decay": 0.0})
        optimizer = build_optimizer(config.update.optimizer, groups, lr=config.lr, momentum=config.update.momentum)
        return [Optimisation(optimizer, published_schedule(plan, config.update.warmup_epochs))]

    def losses(self, batch: Batch, progress: Progress) -> Losses:
        return batch.losses(self.network, self.objective)

    def evaluate(self, progress: Progress) -> dict[str, dict[str, float]]:
        return {} if self.check is None else {"val": self.check.metrics(self.network, self.model.dims, self.precision)}

    def extra_state(self) -> dict[str, Any]:
        return checkpoint_entry(self.model.description)


class Validation:
    """What a network is measured by during training, on the part that it does not learn from.

    In percent at each prefix and as ``name`` their mean: ``overlap10``, the share of the ten nearest training vectors
    that stay; ``nn1``, the accuracy of the class of the nearest; with pairs ``recall@1`` and ``recall@10``, the share
    of queries with a relevant document among the nearest of all other documents. ``decides`` names what chooses the
    best.
    """

    def __init__(self, train: Vectors, held: Vectors, learns: Learns, device: torch.device, *, seed: int = 0) -> None:
        self.pairs = held.pairs if learns == "pairs" else None
        self.decides = {"pairs": "recall@10", "labels": "nn1"}.get(learns, "overlap10")
        to: dict[str, Any] = {"device": device, "dtype": torch.float32}
        if self.pairs is not None:
            queries, documents = self.pairs.queries.unique(), _documents(train, held)
            self.vectors, self.bank = train.rows[queries].to(**to), train.rows[documents].to(**to)
            self.relevant = _relevant(self.pairs, queries, documents).to(device)
            self.own = _places(queries, documents).to(device)
            return
        kept = torch.arange(len(train))
        if len(train) > BANK:
            kept = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:BANK]
        self.vectors, self.bank = held.rows.to(**to), train.rows[kept].to(**to)
        self.labels = self.bank_labels = None
        if held.labels is not None and train.labels is not None:
            self.labels, self.bank_labels = (held.labels.to(device), train.labels[kept].to(device))
        unit, k = F.normalize(self.bank, dim=1), min(10, len(kept))
        found = nearest_blocks(F.normalize(self.vectors, dim=1), unit, k)
        self.truth = torch.cat([places for _, _, places in found])

    @torch.no_grad()
    def metrics(self, network: Adaptor, dims: tuple[int, ...], precision: Precision = "fp32") -> dict[str, float]:
        """All metrics at each prefix and their means; each rank measures its share of the vectors."""
        own = shard_indices(len(self.vectors))
        rows = slice(own.start, own.stop)
        with evaluating(network), autocast(self.bank.device, precision):
            queries = torch.cat([network(part).float() for part in self.vectors[rows].split(4096)])
            bank = torch.cat([network(part).float() for part in self.bank.split(4096)])
        measure = self._ranked if self.pairs is not None else self._kept
        counts = [measure(F.normalize(queries[:, :d], dim=1), F.normalize(bank[:, :d], dim=1), rows) for d in dims]
        values: dict[str, float] = {}
        for name in counts[0]:
            column = 100 * reduce_sum(torch.stack([one[name] for one in counts])) / len(self.vectors)
            values |= {f"{name}@{d}": value for d, value in zip(dims, column.tolist(), strict=True)}
            values[name] = float(column.mean())
        return values

    def _kept(self, queries: Tensor, bank: Tensor, rows: slice) -> dict[str, Tensor]:
        truth, k = self.truth[rows], self.truth.shape[1]
        kept = hits = torch.zeros((), dtype=torch.float64, device=bank.device)
        for part, _, places in nearest_blocks(queries, bank, k):
            kept = kept + (places[:, :, None] == truth[part][:, None]).sum() / k
            if self.labels is not None and self.bank_labels is not None:
                hits = hits + (self.bank_labels[places[:, 0]] == self.labels[rows][part]).sum()
        return {"overlap10": kept} if self.labels is None else {"overlap10": kept, "nn1": hits}

    def _ranked(self, queries: Tensor, bank: Tensor, rows: slice) -> dict[str, Tensor]:
        hits = torch.zeros(2, dtype=torch.float64, device=bank.device)
        for part, _, places in nearest_blocks(queries, bank, min(11, len(bank))):
            found = self.relevant[rows][part].gather(1, places)
            # What is no answer goes last: the query itself.
            itself = (places == self.own[rows][part][:, None]) & ~found
            found = found.gather(1, itself.int().argsort(dim=1, stable=True))[:, :10]
            hits = hits + torch.stack([found[:, 0], found.any(1)]).sum(1)
        return {"recall@1": hits[0], "recall@10": hits[1]}


def _documents(*parts: Vectors) -> Tensor:
    both = [part.pairs.documents for part in parts if part.pairs is not None]
    documents: Tensor = torch.cat(both).unique()
    return documents


def _places(queries: Tensor, documents: Tensor) -> Tensor:
    """Which of the documents (D,), ascending, each query (Q,) is; -1 where it is none."""
    place = torch.searchsorted(documents, queries).clamp_max(len(documents) - 1)
    return torch.where(documents[place] == queries, place, -1)


def _relevant(pairs: Pairs, queries: Tensor, documents: Tensor) -> Tensor:
    """Whether a document (D,) is relevant to a query (Q,), bool (Q, D)."""
    positive = pairs.relevance > 0
    relevant = torch.zeros(len(queries), len(documents), dtype=torch.bool)
    place = torch.searchsorted(queries, pairs.queries[positive])
    relevant[place, torch.searchsorted(documents, pairs.documents[positive])] = True
    return relevant


def build_adapt_task(
    config: AdaptTrainingOptions, learns: Learns, parts: Parts, device: torch.device, *, seed: int = 0
) -> tuple[AdaptTask, RowSource]:
    """The task of a configuration, started at axes of the training vectors, and its batches."""
    config = config.resolved(learns)
    assert config.batch_size is not None
    assert config.temperature is not None
    assert config.blend is not None
    train = parts.train
    if learns == "labels" and train.labels is None:
        raise UserError("learning from labels needs a label for each vector")
    width = train.rows.shape[1]
    dims = config.objective.dims or adapted_dims(width)
    if dims[-1] > width:
        raise UserError(f"--dims: {dims[-1]} is larger than the vectors, which have {width} numbers.")
    check_dims(dims, width)
    description = {
        "kind": HEADER,
        "width": width,
        "dims": list(dims),
        "shape": config.network,
        "hidden": config.hidden,
        "blocks": config.blocks if config.network == "residual" else 0,
        "blend": config.blend,
        "learned": learns,
    }
    model = build_adaptor(description, dropout=config.dropout or 0.0, input_dropout=config.input_dropout or 0.0)
    centre = _start(model.network, config, learns, train, dims, seed)
    source: RowSource
    objective: nn.Module
    shared = {"device": device, "seed": seed}
    if learns == "labels":
        assert train.labels is not None
        classes, dense = train.labels.unique(return_inverse=True)
        if len(classes) < 2:
            raise UserError("--labels: all vectors are of one class; nothing can be told apart.")
        objective = _label_loss(config, len(classes), dims)
        source = LabelSource(train.rows, dense, config.batch_size, **cast(Any, shared))
    elif learns == "pairs":
        assert train.pairs is not None
        objective = PairLoss(dims, temperature=config.temperature)
        source = PairSource(train.rows, train.pairs, config.batch_size, **cast(Any, shared))
    else:
        objective = NeighbourLoss(
            dims, centre=centre, temperature=config.temperature, pair_weight=config.pair_weight,
            wasserstein_weight=config.objective.wasserstein_weight, beta=config.objective.beta,
            blur=config.objective.blur,
        )  # fmt: skip
        source = NeighbourSource(
            train.rows, config.batch_size, near=config.near, pool=config.pool, centre=centre, **cast(Any, shared)
        )
    held = parts.validation
    check = None if held is None else Validation(train, held, learns, device, seed=seed)
    return AdaptTask(model, objective, config, check), source


def _start(
    network: Adaptor, config: AdaptTrainingOptions, learns: Learns, train: Vectors, dims: tuple[int, ...], seed: int
) -> Tensor | None:
    """Set the axes and the centre (D,) that training starts from; the centre, None where there is none."""
    discriminant = config.start == "discriminant"
    mean, axes = starting_axes(train, dims, seed=seed) if discriminant else principal_axes(train.rows)
    if config.start == "random":
        axes = random_rotation(len(axes), seed)
    # The full centre serves classes best but moves neighbours; half of it has nearly all of the one at little of the
    # other. Pairs say themselves what belongs together.
    centre = {"labels": mean, "neighbours": config.centre * mean}.get(learns)
    network.start(axes, centre)
    return centre


def _label_loss(config: AdaptTrainingOptions, classes: int, dims: tuple[int, ...]) -> LabelLoss:
    settings = {name: value for name, value in vars(config.objective).items() if name != "dims"}
    check_weights(config.objective.ce_weights, dims)
    return LabelLoss(
        classes,
        dims,
        cosine_weight=config.cosine_weight,
        cosine_temperature=cast(float, config.temperature),
        keep_weight=config.keep_weight,
        **settings,
    )


def trained_alone(
    config: AdaptTrainingOptions, learns: Learns, train: Vectors, device: torch.device, *, seed: int
) -> AdaptTask:
    """The task after a training without a run directory. The global random numbers are left as they were."""
    with preserved_rng(device, seed):
        task, source = build_adapt_task(config, learns, Parts(train, None), device, seed=seed)
        cadence = Cadence(epochs=config.epochs, eval_every=0, log_every=10**9)
        updates = Updates(clip_norm=config.update.clip_norm)
        Trainer(task, source, cadence=cadence, updates=updates, device=device, seed=seed).fit()
    return task


@torch.no_grad()
def adapt(network: Adaptor, rows: Tensor, device: torch.device | str = "cpu", *, chunk: int = 8192) -> Tensor:
    """Adapted unit vectors (N, m) float32 on the CPU, of vectors (N, D), some at a time."""
    with evaluating(network):
        parts = [
            network.normalised(rows[i : i + chunk].to(device, torch.float32)).cpu() for i in range(0, len(rows), chunk)
        ]
    return torch.cat(parts)
