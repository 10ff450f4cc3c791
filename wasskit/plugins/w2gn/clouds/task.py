"""The fit of maps between two clouds: its training, and what is kept of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from wasskit.data.seeds import derive_seed
from wasskit.errors import UserError
from wasskit.ot.energy import random_directions
from wasskit.ot.gaussian import Moments, balance, shrunk_covariance
from wasskit.plugins.w2gn.clouds.data import Clouds
from wasskit.plugins.w2gn.clouds.options import CloudOptions
from wasskit.plugins.w2gn.core.dual import Kept, better_of, gain
from wasskit.plugins.w2gn.core.evaluation import map_scores
from wasskit.plugins.w2gn.core.frame import FramedTransport
from wasskit.plugins.w2gn.core.stages import Points
from wasskit.plugins.w2gn.core.task import TransportTask, dense_transport, pair_source
from wasskit.plugins.w2gn.core.transport import W2GN
from wasskit.plugins.w2gn.fitting import decides, pretraining
from wasskit.training.task import Progress, StepSource

_MOST_VARIANCE = 1e28
"""The variance of a cloud beyond which float32, of up to 3e38, holds no squares of sums, and its reciprocal."""


class CloudTask(TransportTask):
    """Potentials in training, and those of the evaluation at which they gained most over the Gaussian start.

    Few rows are learned by heart in a few hundred steps. What is kept is therefore chosen by the dual value on rows
    that are not trained on (`wasskit.plugins.w2gn.core.dual`), with the start among the candidates.

    Args:
        clouds: of which the rows to choose by are taken here.
        decides: whether the best is kept; otherwise the end is.
    """

    def __init__(self, transport: W2GN, config: CloudOptions, clouds: Clouds, *, pretrain: int, decides: bool) -> None:
        x, y = clouds.chosen_by()
        directions = directions_for(x)

        def scores(maps: W2GN) -> Mapping[str, Mapping[str, float]]:
            return {"val": map_scores(maps, x, y, directions)[0]}

        super().__init__(transport, config.training, scores, pretrain=pretrain)
        self.points = Points(x, y)
        self.kept: W2GN | None = None
        if decides:
            self.kept = transport.frozen_copy()
            self.monitor, self.monitor_mode = "val/gain", "max"
            self.register_buffer("most", torch.zeros((), dtype=torch.float32))
            self.register_buffer("candidates", torch.zeros((), dtype=torch.int64))

    def evaluate(self, progress: Progress) -> dict[str, dict[str, float]]:
        found = super().evaluate(progress)
        if self.kept is not None:
            gained = gain(self.averaged, *self.points)
            found["val"] |= {"gain": gained.total, "gain_forward": gained.forward.value}
            found["val"] |= {"gain_inverse": gained.inverse.value}
            self.get_buffer("candidates").add_(1)
            if gained.total > float(self.get_buffer("most")):
                self.get_buffer("most").fill_(gained.total)
                self.kept.load_state_dict(self.averaged.state_dict())
        return found


class Fitted(NamedTuple):
    """What is kept of a fit: maps in the coordinates of the fit, the same of plain rows, and the decision."""

    maps: W2GN
    framed: FramedTransport
    kept: Kept | None


def build_cloud_task(config: CloudOptions, clouds: Clouds, device: torch.device) -> tuple[CloudTask, StepSource]:
    """The task of a settled configuration and its batches.

    Raises:
        UserError: the numbers of a cloud are too large for float32, or those of both too small.
    """
    dim = clouds.dim
    first, second = clouds.source.moments, clouds.target.moments
    _check_size(first, second, clouds.names)
    transport = dense_transport(
        config, dim, lambda: balance(first.mean, shrunk_covariance(first), second.mean, shrunk_covariance(second))
    )
    transport.to(device)
    seed, (_, size) = config.run.seed, config.training.settled
    x, y = clouds.source.draw(seed, "source"), clouds.target.draw(seed, "target")
    if config.potentials.start != "pretrain":
        transport.center(*(cloud.rows(cloud.train[:4096]) for cloud in (clouds.source, clouds.target)))
    task = CloudTask(transport, config, clouds, pretrain=pretraining(config), decides=decides(config))
    return task, pair_source(x, y, size)


def finished(task: CloudTask, clouds: Clouds) -> Fitted:
    """What is kept when the training is over: its best evaluation if that is shown to be better than the start on the
    rows to choose by, else the start; without a Gaussian start the end. Called by all ranks.
    """
    maps, kept = task.averaged, None
    if task.kept is not None:
        maps, kept = better_of(task.kept, *task.points, candidates=max(int(task.get_buffer("candidates")), 1))
        kept = kept._replace(gained=float(task.get_buffer("most")) > 0)
    maps = maps.eval()
    source, target = clouds.source, clouds.target
    device = next(maps.parameters()).device
    framed = FramedTransport(maps, source.centre, target.centre, source.matrix).to(device)
    return Fitted(maps, framed.eval(), kept)


def directions_for(points: Tensor) -> Tensor:
    """Directions (256, D) of energy distances, always the same."""
    generator = torch.Generator(points.device).manual_seed(derive_seed(0, "directions"))
    return random_directions(256, points.shape[1], like=points, generator=generator)


def _check_size(first: Moments, second: Moments, names: tuple[str, str]) -> None:
    """Variances and their reciprocals are float32 numbers of the maps (`wasskit.ot.gaussian.Balance`)."""
    variances = [float(moments.covariance.diagonal().mean()) for moments in (first, second)]
    for variance, name in zip(variances, names, strict=True):
        if not variance < _MOST_VARIANCE:
            raise UserError(f"{name} has numbers too large for float32: divide its columns by a constant first.")
    if 0 < max(variances) < 1 / _MOST_VARIANCE:
        raise UserError(
            f"The rows of {' and of '.join(names)} differ by numbers too small for float32: multiply all columns by a "
            "constant first."
        )
