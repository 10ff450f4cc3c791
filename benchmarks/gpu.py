"""Is wasskit right and fast on this GPU? All that a machine with one can tell, in less than nine minutes.

    python benchmarks/gpu.py [--seconds 520] [--only losses,trainings] [--out runs/gpu]
    python benchmarks/gpu.py --dry     # the checks themselves, small and on the CPU

From a checkout, without installing it. One line a check, `CHECK name: PASS|FAIL measured (expected)`; what there was no
time for is named by lines `LEFT`. The same is in OUT/gpu.csv and OUT/gpu.md. Exit code 1 if a check failed, 2 if the
machine lacks what is needed.

Sections: the device and its peaks; values of all losses against float64; every training command and how often its steps
let the host wait; two ways to the same (eigenvalues and products, batch norms); steps at real sizes against the
roofline; stopping and resuming; two ranks on one device; out of memory; compiled steps.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
import tempfile
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

WHEELS = ROOT / "runs" / "wheels"

NEEDED = ("torch", "torchvision", "numpy", "PIL")
"""What everything here imports."""

OPTIONAL = {
    **dict.fromkeys(("typer", "rich", "tomli_w", "sklearn", "scipy"), "trainings, resuming, ranks and memory"),
    "matplotlib": "the figures of runs", "geomloss": "the published divergence of mrl",
    **({"tomli": "recipes"} if sys.version_info < (3, 11) else {}),
}  # fmt: skip
"""What some checks need, and which."""


def main() -> int:
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="wasskit-wheels-") as folder:
        _bring(Path(folder))
        lacking = [module for module in NEEDED if not _is_there(module)]
        if lacking:
            print(f"benchmarks/gpu.py needs {', '.join(lacking)}: install what is missing.", file=sys.stderr)
            return 2
        _tell_absent()
        _find_the_checkout()
        return _run(arguments)


def _tell_absent() -> None:
    """Say in one sentence which checks need what is not installed."""
    absent: dict[str, list[str]] = {}
    for module, use in OPTIONAL.items():
        if not _is_there(module):
            absent.setdefault(use, []).append(module)
    if absent:
        words = "; ".join(f"of {use} without {', '.join(modules)}" for use, modules in absent.items())
        print(f"There is no check {words}: wheels in runs/wheels would do.", flush=True)


def _is_there(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _bring(folder: Path) -> None:
    """Unpack those wheels of ``runs/wheels`` that are not installed, for here and for processes that are started."""
    for path in sorted(WHEELS.glob("*.whl")):
        with zipfile.ZipFile(path) as wheel:
            tops = {name.partition("/")[0] for name in wheel.namelist()}
            if not any(_is_there(top.removesuffix(".py")) for top in tops if "." not in top.removesuffix(".py")):
                wheel.extractall(folder)
    if any(folder.iterdir()):
        sys.path.append(str(folder))
        os.environ["PYTHONPATH"] = os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(folder)])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=520.0, help="time for all checks (default 520)")
    parser.add_argument("--only", default="", help="sections to run, separated by commas")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder of the table (default runs/gpu)")
    parser.add_argument("--dry", action="store_true", help="small, on the CPU: tries the checks")
    return parser.parse_args()


def _find_the_checkout() -> None:
    """Import from this checkout, here and in processes that are started, whatever is installed under its names."""
    sys.path.insert(0, str(ROOT))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    for name in ("benchmarks", "tests"):
        package: Any = types.ModuleType(name)
        package.__path__ = [str(ROOT / name)]
        sys.modules[name] = package


def _run(arguments: argparse.Namespace) -> int:
    import torch

    from benchmarks.gpu_checks.bench import Bench, Section

    if not arguments.dry and not torch.cuda.is_available():
        print("benchmarks/gpu.py: torch finds no GPU here; --dry tries the checks on the CPU.", file=sys.stderr)
        return 2
    sections = [
        Section("machine", 15, _cases("machine")),
        Section("losses", 50, _cases("losses")),
        Section("trainings", 150, _cases("trainings")),
        Section("kernels", 25, _cases("kernels")),
        Section("steps", 60, _cases("steps")),
        Section("resume", 30, _cases("runs", "resume_cases")),
        Section("ranks", 60, _cases("runs", "rank_cases")),
        Section("memory", 10, _cases("runs", "memory_cases")),
        Section("compiled", 90, _cases("steps", "compiled_cases")),
    ]
    wanted = {name for name in arguments.only.split(",") if name}
    names = [section.name for section in sections]
    if wanted - set(names):
        unknown = ", ".join(sorted(wanted - set(names)))
        print(f"--only: there is no section {unknown}, but {', '.join(names)}.", file=sys.stderr)
        return 2
    if wanted & {"steps", "compiled"}:
        wanted.add("machine")  # with whose peaks times are compared
    sections = [section for section in sections if not wanted or section.name in wanted]
    device = torch.device("cpu" if arguments.dry else "cuda")
    bench = Bench(device, arguments.dry, arguments.seconds, arguments.out)
    return 0 if bench.run(sections) else 1


def _cases(module: str, function: str = "cases") -> Callable[[Any], Any]:
    """The checks of a section, whose module is imported in its turn: the others need not have what it needs."""

    def cases(bench: Any) -> Any:
        return getattr(importlib.import_module(f"benchmarks.gpu_checks.{module}"), function)(bench)

    return cases


if __name__ == "__main__":
    sys.exit(main())
