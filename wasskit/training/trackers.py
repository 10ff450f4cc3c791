"""Where else the metrics of a run are told: TensorBoard, MLflow, Weights & Biases, Trackio.

``metrics.csv`` holds everything; a tracker shows it elsewhere. Each is imported when a run starts that asks for it, and
one that fails is left out for the rest of the run: training goes on.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from wasskit.errors import UserError
from wasskit.system.documents import read_json
from wasskit.system.files import replace_text
from wasskit.system.readers import UnreadableFile
from wasskit.training.run import RunDirectory

PROJECT = "wasskit"
"""The project or experiment under which trackers that are shared by runs list them."""


class Tracker(Protocol):
    """Where metrics are told. Values are numbers on the host, named ``split/metric``."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Record values at a step."""

    def close(self) -> None:
        """The process stops training, in whatever way; the run may be resumed."""


class EventWriter:
    """Scalars for TensorBoard, through its own writer, which is imported when a run starts.

    Every start of a run writes a file of its own; ``first_step`` tells TensorBoard that what older files hold
    from there on was cut off and is to be forgotten.
    """

    def __init__(self, folder: Path, *, first_step: int = 0) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = Event, Summary
        self._writer = EventFileWriter(str(folder), filename_suffix=".wasskit")
        if first_step:
            started = SessionLog(status=SessionLog.START)
            self._writer.add_event(Event(wall_time=time.time(), step=first_step, session_log=started))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Record values by tag (``split/metric``)."""
        entries = [self._summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        summary = self._summary(value=entries)
        self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=summary))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class MlflowTracker:
    """A run of MLflow, in the store that MLFLOW_TRACKING_URI names, by default MLflow's own.

    Names of metrics hold no ``@`` there: ``top1@8`` is ``top1_at_8``.
    """

    def __init__(self, run: RunDirectory, known: str | None) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._metric, self._client = Metric, MlflowClient()
        experiment = self._client.get_experiment_by_name(PROJECT)
        place = experiment.experiment_id if experiment is not None else self._client.create_experiment(PROJECT)
        if known is None:
            started = self._client.create_run(place, run_name=run.path.name, tags={"command": run.command})
            params = [Param(key, str(value)[:500]) for key, value in run.options.items()]
            for first in range(0, len(params), 100):  # as many as a call may have
                self._client.log_batch(started.info.run_id, params=params[first : first + 100])
            known = started.info.run_id
        else:
            self._client.update_run(known, status="RUNNING")
        self.key: str = known

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        allowed = {re.sub(r"[^\w\-. :/]", "_at_", name): value for name, value in values.items()}
        metrics = [self._metric(name, value, now, step) for name, value in allowed.items()]
        self._client.log_batch(self.key, metrics=metrics)

    def close(self) -> None:
        self._client.set_terminated(self.key)


class WandbTracker:
    """A run of Weights & Biases: offline unless WANDB_MODE says otherwise; ``wandb sync`` sends it later."""

    def __init__(self, run: RunDirectory, known: str | None) -> None:
        import wandb

        self.key = known or uuid.uuid4().hex[:12]
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT), id=self.key, name=run.path.name, dir=str(run.path),
            config={"command": run.command, **run.options}, resume="allow",
            mode=os.environ.get("WANDB_MODE", "offline"), settings=wandb.Settings(silent=True, console="off"),
        )  # fmt: skip
        # A resumed run repeats steps, which its own counter would refuse.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, "step": step})

    def close(self) -> None:
        self._run.finish()


class TrackioTracker:
    """A run of Trackio, in its local store (TRACKIO_DIR)."""

    def __init__(self, run: RunDirectory, known: str | None) -> None:
        import trackio

        self._trackio: Any = trackio
        self.key = known or f"{run.path.name}-{uuid.uuid4().hex[:6]}"
        self._run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT), name=self.key,
            config={"command": run.command, **run.options}, resume="allow", embed=False,
        )  # fmt: skip

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._trackio.finish()  # else it finishes again, and says so, as the process ends


TRACKERS: Mapping[str, Callable[[RunDirectory, str | None], Any]] = {
    "mlflow": MlflowTracker,
    "wandb": WandbTracker,
    "trackio": TrackioTracker,
}
"""What ``--track`` names, besides TensorBoard: how a run opens it, anew or by the key it had."""


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that are not installed, before anything begins.

    Raises:
        UserError: names the first that is missing and how to install it.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"--track {name} needs the package {name}: pip install 'wasskit[{name}]'.")


class Trackers:
    """The trackers of a run. One that fails says so once and is left out; on ranks other than 0 there are none.

    Args:
        run: the run directory; its ``tracking.json`` keeps by which keys trackers know the run.
        names: of `TRACKERS`, or ``tensorboard``.
        say: where a failure is told.
    """

    def __init__(self, run: RunDirectory | None, names: Sequence[str], say: Callable[[str], None]) -> None:
        self.run = run
        self.names = tuple(dict.fromkeys(names)) if run is not None else ()
        self.say = say
        self._open: dict[str, Tracker] = {}

    def start(self, first_step: int) -> None:
        """Open all, for a new run or one that is resumed at ``first_step``."""
        if self.run is None or not self.names:
            return
        known = self._known(self.run)
        for name in self.names:
            with self._tolerant(name):
                if name == "tensorboard":
                    self._open[name] = EventWriter(self.run.tensorboard, first_step=first_step)
                    continue
                tracker = TRACKERS[name](self.run, known.get(name) if first_step else None)
                self._open[name] = tracker
                known[name] = tracker.key
        if known:
            replace_text(self.run.path / "tracking.json", json.dumps(known, indent=2) + "\n")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Record values, by ``split/metric``, with each tracker that works."""
        for name, tracker in list(self._open.items()):
            with self._tolerant(name):
                tracker.scalars(step, values)

    def close(self) -> None:
        """Close all; a failure has nothing left to spoil."""
        for tracker in self._open.values():
            with contextlib.suppress(Exception), contextlib.redirect_stdout(sys.stderr):
                tracker.close()
        self._open.clear()

    @contextlib.contextmanager
    def _tolerant(self, name: str) -> Iterator[None]:
        """Whatever a tracker raises - a full disk, a server that does not answer - must not end a training."""
        try:
            with contextlib.redirect_stdout(sys.stderr):  # stdout is for the command's result
                yield
        except Exception as error:
            self._open.pop(name, None)
            reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
            self.say(f"{name} cannot be written ({str(reason).splitlines()[0][:200]}); going on without it")

    @staticmethod
    def _known(run: RunDirectory) -> dict[str, str]:
        try:
            known = read_json(run.path / "tracking.json")
        except (OSError, UnreadableFile):
            return {}
        return {name: key for name, key in known.items() if isinstance(key, str)} if isinstance(known, dict) else {}
