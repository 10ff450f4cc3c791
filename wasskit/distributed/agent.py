"""torchrun's agent, with what a user at a terminal needs of it: who failed and why, and time to save.

The agent of ``torch.distributed.elastic`` forms the group, starts the ranks and starts them again. Added is how a run
ends: signals are forwarded and waited for, ranks that fail for one and the same reason may all say it, the reason of
the one that failed is shown, and its exit code is the run's.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import torch.distributed.elastic.multiprocessing.api as multiprocessing
import torch.distributed.elastic.rendezvous.registry as rendezvous
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler
from torch.distributed.elastic.rendezvous import RendezvousError, RendezvousParameters

from wasskit import console
from wasskit.errors import RunFailed
from wasskit.system.signals import Stopped, forwarded, handled, name_of

_POLL_SECONDS = 0.05
_GRACE_SECONDS = 1.0
_KILL_SECONDS = 15
_PATIENCE = 3
_TAIL_BYTES = 8192
_WRONG_REQUEST = 2


def run_ranks(
    nproc: int,
    command: Sequence[str],
    *,
    nnodes: int,
    endpoint: str,
    max_restarts: int,
    saved: Callable[[], str],
    folder: Path,
) -> int:
    """Run a command as ``nproc`` ranks here, of ``nnodes`` times as many; return the exit code of the whole.

    Args:
        saved: says what the ranks have saved, in a sentence with a space before it.
        folder: for what the ranks say that do not own the terminal.

    Raises:
        RunFailed: the machines did not meet.
    """
    if not console.is_verbose():
        _quieten()
    alone = nnodes == 1 or endpoint.startswith("127.")
    meeting = RendezvousParameters(
        "c10d", endpoint, run_id=os.environ.get("SLURM_JOB_ID", "wasskit"), min_nodes=nnodes, max_nodes=nnodes,
        local_addr="127.0.0.1" if alone else None,
    )  # fmt: skip
    try:
        spec = WorkerSpec(
            role="wasskit", local_world_size=nproc, entrypoint=command[0],
            # The agent replaces ${local_rank} in arguments; ours are taken as they are.
            args=tuple(word.replace("$", "$$") for word in command[1:]),
            rdzv_handler=rendezvous.get_rendezvous_handler(meeting), max_restarts=max_restarts,
            monitor_interval=_POLL_SECONDS, master_addr="127.0.0.1" if alone else None,
        )  # fmt: skip
        redirects = dict.fromkeys(range(1, nproc), Std.ALL)
        agent = _Agent(spec, DefaultLogsSpecs(log_dir=str(folder), redirects=redirects), saved)
        with handled(agent.hear):
            return agent.supervise()
    except RendezvousError as error:
        raise RunFailed(f"The {nnodes} machines did not meet at {endpoint}, or one of them has left: {error}") from None


def _quieten() -> None:
    """What the agent logs of itself is told to the user in other words."""
    log = logging.getLogger("torch.distributed.elastic")
    log.propagate = False
    log.addHandler(logging.NullHandler())


class _Agent(LocalElasticAgent):
    """The ranks of a run on this machine."""

    def __init__(self, spec: WorkerSpec, logs: DefaultLogsSpecs, saved: Callable[[], str]) -> None:
        super().__init__(spec=spec, logs_specs=logs)
        self._saved = saved
        self._heard: list[int] = []
        self._asked: list[int] = []
        self._meeting = True
        self._failed: int | None = None
        self._failed_at = 0.0
        self._spoken = self._killed = False

    def hear(self, number: int) -> None:
        """Note a signal, to be forwarded. Where there are no ranks yet, it ends the command.

        It is noted in any case: where Python drops exceptions (in finalizers, in callbacks of fork), it is forwarded.
        """
        self._heard.append(number)
        if self._meeting:
            raise Stopped(number)

    def supervise(self) -> int:
        """Start the ranks and wait for all; the run's exit code."""
        try:
            self.run()
        except Stopped as stop:
            return 128 + forwarded(stop.signal_number)
        except SignalException as stop:
            return 128 + forwarded(stop.sigval)
        finally:
            self._clear()
        codes = self._codes()
        if self._failed is None:
            return next((code for code in map(_exit_code, codes.values()) if code), 0)
        self._explain(self._failed)
        return _exit_code(codes[self._failed])

    # --- What the agent calls -----------------------------------------------------------------------------------------

    def _rendezvous(self, worker_group: WorkerGroup) -> None:
        self._meeting = True
        super()._rendezvous(worker_group)

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        self._failed, self._spoken, self._meeting = None, False, False
        with _handlers_kept():
            started: dict[int, Any] = super()._start_workers(worker_group)
        return started

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        self._forward()
        codes = self._codes()
        if self._failed is None:
            self._failed, self._failed_at = self._find_failed(codes), time.monotonic()
        if None in codes.values():
            # Ranks that are asked to stop may be saving; ranks that fail for one reason may all be about to say so.
            if self._failed is None or time.monotonic() < self._failed_at + _GRACE_SECONDS:
                return RunResult(state=WorkerState.HEALTHY)
            self._spoken = codes[0] == codes[self._failed]
            self._pcontext_close(signal.SIGTERM)
        elif self._failed is not None:
            self._spoken = codes[0] == codes[self._failed]
        if self._asked or (self._failed is not None and codes[self._failed] == _WRONG_REQUEST):
            self._remaining_restarts = 0
        if self._failed is not None and self._remaining_restarts:
            self._explain(self._failed)
            self._clear()
            allowed = worker_group.spec.max_restarts
            attempt = allowed - self._remaining_restarts + 2
            console.warn(f"All ranks start again from what is saved (attempt {attempt} of {allowed + 1}).")
        found: RunResult = super()._monitor_workers(worker_group)
        return found

    # --- Signals ------------------------------------------------------------------------------------------------------

    def _forward(self) -> None:
        while self._heard:
            number = forwarded(self._heard.pop(0))
            for rank in self._processes().values():
                rank.proc.send_signal(number)
            self._asked.append(number)
            if sum(one in (signal.SIGINT, signal.SIGTERM) for one in self._asked) >= _PATIENCE:
                self._killed = True
                self._pcontext_close(signal.SIGKILL)

    def _pcontext_close(self, number: signal.Signals) -> None:
        if self._pcontext is not None:
            self._pcontext.close(number, timeout=_KILL_SECONDS)

    def _clear(self) -> None:
        """End what a rank that did not end well has left running: its data loader's workers, say."""
        for rank in self._processes().values():
            if rank.proc.returncode != 0 and hasattr(os, "killpg"):
                with suppress(OSError):
                    os.killpg(rank.proc.pid, signal.SIGKILL)

    # --- The ranks, by their numbers here -----------------------------------------------------------------------------

    def _processes(self) -> dict[int, SubprocessHandler]:
        return getattr(self._pcontext, "subprocess_handlers", {})

    def _codes(self) -> dict[int, int | None]:
        return {place: rank.proc.poll() for place, rank in self._processes().items()}

    def _find_failed(self, codes: dict[int, int | None]) -> int | None:
        """The first rank that ended, not well and not by a request to stop."""
        well = {0, *(-number for number in self._asked), *(128 + number for number in self._asked)}
        ended = (place for place, code in codes.items() if code is not None and code not in well)
        return next(ended, None)

    def _explain(self, place: int) -> None:
        """Show what the rank has said, unless rank 0 has; one that a signal has ended had no last word."""
        if not self._spoken:
            assert self._pcontext is not None
            _show_end(Path(self._pcontext.stderrs[place] or os.devnull))
        code = self._codes()[place]
        if code is None or code >= 0 or self._killed:
            return
        cause = (
            ", probably because memory ran out: use a smaller --batch-size, fewer --workers or fewer ranks"
            if code == -getattr(signal, "SIGKILL", 0)
            else ""
        )
        rank = self._worker_group.workers[place].global_rank
        sentence = f"Rank {rank} was ended by {name_of(-code)}{cause}.{self._saved()}"
        console.stderr().print(f"[bold red]Error:[/bold red] {console.escape(sentence)}")


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Inside, starting ranks changes no handler of signals.

    That of the agent raises wherever the process is, also where Python drops the exception and the request is lost; and
    it gives the ranks thirty seconds, which may be too few to save.
    """
    names = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
    numbers = [int(getattr(signal, name)) for name in names if hasattr(signal, name)]
    ours = {number: signal.getsignal(number) for number in numbers}

    def follow(number: int, frame: FrameType | None) -> None:
        handler = ours[number]
        if callable(handler):
            handler(number, frame)

    theirs = vars(multiprocessing)
    handler_of_theirs = theirs["_terminate_process_handler"]
    theirs["_terminate_process_handler"] = follow
    try:
        yield
    finally:
        theirs["_terminate_process_handler"] = handler_of_theirs
        for number, handler in ours.items():
            signal.signal(number, handler)


def _show_end(path: Path) -> None:
    with path.open("rb") as errors:
        size = errors.seek(0, os.SEEK_END)
        errors.seek(max(0, size - _TAIL_BYTES))
        sys.stderr.write(errors.read().decode(errors="replace"))
        sys.stderr.flush()


def _exit_code(code: int | None) -> int:
    """The exit code as a shell gives it: 128 + signal for a process that a signal has ended."""
    return code if code is not None and code >= 0 else 128 - (code or 0)
