"""How options are declared: one by one, in groups, and the groups of a command."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

G = TypeVar("G", bound="OptionGroup")
Completer = Callable[[str], Iterable[str | tuple[str, str]]]
CountsWith = Mapping[str, Sequence[str | None]]
"""Names of options -> their values with any of which an option counts; empty: it counts nowhere in the command."""


@dataclass(frozen=True)
class ByCommand:
    """A completer whose candidates depend on the command: ``candidates(typed, command)``, say ``"mrl train"``."""

    candidates: Callable[[str, str], Iterable[str | tuple[str, str]]]


@dataclass(frozen=True)
class ByWords:
    """A completer of an argument of many values, which depend on those before: ``candidates(typed, words)``."""

    candidates: Callable[[str, Sequence[str]], Iterable[str | tuple[str, str]]]


AS_NOW = object()
"""For ``absent``: runs that were saved without an option did what is the default now."""

METADATA = "wasskit"
"""The key of a dataclass field's metadata under which its `Option` or its `Changes` lie."""


@dataclass(frozen=True)
class Option:
    """What is known of one option besides its name, type and default."""

    help: str
    panel: str = "Options"
    min: float | None = None
    max: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] | None = None
    complete: Completer | ByCommand | ByWords | None = None
    short: str | None = None
    flag: str | None = None
    metavar: str | None = None
    transient: bool = False
    runtime: bool = False
    positional: bool = False
    show_default: str | None = None
    optional_value: str | None = None
    hidden: bool = False
    counts_with: CountsWith | None = None
    former: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    absent: Any = AS_NOW
    former_default: Any = AS_NOW


def option(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    panel: str = "Options",
    min: float | None = None,
    max: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Sequence[str] | None = None,
    complete: Completer | ByCommand | ByWords | None = None,
    short: str | None = None,
    flag: str | None = None,
    metavar: str | None = None,
    transient: bool = False,
    runtime: bool = False,
    show_default: str | None = None,
    optional_value: str | None = None,
    hidden: bool = False,
    counts_with: CountsWith | None = None,
    former: str | Mapping[str, Mapping[str, Any]] = "",
    absent: Any = AS_NOW,
    former_default: Any = AS_NOW,
) -> Any:
    """Declare an option.

    Args:
        default: the value when neither the command line nor a recipe gives one; required options have none.
        help: one sentence, shown by ``--help``.
        panel: heading under which ``--help`` lists the option.
        min, max: inclusive bounds of a number, or of every entry of a list of numbers.
        above, below: exclusive bounds.
        choices: the allowed words of a string option (a ``Literal`` type says the same).
        complete: maps what has been typed to candidate values, for tab completion.
        short: a one-letter form such as ``-n``.
        flag: the long form where it differs from the field's name.
        transient: belongs to one invocation (``--json``): neither a recipe key nor saved.
        runtime: where and how fast a run happens (``--device``): saved, but may change when the run is resumed.
        show_default: words for a default that is computed.
        optional_value: what the option means when it is given without a value.
        hidden: accepted as in earlier versions, but of no effect and not shown.
        counts_with: the values of another option that it counts with, ``{"start": ("pretrain",)}``; None among
            them: where that option has no value. On the command line of a new run it is refused beside others
            (`OptionGroup.in_effect`).
        former: the name that the option had in earlier versions, which recipes, saved runs and command lines may still
            use; with what its values meant where they were other ones, ``{"batch_norm": {"sync": True}}``.
        absent: what runs did before there was the option, where that is not the default: its value when a run that was
            saved without it is resumed.
        former_default: the default of earlier versions: a run that was saved with it has the settings of one that is
            left to the default now.
    """
    if isinstance(former, str):
        former = {former: {}} if former else {}
    metadata = {
        METADATA: Option(
            help=help, panel=panel, min=min, max=max, above=above, below=below,
            choices=tuple(choices) if choices is not None else None, complete=complete, short=short, flag=flag,
            metavar=metavar, transient=transient, runtime=runtime, show_default=show_default,
            optional_value=optional_value, hidden=hidden, counts_with=counts_with, former=former, absent=absent,
            former_default=former_default,
        )
    }  # fmt: skip
    if default is dataclasses.MISSING:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


