"""``wasskit info``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wasskit.config import Command, CommandOptions, Invocation, option


@dataclass(frozen=True, kw_only=True)
class Info(CommandOptions):
    """Options of ``wasskit info``."""

    data_root: Path | None = option(
        None, help="Folder that holds the data sets.", panel="Data", show_default="$WASSKIT_DATA, else data"
    )


LIBRARIES = (
    "torch", "torchvision", "numpy", "scipy", "scikit-learn", "timm", "geomloss", "pytorch-metric-learning",
    "matplotlib", "typer", "rich", "safetensors", "tensorboard",
)  # fmt: skip
OPTIONAL = {"faiss-cpu": "faiss", "datasets": "datasets", "onnx": "onnx", "onnxruntime": "onnx", "tifffile": "tiff"}


def _versions() -> tuple[dict[str, str | None], dict[str, str | None]]:
    from importlib.metadata import PackageNotFoundError, version

    def find(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    return {name: find(name) for name in LIBRARIES}, {name: find(name) for name in OPTIONAL}


def _machine() -> dict[str, Any]:
    import os
    import platform

    import torch

    from wasskit.system.processes import cores

    memory = None
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    gpus = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            gpus.append(
                {
                    "device": f"cuda:{index}",
                    "name": properties.name,
                    "memory_gib": round(properties.total_memory / 2**30, 1),
                }
            )
    return {
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "cores": cores(),
        "memory_gib": round(memory, 1) if memory is not None else None,
        "cuda": torch.version.cuda,
        "gpus": gpus,
        "mps": torch.backends.mps.is_available(),
    }


def body(config: Info, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit import __version__
    from wasskit.data.catalog import CARDS, data_root, find_datasets
    from wasskit.distributed.devices import find_devices

    libraries, optional = _versions()
    slices = [device.name for device in find_devices() if device.is_slice]
    root = data_root(config.data_root)
    found = find_datasets(config.data_root)
    datasets = {
        name: {"found": True, "path": str(place)} if isinstance(place, Path) else {"found": False, "missing": place}
        for name, place in found.items()
    }
    for name, entry in datasets.items():
        if CARDS[name].built_in:
            entry.update(found=True, path=None)
    result = {
        "wasskit": __version__, "machine": _machine(), "mig_slices": slices, "libraries": libraries,
        "optional": optional, "data_root": str(root), "datasets": datasets,
    }  # fmt: skip
    if not config.json:
        _show(result)
    return result


def _show(result: Mapping[str, Any]) -> None:
    from wasskit import console
    from wasskit.data.catalog import CARDS

    machine = result["machine"]
    console.result(
        f"[bold]wasskit {result['wasskit']}[/bold], Python {machine['python']}, {machine['system']}, "
        f"{machine['cores']} cores, {machine['memory_gib']} GiB"
    )
    for gpu in machine["gpus"]:
        console.result(f"{gpu['device']}: {gpu['name']}, {gpu['memory_gib']} GiB")
    for name in result["mig_slices"]:
        console.result(f"MIG slice: {name}")
    if not machine["gpus"]:
        console.result("No GPU: everything runs on the CPU." + (" Metal (mps) is available." if machine["mps"] else ""))
    rows = [(name, v or "missing", "" if v else "reinstall wasskit") for name, v in result["libraries"].items()]
    for name, v in result["optional"].items():
        rows.append((name, v or "not installed", "" if v else f"pip install 'wasskit[{OPTIONAL[name]}]'"))
    console.table("Libraries", ["Library", "Version", "Note"], rows)
    console.table(
        f"Data sets under {result['data_root']}", ["Name", "What it is", "Where"],
        [
            (name, CARDS[name].title, "built in" if CARDS[name].built_in else entry.get("path") or entry["missing"])
            for name, entry in sorted(result["datasets"].items(), key=lambda item: not item[1]["found"])
        ],
    )  # fmt: skip


command = Command(
    "info", Info, body, "Show versions, devices and the data sets found, and what is missing.",
    ("wasskit info --data-root /data",),
)  # fmt: skip
