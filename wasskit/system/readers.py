"""One declaration for every function that opens a file from outside. Free of torch and numpy.

A file may be damaged, cut short, of another kind, or made to do harm. Its reader is declared by :func:`reader`, which
refuses anything but a regular file (a pipe would be waited for without end), bounds its size, and turns whatever the
parser raises into one sentence: the file, what is wrong, what to do. A reader itself only parses and checks;
:class:`Damage` says in its own words what it found. The declarations are collected in :data:`READERS`, from which a
test draws the readers that it feeds with mutated files; another test finds parsers called outside a reader.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import json
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from wasskit.errors import UserError, WasskitError

P = ParamSpec("P")
R = TypeVar("R")

MISSING = "There is no file {path}; name one that is there."
_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


class UnreadableFile(UserError):
    """A file that cannot be read: which, and why."""

    def __init__(self, path: Path | str, kind: str, reason: str, advice: str) -> None:
        super().__init__(f"{path} is not a readable {kind}: {reason}; {advice}.")
        self.path = path
        self.reason = reason


class MissingFile(UnreadableFile):
    """A file that is not there; ``sentence`` says so of its ``{path}``."""

    def __init__(self, path: Path | str, sentence: str) -> None:
        UserError.__init__(self, sentence.format(path=path))
        self.path = path
        self.reason = "no such file"


class Damage(Exception):
    """What a reader found wrong with a file, in words that follow "is not readable:"."""


@dataclass(frozen=True)
class Reader:
    """A declared reader: its full name, what it reads, and the suffixes of such files."""

    name: str
    kind: str
    suffixes: tuple[str, ...]
    function: Callable[..., Any]


READERS: dict[str, Reader] = {}
"""All declared readers of the modules imported so far, by ``module.function``."""


def reader(
    kind: str,
    *,
    suffixes: tuple[str, ...],
    advice: str = "get the file again",
    largest: int | None = None,
    missing: str = MISSING,
) -> Callable[[Callable[Concatenate[Path, P], R]], Callable[Concatenate[Path, P], R]]:
    """Decorator: declare ``function(path, ...)`` a reader of files from outside.

    Args:
        kind: what the file should be, in words that follow "not a readable".
        suffixes: of the files that it is given; "" where any name will do.
        advice: what to do about a file that cannot be read.
        largest: bytes from which a file is refused unopened.
        missing: the sentence on a file that is not there.

    The function raises :class:`UnreadableFile` for a file that is missing, is not a regular one or cannot be parsed;
    a ``UserError`` of its own passes unchanged.
    """

    def declare(function: Callable[Concatenate[Path, P], R]) -> Callable[Concatenate[Path, P], R]:
        @functools.wraps(function)
        def read(path: Path, /, *args: P.args, **kwargs: P.kwargs) -> R:
            with reading(path, kind, advice=advice, largest=largest, missing=missing):
                return function(path, *args, **kwargs)

        name = f"{function.__module__}.{function.__qualname__}"
        READERS[name] = Reader(name, kind, suffixes, read)
        return read

    return declare


@contextlib.contextmanager
def reading(
    path: Path, kind: str, *, advice: str, largest: int | None = None, missing: str = MISSING
) -> Iterator[None]:
    """Inside, ``path`` is parsed: whatever that raises becomes an :class:`UnreadableFile`.

    Parsers of damaged files raise nearly anything (``struct.error``, ``ZeroDivisionError``, ``RecursionError``,
    ``MemoryError``, errors of their own), hence every ``Exception`` is meant. Its text is shown only where it is
    known to help.
    """
    try:
        check_regular(path, kind, advice=advice, largest=largest, missing=missing)
        yield
    except WasskitError:
        raise
    except FileNotFoundError as error:
        raise MissingFile(path, missing) from error
    except Exception as error:
        raise UnreadableFile(path, kind, _reason(error), advice) from error


def check_regular(
    path: Path, kind: str, *, advice: str = "name a file", largest: int | None = None, missing: str = MISSING
) -> None:
    """Refuse anything but a regular file (links are followed) of at most ``largest`` bytes.

    Raises:
        UnreadableFile: says what is there instead; :class:`MissingFile` where nothing is.
    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingFile(path, missing) from error
    except (OSError, ValueError) as error:
        raise UnreadableFile(path, kind, _reason(error), "name another file") from error
    if not stat.S_ISREG(found.st_mode):
        what = _KINDS.get(stat.S_IFMT(found.st_mode), "no regular file")
        raise UnreadableFile(path, kind, f"it is {what}", "name a file")
    if largest is not None and found.st_size > largest:
        reason = f"it has {found.st_size:,} bytes, more than the {largest:,} of any such file"
        raise UnreadableFile(path, kind, reason, advice)


def _reason(error: Exception) -> str:
    """What was wrong, in our own words but for errors whose text names a place in the file."""
    if isinstance(error, Damage):
        return str(error)
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        return error.strerror[0].lower() + error.strerror[1:]
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8 text"
    if isinstance(error, json.JSONDecodeError | csv.Error) or type(error).__name__ == "TOMLDecodeError":
        return str(error).rstrip(".")
    if isinstance(error, MemoryError):
        return "it announces more than fits into memory"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return "it is damaged, cut short or of another kind"
