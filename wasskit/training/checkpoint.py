"""Checkpoints: tensors and plain values, written whole or not at all, and read with ``weights_only=True``."""

from __future__ import annotations

import contextlib
import os
import random
import shlex
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wasskit.errors import UserError
from wasskit.models.weights import read_torch
from wasskit.system.files import remove_leftovers, replace_file, replacing, writing
from wasskit.system.readers import Damage, reader
from wasskit.text import short_text

FORMAT = 1
_MOST_SHOWN = 12
"""Settings that a message lists, of those that differ."""


class Checkpoints:
    """The checkpoints of a run: ``last.pt``, ``previous.pt`` (the one before) and ``best.pt``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._last_is_whole = False

    @property
    def last(self) -> Path:
        return self.folder / "last.pt"

    @property
    def previous(self) -> Path:
        return self.folder / "previous.pt"

    @property
    def best(self) -> Path:
        return self.folder / "best.pt"

    def save(self, state: Mapping[str, Any], *, best: bool = False) -> None:
        """Write ``last.pt``; the old one becomes ``previous.pt``, and with ``best`` the new one ``best.pt`` too.

        A ``last.pt`` that this object has neither written nor read (a damaged one, say) does not replace
        ``previous.pt``. Raises ``UserError`` when the file system refuses; both old files are then still there.
        """
        with writing(self.last):
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.folder)

        def link_previous_and_best(new: Path) -> None:
            if self._last_is_whole and self.last.is_file():
                _link(self.last, self.previous)
            if best:
                # Before ``last.pt`` is renamed: a run killed in between repeats this evaluation. The other way round
                # its state would name a ``best.pt`` that was never written.
                _link(new, self.best)

        save_checkpoint(self.last, state, before_rename=link_previous_and_best)
        self._last_is_whole = True

    def load(self, path: Path | None = None) -> dict[str, Any]:
        """Read ``path``, by default ``last.pt``.

        Raises:
            UserError: it is missing or damaged; an older one that can be read is named.
        """
        path = path or self.last
        try:
            state = load_checkpoint(path)
        except UserError as error:
            for older in (self.previous, self.best):
                if older.is_file() and older.resolve() != path.resolve() and _is_whole(older):
                    raise UserError(
                        f"{error} An older one is whole: go on with --resume {shlex.quote(str(older))}"
                    ) from error
            raise
        if path.resolve() == self.last.resolve():
            self._last_is_whole = True
        return state


def save_checkpoint(
    path: Path, state: Mapping[str, Any], *, before_rename: Callable[[Path], object] | None = None
) -> None:
    """Write a checkpoint to a temporary file, bring it to the disk, rename it.

    Args:
        state: nested mappings and sequences of tensors and plain values; anything else is a ``TypeError``.
        before_rename: called with the new file under its temporary name, ``path`` being still the old one.

    Raises:
        UserError: the file system refused; ``path`` is as before and the temporary file is gone.
    """
    content = plain({"format": FORMAT, **state})
    replace_file(path, lambda file: torch.save(content, file), before_rename=before_rename)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        UserError: there is none, it is damaged (every byte of its content is checked), or it is no checkpoint of ours.
    """
    if not path.exists():
        raise UserError(f"There is no checkpoint at {path}.")
    check_whole(path)
    state = read_torch(path)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = f"of format {state['format']}" if isinstance(state, dict) and "format" in state else "a foreign file"
        raise UserError(f"{path} is not a checkpoint that this version of wasskit reads: it is {found}.")
    return state


@reader("checkpoint", suffixes=(".pt",), advice="go on from another, or start the run anew")
def check_whole(path: Path) -> None:
    """Check every byte of the content of a checkpoint by its checksum. Raises `UserError` where one has changed."""
    with zipfile.ZipFile(path) as archive:
        if any(info.compress_type for info in archive.infolist()):
            raise Damage("it is damaged: its parts are packed")
        damaged = archive.testzip()
    if damaged is not None:
        raise Damage("it is damaged: a checksum is wrong")


