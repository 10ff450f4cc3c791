"""The methods that run in this process: `wasskit w2gn benchmark` with its recipe, and the published algorithm."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.transport_peers.course import Clock, Course
from benchmarks.w2gn_step import plain_loss, plain_map
from wasskit.cli import run
from wasskit.data.toy import Measure
from wasskit.models.icnn import DenseICNN
from wasskit.plugins.w2gn.experiments.pairs import KnownPair
from wasskit.recipes import recipe_names

SIDES = ("source", "target")
CALIBRATION = 60
"""Steps of the training that says how long one takes."""


def stream(pair: KnownPair, batch: int, seed: int) -> Iterator[Tensor]:
    """Batches of source and target in turn: those that `wasskit w2gn benchmark` draws with the same seed."""
    number = 0
    while True:
        for side in SIDES:
            yield getattr(pair, side).draw(batch, seed, side, number, scheme="sobol")
        number += 1


class Untimed(Measure):
    """A measure whose points are drawn while the clock stands."""

    def __init__(self, measure: Measure, clock: Clock) -> None:
        super().__init__(measure.dim, measure.uniforms, measure.transform)
        self.clock = clock

    def draw(self, *args: Any, **options: Any) -> Tensor:
        with self.clock.paused():
            return super().draw(*args, **options)


@dataclasses.dataclass
class Watched(KnownPair):
    """A pair that keeps the map whenever it is scored, while the clock stands; ``every`` so many steps."""

    course: Course | None = None
    every: int = 0

    def scores(self, transport: Any, *args: Any, **options: Any) -> dict[str, dict[str, float]]:
        course = self.course
        assert course is not None
        with course.clock.paused():
            course.mapped = lambda: transport.forward_map(self.x).numpy()
            course.keep(self.every * len(course.maps))
            return super().scores(transport, *args, **options)


def by_recipe(pair: KnownPair, seconds: float, seed: int, folder: Path) -> Course:
    """The command with the recipe of the dimension, shortened (or lengthened) to the steps that fit into the time: its
    schedule follows its steps. How long a step takes, a short training says first.
    """
    trial = _command(pair, seconds, seed, CALIBRATION, CALIBRATION // 3, folder)
    step = (trial.seconds[3] - trial.seconds[1]) / (trial.steps[3] - trial.steps[1])
    before = trial.seconds[1] - step * trial.steps[1]
    steps = max(CALIBRATION, int((seconds - before) / step))
    return _command(pair, seconds, seed, steps, -(-steps // 10), folder)


def _command(pair: KnownPair, seconds: float, seed: int, steps: int, every: int, folder: Path) -> Course:
    clock = Clock(seconds)
    course = Course(clock, lambda: pair.x.numpy())
    own = {f.name: getattr(pair, f.name) for f in dataclasses.fields(KnownPair)}
    own |= {side: Untimed(own[side], clock) for side in SIDES}
    watched = Watched(**own, course=course, every=every)
    named = f"w2gn/benchmark-{pair.dim}"
    recipe = ["--recipe", named] if named in recipe_names("w2gn") else ["--dim", str(pair.dim)]
    found = mock.patch("wasskit.plugins.w2gn.experiments.benchmark.find_pair", return_value=watched)
    with tempfile.TemporaryDirectory(dir=folder) as place, found, contextlib.redirect_stdout(sys.stderr):
        words = ["--steps", steps, "--eval-every", every, "--seed", seed, "--run-dir", Path(place) / "run"]
        clock.start()
        code = run(["w2gn", "benchmark", *recipe, *map(str, words), "--device", "cpu", "--quiet"])
    if code:
        raise SystemExit(f"wasskit w2gn benchmark ended with code {code}.")
    course.steps = [min(number, steps) for number in course.steps]
    return course


def published(pair: KnownPair, seconds: float, seed: int, batch: int) -> Course:
    """Korotin et al. (2021) as their code of the benchmark has it: networks, Adam of rate 1e-3, lambda = D in both
    cycle terms, trained to the identity first (on three times the normal law, up to 5,000 steps or an error of 1e-3).
    """
    torch.manual_seed(seed)
    dim, clock = pair.dim, Clock(seconds)
    widths = (max(2 * dim, 64), max(2 * dim, 64), max(dim, 32))
    psi, conjugate = (DenseICNN(dim, widths, strong_convexity=1e-4) for _ in SIDES)
    course = Course(clock, lambda: psi.gradient(pair.x).detach().numpy())
    clock.start()
    optimiser = torch.optim.Adam(psi.parameters(), 1e-3, weight_decay=1e-10)
    for _ in range(5000):
        with clock.paused():
            x = (3 * torch.randn(batch, dim)).requires_grad_()
        loss = F.mse_loss(plain_map(psi, x), x.detach())
        _step(loss, optimiser, psi)
        if loss.item() < 1e-3 or not course.goes_on(0):
            break
    conjugate.load_state_dict(psi.state_dict())
    optimiser = torch.optim.Adam([*psi.parameters(), *conjugate.parameters()], 1e-3)
    points, step = stream(pair, batch, seed), 0
    while course.goes_on(step):
        with clock.paused():
            x, y = next(points), next(points)
        _step(plain_loss(psi, conjugate, x, y, cycle=float(dim)), optimiser, psi, conjugate)
        step += 1
    return course


def _step(loss: Tensor, optimiser: torch.optim.Optimizer, *networks: DenseICNN) -> None:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    for network in networks:
        network.convexify()
