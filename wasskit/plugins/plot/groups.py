"""Runs grouped over their seeds, labelled by the settings in which they differ."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from wasskit import console
from wasskit.errors import UserError
from wasskit.plugins.plot.options import RunsArgument
from wasskit.plugins.plot.runs import Run, read_runs
from wasskit.text import counted

#: Settings that change neither what is learned nor what is measured, besides those declared ``runtime``.
_IRRELEVANT = {"log_every", "eval_every", "checkpoint_every", "tensorboard"}


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed (or one run), under one label."""

    label: str
    runs: tuple[Run, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def paper(self) -> Mapping[str, Any]:
        return next((run.paper for run in self.runs if run.paper), {})

    @property
    def is_training(self) -> bool:
        """Whether the steps are those of a training; a study counts the quantity that it varies."""
        return any(run.command.split()[:1] != ["study"] for run in self.runs)

    @property
    def caption(self) -> str:
        """The label with the number of seeds, and what is unfinished."""
        count = len(self.runs)
        unfinished = sum(not run.finished for run in self.runs)
        notes = [f"{count} seeds"] if count > 1 else []
        if unfinished:
            notes.append("unfinished" if count == unfinished else f"{unfinished} unfinished")
        return f"{self.label} ({', '.join(notes)})" if notes else self.label


def open_groups(config: RunsArgument) -> list[Group]:
    """The runs of the command line in groups; the unfinished and the damaged are named on stderr."""
    runs = read_runs(config.runs)
    for run in runs:
        warn_of_problems(run)
    return group_runs(runs, join=config.group, labels=config.labels)


def warn_of_problems(run: Run) -> None:
    """Say what is not whole about a run."""
    notes = [*([] if run.finished else [run.state]), *run.problems]
    if notes:
        console.warn(f"{run.path}: {'; '.join(notes)}.")


def group_runs(runs: Sequence[Run], *, join: bool = True, labels: Sequence[str] | None = None) -> list[Group]:
    """Join runs that differ only in their seed; label each group by the settings it does not share with the others.

    Runs that repeat a seed are not replicates and stay apart, as do runs without a configuration.

    Raises:
        UserError: ``labels`` are not one for each group.
    """
    together: dict[Any, list[Run]] = {}
    for number, run in enumerate(runs):
        known = bool(run.options) and join
        key = (run.command, _frozen(_relevant(run))) if known else number
        together.setdefault(key, []).append(run)
    members: list[tuple[Run, ...]] = []
    for joined in together.values():
        distinct = len({repr(run.seed) for run in joined}) == len(joined)
        members += [tuple(joined)] if distinct else [(run,) for run in joined]
    settings = _differing([group[0] for group in members], seeds=not join)
    found = [Group("", group, own) for group, own in zip(members, settings, strict=True)]
    if labels is not None:
        if len(labels) != len(found):
            what = "group" if join else "run"
            raise UserError(
                f"--labels names {len(labels)}, but there {_are(len(found), what)}: "
                + "; ".join(", ".join(run.name for run in group.runs) for group in found)
                + "."
            )
        return [dataclasses.replace(group, label=label) for group, label in zip(found, labels, strict=True)]
    texts = [", ".join(_phrase(key, value) for key, value in group.settings.items()) for group in found]
    several = len(found) > 1
    named = []
    for group, text in zip(found, texts, strict=True):
        unique = several and text and texts.count(text) == 1
        own = _own_name(group, runs)
        named.append(
            dataclasses.replace(group, label=text if unique else f"{text}, {own}" if several and text else own)
        )
    return named


def _own_name(group: Group, runs: Sequence[Run]) -> str:
    """The folder's name, with those above it as far as they are needed to tell runs apart."""
    run = group.runs[0]
    if len(group.runs) > 1:
        dataset = run.options.get("dataset")
        return " ".join(filter(None, (run.command, str(dataset) if dataset else ""))) or run.name
    paths = [other.path.resolve().parts for other in runs]
    own = run.path.resolve().parts
    length = next(n for n in range(1, len(own) + 1) if n == len(own) or sum(p[-n:] == own[-n:] for p in paths) == 1)
    return "/".join(own[-length:])


def _differing(runs: Sequence[Run], *, seeds: bool) -> list[dict[str, Any]]:
    """Of each run, the settings that are not the same in all.

    Runs of different commands have different options; of those only the ones that all have, and the ones that
    differ within a command, are worth telling.
    """
    commands = {run.command for run in runs if run.command}
    relevant = [_relevant(run) | ({"seed": run.seed} if seeds else {}) for run in runs]
    known = [i for i, run in enumerate(runs) if run.options]
    keys = list(dict.fromkeys(key for i in known for key in relevant[i]))
    told = []
    for key in keys:
        for command in commands:
            same = [relevant[i] for i in known if runs[i].command == command]
            if len({repr(options.get(key)) for options in same}) > 1:
                told.append(key)
                break
    found: list[dict[str, Any]] = []
    for i, run in enumerate(runs):
        own: dict[str, Any] = {"command": run.command} if len(commands) > 1 else {}
        if i in known:
            own |= {key: relevant[i].get(key) for key in told if key in relevant[i] or len(commands) == 1}
        found.append(own)
    return found


def _relevant(run: Run) -> dict[str, Any]:
    return {
        key: None if value == "none" else value
        for key, value in run.options.items()
        if key != "seed" and key not in _IRRELEVANT | _runtime_keys()
    }


@lru_cache(maxsize=1)
def _runtime_keys() -> frozenset[str]:
    """Options of the shared groups that say where and how fast a run happens."""
    from wasskit import options
    from wasskit.config import OptionGroup, fields_of

    groups = [value for value in vars(options).values() if isinstance(value, type) and issubclass(value, OptionGroup)]
    return frozenset(f.name for group in groups for f in fields_of(group) if f.option.runtime or f.option.transient)


def _phrase(key: str, value: Any) -> str:
    if key == "command":
        return str(value)
    return f"{key.replace('_', '-')}={show_setting(value)}"


def show_setting(value: Any) -> str:
    """A setting as short as it can be told."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        texts = [show_setting(entry) for entry in value]
        return ",".join(texts if len(texts) <= 4 else [*texts[:2], "...", texts[-1]])
    if value is None:
        return "none"
    return Path(value).name if isinstance(value, str) and "/" in value else str(value)


def _frozen(options: Mapping[str, Any]) -> str:
    return json.dumps({k: v for k, v in options.items() if v is not None}, sort_keys=True, default=str)


def _are(number: int, noun: str) -> str:
    return ("is " if number == 1 else "are ") + counted(number, noun)
