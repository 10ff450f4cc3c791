"""What a benchmark declares, and how it is measured: pieces of work in turns, ratios of each turn, their median.

A file declares benchmarks by ``@benchmark`` on a function that yields a `Case` for each size; its parameters, with
their defaults, are the options of the file as a script (``main``), and ``run.py`` runs all that are declared.
"""

from __future__ import annotations

import argparse
import inspect
import itertools
import json
import math
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from tests.trust.memory import peak_memory as resident_peak

__all__ = ["Benchmark", "Case", "Seconds", "Work", "benchmark", "epochs", "main", "measure"]

Work = Callable[[], object]
Clock = Literal["thread", "wall", "processes"]

SHORTEST = 0.02
"""Seconds of one turn at least: shorter work is repeated."""


class Seconds(float):
    """The result of a piece of work that was timed elsewhere, in another process say."""


@dataclass(frozen=True)
class Case:
    """One size of a benchmark: pieces of work that come to the same.

    Args:
        size: in words, ``"(512, 128)"``.
        plain: the same work, written plainly.
        peers: by the name of the package, what makes its work; may raise ``ImportError``.
        floor: the part that no way can leave out, say one product of matrices.
        agree: called with our result and that of each other way but the floor; raises where they differ.
        plain_share: the share of the work that ``plain`` does, where all of it would take too long.
        items: how many things are worked on, where their number in a second is of interest.
        note: further facts, in words, once all has run.
    """

    size: str
    ours: Work
    plain: Work | None = None
    peers: Mapping[str, Callable[[], Work]] = field(default_factory=dict)
    floor: Work | None = None
    agree: Callable[[Any, Any], None] | None = None
    plain_share: float = 1.0
    items: int = 0
    note: Callable[[], str] | None = None


@dataclass(frozen=True)
class Benchmark:
    """A function that yields cases, and what is said of them.

    Args:
        name: for ``--only``, the history and the tables; ``title``, ``plain``, ``floor``: what is measured, against
            which plain form, and what bounds it from below, in words.
        dtype: of the arithmetic that is compared.
        clock: ``thread`` is that of the thread, of which other processes take none, on one thread of the CPU, and else
            that of the wall; ``processes`` is the processor time of this process and its children.
        memory: whether the growth of the process's peak is measured, each way alone in a process.
        quick, full: arguments of ``cases`` for a trial of the runner, and for the table where the defaults take long.
        threads: numbers of threads that make a difference.
    """

    name: str
    cases: Callable[..., Iterator[Case]]
    title: str
    plain: str = ""
    floor: str = ""
    dtype: str = "float32"
    clock: Clock = "thread"
    memory: bool = False
    quick: Mapping[str, Any] = field(default_factory=dict)
    full: Mapping[str, Any] = field(default_factory=dict)
    threads: Sequence[int] = (1, 2)

    def described(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in ("title", "plain", "floor", "dtype")}


def benchmark(title: str, **facts: Any) -> Callable[[Callable[..., Iterator[Case]]], Benchmark]:
    """Declare the decorated function's cases as a benchmark of its name."""

    def declare(cases: Callable[..., Iterator[Case]]) -> Benchmark:
        return Benchmark(facts.pop("name", cases.__name__), cases, title, **facts)

    return declare


def clock_of(name: Clock, threads: int, device: str) -> Callable[[], float]:
    if name == "processes":
        return _processor_seconds
    return time.thread_time if name == "thread" and threads == 1 and device == "cpu" else time.perf_counter


