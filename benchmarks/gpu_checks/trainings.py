"""Every training command on the device: it runs, and a steady step of it lets the host wait as rarely as is known."""

from __future__ import annotations

import contextlib
import importlib.util
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest import mock

from benchmarks.gpu_checks.bench import Bench, Case, Finding, captured, counted_waits
from tests.trust.commands import TRAININGS, Training
from wasskit.cli import run
from wasskit.training.loop import Loop

__all__ = ["cases", "command", "named"]

NOT_RECORDED = "not recorded as CUDA graphs"

WARM = 1
"""First steps of a training that are not counted: they make what later ones keep."""

VARIANTS = (
    ("mrl-train", "--precision", "bf16"), ("ssl-byol-w2", "--precision", "bf16"),
    ("metrix-contrastive-feature", "--precision", "bf16"), ("w2gn-toy", "--precision", "bf16"),
    ("mrl-train", "--precision", "fp16"), ("mrl-train", "--tf32"), ("w2gn-toy", "--tf32"),
    ("w2gn-toy", "--refine", "newton"), ("w2gn-toy", "--compile"), ("mrl-train", "--compile"),
)  # fmt: skip
"""Trainings with further settings that matter on a GPU."""

SOME = ("mrl-train", "ssl-byol-w2", "metrix-contrastive-feature", "w2gn-toy")
"""One of each method: what a dry run tries, and what time allows first."""


def named(name: str) -> Training:
    return next(training for training in TRAININGS if training.name == name)


def cases(bench: Bench) -> Iterator[Case]:
    """One training of each method, the first of each command, all, the variants; those of processes of their own."""
    firsts = {training.command: training.name for training in reversed(TRAININGS)}
    order = [*SOME, *firsts.values(), *(training.name for training in TRAININGS)]
    chosen = [named(name) for name in dict.fromkeys(order)]
    alone = [training for training in chosen if not training.is_grid]
    for training in alone[: len(SOME)] if bench.dry else alone:
        yield training.name, partial(_train, bench, training, ())
    for name, *flags in VARIANTS[:1] if bench.dry else VARIANTS:
        yield "-".join([name, *flags]).replace("---", "-"), partial(_train, bench, named(name), tuple(flags))
    if not bench.dry:
        for training in chosen:
            if training.is_grid:
                yield training.name, partial(_train, bench, training, ())


def _train(bench: Bench, training: Training, flags: tuple[str, ...]) -> Finding:
    if "geomloss" in training.argv and importlib.util.find_spec("geomloss") is None:
        return Finding(False, "the package geomloss is not installed", "exit 0")
    folder = bench.scratch / "".join([training.name, *flags])
    steps = _Steps(bench)
    with steps.watched():
        code, said = command(bench, [*training.briefly(folder, bench.device.type), *flags])
    if code:
        return Finding(False, f"exit {code}: {said.strip()[-300:]}", "exit 0")
    if NOT_RECORDED in said and "fp16" not in flags:
        why = said[said.index(NOT_RECORDED) :]
        return Finding(False, f"exit 0, but not by graphs: {why[:300]}", "exit 0, steps of w2gn by CUDA graphs")
    return steps.finding(training)


def command(bench: Bench, argv: list[str]) -> tuple[int, str]:
    """Run a command line of wasskit in this process; its exit code and all that it said."""
    log = bench.scratch / "said.txt"
    with captured(log):
        code = run(argv)
    return code, log.read_text(encoding="utf-8", errors="replace")


@dataclass
class _Steps:
    """How often the host waited in each step, by training of a command: metrix trains a baseline beside."""

    bench: Bench
    waits: dict[int, list[int]] = field(default_factory=dict)
    loops: list[Loop] = field(default_factory=list)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        plain: Any = Loop._update

        def update(loop: Loop, batches: Any) -> None:
            if loop not in self.loops:
                self.loops.append(loop)
            with counted_waits(self.bench) as waits:
                plain(loop, batches)
            self.waits.setdefault(self.loops.index(loop), []).append(len(waits))

        with mock.patch.object(Loop, "_update", update):
            yield

    def finding(self, training: Training) -> Finding:
        steps = sum(map(len, self.waits.values()))
        if training.is_grid:
            return Finding(True, "exit 0, in processes of its own", "exit 0")
        if not self.bench.is_cuda:
            return Finding(steps > 0, f"exit 0, {steps} steps", "exit 0")
        steady = {place: statistics.median_low(found[WARM:] or found) for place, found in self.waits.items()}
        # A second training is the plain one that the first is compared with.
        passed = all(found <= (training.waits if place == 0 else 0) for place, found in steady.items())
        words = " and ".join(str(found) for found in steady.values())
        return Finding(passed, f"exit 0, {words} waits in a steady step of {steps}", f"exit 0, {training.waits} waits")
