"""Two ways to the same: matrix roots by eigenvalues or products, batch norms of ours or of torch; evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.gpu_checks.bench import Bench, Case, Finding
from wasskit.distributed import norm
from wasskit.evaluation.knn import knn_accuracy
from wasskit.evaluation.retrieval import recall_at_k
from wasskit.evaluation.uniformity import w2_uniformity
from wasskit.ot.polar import Method
from wasskit.plugins.ssl.losses import Solver, zca_matrix

__all__ = ["cases"]


def cases(bench: Bench) -> Iterator[Case]:
    for n, m in ((64, 32),) if bench.dry else ((512, 256), (512, 2048), (256, 1024)):
        yield f"w2-{n}x{m}", partial(_distance, bench, n, m)
    yield "whitening", partial(_whitening, bench)
    for dtype in (torch.float32, torch.bfloat16):
        yield f"batch-norm-{str(dtype).removeprefix('torch.')}", partial(_batch_norm, bench, dtype)
    for width in (64, 512, 2048):
        yield f"ties-{width}", partial(_ties, bench, width)
    yield "neighbours", partial(_neighbours, bench)


def _normal(bench: Bench, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(bench.device)


def _compared(bench: Bench, milliseconds: dict[str, float], error: float, bound: float) -> Finding:
    """Products are faster than eigenvalues on a GPU, where they are the default; on a CPU they need not be."""
    faster = milliseconds["polar"] < milliseconds["eigh"] or not bench.is_cuda
    words = ", ".join(f"{name} {value:.2f} ms" for name, value in milliseconds.items())
    return Finding(faster and error <= bound, f"{words}, apart by {error:.0e}", f"polar faster, at most {bound:.0e}")


def _distance(bench: Bench, n: int, m: int) -> Finding:
    z = _normal(bench, n, m).requires_grad_()

    def gradient(method: Method) -> Tensor:
        return torch.autograd.grad(w2_uniformity(z, method=method), z)[0]

    methods: tuple[Method, Method] = ("eigh", "polar")
    times: dict[str, float] = {
        how: 1e3 * bench.seconds_per_call(partial(gradient, how), 1 if bench.dry else 5) for how in methods
    }
    first, second = map(gradient, methods)
    # Both in float64, of float32 rows.
    return _compared(bench, times, float((first - second).norm() / first.norm()), 1e-4)


def _whitening(bench: Bench) -> Finding:
    x = _normal(bench, *((64, 32) if bench.dry else (1024, 256)))
    solvers: tuple[Solver, Solver] = ("eigh", "polar")
    times: dict[str, float] = {how: 1e3 * bench.seconds_per_call(lambda h=how: zca_matrix(x, h), 5) for how in solvers}  # type: ignore[misc]
    first, second = (zca_matrix(x, how) for how in solvers)
    return _compared(bench, times, float((first - second).norm() / first.norm()), 1e-4)


def _batch_norm(bench: Bench, dtype: torch.dtype) -> Finding:
    """Two ranks with the same batch normalise it as one rank does; here without the exchange between them."""
    shape = (4, 8, 6, 6) if bench.dry else (128, 256, 56, 56)
    images = _normal(bench, *shape).to(dtype).contiguous(memory_format=torch.channels_last)
    weights = _normal(bench, *shape, seed=1).to(dtype)
    native = torch.nn.BatchNorm2d(shape[1]).to(bench.device)
    own = norm.convert_sync_batchnorm(torch.nn.BatchNorm2d(shape[1])).to(bench.device)

    exact = torch.nn.BatchNorm2d(shape[1]).to(bench.device, torch.float64)

    def step(module: torch.nn.Module, dtype: torch.dtype = dtype) -> tuple[Tensor, Tensor]:
        x = images.detach().to(dtype).requires_grad_()
        y = module(x)
        y.backward(weights.to(dtype))
        assert x.grad is not None
        return y.detach(), x.grad

    wanted = step(exact, torch.float64)

    def error(module: torch.nn.Module) -> float:
        pairs = zip(step(module), wanted, strict=True)
        return max(float((found.double() - right).norm() / right.norm()) for found, right in pairs)

    with (
        mock.patch.object(norm, "world_size", return_value=2),
        mock.patch.object(norm, "stack_ranks", lambda values: torch.stack([values, values])),
        mock.patch.object(norm, "reduce_sum", lambda values: 2 * values),
    ):
        errors = error(own), error(native)
        calls = 1 if bench.dry else 5
        times = [1e3 * bench.seconds_per_call(partial(step, module), calls) for module in (own, native)]
    # Results rounded to the dtype; statistics of many numbers are as exact as torch makes them in float32.
    bound = max(8 * torch.finfo(dtype).eps, 2 * errors[1])
    passed = errors[0] <= bound and (times[0] < 2 * times[1] or not bench.is_cuda)
    words = f"own {times[0]:.2f} ms, native {times[1]:.2f} ms, off by {errors[0]:.0e} and {errors[1]:.0e}"
    return Finding(passed, words, f"below twice the native, off by at most {bound:.0e}")


def _ties(bench: Bench, width: int) -> Finding:
    """Equal rows are equally far from everything, whatever tile of a product they fall into: none is found first."""
    n = 512 if bench.dry else 16384
    rows = _normal(bench, 1, width).repeat(n, 1)
    found = float(recall_at_k(rows, torch.arange(n, device=bench.device) // 4, 1))
    return Finding(found == 0, f"recall@1 of a collapsed set {found:g}", "0")


def _neighbours(bench: Bench) -> Finding:
    n = 500 if bench.dry else 5000
    labels = torch.arange(n) % 20
    rows = F.normalize(_normal(bench, n, 128).cpu() + 0.5 * _normal(bench, 20, 128, seed=1).cpu()[labels])
    found = []
    for device in (torch.device("cpu"), bench.device):
        bank, queries = ((rows[part].to(device), labels[part].to(device)) for part in (slice(n // 5, n), slice(n // 5)))
        found.append(float(knn_accuracy(*bank, *queries, 20)))
    host, there = found
    # Rounding may exchange neighbours that are as far to 1e-7: a few votes in a thousand.
    return Finding(abs(host - there) <= 3e-3, f"{there:.4f}, on the host {host:.4f}", "equal to 0.003")
