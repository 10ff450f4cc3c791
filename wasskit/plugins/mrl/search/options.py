"""Options of ``wasskit mrl index`` and ``wasskit mrl search``. Free of torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from wasskit.candidates import complete_local_paths, complete_models
from wasskit.config import CommandOptions, OptionGroup, argument, option


def complete_indexes(typed: str) -> Iterable[str]:
    """Indexes, and folders that one may lie in."""
    folders = [path for path in complete_local_paths(typed) if path.endswith("/")]
    return [path[:-1] if (Path(path) / "index.json").is_file() else path for path in folders]


@dataclass(frozen=True, kw_only=True)
class IndexArgument(OptionGroup):
    """The index that a command works on."""

    index: Path = argument(help="Folder of an index.", complete=complete_indexes, metavar="INDEX")


@dataclass(frozen=True, kw_only=True)
class IndexCommandOptions(CommandOptions):
    """Options of a command on an index."""

    on: IndexArgument


def ids_option(help: str, *, without: str) -> Path | None:
    """An option that names a file of ids."""
    found: Path | None = option(
        None, help=f"{help} (.npy, .csv:COLUMN, .parquet:COLUMN, .txt).", panel="Data", complete=complete_local_paths,
        show_default=without,
    )  # fmt: skip
    return found


def model_option(help: str, *, without: str) -> Path | None:
    """An option that names a trained model."""
    found: Path | None = option(
        None, help=help, panel="Model", complete=complete_models, metavar="MODEL", show_default=without
    )
    return found
