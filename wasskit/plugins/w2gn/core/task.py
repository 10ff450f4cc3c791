"""Training a pair of potentials: steps, projection, moving average, evaluation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from wasskit.distributed.group import world_size
from wasskit.distributed.shard import shard_indices, shard_weight
from wasskit.errors import UserError
from wasskit.models.icnn import DenseICNN
from wasskit.ot.gaussian import Balance
from wasskit.ot.precision import full_precision
from wasskit.plugins.w2gn.core.gauss_newton import Batch, check_size, gauss_newton_step
from wasskit.plugins.w2gn.core.objective import identity_objective
from wasskit.plugins.w2gn.core.transport import W2GN, gaussian_coordinates
from wasskit.plugins.w2gn.options import GaussNewtonOptions, ObjectiveOptions, StepOptions, TransportOptions
from wasskit.training.schedules import constant, cosine, delayed, warmup
from wasskit.training.task import Losses, Optimisation, Plan, Progress, Stepper, StepSource, Task

Scores = Callable[[W2GN], Mapping[str, Mapping[str, float]]]
"""Metrics of the maps, by split. Called by all ranks, in evaluation mode and without gradient."""


NO_NEWTON = GaussNewtonOptions()

RATE_BESIDE_NEWTON = 0.1
"""Of the inverse's network when the first Gauss-Newton step begins, over the peak; it falls to zero by the last."""


class Draw(Protocol):
    """Batches of a measure, each a function of its number."""

    def __call__(self, number: int, count: int, rows: range | None = None) -> Tensor:
        """The batch ``number``, of ``count`` points (count, ...), or ``rows`` of it."""


class Pair(NamedTuple):
    """This rank's share of a batch of either measure, (B, D) or (B, C, H, W)."""

    x: Tensor
    y: Tensor


