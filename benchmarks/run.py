"""All benchmarks of this folder in one run: ratios to plain forms and to other packages, a history, tables of it.

    python benchmarks/run.py --peers                       # as `make bench`: measures, records, writes the tables
    python benchmarks/run.py --only knn,bures --threads 1  # some of them by name; the rest of the tables stays
    python benchmarks/run.py --quick                       # everything, tiny, without a record: does it run?
    python benchmarks/run.py --tables                      # the tables from the history, without a measurement

Every file of this folder that declares benchmarks takes part; a new one needs no other line anywhere. Other packages
come with `pip install -e '.[bench]'`; those that are missing are named and left out.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import report

VERSIONS = (
    "torch", "numpy", "scipy", "geomloss", "pot", "faiss-cpu", "lightly", "pytorch-metric-learning",
    "open-metric-learning", "torchmetrics", "kornia", "ott-jax",
)  # fmt: skip
"""Packages whose versions are recorded where they are installed."""

NOT_RUN = ("run.py", "report.py", "harness.py", "gpu.py", "ssl_seeds.py", "w2gn_peers.py")
"""Files that declare no benchmark; the last two compare trainings, by commands of their own."""


def declared() -> dict[str, Any]:
    """The benchmarks of this folder by name."""
    from benchmarks.harness import Benchmark

    found: dict[str, Benchmark] = {}
    for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        if path.name not in NOT_RUN:
            module = importlib.import_module(f"benchmarks.{path.stem}")
            found |= {one.name: one for one in vars(module).values() if isinstance(one, Benchmark)}
    return found


def titles() -> dict[str, str]:
    """What each benchmark of this folder measures."""
    return {name: one.title for name, one in declared().items()}


def measured(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Results of this process's number of threads, each printed as it comes."""
    from benchmarks.harness import Settings, line_of, measure, peaks

    (threads,) = arguments.threads
    settings = Settings(threads, seconds=0.05 if arguments.quick else arguments.seconds, peers=arguments.peers)
    settings.turns = 1 if arguments.quick else 3
    for name, one in declared().items():
        if (arguments.only and name not in arguments.only) or threads not in one.threads:
            continue
        given = dict(one.quick if arguments.quick else one.full)
        for place, result in enumerate(measure(one, settings, given)):
            if one.memory and threads == 1:
                result["memory"] = peaks(one, settings, given, place)
            print(line_of(result), flush=True)
            yield result | {"about": one.described()}


def in_processes(arguments: argparse.Namespace) -> tuple[list[dict[str, Any]], int]:
    """Results of a process for each number of threads (libraries read theirs when they are loaded), and the exit code
    of the first that failed, after which none is started."""
    results: list[dict[str, Any]] = []
    for threads in arguments.threads:
        limits = {f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "MKL", "OPENBLAS")}
        reading, writing = os.pipe()
        call = [sys.executable, __file__, *sys.argv[1:], "--threads", str(threads), "--results", str(writing)]
        with subprocess.Popen(call, env=os.environ | limits, pass_fds=[writing]) as process:
            os.close(writing)
            with os.fdopen(reading, encoding="utf-8") as lines:
                results += [json.loads(line) for line in lines]
        if process.returncode:
            last = f"after {results[-1]['benchmark']} " if results else ""
            print(f"The process of {threads} thread(s) ended {last}with code {process.returncode}.", file=sys.stderr)
            return results, process.returncode
    return results, 0


def machine() -> dict[str, Any]:
    information = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*:\s*(.*)", information.read_text()) if information.exists() else []
    processor = models[0] if models else platform.processor() or platform.machine()
    return {"processor": processor, "cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}"}


def versions() -> dict[str, str]:
    from wasskit import __version__

    found = {"Python": platform.python_version(), "wasskit": __version__}
    for name in VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def record(results: list[dict[str, Any]], arguments: argparse.Namespace) -> dict[str, Any]:
    """The line of this run in the history."""
    about: dict[str, Any] = {}
    missing: set[str] = set()
    for result in results:
        about[result["benchmark"]] = result.pop("about")
        missing |= result.pop("missing").keys()
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "complete": not arguments.only,
        "machine": machine(),
        "versions": versions(),
        "threads": arguments.threads,
        "missing": sorted(missing),
        "benchmarks": about,
        "results": results,
    }


def main() -> None:
    if "--peak" in sys.argv:
        from benchmarks.harness import Settings, peak_memory

        name, place, way, given = sys.argv[2:]
        settings, own = json.loads(given)
        print(peak_memory(declared()[name], Settings(**settings), own, int(place), way))
        return
    arguments = _arguments()
    if arguments.tables:
        report.write_tables(report.read_history(arguments.history), titles())
        return
    if arguments.results is not None:
        with os.fdopen(arguments.results, "w", encoding="utf-8") as lines:
            for result in measured(arguments):
                print(json.dumps(result), file=lines, flush=True)
        return
    unknown = set(arguments.only) - declared().keys() if arguments.only else set()
    if unknown:
        print(
            f"--only: there is no benchmark {', '.join(sorted(unknown))}, but {', '.join(declared())}.", file=sys.stderr
        )
        sys.exit(2)
    results, code = in_processes(arguments)
    if not results:
        sys.exit(code)
    run = record(results, arguments)
    run["complete"] &= not code  # what was measured before a failure is kept
    if run["missing"]:
        print(f"Not installed, and left out: {', '.join(run['missing'])}; pip install -e '.[bench]' has them.")
    if arguments.quick:
        sys.exit(code)
    with arguments.history.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(run) + "\n")
    if arguments.history == report.HISTORY:
        report.write_tables(report.read_history(), titles())
    sys.exit(code)


def _arguments() -> argparse.Namespace:
    def names(text: str) -> list[str]:
        return [name for name in text.split(",") if name]

    def numbers(text: str) -> list[int]:
        return [int(number) for number in names(text)]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=names, default=[], help="names of benchmarks, separated by commas")
    parser.add_argument("--threads", type=numbers, default=[1, 2], help="numbers of threads (default 1,2)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a case (default 3), at least three turns")
    parser.add_argument("--peers", action="store_true", help="also other packages that are installed")
    parser.add_argument("--quick", action="store_true", help="everything tiny, without a record")
    parser.add_argument("--history", type=Path, default=report.HISTORY, help="the file that a line is added to")
    parser.add_argument("--tables", action="store_true", help="write the tables from the history, and measure nothing")
    parser.add_argument("--results", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
