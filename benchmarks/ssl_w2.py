"""The W2 uniformity loss, forward and backward, against plain decompositions of the covariance.

``eig`` is the published form: a general eigen-solver on the m x m covariance, S^{1/2} = Q diag(sqrt(l)) Q^T, its
trace, and autograd through all of it. ``eigh`` is the same with a symmetric solver, and ``eigvalsh`` the kindest
plain form: the sum of the roots alone, whose gradient needs no derivative of the eigenvectors. All with 1e-8 added to
the eigenvalues. Ours, in float64: ``eigh`` of the smaller Gram matrix, and ``polar``, matrix products alone (for GPUs).
Columns: milliseconds; how many times faster than ``eigh`` and ``eigvalsh`` in float64; the relative error of value and
gradient against a float64 singular value decomposition.

    python benchmarks/ssl_w2.py [--threads 2] [--device cpu] [--repeats 5] [--kind isotropic|collapsed]
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from wasskit.evaluation.uniformity import w2_uniformity

SHAPES = ((512, 256), (512, 2048), (256, 1024))


def plain(z: Tensor, solver: str) -> Tensor:
    n, m = z.shape
    mean = z.mean(dim=0)
    centred = z - mean
    covariance = centred.mT @ centred / n
    if solver == "eigvalsh":
        root_trace = (torch.linalg.eigvalsh(covariance).clamp_min(0) + 1e-8).sqrt().sum()
    else:
        values, vectors = getattr(torch.linalg, solver)(covariance)
        root = (vectors * (values.abs() + 1e-8).sqrt()) @ vectors.mT
        root_trace = root.diagonal().sum().real
    value: Tensor = (mean.square().sum() + 1 + covariance.trace() - 2 / math.sqrt(m) * root_trace).sqrt()
    return value


def exact(z: Tensor) -> tuple[float, Tensor]:
    """Value and gradient by a float64 singular value decomposition, null directions cut."""
    z = z.double()
    n, m = z.shape
    u, s, v = torch.linalg.svd(z - z.mean(dim=0), full_matrices=False)
    # The rounding noise of float32 features is at 2.5e-8 of the largest.
    kept = s > s[0] * torch.finfo(torch.float32).eps / 4
    value = (z.square().sum() / n + 1 - 2 / math.sqrt(n * m) * (s * kept).sum()).sqrt()
    return float(value), (z / n - (u * kept) @ v / math.sqrt(n * m)) / value


def features(n: int, m: int, kind: str, device: str) -> Tensor:
    x = torch.randn(n, m, generator=torch.Generator().manual_seed(0))
    if kind == "collapsed":
        x[:, m // 4 :] = 0
    return torch.nn.functional.normalize(x).to(device)


def measure(loss: Callable[[Tensor], Tensor], z: Tensor, repeats: int) -> tuple[float, Tensor, Tensor]:
    """Median seconds of forward and backward, value and gradient."""
    seconds = []
    for _ in range(repeats + 1):
        leaf = z.clone().requires_grad_()
        _wait(z)
        began = time.perf_counter()
        value = loss(leaf)
        (gradient,) = torch.autograd.grad(value, leaf)
        _wait(z)
        seconds.append(time.perf_counter() - began)
    return sorted(seconds[1:])[repeats // 2], value.detach(), gradient


def _wait(z: Tensor) -> None:
    if z.is_cuda:
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--kind", choices=("isotropic", "collapsed"), default="isotropic")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    losses: dict[str, Callable[[Tensor], Tensor]] = {
        "eig 32": lambda z: plain(z, "eig"),
        "eigh 32": lambda z: plain(z, "eigh"),
        "eigh 64": lambda z: plain(z.double(), "eigh"),
        "eigvalsh 32": lambda z: plain(z, "eigvalsh"),
        "eigvalsh 64": lambda z: plain(z.double(), "eigvalsh"),
        "ours, eigh": lambda z: w2_uniformity(z, normalise=False),
        "ours, polar": lambda z: w2_uniformity(z, normalise=False, method="polar"),
    }
    print(f"{arguments.kind} features on {arguments.device}, {arguments.threads} threads")
    print(f"{'(N, m)':>12} {'':>12} {'ms':>9} {'x eigh':>8} {'x eigvalsh':>11} {'value':>9} {'gradient':>9}")
    for n, m in SHAPES:
        z = features(n, m, arguments.kind, arguments.device)
        value, gradient = exact(z)
        timed = {name: measure(loss, z, arguments.repeats) for name, loss in losses.items()}
        for name, (seconds, own, own_gradient) in timed.items():
            value_error = abs(float(own) / value - 1)
            gradient_error = float((own_gradient - gradient).norm() / gradient.norm())
            print(
                f"{f'({n}, {m})':>12} {name:>12} {1e3 * seconds:9.1f} "
                f"{timed['eigh 64'][0] / seconds:8.2f} {timed['eigvalsh 64'][0] / seconds:11.2f} "
                f"{value_error:9.0e} {gradient_error:9.0e}"
            )


if __name__ == "__main__":
    main()
