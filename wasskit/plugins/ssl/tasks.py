"""The methods as training tasks. Each says what it sees of two views, and in what order its parts move."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wasskit.data.loaders import Batch
from wasskit.distributed.group import world_size
from wasskit.distributed.norm import convert_sync_batchnorm, joint_norm, shuffle, unshuffle
from wasskit.models.heads import MLP
from wasskit.ot.precision import at_least_float32
from wasskit.plugins.ssl.guard import check_collapse
from wasskit.plugins.ssl.losses import (
    KeyQueue,
    LogUniformityLoss,
    Solver,
    W2UniformityLoss,
    ZeroCl,
    barlow_twins_loss,
    byol_loss,
    moco_loss,
    uniformity_weight,
    zero_cl_loss,
)
from wasskit.plugins.ssl.network import Encoder
from wasskit.plugins.ssl.options import PretrainOptions
from wasskit.plugins.ssl.regularisers import Regulariser, invariance_loss
from wasskit.trained.files import checkpoint_entry
from wasskit.training.optim import build_optimizer, parameter_groups
from wasskit.training.schedules import Schedule, cosine, warmup_cosine
from wasskit.training.task import Losses, Optimisation, Plan, Progress, Stepper, Task

C = TypeVar("C", bound=PretrainOptions)
Evaluate = Callable[[Encoder, bool], dict[str, dict[str, float]]]


@dataclass(frozen=True)
class Parts(Generic[C]):
    """What a task of any method is made of.

    Args:
        description: the model's, kept in every checkpoint.
        evaluate: metrics of an encoder, by split; told whether the training is at its end.
    """

    encoder: Encoder
    config: C
    description: Mapping[str, Any]
    evaluate: Evaluate | None = None

    @property
    def width(self) -> int:
        """The number of coordinates of a projection."""
        return int(self.description["projector"][-1])


class Objective(NamedTuple):
    """A method's loss, a scalar, and the projections (B, m) of both views, not normalised, on which the term acts."""

    loss: Tensor
    first: Tensor
    second: Tensor


class PretrainTask(Task):
    """What the methods share: an encoder, a uniformity term on its projections, the published optimisation."""

    def __init__(self, parts: Parts[Any]) -> None:
        super().__init__()
        config: PretrainOptions = parts.config
        self.encoder = parts.encoder
        self.config = config
        self.description = dict(parts.description)
        self.measure = parts.evaluate
        self.epochs = config.loop.epochs
        self.uniformity: nn.Module | None = None
        terms = config.uniformity
        self.weights = terms.term_weights
        if terms.term == "w2":
            self.uniformity = W2UniformityLoss(terms.w2_ridge, terms.solver)
        elif terms.term == "lu":
            self.uniformity = LogUniformityLoss()
        elif terms.term is not None:
            self.uniformity = Regulariser(terms.term, slices=terms.slices, seed=config.run.seed)

    @abstractmethod
    def objective(self, first: Tensor, second: Tensor) -> Objective:
        """The method's loss on two views, (B, C, H, W) float32 each."""

    def losses(self, batch: Batch, progress: Progress) -> Losses:
        loss, z1, z2 = self.objective(*batch.views)
        if self.uniformity is None:
            return Losses(loss)
        weight = uniformity_weight(progress.epoch + 1, self.epochs, *self.weights)
        drawn = {"step": progress.step} if isinstance(self.uniformity, Regulariser) else {}
        term = self.uniformity(z1, z2, **drawn)
        name = self.config.uniformity.term or ""
        return Losses(loss + weight * term, {"method": loss, name: term, f"{name}_weight": weight})

    @property
    def batch_statistics(self) -> str:
        """How batch norm deals with several processes, in words."""
        return "of all processes together" if joint_norm(self.config.sync_bn) else "of each process alone"

    def networks(self) -> list[nn.Module]:
        return [child for child in self.children() if isinstance(child, (Encoder, MLP))]

    def optimisations(self, plan: Plan) -> list[Optimisation]:
        config = self.config
        optim, scale = config.optim, config.loop.batch_size * config.loop.accumulate / 256
        groups = parameter_groups(
            self, lr=optim.lr * scale, weight_decay=optim.weight_decay, bias_lr=config.bias_lr * scale
        )
        optimizer = build_optimizer(optim.optimizer, groups, lr=optim.lr * scale, momentum=optim.momentum)
        return [Optimisation(optimizer, published_schedule(plan, optim.warmup_epochs))]

    def evaluate(self, progress: Progress) -> dict[str, dict[str, float]]:
        if self.measure is None:
            return {}
        metrics = self.measure(self.encoder, progress.epoch >= self.epochs)
        width = self.description["projector"][-1]
        check_collapse(metrics.get("test", {}), width, progress.epoch, stop=self.config.uniformity.stop_on_collapse)
        return metrics

    def extra_state(self) -> dict[str, Any]:
        return checkpoint_entry(self.description)


def published_schedule(plan: Plan, warmup_epochs: int) -> Schedule:
    """Factor of the learning rate: linear warm-up, then a cosine to 0.1 %.

    A run no longer than its warm-up warms up for a tenth of itself instead.
    """
    steps = warmup_epochs * plan.steps_per_epoch
    if steps >= plan.total_steps:
        steps = plan.total_steps // 10
    return warmup_cosine(plan.total_steps, steps, end=0.001)


