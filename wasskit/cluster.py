"""Commands as jobs of a cluster, through submitit: submitted, requeued and resumed. Free of torch.

A job runs ``wasskit ... --requeue`` as a child, passes on requests to stop and waits until all is saved. SLURM requeues
a job that it preempts; before the time of a job is over, submitit asks for it to be requeued.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wasskit import console
from wasskit.errors import UserError
from wasskit.options import minutes_of, seeds_of
from wasskit.system import processes
from wasskit.system.files import writing

__all__ = [
    "Job", "Resources", "dry_run", "resources_of", "script_of", "submit", "submit_training", "tell_submitted",
]  # fmt: skip

_POLL_SECONDS = 0.1
_WARNING_SECONDS = 120
_REQUEUES = 1000


@dataclass(frozen=True)
class Resources:
    """What a job asks for.

    Args:
        kind: ``slurm`` or ``local``.
        name: what ``squeue`` shows.
        folder: where scripts, logs and what submitit keeps go; seen by all machines.
        minutes: its longest time.
        nproc: processes on each of its ``nodes`` machines.
        gpus: on each of them.
        parallel: how many tasks of an array run at a time; None: as many as the cluster has room for.
        sbatch: further options of sbatch, by name.
    """

    kind: str
    name: str
    folder: Path
    minutes: int
    nproc: int = 1
    nodes: int = 1
    gpus: int | None = None
    partition: str | None = None
    parallel: int | None = None
    sbatch: Mapping[str, Any] = field(default_factory=dict)


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
            command = [sys.executable, "-m", "wasskit", *self.argv]
            child = processes.start(command, os.environ, stdout=output, stderr=output)
            _children[:] = [child]
            stopped: list[int] = []

            def follow(number: int, frame: object) -> None:
                stopped.append(number)
                child.send_signal(signal.SIGTERM)

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


def submit(resources: Resources, jobs: Sequence[Job]) -> list[str]:
    """Submit jobs, several as an array; their numbers.

    Raises:
        UserError: submitit or SLURM is missing; sbatch refuses what is asked for.
    """
    executor = _executor(resources)
    with writing(resources.folder), _as_a_new_job():
        try:
            with contextlib.nullcontext() if len(jobs) == 1 else executor.batch():
                submitted = [executor.submit(job) for job in jobs]
            return [str(one.job_id) for one in submitted]
        except Exception as error:
            if type(error).__name__ != "FailedJobError":
                raise
            raise UserError(f"SLURM refused the job: {_reason(error)}") from None


def script_of(resources: Resources, jobs: Sequence[Job]) -> str:
    """The batch script that ``submit`` would hand to SLURM, with the command of each task."""
    executor = _executor(resources, dry=True)
    if len(jobs) > 1:
        executor.parameters["map_count"] = len(jobs)
    command = executor._submitit_command_str
    text: str = executor._make_submission_file_text(command, "")
    tasks = [f"# {place}: wasskit {shlex.join(job.argv)}" for place, job in enumerate(jobs)]
    return "\n".join([text.rstrip(), "", "# What the command above runs, by task:", *tasks])


def _executor(resources: Resources, *, dry: bool = False) -> Any:
    try:
        import submitit
    except ImportError:
        raise UserError("--submit needs the library submitit: pip install 'wasskit[slurm]'.") from None
    if resources.kind == "local":
        if resources.nodes > 1:
            raise UserError("--submit local is one machine: leave out --nnodes, or take --submit slurm.")
        executor = submitit.LocalExecutor(resources.folder, max_num_timeout=0)
        executor.update_parameters(
            timeout_min=resources.minutes, gpus_per_node=resources.gpus or 0, signal_delay_s=_WARNING_SECONDS
        )
        return executor

    class Executor(submitit.SlurmExecutor):  # type: ignore[misc, name-defined]
        @classmethod
        def affinity(cls) -> int:
            return 2 if dry else int(super().affinity())

    try:
        executor = Executor(resources.folder, max_num_timeout=_REQUEUES)
    except RuntimeError:
        raise UserError("There is no SLURM here (no srun): submit where there is, or take --submit local.") from None
    further = {name.replace("_", "-"): value for name, value in resources.sbatch.items()}
    cpus = further.pop("cpus-per-task", resources.nproc)
    executor.update_parameters(
        job_name=resources.name, time=resources.minutes, nodes=resources.nodes, ntasks_per_node=1, cpus_per_task=cpus,
        signal_delay_s=_WARNING_SECONDS, array_parallelism=resources.parallel or 256,
        # srun does not inherit it.
        srun_args=[f"--cpus-per-task={cpus}"],
        additional_parameters={"requeue": True, **further},
        **({"gpus_per_node": resources.gpus} if resources.gpus else {}),
        **({"partition": resources.partition} if resources.partition else {}),
    )  # fmt: skip
    return executor


@contextlib.contextmanager
def _as_a_new_job() -> Iterator[None]:
    """Inside, nothing in the environment says that this is a job, a task or a child of ours."""
    from submitit.helpers import clean_env

    where = {name: os.environ[name] for name in ("SLURM_CONF",) if name in os.environ}
    with clean_env(extra_names=("WASSKIT_PARENT",)):
        os.environ.update(where)
        yield


def _reason(error: Exception) -> str:
    """What sbatch said, without submitit's account of it."""
    said = str(error).replace("sbatch: error: ", "").splitlines()
    return next((line.strip() for line in said if line.strip() and "subprocess" not in line), str(error))


