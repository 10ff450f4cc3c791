"""A run directory: everything one run leaves behind, and nothing outside it. Free of torch until a run starts.

::

    config.toml       the complete configuration; a recipe that repeats the run
    environment.json  versions, seed, device, git revision, command line
    metrics.csv       epoch,step,split,metric,value; append-only
    summary.json      final and best metrics, time, rate; there once the run is finished
    checkpoints/  figures/  tensorboard/

No file holds the directory's own path: it may be moved.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from wasskit.console import jsonable
from wasskit.errors import UserError, WasskitError
from wasskit.system.documents import read_json, read_toml
from wasskit.system.files import is_leftover, numbered_names, replace_text, writing
from wasskit.system.locks import holder
from wasskit.training.claim import LOCK, claimed
from wasskit.training.environment import describe_environment
from wasskit.training.metrics_csv import MetricRow, MetricsFile, read_metrics

__all__ = ["MetricRow", "RunDirectory", "numbered_names", "read_configuration", "read_metrics"]


class RunDirectory:
    """The directory of one run, and the folders above it that were made for it. Only rank 0 writes."""

    def __init__(self, path: Path, document: Mapping[str, Any], above: Sequence[Path] = ()) -> None:
        self.path = path
        self.document = document
        self._metrics = MetricsFile(path / "metrics.csv")
        self._noted: list[dict[str, Any]] | None = None
        self.at_start: Callable[[], None] | None = None
        self._above = above

    # --- Making and opening -------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        path: Path | str,
        *,
        command: str,
        options: Mapping[str, Any],
        paper: Mapping[str, Any] | None = None,
        numbered: bool = False,
        seed: int | None = None,
        device: Any = None,
        argv: Sequence[str] | None = None,
        resumable: bool = True,
    ) -> RunDirectory:
        """Make a new run directory. On several ranks all call it; rank 0 makes it and all get the same.

        Args:
            command: the words after ``wasskit``, e.g. ``"mrl train"``.
            options: the complete configuration as plain TOML values; None is left out.
            paper: the recipe's published figures.
            numbered: where ``path`` is taken, take ``path-2``, ``path-3``, ...; for names made by the command.
            argv: the command line after ``wasskit``; by default this process's.
            resumable: whether the command has ``--resume`` and ``--requeue``, which a refusal then advises.

        Raises:
            UserError: the directory has content already, or cannot be made.
        """
        from wasskit.distributed.group import broadcast_object, is_main

        document = _without_none({"command": command, "options": options, **({"paper": paper} if paper else {})})
        made: Path | None = None
        refusal: str | None = None
        above = [folder for folder in Path(path).parents if not folder.exists()]
        if is_main():
            try:
                made = _make(Path(path), numbered, command, resumable)
                cls(made, document)._write_start(seed, device, argv)
            except WasskitError as error:
                refusal = str(error)
                if made is not None:
                    cls(made, document).remove_if_empty()
                _remove_empty(above)
        made, refusal = broadcast_object((made, refusal))
        if made is None or refusal is not None:
            raise UserError(refusal or f"Cannot make {path}.")
        return cls(made, document, above)

    @classmethod
    def open(cls, path: Path | str, *, plugin: str | None = None) -> RunDirectory:
        """Open a run directory.

        Args:
            plugin: the first word of the command that the run must have been made by.

        Raises:
            UserError: there is none at ``path``, or it belongs to another plugin.
        """
        path = Path(path)
        if path.is_file():
            raise UserError(f"{path} is a file, not a run directory: name the folder that a training has made.")
        if not path.is_dir():
            raise UserError(f"There is no run directory {path}.")
        if not (path / "config.toml").is_file():
            raise UserError(f"{path} is not a run directory: it has no config.toml.")
        run = cls(path, read_configuration(path / "config.toml"))
        if plugin is not None and run.command.split()[:1] != [plugin]:
            raise UserError(f"{path} is a run of `wasskit {run.command}`, not of `wasskit {plugin}`.")
        return run

    @classmethod
    def find(cls, path: Path | str, *, plugin: str | None = None) -> tuple[RunDirectory, Path | None]:
        """The run at ``path`` and, where ``path`` names a checkpoint in a run directory, that checkpoint."""
        path = Path(path)
        if path.suffix == ".pt" and not path.is_dir():
            if not path.is_file():
                raise UserError(f"There is no checkpoint at {path}.")
            run = path.absolute().parent.parent
            if not (run / "config.toml").is_file():
                raise UserError(
                    f"{path} lies in no run directory: name a checkpoint where it was written, as "
                    f"RUN/checkpoints/{path.name}. Embeddings are read from .npy and other files, not from .pt."
                )
            return cls.open(run, plugin=plugin), path
        return cls.open(path, plugin=plugin), None

    # --- What is in it ------------------------------------------------------------------------------------------------

    @property
    def command(self) -> str:
        return str(self.document.get("command", ""))

    @property
    def options(self) -> dict[str, Any]:
        """The configuration of the run, as plain TOML values."""
        return dict(self.document.get("options", {}))

    @property
    def paper(self) -> dict[str, Any]:
        """The published figures that the recipe carried."""
        return dict(self.document.get("paper", {}))

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def figures(self) -> Path:
        return self._folder("figures")

    @property
    def tensorboard(self) -> Path:
        return self._folder("tensorboard")

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is something to resume from."""
        return any((self.checkpoints / name).is_file() for name in ("last.pt", "previous.pt"))

    @property
    def environment(self) -> dict[str, Any]:
        return _read_json(self.path / "environment.json")

    @property
    def summary(self) -> dict[str, Any] | None:
        """The summary; None while the run is not finished."""
        path = self.path / "summary.json"
        return _read_json(path) if path.is_file() else None

    def metrics(self, split: str | None = None, metric: str | None = None) -> list[MetricRow]:
        """The rows of ``metrics.csv``, of one split or metric where given."""
        rows = read_metrics(self._metrics.path)
        return [row for row in rows if split in (None, row.split) and metric in (None, row.metric)]

    # --- Writing ------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Training starts: run ``at_start``, once. What is recorded there waits until the checkpoint is known good."""
        noted, self.at_start = self.at_start, None
        if noted is not None:
            noted()

    def record_resume(self, *, seed: int | None = None, device: Any = None, argv: Sequence[str] | None = None) -> None:
        """Note in ``environment.json`` under what circumstances the run goes on."""
        if _writes():
            now = describe_environment(seed, device, argv)
            try:
                environment = self.environment
            except UserError:  # the run continues without the record
                environment = {}
            before = environment.get("resumed", [])
            environment["resumed"] = [*(before if isinstance(before, list) else []), now]
            replace_text(self.path / "environment.json", _json(environment))

    def reconfigure(self, options: Mapping[str, Any], paper: Mapping[str, Any] | None = None) -> None:
        """Record that a folder of many runs has been gone on with by another configuration; without ``paper`` the
        published figures remain."""
        self.document = _without_none({**self.document, "options": options, **({"paper": paper} if paper else {})})
        if _writes():
            _write_configuration(self.path, self.document)

    def log(self, epoch: int, step: int, split: str, values: Mapping[str, float]) -> None:
        """Append metrics, and hand them to the system at once. Raises ``UserError`` on a full disk."""
        if _writes() and values:
            self._metrics.append(epoch, step, split, values)

    @property
    def rows(self) -> int:
        """How many metrics are recorded."""
        return self._metrics.rows

    def sync_metrics(self) -> None:
        """Flush ``metrics.csv`` to the disk, so that a power cut loses no row that a checkpoint counts."""
        if _writes():
            self._metrics.sync()

    def keep_metrics(self, rows: int, step: int) -> None:
        """Drop the metrics after a checkpoint: keep the first ``rows`` up to ``step``."""
        if _writes():
            self._metrics.keep(rows, step)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json``, with the published figures beside the run's own; see :meth:`concluded`."""
        content = {"command": self.command, **summary, **({"paper": self.paper} if self.paper else {})}
        if self._noted is not None:
            self._noted.append(content)
        elif _writes():
            replace_text(self.path / "summary.json", _json(content))

    def remove_summary(self) -> None:
        """Remove ``summary.json``: the run is no longer finished."""
        if _writes():
            path = self.path / "summary.json"
            with writing(path):
                path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def concluded(self) -> Iterator[None]:
        """Inside, the summary is noted, and written when the block has ended well: a run that has one is done."""
        noted: list[dict[str, Any]] = []
        self._noted = noted
        try:
            yield
        finally:
            self._noted = None
        if noted and _writes():
            replace_text(self.path / "summary.json", _json(noted[-1]))

    def claimed(self, *, alone: bool = True) -> AbstractContextManager[None]:
        """See :func:`wasskit.training.claim.claimed`."""
        return claimed(self.path, _writes(), alone=alone)

    @property
    def claimant(self) -> str | None:
        """The other process that trains in this directory; None where none does."""
        return holder(self.path / LOCK)

    def remove_if_empty(self) -> None:
        """Remove the directory if no step of the run has been recorded and nothing was saved or drawn, and the folders
        above it that were made for it, as far as they are empty."""
        started = {"config.toml", "environment.json", "metrics.csv", LOCK}
        files = {path for path in self.path.rglob("*") if path.is_file()}
        drafts = {path for path in files if path.parent.name == "tensorboard"}
        if {path.name for path in files - drafts} <= started and not self.metrics():
            shutil.rmtree(self.path, ignore_errors=True)
            _remove_empty(self._above)

    def _write_start(self, seed: int | None, device: Any, argv: Sequence[str] | None) -> None:
        _write_configuration(self.path, self.document)
        replace_text(self.path / "environment.json", _json(describe_environment(seed, device, argv)))
        self._metrics.create()

    def _folder(self, name: str) -> Path:
        folder = self.path / name
        if _writes():
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
        return folder


