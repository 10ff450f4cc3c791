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
import importlib.util
import os
import sys
import types
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

NEEDED = {
    "numpy": "numpy", "PIL": "pillow", "rich": "rich", "scipy": "scipy", "sklearn": "scikit-learn",
    "tomli_w": "tomli-w", "torch": "torch", "torchvision": "torchvision", "typer": "typer",
    **({"tomli": "tomli"} if sys.version_info < (3, 11) else {}),
}  # fmt: skip
"""What everything here imports, and the names of the packages."""

OPTIONAL = {"geomloss": "the published divergence of mrl", "matplotlib": "figures of runs"}


def main() -> int:
    arguments = _arguments()
    lacking = [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]
    if lacking:
        print(
            f"benchmarks/gpu.py needs {', '.join(lacking)}: install them by pip, or, without a network, put the wheels "
            "of those that are pure Python (tomli-w, geomloss, typer, rich) on PYTHONPATH.",
            file=sys.stderr,
        )
        return 2
    for module, use in OPTIONAL.items():
        if importlib.util.find_spec(module) is None:
            print(f"Without {module} there is no check of {use}.", flush=True)
    _find_the_checkout()
    return _run(arguments)


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

    from benchmarks.gpu_checks import kernels, losses, machine, runs, steps, trainings
    from benchmarks.gpu_checks.bench import Bench, Section

    if not arguments.dry and not torch.cuda.is_available():
        print("benchmarks/gpu.py: torch finds no GPU here; --dry tries the checks on the CPU.", file=sys.stderr)
        return 2
    sections = [
        Section("machine", 15, machine.cases),
        Section("losses", 50, losses.cases),
        Section("trainings", 150, trainings.cases),
        Section("kernels", 25, kernels.cases),
        Section("steps", 60, steps.cases),
        Section("resume", 30, runs.resume_cases),
        Section("ranks", 60, runs.rank_cases),
        Section("memory", 10, runs.memory_cases),
        Section("compiled", 90, steps.compiled_cases),
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


if __name__ == "__main__":
    sys.exit(main())
