"""The one writer of files: whole or not at all, nothing left behind, the permissions that the umask asks for."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from wasskit.errors import UserError
from wasskit.models.export import save_weights
from wasskit.system.files import remove_leftovers, replace_file, replace_text, replacing
from wasskit.training.checkpoint import Checkpoints, save_checkpoint

PACKAGE = Path(__file__).resolve().parents[2] / "wasskit"


@pytest.fixture(params=[0o022, 0o077, 0o002], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


WRITERS: dict[str, Callable[[Path], object]] = {
    "text": lambda path: replace_text(path, "text"),
    "arrays": lambda path: replace_file(path, lambda file: np.savez(file, x=np.zeros(2))),
    "checkpoint": lambda path: save_checkpoint(path, {"x": torch.zeros(2)}),
    "safetensors": lambda path: save_weights(path, {"x": torch.zeros(2)}, {}),
}


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_every_file_follows_the_umask(write: Callable[[Path], object], umask: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    for _ in range(2):  # a new file, and one that is there
        write(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
        path.chmod(0o600)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("no")])
def test_an_interruption_leaves_the_old_file_and_nothing_else(error: BaseException, tmp_path: Path) -> None:
    path = tmp_path / "file"
    replace_text(path, "old")

    def write_half() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write_half()
    with pytest.raises(type(error)):
        replace_file(path, lambda file: file.write(b"whole"), before_rename=lambda new: _raise(error))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def _raise(error: BaseException) -> None:
    raise error


def test_the_new_file_is_whole_before_the_old_one_goes(tmp_path: Path) -> None:
    path, seen = tmp_path / "file", []
    replace_text(path, "old")
    replace_file(
        path,
        lambda file: file.write(b"new"),
        before_rename=lambda new: seen.append((new.read_text(), path.read_text())),
    )
    assert seen == [("new", "old")]
    assert path.read_text() == "new"


def test_a_folder_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Cannot write .*nowhere.*No such file"):
        replace_text(tmp_path / "nowhere" / "file", "text")


def test_what_killed_writers_left_is_removed_at_any_depth(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    left = [tmp_path / ".config.toml.123.tmp", tmp_path / "figures" / ".a.png.9.tmp"]
    kept = [tmp_path / "config.toml", tmp_path / "notes.tmp", tmp_path / ".lock"]
    for path in (*left, *kept):
        path.touch()
    remove_leftovers(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)


def test_links_to_one_checkpoint_leave_no_temporary_name(tmp_path: Path) -> None:
    """A save that fails after ``previous.pt`` has become ``last.pt``; the next one links the same file to itself."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"step": 1})
    os.link(checkpoints.last, checkpoints.previous)
    checkpoints.save({"step": 2}, best=True)
    assert {path.name for path in tmp_path.iterdir()} == {"last.pt", "previous.pt", "best.pt"}
    assert checkpoints.load(checkpoints.previous)["step"] == 1


def test_there_is_no_other_writer() -> None:
    """Temporary names and the renames that end them are in one module."""
    own = PACKAGE / "system" / "files.py"
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path != own:
            for word in ("os.replace(", "temporary.replace(", "NamedTemporaryFile", "mkstemp"):
                # What the ranks note for their launcher is no file that anybody keeps.
                if (path.name, word) != ("launch.py", "mkstemp"):
                    assert word not in text, f"{path}: {word}"
