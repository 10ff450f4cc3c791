"""A logical CUDA device in the memory of the host.

Within `LogicalCuda` a device ``cuda`` is there. Its tensors are tensors of the host whose storages carry a tag: all
numbers are really computed, and what would go wrong or slow on a GPU is found without one. An operation on tensors of
both devices raises; where the host would wait for the device, and what is copied to it or back, is counted with the
line of the package that asked for it.
"""

from __future__ import annotations

import contextlib
import sys
import types
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.gpu import graphs

__all__ = ["Counts", "LogicalCuda"]

CPU = torch.device("cpu")
CUDA = torch.device("cuda", 0)

WAITS = {
    "nonzero", "_local_scalar_dense", "is_nonzero", "masked_select", "_unique", "_unique2", "unique_dim",
    "unique_consecutive", "unique_dim_consecutive", "bincount", "equal", "_linalg_eigh", "_linalg_svd", "linalg_eig",
    "linalg_eigvals", "linalg_lstsq",
}  # fmt: skip
"""Operations whose result the host needs: a number, a size, or the solver's report."""

NO_WORK = {
    "view", "_unsafe_view", "expand", "t", "transpose", "permute", "slice", "select", "split", "split_with_sizes",
    "unsqueeze", "squeeze", "detach", "alias", "as_strided", "unbind", "diagonal", "_reshape_alias", "unfold", "empty",
    "empty_like", "new_empty", "empty_strided", "new_empty_strided", "set_", "resize_", "lift_fresh", "is_pinned",
}  # fmt: skip
"""Operations that launch nothing."""

HOST_SCALARS = {"lift_fresh", "detach", "where", "lerp", "masked_fill", "fill", "clamp", "_local_scalar_dense"}
"""Operations besides the pointwise ones that take a scalar tensor of the host."""


@dataclass
class Counts:
    """What the host asked of the device: waits and copies by ``what, where``, and the number of operations."""

    waits: Counter[str] = field(default_factory=Counter)
    copies: Counter[str] = field(default_factory=Counter)
    operations: int = 0


class LogicalCuda(contextlib.ExitStack):
    """The device, there until the end of the block. ``counts`` may be replaced at any time."""

    # Of all blocks of a process: the package keeps some constants of a device.
    tags: ClassVar[dict[int, StorageWeakRef]] = {}
    pinned: ClassVar[dict[int, StorageWeakRef]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counts()
        self.context = CPU  # of the torch function that runs: tensors made within it are its tensors' device's
        self.quiet = False
        self.warns = False

    def __enter__(self) -> LogicalCuda:
        super().__enter__()
        _patch_tensors(self)
        _patch_torch(self)
        self.enter_context(_Dispatched(self))
        self.enter_context(_Called(self))
        return self

    def patch(self, owner: Any, name: str, value: Any) -> None:
        own = vars(owner)
        before = own.get(name, self)
        setattr(owner, name, value)
        self.callback(lambda: delattr(owner, name) if before is self else setattr(owner, name, before))

    def device_of(self, tensor: torch.Tensor) -> torch.device:
        return CUDA if _listed(self.tags, tensor) else CPU

    def tag(self, tensor: torch.Tensor) -> torch.Tensor:
        """Put a tensor's storage on the device."""
        storage = tensor.untyped_storage()
        self.tags[storage._cdata] = StorageWeakRef(storage)
        if len(self.tags) > 50_000:
            for key in [key for key, ref in self.tags.items() if ref.expired()]:
                del self.tags[key]
        return tensor

    def wait(self, what: str) -> None:
        self.counts.waits[f"{what}, {_place()}"] += 1
        if self.warns:
            warnings.warn(f"called a synchronizing CUDA operation: {what}", stacklevel=2)

    def copy(self, tensor: torch.Tensor, source: torch.device, non_blocking: bool) -> None:
        """Note that a tensor is copied from one device to the other."""
        there = source.type == "cpu"
        self.counts.copies[f"{'to' if there else 'from'} the device, {_place()}"] += 1
        if not non_blocking or (there and not _listed(self.pinned, tensor)):
            self.wait(f"copy of {tuple(tensor.shape)} {'to' if there else 'from'} the device")

    def refuse(self, what: str) -> None:
        raise RuntimeError(f"tensors on different devices: {what}, {_place()}")

    @contextlib.contextmanager
    def silence(self) -> Iterator[None]:
        before, self.quiet = self.quiet, True
        try:
            yield
        finally:
            self.quiet = before


def _listed(entries: dict[int, StorageWeakRef], tensor: torch.Tensor) -> bool:
    try:
        key = tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):
        return False
    return key in entries


