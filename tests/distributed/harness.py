"""Run a function on several gloo ranks, from any test, in a line.

    from tests.distributed.harness import run_ranks

    def value_and_gradient(batch):       # top level of the test module; runs on every rank
        share = batch[shard_indices(len(batch))]
        ...
        return loss, gradient

    for loss, gradient in run_ranks(value_and_gradient, 2, batch):   # one result per rank
        torch.testing.assert_close(loss, expected)

The ranks are started once per test session and number of ranks, and stay for all tests: importing torch costs
seconds. A function therefore leaves no state behind and seeds what it draws.
"""

from __future__ import annotations

import atexit
import importlib
import multiprocessing
import os
import pickle
import socket
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from wasskit.distributed.launch import shared_environment

TIMEOUT_SECONDS = 600.0
_ROOT = str(Path(__file__).parents[2])


def run_ranks(function: Callable[..., Any], nproc: int, *args: Any) -> list[Any]:
    """``function(*args)`` on each of ``nproc`` ranks; what they return, in rank order.

    The function is found by name in its module, so it stands at a module's top level; arguments and results
    are pickled. An exception on a rank, or no answer in ``TIMEOUT_SECONDS``, fails the test.
    """
    pool = _pools.get(nproc)
    if pool is None:
        pool = _pools[nproc] = _Pool(nproc)
    try:
        return pool.run(function, args)
    except BaseException:
        # The ranks may be waiting for one another: the next test begins with new ones.
        _pools.pop(nproc).close()
        raise


class RankFailed(AssertionError):
    """A rank raised, died or did not answer."""


class _Pool:
    def __init__(self, nproc: int) -> None:
        context = multiprocessing.get_context("spawn")
        if _ROOT not in sys.path:
            sys.path.insert(0, _ROOT)
        self.processes: list[SpawnProcess] = []
        self.connections: list[Connection] = []
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        shared = {
            **shared_environment(nproc),
            "WORLD_SIZE": str(nproc),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        for place in range(nproc):
            environment = {**shared, "RANK": str(place), "LOCAL_RANK": str(place)}
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, environment), daemon=True)
            process.start()
            theirs.close()
            self.processes.append(process)
            self.connections.append(ours)

    def run(self, function: Callable[..., Any], args: tuple[Any, ...]) -> list[Any]:
        order = pickle.dumps((function.__module__, function.__qualname__, args))
        for connection in self.connections:
            connection.send_bytes(order)
        deadline = time.monotonic() + TIMEOUT_SECONDS
        results: dict[int, Any] = {}
        while len(results) < len(self.connections):
            for place, connection in enumerate(self.connections):
                if place not in results and connection.poll(0.001):
                    try:
                        failed, answer = pickle.loads(connection.recv_bytes())
                    except EOFError:
                        raise RankFailed(f"rank {place} died in {function.__qualname__}") from None
                    if failed:
                        raise RankFailed(f"rank {place} raised in {function.__qualname__}:\n{answer}")
                    results[place] = answer
            if time.monotonic() > deadline:
                silent = [place for place in range(len(self.connections)) if place not in results]
                raise RankFailed(f"ranks {silent} did not answer within {TIMEOUT_SECONDS:.0f} s")
        return [results[place] for place in range(len(self.connections))]

    def close(self) -> None:
        for process in self.processes:
            process.kill()
        for process, connection in zip(self.processes, self.connections, strict=True):
            process.join()
            connection.close()


_pools: dict[int, _Pool] = {}


@atexit.register
def _close_pools() -> None:
    for pool in _pools.values():
        pool.close()


def _serve(connection: Connection, environment: dict[str, str]) -> None:
    """A rank: join the group, then answer orders until the connection closes."""
    os.environ.update(environment)
    import torch

    from wasskit.distributed.group import init_group

    torch.set_num_threads(1)
    init_group("cpu")
    while True:
        try:
            module, name, args = pickle.loads(connection.recv_bytes())
        except EOFError:
            return
        try:
            answer = False, getattr(importlib.import_module(module), name)(*args)
            reply = pickle.dumps(answer)
        except BaseException:
            reply = pickle.dumps((True, traceback.format_exc()))
        connection.send_bytes(reply)
