"""Start one process per rank on this machine, and find the devices that they compute on. Imports no torch.

Over several machines, ``torchrun --nnodes ... -m wasskit ...`` starts the ranks instead; both set the same variables.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from wasskit import console
from wasskit.errors import UserError
from wasskit.system import processes
from wasskit.system.signals import forwarded, handled, name_of

__all__ = ["Device", "find_devices", "is_launched", "launch", "note_saved", "parse_device_list"]

_POLL_SECONDS = 0.05
_GRACE_SECONDS = 1.0
_KILL_SECONDS = 15.0
_PATIENCE = 3
_TAIL_BYTES = 8192

_SAVED = "WASSKIT_SAVED"


@dataclass(frozen=True)
class Device:
    """A GPU, or a MIG slice of one, that one rank can compute on."""

    name: str
    """As the driver calls it: ``NVIDIA A100-SXM4-40GB``, ``MIG 3g.20gb``."""
    uuid: str
    gpu: int
    """Number of the GPU, of the slice's GPU, in ``nvidia-smi``'s order."""
    is_slice: bool
    selector: str
    """What ``CUDA_VISIBLE_DEVICES`` must say for a process to see this device alone."""
    other_names: tuple[str, ...] = ()
    """Of a slice: the UUID of its GPU, and ``GPU:SLICE`` by numbers."""


def is_launched() -> bool:
    """Whether this process is a rank that ``launch`` or torchrun has started."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def find_devices() -> list[Device]:
    """The GPUs and MIG slices that ``CUDA_VISIBLE_DEVICES`` leaves visible here; none without a driver."""
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return _visible(parse_device_list(listing), os.environ.get("CUDA_VISIBLE_DEVICES"))


def parse_device_list(text: str) -> list[Device]:
    """The devices in the output of ``nvidia-smi -L``; the slices stand for a GPU that is cut into slices."""
    devices: list[Device] = []
    for line in text.splitlines():
        if match := re.match(r"GPU (\d+): (.+?) \(UUID: (\S+)\)", line):
            devices.append(Device(match[2], match[3], int(match[1]), is_slice=False, selector=match[3]))
        elif (match := re.match(r"\s+(MIG \S+)\s+Device\s+(\d+): \(UUID: (\S+)\)", line)) and devices:
            last = devices[-1] if devices[-1].is_slice else devices.pop()
            names = (last.other_names or (last.uuid,))[0], f"{last.gpu}:{match[2]}"
            devices.append(Device(match[1], match[3], last.gpu, is_slice=True, selector=match[3], other_names=names))
    return devices


def _visible(devices: list[Device], setting: str | None) -> list[Device]:
    """Filter and order as CUDA does: by number or beginning of the UUID, up to the first unknown one.

    A sliced GPU, by number or UUID, stands for its slices; ``GPU:SLICE`` is understood as well, as containers do.
    """
    if setting is None:
        return devices
    chosen: list[Device] = []
    for token in filter(None, (part.strip() for part in setting.split(","))):
        if token.isdigit():
            # CUDA may number GPUs in another order than the driver: a whole GPU keeps its number.
            found = [
                device if device.is_slice else Device(device.name, device.uuid, device.gpu, False, token)
                for device in devices
                if device.gpu == int(token)
            ]
        else:
            found = [
                device
                for device in devices
                if device.uuid.startswith(token)
                or token in device.other_names
                or (token.startswith("GPU-") and device.is_slice and device.other_names[0].startswith(token))
            ]
        if not found:
            break
        chosen += [device for device in found if device not in chosen]
    return chosen


def launch(nproc: int, argv: Sequence[str], *, program: Sequence[str] = ()) -> int:
    """Run ``python -m wasskit ARGV`` as ``nproc`` ranks on this machine; return the exit code of the whole.

    Each rank gets torchrun's variables, its share of the processor's threads (unless ``OMP_NUM_THREADS`` is
    set) and, where there are any, one GPU or MIG slice as the only one it sees. Rank 0 owns the terminal;
    what another rank writes to stderr is shown if that rank is the one that fails.

    SIGINT, SIGTERM and SIGUSR1 are forwarded to each rank, the closing of the terminal as SIGTERM; a third
    request to stop kills. When one rank fails the others are ended, and its exit code (128 + signal, if it
    was killed) is returned. ``program`` replaces ``python -m wasskit``. Raises ``UserError`` for no ranks.
    """
    if nproc < 1:
        raise UserError(f"At least one process is needed, got --nproc {nproc}.")
    command = [*(program or (sys.executable, "-m", "wasskit")), *argv]
    environments = _environments(nproc)
    with ExitStack() as stack:
        received: list[int] = []
        stack.enter_context(handled(received.append))
        handle, name = tempfile.mkstemp(prefix="wasskit-")
        os.close(handle)
        saved = Path(name)
        stack.callback(saved.unlink, missing_ok=True)
        ranks = _Ranks(saved)
        stack.callback(ranks.kill)
        for place, environment in enumerate(environments):
            errors = stack.enter_context(tempfile.TemporaryFile()) if place else None
            ranks.start(command, {**environment, _SAVED: str(saved)}, errors)
        return ranks.supervise(received)


