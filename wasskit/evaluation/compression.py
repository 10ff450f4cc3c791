"""What embeddings keep when they are shortened and coded: the table that decides how to store them.

Every vector of a set is compared with the others of the set, and with a bank (the training vectors)
where there is one. Similarity is the cosine of the (coded) prefixes; O(N) memory, equally similar items
as in :mod:`wasskit.evaluation.ties`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wasskit.evaluation.codes import CODES, Code, code_bytes, factors
from wasskit.evaluation.retrieval import recall_at_k
from wasskit.evaluation.ties import nearest_blocks


@dataclass(frozen=True)
class Measured:
    """One way to store vectors.

    ``metrics`` in percent: ``overlap10``, the share of each vector's ten nearest others that stay the nearest;
    with labels ``recall@1`` and ``recall@10`` within the set, and ``nn1``, the accuracy of the class of the nearest
    vector of the bank.
    """

    method: str
    code: Code
    dim: int
    bytes: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Bank:
    """Vectors (M, D) by method, in which the nearest are looked up, with labels (M,)."""

    vectors: Mapping[str, Tensor]
    labels: Tensor | None = None


@torch.no_grad()
def compression_rows(
    methods: Mapping[str, Tensor],
    dims: Sequence[int],
    *,
    reference: Tensor,
    labels: Tensor | None = None,
    bank: Bank | None = None,
    codes: Sequence[Code] = CODES,
    k: int = 10,
) -> list[Measured]:
    """Measure prefixes of several representations of one set of vectors, with each code.

    Args:
        methods: representations (N, D_m) of the set, by name; a prefix that one does not have is left out.
        reference: the whole vectors (N, D): what the neighbours are compared with.
        labels: (N,) integers; without, only the overlap is measured.
        bank: the same representations of the bank; its labels give ``nn1``. Codes are defined by the bank where there
            is one, as they would be in use.
        k: neighbours whose overlap is measured; N - 1 at most.

    Raises:
        ValueError: representations of other numbers of rows, fewer than two rows, or values that are not finite.
    """
    if len(reference) < 2:
        raise ValueError("neighbours need at least two vectors")
    for name, x in (("the reference", reference), *methods.items()):
        if x.ndim != 2 or len(x) != len(reference):
            raise ValueError(f"{name} has shape {tuple(x.shape)}: expected {len(reference)} rows")
        if not bool(x.isfinite().all()):
            raise ValueError(f"{name} has values that are not finite: no neighbour is nearest")
    truth = neighbours(factors(reference, "float32"), min(k, len(reference) - 1))
    rows = []
    for method, x in methods.items():
        for d in (d for d in dims if d <= x.shape[1]):
            items = None if bank is None else bank.vectors[method][:, :d]
            for code in codes:
                queries = factors(x[:, :d], code, items)
                metrics = {f"overlap{k}": 100 * neighbour_overlap(queries, truth)}
                if labels is not None:
                    recalls = recall_at_k(queries, labels, (1, 10), metric="dot")
                    metrics |= {f"recall@{n}": 100 * float(r) for n, r in zip((1, 10), recalls, strict=True)}
                    if items is not None and bank is not None and bank.labels is not None:
                        nearest = nearest_blocks(queries, factors(items, code), 1)
                        found = torch.cat([bank.labels[places[:, 0]] for _, _, places in nearest])
                        metrics["nn1"] = 100 * float((found == labels).double().mean())
                rows.append(Measured(method, code, d, code_bytes(code, d), metrics))
    return rows


def neighbours(x: Tensor, k: int) -> Tensor:
    """The ``k`` rows of ``x`` (N, D) with the largest inner product with each other row: (N, k) int64, k < N."""
    return torch.cat([places for _, _, places in nearest_blocks(x, x, k, own=True)])


def neighbour_overlap(x: Tensor, truth: Tensor) -> float:
    """The share of the neighbours ``truth`` (N, k) that are among the k nearest of ``x`` (N, D), by inner product."""
    blocks = nearest_blocks(x, x, truth.shape[1], own=True)
    return sum(in_common(places, truth[rows]) for rows, _, places in blocks) / truth.numel()


def in_common(found: Tensor, truth: Tensor) -> int:
    """How many items of the rows of ``truth`` (Q, k) are in those of ``found`` (Q, l); no row has one twice."""
    return int((found[:, :, None] == truth[:, None]).sum())


def baselines(x: Tensor, axes: Tensor, mean: Tensor, *, seed: int = 0) -> Iterator[tuple[str, Tensor]]:
    """The vectors (N, D) as they are, randomly rotated, and as principal components, by the name of the method.

    Args:
        axes, mean: principal axes (D, D) as rows and the mean (D,) of the unit training vectors.
    """
    unit = torch.nn.functional.normalize(x.float(), dim=1)
    yield "raw", unit
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(x.shape[1], x.shape[1], generator=generator, dtype=torch.float64)
    yield "random rotation", unit @ torch.linalg.qr(normal)[0].to(unit)
    yield "principal components", (unit - mean) @ axes.mT
