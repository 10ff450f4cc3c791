"""The contract of a plugin and where plugins are found.

A plugin is a :class:`Plugin` (or a ``typer.Typer`` application) registered under the entry-point group
``wasskit.plugins``. Nothing but its name and help is loaded until one of its commands is called.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from wasskit.evaluation.metrics import COMMON, Metric, Metrics

BUILT_IN = {name: f"wasskit.plugins.{name}:plugin" for name in ("mrl", "ssl", "metrix", "w2gn", "study", "plot")}


@dataclass(frozen=True)
class Plugin:
    """A group of commands.

    Args:
        name: the word after ``wasskit``.
        help: one line.
        commands: name of each command -> its one-line help, in the order of ``--help``. A name of two words, ``a b``,
            is the command ``b`` of the group ``a``.
        package: where the commands live: command ``a-b`` is the object ``command`` (a
            :class:`wasskit.config.Command`) of the module ``<package>.a_b``.
        model: ``module:object``, the :class:`wasskit.trained.kind.ModelKind` of what its trainings make, or a tuple of
            several. It has then ``embed`` and ``export`` by naming them in ``commands``; ``aliases`` name a module that
            declares others.
        choices: ``module:class``, its `OptionGroup` of these two commands, the keywords of ``ModelKind.embedder``.
        embeddings: ``module:function`` that gives the embeddings of a trained run's test images, from its directory
            and a device: ``(run: Path, device: str) -> Tensor (N, m)``. `study` measures them.
        metrics: ``module:object`` of the :class:`wasskit.evaluation.metrics.Metrics` that its runs record, in a module
            that imports nothing heavy. What is not declared is shown by its name, and neither way is better.
        groups: name of each group of commands -> its one-line help.
    """

    name: str
    help: str
    commands: Mapping[str, str]
    package: str
    aliases: Mapping[str, str] = field(default_factory=dict)
    model: str | None = None
    choices: str | None = None
    embeddings: str | None = None
    metrics: str | None = None
    groups: Mapping[str, str] = field(default_factory=dict)

    def module_of(self, command: str) -> str:
        """The module that declares a command; ``aliases`` let several commands share one."""
        return self.aliases.get(command, f"{self.package}.{command.replace('-', '_').replace(' ', '_')}")

    def find(self, command: str) -> Any:
        """The declaration of a command, a :class:`wasskit.config.Command`, from its module."""
        module = importlib.import_module(self.module_of(command))
        return module.commands[command] if hasattr(module, "commands") else module.command


def plugin_targets() -> dict[str, str]:
    """Every plugin's name and where its object lives, ``module:attribute``, our own first."""
    from importlib.metadata import entry_points

    targets = dict(BUILT_IN)
    for point in entry_points(group="wasskit.plugins"):
        if point.name not in BUILT_IN:
            targets[point.name] = point.value
    return targets


def load_plugin(target: str) -> Any:
    """Import an object named ``module:attribute``; the attribute is ``plugin`` where none is named."""
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute or "plugin")


def declared_models(plugin: Plugin) -> tuple[Any, ...]:
    """The :class:`wasskit.trained.kind.ModelKind` of each kind of model that a plugin trains."""
    found = () if plugin.model is None else load_plugin(plugin.model)
    return found if isinstance(found, tuple) else (found,)


def plugin_of(name: str) -> Plugin | None:
    """The plugin of a name; None where there is no such, or it is a plain application."""
    target = plugin_targets().get(name)
    found = load_plugin(target) if target else None
    return found if isinstance(found, Plugin) else None


def kinds_of(name: str) -> tuple[Any, ...]:
    """What the plugin of a name declares of its models; none where there is no such plugin or it trains none."""
    found = plugin_of(name)
    return () if found is None else declared_models(found)


@lru_cache(maxsize=1)
def declared_metrics() -> Metrics:
    """What all plugins declare. One that cannot be loaded declares nothing: the command line reports it."""
    found: dict[str, Metric] = {}
    for target in plugin_targets().values():
        with contextlib.suppress(Exception):
            plugin = load_plugin(target)
            declared = load_plugin(plugin.metrics).declared if getattr(plugin, "metrics", None) else ()
            found = {metric.name: metric for metric in declared} | found
    return Metrics(found.values(), COMMON)
