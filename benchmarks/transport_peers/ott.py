"""The neural methods of OTT-JAX, in a process of an interpreter that has it: no torch, nothing of wasskit.

    python -m benchmarks.transport_peers.ott METHOD POINTS.npy OUT.npz --seconds S --batch B --seed N < BATCHES

The standard input holds float32 batches (B, D) of source and target in turn, without end. The training is the
library's own loop; its callback looks at the clock, sets the learning rate and ends it. The first two steps, in which
JAX compiles one for each direction, do not count.

``neural-dual``: `W2NeuralDual` with `PotentialMLP`, a potential that need not be convex, and the L-BFGS conjugate
solver; networks, widths, optimiser, schedule, activation and tolerance of the solver as in its author's configuration
of this benchmark (facebookresearch/w2ot, ``nn_hd_benchmark``) with regression as amortisation, but for the training to
the identity beforehand, near which networks of this class begin. Potentials of the class `ICNN` were further from the
map after half a minute (D = 2: 1.6 % and 3.2; D = 16: 48 % and 151); started at the Gaussian map with weights small
enough to stay there, they had not moved from it after five minutes.
``enot``: `ExpectileNeuralDual`, networks and regularisation the class's own, Adam and schedule as its authors use.
Both schedules follow the share of the time that is spent.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.transport_peers.course import Clock, Course

RATE = 5e-4
LAST = {"neural-dual": 1e-4, "enot": 1e-2}
"""Where the cosine schedules end, over where they begin."""
MANY = 10**9


class _Over(Exception):
    """The time is spent."""


def batches(count: int, dim: int, clock: Clock) -> Iterator[NDArray[np.float32]]:
    """What the standard input holds, batch by batch."""
    while True:
        with clock.paused():
            block = sys.stdin.buffer.read(4 * count * dim)
        if len(block) < 4 * count * dim:
            raise EOFError("there are no more batches")
        yield np.frombuffer(block, np.float32).reshape(count, dim)


def neural_dual(dim: int, key: Any) -> Any:
    import jax
    import optax
    from ott.neural.methods.neuraldual import W2NeuralDual
    from ott.neural.networks.layers.conjugate import FenchelConjugateLBFGS
    from ott.neural.networks.potentials import PotentialMLP

    base = max(dim, 32)
    widths = [2 * base, 2 * base, base]
    adam = optax.inject_hyperparams(optax.adamw)(learning_rate=RATE, b1=0.5, b2=0.5)
    potential = PotentialMLP(widths, is_potential=True, act_fn=jax.nn.elu)
    inverse = PotentialMLP(widths, is_potential=False, act_fn=jax.nn.elu)
    solver = FenchelConjugateLBFGS(gtol=0.1)
    return W2NeuralDual(
        dim, potential, inverse, adam, adam, num_train_iters=MANY, valid_freq=MANY, rng=key, conjugate_solver=solver
    )  # fmt: skip


def enot(dim: int, key: Any) -> Any:
    import optax
    from ott.neural.methods.expectile_neural_dual import ExpectileNeuralDual

    adam = optax.inject_hyperparams(optax.adam)(learning_rate=RATE, b1=0.9, b2=0.99)
    return ExpectileNeuralDual(
        dim, optimizer_f=adam, optimizer_g=adam, num_train_iters=MANY, valid_freq=MANY, rng=key
    )  # fmt: skip


def set_rate(solver: Any, rate: float) -> None:
    """The learning rate of the next step of both networks."""
    import jax.numpy as jnp

    for name in ("state_f", "state_g"):
        state = getattr(solver, name)
        values = {**state.opt_state.hyperparams, "learning_rate": jnp.asarray(rate, jnp.float32)}
        setattr(solver, name, state.replace(opt_state=state.opt_state._replace(hyperparams=values)))


def image(solver: Any, method: str, points: NDArray[Any]) -> NDArray[Any]:
    """Where the forward map takes the points.

    That of the neural dual is the gradient of its potential; `DualPotentials.transport` of OTT-JAX 0.6.0 goes
    half the way, as its cost is the squared distance and the potentials are those of half of it.
    """
    if method == "neural-dual":
        return np.asarray(solver.state_f.potential_gradient_fn(solver.state_f.params)(points))
    return np.asarray(solver.to_dual_potentials().transport(points))


def train(method: str, points: NDArray[Any], seconds: float, batch: int, seed: int) -> Course:
    import jax

    dim, clock = points.shape[1], Clock(seconds)
    stream = batches(batch, dim, clock)
    key = jax.random.PRNGKey(seed)
    solver = enot(dim, key) if method == "enot" else neural_dual(dim, key)
    course = Course(clock, lambda: image(solver, method, points))
    set_rate(solver, RATE)

    def look(step: int, _: Any) -> None:
        jax.block_until_ready((solver.state_f.params, solver.state_g.params))
        if step < 2:
            clock.start()
        if not course.goes_on(step + 1):
            raise _Over
        fall = 0.5 * (1 + math.cos(math.pi * clock.seconds / seconds))
        set_rate(solver, RATE * (LAST[method] + (1 - LAST[method]) * fall))

    try:
        solver(stream, stream, iter(()), iter(()), callback=look)
    except _Over:
        return course
    raise RuntimeError("the training ended before its time")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("method", choices=LAST)
    parser.add_argument("points", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    train(args.method, np.load(args.points), args.seconds, args.batch, args.seed).write(args.out)


if __name__ == "__main__":
    main()