def argument(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    complete: Completer | ByCommand | ByWords | None = None,
    metavar: str | None = None,
    saved: bool = False,
) -> Any:
    """Declare a positional argument. A ``tuple[T, ...]`` type takes one or more values (none, if it has a default).

    ``saved``: it is part of the configuration of a run, and a recipe may give it.
    """
    metadata = {METADATA: Option(help=help, complete=complete, metavar=metavar, transient=not saved, positional=True)}
    if default is dataclasses.MISSING:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class OptionGroup:
    """Options that belong together: a frozen dataclass of fields made by :func:`option`, :func:`argument` or of groups.

    A field that is a group gives its options to the whole under their own names, with the defaults of the field's
    default: ``loop: LoopOptions = LoopOptions(epochs=25)`` is the option ``--epochs`` with the default 25.
    """

    def validate(self) -> None:
        """Check what concerns several options at once; raise ``UserError``. Subclasses call ``super()``."""
        for part in vars(self).values():
            if isinstance(part, OptionGroup):
                part.validate()

    def in_effect(self, name: str) -> Any:
        """The value that counts of one of its own options: for ``counts_with``, where another option decides it too."""
        return getattr(self, name)


def groups_of(kind: type[OptionGroup]) -> dict[str, type[OptionGroup]]:
    """The fields of a class that are groups, with their types."""
    hints = typing.get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind)]
    return {n: hints[n] for n in names if isinstance(hints[n], type) and issubclass(hints[n], OptionGroup)}


def same(kind: type[OptionGroup], name: str, default: Any = dataclasses.MISSING) -> Any:
    """Declare the option ``name`` of another group here too, with another default, a value, if one is given."""
    declared = next(f for f in dataclasses.fields(kind) if f.name == name)
    if default is dataclasses.MISSING:
        return field(default=declared.default, metadata=declared.metadata)
    return field(
        default=default, metadata={METADATA: dataclasses.replace(declared.metadata[METADATA], show_default=None)}
    )


@dataclass(frozen=True)
class Changes:
    """What a command says differently of a group's options, by their names."""

    help: Mapping[str, str] = field(default_factory=dict)
    show_default: Mapping[str, str] = field(default_factory=dict)
    counts_with: Mapping[str, CountsWith] = field(default_factory=dict)
    hidden: bool = False


def group(
    default: G,
    *,
    help: Mapping[str, str] | None = None,
    show_default: Mapping[str, str] | None = None,
    counts_with: Mapping[str, CountsWith] | None = None,
    hidden: bool = False,
) -> G:
    """A group as a field of a command, where more than its defaults differs.

    Args:
        help, show_default, counts_with: as of `option`, by the names of options.
        hidden: its options are accepted, but of no effect and not shown.
    """
    changes = Changes(help or {}, show_default or {}, counts_with or {}, hidden)
    declared: Any = field(default=default, metadata={METADATA: changes})
    return declared  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True)
class CommandOptions(OptionGroup):
    """Options that every command has."""

    json: bool = option(
        False, help="Print the result as JSON on stdout.", panel="Output", transient=True, flag="--json"
    )
    quiet: bool = option(
        False, help="Print results and errors only.", panel="Output", transient=True, flag="--quiet", short="-q"
    )
    verbose: bool = option(
        False, help="Print more, and tracebacks of errors.", panel="Output", transient=True, flag="--verbose",
        short="-v",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RecipeOptions(CommandOptions):
    """Options of commands whose settings can come from a recipe or from the saved configuration of a run."""

    recipe: str | None = option(
        None, help="Take settings from a recipe, by name or path; options given here win.", panel="Output",
        complete=ByCommand(lambda typed, command: _complete_recipes(typed, command)), transient=True,
    )  # fmt: skip


def _complete_recipes(typed: str, command: str) -> Iterable[str | tuple[str, str]]:
    from wasskit.recipes import complete_recipes

    return complete_recipes(typed, command)
