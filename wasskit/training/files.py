"""Writing files so that a kill or a full disk never costs the old ones. Free of torch."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from wasskit.errors import UserError, WasskitError

__all__ = ["replace_file", "replace_text", "writing"]


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an error of the file system into a ``UserError`` that names ``path``."""
    try:
        yield
    except WasskitError:
        raise
    except Exception as error:
        cause = _os_error(error)
        if cause is None:
            raise
        full = cause.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "free some space, then go on with --resume" if full else "choose another place"
        raise UserError(
            f"Cannot write {path}: {cause.strerror or cause}; {advice}. What was saved before is kept."
        ) from error


def replace_file(
    path: Path, write: Callable[[BinaryIO], object], *, before_rename: Callable[[Path], object] | None = None
) -> None:
    """Write a file under a temporary name, bring it to the disk and rename it over ``path``.

    At any moment ``path`` holds either its old content or its whole new one. On an error the temporary file is removed.
    ``before_rename`` is called with the temporary file when that is whole and ``path`` still the old one.

    Raises:
        UserError: the file system refused (a full disk, say).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        try:
            with temporary.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            if before_rename is not None:
                before_rename(temporary)
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def replace_text(path: Path, text: str) -> None:
    """:func:`replace_file` for text; a name in it that is no text is a ``UserError`` too."""
    try:
        content = text.encode()
    except UnicodeEncodeError as error:
        name = text[: error.end].splitlines()[-1].encode("utf-8", "backslashreplace").decode()
        raise UserError(
            f"Cannot write {path}: a name in it is not valid UTF-8 ({name}...); rename that file or folder."
        ) from error
    replace_file(path, lambda file: file.write(content))


def sync_folder(folder: Path) -> None:
    """Bring renames in a folder to the disk, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _os_error(error: BaseException | None) -> OSError | None:
    """The error of the file system behind an exception: writers in C++ wrap it in exceptions of their own."""
    while error is not None:
        if isinstance(error, OSError):
            return error
        error = error.__cause__ or error.__context__
    return None
