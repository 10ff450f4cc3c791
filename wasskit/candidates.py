"""What TAB offers for the values of options: found cheaply, and nothing where something is missing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from wasskit.config import ByCommand
from wasskit.system.arrays import VECTORS


def complete_datasets(typed: str, task: str | None = None) -> Iterable[tuple[str, str]]:
    """Names of data sets with their titles."""
    from wasskit.data.catalog import CARDS, dataset_names

    return [(name, CARDS[name].title) for name in dataset_names(task) if name.startswith(typed)]


def complete_backbones(typed: str) -> Iterable[str]:
    """Names of backbones."""
    from wasskit.models.catalog import backbone_names

    return [name for name in backbone_names() if name.startswith(typed)]


def complete_devices(typed: str) -> Iterable[str]:
    return [name for name in ("auto", "cpu", "cuda", "cuda:0", "mps") if name.startswith(typed)]


def complete_runs(typed: str, made_by: str = "") -> Iterable[str]:
    """Run directories below what has been typed, or below ``runs/``.

    Args:
        made_by: the command that they must be runs of, or its first word; empty: any.
    """
    base = Path(typed) if typed else Path("runs")
    folders = [base, base.parent] if typed else [base]
    found = set()
    for folder in folders:
        if folder.is_dir():
            for config in (*folder.glob("config.toml"), *folder.glob("*/config.toml"), *folder.glob("*/*/config.toml")):
                found.add(str(config.parent))
    return sorted(path for path in found if path.startswith(typed) and _made_by(Path(path), made_by))


def _made_by(run: Path, command: str) -> bool:
    """Whether a run is one of ``command``, or of a command of that plugin, by its configuration's first line."""
    if not command:
        return True
    try:
        with (run / "config.toml").open(encoding="utf-8", errors="replace") as file:
            found = file.readline(200).partition("=")[2].strip().strip("\"'")
    except OSError:
        return False
    return found == command or found.split(" ")[0] == command


def _own_runs(typed: str, command: str) -> Iterable[str]:
    return complete_runs(typed, command)


def _models(typed: str, command: str) -> Iterable[str]:
    plugin = command.split()[0]
    runs = [run for run in complete_runs(typed, plugin) if (Path(run) / "checkpoints").is_dir()]
    others = [
        path
        for path in complete_local_paths(typed)
        if path.endswith((".pt", ".safetensors")) or (path.endswith("/") and not (Path(path) / "config.toml").is_file())
    ]
    return sorted({*runs, *others})


def _models_or_vectors(typed: str, command: str) -> Iterable[str]:
    return sorted({*_models(typed, command), *(p for p in complete_local_paths(typed) if p.endswith(VECTORS))})


complete_own_runs = ByCommand(_own_runs)
"""Runs of the command itself: what ``--resume`` and ``--run-dir`` go on with."""
complete_models = ByCommand(_models)
"""Trained models of the command's plugin: runs with checkpoints; and files of weights, by their folders."""
complete_models_or_vectors = ByCommand(_models_or_vectors)
"""The same, and files of embeddings."""


def complete_local_paths(typed: str) -> Iterable[str]:
    base = Path(typed) if typed.endswith("/") else Path(typed).parent
    if not base.is_dir():
        return []
    return sorted(str(p) + ("/" if p.is_dir() else "") for p in base.iterdir() if str(p).startswith(typed))
