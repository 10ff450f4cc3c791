"""The README's table of `wasskit ssl` on digits: each method without and with ``--w2``, mean and deviation over seeds.

Every run is `wasskit ssl METHOD [--w2] --seed S` with its defaults, in a process of its own, and a row of the CSV; runs
that the file already holds are not repeated, so that it may be stopped and started again (about a minute of one core
each). Another processor or number of threads moves a single run by one or two points.

    OMP_NUM_THREADS=1 python benchmarks/ssl_seeds.py results.csv [--seeds 5]
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

METHODS = ("moco", "byol", "barlow", "zerocl")
COLUMNS = (
    "method", "term", "seed", "whole", "cropped", "w2", "untrained_whole", "untrained_cropped",
    "pixels_whole", "pixels_cropped",
)  # fmt: skip


def measure(method: str, term: str, seed: int) -> list[Any]:
    """One training, from scratch; the measures after its last epoch."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "wasskit", "ssl", method, *([f"--{term}"] if term else [])]
        command += ["--seed", str(seed), "--run-dir", str(Path(folder, "run")), "--json", "--quiet"]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    compared = found["comparison"]
    pairs = [
        compared[name][key] for name in ("untrained", "raw pixels") for key in ("knn10_top1", "knn10_top1_cropped")
    ]
    trained = compared["trained"]
    return [method, term, seed, trained["knn10_top1"], trained["knn10_top1_cropped"], found["final"]["test/w2"], *pairs]


def cell(values: list[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{deviation}"


def show(rows: list[dict[str, str]]) -> None:
    """The README's table, of the seeds that every method has with and without the term."""
    seeds = sorted(
        set.intersection(
            *({r["seed"] for r in rows if (r["method"], r["term"]) == (m, t)} for m in METHODS for t in ("", "w2"))
        )
    )
    if not seeds:
        return
    kept = [row for row in rows if row["seed"] in seeds]
    print(f"{len(seeds)} seeds: {', '.join(seeds)}")
    for name in ("pixels", "untrained"):
        # The untrained backbone is the same for every method: one row a seed.
        own = [row for row in kept if (row["method"], row["term"]) == (METHODS[0], "")]
        print(f"| {name} | " + " | ".join(cell([float(r[f"{name}_{v}"]) for r in own]) for v in ("whole", "cropped")))
    for method in METHODS:
        cells = [
            cell([float(row[column]) for row in kept if (row["method"], row["term"]) == (method, term)])
            for term in ("", "w2")
            for column in ("whole", "cropped", "w2")
        ]
        print(f"| `{method}` | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    path: Path = arguments.results
    if not path.exists():
        path.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
    with path.open(encoding="utf-8", newline="") as file:
        done = {(row["method"], row["term"], int(row["seed"])) for row in csv.DictReader(file)}
    for seed in range(arguments.seeds):
        for method in METHODS:
            for term in ("", "w2"):
                if (method, term, seed) not in done:
                    found = measure(method, term, seed)
                    with path.open("a", encoding="utf-8", newline="") as file:
                        csv.writer(file, lineterminator="\n").writerow(found)
    with path.open(encoding="utf-8", newline="") as file:
        show(list(csv.DictReader(file)))


if __name__ == "__main__":
    main()
