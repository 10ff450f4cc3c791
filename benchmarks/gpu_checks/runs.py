"""Whole runs: stopped and resumed, by graphs, on two ranks of one device, as one rank of a launcher, out of memory."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.utils._pytree import tree_leaves

from benchmarks.gpu_checks.bench import Bench, Case, Finding
from benchmarks.gpu_checks.trainings import SOME, command, named
from tests.trust.runs import checkpoints, differences, losses
from wasskit.training.loop import Loop

__all__ = ["memory_cases", "rank_cases", "resume_cases"]


# --- Stopped and resumed --------------------------------------------------------------------------------------------


def resume_cases(bench: Bench) -> Iterator[Case]:
    for name in SOME[-1:] if bench.dry else SOME:
        yield name, partial(_resume, bench, name)
    if bench.is_cuda:
        yield "w2gn-toy-without-graphs", partial(_without_graphs, bench)


def _resume(bench: Bench, name: str) -> Finding:
    """A run that is stopped after its second step goes on to the weights of one that is not, which come twice."""
    training, kind = named(name), bench.device.type
    folders = [bench.scratch / f"{name}-{which}" for which in ("whole", "again", "stopped")]
    codes = [command(bench, training.briefly(folder, kind))[0] for folder in folders[:2]]
    with _stopping(2):
        codes.append(command(bench, training.briefly(folders[2], kind))[0])
    codes.append(command(bench, [*training.briefly(folders[2], kind), "--requeue"])[0])
    if codes != [0, 0, 128 + signal.SIGUSR1, 0]:
        return Finding(False, f"exit codes {codes}", "0, 0, the signal's, 0")
    whole, again, resumed = map(checkpoints, folders)
    counts = [len(differences(whole, other)) for other in (again, resumed)]
    words = f"{counts[0]} entries differ in a second run, {counts[1]} in a resumed one"
    if not counts[0] or not bench.is_cuda:
        return Finding(counts == [0, 0], words, "none, to the bit")
    # Kernels that add in any order: the device itself does not come to the same twice.
    spread = [_apart(whole, other) for other in (again, resumed)]
    words += f", by up to {spread[0]:.0e} and {spread[1]:.0e}"
    return Finding(spread[1] <= 10 * spread[0], words, "a resumed run as near as a second one, within a factor of ten")


def _apart(a: object, b: object) -> float:
    """The largest difference of two checkpoints' numbers that are not whole."""
    pairs = zip(tree_leaves(a), tree_leaves(b), strict=True)
    floats = [(x.double(), y.double()) for x, y in pairs if isinstance(x, torch.Tensor) and x.is_floating_point()]
    return max((float((x - y).nan_to_num().abs().max()) for x, y in floats if x.numel()), default=0.0)


@contextlib.contextmanager
def _stopping(at: int) -> Iterator[None]:
    """Inside, a training is asked to stop after a step."""
    plain: Any = Loop._update

    def update(loop: Loop, batches: Any) -> None:
        plain(loop, batches)
        if loop.state.step == at:
            signal.raise_signal(signal.SIGUSR1)

    with mock.patch.object(Loop, "_update", update):
        yield


def _without_graphs(bench: Bench) -> Finding:
    """Recorded steps are the steps: the weights after a training of each."""
    training, folders = named("w2gn-toy"), [bench.scratch / "graphs", bench.scratch / "launches"]
    for folder, flag in zip(folders, ("--cuda-graph", "--no-cuda-graph"), strict=True):
        argv = _with(training.briefly(folder, bench.device.type), "--steps", "12")
        code, said = command(bench, [*argv, flag])
        if code:
            return Finding(False, f"exit {code}: {said.strip()[-300:]}", "exit 0")
    first, second = (checkpoints(folder)["checkpoints/last.pt"]["task"] for folder in folders)
    apart = max(float((first[name].double() - second[name].double()).abs().max()) for name in first)
    return Finding(apart <= 1e-5, f"weights differ by {apart:.0e}", "at most 1e-05 after 12 steps")


def _with(argv: list[str], flag: str, value: str) -> list[str]:
    """The command line with another value of a flag that it has."""
    place = argv.index(flag) + 1
    return [*argv[:place], value, *argv[place + 1 :]]


# --- Ranks ----------------------------------------------------------------------------------------------------------


def rank_cases(bench: Bench) -> Iterator[Case]:
    for name in ("ssl-byol-w2",) if bench.dry else ("ssl-byol-w2", "mrl-train", "w2gn-toy"):
        yield f"two-{name}", partial(_two_ranks, bench, name)
    yield "launched-alone", partial(_launched_alone, bench)


