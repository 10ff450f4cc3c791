"""The subcommands: one package per method, mounted lazily by the command line.

A plugin is a :class:`Plugin` (or a ``typer.Typer`` application) registered under the entry-point group
``wasskit.plugins``. Nothing but its name and help is loaded until one of its commands is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Plugin:
    """A group of commands.

    Args:
        name: the word after ``wasskit``.
        help: one line.
        commands: name of each command -> its one-line help, in the order of ``--help``.
        package: where the commands live: command ``a-b`` is the object ``command`` (a
            :class:`wasskit.config.Command`) of the module ``<package>.a_b``.
    """

    name: str
    help: str
    commands: Mapping[str, str]
    package: str
    aliases: Mapping[str, str] = field(default_factory=dict)

    def module_of(self, command: str) -> str:
        """The module that declares a command; ``aliases`` let several commands share one."""
        return self.aliases.get(command, f"{self.package}.{command.replace('-', '_')}")
