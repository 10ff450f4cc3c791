"""One training command from its configuration to a run directory: devices, ranks, seeds, resuming.

A command's body reads::

    with training_session(config, invocation, name=config.dataset) as session:
        config = session.config
        task = MyTask(...)
        trainer = session.trainer(task, source)
        summary = trainer.fit(resume=session.checkpoint)
"""

from __future__ import annotations

import contextlib
import functools
import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import torch

from wasskit import console
from wasskit.config import (
    Invocation,
    RecipeOptions,
    changed,
    check_keys,
    current_names,
    fixed_keys,
    part,
    recipe_fields,
    to_options,
    values_of,
    values_of_effect,
)
from wasskit.data.base import ImageDataset
from wasskit.data.registry import load_dataset
from wasskit.distributed.group import broadcast_object, group, is_main
from wasskit.distributed.launch import is_restarted, read_saved
from wasskit.errors import Interrupted, UserError
from wasskit.options import DataOptions, DeviceOptions, LoopOptions, OptimizerOptions, RunOptions, TrainingDeviceOptions
from wasskit.ot.precision import tf32_products
from wasskit.system.signals import Stopped, name_of, number_of
from wasskit.training.cadence import Cadence
from wasskit.training.checkpoint import seed_all
from wasskit.training.checkpointing import SavedConfig
from wasskit.training.logging import make_reporter
from wasskit.training.run import RunDirectory
from wasskit.training.stepper import Updates
from wasskit.training.task import Source, Task
from wasskit.training.trackers import check_trackers
from wasskit.training.trainer import Trainer

C = TypeVar("C", bound=RecipeOptions)


@dataclass
class Session(Generic[C]):
    """What a training command works with.

    Args:
        config: the configuration in force: when resuming, the run's own.
        device: where this rank computes.
        run: the run directory.
        checkpoint: what to resume from; None for a new run.
    """

    config: C
    device: torch.device
    run: RunDirectory
    checkpoint: Path | None
    _noted: set[str] = field(default_factory=set, init=False, repr=False)

    def split(self, name: str) -> ImageDataset:
        """A split of the data set that the options of images name; what is remarkable about it is logged once.

        Raises:
            UserError: the data set is missing or damaged, or has no such split.
        """
        data = part(self.config, DataOptions)
        dataset = load_dataset(
            data.dataset, name, root=data.data_root, download=data.download, corrupt=data.corrupt,
            image_size=data.image_size,
        )  # fmt: skip
        for note in dict.fromkeys(dataset.notes):
            if note not in self._noted:
                console.log(console.escape(note))
        self._noted.update(dataset.notes)
        return dataset

    def trainer(
        self,
        task: Task,
        source: Source,
        *,
        cadence: Cadence | None = None,
        updates: Updates | None = None,
        track: Sequence[str] | None = None,
    ) -> Trainer:
        """The loop over ``source`` as the configuration says, but for what is given: for a run of epochs by its
        `LoopOptions`, for another at its ``cadence``."""
        run = part(self.config, RunOptions)
        loop = part(self.config, LoopOptions) if cadence is None else None
        if loop is not None:
            cadence = Cadence(
                epochs=loop.epochs, eval_every=loop.eval_every, checkpoint_every=run.checkpoint_every,
                log_every=run.log_every,
            )  # fmt: skip
        assert cadence is not None
        return Trainer(
            task, source, self.run, cadence=cadence, updates=updates or self.updates(), device=self.device,
            compile=loop is not None and loop.compile, channels_last=loop is not None and loop.channels_last,
            seed=run.seed, config=saved_config(self.config),
            reporter=make_reporter(quiet=console.is_quiet(), console=console.stderr()),
            track=run.trackers if track is None else track,
        )  # fmt: skip

    def updates(self, *, clip_value: float | None = None) -> Updates:
        """How the configuration says that updates are made."""
        return Updates(
            precision=part(self.config, DeviceOptions).precision,
            accumulate=part(self.config, LoopOptions).accumulate,
            clip_norm=part(self.config, OptimizerOptions).clip_norm,
            clip_value=clip_value,
        )