def _two_ranks(bench: Bench, name: str) -> Finding:
    """Two ranks share the device, which NCCL refuses: their tensors travel through host memory."""
    training, kind = named(name), bench.device.type
    one, two = bench.scratch / f"{name}-1", bench.scratch / f"{name}-2"
    # By default ranks that share a device normalise their own batches.
    joint = () if training.argv[0] == "w2gn" else ("--sync-bn",)
    with _convolutions_in_full():
        code, said = command(bench, training.briefly(one, kind))
    both = _process(bench, [*training.briefly(two, kind, 2), *joint], {"NVIDIA_TF32_OVERRIDE": "0"})
    if code or both.returncode:
        text = both.stderr if both.returncode else said
        return Finding(False, f"exit {code} and {both.returncode}: {text.strip()[-300:]}", "exit 0")
    pairs = list(zip(losses(one), losses(two), strict=True))
    # As on hosts: the first loss to the rounding of a mean, later ones to what training makes of it.
    terms, drift = training.terms, training.drift or 0.5
    first = abs(pairs[0][0][1] - pairs[0][1][1]) / (abs(pairs[0][0][1]) + terms)
    last = max(abs(a - b) / (abs(a) + terms) for (_, a), (_, b) in pairs)
    told = not bench.is_cuda or "share a GPU" in both.stderr
    words = f"first losses apart by {first:.0e}, any by {last:.0e}{'' if told else ', nothing said of sharing'}"
    return Finding(first <= 1e-5 and last <= drift and told, words, f"at most 1e-05 and {drift:.0e}, said to share")


@contextlib.contextmanager
def _convolutions_in_full() -> Iterator[None]:
    """Inside, no convolution is of TF32: for half a batch cuDNN may take another algorithm, which rounds otherwise."""
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = True  # as torch has it


def _launched_alone(bench: Bench) -> Finding:
    """A launcher's only rank opens its process group, on CUDA one of NCCL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    argv = named("mrl-train").briefly(bench.scratch / "alone", bench.device.type)
    done = _process(bench, argv, alone)
    said = f": {done.stderr.strip()[-300:]}" if done.returncode else ""
    return Finding(done.returncode == 0, f"exit {done.returncode}{said}", "exit 0")


def _process(bench: Bench, argv: list[str], more: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """``wasskit ARGV`` as a process of its own, which ends with this one's time."""
    root = Path(__file__).resolve().parents[2]
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "NO_COLOR": "1", "COLUMNS": "1000", **(more or {})}
    return subprocess.run(
        [sys.executable, "-m", "wasskit", *argv], env=environment, capture_output=True, text=True,
        timeout=max(bench.remaining(), 1.0), check=False,
    )  # fmt: skip


# --- Memory ---------------------------------------------------------------------------------------------------------


def memory_cases(bench: Bench) -> Iterator[Case]:
    yield "message", partial(_out_of_memory, bench)


def _out_of_memory(bench: Bench) -> Finding:
    """Too large a batch ends in one sentence that says what to do, and the device serves the next training."""
    training = named("w2gn-toy")
    size = "32" if bench.dry else str(2**20)
    argv = _with(training.briefly(bench.scratch / "large", bench.device.type), "--batch-size", size)
    with _little_memory(bench):
        code, said = command(bench, argv)
    after, _ = command(bench, training.briefly(bench.scratch / "after", bench.device.type))
    words = " ".join(said.split())
    passed = code == 1 and "ran out of memory" in words and "smaller --batch-size" in words
    passed &= "Traceback" not in words and after == 0
    expected = "exit 1, what ran out and what to do, then exit 0"
    return Finding(passed, f"exit {code}: {words[-300:]}, then exit {after}", expected)


@contextlib.contextmanager
def _little_memory(bench: Bench) -> Iterator[None]:
    """Inside, the device has 64 MiB more than it holds; a host says at once what a device would."""
    if bench.is_cuda and not bench.dry:
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(bench.device).total_memory
        share = (torch.cuda.memory_reserved(bench.device) + 2**26) / total
        torch.cuda.set_per_process_memory_fraction(min(share, 1.0), bench.device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, bench.device)
            torch.cuda.empty_cache()
        return

    def update(loop: Loop, batches: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has 1.00 GiB free.")

    with mock.patch.object(Loop, "_update", update):
        yield
