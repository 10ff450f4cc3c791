"""The ranks of a run: who they are, on which device each computes, and how they agree.

Every function works without a process group and then answers for a world of one rank, so the code above
never asks whether a run is distributed.

The world group always speaks gloo: flags, objects and sizes travel between hosts without touching a device.
Where every rank has a GPU of its own, a second group speaks nccl and carries CUDA tensors. MIG slices of one
GPU and ranks that share a GPU cannot join an nccl communicator; their tensors travel through host memory.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from wasskit.distributed.devices import find_devices
from wasskit.distributed.launch import join_slurm_step, owns_ranks
from wasskit.errors import Interrupted, RunFailed, UserError
from wasskit.system.signals import first_heard, handled, name_of, unhandled

T = TypeVar("T")

log = logging.getLogger(__name__)

_PEER_LOST = (
    "closed by peer",
    "connection reset",
    "connection refused",
    "broken pipe",
    "pair closure",
    "timed out waiting",
)
_PEER_LOST_SECONDS = 2.0
_POLL_SECONDS = 0.05
_SEED_STRIDE = 1_000_003


@dataclass(frozen=True)
class Channels:
    """The process groups that carry host tensors (gloo), CUDA tensors (nccl) where one can, and gradients (gloo).

    Gradients are sent during the backward pass, whose own collectives they must not be taken for.
    """

    world: dist.ProcessGroup
    host: dist.ProcessGroup
    cuda: dist.ProcessGroup | None
    gradients: dist.ProcessGroup
    by_host: bool = False
    """Whether CUDA tensors travel through host memory."""


_channels: Channels | None = None


@atexit.register
def _forget_channels() -> None:
    """A group whose last reference falls while the interpreter is torn down aborts the process now and then."""
    global _channels
    _channels = None


def _initialised() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number in the world, from 0."""
    return dist.get_rank() if _initialised() else 0


def world_size() -> int:
    """How many ranks the run has."""
    return dist.get_world_size() if _initialised() else 1


def is_main() -> bool:
    """Whether this is rank 0, which alone writes files and talks to the user."""
    return rank() == 0


def local_rank() -> int:
    """This process's number on its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", rank())) if _initialised() else 0


def rank_seed(seed: int) -> int:
    """A seed of this rank's own. Rank 0 keeps ``seed``: one rank runs as an undistributed run does."""
    return seed + _SEED_STRIDE * rank()


def init_group(device: str | torch.device = "auto") -> torch.device:
    """Join the group that the environment describes (``torchrun``'s variables) and choose this rank's device.

    ``device`` is ``auto`` (a GPU where there is one, else the CPU), ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
    Without ``RANK`` and ``WORLD_SIZE`` in the environment no group is formed. Raises ``UserError`` for a
    device that this machine has not and for an incomplete environment.
    """
    launched = _read_environment()
    chosen = _choose_device(str(device), distributed=launched)
    if launched and not _initialised():
        # An agent may keep one store for all attempts: without a name of its own this one would find there the
        # addresses of ranks that are gone.
        # Where another rank is gone already, forming the group waits for it, and runs no handler of signals meanwhile.
        with unhandled():
            store, own_rank, size = next(rendezvous("env://"))
            attempt = PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
            dist.init_process_group("gloo", store=attempt, rank=own_rank, world_size=size)
            _open_channels(chosen)
    return chosen


def close_group() -> None:
    """Leave the group; without one, do nothing."""
    global _channels
    backends = _backends(_channels)
    _channels = None
    if _initialised():
        dist.destroy_process_group()
    # The last reference to a gloo group falls here, where its destructor, which waits for its threads, lets them have
    # the interpreter's lock. The destructor of torch 2.4's process groups keeps it, and now and then waits for ever.
    del backends


def _backends(channels: Channels | None) -> list[Any]:
    if channels is None:
        return []
    return [pg._get_backend(torch.device("cpu")) for pg in {channels.world, channels.host, channels.gradients}]


@contextlib.contextmanager
def group(device: str | torch.device = "auto") -> Iterator[torch.device]:
    """``init_group`` on entry, ``close_group`` on exit; inside an open group that one is used and left open.

    When a peer is lost, the failing collective becomes a ``RunFailed``. Inside, numbers below the smallest normal one
    count as zero: weights that decay towards zero pass through them, where a CPU takes a hundred times as long.
    """
    outermost = not _initialised()
    for kind in (np.float32, np.float64):
        np.finfo(kind)  # numpy 1 measures the smallest number once, and warns where it counts as zero
    torch.set_flush_denormal(True)
    try:
        yield init_group(device)
        if outermost:
            barrier()
    except RuntimeError as error:
        if is_lost_peer(error):
            raise lost_peer() from error
        raise
    finally:
        if outermost:
            torch.set_flush_denormal(False)
            close_group()


def is_lost_peer(error: RuntimeError) -> bool:
    """Whether a collective has failed because another rank is gone."""
    return world_size() > 1 and any(sign in str(error).lower() for sign in _PEER_LOST)


def lost_peer(advice: str = "") -> RunFailed | Interrupted:
    """The error for a rank that lost another one; ``advice`` is a sentence with a space before it.

    A rank that its launcher ends meanwhile leaves at once and without a word: the launcher says why the run failed.
    Where ranks were asked to stop before, the other one has: it was where nothing waits for a better moment.
    """
    if owns_ranks():
        if (number := first_heard()) is not None:
            return Interrupted(number, f"Stopped by {name_of(number)}.{advice}")
        # The rank that failed knows why: our launcher must hear of its end before it hears of this one's.
        heard: list[int] = []
        until = time.monotonic() + _PEER_LOST_SECONDS
        with handled(heard.append):
            while not heard and time.monotonic() < until:
                time.sleep(_POLL_SECONDS)
        if heard:
            raise SystemExit(128 + heard[0])
    return RunFailed(
        f"Rank {rank()} lost contact with another rank. That rank's message says why; without one it was killed, "
        f"probably for want of memory.{advice}"
    )


