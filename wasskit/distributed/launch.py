"""Start the ranks of a run, and know in a process who has started it. Imports no torch.

``--nproc`` and ``--nnodes`` start ranks by torchrun's agent (`wasskit.distributed.agent`); torchrun itself, and srun
with one task for each rank, start them as well: all of them get the same variables, and find their devices themselves.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from wasskit.errors import UserError
from wasskit.system import processes
from wasskit.system.documents import parse_json, read_text
from wasskit.system.readers import Damage

_SAVED = "WASSKIT_SAVED"


def is_launched() -> bool:
    """Whether this process is a rank, whoever has started it."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def owns_ranks() -> bool:
    """Whether our own launcher has started this rank: it tells the user why a run failed, and of one rank only."""
    return is_launched() and _SAVED in os.environ


def is_restarted() -> bool:
    """Whether this rank takes the place of one that has died."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def launch(
    nproc: int,
    argv: Sequence[str],
    *,
    nnodes: int = 1,
    endpoint: str | None = None,
    max_restarts: int = 0,
    program: Sequence[str] = (),
) -> int:
    """Run ``python -m wasskit ARGV`` as ``nproc`` ranks on this machine; return the exit code of the whole.

    Each rank gets torchrun's variables and its share of the processor's threads (unless ``OMP_NUM_THREADS`` is set).
    Local rank 0 owns the terminal; what another rank writes to stderr is shown if that rank is the one that fails.

    SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 are forwarded to each rank, the closing of the terminal as SIGTERM; a third
    request to stop kills. When one rank fails the others are ended; after ``max_restarts`` of this its exit code
    (128 + signal, if it was killed) is returned.

    Args:
        nnodes: machines that run this together, each as many ranks; the same is called on all of them.
        endpoint: ``HOST:PORT`` where they meet, on one of them; by default what SLURM's variables say.
        max_restarts: how often all ranks are started again, from the last checkpoint, after one has died.
        program: replaces ``python -m wasskit``.

    Raises:
        UserError: no ranks, or no place to meet.
    """
    if nproc < 1:
        raise UserError(f"At least one process is needed, got --nproc {nproc}.")
    endpoint = _endpoint(nnodes, endpoint)
    from wasskit.distributed.agent import run_ranks

    folder = Path(tempfile.mkdtemp(prefix="wasskit-"))
    saved = folder / "saved"
    command = [*(program or (sys.executable, "-m", "wasskit")), *argv]
    try:
        with _environment({**shared_environment(nproc, nnodes), **processes.parenthood(), _SAVED: str(saved)}):
            return run_ranks(
                nproc,
                command,
                nnodes=nnodes,
                endpoint=endpoint,
                max_restarts=max_restarts,
                saved=lambda: _describe(saved),
                folder=folder,
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _endpoint(nnodes: int, given: str | None) -> str:
    """Where the machines meet. Alone, a machine takes a free port of its own."""
    if nnodes == 1:
        return "127.0.0.1:0"
    endpoint = given or slurm_endpoint()
    if endpoint is None:
        raise UserError(
            f"--nnodes {nnodes} needs a place where the machines meet: give each of them the same --rdzv-endpoint "
            "HOST:PORT, with one of them as HOST and a free port. In a job of SLURM it is found by itself."
        )
    if not re.fullmatch(r".+:\d{1,5}", endpoint):
        raise UserError(f"--rdzv-endpoint: {endpoint!r} is not HOST:PORT, e.g. node1:29500.")
    return endpoint


def shared_environment(nproc: int, nnodes: int = 1) -> dict[str, str]:
    """What all ranks of a machine get besides torchrun's variables, unless it is set already."""
    wanted = {"OMP_NUM_THREADS": str(max(1, processes.cores() // nproc))}
    loopback = _loopback()
    if nnodes == 1 and loopback is not None:
        # All ranks are here: whatever the machine's name resolves to, if it does, they need not leave it.
        wanted["GLOO_SOCKET_IFNAME"] = loopback
    return {name: value for name, value in wanted.items() if name not in os.environ}


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _loopback() -> str | None:
    names = {name for _, name in socket.if_nameindex()} if hasattr(socket, "if_nameindex") else set()
    return next((name for name in ("lo", "lo0") if name in names), None)


# --- SLURM ------------------------------------------------------------------------------------------------------------


def join_slurm_step() -> None:
    """Give a task of ``srun --ntasks N``, one of several that run this command, torchrun's variables.

    A batch script and a shell in an allocation are no such task, however many an allocation has room for.
    """
    if is_launched() or int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) < 2:
        return
    step = os.environ
    alone = step.get("SLURM_STEP_NUM_NODES", "1") == "1"
    host, _, port = (slurm_endpoint() or "127.0.0.1:29500").rpartition(":")
    local = step.get("SLURM_STEP_TASKS_PER_NODE", step["SLURM_STEP_NUM_TASKS"])
    os.environ.update(
        RANK=step["SLURM_PROCID"],
        WORLD_SIZE=step["SLURM_STEP_NUM_TASKS"],
        LOCAL_RANK=step["SLURM_LOCALID"],
        LOCAL_WORLD_SIZE=_tasks_of_node(local, int(step.get("SLURM_NODEID", "0"))),
        MASTER_ADDR="127.0.0.1" if alone else host,
        MASTER_PORT=port,
    )
    os.environ.update(shared_environment(int(os.environ["LOCAL_WORLD_SIZE"]), 1 if alone else 2))


def _tasks_of_node(listing: str, node: int) -> str:
    """The entry of a node in SLURM's ``2(x3),1``."""
    counts: list[str] = [
        count for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", listing) for _ in range(int(times or 1))
    ]
    return counts[min(node, len(counts) - 1)]


def slurm_endpoint() -> str | None:
    """The first machine of this job of SLURM, with a port that its number and step give; None outside of one."""
    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST")
    job = os.environ.get("SLURM_JOB_ID")
    if not nodes or not job:
        return None
    match = re.match(r"([^\[,]*)(?:\[(\d+)[^\]]*\])?([^\[,]*)", nodes)
    assert match is not None
    host = "".join(part or "" for part in match.groups())
    step = os.environ.get("SLURM_STEP_ID", "0")
    return f"{host}:{20000 + (int(job) * 7 + (int(step) if step.isdigit() else 0)) % 12000}"


# --- What the launcher can say of a run whose rank was killed ---------------------------------------------------------


def note_saved(run: Path, step: int | None) -> None:
    """Tell the launcher, if there is one, where the run lies and the step of its last checkpoint (None: there is none).

    It is what the launcher can say of the run when a rank is killed, and where the next attempt goes on.
    """
    if path := os.environ.get(_SAVED):
        with suppress(OSError), Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps([str(run), step]) + "\n")


def read_saved(path: Path | None = None) -> tuple[Path, int | None] | None:
    """What was noted last, the run and the step of its checkpoint; None where nothing was.

    Args:
        path: the launcher's file; by default that of this rank's launcher.
    """
    name = path or os.environ.get(_SAVED)
    if not name:
        return None
    try:
        *_, last = read_text(Path(name)).splitlines()
        run, step = parse_json(last)
    except (UserError, Damage, ValueError):
        return None
    return Path(run), step


def _describe(path: Path) -> str:
    """What the ranks have noted last, in a sentence with a space before it; nothing where they do not train."""
    noted = read_saved(path)
    if noted is None:
        return ""
    run, step = noted
    if step is None:
        return (
            " Nothing was saved, no checkpoint had been written: start the run over with --run-dir "
            f"{shlex.quote(str(run))} --requeue."
        )
    return (
        f" The last checkpoint is {run / 'checkpoints' / 'last.pt'} (step {step}); go on with --resume "
        f"{shlex.quote(str(run))}."
    )
