"""``--submit`` and the options about a job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from wasskit.cluster.request import minutes_of, sbatch_options, seeds_of
from wasskit.config import OptionGroup, option
from wasskit.errors import UserError


@dataclass(frozen=True, kw_only=True)
class SubmitOptions(OptionGroup):
    """A job of a cluster in place of a process here."""

    submit: Literal["slurm", "local"] | None = option(
        None, help="Run as a job of SLURM, which is requeued and goes on when it is preempted or its time is over; "
        "local: as a process in the background.", panel="Cluster", transient=True, show_default="here and now",
    )  # fmt: skip
    time: str = option(
        "24:00:00", help="Longest time of a job: minutes, HH:MM:SS or D-HH:MM:SS.", panel="Cluster", transient=True,
        metavar="TIME",
    )  # fmt: skip
    gpus: int | None = option(
        None, help="GPUs of a job, on each machine; with as many processes where --nproc says nothing.",
        panel="Cluster", min=0, transient=True, show_default="none asked for",
    )  # fmt: skip
    partition: str | None = option(
        None, help="Partition to submit to.", panel="Cluster", transient=True, show_default="the cluster's"
    )
    array: str | None = option(
        None, help="One job for each of these seeds, as an array: 0-4 or 0,3,7.", panel="Cluster", transient=True,
        metavar="SEEDS", show_default="one job, with the seed of --seed",
    )  # fmt: skip
    sbatch: tuple[str, ...] = option(
        (), help="Further options of sbatch: account=vision,mem=64G,exclude=n1,n2.", panel="Cluster",
        transient=True, metavar="NAME=VALUE,...",
    )  # fmt: skip
    dry_run: bool = option(
        False, help="With --submit: print the script and submit nothing.", panel="Cluster", transient=True,
        flag="--dry-run",
    )  # fmt: skip

    def validate(self) -> None:
        super().validate()
        if self.submit is None:
            asked = {
                "--gpus": self.gpus is not None, "--partition": self.partition is not None,
                "--array": self.array is not None, "--sbatch": bool(self.sbatch), "--dry-run": self.dry_run,
            }  # fmt: skip
            for flag in (flag for flag, given in asked.items() if given):
                raise UserError(f"{flag} is about a job: add --submit slurm.")
        minutes_of(self.time)
        seeds_of(self.array or "0")
        sbatch_options(self.sbatch)