def saved_config(config: RecipeOptions) -> SavedConfig:
    """What checkpoints keep of a configuration."""
    kind = type(config)
    known = recipe_fields(kind)
    return SavedConfig(
        values=to_options(config),
        may_differ=set(known) - fixed_keys(kind),
        defaults=to_options(changed(config, **{n: f.before for n, f in known.items() if not f.required})),
        current_names=partial(current_names, kind),
        options=values_of_effect(config),
    )


@contextlib.contextmanager
def training_session(config: C, invocation: Invocation, *, name: str) -> Iterator[Session[C]]:
    """Join the ranks, choose the device, make or reopen the run directory, seed everything.

    Args:
        name: the run directory's name under ``runs/<plugin>/`` where the user chose none; numbered if taken.

    Raises:
        UserError: the run directory is taken, or in use by another process; there is nothing to resume from; what is
            asked for contradicts the run to be resumed.
    """
    options = part(config, RunOptions)
    check_trackers(options.track)
    with group(part(config, DeviceOptions).device) as device:
        plugin = invocation.command.split()[0]
        chosen = options.run_dir or Path("runs") / plugin / (options.name or name)
        numbered = options.run_dir is None and options.name is None
        found = broadcast_object(_find_checkpoint(options, chosen, numbered, invocation.argv))
        if found is None:
            paper = invocation.recipe.get("paper") if invocation.recipe else None
            run = RunDirectory.create(
                chosen, command=invocation.command, options=to_options(config), paper=paper, numbered=numbered,
                seed=options.seed, device=device, argv=invocation.argv,
            )  # fmt: skip
            checkpoint = None
            # Not before the data set and the model are there: of a request that is refused, no directory stays.
            run.at_start = functools.partial(console.log, f"Run directory: {console.escape(str(run.path))}")
        else:
            run, checkpoint = RunDirectory.open(found[0]), found[1]
            config = resumed_config(config, invocation, run)
            options = part(config, RunOptions)
        try:
            with run.claimed(), run.concluded(), tuned(device, part(config, DeviceOptions)):
                if found is not None:
                    run.at_start = functools.partial(
                        run.record_resume, seed=options.seed, device=device, argv=invocation.argv
                    )
                    origin = f"from {checkpoint.name}" if checkpoint else "from the start: it holds no checkpoint"
                    console.log(f"Resuming {console.escape(str(run.path))} {origin}")
                seed_all(options.seed)
                yield Session(config, device, run, checkpoint)
        except (UserError, Interrupted, KeyboardInterrupt, Stopped) as error:
            # A request that is wrong, or withdrawn, before the first step leaves nothing behind.
            if found is None and is_main():
                run.remove_if_empty()
            if isinstance(error, KeyboardInterrupt | Stopped) and run.has_checkpoint:
                number = number_of(error)
                raise Interrupted(
                    number,
                    f"Stopped by {name_of(number)}; what is trained is saved, go on with --resume "
                    f"{shlex.quote(str(run.path))}",
                ) from None
            raise


@contextlib.contextmanager
def tuned(device: torch.device, options: DeviceOptions) -> Iterator[None]:
    """How a GPU computes, set once for a whole training: the fastest convolutions, as measured, and ``--tf32``."""
    if device.type != "cuda":
        yield
        return
    # Before Ampere, products in bfloat16 are made of products in float32.
    if options.precision == "bf16" and not torch.version.hip and torch.cuda.get_device_capability(device) < (8, 0):
        console.warn(
            f"{torch.cuda.get_device_name(device)} has no arithmetic of bfloat16: --precision bf16 saves memory, but "
            "is slower than fp32 there. Take --precision fp16 for speed."
        )
    measured, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        tf32 = isinstance(options, TrainingDeviceOptions) and options.tf32
        with tf32_products() if tf32 else contextlib.nullcontext():
            yield
    finally:
        torch.backends.cudnn.benchmark = measured


