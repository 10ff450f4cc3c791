"""What a result may depend on besides the configuration: versions, machine, revision. Free of torch until a
device is named."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from wasskit import __version__
from wasskit.errors import UserError
from wasskit.system.documents import read_text

_PACKAGES = (
    "torch", "torchvision", "numpy", "scipy", "scikit-learn", "timm", "geomloss", "pytorch-metric-learning",
)  # fmt: skip


def describe_environment(seed: int | None, device: Any, argv: Sequence[str] | None = None) -> dict[str, Any]:
    """What a result may depend on besides the configuration."""
    versions = {"python": platform.python_version(), "wasskit": __version__}  # of what runs, installed or not
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    described: dict[str, Any] = {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command_line": shlex.join(["wasskit", *(sys.argv[1:] if argv is None else argv)]),
        "seed": seed,
        "git_revision": git_revision(),
        "versions": versions,
        "platform": f"{platform.system()} {platform.machine()}",
    }
    if device is not None:
        described["device"] = _describe_device(device)
    return described


@functools.lru_cache(maxsize=1)
def git_revision() -> str | None:
    """The revision of the checkout that this package runs from, with ``+changes`` if it differs; None outside one."""
    package = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _describe_device(device: Any) -> dict[str, Any]:
    import torch

    from wasskit.distributed.group import world_size

    device = torch.device(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {"type": device.type, "name": name, "ranks": world_size(), "threads": torch.get_num_threads()}


def _processor() -> str:
    """The name of the processor where the system tells it, else its architecture."""
    with contextlib.suppress(UserError):
        for line in read_text(Path("/proc/cpuinfo"), errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return " ".join(value.split())
    return platform.processor() or platform.machine()
