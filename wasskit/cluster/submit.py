"""Jobs handed to SLURM, or to a process in the background."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wasskit import console
from wasskit.cluster.job import Job
from wasskit.cluster.request import free_name, jobs_folder, minutes_of, sbatch_options, seeds_of, without_options
from wasskit.errors import UserError
from wasskit.system.files import writing

_WARNING_SECONDS = 120
_REQUEUES = 1000
_DEFAULTS = ("account", "partition", "qos", "reservation", "constraint", "clusters")
"""Options of sbatch that a user's environment may give, as ``SBATCH_ACCOUNT``, where the command line does not."""


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


def submit(resources: Resources, jobs: Sequence[Job]) -> list[str]:
    """Submit jobs, several as an array; their numbers.

    Raises:
        UserError: submitit or SLURM is missing; sbatch refuses what is asked for.
    """
    executor = _executor(resources)
    with writing(resources.folder), _as_a_new_job(resources):
        try:
            with contextlib.nullcontext() if len(jobs) == 1 else executor.batch():
                submitted = [executor.submit(job) for job in jobs]
            return [str(one.job_id) for one in submitted]
        except Exception as error:
            if type(error).__name__ != "FailedJobError":
                raise
            raise UserError(f"SLURM refused the job: {_reason(error)}") from None


def script_of(resources: Resources, jobs: Sequence[Job], last: Job | None = None) -> str:
    """The batch script that ``submit`` would hand to SLURM, with the command of each task, and that of a ``last`` job
    of its own, which begins when all have ended."""
    executor = _executor(resources, dry=True)
    if len(jobs) > 1:
        executor.parameters["map_count"] = len(jobs)
    command = executor._submitit_command_str
    text: str = executor._make_submission_file_text(command, "")
    tasks = [f"# {place}: wasskit {shlex.join(job.argv)}" for place, job in enumerate(jobs)]
    then = (
        []
        if last is None
        else ["# Another job, when all of this one have ended:", f"# wasskit {shlex.join(last.argv)}"]
    )
    return "\n".join([text.rstrip(), "", *then, "# What the command above runs, by task:", *tasks])


def _executor(resources: Resources, *, dry: bool = False) -> Any:
    try:
        import submitit
    except ImportError:
        raise UserError("--submit needs the library submitit: pip install 'wasskit[slurm]'.") from None
    if resources.kind == "local":
        if resources.nodes > 1:
            raise UserError("--submit local is one machine: leave out --nnodes, or take --submit slurm.")
        local = submitit.LocalExecutor(resources.folder, max_num_timeout=0)
        local.update_parameters(
            timeout_min=resources.minutes, gpus_per_node=resources.gpus or 0, signal_delay_s=_WARNING_SECONDS
        )
        return local

    alone = resources.nodes == 1

    class Executor(submitit.SlurmExecutor):  # type: ignore[misc, unused-ignore]
        @classmethod
        def affinity(cls) -> int:
            return 2 if dry else int(super().affinity())

        @property
        def _submitit_command_str(self) -> str:
            command: str = super()._submitit_command_str
            return f"exec {command}" if alone else command

    try:
        executor = Executor(resources.folder, max_num_timeout=_REQUEUES)
    except RuntimeError:
        raise UserError("There is no SLURM here (no srun): submit where there is, or take --submit local.") from None
    further = dict(resources.sbatch)
    cpus = further.pop("cpus-per-task", resources.nproc)
    executor.update_parameters(
        job_name=resources.name, time=resources.minutes, nodes=resources.nodes, ntasks_per_node=1, cpus_per_task=cpus,
        signal_delay_s=_WARNING_SECONDS, array_parallelism=resources.parallel or 256,
        # srun does not inherit it.
        srun_args=[f"--cpus-per-task={cpus}"],
        # An srun that is asked to end kills what it runs, at once: on one machine the command is the batch script's own
        # process, which gets the signals itself and all the time that SLURM gives (KillWait).
        use_srun=not alone,
        additional_parameters={
            "requeue": True, **({"signal": f"B:USR2@{_WARNING_SECONDS}"} if alone else {}), **further
        },
        **({"gpus_per_node": resources.gpus} if resources.gpus else {}),
        **({"partition": resources.partition} if resources.partition else {}),
    )  # fmt: skip
    return executor


@contextlib.contextmanager
def _as_a_new_job(resources: Resources) -> Iterator[None]:
    """Inside, nothing in the environment says that this is a job, a task or a child of ours.

    For sbatch its environment goes before what a script says: what the command line asks for is not left there.
    """
    from submitit.helpers import clean_env

    asked = {*resources.sbatch, *(("partition",) if resources.partition else ())}
    defaults = [f"SBATCH_{name.upper()}" for name in _DEFAULTS if name not in asked]
    where = {name: os.environ[name] for name in ("SLURM_CONF", *defaults) if name in os.environ}
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
        if run.suffix == ".pt" and run.is_file():  # a checkpoint in its run directory
            run = run.absolute().parent.parent
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
    return Resources(
        kind=values["submit"], name=name, folder=jobs_folder(run), minutes=minutes_of(values["time"]), nproc=nproc,
        nodes=values.get("nnodes", 1), gpus=values["gpus"], partition=values["partition"],
        sbatch=sbatch_options(values["sbatch"]),
    )  # fmt: skip


def dry_run(resources: Resources, jobs: Sequence[Job], last: Job | None = None) -> dict[str, Any]:
    """Print the script, and submit nothing. ``last``: see `script_of`."""
    script = script_of(resources, jobs, last)
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
