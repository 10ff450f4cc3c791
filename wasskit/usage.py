"""Command lines that cannot be parsed, told like every other wrong request: one sentence, the nearest name.

The parser (Click, inside or beside Typer) raises its own errors for them. They are told apart by what they carry and
not by their class, as newer versions of Typer hold a Click of their own that is not for import.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator
from typing import Any

import typer

from wasskit.system.hints import did_you_mean

PARSER_ERRORS: tuple[type[Exception], ...] = (typer.BadParameter.__mro__[2],)
"""``ClickException``, whichever Click Typer uses."""


class HelpFlag:
    """A command whose help is whole in any terminal, and whose ``--help`` is False, not None, where it is not given.

    Typer converts the None by pydantic, which takes as long to import as a help page takes to show.
    """

    def get_help_option(self, ctx: Any) -> Any:
        flag = super().get_help_option(ctx)  # type: ignore[misc]
        if flag is not None:
            flag.default = False
        return flag

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from typer import rich_utils

        rich_utils.Table = _whole_names()  # type: ignore[attr-defined]
        super().format_help(ctx, formatter)  # type: ignore[misc]


@functools.cache
def _whole_names() -> Any:
    """A table of options that cuts nothing off in a narrow terminal.

    Half a name cannot be typed, so columns of names keep their width; long words of the help go on in the next line.
    """
    from rich.table import Table
    from rich.text import Text

    class WholeNames(Table):
        def add_row(self, *cells: Any, **more: Any) -> None:
            super().add_row(*cells, **more)
            for column, cell in zip(self.columns, cells, strict=False):
                for text in getattr(cell, "renderables", [cell]):
                    if isinstance(text, Text):
                        text.overflow = "fold"
                        column.no_wrap = column.no_wrap or text.plain.startswith("-")

    return WholeNames


@contextlib.contextmanager
def parsing(context: Any) -> Iterator[None]:
    """Tell the parser's errors which command they are about: not every one of them knows."""
    try:
        yield
    except PARSER_ERRORS as error:
        if getattr(error, "ctx", None) is None:
            error.ctx = context  # type: ignore[attr-defined]
        raise


def sentence(error: Any) -> str:
    """What was wrong with a command line, where, and what to do."""
    context = getattr(error, "ctx", None)
    if context is None:
        return f"{str(error.format_message()).strip().rstrip('.')}."
    where = context.command_path
    advice = f"`{where} --help` lists what it takes."
    unknown = getattr(error, "option_name", None)
    if unknown is not None and hasattr(error, "possibilities"):
        near = did_you_mean(unknown, _flags(context), otherwise=f" {advice}") + getattr(context.command, "stray", "")
        return f"No such option {unknown!r} of `{where}`.{near}"
    if unknown is not None:
        if any(unknown in p.opts and getattr(p, "is_flag", False) for p in context.command.params):
            return f"{unknown} of `{where}` takes no value: leave out the one that is given."
        return f"{unknown} of `{where}` needs a value."
    missing = getattr(error, "param", None)
    if missing is not None and hasattr(error, "param_type"):
        if missing.param_type_name == "argument":
            name = missing.metavar or missing.name.upper()
            return f"`{where}` needs {name}: {missing.help}" if missing.help else f"`{where}` needs {name}."
        return f"`{where}` needs {missing.opts[0]}."
    message = str(error.format_message()).strip().rstrip(".")
    return f"`{where}`: {message}. {advice}"


def no_such_command(where: str, word: str, known: Iterable[str]) -> str:
    """The message for a word that is not a subcommand."""
    near = did_you_mean(word, known, otherwise=f" `{where} --help` lists them.")
    return f"No such command {word!r} of `{where}`.{near}"


def _flags(context: Any) -> list[str]:
    shown = [p for p in context.command.params if not getattr(p, "hidden", False)]
    return [flag for p in shown for flag in (*p.opts, *p.secondary_opts) if flag.startswith("-")] + ["--help"]