def is_by_host() -> bool:
    """Whether CUDA tensors travel between the ranks through host memory: ranks share a GPU, or compute on slices."""
    return world_size() > 1 and channels().by_host


def barrier() -> None:
    """Wait until every rank has come here."""
    if world_size() > 1:
        dist.barrier(group=channels().host)


def broadcast_object(x: T) -> T:
    """Rank 0's ``x``, on every rank. It is pickled."""
    if world_size() == 1:
        return x
    box: list[Any] = [x]
    dist.broadcast_object_list(box, src=0, group=channels().host)
    result: T = box[0]
    return result


def any_rank(flag: bool) -> bool:
    """Whether ``flag`` is true on at least one rank. Host only: it waits for no device."""
    return bool(largest_of_ranks(int(flag))[0])


def largest_of_ranks(*values: int) -> tuple[int, ...]:
    """The largest of all ranks of each number. Host only: it waits for no device."""
    if world_size() == 1:
        return values
    largest = torch.tensor(values, dtype=torch.int64)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=channels().host)
    return tuple(largest.tolist())


def channels() -> Channels:
    """The process groups of the current world, also of one that someone else has initialised.

    Called by collectives only, hence on all ranks alike: a group that is missing may be formed here.
    """
    global _channels
    world = dist.group.WORLD
    if world is None:
        raise RuntimeError("torch.distributed is not initialised")
    if _channels is None or _channels.world is not world:
        backends = dict(part.split(":", 1) for part in str(dist.get_backend_config(world)).split(","))
        host = world if backends.get("cpu") == "gloo" else _new_group("gloo")
        _channels = Channels(world, host, world if backends.get("cuda") == "nccl" else None, _new_group("gloo"))
    return _channels


def _new_group(backend: str) -> dist.ProcessGroup:
    return cast(dist.ProcessGroup, dist.new_group(backend=backend))


def _read_environment() -> bool:
    """Whether the environment describes a world of ranks, in torchrun's words or in srun's."""
    join_slurm_step()
    present = [name for name in ("RANK", "WORLD_SIZE") if name in os.environ]
    if not present:
        return False
    missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UserError(
            f"The environment sets {present[0]} but not {', '.join(missing)}: "
            f"start the ranks with --nproc or torchrun, or unset {present[0]}."
        )
    return True


def _choose_device(spec: str, *, distributed: bool) -> torch.device:
    if spec != "cpu":
        _see_own_slice(distributed)
    if spec == "auto":
        spec = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(spec)
    except RuntimeError:
        raise UserError(f"Unknown device {spec!r}: choose auto, cpu, cuda, cuda:N or mps.") from None
    if device.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"Device {spec!r} is not supported: choose auto, cpu, cuda, cuda:N or mps.")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise UserError(f"Device {spec!r} was asked for, but torch finds no CUDA device here: use --device cpu.")
        if ":" not in spec:
            place = int(os.environ.get("LOCAL_RANK", "0")) if distributed else torch.cuda.current_device()
            device = torch.device("cuda", place % count)
        elif distributed and int(os.environ["WORLD_SIZE"]) > 1:
            raise UserError(f"Device {spec!r} names one GPU for several ranks: use --device cuda, each gets its own.")
        elif device.index >= count:
            raise UserError(f"Device {spec!r} was asked for, but this machine has {count} CUDA device(s).")
        torch.cuda.set_device(device)
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("Device 'mps' was asked for, but torch finds no Metal device here: use --device cpu.")
    return device


def _see_own_slice(distributed: bool) -> None:
    """Make a slice the one device that this rank sees: CUDA shows a process one at most, and by its own UUID alone.

    Beside slices a whole GPU is chosen so, too. An undistributed process takes the first of those named by the UUID of
    their GPU, or as ``GPU:SLICE``.
    """
    setting = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if not distributed and "GPU-" not in setting and ":" not in setting:
        return
    devices = find_devices()
    place = int(os.environ.get("LOCAL_RANK", "0")) if distributed else 0
    if devices and any(device.is_slice for device in (devices if distributed else devices[:1])):
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[place % len(devices)].selector


def _open_channels(device: torch.device) -> None:
    """Form the nccl group where every rank has a whole GPU of its own."""
    global _channels
    world = dist.group.WORLD
    assert world is not None
    identities: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(identities, _identity(device))
    separate = None not in identities and len(set(identities)) == len(identities)
    by_host = not separate and device.type == "cuda"
    if by_host and dist.get_rank() == 0:
        log.warning("Ranks share a GPU or compute on MIG slices: their tensors travel through host memory.")
    gradients = _new_group("gloo")
    _channels = Channels(world, world, _new_group("nccl") if separate else None, gradients, by_host)


def _identity(device: torch.device) -> tuple[str, str] | None:
    """What tells this rank's GPU from any other; None for what nccl cannot serve (no GPU, a slice)."""
    if device.type != "cuda" or not dist.is_nccl_available():
        return None
    properties = torch.cuda.get_device_properties(device)
    if "MIG" in properties.name or os.environ.get("CUDA_VISIBLE_DEVICES", "").startswith("MIG"):
        return None
    return socket.gethostname(), str(getattr(properties, "uuid", device.index))
