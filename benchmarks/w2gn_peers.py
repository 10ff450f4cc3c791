"""Neural transport maps on the continuous Wasserstein-2 benchmark: ours and others', after the same time of one core.

``ours``: `wasskit w2gn benchmark` by its recipe; ``published``: W2GN as published, written plainly; ``neural-dual`` and
``enot``: `W2NeuralDual` (Amos, 2023) and `ExpectileNeuralDual` (Buzun et al., 2024) of OTT-JAX, with the settings that
`benchmarks/transport_peers/ott.py` names. For these an environment of their own, of which --peers is the interpreter:

    python -m venv peers && peers/bin/pip install 'ott-jax[neural]>=0.6' optax
    python benchmarks/w2gn_peers.py --dim 2,16 --minutes 1,5 --peers peers/bin/python

All methods train on the same points, new ones in each step, and are scored on the same fresh ones: the unexplained
variance of the forward map in percent (L2-UVP). Time is that of the processor, of one thread: what a core of one's own
takes, also on a machine that others use. Drawing points, scoring maps, imports and compilation do not count; what a
method does before its first step does (our Gaussian start, the published training to the identity). Each budget is a
training of its own, whose schedule ends with it. Beside it the published figures after 250,000 steps on a GPU.

The table is printed as Markdown; courses and settings go to --out, the error over the time of the largest budget to
--figure.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.transport_peers.course import Course
from benchmarks.transport_peers.own import by_recipe, published, stream
from wasskit.data.catalog import data_root
from wasskit.evaluation.transport import l2_uvp
from wasskit.pictures.curves import Curve, Line, Panel, draw_curves
from wasskit.pictures.look import Look
from wasskit.pictures.style import save_figure
from wasskit.plugins.w2gn.experiments.benchmark import PUBLISHED, find_pair, made_pair
from wasskit.plugins.w2gn.experiments.pairs import KnownPair

ROOT = Path(__file__).resolve().parents[1]
OWN, PEERS = ("ours", "published"), ("neural-dual", "enot")
BATCH = 1024


@dataclasses.dataclass
class Outcome:
    """What a method came to: seconds spent, steps taken, the error in percent, and the same over the time."""

    method: str
    dim: int
    minutes: float
    seconds: float
    steps: int
    uvp: float
    course: list[tuple[float, int, float]]


def fresh(dim: int, seed: int, size: int) -> KnownPair:
    """The pair with test points that belong to no run."""
    pair = find_pair(data_root() / "w2benchmark", dim, needed=False) or made_pair(dim, 0)
    x = pair.source.draw(size, seed, "points of the comparison")
    return dataclasses.replace(pair, x=x, y=pair.forward(x))


def peer(method: str, pair: KnownPair, seconds: float, seed: int, python: str, folder: Path) -> Course:
    """A training in a process of the interpreter ``python``, which takes the points from its standard input."""
    np.save(folder / "points.npy", pair.x.numpy())
    out = folder / "course.npz"
    flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    child = subprocess.Popen(
        [python, "-m", "benchmarks.transport_peers.ott", method, str(folder / "points.npy"), str(out),
         "--seconds", str(seconds), "--batch", str(BATCH), "--seed", str(seed)],
        stdin=subprocess.PIPE, cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": flags, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        for batch in stream(pair, BATCH, seed):
            child.stdin.write(batch.numpy().tobytes())
    with contextlib.suppress(BrokenPipeError):
        child.stdin.close()
    if child.wait():
        raise SystemExit(f"{method} ended with code {child.returncode}.")
    return Course.read(out)


def outcome(method: str, pair: KnownPair, minutes: float, seed: int, python: str | None) -> Outcome:
    with tempfile.TemporaryDirectory() as place:
        folder, seconds = Path(place), 60 * minutes
        if method == "ours":
            course = by_recipe(pair, seconds, seed, folder)
        elif method == "published":
            course = published(pair, seconds, seed, BATCH)
        else:
            assert python is not None
            course = peer(method, pair, seconds, seed, python, folder)
    errors = [l2_uvp(torch.from_numpy(mapped), pair.y, pair.target_variance) for mapped in course.maps]
    points = [*zip(course.seconds, course.steps, errors, strict=True)]
    return Outcome(method, pair.dim, minutes, *points[-1], points)


def table(outcomes: list[Outcome]) -> str:
    """Markdown: a row for each method, errors with the steps in brackets."""
    columns = list(dict.fromkeys((o.dim, o.minutes) for o in outcomes))
    cells = {(o.method, o.dim, o.minutes): f"{o.uvp:.3g} ({o.steps:,})" for o in outcomes}
    lines = [["", *(f"D = {dim}, {minutes:g} min" for dim, minutes in columns)], ["---"] * (len(columns) + 1)]
    for method in dict.fromkeys(o.method for o in outcomes):
        lines.append([method, *(cells.get((method, *column), "-") for column in columns)])
    for title, values in PUBLISHED.items():
        lines.append([title, *(str(values.get(dim, "-")) for dim, _ in columns)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(outcomes: list[Outcome], path: Path) -> None:
    """Error over time, a panel for each dimension, of the largest budget."""
    longest = max(o.minutes for o in outcomes)
    methods = list(dict.fromkeys(o.method for o in outcomes))
    panels = []
    for dim in dict.fromkeys(o.dim for o in outcomes):
        lines = [
            Line(Curve.through({s / 60: uvp for s, _, uvp in o.course if s > 0}), o.method, methods.index(o.method))
            for o in outcomes
            if (o.dim, o.minutes) == (dim, longest)
        ]
        panels.append(Panel(f"D = {dim}", lines, "minutes of one core", "unexplained variance (%)", f"D = {dim}"))
    figure = draw_curves(panels, Look(), log_x=True, log_y=True)
    save_figure(figure, path)


def main(argv: list[str] | None = None) -> list[Outcome]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", default="2", help="dimensions, with commas between them")
    parser.add_argument("--minutes", default="1", help="of one core, likewise")
    parser.add_argument("--peers", help="interpreter of the environment with OTT-JAX; without it, ours and published")
    parser.add_argument("--methods", help=f"some of {', '.join(OWN + PEERS)}; default: all that can run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--points", type=int, default=16384, help="fresh points that maps are scored on")
    parser.add_argument("--out", type=Path, help="JSON file of all courses")
    parser.add_argument("--figure", type=Path, help="file of the figure")
    args = parser.parse_args(argv)
    methods = args.methods.split(",") if args.methods else [*OWN, *(PEERS if args.peers else ())]
    if unknown := set(methods) - {*OWN, *PEERS}:
        parser.error(f"--methods: there is no {', '.join(sorted(unknown))}")
    if set(methods) & set(PEERS) and not args.peers:
        parser.error("--peers: name the interpreter of an environment with OTT-JAX")
    torch.set_num_threads(1)
    outcomes: list[Outcome] = []
    for dim in map(int, args.dim.split(",")):
        pair = fresh(dim, args.seed, args.points)
        for minutes in map(float, args.minutes.split(",")):
            for method in methods:
                done = outcome(method, pair, minutes, args.seed, args.peers)
                outcomes.append(done)
                print(f"# {method}, D = {dim}: {done.uvp:.3g} % after {done.seconds:.0f} s", file=sys.stderr)
                if args.out:
                    write(args.out, outcomes, args)
    print(table(outcomes))
    if args.figure:
        draw(outcomes, args.figure)
    return outcomes


def write(path: Path, outcomes: list[Outcome], args: argparse.Namespace) -> None:
    settings: dict[str, Any] = {"seed": args.seed, "points": args.points, "batch": BATCH, "torch": torch.__version__}
    path.write_text(json.dumps({"settings": settings, "results": [dataclasses.asdict(o) for o in outcomes]}, indent=1))


if __name__ == "__main__":
    main()
