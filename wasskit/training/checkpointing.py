"""What of a training goes into its checkpoints, and how a training goes on from one."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

import wasskit
from wasskit.distributed.collectives import stack_ranks
from wasskit.distributed.group import any_rank, is_main, rank, rank_seed, world_size
from wasskit.distributed.launch import note_saved
from wasskit.errors import UserError, WasskitError
from wasskit.training.checkpoint import Checkpoints, check_same_config, rng_state, seed_all, set_rng_state
from wasskit.training.failures import check_losses, check_parameters
from wasskit.training.meters import LossMeter
from wasskit.training.records import State
from wasskit.training.run import RunDirectory
from wasskit.training.stepper import UpdateStepper
from wasskit.training.task import Plan, Task
from wasskit.training.validation import check_content, check_fit

_OF_THE_DEVICE = ("fused", "foreach", "capturable")
"""Settings by which optimisers compute the same in other ways, each of some devices."""


@dataclass(frozen=True, kw_only=True)
class SavedConfig:
    """The configuration that goes into a checkpoint; a run resumes only with an equal one.

    Args:
        may_differ: keys of ``values`` that may differ all the same.
        defaults: what keys of ``values`` stand for that an older checkpoint does not know.
        current_names: brings the configuration of an older checkpoint to the keys and values of today.
        options: the values of all options that have an effect, for advice; None: ``values``.
    """

    values: Mapping[str, Any]
    may_differ: Iterable[str] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    current_names: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict
    options: Mapping[str, Any] | None = None

    def check(self, saved: Mapping[str, Any], where: str) -> None:
        """Refuse the configuration of a checkpoint that contradicts this one, with a ``UserError``."""
        current = {**self.defaults, **self.current_names(saved)}
        check_same_config(current, self.values, frozenset(self.may_differ), where=where)


class Checkpointing:
    """Saves a training and brings it back: networks, optimisers, random numbers, position and losses not yet read.

    Args:
        run: where the checkpoints lie; None saves nothing.
        batches: of an epoch.
        seed: of the random numbers; each rank has its own unless the task asks for common ones.
        say: tells the user something.
    """

    def __init__(
        self,
        run: RunDirectory | None,
        config: SavedConfig | None,
        *,
        task: Task,
        stepper: UpdateStepper,
        meter: LossMeter,
        state: State,
        plan: Plan,
        batches: int,
        seed: int,
        say: Callable[[str], None],
    ) -> None:
        self.run, self.task, self.stepper, self.meter, self.state = run, task, stepper, meter, state
        self.config = config or SavedConfig(values=run.options if run is not None else {})
        self.saved_at: int | None = None
        self._files = Checkpoints(run.checkpoints) if run is not None else None
        self._batches = batches
        self._total_steps = plan.total_steps
        self._shape = {"steps_per_epoch": plan.steps_per_epoch, "accumulate": stepper.updates.accumulate}
        self._seed = seed if task.common_draws else rank_seed(seed)
        self._say = say

    def start(self, resume: bool | Path | None) -> None:
        """Begin anew, or go on from a checkpoint (``True``: the run's last one).

        Raises:
            UserError: the checkpoint is missing, damaged or of another configuration.
        """
        if resume:
            path = None if resume is True else Path(resume)
            self._restore(self._read(path), path)
        else:
            seed_all(self._seed)
        if self.run is None:
            return
        if not resume:
            self.run.keep_metrics(0, 0)
        self.run.begin()
        if is_main():
            if not self.state.is_complete(self._total_steps):
                self.run.remove_summary()  # of a run that went further
            note_saved(self.run.path, self.saved_at)

    def save(self, *, best: bool = False) -> None:
        """Write a checkpoint on rank 0; all ranks learn whether it could be written."""
        if self.run is None or self._files is None:
            return
        check_losses(self.meter, self.advice)
        check_parameters(self.task, self.state.step, self.advice)
        content = self._content()
        failure: WasskitError | None = None
        if is_main():
            try:
                self.run.sync_metrics()
                self._files.save(content, best=best)
            except WasskitError as error:
                failure = error
        if any_rank(failure is not None):
            raise failure or UserError("Rank 0 could not write the checkpoint.")
        self.saved_at = self.state.step
        if is_main():
            note_saved(self.run.path, self.saved_at)

    def advice(self) -> str:
        """Where to go on after a failure: a sentence with a space before it; nothing for a run that is not kept."""
        if self.run is None or self._files is None:
            return ""
        if not self._files.last.is_file():
            return " No checkpoint had been written."
        at = f" (step {self.saved_at})" if self.saved_at is not None else ""
        return f" The last good checkpoint is {self._files.last}{at}; {self.how_to_resume()}."

    def how_to_resume(self) -> str:
        assert self.run is not None
        return f"go on with --resume {shlex.quote(str(self.run.path))}"

    def _content(self) -> dict[str, Any]:
        assert self.run is not None
        stepper = self.stepper
        return {
            "version": wasskit.__version__,
            "command": self.run.command,
            "config": self.config.values,
            **self._shape,
            "state": asdict(self.state),
            "task": self.task.state_dict(),
            "extra": self.task.extra_state(),
            "optimisers": {o.name: o.optimizer.state_dict() for o in stepper.optimisations},
            "rates": stepper.rates,
            "scaler": stepper.scaler.state_dict() if stepper.scaler is not None else None,
            "ranks": world_size(),
            "threads": torch.get_num_threads(),
            "rng": {name: stack_ranks(value) for name, value in rng_state(stepper.device).items()},
            "meter": self.meter.state_dict(),
            "metrics_rows": self.run.rows if is_main() else 0,
        }

    def _read(self, path: Path | None) -> dict[str, Any]:
        if self.run is None or self._files is None:
            raise ValueError("a run without a directory cannot resume")
        content = self._files.load(path)
        path = path or self._files.last
        check_content(content, path, self.stepper.device)
        if content["command"] != self.run.command:
            raise UserError(
                f"The checkpoint {path} is of `wasskit {content['command']}`, not of `wasskit {self.run.command}`."
            )
        where = f"the checkpoint {path}"
        self.config.check(content["config"], where)
        check_same_config({key: content[key] for key in self._shape}, self._shape, where=where)
        check_fit(
            content,
            path,
            task=self.task,
            extra=self.task.extra_state(),
            optimisers={o.name: o.optimizer for o in self.stepper.optimisations},
            updates=self._shape["steps_per_epoch"],
            batches=self._batches,
        )
        return content

    def _restore(self, content: dict[str, Any], path: Path | None) -> None:
        task, stepper = self.task, self.stepper
        task.load_state_dict(content["task"])
        task.load_extra_state(content["extra"])
        for o in stepper.optimisations:
            saved = content["optimisers"][o.name]
            groups = [
                {**theirs, **{key: ours[key] for key in _OF_THE_DEVICE if key in ours}}
                for theirs, ours in zip(saved["param_groups"], o.optimizer.param_groups, strict=True)
            ]
            o.optimizer.load_state_dict({**saved, "param_groups": groups})
        stepper.rates = content["rates"]
        if stepper.scaler is not None and content["scaler"] is not None:
            stepper.scaler.load_state_dict(content["scaler"])
        self.state.restore(content["state"])
        self.saved_at = self.state.step
        as_many = content["ranks"] == world_size()
        seed_all(self._seed + self.state.step)  # the generator of a device of another kind has no state to go on from
        if as_many or task.common_draws:
            place = 0 if task.common_draws else rank()
            set_rng_state({name: value[place] for name, value in content["rng"].items()}, stepper.device)
        else:
            self._say(f"resumed on {world_size()} ranks instead of {content['ranks']}: random numbers start anew")
        self.meter.load_state_dict(content["meter"], rank() if as_many else None)
        threads = content.get("threads", torch.get_num_threads())
        if stepper.device.type == "cpu" and threads != torch.get_num_threads():
            self._say(f"resumed on {torch.get_num_threads()} threads instead of {threads}: sums may round differently")
        if self.run is not None and self._files is not None:
            if path is not None and is_main():
                self._files.go_back(path)  # before the metrics are cut, which are those of a later one
            self.run.keep_metrics(content["metrics_rows"], self.state.step)