def _write_configuration(path: Path, document: Mapping[str, Any]) -> None:
    import tomli_w

    replace_text(path / "config.toml", tomli_w.dumps(dict(document)))


def read_configuration(path: Path) -> dict[str, Any]:
    """The saved configuration of a run or a series: ``command``, and the tables ``options`` and ``paper``.

    Raises:
        UserError: the file cannot be read, or is not a configuration.
    """
    document = read_toml(path)
    tables = [document.get(name, {}) for name in ("options", "paper")]
    if not (isinstance(document.get("command"), str) and all(isinstance(t, dict) for t in tables)):
        raise UserError(f"{path} is damaged: it is not the configuration of a run.")
    return document


def _make(path: Path, numbered: bool, command: str, resumable: bool) -> Path:
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for candidate in numbered_names(path) if numbered else [path]:
            try:
                candidate.mkdir(parents=True)  # again: a run that was refused may have removed its own just now
            except FileExistsError:
                if numbered:
                    continue
                if not path.is_dir():
                    raise UserError(f"{path} is a file: choose another --run-dir.") from None
                # One that was killed as it wrote the configuration leaves but a temporary file.
                if not all(is_leftover(entry) for entry in path.iterdir()):
                    raise UserError(_refusal(path, command, resumable)) from None
            return candidate
    raise AssertionError("unreachable")


