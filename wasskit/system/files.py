"""Writing files so that a kill or a full disk never costs the old ones. Free of torch."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from wasskit.errors import UserError, WasskitError

_SUFFIX = ".tmp"


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


@contextlib.contextmanager
def replacing(path: Path, *, before_rename: Callable[[Path], object] | None = None) -> Iterator[Path]:
    """Write a file under the temporary name that is yielded; when the block ends, bring it to the disk and rename it
    over ``path``.

    At any moment ``path`` holds either its old content or its whole new one. On an error or an interruption the
    temporary file is removed. The file gets the permissions of any new file (0666 less the umask), also from a library
    that would make it private. ``before_rename`` is called with the temporary file when that is whole and ``path``
    still the old one.

    Raises:
        UserError: the file system refused (a full disk, say).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_SUFFIX}")
    with writing(path):
        try:
            temporary.unlink(missing_ok=True)
            with temporary.open("xb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            yield temporary
            if stat.S_IMODE(temporary.stat().st_mode) != mode:
                temporary.chmod(mode)
            with temporary.open("r+b") as file:
                os.fsync(file.fileno())
            if before_rename is not None:
                before_rename(temporary)
            temporary.replace(path)
        finally:
            # Also after a rename: one that finds two links to one file leaves both.
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


def replace_file(
    path: Path, write: Callable[[BinaryIO], object], *, before_rename: Callable[[Path], object] | None = None
) -> None:
    """`replacing` for what is written by ``write(file)``."""
    with replacing(path, before_rename=before_rename) as temporary, temporary.open("wb") as file:
        write(file)


def replace_text(path: Path, text: str) -> None:
    """`replace_file` for text; a file name in it that is not valid UTF-8 is a ``UserError`` too."""
    try:
        content = text.encode()
    except UnicodeEncodeError as error:
        name = text[: error.end].splitlines()[-1].encode("utf-8", "backslashreplace").decode()
        raise UserError(
            f"Cannot write {path}: a name in it is not valid UTF-8 ({name}...); rename that file or folder."
        ) from error
    replace_file(path, lambda file: file.write(content))


def write_text(path: Path, text: str) -> None:
    """`replace_text`, in a folder that is made where it is not there."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, text)


def remove_leftovers(folder: Path, *, below: bool = True) -> None:
    """Remove the temporary files of writers that were killed, with ``below`` at any depth. All that is looked through
    is this process's alone."""
    for leftover in folder.rglob(f".*{_SUFFIX}") if below else folder.glob(f".*{_SUFFIX}"):
        with contextlib.suppress(OSError):
            leftover.unlink()


def is_leftover(path: Path) -> bool:
    """Whether ``path`` is the temporary file of a writer that is gone from this machine."""
    pid = path.name.removesuffix(_SUFFIX).rpartition(".")[2]
    temporary = path.name.startswith(".") and path.name.endswith(_SUFFIX) and pid.isdecimal()
    if not temporary or os.name != "posix":  # elsewhere nothing asks without ending the process
        return False
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:  # another user's
        return False
    return False


def numbered_names(path: Path) -> Iterator[Path]:
    """``path``, ``path-2``, ``path-3``, ...: for names made by a command."""
    yield path
    for number in itertools.count(2):
        yield path.with_name(f"{path.name}-{number}")


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