class InvarianceTask(PretrainTask):
    """The mean square between the views' projections: what VICReg, LeJEPA and VISReg add their regularisers to."""

    def objective(self, first: Tensor, second: Tensor) -> Objective:
        z1, z2 = self.encoder(first), self.encoder(second)
        return Objective(invariance_loss(z1, z2), z1, z2)


class ByolTask(PretrainTask):
    """BYOL (Grill et al. 2020): predict, from one view, a moving average's projection of the other.

    Without ``predictor`` the projections themselves are compared, and the uniformity term keeps them from collapsing.
    """

    def __init__(self, parts: Parts[Any], *, predictor: int | None, momentum: float) -> None:
        super().__init__(parts)
        self.predictor: nn.Module = nn.Identity() if predictor is None else MLP((parts.width, predictor, parts.width))
        self.target = deepcopy(parts.encoder).requires_grad_(False)
        self.target_momentum = momentum

    def objective(self, first: Tensor, second: Tensor) -> Objective:
        z1, z2 = self.encoder(first), self.encoder(second)
        with torch.no_grad():
            t1, t2 = self.target(first), self.target(second)
        return Objective(byol_loss(self.predictor(z1), self.predictor(z2), t1, t2), z1, z2)

    def step(self, batch: Any, stepper: Stepper) -> Losses:
        with stepper.autocast():
            losses = self.losses(batch, stepper.progress)
        stepper.backward(losses.total)
        # As published: the target moves towards the network that has just been seen, before that is updated.
        if stepper.final:
            move_towards(self.target, self.encoder, self.target_momentum)
        stepper.update()
        return losses


class MocoTask(PretrainTask):
    """MoCo v2 (He et al. 2020, Chen et al. 2020), symmetric: tell the other view's key from a queue of older keys.

    With ``shuffled``, keys are computed on images dealt anew to the processes, so that batch statistics tell nothing.
    """

    def __init__(
        self, parts: Parts[Any], *, queue: int, temperature: float, momentum: tuple[float, float], shuffled: bool
    ) -> None:
        super().__init__(parts)
        self.key_encoder = deepcopy(parts.encoder).requires_grad_(False)
        self.queue = KeyQueue(queue, parts.width, seed=self.config.run.seed)
        self.temperature = temperature
        self.momentum = momentum
        self.shuffled = shuffled
        self._moved_at = -1
        self._keys: tuple[Tensor, Tensor] | None = None

    def objective(self, first: Tensor, second: Tensor) -> Objective:
        z1, z2 = (at_least_float32(self.encoder(view)) for view in (first, second))
        k1, k2 = (F.normalize(at_least_float32(self._key(view))) for view in (first, second))
        self._keys = (k1, k2)
        loss = moco_loss(F.normalize(z1), F.normalize(z2), k1, k2, self.queue.keys, self.temperature)
        return Objective(loss, z1, z2)

    @property
    def batch_statistics(self) -> str:
        shuffled = ", with the images of the keys dealt anew to them" if self.shuffled else ""
        return super().batch_statistics + shuffled

    @torch.no_grad()
    def _key(self, images: Tensor) -> Tensor:
        if not self.shuffled or world_size() == 1:
            keys: Tensor = self.key_encoder(images)
            return keys
        images, order = shuffle(images)
        return unshuffle(self.key_encoder(images), order)

    def step(self, batch: Any, stepper: Stepper) -> Losses:
        progress = stepper.progress
        if self._moved_at != progress.step:
            self._moved_at = progress.step
            momentum = cosine(progress.total_steps, start=self.momentum[0], end=self.momentum[1])
            move_towards(self.key_encoder, self.encoder, momentum(progress.step))
        with stepper.autocast():
            losses = self.losses(batch, progress)
        stepper.backward(losses.total)
        # The negatives of this batch were the queue without its own keys.
        if self._keys is not None:
            self.queue.push(*self._keys)
        stepper.update()
        return losses


class BarlowTask(PretrainTask):
    """Barlow Twins (Zbontar et al. 2021): features that agree between the views and do not correlate
    with each other."""

    def __init__(self, parts: Parts[Any], *, off_diagonal: float) -> None:
        super().__init__(parts)
        self.off_diagonal = off_diagonal

    def objective(self, first: Tensor, second: Tensor) -> Objective:
        z1, z2 = self.encoder(first), self.encoder(second)
        return Objective(barlow_twins_loss(z1, z2, self.off_diagonal), z1, z2)


class ZeroClTask(PretrainTask):
    """Zero-CL (Zhang et al. 2022): agreement after whitening along features, along instances, or both."""

    def __init__(self, parts: Parts[Any], *, along: ZeroCl) -> None:
        super().__init__(parts)
        self.along: ZeroCl = along
        self.solver: Solver = self.config.uniformity.solver

    def objective(self, first: Tensor, second: Tensor) -> Objective:
        z1, z2 = self.encoder(first), self.encoder(second)
        return Objective(zero_cl_loss(z1, z2, self.along, self.solver), z1, z2)


@torch.no_grad()
def move_towards(average: nn.Module, network: nn.Module, momentum: float) -> None:
    """average <- momentum average + (1 - momentum) network, parameter by parameter; buffers stay their own."""
    mine: Iterable[Tensor] = average.parameters()
    others: Iterable[Tensor] = network.parameters()
    torch._foreach_lerp_(list(mine), list(others), 1 - momentum)


def synchronise(task: PretrainTask) -> None:
    """Give all batch norms the statistics of all processes together, where there are several."""
    if joint_norm(task.config.sync_bn):
        convert_sync_batchnorm(task)