def check_same_config(
    saved: Mapping[str, Any], current: Mapping[str, Any], ignore: Any = (), *, where: str = "the checkpoint"
) -> None:
    """Refuse to go on with another configuration.

    Args:
        saved, current: configurations, nested or flat; nested keys are compared as ``table.key``.
        ignore: keys that may differ (those that change no result, such as the number of workers).
        where: what ``saved`` belongs to, for the message.

    Raises:
        UserError: names the keys that differ, with both values, shortened where they are long.
    """
    old, new = dict(_flatten(saved)), dict(_flatten(current))
    skipped = set(ignore)
    differing = [
        f"{short_text(key)} ({_shown(old, key)} there, {_shown(new, key)} now)"
        for key in dict.fromkeys((*old, *new))
        if key not in skipped and old.get(key) != new.get(key)
    ]
    if differing:
        more = len(differing) - _MOST_SHOWN
        listed = ", ".join(differing[:_MOST_SHOWN]) + (f" and {more:,} more" if more > 0 else "")
        raise UserError(
            f"The configuration contradicts {where}: {listed}. Give the same values to resume, or start another run."
        )


def plain(value: Any) -> Any:
    """Nested tensors and plain values, as ``weights_only=True`` reads them; numpy scalars become Python's."""
    if isinstance(value, Tensor):
        return value.detach()
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    if isinstance(value, Mapping):
        return {plain(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return (
            type(value)([plain(entry) for entry in value]) if type(value) in (list, tuple) else list(map(plain, value))
        )
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"a checkpoint holds tensors and plain values, not {type(value).__name__}")


# --- Random numbers ---------------------------------------------------------------------------------------------------


def seed_all(seed: int) -> None:
    """Seed the global generators of Python, numpy and torch (every device)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - libraries draw from the global generator
    torch.manual_seed(seed)


def rng_state(device: torch.device) -> dict[str, Tensor]:
    """The states of Python's, numpy's, torch's and the device's global generators, as tensors of fixed sizes."""
    _, words, gauss = random.getstate()
    numpy: Any = np.random.get_state(legacy=False)  # noqa: NPY002
    state = {
        "python": torch.tensor(words),
        "python_gauss": torch.tensor([float("nan") if gauss is None else gauss], dtype=torch.float64),
        "numpy": torch.tensor([*numpy["state"]["key"].tolist(), numpy["state"]["pos"], numpy["has_gauss"]]),
        "numpy_gauss": torch.tensor([numpy["gauss"]], dtype=torch.float64),
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_rng_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Restore what :func:`rng_state` gave. A device without a saved state keeps its own."""
    gauss = state["python_gauss"].item()
    random.setstate((3, tuple(state["python"].tolist()), None if gauss != gauss else gauss))
    words = state["numpy"].tolist()
    np.random.set_state(  # noqa: NPY002
        {
            "bit_generator": "MT19937",
            "state": {"key": np.array(words[:624], dtype=np.uint32), "pos": words[624]},
            "has_gauss": words[625],
            "gauss": state["numpy_gauss"].item(),
        }
    )
    # Copies: a view into a larger tensor is misread by torch's generator, which takes the storage from its start.
    torch.set_rng_state(state["torch"].clone())
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].clone(), device)
    elif device.type == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"].clone())


@contextlib.contextmanager
def preserved_rng(device: torch.device, seed: int) -> Iterator[None]:
    """Draw from ``seed`` inside, and leave the global generators as they were."""
    before = rng_state(device)
    seed_all(seed)
    try:
        yield
    finally:
        set_rng_state(before, device)


# --- Helpers ----------------------------------------------------------------------------------------------------------


def _flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{name}.")
        elif isinstance(value, list | tuple):
            yield name, [str(entry) if isinstance(entry, PurePath) else entry for entry in value]
        else:
            yield name, str(value) if isinstance(value, PurePath) else value


def _shown(config: Mapping[str, Any], key: str) -> str:
    return short_text(repr(config.get(key, "not set")))


def _is_whole(path: Path) -> bool:
    try:
        load_checkpoint(path)
    except UserError:
        return False
    return True


def _link(source: Path, target: Path) -> None:
    """Make ``target`` the same file as ``source``, atomically; a copy where the file system has no hard links.

    Checkpoints are replaced, never changed in place, so two names may share one file.
    """
    with replacing(target) as temporary:
        temporary.unlink()
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