# --- A training as a job ----------------------------------------------------------------------------------------------


def submit_training(
    path: str, argv: Sequence[str], values: Mapping[str, Any], given: Collection[str], flags: Mapping[str, bool]
) -> dict[str, Any]:
    """Submit a command that trains a run, or one for each seed; what ``--json`` prints.

    Args:
        path: the words of the command.
        argv: its command line after ``wasskit``.
        values, given: of its options, by name, and the names of those on the command line.
        flags: the options about the job, and whether a value follows.

    Raises:
        UserError: as `submit`; a seed and an array of seeds.
    """
    plugin, _, name = path.partition(" ")
    seeds = seeds_of(values["array"]) if values["array"] else []
    if seeds and "seed" in given:
        raise UserError("--seed and --array both say with which seeds to train: give one of them.")
    words = without_options(argv, {**flags, "--requeue": False})
    nproc = values["nproc"]
    if values["gpus"] and "nproc" not in given:
        nproc = values["gpus"]
        words += ["--nproc", str(nproc)]
    if values["resume"] is not None:
        if seeds:
            raise UserError("--array starts a run for each seed: leave out --resume, or name the runs by --run-dir.")
        run = values["run_dir"] or Path(
            values["resume"] if Path(values["resume"]).exists() else f"runs/{plugin}/{name}"
        )
        runs = {run: [*words, "--requeue"]}
    else:
        words = without_options(words, {"--run-dir": True, "--name": True})
        chosen = values["run_dir"] or (values["name"] and Path("runs", plugin, values["name"]))
        run = chosen or free_name(Path("runs", plugin, name), claim=not values["dry_run"])
        runs = {
            run.with_name(f"{run.name}-seed-{seed}"): [
                *words, "--seed", str(seed), "--run-dir", str(run.with_name(f"{run.name}-seed-{seed}")), "--requeue"
            ]
            for seed in seeds
        } or {run: [*words, "--run-dir", str(run), "--requeue"]}  # fmt: skip
    resources = resources_of(values, name=path.replace(" ", "-"), run=run, nproc=nproc)
    jobs = [Job(words) for words in runs.values()]
    if values["dry_run"]:
        return dry_run(resources, jobs)
    try:
        numbers = submit(resources, jobs)
    except UserError:
        with contextlib.suppress(OSError):
            resources.folder.rmdir()  # of a name that was free
        raise
    tell_submitted(resources, numbers, len(jobs))
    return {"jobs": numbers, "runs": [str(run) for run in runs], "logs": str(resources.folder)}


def resources_of(values: Mapping[str, Any], *, name: str, run: Path, nproc: int) -> Resources:
    """What the options of a command ask a cluster for.

    Args:
        run: the run directory, or the folder of many; ``jobs/`` beside it holds scripts and logs.
    """
    entries = (entry.partition("=") for entry in values["sbatch"])
    return Resources(
        kind=values["submit"], name=name, folder=jobs_folder(run), minutes=minutes_of(values["time"]), nproc=nproc,
        nodes=values.get("nnodes", 1), gpus=values["gpus"], partition=values["partition"],
        sbatch={name: value if equals else True for name, equals, value in entries},
    )  # fmt: skip


def jobs_folder(run: Path) -> Path:
    """Where scripts and logs of the jobs of a run go."""
    return run.parent / "jobs" / run.name


def dry_run(resources: Resources, jobs: Sequence[Job]) -> dict[str, Any]:
    """Print the script, and submit nothing."""
    script = script_of(resources, jobs)
    if not console.is_json():
        sys.stdout.write(script + "\n")
    return {"script": script}


def tell_submitted(resources: Resources, numbers: Sequence[str], tasks: int) -> None:
    """Say what was submitted, where its logs are and how to stop it."""
    if console.is_json():
        return
    job = numbers[0].partition("_")[0]
    what = f"job {job}" if tasks == 1 else f"{tasks} jobs {numbers[0]} to {numbers[-1]}"
    stop = f"scancel {job}" if resources.kind == "slurm" else f"kill {' '.join(numbers)}"
    console.result(f"Submitted as {what}; logs in {console.escape(str(resources.folder))}.")
    if resources.kind == "slurm":
        console.result("Preempted or out of time, it saves, is requeued and goes on.")
    console.result(f"To stop and save: {stop}")


def free_name(run: Path, *, claim: bool) -> Path:
    """A run directory that nobody has, by this name or with a number; its jobs' folder keeps it from others."""
    for candidate in numbered(run):
        folder = jobs_folder(candidate)
        if candidate.exists() or folder.exists():
            continue
        if claim:
            with writing(folder):
                folder.parent.mkdir(parents=True, exist_ok=True)
                try:
                    folder.mkdir()
                except FileExistsError:
                    continue
        return candidate
    raise AssertionError("unreachable")


def numbered(path: Path) -> Iterator[Path]:
    yield path
    for number in itertools.count(2):
        yield path.with_name(f"{path.name}-{number}")


def without_options(argv: Sequence[str], flags: Mapping[str, bool]) -> list[str]:
    """A command line without some of its options.

    Args:
        flags: which, and whether a value follows.
    """
    kept: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "--":
            return [*kept, word, *words]
        name = word.partition("=")[0]
        if name not in flags:
            kept.append(word)
        elif flags[name] and "=" not in word:
            next(words, None)
    return kept
