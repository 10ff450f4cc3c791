"""Distances and maps of optimal transport against plain forms, GeomLoss and POT, all in float64.

Energy distance with its gradient, from all pairs; the squared Bures-Wasserstein distance and the optimal map between
Gaussians; sliced W2.

    python benchmarks/transport.py [--threads 2] [--points 2000] [--widths 2 64] [--dims 64 256] [--directions 128]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.harness import Case, Work, benchmark, main
from wasskit.ot.energy import energy_distance_limit
from wasskit.ot.gaussian import bures_wasserstein_squared, gaussian_transport_map
from wasskit.ot.sliced import sliced_wasserstein_squared


def clouds(points: int, width: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, points, width, generator=generator, dtype=torch.float64)
    return x, 1.2 * y + 0.1


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(torch.as_tensor(theirs).reshape(ours.shape), ours, rtol=1e-6, atol=1e-9)


@benchmark(
    "energy distance and its gradient",
    plain="`torch.cdist` three times",
    dtype="float64",
    floor="the products of all pairs, each once",
    quick={"points": 200, "widths": (2,)},
)
def energy(*, points: int = 2000, widths: tuple[int, ...] = (2, 64)) -> Iterator[Case]:
    for width in widths:
        x, y = clouds(points, width)
        leaf = x.clone().requires_grad_()
        yield energy_case(leaf, y)


def energy_case(x: Tensor, y: Tensor) -> Case:
    """Gradients of length one: packages differ in the factor of the distance."""

    def gradient(value: Tensor) -> Tensor:
        (found,) = torch.autograd.grad(value, x)
        unit: Tensor = found / found.norm()
        return unit

    def geomloss() -> Work:
        from geomloss import SamplesLoss

        loss = SamplesLoss("energy", backend="tensorized")
        return lambda: gradient(loss(x, y))

    def products() -> None:
        pooled = torch.cat([x.detach(), y])
        for place, rows in enumerate(pooled.split(512)):
            for columns in pooled.split(512)[place:]:
                torch.mm(rows, columns.T)

    return Case(
        f"{len(x):,} and {len(y):,} points in {x.shape[1]} dimensions",
        lambda: gradient(energy_distance_limit(x, y, unbiased=False)),
        lambda: gradient(plain_energy(x, y)),
        {"geomloss": geomloss},
        floor=products,
        agree=lambda a, b: torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-8),
    )


def plain_energy(x: Tensor, y: Tensor) -> Tensor:
    return 2 * torch.cdist(x, y).mean() - torch.cdist(x, x).mean() - torch.cdist(y, y).mean()


def gaussians(dim: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, y = clouds(2 * dim, dim)
    return x.mean(0), x.T.cov(), y.mean(0), 2 * y.T.cov()


def root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    found: Tensor = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    return found


@benchmark(
    "squared Bures-Wasserstein distance of Gaussians",
    plain="matrix roots by eigenvalues",
    dtype="float64",
    floor="the singular values of one matrix",
    quick={"dims": (16,)},
)
def bures(*, dims: tuple[int, ...] = (64, 256)) -> Iterator[Case]:
    for dim in dims:
        yield bures_case(*gaussians(dim))


def bures_case(mean1: Tensor, first: Tensor, mean2: Tensor, second: Tensor) -> Case:
    def plain() -> Tensor:
        half = root(first)
        cross = root(half @ second @ half).trace()
        return (mean1 - mean2).square().sum() + first.trace() + second.trace() - 2 * cross

    def pot() -> Work:
        from ot.gaussian import bures_wasserstein_distance

        return lambda: bures_wasserstein_distance(mean1, mean2, first, second) ** 2

    return Case(
        f"{len(first)} dimensions",
        lambda: bures_wasserstein_squared(mean1, first, mean2, second),
        plain,
        {"POT": pot},
        floor=lambda: torch.linalg.svdvals(first),
        agree=close,
    )


@benchmark(
    "optimal map between Gaussians",
    plain="matrix roots by eigenvalues, and an inverse",
    dtype="float64",
    floor="the singular vectors of one matrix",
    quick={"dims": (16,)},
)
def gaussian_map(*, dims: tuple[int, ...] = (64, 256)) -> Iterator[Case]:
    for dim in dims:
        yield map_case(*gaussians(dim))


def map_case(mean1: Tensor, first: Tensor, mean2: Tensor, second: Tensor) -> Case:
    def plain() -> Tensor:
        half = root(first)
        inverse = torch.linalg.inv(half)
        found: Tensor = inverse @ root(half @ second @ half) @ inverse
        return found

    def pot() -> Work:
        from ot.gaussian import bures_wasserstein_mapping

        return lambda: bures_wasserstein_mapping(mean1, mean2, first, second)[0]

    return Case(
        f"{len(first)} dimensions",
        lambda: gaussian_transport_map(first, second),
        plain,
        {"POT": pot},
        floor=lambda: torch.linalg.svd(first),
        agree=close,
    )


@benchmark(
    "sliced W2, squared",
    plain="sorted projections, one direction after the other",
    dtype="float64",
    floor="sorting all projections",
    quick={"points": 300, "directions": 8},
)
def sliced(*, points: int = 2000, width: int = 64, directions: int = 128) -> Iterator[Case]:
    x, y = clouds(points, width)
    axes = torch.nn.functional.normalize(torch.randn(directions, width, dtype=torch.float64))

    def plain() -> Tensor:
        values = [((x @ axis).sort().values - (y @ axis).sort().values).square().mean() for axis in axes]
        return torch.stack(values).mean()

    def pot() -> Work:
        from ot.sliced import sliced_wasserstein_distance

        across = axes.T.contiguous()
        return lambda: sliced_wasserstein_distance(x, y, projections=across) ** 2

    def sorting() -> None:
        for cloud in (x, y):
            (axes @ cloud.T).sort(1)

    yield Case(
        f"{points:,} points in {width} dimensions, {directions} directions",
        lambda: sliced_wasserstein_squared(x, y, directions=axes),
        plain,
        {"POT": pot},
        floor=sorting,
        agree=close,
    )


if __name__ == "__main__":
    main(__doc__, energy, bures, gaussian_map, sliced)