class TransportTask(Task):
    """The potentials, an average of their weights, and the metrics of a command.

    Args:
        transport: the pair of potentials.
        options: how the steps are taken.
        scores: metrics of the averaged potentials.
        pretrain: this many first steps train the potential to the identity; then the second network becomes its copy.
        begin: steps of the run that belong to other tasks before this one.
        newton: how many of the last steps are of Gauss and Newton, which leave the inverse's network to Adam.
        apart: of steps of Adam that train the members of means each on its own, the first so many.
    """

    common_draws = True

    def __init__(
        self,
        transport: W2GN,
        options: StepOptions,
        scores: Scores,
        *,
        pretrain: int = 0,
        monitor: str | None = None,
        begin: int = 0,
        newton: GaussNewtonOptions = NO_NEWTON,
        apart: int = 0,
    ) -> None:
        super().__init__()
        self.apart = apart
        self.newton = newton
        if newton.gauss_newton_steps:
            check_size(transport.psi)
            self.register_buffer("damping", torch.tensor(1e-2, dtype=torch.float64))
        self.transport = transport
        self.averaged = transport.frozen_copy()
        self.options = options
        self.scores = scores
        self.pretrain = pretrain
        self.monitor = monitor
        self.monitor_mode = "min"
        self.begin = begin
        self.weight = shard_weight(options.batch_size)
        if world_size() > 1:
            for module in transport.modules():
                if isinstance(module, DenseICNN):
                    module.batch_part = options.batch_size, shard_indices(options.batch_size)

    def networks(self) -> list[nn.Module]:
        return [self.transport]

    def optimisations(self, plan: Plan) -> list[Optimisation]:
        options = self.options
        first, newton = self.begin + self.pretrain, self.newton.gauss_newton_steps
        length = max(plan.total_steps - newton - first, 1)
        rest = cosine(max(length - options.warmup_steps, 1)) if options.schedule == "cosine" else constant()
        of_adam = delayed(first, lambda step: warmup(options.warmup_steps, rest)(step - first + 1))

        def schedule(step: int) -> float:
            left = plan.total_steps - step
            return RATE_BESIDE_NEWTON * left / newton if 0 < left <= newton else of_adam(step)

        fused = next(self.transport.parameters()).device.type in ("cpu", "cuda")

        def adam(module: nn.Module, betas: Sequence[float], lr: float = options.lr) -> torch.optim.Adam:
            return torch.optim.Adam(
                module.parameters(), lr, betas=(betas[0], betas[1]), weight_decay=options.weight_decay, fused=fused
            )

        transport = self.transport
        optimisations = [
            Optimisation(adam(transport.psi, options.betas), schedule, "psi", options.clip_norm),
            Optimisation(adam(transport.conjugate, options.conjugate_betas), schedule, "conjugate", options.clip_norm),
        ]
        if self.pretrain:
            optimisations.append(Optimisation(adam(transport.psi, (0.8, 0.9), 1e-3), None, "identity"))
        return optimisations

    def in_pretraining(self, progress: Progress) -> bool:
        """Whether the next step trains the potential to the identity."""
        return progress.step < self.begin + self.pretrain

    def in_newton(self, progress: Progress) -> bool:
        """Whether the next step is of Gauss and Newton."""
        return progress.total_steps - progress.step <= self.newton.gauss_newton_steps

    def in_apart(self, progress: Progress) -> bool:
        """Whether the next step trains the members of means each on its own."""
        return progress.step < self.begin + self.pretrain + self.apart

    def kind_of_step(self, progress: Progress) -> Hashable | None:
        if self.in_newton(progress):
            return None
        if self.in_pretraining(progress):
            return "identity"
        return "members" if self.in_apart(progress) else "potentials"

    def step(self, batch: Pair, stepper: Stepper) -> Losses:
        if self.in_pretraining(stepper.progress):
            return self.identity_step(batch, stepper)
        if self.in_newton(stepper.progress):
            return self.newton_step(batch, stepper)
        with stepper.autocast():
            objective = self.transport(batch.x, batch.y, apart=self.in_apart(stepper.progress))
        terms = {
            "correlation": objective.correlation,
            "half_w2": self.transport.half_squared_distance(objective, batch.x, batch.y),
            "residual": objective.residual,
        }
        if self.transport.refine == "none":
            terms |= {"cycle_y": objective.cycle_y, "cycle_x": objective.cycle_x}
        else:
            terms["amortisation"] = objective.amortisation
        losses = Losses(objective.total, {name: value.detach() for name, value in terms.items()})
        losses = losses.weighted(self.weight)
        stepper.backward(losses.total)
        stepper.update("psi", "conjugate")
        return losses

    def identity_step(self, batch: Pair, stepper: Stepper) -> Losses:
        """Train the potential to the identity, on three times the width of the source (as published)."""
        loss = identity_objective(self.transport.psi, 3.0 * batch.x, self.transport.l1)
        losses = Losses(loss).weighted(self.weight)
        stepper.backward(losses.total)
        stepper.update("identity")
        return losses

    def newton_step(self, batch: Pair, stepper: Stepper) -> Losses:
        """A Gauss-Newton step of the potential; the inverse's network follows the conjugates that it has solved."""
        count, damping = self.newton.gauss_newton_points, self.get_buffer("damping")
        first, second, x, y = self.transport.roles(batch.x, batch.y)
        with torch.no_grad():
            start = second.gradient(y)
        taken = gauss_newton_step(first, Batch(x, y, start, count), float(damping))
        damping.fill_(taken.damping)
        parts = max(count // self.options.batch_size, 1)
        for points, solved in zip(y.tensor_split(parts), taken.solved.tensor_split(parts), strict=True):
            with stepper.autocast():
                error = (second.gradient(points) - solved).square().mean()
            stepper.backward(shard_weight(count) * error)
            stepper.update("conjugate" if second is self.transport.conjugate else "psi")
        terms = {"residual": taken.residual, "damping": taken.damping}
        return Losses(x.new_tensor(taken.value), terms)

    def after_update(self, progress: Progress) -> None:
        self.transport.convexify()
        step = progress.step - self.begin - self.pretrain
        if step == -1:
            self.transport.conjugate.load_state_dict(self.transport.psi.state_dict())
        # Early on the average reaches over a tenth of the steps so far, so that the start drops out of it.
        decay = min(self.options.ema, (step + 1) / (step + 10)) if step >= 0 else 0.0
        if self.in_newton(progress):
            decay = min(decay, 0.5)  # few steps, from many points each
        averages: list[Tensor] = list(self.averaged.parameters())
        weights: list[Tensor] = list(self.transport.parameters())
        torch._foreach_lerp_(averages, weights, 1.0 - decay)

    def evaluate(self, progress: Progress) -> dict[str, dict[str, float]]:
        with torch.no_grad(), full_precision(next(self.averaged.parameters())):  # as the maps are saved
            return {split: dict(values) for split, values in self.scores(self.averaged).items()}


def dense_transport(options: TransportOptions, dim: int, coordinates: Callable[[], Balance]) -> W2GN:
    """The pair of dense potentials that the options ask for.

    Args:
        coordinates: for ``--start gaussian``, where the potentials live.
    """
    potentials = options.potentials
    start: Any = {"identity": "identity", "pretrain": "plain"}.get(potentials.start)
    return W2GN.dense(
        dim,
        hidden=potentials.hidden,
        rank=potentials.rank,
        activation=potentials.activation,
        strong_convexity=potentials.strong_convexity,
        dropout=potentials.dropout,
        start=coordinates() if start is None else start,
        **objective_settings(options.objective),
    )


def fitted_transport(options: TransportOptions, dim: int, x: Draw, y: Draw, members: int = 1) -> W2GN:
    """`dense_transport` adapted to points that are drawn from either measure.

    Args:
        members: pairs whose means are returned, where these are several.
    """
    count = options.potentials.start_samples or 32768 + 4096 * dim
    coordinates = functools.cache(lambda: gaussian_coordinates(chunks(x, count), chunks(y, count)))
    pairs = [dense_transport(options, dim, coordinates) for _ in range(members)]
    transport = pairs[0] if members == 1 else W2GN.mean(pairs)
    if options.potentials.start != "pretrain":
        points = x(-1, 4096), y(-1, 4096)
        transport.to(points[0].device).center(*points)
    return transport


def objective_settings(options: ObjectiveOptions) -> dict[str, Any]:
    """The objective that the options ask for, as keywords of `W2GN`."""
    return {
        "refine": options.refine,
        "evaluations": options.refine_evaluations,
        "cycle_x": options.cycle_source,
        "cycle_y": options.cycle,
        "l1": options.l1,
        "dual": options.dual,
    }


def chunks(draw: Draw, count: int, size: int = 16384) -> Iterator[Tensor]:
    """``count`` points in batches, numbered from -1 downwards so that training never sees them again."""
    for number in range(0, count, size):
        yield draw(-1 - number // size, min(size, count - number))


def pair_source(x: Draw, y: Draw, batch_size: int, late: tuple[int, int] | None = None) -> StepSource:
    """Batches of two measures, each a function of its number; every rank draws its rows of them.

    Args:
        late: the number from which on batches have another size, and that size.
    """

    shares = {size: own_rows(size) for size in (batch_size, batch_size if late is None else late[1])}

    def draw(number: int) -> Pair:
        size = batch_size if late is None or number < late[0] else late[1]
        rows = shares[size]
        return Pair(x(number, size, rows), y(number, size, rows))

    return StepSource(draw, batch_size=batch_size)


def own_rows(batch_size: int, flag: str = "--batch-size") -> range:
    """This rank's rows of a batch. Raises `UserError` where a rank would have none."""
    if batch_size < world_size():
        raise UserError(f"{flag}: {batch_size} cannot be shared by {world_size()} processes, which need one each.")
    return shard_indices(batch_size)
