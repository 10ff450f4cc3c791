"""Values and gradients of all losses on the device, in every arithmetic, against float64 on the host.

Losses are computed in full whatever the networks are computed in, so the bounds of their values are those of float32 in
every arithmetic. A float32 sum of n values in pairs is off by log2(n) units of 6e-8 of its terms, 1e-6 for those here;
the bounds leave a factor of ten for terms that cancel, and ten more for gradients, which are differences of them. The
backward pass of a loss is part of the network's: where TF32 is allowed, the factors of its products have 11 bits and
the gradient is off by 5e-4 of their size. Networks are as exact as the arithmetic: of TF32 and bfloat16 a factor has 11
and 8 bits, its product is off by 1e-3 and 8e-3 of it, of which several layers in a row make a few hundredths.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.gpu_checks.bench import Bench, Case, Finding
from wasskit.evaluation.uniformity import alignment, gaussian_uniformity, w2_uniformity
from wasskit.ot.divergence import sinkhorn_divergence
from wasskit.ot.geomloss import annealed_nested_sinkhorn_divergences
from wasskit.ot.sinkhorn import nested_sinkhorn_divergences
from wasskit.ot.sliced import sliced_wasserstein_squared
from wasskit.plugins.metrix.losses import loss_names
from wasskit.plugins.metrix.mixers import Mode
from wasskit.plugins.metrix.objective import MetrixLoss, MetrixTerms
from wasskit.plugins.metrix.pairs import Mixing
from wasskit.plugins.mrl.adapt.losses import LabelLoss, NeighbourLoss, PairLoss
from wasskit.plugins.mrl.loss import MatryoshkaWassersteinLoss
from wasskit.plugins.ssl import losses as ssl
from wasskit.plugins.ssl import regularisers
from wasskit.plugins.w2gn.core.objective import Objective
from wasskit.plugins.w2gn.core.transport import W2GN

__all__ = ["cases"]

DIMS = (4, 8, 16, 32)
CLASSES = 8
MIXED: tuple[Mode, ...] = ("baseline", "embed", "feature")


@dataclass(frozen=True)
class Loss:
    """A scalar of ``parts`` (modules) and ``inputs`` (float32), and how exact its value and gradient are, relatively.

    Args:
        network: it holds networks, whose products are taken in the arithmetic that is asked for.
    """

    function: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]
    parts: tuple[nn.Module, ...] = ()
    value: float = 1e-5
    gradient: float = 1e-4
    network: bool = False

    def at(self, device: torch.device, dtype: torch.dtype, forward: Any = None) -> tuple[float, Tensor]:
        """Value and gradient, by inputs and parameters, on the host in float64."""
        parts = [copy.deepcopy(part).to(device, dtype) for part in self.parts]
        inputs = [x.detach().to(device, dtype).requires_grad_() for x in self.inputs]
        with forward or contextlib.nullcontext():
            value = self.function(*parts, *inputs)
        leaves = [*inputs, *(parameter for part in parts for parameter in part.parameters())]
        found = torch.autograd.grad(value, leaves, allow_unused=True)
        return value.item(), torch.cat([g.detach().double().cpu().flatten() for g in found if g is not None])


def cases(bench: Bench) -> Iterator[Case]:
    for name, loss in _losses(bench.dry):
        reference: list[tuple[float, Tensor]] = []
        for arithmetic in ARITHMETICS:
            if arithmetic == "tf32-new" and not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
                continue
            yield f"{name}-{arithmetic}", partial(_compare, bench, loss, arithmetic, reference)


def _compare(bench: Bench, loss: Loss, arithmetic: str, reference: list[tuple[float, Tensor]]) -> Finding:
    if not reference:
        reference.append(loss.at(torch.device("cpu"), torch.float64))
    with ARITHMETICS[arithmetic](bench.device), rounded() if bench.device.type == "cpu" else contextlib.nullcontext():
        autocast = torch.autocast(bench.device.type, torch.bfloat16) if arithmetic == "bf16" else None
        value, gradient = loss.at(bench.device, torch.float32, autocast)
    wanted, wanted_gradient = reference[0]
    by_value = abs(value - wanted) / max(abs(wanted), 1e-30)
    by_gradient = float((gradient - wanted_gradient).norm() / wanted_gradient.norm().clamp_min(1e-30))
    bounds = (loss.value, 5e-3 if arithmetic.startswith("tf32") else loss.gradient)
    if loss.network and arithmetic != "fp32":
        bounds = (5e-2, 1e-1)
    passed = by_value <= bounds[0] and by_gradient <= bounds[1]
    words = "value {:.0e}, gradient {:.0e}"
    return Finding(passed, words.format(by_value, by_gradient), "at most " + words.format(*bounds))


# --- Arithmetics ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _by_function(device: torch.device) -> Iterator[None]:
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


@contextlib.contextmanager
def _by_backend(device: torch.device) -> Iterator[None]:
    backends: Any = torch.backends
    products = backends.cuda.matmul if device.type == "cuda" else backends.mkldnn.matmul
    before = products.fp32_precision
    products.fp32_precision = "tf32"
    try:
        yield
    finally:
        products.fp32_precision = before


ARITHMETICS: dict[str, Callable[[torch.device], contextlib.AbstractContextManager[None]]] = {
    "fp32": lambda device: contextlib.nullcontext(),
    "tf32": _by_function,
    "tf32-new": _by_backend,
    "bf16": lambda device: contextlib.nullcontext(),
}


class _Rounded(TorchDispatchMode):
    """Products of float32 matrices take their factors in TF32 where the settings of the host's backend allow it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        backends: Any = torch.backends
        name, allowed = func._schema.name.rstrip("_"), backends.mkldnn.matmul.fp32_precision == "tf32"
        if allowed and name in ("aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm"):
            first = len(args) - 2
            args = (*args[:first], *(_tf32(x) for x in args[first:]))
        return func(*args, **(kwargs or {}))