def _remove_empty(folders: Sequence[Path]) -> None:
    """Remove folders, the innermost first, up to one that others use too."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _refusal(path: Path, command: str, resumable: bool) -> str:
    """What the directory holds, and what to do about it."""
    held, advice = "other files", ""
    if (path / "config.toml").is_file():
        try:
            other = RunDirectory.open(path)
        except UserError:
            held = "a damaged run"
        else:
            held = "a run"
            if other.command != command:
                held = f"a run of `wasskit {other.command}`"
            elif resumable and other.has_checkpoint:
                advice = f"go on with it by --resume {shlex.quote(str(path))}, or "
            elif resumable:
                held, advice = "a run without a checkpoint", "start it over by --requeue, or "
    return f"{path} already holds {held}: {advice}choose another --run-dir."


def _writes() -> bool:
    """Whether this process writes: rank 0, as the process group says it, or the environment before there is one."""
    if "torch" in sys.modules:
        from wasskit.distributed.group import rank, world_size

        if world_size() > 1:
            return rank() == 0
    return os.environ.get("RANK", "0") == "0"


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_none(entry) for key, entry in value.items() if entry is not None}
    if isinstance(value, list | tuple):
        return [_without_none(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(jsonable(content), indent=2, allow_nan=False) + "\n"


def _read_json(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: it holds no JSON object; remove it.")
    return content
