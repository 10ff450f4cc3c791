"""One command as the function of a job.

It runs ``wasskit ... --requeue`` as a child, passes on requests to stop and waits until all is saved. SLURM requeues a
job that it preempts; before the time of a job is over, submitit asks for it to be requeued.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from wasskit.system import processes

_POLL_SECONDS = 0.1


class Job:
    """One command as the function of a job.

    Args:
        argv: the command line after ``wasskit``; it resumes what is there.
        log: what it says is appended to this file; by default it goes to the job's own logs.
    """

    def __init__(self, argv: Sequence[str], log: Path | None = None) -> None:
        self.argv, self.log = list(argv), log

    def __call__(self) -> None:
        """Run the command. Its exit code is the job's, so that SLURM knows a failed one."""
        with contextlib.ExitStack() as stack:
            output = None if self.log is None else stack.enter_context(self.log.open("ab"))
            stack.enter_context(_heard())
            command = [sys.executable, "-m", "wasskit", *self.argv]
            child = processes.start(command, os.environ, stdout=output, stderr=output)
            _children[:] = [child]
            stopped: list[int] = []

            def follow(number: int, frame: object) -> None:
                if not stopped:  # SLURM asks all processes of a job, and some twice; a third time would be to kill
                    child.send_signal(signal.SIGTERM)
                stopped.append(number)

            if hasattr(signal, "SIGTERM"):
                signal.signal(signal.SIGTERM, follow)
            code = _ended(child)
        if stopped and _is_preempted():
            _requeue()
        if code:
            raise SystemExit(code if code > 0 else 128 - code)

    def checkpoint(self) -> Any:
        """What submitit calls before the job is requeued: let the command save, and go on with it in the next one."""
        from submitit.helpers import DelayedSubmission

        for child in _children:
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
                _ended(child)
        return DelayedSubmission(Job(self.argv, self.log))


_children: list[subprocess.Popen[bytes]] = []
"""The command of this job: a signal's handler may not wait for it as the function below it does, under one lock."""


def _ended(child: subprocess.Popen[bytes]) -> int:
    while (code := child.poll()) is None:
        time.sleep(_POLL_SECONDS)
    return code


@contextlib.contextmanager
def _heard() -> Iterator[None]:
    """Inside, a batch script hears what SLURM tells the steps of a job alone: that it has a grace period to end in.

    A step that does nothing else passes it on.
    """
    if "SLURM_JOB_ID" not in os.environ or "SLURM_STEP_ID" in os.environ or shutil.which("srun") is None:
        yield
        return
    script = f"trap 'kill -TERM {os.getpid()}; exit' TERM; while :; do sleep 1; done"
    options = ["--overlap", "--nodes=1", "--ntasks=1", "--cpus-per-task=1", "--mem=0", "--gres=none", "--quiet"]
    null = subprocess.DEVNULL
    listener = subprocess.Popen(["srun", *options, "sh", "-c", script], stdin=null, stdout=null, stderr=null)
    try:
        yield
    finally:
        listener.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            listener.wait(10)
        listener.kill()


def _is_preempted() -> bool:
    """Whether SLURM has asked this job to make room, and not its user to stop."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return False
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["scontrol", "show", "job", job]
        said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
        return "JobState=RUNNING" in said and "PreemptTime=" in said and "PreemptTime=None" not in said
    return False


def _requeue() -> None:
    """SLURM takes a job that ends in the time it was given as ended: ask for it to be requeued, and be killed."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], timeout=60, check=True)
        time.sleep(3600)
