"""L_U of N features against torch.pdist: seconds and peak memory.

``pdist`` is the published form, log(exp(-t pdist(z)^2).mean()). Memory is the growth of the process's peak over the
features themselves, each way in a process of its own.

    python benchmarks/ssl_lu.py [--threads 2] [--device cpu] [--sizes 20000 50000] [--dim 256]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.harness import Case, benchmark, main
from wasskit.evaluation.uniformity import gaussian_uniformity


@benchmark(
    "L_U of all pairs",
    plain="`torch.pdist`, as published",
    floor="half of the matrix of inner products",
    memory=True,
    quick={"sizes": (500,)},
    full={"sizes": (10_000,)},
)
def lu(*, sizes: tuple[int, ...] = (20_000, 50_000), dim: int = 256, device: str = "cpu") -> Iterator[Case]:
    for n in sizes:
        generator = torch.Generator().manual_seed(0)
        yield case(torch.nn.functional.normalize(torch.randn(n, dim, generator=generator)).to(device))


def case(z: Tensor) -> Case:
    gaussian_uniformity(z[:64])

    def products() -> None:
        parts = z.split(512)
        for place, rows in enumerate(parts):
            for columns in parts[place:]:
                torch.mm(rows, columns.T)

    return Case(
        f"{len(z):,} x {z.shape[1]}",
        lambda: gaussian_uniformity(z),
        lambda: torch.pdist(z).pow(2).mul(-2).exp().mean().log(),
        floor=products,
        agree=lambda mine, theirs: torch.testing.assert_close(theirs, mine, rtol=1e-4, atol=1e-5),
    )


if __name__ == "__main__":
    main(__doc__, lu)
