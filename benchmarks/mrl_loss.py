"""Time of the Matryoshka-Wasserstein objective against GeomLoss called once per pair.

Forward and backward, dimensions 8 to 2048, 100 classes, normalisation included. The baseline is written as one would
write it: ``nn.Linear`` and ``cross_entropy`` on each prefix, GeomLoss on each pair of consecutive prefixes.

    python benchmarks/mrl_loss.py [--threads 2] [--device cpu] [--batches 64 128 256 512] [--betas 1 10]
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from geomloss import SamplesLoss
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.harness import Case, benchmark, main
from wasskit.plugins.mrl.loss import PUBLISHED_DIMS as DIMS
from wasskit.plugins.mrl.loss import MatryoshkaWassersteinLoss, normalise

CLASSES = 100
BLUR = 0.1


@benchmark(
    "Matryoshka-Wasserstein loss and its gradient",
    plain="`nn.Linear` and `cross_entropy` for each prefix, GeomLoss for each pair",
    quick={"batches": (16,), "betas": (1.0,)},
    full={"batches": (256,)},
)
def mrl_loss(
    *, batches: tuple[int, ...] = (64, 128, 256, 512), betas: tuple[float, ...] = (1.0, 10.0), device: str = "cpu"
) -> Iterator[Case]:
    for batch, beta in itertools.product(batches, betas):
        yield from cases(batch, beta, device)


def cases(batch: int, beta: float, device: str) -> Iterator[Case]:
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(batch, DIMS[-1], generator=generator).to(device).requires_grad_()
    labels = torch.randint(0, CLASSES, (batch,), generator=generator).to(device)
    heads = nn.ModuleList([nn.Linear(d, CLASSES) for d in DIMS]).to(device)
    divergence = SamplesLoss("sinkhorn", p=2, blur=BLUR, backend="tensorized")
    loss = MatryoshkaWassersteinLoss(CLASSES, DIMS, beta=beta, blur=BLUR).to(device)

    def pairs(x: Tensor) -> Tensor:
        total = x.new_zeros(())
        for d, e in itertools.pairwise(DIMS):
            padded = F.pad(x[:, :d], (0, e - d))
            stretched = torch.cat([x[:, :d], beta**0.5 * x[:, d:e]], 1)
            total = total + divergence(padded, stretched)
        return total

    def baseline_loss() -> Tensor:
        x = F.normalize(embeddings, dim=1)
        total = pairs(x)
        for d, head in zip(DIMS, heads, strict=True):
            total = total + F.cross_entropy(head(x[:, :d]), labels, label_smoothing=0.1)
        return total

    yield Case(
        f"divergences alone, batch {batch}, beta {beta:g}",
        lambda: loss.divergences(normalise(embeddings), "sum").backward(),
        lambda: pairs(F.normalize(embeddings, dim=1)).backward(),
    )
    yield Case(
        f"all of it, batch {batch}, beta {beta:g}",
        lambda: loss(embeddings, labels).total.backward(),
        lambda: baseline_loss().backward(),
    )


if __name__ == "__main__":
    main(__doc__, mrl_loss)