def _place() -> str:
    """The innermost line of the package."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if "/wasskit/" in name and "site-packages" not in name:
            return f"{name.rsplit('/wasskit/', 1)[1]}:{frame.f_lineno}"
        frame = frame.f_back
    return "outside of the package"


def _in_engine() -> bool:
    """Whether the engine of autograd asks, with no Python of a custom function between."""
    frame: types.FrameType | None = sys._getframe(2)
    passed = ("/tests/gpu/device.py", "/_python_dispatch.py", "/torch/_ops.py", "/_compile.py", "/_dynamo/")
    while frame is not None and any(part in frame.f_code.co_filename for part in passed):
        frame = frame.f_back
    return frame is not None and frame.f_code.co_filename.endswith("torch/autograd/graph.py")


class _Called(TorchFunctionMode):
    """Knows whether the running torch function was given tensors of the device."""

    def __init__(self, device: LogicalCuda) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, device = kwargs or {}, self.device
        if getattr(func, "__name__", "") == "__get__":
            return func(*args, **kwargs)
        tensors = (x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor))
        before = device.context
        device.context = CUDA if any(_listed(device.tags, x) for x in tensors) else CPU
        try:
            return func(*args, **kwargs)
        finally:
            device.context = before


class _Dispatched(TorchDispatchMode):
    """Checks and tags what every operation is given and gives."""

    def __init__(self, device: LogicalCuda) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        device, kwargs = self.device, dict(kwargs or {})
        if device.quiet:
            return func(*args, **kwargs)
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        there = [x for x in tensors if _listed(device.tags, x)]
        asked = kwargs.get("device")
        if asked is not None and torch.device(asked).type == "meta":
            return func(*args, **kwargs)
        if asked is not None:
            kwargs["device"] = CPU
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        name = func._schema.name.split("::")[1]
        target = self.target(func, name, args, there, tensors, asked)
        if there and func.namespace == "aten":
            self.check(func, name, args, kwargs, tensors)
        if (there or target == CUDA) and func.namespace == "aten" and name not in NO_WORK:
            device.counts.operations += 1
        out = func(*args, **kwargs)
        if target == CUDA:
            for x in tree_leaves(out):
                if isinstance(x, torch.Tensor):
                    device.tag(x)
        return out

    def target(self, func: Any, name: str, args: Any, there: list[Any], tensors: list[Any], asked: Any) -> torch.device:
        """Where the result is."""
        device = self.device
        if name == "copy_":
            return device.device_of(args[0])
        if not any(argument.name == "device" for argument in func._schema.arguments) or name == "_to_copy":
            if name in ("index", "index_put_", "_index_put_impl_"):
                return device.device_of(args[0])
            return CUDA if there else CPU
        if asked is not None and torch.device(asked).type == "cuda":
            return CUDA
        if not tensors:  # the compiled parts of torch ask for where their tensors seem to be
            return CUDA if device.context == CUDA or _in_engine() else CPU
        by_hand = asked is not None and device.context == CPU and not _in_engine()
        return CUDA if there and not by_hand else CPU

    def check(self, func: Any, name: str, args: Any, kwargs: Any, tensors: list[Any]) -> None:
        device, base = self.device, name.rstrip("_") or name
        if name == "copy_":
            source = device.device_of(args[1])
            if source != device.device_of(args[0]):
                device.copy(args[1], source, bool(args[2] if len(args) > 2 else kwargs.get("non_blocking", False)))
            return
        if name in WAITS or (name == "repeat_interleave" and kwargs.get("output_size") is None):
            device.wait(name)
        host = [x for x in tensors if not _listed(device.tags, x)]
        if base in ("index", "index_put", "_index_put_impl"):
            self.check_index(name, args)
        elif any(x.dim() for x in host):
            device.refuse(f"{name} of {[(str(device.device_of(x)), tuple(x.shape)) for x in tensors]}")
        elif host and not (torch.Tag.pointwise in func.tags or base in HOST_SCALARS or name.startswith("_f")):
            device.refuse(f"{name} with a scalar of the host")

    def check_index(self, name: str, args: Any) -> None:
        device = self.device
        there = _listed(device.tags, args[0])
        values = args[2] if len(args) > 2 else None
        for index in (x for x in args[1] if x is not None):
            if not there and _listed(device.tags, index):
                device.refuse(f"{name}: a host tensor at places of the device")
            if there and not _listed(device.tags, index) and index.dim():
                device.wait(f"{name} at places of the host")
            if there and index.dtype in (torch.bool, torch.uint8) and (values is None or values.numel() != 1):
                device.wait(f"{name} by a mask")
        if values is not None and there and not _listed(device.tags, values) and values.dim():
            device.refuse(f"{name}: values of the host")


def _patch_tensors(device: LogicalCuda) -> None:
    tensor: Any = torch.Tensor
    patch = device.patch
    plain_to, plain_numpy, plain_list, plain_repr = tensor.to, tensor.numpy, tensor.tolist, tensor.__repr__
    plain_device = torch._C.TensorBase.device

    def move(x: Any, where: Any, dtype: Any = None, non_blocking: bool = False, **how: Any) -> Any:
        source = device.device_of(x)
        goal = source if where is None else torch.device(where)
        if goal.type not in ("cpu", "cuda"):
            return plain_to(x, goal)
        if source.type == goal.type:
            return plain_to(x, dtype=dtype or x.dtype, **how)
        device.copy(x, source, non_blocking)
        with device.silence():
            out = plain_to(x, dtype=dtype or x.dtype, **{**how, "copy": True})
        device.tags.pop(out.untyped_storage()._cdata, None)
        return device.tag(out) if goal.type == "cuda" else out

    def to(x: Any, *args: Any, **kwargs: Any) -> Any:
        where, dtype = kwargs.pop("device", None), kwargs.pop("dtype", None)
        names = ["non_blocking", "copy"]
        for place, value in enumerate(args):
            if isinstance(value, torch.Tensor):
                where, dtype = device.device_of(value), value.dtype
            elif isinstance(value, torch.dtype):
                dtype = value
            elif isinstance(value, bool):
                kwargs[names.pop(0)] = value
            elif value is not None and place == 0:
                where = torch.device("cuda", value) if isinstance(value, int) else value
        return move(x, where, dtype, **kwargs)

    def numpy(x: Any, *, force: bool = False) -> Any:
        if device.device_of(x) == CUDA:
            raise TypeError(f"numpy() of a tensor of the device, {_place()}")
        return plain_numpy(x, force=force)

    def waiting(what: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(x: Any, *args: Any, **kwargs: Any) -> Any:
            if device.device_of(x) == CUDA:
                device.wait(what)
            with device.silence():
                return plain(x, *args, **kwargs)

        return call

    def pinned(x: Any, *_: Any) -> Any:
        with device.silence():
            out = x.clone()
        storage = out.untyped_storage()
        device.pinned[storage._cdata] = StorageWeakRef(storage)
        return out

    def copied(plain: Callable[..., Any]) -> Callable[..., Any]:
        def deepcopy(x: Any, memo: Any) -> Any:
            out = plain(x, memo)
            return device.tag(out) if device.device_of(x) == CUDA else out

        return deepcopy

    def new_tensor(x: Any, data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Any:
        where = x.device if device is None else device
        return torch.tensor(data, dtype=dtype or x.dtype, device=where, requires_grad=requires_grad)

    def at(x: Any) -> torch.device:
        return CUDA if _listed(device.tags, x) else plain_device.__get__(x)

    patch(tensor, "device", property(at))
    patch(tensor, "is_cuda", property(lambda x: at(x) == CUDA))
    patch(tensor, "is_cpu", property(lambda x: at(x).type == "cpu"))
    patch(tensor, "get_device", lambda x: 0 if at(x) == CUDA else -1)
    patch(tensor, "to", to)
    patch(tensor, "type_as", lambda x, other: move(x, device.device_of(other), other.dtype))
    patch(tensor, "cpu", lambda x, **how: move(x, CPU, **how))
    patch(tensor, "cuda", lambda x, where=None, non_blocking=False, **how: move(x, CUDA, None, non_blocking, **how))
    patch(tensor, "numpy", numpy)
    patch(tensor, "tolist", waiting("tolist", plain_list))
    patch(tensor, "__repr__", waiting("repr", plain_repr))
    patch(tensor, "pin_memory", pinned)
    patch(tensor, "is_pinned", lambda x, *_: _listed(device.pinned, x))
    patch(tensor, "new_tensor", new_tensor)
    patch(tensor, "__deepcopy__", copied(tensor.__deepcopy__))
    patch(torch.nn.Parameter, "__deepcopy__", copied(torch.nn.Parameter.__deepcopy__))


def _patch_torch(device: LogicalCuda) -> None:
    patch = device.patch
    plain_tensor, plain_as = torch.tensor, torch.as_tensor
    generators: dict[int, torch.device] = {}

    def made(plain: Callable[..., Any]) -> Callable[..., Any]:
        def make(data: Any, *, dtype: Any = None, device_of_it: Any = None, requires_grad: bool = False) -> Any:
            if isinstance(data, torch.Tensor) and plain is plain_as:
                return data.to(device=device_of_it, dtype=dtype)
            with device.silence():
                out = plain(data, dtype=dtype)
                there = device_of_it is not None and torch.device(device_of_it).type == "cuda"
                out = out.clone() if there and plain is plain_as else out
            if there:
                device.copy(out, CPU, False)
                device.tag(out)
            return out.requires_grad_(requires_grad) if requires_grad else out

        def call(data: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False, **_: Any) -> Any:
            return make(data, dtype=dtype, device_of_it=device, requires_grad=requires_grad)

        return call

    class Generator(torch.Generator):
        def __new__(cls, device: Any = "cpu") -> Any:
            return super().__new__(cls, "cpu")  # type: ignore[call-arg]

        def __init__(self, device: Any = "cpu") -> None:
            generators[self._cdata] = CUDA if torch.device(device).type == "cuda" else CPU  # type: ignore[attr-defined]
            weakref.finalize(self, generators.pop, self._cdata, None)  # type: ignore[attr-defined]

        @property
        def device(self) -> torch.device:  # type: ignore[override]
            return generators[self._cdata]  # type: ignore[attr-defined]

    class Autocast(torch.autocast):
        def __init__(self, device_type: str, dtype: Any = None, *args: Any, **kwargs: Any) -> None:
            super().__init__("cpu", dtype or torch.bfloat16, *args, **kwargs)

    patch(torch, "tensor", made(plain_tensor))
    patch(torch, "as_tensor", made(plain_as))
    patch(torch, "Generator", Generator)
    patch(torch, "autocast", Autocast)
    plain_enabled, plain_kind = torch.is_autocast_enabled, torch.get_autocast_dtype
    patch(torch, "is_autocast_enabled", lambda *_: plain_enabled("cpu"))
    patch(torch, "get_autocast_dtype", lambda *_: plain_kind("cpu"))

    state = {"rng": plain_tensor(list(range(16)), dtype=torch.uint8)}
    properties = types.SimpleNamespace(name="logical", total_memory=2**36, uuid="GPU-0", major=9, minor=0)
    answers: dict[str, Any] = {
        "_lazy_init": None, "is_available": True, "is_initialized": True, "device_count": 1, "current_device": 0,
        "set_device": None, "get_device_name": "logical", "get_device_capability": (9, 0), "is_bf16_supported": True,
        "get_device_properties": properties, "empty_cache": None, "memory_allocated": 0, "max_memory_allocated": 0,
        "mem_get_info": (2**36, 2**36), "manual_seed_all": None, "manual_seed": None,
        "is_current_stream_capturing": False,
    }  # fmt: skip
    for name, answer in answers.items():
        patch(torch.cuda, name, lambda *_, answer=answer, **__: answer)
    patch(torch.cuda, "get_rng_state", lambda *_: state["rng"].clone())
    patch(torch.cuda, "set_rng_state", lambda rng, *_: state.update(rng=rng.clone()))
    patch(torch.cuda, "synchronize", lambda *_: device.wait("synchronize"))
    patch(torch.cuda, "set_sync_debug_mode", lambda mode: setattr(device, "warns", mode == "warn"))
    if hasattr(torch, "accelerator"):
        found: dict[str, Any] = {
            "is_available": True, "current_accelerator": torch.device("cuda"), "device_count": 1,
            "current_device_index": 0, "set_device_index": None,
            "current_stream": types.SimpleNamespace(is_capturing=lambda: False),
        }  # fmt: skip
        for name, answer in found.items():
            patch(torch.accelerator, name, lambda *_, answer=answer, **__: answer)
    _patch_autograd(device)
    _patch_kernels(device)
    graphs.install(device)


def _patch_autograd(device: LogicalCuda) -> None:
    """The engine's custom functions are Python, whose torch functions are watched too; optimisers group by device."""
    engine_of: Any = sys.modules["torch.autograd"]
    graph_of: Any = sys.modules["torch.autograd.graph"]
    plain_engine = graph_of._engine_run_backward
    plain_group = torch._C._group_tensors_by_device_and_dtype

    def engine(*args: Any, **kwargs: Any) -> Any:
        before, device.context = device.context, CPU
        try:
            with _Called(device):
                return plain_engine(*args, **kwargs)
        finally:
            device.context = before

    def group(lists: Any, with_indices: bool = False) -> Any:
        found = {}
        for (where, dtype), entry in plain_group(lists, with_indices).items():
            first = next((x for row in entry[0] for x in row if x is not None), None)
            found[where if first is None else first.device, dtype] = entry
        return found

    device.patch(engine_of, "_engine_run_backward", engine)
    device.patch(torch._C, "_group_tensors_by_device_and_dtype", group)


