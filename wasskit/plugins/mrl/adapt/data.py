"""Vectors from files, the part of them that is kept for validation, and the batches of the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wasskit.data.embeddings import Embeddings, class_numbers, open_embeddings, read_column
from wasskit.data.pairs import Named, read_pairs, rows_of_pairs
from wasskit.data.samplers import RandomSampler, some_rows
from wasskit.data.seeds import derive_seed
from wasskit.distributed.group import rank, world_size
from wasskit.distributed.shard import shard_indices
from wasskit.errors import UserError
from wasskit.evaluation.compression import neighbours
from wasskit.plugins.mrl.adapt.losses import LabelLoss, NeighbourLoss, PairLoss, about
from wasskit.plugins.mrl.adapt.network import Adaptor
from wasskit.system.transfer import to_device
from wasskit.training.task import Losses

POOL = 50_000
"""Vectors among which nearest pairs are looked for; of more, as many are drawn."""


class Pairs(NamedTuple):
    """Rows of queries and documents (P,) int64, and the relevance (P,) float32 of one to the other."""

    queries: Tensor
    documents: Tensor
    relevance: Tensor


@dataclass(frozen=True)
class Vectors:
    """Vectors (N, D) and what is known of them: labels (N,) int64, or pairs of rows."""

    rows: Tensor
    labels: Tensor | None = None
    pairs: Pairs | None = None
    name: str = "vectors"

    def __len__(self) -> int:
        return len(self.rows)


# --- Files ------------------------------------------------------------------------------------------------------------


def read_vectors(
    path: Path, labels: Path | None = None, pairs: Path | None = None, *, also: Path | None = None
) -> Vectors:
    """The vectors of a file with their labels or pairs, if named.

    Args:
        also: further labels; classes that are named by texts have the same numbers in both files.

    Raises:
        UserError: a file cannot be read, or they do not fit together.
    """
    opened = open_embeddings(path, least=2)
    rows = opened.whole()
    found = None
    if labels is not None:
        columns = [read_column(labels, opened), *([] if also is None else [read_column(also)])]
        texts = any(column.dtype.kind == "U" for column in columns)
        found = class_numbers(*columns)[0][0] if texts else torch.from_numpy(columns[0])
    related = None if pairs is None else pairs_of_rows(pairs, opened)
    return Vectors(rows, found, related, path.stem)


def vector_width(path: Path | None) -> int:
    """The width of the vectors of a file; None: of digits."""
    return 64 if path is None else open_embeddings(path).shape[1]


def pairs_of_rows(path: Path, of: Embeddings) -> Pairs:
    """Pairs of rows of the vectors, by their numbers; a negative relevance counts as none.

    Raises:
        UserError: the file cannot be read, a number is that of no row, or no pair has a positive relevance.
    """
    rows = Named.by_number(of)
    queries, documents, relevance = rows_of_pairs(read_pairs(path), rows, rows)
    if not bool((relevance > 0).any()):
        raise UserError(f"{path} has no pair of positive relevance: there is nothing to learn from.")
    return Pairs(queries, documents, relevance.float().clamp(min=0))


def digits(split: str, root: Path | None = None) -> Vectors:
    """The pixels of a split of digits, as vectors of 64 numbers from 0 to 1, with labels."""
    from wasskit.data.registry import load_dataset

    dataset = load_dataset("digits", split, root=root)
    images = dataset.images_on(torch.device("cpu"))
    return Vectors(images.flatten(1).float() / 255, dataset.filled_labels(), name="digits")


# --- Parts ------------------------------------------------------------------------------------------------------------


def split_pairs(pairs: Pairs, fraction: float, seed: int) -> tuple[Pairs, Pairs]:
    """The pairs of the queries to train on, and those of a ``fraction`` of the queries, at least one."""
    queries = pairs.queries.unique()
    if len(queries) < 2:
        raise UserError("--pairs: one query alone leaves none for validation; name pairs of two or more.")
    generator = torch.Generator().manual_seed(derive_seed(seed, "split"))
    kept = min(max(round(fraction * len(queries)), 1), len(queries) - 1)
    held = torch.isin(pairs.queries, queries[torch.randperm(len(queries), generator=generator)[:kept]])
    return Pairs(*(x[~held] for x in pairs)), Pairs(*(x[held] for x in pairs))


# --- Batches ----------------------------------------------------------------------------------------------------------


class LabelBatch(NamedTuple):
    """This rank's vectors (B, D) with classes (B,)."""

    vectors: Tensor
    classes: Tensor

    def losses(self, network: Adaptor, objective: LabelLoss) -> Losses:
        return objective(network(self.vectors), self.classes, self.vectors)  # type: ignore[no-any-return]


class NeighbourBatch(NamedTuple):
    """All vectors (B, D) of a step, the anchors first, with the rows (B,) that they are."""

    vectors: Tensor
    ids: Tensor
    anchors: int

    def losses(self, network: Adaptor, objective: NeighbourLoss) -> Losses:
        own = shard_indices(len(self.vectors))
        adapted = network(self.vectors[own.start : own.stop])
        return objective(adapted, self.vectors, self.ids, self.anchors)  # type: ignore[no-any-return]


