"""Two trainings in one run: first a network that makes points (a classifier, an autoencoder), then the map
between them.

Both are steps of one loop with one set of checkpoints, so that a run stopped in either goes on where it was.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wasskit.data.seeds import derive_seed
from wasskit.distributed.collectives import broadcast_module
from wasskit.plugins.w2gn.core.task import Pair, TransportTask, own_rows
from wasskit.plugins.w2gn.core.transport import gaussian_coordinates
from wasskit.system.transfer import to_device
from wasskit.training.task import Losses, Optimisation, Plan, Progress, Stepper, StepSource, Task


class Points(NamedTuple):
    """Points of the two measures that the map is fitted to."""

    x: Tensor
    y: Tensor


class FirstStage(Task):
    """What comes before the map. Subclasses also say how its points are made."""

    def batch(self, number: int) -> Any:
        """This rank's share of the training batch ``number``."""
        raise NotImplementedError

    def points(self) -> Points:
        """The points of both measures from the trained network; called once, when the first stage is over."""
        raise NotImplementedError

    def fresh(self) -> Points:
        """The same from test images, by which start and end of the map's training are compared."""
        raise NotImplementedError


class TwoStages(Task):
    """A first stage of ``length`` steps, then the training of the potentials on the points that it makes.

    Args:
        first: the network of the first stage; with ``length`` 0 it is taken as it is.
        second: the potentials; begins at step ``length``.
        gaussian_start: move the potentials' coordinates to the balance of the two point sets when they are known.
        floor: see `wasskit.ot.gaussian.balance`.
    """

    def __init__(
        self, first: FirstStage, second: TransportTask, length: int, *, gaussian_start: bool, floor: float = 1e-3
    ) -> None:
        super().__init__()
        self.first = first
        self.second = second
        self.common_draws = second.common_draws
        self.length = length
        self.gaussian_start = gaussian_start
        self.floor = floor
        self.monitor = second.monitor
        self.monitor_mode = second.monitor_mode
        self.register_buffer("begun", torch.zeros((), dtype=torch.bool))
        self._points: Points | None = None

    def networks(self) -> list[nn.Module]:
        return self.first.networks() + self.second.networks()

    def optimisations(self, plan: Plan) -> list[Optimisation]:
        own = Plan(max(self.length, 1), plan.steps_per_epoch)
        return [*(self.first.optimisations(own) if self.length else []), *self.second.optimisations(plan)]

    def in_first(self, progress: Progress) -> bool:
        """Whether the next step is one of the first stage."""
        return progress.step < self.length

    def points(self) -> Points:
        """The point sets, made when they are first asked for; the coordinates of a fresh start are set then."""
        if self._points is None:
            # Running statistics are each rank's own until then; every rank maps the points of rank 0's network.
            broadcast_module(self.first)
            self.first.eval()
            with torch.no_grad():
                self._points = Points(*(points.contiguous() for points in self.first.points()))
            self.first.train(self.training)
            self.first.requires_grad_(False)
            if not bool(self.begun):
                self.start_at(self._points)
                # One start for all ranks: eigenvectors may differ between processors.
                broadcast_module(self.second)
            self.get_buffer("begun").fill_(True)
        return self._points

    def start_at(self, points: Points) -> None:
        """Adapt the potentials to the points; begin at the transport between their Gaussians where asked for."""
        transport = self.second.transport
        if self.gaussian_start:
            transport.move_to(gaussian_coordinates(points.x, points.y, self.floor))
        if not self.second.pretrain:
            transport.center(points.x[:4096], points.y[:4096])
        self.second.averaged.load_state_dict(transport.state_dict())

    def kind_of_step(self, progress: Progress) -> Hashable | None:
        return None if self.in_first(progress) else self.second.kind_of_step(progress)

    def step(self, batch: Any, stepper: Stepper) -> Losses:
        return (self.first if self.in_first(stepper.progress) else self.second).step(batch, stepper)

    def after_update(self, progress: Progress) -> None:
        (self.first if self.in_first(progress) else self.second).after_update(progress)

    def evaluate(self, progress: Progress) -> dict[str, dict[str, float]]:
        if progress.step < self.length:
            return self.first.evaluate(progress)
        self.points()
        return self.second.evaluate(progress)

    def source(self, seed: int, batch_size: int) -> StepSource:
        """The batches of both stages, each a function of its number."""
        rows = own_rows(batch_size)

        def draw(number: int) -> Any:
            if number < self.length:
                return self.first.batch(number)
            x, y = self.points()
            return Pair(
                chosen(x, batch_size, seed, "source", number, rows=rows),
                chosen(y, batch_size, seed, "target", number, rows=rows),
            )

        return StepSource(draw, batch_size=batch_size)


def chosen(points: Tensor, count: int, *seed: int | str, rows: range | None = None) -> Tensor:
    """``count`` points drawn with replacement; of these, ``rows`` only."""
    generator = torch.Generator().manual_seed(derive_seed(*seed))
    index = torch.randint(len(points), (count,), generator=generator)
    if rows is not None:
        index = index[rows.start : rows.stop]
    return points[to_device(index, points.device)]
