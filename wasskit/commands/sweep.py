"""``wasskit sweep``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wasskit.cluster.options import SubmitOptions
from wasskit.config import ByWords, Command, Invocation, RecipeOptions, argument, fields_of, group
from wasskit.errors import UserError
from wasskit.options import RunFolderOptions
from wasskit.plugins import Plugin, load_plugin, plugin_targets
from wasskit.sweeps.options import JobOptions, seed_axis

_REFUSED = ("run_dir", "name", "resume", "requeue", "submit", "nnodes", "nproc", "json")
"""Options of a training that the sweep itself decides."""


def _training_commands(plugin: Plugin) -> list[str]:
    """The commands of a plugin that train one run."""
    from wasskit.cli import load_command

    return [name for name in plugin.commands if _trains(load_command(plugin, name))]


def _trains(command: Command[Any]) -> bool:
    names = {f.name for f in fields_of(command.options)}
    return "resume" in names and "jobs" not in names


def _plugins() -> dict[str, Plugin]:
    loaded = {name: load_plugin(target) for name, target in plugin_targets().items()}
    return {name: plugin for name, plugin in loaded.items() if isinstance(plugin, Plugin)}


def complete_words(typed: str, words: Sequence[str]) -> Iterable[str]:
    """Candidates for the next word: the plugin, its command, then axes of that command."""
    from wasskit.cli import load_command
    from wasskit.sweeps.axes import complete_axis

    plugins = _plugins()
    if not words:
        return [name for name, plugin in plugins.items() if name.startswith(typed) and _training_commands(plugin)]
    plugin = plugins.get(words[0])
    if plugin is None:
        return []
    if len(words) == 1:
        return [name for name in _training_commands(plugin) if name.startswith(typed)]
    if words[1] not in plugin.commands:
        return []
    # Bash cuts words at "=" and replaces what is behind it.
    cut, words = "", list(words)
    if typed == "=":
        typed, cut = f"{words[-1]}=", f"{words[-1]}="
    elif words[-1] == "=":
        cut = f"{words[-2]}="
        typed = cut + typed
    given = {word.partition("=")[0] for word in words[2:]} - {cut[:-1]}
    found = complete_axis(typed, load_command(plugin, words[1]).options)
    return [axis.removeprefix(cut) for axis in found if axis.partition("=")[0] not in given]


@dataclass(frozen=True, kw_only=True)
class Sweep(RecipeOptions):
    """Options of ``wasskit sweep``."""

    words: tuple[str, ...] = argument(
        (), help="The command that trains, axes key=value,value of its options, and after -- options of all trainings.",
        complete=ByWords(complete_words), metavar="COMMAND AXES [-- OPTIONS]", saved=True,
    )  # fmt: skip
    folder: RunFolderOptions = group(
        RunFolderOptions(),
        help={"run_dir": "Folder of the sweep.", "name": "Name of the folder under runs/sweep/."},
        show_default={"run_dir": "runs/sweep/<plugin>-<command>", "name": "<plugin>-<command>"},
    )
    work: JobOptions = JobOptions()
    cluster: SubmitOptions = SubmitOptions()


@dataclass(frozen=True)
class Request:
    """What the words of a sweep mean."""

    command: Command[Any]
    axes: Sequence[str]
    base: RecipeOptions


def read_words(words: Sequence[str]) -> Request:
    """The command, the axes and the options of all trainings.

    Raises:
        UserError: no such command, one that does not train, an option that the sweep itself decides.
    """
    start = _options_start(words)
    head, options = list(words[:start]), list(words[start:])
    command = _find(head)
    axes = [word for word in head[2:] if "=" in word]
    base, _, given = command.parse([*(word for word in head[2:] if "=" not in word), *options])
    for f in fields_of(command.options):
        if f.name in given and f.name in _REFUSED:
            raise UserError(f"{f.flag} is not for the trainings of a sweep, which decides it: leave it out after --.")
    assert isinstance(base, RecipeOptions)
    return Request(command, axes, base)


def _options_start(words: Sequence[str]) -> int:
    """Where the options of all trainings begin."""
    return next((place for place, word in enumerate(words) if word.startswith("-")), len(words))


def _find(head: Sequence[str]) -> Command[Any]:
    from wasskit.cli import load_command
    from wasskit.system.hints import did_you_mean

    plugins = _plugins()
    name = " ".join(head[:2])
    known = [f"{plugin.name} {one}" for plugin in plugins.values() for one in _training_commands(plugin)]
    if name not in known:
        said = f"`wasskit {name}` is not a command that trains" if name else "Say which command trains"
        advice = did_you_mean(name, known)
        raise UserError(f"{said}: wasskit sweep COMMAND AXES, with one of {', '.join(known)}.{advice}")
    return load_command(plugins[head[0]], head[1])


def body(config: Sweep, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.config import to_options
    from wasskit.plugin import declared_metrics
    from wasskit.sweeps.axes import Point, parse_axes, plan_points
    from wasskit.sweeps.cluster import make_grid
    from wasskit.sweeps.grid import Grid
    from wasskit.sweeps.results import average, final_metrics, sweep_report

    # The folder's configuration holds the whole grid, however it was given.
    start = _options_start(config.words)
    config = replace(config, words=(*config.words[:start], *seed_axis(config.cluster.array), *config.words[start:]))
    asked = read_words(config.words)
    path, kind = asked.command.path, type(asked.base)
    points = plan_points(asked.base, parse_axes(asked.axes, kind))
    root = config.folder.run_dir or Path("runs") / "sweep" / (config.folder.name or path.replace(" ", "-"))

    def report(points: Sequence[Point[Any]], paper: Mapping[str, Any]) -> Any:
        return sweep_report(path, average(points, lambda point: final_metrics(root, point)), declared_metrics())

    grid = Grid(
        root=root, command="sweep", trains=path, options=to_options(config), points=points, argv=invocation.argv,
        jobs=config.work.jobs, nproc=config.work.nproc_per_run, base=asked.base,
    )  # fmt: skip
    return make_grid(grid, config.cluster, report, table_only=config.work.table_only)


command = Command(
    "sweep",
    Sweep,
    body,
    "Train a grid of settings of any training command and tabulate it.\n\n"
    "Each combination of the axes is a run directory of that command. The same sweep resumes what was interrupted and "
    "keeps what is finished. An axis is any option with its values, lists written with colons (projector=64:16,64:32). "
    "Options after -- hold for all trainings. Values over the axis `seed` become means and deviations.",
    (
        "wasskit sweep ssl byol w2=true,false seed=0,1,2 --jobs 2",
        "wasskit sweep metrix train loss=contrastive,multisimilarity -- --epochs 10 --no-tensorboard",
        "wasskit sweep w2gn toy lr=0.0003,0.001 --submit slurm --array 0-4 --time 30",
    ),
    " Options of the trainings come last, after --.",
)
