"""What is asked of a cluster, read from a command line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from wasskit.errors import UserError
from wasskit.system.files import numbered_names, writing

_BARE = (
    "(?:contiguous|exclusive|get-user-env|hold|ignore-pbs|no-kill|no-requeue|overcommit|oversubscribe|quiet|reboot|"
    "requeue|spread-job|stepmgr|use-min-nodes|verbose)"
)
"""The options of sbatch for a job that need no value."""


def minutes_of(text: str) -> int:
    """The minutes that SLURM's ``MM``, ``HH:MM:SS``, ``D-HH`` or ``D-HH:MM:SS`` mean. Raises ``UserError``."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text.strip())
    if match is None:
        raise UserError(f"--time: {text!r} is not a time: write minutes, HH:MM:SS or D-HH:MM:SS.")
    days, first, second, third = match.groups()
    if days is not None:  # hours, minutes, seconds
        seconds = 86400 * int(days) + 3600 * int(first) + 60 * int(second or 0) + int(third or 0)
    elif third is not None:
        seconds = 3600 * int(first) + 60 * int(second) + int(third)
    else:  # minutes, seconds
        seconds = 60 * int(first) + int(second or 0)
    if seconds == 0:
        raise UserError(f"--time: {text!r} leaves a job no time.")
    return -(-seconds // 60)


def seeds_of(text: str) -> list[int]:
    """The seeds that ``0-4`` or ``0,3,7-9`` mean. Raises ``UserError``."""
    seeds: list[int] = []
    for entry in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", entry)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if low > high or high - low >= 10_000:
            raise UserError(f"--array: {text!r} is not a list of seeds: write 0-4 or 0,3,7.")
        seeds += range(low, high + 1)
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--array: {text!r} names a seed twice.")
    return seeds


def sbatch_options(entries: Sequence[str]) -> dict[str, str | bool]:
    """What ``NAME=VALUE`` and ``NAME``, parted by commas, ask of sbatch. Raises ``UserError``.

    A value goes on over commas, as in ``exclude=n1,n2``, up to the next ``NAME=`` in small letters or one of ``_BARE``.
    """
    options: dict[str, str | bool] = {}
    for entry in re.split(rf",(?=[a-z][a-z_-]*=|{_BARE}(?:,|$))", ",".join(entries)) if entries else ():
        match = re.fullmatch(r"([a-z][\w-]*)(?:=(.*))?", entry)
        if match is None:
            raise UserError(f"--sbatch: {entry!r} is not NAME=VALUE, e.g. account=vision.")
        name, value = match.groups()
        options[name.replace("_", "-")] = True if value is None else value
    return options


def jobs_folder(run: Path) -> Path:
    """Where scripts and logs of the jobs of a run go."""
    return run.parent / "jobs" / run.name


def free_name(run: Path, *, claim: bool) -> Path:
    """A run directory that is not taken, by this name or with a number; the folder of its jobs reserves it."""
    for candidate in numbered_names(run):
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
