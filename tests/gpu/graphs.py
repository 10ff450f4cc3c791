"""CUDA graphs of the logical device: the operations of a block, to be run again on the same memory.

As on a GPU, recording runs nothing: what the block has written is as before afterwards. What a graph cannot hold
raises: that the host waits or copies, and a tensor of the host, whose value would be that of the recording for ever.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch._dynamo.device_interface  # which keeps, from when it is first imported, the streams of torch.cuda
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from tests.gpu.device import LogicalCuda

__all__ = ["install"]


def install(device: LogicalCuda) -> None:
    """Give the device graphs and streams."""

    class Graph:
        """The operations with their arguments and results."""

        def __init__(self) -> None:
            self.operations: list[tuple[Any, Any, Any, list[torch.Tensor]]] = []

        def replay(self) -> None:
            device.counts.operations += 1
            with device.silence(), torch.no_grad():
                for func, args, kwargs, results in self.operations:
                    again = tensors_of(func(*args, **kwargs))
                    for kept, new in zip(results, again, strict=True):
                        if kept.data_ptr() != new.data_ptr():
                            kept.copy_(new)

    @contextlib.contextmanager
    def record(graph: Graph, **_: Any) -> Iterator[None]:
        before = device.counts.waits.total() + device.counts.copies.total()
        numbers = torch.get_rng_state()
        recorder = _Recorder(device, graph.operations)
        outside, streams[0] = streams[0], Stream()
        try:
            with recorder:
                yield
                if device.counts.waits.total() + device.counts.copies.total() > before:
                    raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        except RuntimeError as error:  # the end of a capture that has failed raises, before it gives the stream back
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture") from error
        finally:
            recorder.restore()
            torch.set_rng_state(numbers)
        streams[0] = outside

    class Stream:
        def wait_stream(self, other: Any) -> None:
            pass

    streams = [Stream()]

    @contextlib.contextmanager
    def stream(chosen: Stream) -> Iterator[None]:
        outside, streams[0] = streams[0], chosen
        try:
            yield
        finally:
            streams[0] = outside

    device.patch(torch.cuda, "CUDAGraph", Graph)
    device.patch(torch.cuda, "graph", record)
    device.patch(torch.cuda, "Stream", Stream)
    device.patch(torch.cuda, "current_stream", lambda *_: streams[0])
    device.patch(torch.cuda, "stream", stream)


class _Recorder(TorchDispatchMode):
    def __init__(self, device: LogicalCuda, operations: list[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device, self.operations = device, operations
        self.made: set[int] = set()
        self.kept: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.device.quiet:
            return func(*args, **kwargs)
        given = tensors_of((args, kwargs))
        for x in given:
            if self.device.device_of(x).type == "cpu" and place(x) not in self.made:
                raise RuntimeError(f"a graph of {func} would keep the present value of a tensor of the host")
        if any(argument.alias_info is not None and argument.alias_info.is_write for argument in func._schema.arguments):
            for x in given:
                if place(x) not in self.made:
                    storage = x.untyped_storage()
                    self.kept.setdefault(place(x), (storage, storage.clone()))
        found = func(*args, **kwargs)
        results = tensors_of(found)
        before = {place(x) for x in given}
        self.made.update(place(x) for x in results if place(x) not in before)
        writes = any(a.alias_info is not None and a.alias_info.is_write for a in func._schema.arguments)
        is_view = bool(results) and all(place(x) in before for x in results) and not writes
        if not is_view and "empty" not in func._schema.name:
            here = {**kwargs, "device": torch.device("cpu")} if kwargs.get("device") is not None else kwargs
            self.operations.append((func, args, here, results))
        return found

    def restore(self) -> None:
        """Take back what was written to memory that was there before."""
        with self.device.silence():
            for storage, value in self.kept.values():
                storage.copy_(value)


def tensors_of(values: Any) -> list[torch.Tensor]:
    return [x for x in tree_leaves(values) if isinstance(x, torch.Tensor)]


def place(x: torch.Tensor) -> int:
    return int(x.untyped_storage()._cdata)
