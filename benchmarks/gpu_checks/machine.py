"""What the device is and how fast it can be: the peaks that times are compared with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.gpu_checks.bench import Bench, Case, Finding
from wasskit.distributed.devices import find_devices

__all__ = ["Peaks", "Roofline", "cases"]


@dataclass
class Peaks:
    """What was measured: products in FLOP/s by dtype, copies in bytes/s (read and written), seconds of the smallest
    operation: of a kernel within a graph, that is without its launch, where there are graphs."""

    products: dict[torch.dtype, float] = field(default_factory=dict)
    bandwidth: float = float("inf")
    operation: float = 0.0


def cases(bench: Bench) -> Iterator[Case]:
    bench.facts["peaks"] = Peaks()
    yield "device", partial(_device, bench)
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        yield f"products-{str(dtype).removeprefix('torch.')}", partial(_products, bench, dtype)
    yield "copies", partial(_copies, bench)
    yield "smallest-operation", partial(_operation, bench)


def _device(bench: Bench) -> Finding:
    versions = f"torch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    if not bench.is_cuda:
        return Finding(True, f"CPU, {torch.get_num_threads()} threads, {versions}", "a device")
    found = torch.cuda.get_device_properties(bench.device)
    named = [device.selector for device in find_devices()]
    about = f"{found.name}, {found.total_memory / 2**30:.0f} GiB, {found.multi_processor_count} multiprocessors"
    return Finding(bool(named), f"{about}, {versions}, found {' '.join(named)}", "a device that the launcher finds")


def _products(bench: Bench, dtype: torch.dtype) -> Finding:
    n = 256 if bench.dry else {torch.bfloat16: 8192, torch.float32: 4096, torch.float64: 4096}[dtype]
    a, b = (torch.randn(n, n, device=bench.device).to(dtype) for _ in range(2))
    seconds = bench.seconds_per_call(lambda: a @ b, 2 if bench.dry else 10)
    peak = bench.facts["peaks"].products[dtype] = 2 * n**3 / seconds
    return Finding(peak > 0, f"{peak / 1e12:.3g} TFLOP/s", f"the peak of {n} x {n} products on random data")


def _copies(bench: Bench) -> Finding:
    source = torch.empty(2 ** (22 if bench.dry else 30), dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    seconds = bench.seconds_per_call(lambda: target.copy_(source), 2 if bench.dry else 10)
    speed = bench.facts["peaks"].bandwidth = 2 * source.numel() / seconds
    return Finding(speed > 0, f"{speed / 1e9:.4g} GB/s", "the peak of copies, bytes read and written")


def _operation(bench: Bench) -> Finding:
    x, many = torch.zeros(16, device=bench.device), 200

    def operations() -> None:
        for _ in range(many):
            x.add_(1.0)

    seconds = launched = bench.seconds_per_call(operations, 1 if bench.dry else 10) / many
    if bench.is_cuda:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            operations()
        seconds = bench.seconds_per_call(graph.replay, 10) / many
    bench.facts["peaks"].operation = seconds
    words = f"{1e6 * seconds:.2f} us in a graph, {1e6 * launched:.2f} us launched one by one"
    return Finding(seconds <= 1.5 * launched, words, "a graph is no slower than launches")


class Roofline(TorchDispatchMode):
    """Inside, adds up the least time of every operation: of its products at the peak of their dtype, of the bytes that
    it reads and writes at that of copies, of the smallest operation, whichever is longest.

    It is that of operations as they are, one by one: fusing them (torch.compile) may be faster.
    """

    def __init__(self, peaks: Peaks) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peaks = peaks
        self.seconds, self.operations = 0.0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        made = [x for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        if func.namespace == "aten" and not _is_view(func, given, made):
            count = flop_registry.get(func._overloadpacket)
            flops = count(*args, **kwargs, out_val=out) if count is not None else 0
            dtype = given[0].dtype if given else torch.float32
            peak = self.peaks.products.get(dtype, float("inf"))
            size = sum(x.numel() * x.element_size() for x in (*given, *made))
            self.seconds += max(flops / peak, size / self.peaks.bandwidth, self.peaks.operation)
            self.operations += 1
        return out


def _is_view(func: Any, given: list[torch.Tensor], made: list[torch.Tensor]) -> bool:
    """Whether an operation launches nothing."""
    if func._schema.is_mutable:
        return False
    name = func._schema.name.split("::")[1]
    if name.startswith(("empty", "new_empty")) or name in ("detach", "lift_fresh"):
        return True
    owned = {x.untyped_storage().data_ptr() for x in given}
    return all(x.untyped_storage().data_ptr() in owned for x in made)