def _find_checkpoint(
    options: RunOptions, chosen: Path, numbered: bool, argv: Sequence[str]
) -> tuple[Path, Path | None] | None:
    """The run directory and the checkpoint to resume from; None to start anew.

    A requeued run that was stopped before its first checkpoint has a directory but no checkpoint: it starts over there.
    So does the next attempt of ranks of which one has died (``--max-restarts``); it goes on with what they have noted.
    """
    if is_restarted() and (noted := read_saved()) is not None:
        run = RunDirectory.open(noted[0])
        return run.path, _existing(run, "last") if run.has_checkpoint else None
    if options.resume is None and not options.requeue and not is_restarted():
        return None
    word = options.resume or "last"
    if word not in ("last", "previous"):
        run, checkpoint = RunDirectory.find(word)
        if options.run_dir is not None and options.run_dir.resolve() != run.path.resolve():
            raise UserError(f"--resume {word} and --run-dir {options.run_dir} name different runs: give one of them.")
        if checkpoint is None or _is_requeued(run, options, argv):
            checkpoint = _existing(run, "last")
        return run.path, checkpoint
    candidates = [chosen]
    if numbered:
        pattern = f"{chosen.name}-*"
        candidates += [path for path in chosen.parent.glob(pattern) if path.name[len(chosen.name) + 1 :].isdigit()]
    made = [path for path in candidates if (path / "config.toml").is_file()]
    if made and is_restarted() and not options.requeue and options.resume is None:
        # By the ranks of which one has died, where another launcher than ours has started them.
        run = RunDirectory.open(max(made, key=_made_at))
        return run.path, _existing(run, "last") if run.has_checkpoint else None
    begun = [path for path in made if RunDirectory.open(path).has_checkpoint]
    if not begun:
        if options.requeue or is_restarted():
            stopped_early = not numbered and (chosen / "config.toml").is_file()
            return (chosen, None) if stopped_early else None
        raise UserError(
            f"There is nothing to resume: {chosen} holds no checkpoint. Name the run by --resume PATH, or start "
            "it by --requeue instead."
        )
    run = RunDirectory.open(max(begun, key=_made_at))
    return run.path, _existing(run, "last" if _is_requeued(run, options, argv) else word)


def _made_at(path: Path) -> float:
    return (path / "config.toml").stat().st_mtime


def _is_requeued(run: RunDirectory, options: RunOptions, argv: Sequence[str]) -> bool:
    """Whether SLURM has requeued this job and it was the last to train in the run: it goes on from what it has saved
    there, not from the checkpoint that it began with."""
    if not options.requeue or os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
        return False
    with contextlib.suppress(UserError, TypeError, LookupError):  # environment.json may hold anything
        return bool(run.environment["resumed"][-1]["command_line"] == shlex.join(["wasskit", *argv]))
    return False


def _existing(run: RunDirectory, word: str) -> Path:
    path = run.checkpoints / f"{word}.pt"
    if path.is_file():
        return path
    other = "previous" if word == "last" else "last"
    if (run.checkpoints / f"{other}.pt").is_file():
        raise UserError(
            f"{run.path} has no {word}.pt, but a {other}.pt: go on with "
            f"--resume {shlex.quote(f'{run.checkpoints / other}.pt')}"
        )
    raise UserError(f"{run.path} has no checkpoint yet: start it over by --run-dir and --requeue.")


def resumed_config(config: C, invocation: Invocation, run: RunDirectory) -> C:
    """The configuration of the run, with what the command line may change; what it may not is refused by name."""
    if run.command != invocation.command:
        raise UserError(f"{run.path} is a run of `wasskit {run.command}`, not of `wasskit {invocation.command}`.")
    kind = type(config)
    fields = recipe_fields(kind)
    saved = check_keys(kind, run.options, f"{run.path / 'config.toml'}")
    asked = set(invocation.given)
    if invocation.recipe is not None:
        asked |= set(check_keys(kind, invocation.recipe.get("options", {}), "the recipe"))
    asked &= set(fields)
    base = changed(config, **{name: saved.get(name, field.before) for name, field in fields.items()})
    wanted, had = values_of(config), values_of(base)
    contradictions = [
        f"{fields[name].flag} {wanted[name]} (the run has {had[name]})"
        for name in sorted(asked & fixed_keys(kind))
        if wanted[name] != had[name]
    ]
    if contradictions:
        raise UserError(
            f"Resuming {run.path} with other settings would be another run: {', '.join(contradictions)}. "
            "Leave them out to resume, or start a new run."
        )
    resumed = changed(base, **{name: wanted[name] for name in asked - fixed_keys(kind)})
    resumed.validate()
    return resumed