def _patch_kernels(device: LogicalCuda) -> None:
    """What torch has for CUDA alone: the parts of a batch normalisation of (B, C, ...), each one operation."""

    def dims(x: Any) -> list[int]:
        return [0, *range(2, x.dim())]

    def wide(x: Any, *channels: Any) -> Any:
        kind = torch.float64 if x.dtype == torch.float64 else torch.float32
        shape = (1, -1) + (1,) * (x.dim() - 2)
        return x.to(kind), *(None if c is None else c.to(kind).view(shape) for c in channels)

    def stats(x: Any, eps: float) -> Any:
        (w,) = wide(x)
        variance, mean = torch.var_mean(w, dims(x), correction=0)
        return mean, torch.where(variance + eps > 0, (variance + eps).rsqrt(), 0.0)

    def elemt(x: Any, weight: Any, bias: Any, mean: Any, inverse_std: Any, eps: float) -> Any:
        w, m, s, a, b = wide(x, mean, inverse_std, weight, bias)
        return ((w - m) * s * (1.0 if a is None else a) + (0.0 if b is None else b)).to(x.dtype)

    def reduce(gradient: Any, x: Any, mean: Any, inverse_std: Any, weight: Any, *wanted: bool) -> Any:
        assert gradient.stride() == x.stride()  # or the kernels read number by number
        (g,), (w, m) = wide(gradient), wide(x, mean)
        sums = g.sum(dims(x)), (g * (w - m)).sum(dims(x))
        kind = x.dtype if weight is None else weight.dtype
        by_weight, by_bias = (sums[1] * inverse_std).to(kind), sums[0].to(kind)
        return *sums, by_weight if wanted[1] else None, by_bias if wanted[2] else None

    def backward(
        gradient: Any, x: Any, mean: Any, inverse_std: Any, weight: Any, g_sum: Any, gx_sum: Any, count: Any
    ) -> Any:
        assert count.dtype == torch.int32
        assert gradient.stride() == x.stride()
        n = count.sum()
        (g,) = wide(gradient)
        w, m, s, a, first, second = wide(x, mean, inverse_std, weight, g_sum / n, gx_sum / n)
        return ((g - first - (w - m) * s * s * second) * s * (1.0 if a is None else a)).to(x.dtype)

    def kernel(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            if any(device.device_of(x) != CUDA for x in args if isinstance(x, torch.Tensor)):
                device.refuse(name)
            device.counts.operations += 1
            with device.silence():
                found = plain(*args)
            for x in tree_leaves(found):
                if isinstance(x, torch.Tensor):
                    device.tag(x)
            return found

        return call

    plain: dict[str, Any] = {"stats": stats, "elemt": elemt, "backward_reduce": reduce, "backward_elemt": backward}
    for name, function in plain.items():
        device.patch(torch, f"batch_norm_{name}", kernel(name, function))