class PairBatch(NamedTuple):
    """Queries and documents (B, D) of a step with the relevance (B, B)."""

    queries: Tensor
    documents: Tensor
    relevance: Tensor

    def losses(self, network: Adaptor, objective: PairLoss) -> Losses:
        own = shard_indices(len(self.queries))
        queries, documents = (x[own.start : own.stop] for x in (self.queries, self.documents))
        return objective(network(queries), network(documents), self.relevance)  # type: ignore[no-any-return]


class RowSource:
    """Batches of rows in a new order each epoch: a function of the epoch and the batch's number alone."""

    def __init__(self, rows: Tensor, count: int, batch_size: int, *, device: torch.device, seed: int) -> None:
        if batch_size % world_size():
            raise UserError(
                f"--batch-size: {batch_size} cannot be shared equally by {world_size()} processes; take a multiple."
            )
        self.rows = rows
        self.batch_size = min(batch_size, count - count % world_size())
        self.device = device
        self.seed = seed
        self.sampler = RandomSampler(count, seed)
        self.steps_per_epoch = count // self.batch_size if self.batch_size else 0

    def chosen(self, epoch: int, start: int) -> Iterator[tuple[int, Tensor]]:
        """The number of each batch and its samples."""
        order = self.sampler.order(epoch)
        for step in range(start, self.steps_per_epoch):
            yield step, order[step * self.batch_size : (step + 1) * self.batch_size]

    def batches(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """The batches ``start``, ``start + 1``, ... of an epoch."""
        raise NotImplementedError

    def vectors(self, rows: Tensor) -> Tensor:
        """Rows of the vectors, float32 on the device."""
        return to_device(self.rows[rows].float(), self.device)

    def generator(self, epoch: int, step: int) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(self.seed, "near", epoch, step))


class LabelSource(RowSource):
    """Vectors with their classes (N,)."""

    def __init__(self, rows: Tensor, classes: Tensor, batch_size: int, *, device: torch.device, seed: int) -> None:
        super().__init__(rows, len(rows), batch_size, device=device, seed=seed)
        self.classes = classes

    def batches(self, epoch: int, start: int = 0) -> Iterator[LabelBatch]:
        share, own = self.batch_size // world_size(), rank()
        for _, chosen in self.chosen(epoch, start):
            mine = chosen[own * share : (own + 1) * share]
            yield LabelBatch(self.vectors(mine), to_device(self.classes[mine], self.device))


class NeighbourSource(RowSource):
    """Anchors, some of the nearest vectors of each, and as many anchors' worth of vectors at random.

    Args:
        near: neighbours drawn for each anchor, from its ``pool`` nearest by cosine about the ``centre`` (D,).
    """

    def __init__(
        self,
        rows: Tensor,
        batch_size: int,
        *,
        near: int = 4,
        pool: int = 30,
        centre: Tensor | None = None,
        device: torch.device,
        seed: int,
    ) -> None:
        if len(rows) > POOL:
            rows = rows[some_rows(len(rows), POOL, derive_seed(seed, "pool"))]
        super().__init__(rows, len(rows), batch_size, device=device, seed=seed)
        self.near = min(near, len(rows) - 1)
        unit = about(rows.to(device, torch.float32), None if centre is None else centre.to(device))
        self.nearest = neighbours(unit, min(pool, len(rows) - 1)).cpu()

    def batches(self, epoch: int, start: int = 0) -> Iterator[NeighbourBatch]:
        for step, anchors in self.chosen(epoch, start):
            generator = self.generator(epoch, step)
            keys = torch.rand(len(anchors), self.nearest.shape[1], generator=generator)
            near = self.nearest[anchors].gather(1, keys.topk(self.near, dim=1).indices)
            others = torch.randint(len(self.rows), (2 * len(anchors),), generator=generator)
            ids = torch.cat([anchors, near.flatten(), others])
            yield NeighbourBatch(self.vectors(ids), to_device(ids, self.device), len(anchors))


class PairSource(RowSource):
    """Pairs of positive relevance; each query of a batch ranks the documents of all of them."""

    def __init__(self, rows: Tensor, pairs: Pairs, batch_size: int, *, device: torch.device, seed: int) -> None:
        positive = pairs.relevance > 0
        self.queries, self.documents = pairs.queries[positive], pairs.documents[positive]
        super().__init__(rows, len(self.queries), batch_size, device=device, seed=seed)
        keys = pairs.queries * len(rows) + pairs.documents
        self.keys, order = keys.sort()
        self.known = pairs.relevance[order]

    def relevance(self, queries: Tensor, documents: Tensor) -> Tensor:
        """(Q,), (D,) rows to (Q, D): as the pairs say; where none does 0, and NaN for a query as its own document."""
        wanted = queries[:, None] * len(self.rows) + documents[None]
        place = torch.searchsorted(self.keys, wanted).clamp_max(len(self.keys) - 1)
        unknown = torch.where(queries[:, None] == documents[None], torch.nan, 0.0)
        return torch.where(self.keys[place] == wanted, self.known[place], unknown)

    def batches(self, epoch: int, start: int = 0) -> Iterator[PairBatch]:
        for _, chosen in self.chosen(epoch, start):
            queries, documents = self.queries[chosen], self.documents[chosen]
            relevance = to_device(self.relevance(queries, documents), self.device)
            yield PairBatch(self.vectors(queries), self.vectors(documents), relevance)