def rounded() -> contextlib.AbstractContextManager[object]:
    """The host's products as a GPU's: what no host does by itself is tried without a GPU."""
    return _Rounded() if hasattr(torch.backends.cuda.matmul, "fp32_precision") else contextlib.nullcontext()  # type: ignore[no-untyped-call]


def _tf32(x: Tensor) -> Tensor:
    """To the nearest of 10 bits after the point."""
    if x.dtype != torch.float32:
        return x
    return ((x.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


# --- Losses ---------------------------------------------------------------------------------------------------------


def _losses(dry: bool) -> Iterator[tuple[str, Loss]]:
    n = 64 if dry else 512
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    yield from _uniformity(n, normal)
    yield from _self_supervised(n, normal)
    yield from _nested(n, normal)
    yield from _metric(32 if dry else 96, normal)
    yield from _transport(64 if dry else 512, normal)


Normal = Callable[..., Tensor]


def _uniformity(n: int, normal: Normal) -> Iterator[tuple[str, Loss]]:
    wide, narrow = F.normalize(normal(n // 2, n)), F.normalize(normal(n, n // 2))
    yield "lu", Loss(gaussian_uniformity, (narrow,))
    yield "alignment", Loss(alignment, (narrow, F.normalize(narrow + 0.1 * normal(n, n // 2))))
    for method in ("eigh", "polar"):
        distance = partial(w2_uniformity, method=method)
        yield f"w2-{method}", Loss(distance, (narrow,))
        yield f"w2-{method}-wide", Loss(distance, (wide,))
        spectrum = torch.logspace(0, -3, n // 2)
        yield f"w2-{method}-condition-1e3", Loss(distance, (F.normalize(normal(n, n // 2) * spectrum),), gradient=1e-3)


def _self_supervised(n: int, normal: Normal) -> Iterator[tuple[str, Loss]]:
    first = normal(n, 32)
    views = (first, first + 0.3 * normal(n, 32))
    units = tuple(F.normalize(view) for view in views)
    directions, queue = F.normalize(normal(64, 32)), F.normalize(normal(256, 32))
    yield "byol", Loss(lambda a, b: ssl.byol_loss(a, b, a, b), views)
    yield "moco", Loss(lambda a, b: ssl.moco_loss(a, b, a, b, queue.to(a)), units)
    yield "barlow", Loss(ssl.barlow_twins_loss, views)
    for solver in ("eigh", "polar"):
        for kind in ("feature", "instance"):
            function = partial(ssl.zero_cl_loss, kind=kind, solver=solver)
            yield f"zerocl-{kind}-{solver}", Loss(function, tuple(view[:48] for view in views), value=1e-4)
    yield "invariance", Loss(regularisers.invariance_loss, views)
    yield "vicreg", Loss(regularisers.vicreg_regulariser, views)
    yield "sigreg", Loss(lambda a, b: regularisers.sigreg_regulariser(a, b, directions=directions.to(a)), views)
    yield "visreg", Loss(lambda a, b: regularisers.visreg_regulariser(a, b, directions=directions.to(a)), views)


def _nested(n: int, normal: Normal) -> Iterator[tuple[str, Loss]]:
    points = F.normalize(normal(n, DIMS[-1]))
    yield "sinkhorn", Loss(partial(nested_sinkhorn_divergences, dims=DIMS, reduction="sum"), (points,))
    yield "sinkhorn-clouds", Loss(_clouds, (points[: n // 2], points[n // 2 :] + 0.1))
    yield "sliced", Loss(lambda x, y: _sliced(x, y, F.normalize(torch.eye(DIMS[-1]) + 0.1)), (points, points + 0.1))
    if importlib.util.find_spec("geomloss") is not None:
        annealed = partial(annealed_nested_sinkhorn_divergences, dims=DIMS)
        yield "geomloss", Loss(lambda x: annealed(x).sum(), (points,))
    for tied in (False, True):
        objective = MatryoshkaWassersteinLoss(CLASSES, DIMS, tied=tied)
        yield f"mrl{'-tied' * tied}", Loss(lambda m, x: m(x, _labels(x)).total, (normal(n, DIMS[-1]),), (objective,))
    vectors = normal(n, DIMS[-1])
    label, keep, pairs = LabelLoss(CLASSES, DIMS, keep_weight=1.0), NeighbourLoss(DIMS, pair_weight=1.0), PairLoss(DIMS)
    adapted = vectors + 0.3 * normal(n, DIMS[-1])
    yield "adapt-labels", Loss(lambda m, x: m(x, _labels(x), vectors.to(x)).total, (adapted,), (label,))
    yield "adapt-neighbours", Loss(lambda m, x: m(x, vectors.to(x), _rows(x), n).total, (adapted,), (keep,))
    relevance = torch.eye(n // 2)
    halves = (adapted[: n // 2], vectors[: n // 2])
    yield "adapt-pairs", Loss(lambda m, x, y: m(x, y, relevance.to(x)).total, halves, (pairs,))


def _metric(n: int, normal: Normal) -> Iterator[tuple[str, Loss]]:
    maps = normal(n, DIMS[-1], 2, 2).abs()
    for name in loss_names():
        for mode in MIXED:
            loss = MetrixLoss(name, mode, num_classes=CLASSES, embedding_dim=DIMS[-1])
            yield f"metrix-{name}-{mode}", Loss(_mixed, (maps,), (loss,))


def _mixed(loss: MetrixLoss, maps: Tensor) -> Tensor:
    terms: MetrixTerms = loss(
        F.normalize(maps.mean((2, 3))), torch.arange(len(maps)) % CLASSES, maps=maps, head=lambda pooled: pooled,
        mixing=Mixing(0.3, "positive-negative"), rng=np.random.default_rng(0),
    )  # fmt: skip
    return terms.total


def _transport(n: int, normal: Normal) -> Iterator[tuple[str, Loss]]:
    x, y = normal(n, 4), 2 * normal(n, 4) + 1
    torch.manual_seed(0)
    for refine in ("none", "lbfgs", "newton"):
        transport = W2GN.dense(4, hidden=(32, 32, 16), start="identity", refine=refine)
        # Errors of a solved conjugate are those of its condition number, some tens here.
        loss = Loss(_objective, (x, y), (transport,), value=1e-4, gradient=1e-3, network=True)
        yield f"w2gn-{refine}", loss


def _objective(transport: W2GN, x: Tensor, y: Tensor) -> Tensor:
    objective: Objective = transport(x, y)
    return objective.total


def _clouds(x: Tensor, y: Tensor) -> Tensor:
    return sinkhorn_divergence(x, y, blur=0.5).value


def _sliced(x: Tensor, y: Tensor, directions: Tensor) -> Tensor:
    return sliced_wasserstein_squared(x, y, directions=directions.to(x))


def _labels(x: Tensor) -> Tensor:
    return _rows(x) % CLASSES


def _rows(x: Tensor) -> Tensor:
    return torch.arange(len(x), device=x.device)
