"""Many trainings: the combinations of a grid, each a run directory of ``wasskit mrl train``, and what came of
them.

Every combination is trained by a process of its own. Finished runs are kept as they are and interrupted ones
resumed, so the same command line goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wasskit import console
from wasskit.config import (
    Field,
    build,
    check_keys,
    coerce,
    display,
    fixed_keys,
    recipe_fields,
    to_options,
)
from wasskit.data.base import cores
from wasskit.distributed.launch import find_devices
from wasskit.errors import Interrupted, RunFailed, UserError
from wasskit.plugins.mrl.commands.train import MrlTrain
from wasskit.plugins.mrl.metrics import CLASSIFICATION
from wasskit.plugins.mrl.options import TrainingOptions, default_dims, methods
from wasskit.system import processes
from wasskit.system.documents import read_text
from wasskit.system.files import replace_text, writing
from wasskit.system.signals import StopRequest, forwarded, handled, name_of
from wasskit.text import csv_text
from wasskit.training.run import RunDirectory

Axes = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Point:
    """One combination: its settings, and the trainings it consists of (one per dimension, if independent)."""

    settings: Mapping[str, Any]
    trainings: Mapping[str, MrlTrain]
    """Path below the folder of the grid -> configuration."""


# --- The grid ---------------------------------------------------------------------------------------------------------


def parse_axes(words: Iterable[str]) -> dict[str, list[Any]]:
    """``key=value,value`` for each axis -> values of the key's type; lists are written with colons,
    ``dims=8:16,8:32``.

    Raises:
        UserError: an unknown key (the nearest is named), a value out of range, the same key or value twice.
    """
    joined: list[str] = []
    for word in words:  # a recipe's list was cut at its commas
        if "=" in word or not joined:
            joined.append(word)
        else:
            joined[-1] += f",{word}"
    known = recipe_fields(MrlTrain)
    axes: dict[str, list[Any]] = {}
    for word in joined:
        key, equals, text = word.partition("=")
        name = key.strip().lstrip("-").replace("-", "_")
        if not equals or not text:
            raise UserError(f"{word!r} is no axis of a grid: write key=value,value, e.g. beta=0.1,1,10.")
        if name in axes:
            raise UserError(f"The axis {name} is given twice: join its values with commas.")
        if name == "method":
            values: list[Any] = [_method(value.strip()) for value in text.split(",")]
        else:
            if name not in known:
                check_keys(MrlTrain, {name: text}, "the grid")  # raises, with the nearest key
            values = [_value(known[name], value.strip(), word) for value in text.split(",")]
        if len(set(values)) < len(values):
            raise UserError(f"{word!r} names a value twice.")
        axes[name] = values
    if not axes:
        raise UserError("Name at least one axis of the grid, e.g. wasserstein_weight=0.1,1,10.")
    return axes


def _value(field: Field, text: str, where: str) -> Any:
    return coerce(field, text.replace(":", ",") if field.kind.sequence else text, where)


def _method(name: str) -> str:
    if name not in methods():
        raise UserError(f"method: {name!r} is not one of {', '.join(methods())}.")
    return name


def plan_points(base: TrainingOptions, axes: Axes, width: Callable[[TrainingOptions], int]) -> list[Point]:
    """The combinations of the axes.

    Args:
        width: the number of features of a configuration's backbone. It gives the nested dimensions where
            neither the base nor an axis does; and a network of this dimension, trained alone, has no
            embedding layer, as published.
    """
    shared = {name: getattr(base, name) for name in recipe_fields(MrlTrain)}
    points = []
    for values in itertools.product(*axes.values()):
        settings = dict(zip(axes, values, strict=True))
        method = settings.get("method", "mwrl")
        given = {key: value for key, value in settings.items() if key != "method"}
        options = {**shared, **methods()[method], **given}
        if options["dims"] is None:
            options["dims"] = default_dims(width(build(MrlTrain, options)))
        name = "__".join(f"{key}-{_folder(value)}" for key, value in settings.items())
        if method == "independent":
            features = width(build(MrlTrain, options))
            trainings = {
                f"{name}/dim-{d}": build(
                    MrlTrain,
                    {
                        **options,
                        "dims": (d,),
                        "ce_weights": None,
                        "embedding": "identity" if d == features else "linear",
                    },
                )
                for d in options["dims"]
            }
        else:
            trainings = {name: build(MrlTrain, options)}
        points.append(Point(settings, trainings))
    return points


def _folder(value: Any) -> str:
    return display(value).replace(",", ":").replace("/", "_")


# --- Training ---------------------------------------------------------------------------------------------------------


def train_all(
    root: Path,
    trainings: Mapping[str, MrlTrain],
    *,
    jobs: int = 1,
    nproc: int = 1,
    download: bool = False,
) -> None:
    """Train what is not finished, ``jobs`` at a time. Logs go to ``logs/`` below the folder.

    Raises:
        UserError: a run directory there has other settings, or the trainings were asked for wrongly.
        RunFailed: a training failed; the others were finished first.
        Interrupted: a signal; the trainings were told to save their state.
    """
    pending = [name for name, config in trainings.items() if not _finished(root / name, config)]
    done = len(trainings) - len(pending)
    if done:
        console.log(f"{done} of {len(trainings)} trainings are finished already.")
    devices = find_devices() if next(iter(trainings.values())).device == "auto" else []
    failed: dict[str, str] = {}
    running: dict[int, tuple[str, subprocess.Popen[bytes], float]] = {}
    stop, passed_on = StopRequest(), False
    try:
        with handled(stop):
            while running or (pending and stop.number is None):
                for slot in range(jobs):
                    if slot in running or not pending or stop.number is not None:
                        continue
                    # What the trainings of a killed sweep are still saving is waited for.
                    free = [n for n in pending if RunDirectory(root / n, {}).claimant is None]
                    if not free:
                        break
                    name = free[0]
                    pending.remove(name)
                    environment = dict(os.environ)
                    environment.setdefault("OMP_NUM_THREADS", str(max(1, cores() // (jobs * nproc))))
                    if devices and nproc == 1:
                        environment["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)].selector
                    process = _start(root, name, trainings[name], environment, nproc, download)
                    running[slot] = name, process, time.monotonic()
                for slot, (name, process, began) in list(running.items()):
                    code = process.poll()
                    if code is None:
                        continue
                    del running[slot]
                    if code == 0:
                        done += 1
                        seconds = time.monotonic() - began
                        console.log(f"\\[{done}/{len(trainings)}] {console.escape(name)}: {seconds:.0f} s")
                    elif stop.number is not None:
                        pending.append(name)
                    else:
                        failed[name] = _last_line(_log_path(root, name)) if code > 0 else f"signal {-code}"
                        _record_failures(root, failed)
                        console.warn(f"{name} failed ({failed[name]}), see {_log_path(root, name)}")
                if stop.number is not None and not passed_on:
                    for _, process, _ in running.values():
                        process.send_signal(forwarded(stop.number))
                    passed_on = True
                if stop.repeated:
                    break
                time.sleep(0.05)
    finally:
        for name, process, _ in running.values():
            processes.kill(process)
            pending.append(name)
    _record_failures(root, failed)
    if stop.number is not None:
        saved = sum(RunDirectory(root / name, {}).has_checkpoint for name in pending)
        raise Interrupted(
            stop.number,
            f"Stopped by {name_of(stop.number)}: {done} of {len(trainings)} trainings are finished, {saved} saved, "
            f"{len(pending) - saved} pending, {len(failed)} failed; the same command goes on.",
        )
    if failed:
        name, reason = next(iter(failed.items()))
        raise RunFailed(
            f"{len(failed)} of {len(trainings)} trainings failed, first {name}: {reason.rstrip('.')}. The others are "
            "finished; the same command tries the failed ones again."
        )


def _record_failures(root: Path, failed: Mapping[str, str]) -> None:
    """Keep the reasons in ``failed.json``, which is there only while a training has failed."""
    path = root / "failed.json"
    if failed:
        replace_text(path, json.dumps(dict(failed), indent=2) + "\n")
    else:
        path.unlink(missing_ok=True)


def _finished(path: Path, config: MrlTrain) -> bool:
    """Whether the run is there and complete; one with other settings is refused."""
    if not (path / "config.toml").is_file():
        return False
    run = RunDirectory.open(path, plugin="mrl")
    saved = check_keys(MrlTrain, run.options, str(path / "config.toml"))
    fields = recipe_fields(MrlTrain)
    differing = [
        f"{key} ({display(saved.get(key, fields[key].default))} there, {display(getattr(config, key))} now)"
        for key in sorted(fixed_keys(MrlTrain))
        if saved.get(key, fields[key].default) != getattr(config, key)
    ]
    if differing:
        raise UserError(
            f"{path} was trained with other settings: {', '.join(differing)}. Choose another --run-dir."
        )
    return run.summary is not None


def _start(
    root: Path, name: str, config: MrlTrain, environment: Mapping[str, str], nproc: int, download: bool
) -> subprocess.Popen[bytes]:
    import tomli_w

    log = _log_path(root, name)
    recipe = log.with_suffix(".toml")
    with writing(log):
        log.parent.mkdir(parents=True, exist_ok=True)
    replace_text(recipe, tomli_w.dumps({"command": "mrl train", "options": to_options(config)}))
    command = [
        sys.executable, "-m", "wasskit", "mrl", "train",
        "--recipe", str(recipe), "--run-dir", str(root / name), "--requeue",
        "--quiet", "--nproc", str(nproc), *(["--download"] if download else []),
    ]  # fmt: skip
    with log.open("ab") as file:
        return processes.start(command, environment, stdout=file, stderr=file)


def _log_path(root: Path, name: str) -> Path:
    return root / "logs" / f"{name.replace('/', '__')}.log"


def _last_line(path: Path) -> str:
    lines = [line.strip() for line in read_text(path, errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("Error: ") if lines else "it said nothing"


# --- Results ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """Results of one setting over its seeds: metric (``top1@8``, ``top1``) -> mean and deviation over the
    seeds.
    """

    settings: Mapping[str, Any]
    seeds: int
    mean: Mapping[str, float]
    deviation: Mapping[str, float]

    @property
    def name(self) -> str:
        return ", ".join(
            display(value) if key == "method" else f"{key} {display(value)}"
            for key, value in self.settings.items()
        )

    @property
    def dims(self) -> list[int]:
        return sorted(int(key.partition("@")[2]) for key in self.mean if key.startswith("top1@"))


def collect(root: Path, points: Sequence[Point]) -> list[Row]:
    """The final test metrics of all points, seeds averaged; deviations are those of a sample (n - 1)."""
    groups: dict[tuple[tuple[str, Any], ...], list[dict[str, float]]] = {}
    for point in points:
        key = tuple((name, value) for name, value in point.settings.items() if name != "seed")
        metrics: dict[str, float] = {}
        for name in point.trainings:
            summary = RunDirectory.open(root / name, plugin="mrl").summary or {}
            final = summary.get("final", {})
            metrics |= {
                k.partition("/")[2]: v for k, v in final.items() if k.startswith("test/") and "@" in k
            }
        for base in dict.fromkeys(k.partition("@")[0] for k in metrics):
            values = [v for k, v in metrics.items() if k.startswith(f"{base}@")]
            metrics[base] = statistics.fmean(values)
        groups.setdefault(key, []).append(metrics)
    rows = []
    for key, found in groups.items():
        names = [name for name in found[0] if all(name in one for one in found)]
        columns = {name: [one[name] for one in found] for name in names}
        rows.append(
            Row(
                dict(key),
                len(found),
                {name: statistics.fmean(v) for name, v in columns.items()},
                {name: statistics.stdev(v) if len(v) > 1 else 0.0 for name, v in columns.items()},
            )
        )
    return rows


def write_rows(path: Path, rows: Sequence[Row]) -> Path:
    """A tidy CSV: setting, seeds, metric, dimension (empty for the mean over them), mean, deviation."""
    lines: list[Sequence[Any]] = [("setting", "seeds", "metric", "dimension", "mean", "deviation")]
    for row in rows:
        for name, value in row.mean.items():
            metric, _, dim = name.partition("@")
            lines.append((row.name, row.seeds, metric, dim, value, row.deviation[name]))
    replace_text(path, csv_text(lines))
    return path


def open_folder(
    path: Path,
    command: str,
    config: TrainingOptions,
    argv: Sequence[str],
    paper: Mapping[str, Any] | None = None,
) -> RunDirectory:
    """The folder of a grid, made or reopened."""
    if (path / "config.toml").is_file():
        folder = RunDirectory.open(path, plugin="mrl")
        if folder.command != command:
            raise UserError(
                f"{path} is of `wasskit {folder.command}`, not of `wasskit {command}`: "
                "choose another --run-dir."
            )
        return folder
    return RunDirectory.create(
        path, command=command, options=to_options(config), paper=paper, seed=config.seed, argv=argv
    )


def run_grid(
    config: TrainingOptions,
    axes: Axes,
    *,
    command: str,
    default: str,
    jobs: int,
    nproc: int,
    argv: Sequence[str],
    paper: Mapping[str, Any] | None = None,
) -> Mapping[str, Any]:
    """Train a grid in ``--run-dir`` (or ``runs/mrl/<name>``), then tabulate, draw and save it; what
    ``--json`` prints.
    """
    from wasskit.plugins.mrl.figures import draw_dimensions
    from wasskit.plugins.mrl.task import backbone_width

    root = config.run_dir or Path("runs") / "mrl" / (config.name or default)
    points = plan_points(config, axes, backbone_width)
    trainings = {name: training for point in points for name, training in point.trainings.items()}
    folder = open_folder(root, command, config, argv, paper)
    paper = paper or folder.paper
    console.log(f"{len(trainings)} trainings in {console.escape(str(root))}")
    train_all(root, trainings, jobs=jobs, nproc=nproc, download=config.download)
    # The grid may have grown since the folder was made; settings that contradict its runs have been refused by now.
    folder.reconfigure(to_options(config), paper)

    rows = collect(root, points)
    table = write_rows(root / "table.csv", rows)
    dims = sorted({d for row in rows for d in row.dims})
    figures = []
    if len(dims) > 1:
        nan = float("nan")
        series = {row.name or command: [row.mean.get(f"top1@{d}", nan) for d in dims] for row in rows}
        bars = {row.name or command: [row.deviation.get(f"top1@{d}", nan) for d in dims] for row in rows}
        figures.append(
            draw_dimensions(
                root / "figures" / "dimensions.png", dims, series, deviations=bars, label="test top-1 (%)"
            )
        )
    published = published_rows(rows, paper.get("metrics", {}))
    show_rows(config.dataset, rows, dims, published)
    if published:
        console.log(f"Published: {console.escape(str(paper.get('source', 'the recipe does not say where')))}")
    if not config.json:
        console.result(f"Table: {console.escape(str(table))}")
        for figure in figures:
            console.result(f"Figure: {console.escape(str(figure))}")
    result: dict[str, Any] = {
        "run": str(root),
        "rows": [dataclasses.asdict(row) | {"name": row.name} for row in rows],
        "trainings": list(trainings),
        "figures": [str(figure) for figure in figures],
    }
    if len(rows) == 1:
        result["final"] = {f"test/{name}": value for name, value in rows[0].mean.items()}
    folder.write_summary(result)
    return result


def published_rows(rows: Sequence[Row], metrics: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """The published means over the dimensions by the rows' names, from a recipe's ``[paper.metrics]``.

    A grid's recipe has a table of metrics for each row, ``[paper.metrics."beta 0.1"]``; metrics without a table are
    those of a grid of one row.
    """
    flat = {name: value for name, value in metrics.items() if not isinstance(value, Mapping)}
    tables = {row.name: metrics.get(row.name, flat if len(rows) == 1 else {}) for row in rows}
    return {name: table for name, table in tables.items() if table}


def show_rows(
    dataset: str, rows: Sequence[Row], dims: Sequence[int], published: Mapping[str, Mapping[str, float]]
) -> None:
    """Print the means over the dimensions, beside the published ones where there are any, then top-1 at each
    dimension, with deviations over the seeds.
    """

    def text(row: Row, name: str) -> str | None:
        if name not in row.mean:
            return None
        deviation = f" ± {row.deviation[name]:.2f}" if row.seeds > 1 else ""
        return f"{row.mean[name]:.2f}{deviation}"

    seeds = max(row.seeds for row in rows)
    over = f", mean and deviation of {seeds} seeds" if seeds > 1 else ""
    beside = [name for name in CLASSIFICATION if any(f"test/{name}" in one for one in published.values())]
    console.table(
        f"{dataset}/test, means over the dimensions (percent{over})",
        ["setting", *CLASSIFICATION.values(), *(f"published {CLASSIFICATION[name]}" for name in beside)],
        [
            [
                row.name or "all",
                *(text(row, name) for name in CLASSIFICATION),
                *(published.get(row.name, {}).get(f"test/{name}") for name in beside),
            ]
            for row in rows
        ],
    )
    console.table(
        f"{dataset}/test, top-1 at each dimension (percent{over})",
        ["setting", *(str(d) for d in dims)],
        [[row.name or "all", *(text(row, f"top1@{d}") for d in dims)] for row in rows],
    )
