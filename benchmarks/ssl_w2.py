"""The W2 uniformity loss, forward and backward, against plain decompositions of the covariance.

``eigh`` is the published form with a symmetric solver: S^{1/2} = Q diag(sqrt(l)) Q^T, its trace, and autograd through
all of it. ``eigvalsh`` is the kindest plain form: the sum of the roots alone, whose gradient needs no derivative of the
eigenvectors. Both in float64, as ours is, with 1e-8 added to the eigenvalues. Ours: ``eigh`` of the smaller Gram
matrix. Notes: the relative error of value and gradient against a float64 singular value decomposition, of ours, of its
other solver ``polar`` (matrix products alone, for GPUs) and of ``eigvalsh`` in float32.

    python benchmarks/ssl_w2.py [--threads 2] [--device cpu] [--repeats 5] [--kind isotropic|collapsed]
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.harness import Case, benchmark, main
from wasskit.evaluation.uniformity import w2_uniformity

SHAPES = ((512, 128), (512, 256), (512, 2048), (256, 1024))
Found = tuple[Tensor, Tensor]


def plain(features: Tensor, solver: str, dtype: torch.dtype = torch.float64) -> Tensor:
    z = torch.nn.functional.normalize(features.to(dtype))
    n, m = z.shape
    mean = z.mean(dim=0)
    centred = z - mean
    covariance = centred.mT @ centred / n
    if solver == "eigvalsh":
        root_trace = (torch.linalg.eigvalsh(covariance).clamp_min(0) + 1e-8).sqrt().sum()
    else:
        values, vectors = torch.linalg.eigh(covariance)
        root_trace = ((vectors * (values.abs() + 1e-8).sqrt()) @ vectors.mT).trace()
    value: Tensor = (mean.square().sum() + 1 + covariance.trace() - 2 / math.sqrt(m) * root_trace).sqrt()
    return value


def exact(features: Tensor) -> Found:
    """Value and gradient by a float64 singular value decomposition, null directions cut."""
    lengths = features.double().norm(dim=1, keepdim=True)
    z = features.double() / lengths
    n, m = z.shape
    u, s, v = torch.linalg.svd(z - z.mean(dim=0), full_matrices=False)
    # The rounding noise of float32 features is at 2.5e-8 of the largest.
    kept = s > s[0] * torch.finfo(torch.float32).eps / 4
    value = (z.square().sum() / n + 1 - 2 / math.sqrt(n * m) * (s * kept).sum()).sqrt()
    gradient = (z / n - (u * kept) @ v / math.sqrt(n * m)) / value
    return value, (gradient - z * (z * gradient).sum(1, keepdim=True)) / lengths


@benchmark(
    "W2 uniformity loss and its gradient",
    plain="`eigvalsh` of the covariance; `eigh` and the root, as published",
    dtype="float64",
    floor="`eigh` of the smaller Gram matrix, and the two products around it",
    quick={"shapes": ("64x16",)},
    full={"shapes": ("512x128", "512x256", "256x1024")},
)
def w2(
    *,
    kind: str = "isotropic",
    repeats: int = 3,
    shapes: tuple[str, ...] = tuple(f"{n}x{m}" for n, m in SHAPES),
    device: str = "cpu",
) -> Iterator[Case]:
    for shape in shapes:
        n, m = (int(part) for part in shape.split("x"))
        x = torch.randn(n, m, generator=torch.Generator().manual_seed(0))
        if kind == "collapsed":
            x[:, m // 4 :] = 0
        yield from cases(x.to(device), kind)


def cases(x: Tensor, kind: str) -> Iterator[Case]:
    leaf = x.clone().requires_grad_()
    n, m = x.shape

    def found(loss: Callable[[Tensor], Tensor]) -> Found:
        value = loss(leaf)
        return value.detach(), torch.autograd.grad(value, leaf)[0]

    def note() -> str:
        value, gradient = exact(x)
        ways: dict[str, Callable[[Tensor], Tensor]] = {
            "ours": w2_uniformity,
            "polar": lambda z: w2_uniformity(z, method="polar"),
            "eigvalsh in float32": lambda z: plain(z, "eigvalsh", torch.float32),
        }
        errors = []
        for name, way in ways.items():
            own, own_gradient = found(way)
            off = abs(float(own / value) - 1), float((own_gradient - gradient).norm() / gradient.norm())
            errors.append(f"{name} {off[0]:.0e} and {off[1]:.0e}")
        return f"errors of value and gradient: {'; '.join(errors)}"

    def floor() -> None:
        z = x.double() if n < m else x.double().T
        vectors = torch.linalg.eigh(z @ z.T).eigenvectors
        torch.mm(vectors, z)

    for solver in ("eigvalsh", "eigh"):
        yield Case(
            f"({n}, {m}), {kind}; {solver}",
            lambda: found(w2_uniformity),
            lambda solver=solver: found(lambda z: plain(z, solver)),  # type: ignore[misc]
            floor=floor,
            note=note if solver == "eigvalsh" else None,
        )


if __name__ == "__main__":
    main(__doc__, w2)