def _processor_seconds() -> float:
    """Of this process and of its workers, as Linux counts them."""
    ticks = 0
    for worker in multiprocessing.active_children():
        user, system = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        ticks += int(user) + int(system)
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def in_turns(
    ways: Mapping[str, Work],
    clock: Callable[[], float],
    seconds: float,
    turns: int = 3,
    *,
    first: Mapping[str, float],
    cuda: bool = False,
) -> dict[str, list[float]]:
    """Seconds of each way in each turn: A B C A B C ..., for ``seconds`` of the wall's clock and so many turns.

    ``first`` are the seconds of each way's first call, which has warmed the caches.
    """

    def timed(work: Work, calls: int) -> float:
        if cuda:
            torch.cuda.synchronize()
        began, known = clock(), 0.0
        for _ in range(calls):
            result = work()
            known += result if isinstance(result, Seconds) else 0.0
        if cuda:
            torch.cuda.synchronize()
        return (known or clock() - began) / calls

    calls = {
        name: 1 if first[name] > 20 * SHORTEST else math.ceil(SHORTEST / max(timed(work, 1), 1e-6))
        for name, work in ways.items()
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    began = time.perf_counter()
    while time.perf_counter() - began < seconds or min(map(len, times.values())) < turns:
        for name, work in ways.items():
            times[name].append(timed(work, calls[name]))
    return times


def epochs(loader: Any) -> Work:
    """An epoch of a training loader after another."""
    numbers = itertools.count()

    def work() -> None:
        for _ in loader.batches(next(numbers)):
            pass

    return work


def spread(values: Iterable[float]) -> list[float]:
    """Median and quartiles."""
    ordered = sorted(values)
    low, _, high = statistics.quantiles(ordered, method="inclusive") if len(ordered) > 1 else ordered * 3
    return [float(f"{value:.4g}") for value in (statistics.median(ordered), low, high)]


@dataclass
class Settings:
    """How to measure: threads, seconds of a case, turns at least, and whether peers take part."""

    threads: int = 1
    device: str = "cpu"
    seconds: float = 4.0
    turns: int = 3
    peers: bool = False


def measure(declared: Benchmark, settings: Settings, arguments: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The result of each case; ``ratios`` are the times of the others by ours, ``floor`` is ours by the floor's."""
    known = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        for case in declared.cases(**arguments):
            yield _measured(case, declared, settings)
    finally:
        torch.set_num_threads(known)


def _measured(case: Case, declared: Benchmark, settings: Settings) -> dict[str, Any]:
    clock = clock_of(declared.clock, settings.threads, settings.device)
    missing: dict[str, str] = {}
    ways = _ways(case, settings.peers, missing)
    results: dict[str, object] = {}
    first: dict[str, float] = {}
    for name, work in ways.items():
        began = time.perf_counter()
        results[name] = work()
        first[name] = time.perf_counter() - began
    if case.agree is not None:
        for name in results.keys() - {"ours", "floor"}:
            case.agree(results["ours"], results[name])
    results.clear()
    cuda = settings.device != "cpu"
    times = in_turns(ways, clock, settings.seconds, settings.turns, first=first, cuda=cuda)
    times["plain"] = [value / case.plain_share for value in times.get("plain", [])]
    ours = times.pop("ours")
    ratios = {name: spread(b / a for a, b in zip(ours, other, strict=True)) for name, other in times.items() if other}
    return {
        "benchmark": declared.name,
        "size": case.size,
        "threads": settings.threads,
        "seconds": spread(ours)[0],
        "rate": case.items / spread(ours)[0],
        "floor": float(f"{1 / ratios.pop('floor')[0]:.4g}") if "floor" in ratios else None,
        "ratios": ratios,
        "missing": missing,
        "note": case.note() if case.note else "",
    }


def _ways(case: Case, peers: bool, missing: dict[str, str]) -> dict[str, Work]:
    """Ours, the plain form, the peers that are installed (the names of others go to ``missing``), the floor."""
    ways = {"ours": case.ours}
    if case.plain is not None:
        ways["plain"] = case.plain
    for name, make in case.peers.items() if peers else ():
        try:
            ways[name] = make()
        except ImportError as error:
            missing[name] = str(error)
    if case.floor is not None:
        ways["floor"] = case.floor
    return ways


def peak_memory(declared: Benchmark, settings: Settings, arguments: Mapping[str, Any], place: int, way: str) -> float:
    """MiB by which the peak of this process grows while one way of the case runs once."""
    torch.set_num_threads(settings.threads)
    case = next(case for number, case in enumerate(declared.cases(**arguments)) if number == place)
    work = _ways(case, settings.peers, {})[way]
    before = resident_peak()
    work()
    return (resident_peak() - before) / 2**20


def peaks(declared: Benchmark, settings: Settings, arguments: Mapping[str, Any], place: int) -> dict[str, float]:
    """`peak_memory` of ours and of the plain form, each in a process of its own."""
    call = [sys.executable, str(Path(__file__).with_name("run.py")), "--peak", declared.name, str(place)]
    given = json.dumps([asdict(settings), dict(arguments)])
    found = {}
    for way in ("ours", "plain"):
        ended = subprocess.run([*call, way, given], capture_output=True, text=True)
        if ended.returncode == 0:
            found[way] = round(float(ended.stdout.split()[-1]), 1)
    return found


def line_of(result: Mapping[str, Any]) -> str:
    """A result in one line."""
    parts = [f"{result['benchmark']} {result['size']}, {result['threads']} thread(s): {1e3 * result['seconds']:.4g} ms"]
    for name, (median, low, high) in result["ratios"].items():
        parts.append(f"{name} {median:.2f}x [{low:.2f}, {high:.2f}]")
    if result["rate"]:
        parts.append(f"{result['rate']:,.0f} a second")
    if result["floor"]:
        parts.append(f"{result['floor']:.2f} of the floor")
    if result.get("memory"):
        parts.append(", ".join(f"{name} {mib:.0f} MiB" for name, mib in result["memory"].items()))
    parts += [f"{name} is not installed" for name in result["missing"]]
    return "; ".join(parts + [result["note"]] * bool(result["note"]))


def main(doc: str | None, *declared: Benchmark) -> None:
    """Run the benchmarks of a file; its options are the parameters of their cases."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=4.0, help="of a case")
    parser.add_argument("--peers", action="store_true", help="also the packages of others that are installed")
    parser.add_argument("--json", action="store_true")
    own: dict[str, Any] = {}
    for one in declared:
        own |= {name: parameter.default for name, parameter in inspect.signature(one.cases).parameters.items()}
    for name, default in own.items():
        _add_option(parser, f"--{name.replace('_', '-')}", default)
    given = vars(parser.parse_args())
    device, turns = str(given.get("device", "cpu")), int(given.get("repeats", 3))
    settings = Settings(given["threads"], device, given["seconds"], turns, given["peers"])
    for one in declared:
        arguments = {name: given[name] for name in inspect.signature(one.cases).parameters}
        for place, result in enumerate(measure(one, settings, arguments)):
            if one.memory:
                result["memory"] = peaks(one, settings, arguments, place)
            print(json.dumps(result) if given["json"] else line_of(result), flush=True)


def _add_option(parser: argparse.ArgumentParser, flag: str, default: Any) -> None:
    if isinstance(default, bool):
        parser.add_argument(flag, action="store_true")
    elif isinstance(default, tuple):
        parser.add_argument(flag, type=type(default[0]), nargs="+", default=default)
    else:
        parser.add_argument(flag, type=type(default), default=default)