def _environments(nproc: int) -> list[dict[str, str]]:
    """The environment of each rank."""
    shared = dict(os.environ)
    shared.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(_free_port()))
    shared.update(WORLD_SIZE=str(nproc), LOCAL_WORLD_SIZE=str(nproc))
    shared.setdefault("OMP_NUM_THREADS", str(max(1, _processors() // nproc)))
    if loopback := _loopback():
        # All ranks are here: whatever the machine's name resolves to, if it does, they need not leave it.
        shared.setdefault("GLOO_SOCKET_IFNAME", loopback)
    devices = find_devices()
    environments = []
    for place in range(nproc):
        own = {"RANK": str(place), "LOCAL_RANK": str(place)}
        if devices:
            own["CUDA_VISIBLE_DEVICES"] = devices[place % len(devices)].selector
        environments.append({**shared, **own})
    return environments


def _processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _loopback() -> str | None:
    names = {name for _, name in socket.if_nameindex()} if hasattr(socket, "if_nameindex") else set()
    return next((name for name in ("lo", "lo0") if name in names), None)


class _Ranks:
    """The processes of one run."""

    def __init__(self, saved: Path) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        self._errors: list[IO[bytes] | None] = []
        self._saved = saved
        self._killed: set[int] = set()

    def start(self, command: list[str], environment: dict[str, str], errors: IO[bytes] | None) -> None:
        """Start the next rank. With a file for its errors it has no say at the terminal."""
        process = processes.start(
            command, environment, stdout=None if errors is None else subprocess.DEVNULL, stderr=errors
        )
        self._processes.append(process)
        self._errors.append(errors)

    def supervise(self, received: list[int]) -> int:
        """Wait for all ranks, forwarding the signals in ``received``; the run's exit code."""
        stops: list[int] = []
        failed: int | None = None
        failed_at = 0.0
        ended = spoken = False
        while self._running():
            while received:
                number = forwarded(received.pop(0))
                self._send(number)
                if number in (signal.SIGINT, signal.SIGTERM):
                    stops.append(number)
                if len(stops) >= _PATIENCE:
                    self.kill()
            if failed is None:
                failed, failed_at = self._failed(stops), time.monotonic()
            elif not ended and time.monotonic() > failed_at + _GRACE_SECONDS:
                # Ranks that fail for one and the same reason have said so by now; others wait in vain.
                ended, spoken = True, self._agree(0, failed)
                self._send(signal.SIGTERM)
            elif time.monotonic() > failed_at + _GRACE_SECONDS + _KILL_SECONDS:
                self.kill()
            time.sleep(_POLL_SECONDS)
        if failed is None:
            failed = self._failed(stops)
        if failed is None:
            return next((code for code in map(_exit_code, self._processes) if code), 0)
        if not (spoken if ended else self._agree(0, failed)):
            self._show_errors(failed)
        if self._processes[failed].returncode < 0 and failed not in self._killed:
            self._report_failed_rank(failed)
        return _exit_code(self._processes[failed])

    def kill(self) -> None:
        """End every rank that has not ended well, at once and with its data loader's workers."""
        for place, process in enumerate(self._processes):
            if process.poll() is None:
                self._killed.add(place)
            if process.returncode != 0:
                processes.kill(process)

    def _running(self) -> bool:
        codes = [process.poll() for process in self._processes]
        return None in codes

    def _send(self, number: int) -> None:
        for process in self._processes:
            process.send_signal(number)

    def _failed(self, stops: list[int]) -> int | None:
        """The first rank that ended, not well and not by a request to stop."""
        asked_for = {0, *(-number for number in stops), *(128 + number for number in stops)}
        for place, process in enumerate(self._processes):
            if process.returncode is not None and process.returncode not in asked_for:
                return place
        return None

    def _agree(self, one: int, other: int) -> bool:
        return self._processes[one].returncode == self._processes[other].returncode

    def _report_failed_rank(self, place: int) -> None:
        """A rank that a signal has ended had no last word: say which, by what, and what there is to go on from."""
        number = -self._processes[place].returncode
        cause = (
            ", probably because memory ran out: use a smaller --batch-size, fewer --workers or fewer ranks"
            if number == getattr(signal, "SIGKILL", None)
            else ""
        )
        sentence = f"Rank {place} was ended by {name_of(number)}{cause}.{_describe_saved(self._saved)}"
        console.stderr().print(f"[bold red]Error:[/bold red] {console.escape(sentence)}")

    def _show_errors(self, place: int) -> None:
        errors = self._errors[place]
        if errors is not None:
            size = errors.seek(0, os.SEEK_END)
            errors.seek(max(0, size - _TAIL_BYTES))
            sys.stderr.write(errors.read().decode(errors="replace"))
            sys.stderr.flush()


def note_saved(run: Path, step: int | None) -> None:
    """Tell the launcher, if there is one, where the run lies and the step of its last checkpoint (None: there is none).

    It is what the launcher can say of the run when a rank is killed.
    """
    if path := os.environ.get(_SAVED):
        with suppress(OSError), Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps([str(run), step]) + "\n")


def _describe_saved(path: Path) -> str:
    """What the ranks have noted last, in a sentence with a space before it; nothing where they do not train."""
    try:
        *_, last = path.read_text(encoding="utf-8").splitlines()
        run, step = json.loads(last)
    except (OSError, ValueError):
        return ""
    if step is None:
        return (
            " Nothing was saved, no checkpoint had been written: start the run over with --run-dir "
            f"{shlex.quote(run)} --requeue."
        )
    return (
        f" The last checkpoint is {Path(run, 'checkpoints', 'last.pt')} (step {step}); go on with --resume "
        f"{shlex.quote(run)}."
    )


def _exit_code(process: subprocess.Popen[bytes]) -> int:
    """The exit code as a shell gives it: 128 + signal for a process that a signal has ended."""
    code = process.returncode
    return code if code >= 0 else 128 - code
