"""The training tasks: published order and schedules, two ranks against one, checkpoints that hold everything."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.distributed.harness import run_ranks
from wasskit.config import changed
from wasskit.data.loaders import Batch
from wasskit.distributed.collectives import reduce_sum
from wasskit.distributed.group import rank, world_size
from wasskit.models.backbones import Backbone
from wasskit.plugins.ssl.network import Encoder
from wasskit.plugins.ssl.options import PretrainOptions
from wasskit.plugins.ssl.regularisers import vicreg_regulariser
from wasskit.plugins.ssl.tasks import (
    BarlowTask,
    ByolTask,
    MocoTask,
    Parts,
    PretrainTask,
    ZeroClTask,
    move_towards,
    published_schedule,
    synchronise,
)
from wasskit.training.cadence import Cadence
from wasskit.training.schedules import cosine
from wasskit.training.task import Plan, Progress
from wasskit.training.trainer import Trainer

PROJECTOR = (24, 8)
CONFIG = changed(PretrainOptions(), projector=PROJECTOR, epochs=2, batch_size=8, lr=0.5, bias_lr=0.1, backbone="tiny")


def build(method: str, config: PretrainOptions = CONFIG) -> PretrainTask:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(1, 12, 3, bias=False), nn.BatchNorm2d(12), nn.ReLU())
    encoder = Encoder(Backbone("small", layers, channels=1, num_features=12), PROJECTOR)
    parts = Parts(encoder, config, {"projector": list(PROJECTOR)})
    if method == "byol":
        return ByolTask(parts, predictor=16, momentum=0.9)
    if method == "byol-bare":
        return ByolTask(parts, predictor=None, momentum=0.9)
    if method == "moco":
        return MocoTask(parts, queue=40, temperature=0.2, momentum=(0.9, 0.99), shuffled=False)
    if method == "barlow":
        return BarlowTask(parts, off_diagonal=0.08)
    along = cast(Any, method.partition("-")[2] or "feature")
    return ZeroClTask(parts, along=along)


METHODS = ["byol", "byol-bare", "moco", "barlow", "zerocl-feature", "zerocl-instance", "zerocl-both"]
TERMS = ["", "w2", "lu"]


class Views:
    """The same few batches in every epoch; each rank takes its share of the rows."""

    batch_size = CONFIG.loop.batch_size
    steps_per_epoch = 2

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        for step in range(start, self.steps_per_epoch):
            generator = torch.Generator().manual_seed(100 * epoch + step)
            base = torch.randn(8, 1, 8, 8, generator=generator)
            views = (base, base + 0.5 * torch.randn(8, 1, 8, 8, generator=generator))
            share = 8 // world_size()
            rows = slice(rank() * share, (rank() + 1) * share)
            yield Batch(tuple(view[rows] for view in views), torch.zeros(share), torch.arange(share))


class Recorder:
    """A stepper that notes what happens between the parts of a step."""

    device = torch.device("cpu")
    final = True

    def __init__(self, progress: Progress, look: Callable[[], Any]) -> None:
        self.progress = progress
        self.look = look
        self.seen: list[tuple[str, Any]] = []

    def autocast(self) -> Any:
        self.seen.append(("forward", self.look()))
        return torch.autocast("cpu", enabled=False)

    def backward(self, loss: Tensor, *, retain_graph: bool = False) -> None:
        loss.backward()

    def update(self, *names: str) -> None:
        self.seen.append(("update", self.look()))


def first(module: nn.Module) -> Tensor:
    return next(module.parameters()).detach().clone()


def progress_at(step: int, total: int = 10) -> Progress:
    return Progress(step, 0, total, total)


def test_byol_moves_its_target_after_the_forward_pass_and_before_the_update() -> None:
    task = cast(ByolTask, build("byol"))
    nn.init.constant_(next(task.encoder.parameters()), 0.3)
    before, online = first(task.target), first(task.encoder)
    recorder = Recorder(progress_at(0), lambda: first(task.target))
    task.step(next(Views().batches(0)), recorder)
    assert [name for name, _ in recorder.seen] == ["forward", "update"]
    torch.testing.assert_close(recorder.seen[0][1], before)
    torch.testing.assert_close(recorder.seen[1][1], 0.9 * before + 0.1 * online)


def test_byol_keeps_its_target_while_a_step_gathers_gradients() -> None:
    task = cast(ByolTask, build("byol"))
    nn.init.constant_(next(task.encoder.parameters()), 0.3)
    before, online = first(task.target), first(task.encoder)
    recorder = Recorder(progress_at(0), lambda: first(task.target))
    for final in (False, False, True):
        recorder.final = final
        task.step(next(Views().batches(0)), recorder)
    forward = [target for name, target in recorder.seen if name == "forward"]
    torch.testing.assert_close(forward, [before] * 3)
    torch.testing.assert_close(first(task.target), 0.9 * before + 0.1 * online)


def test_moco_moves_its_keys_first_and_queues_them_last() -> None:
    task = cast(MocoTask, build("moco"))
    nn.init.constant_(next(task.encoder.parameters()), 0.3)
    before, online, queue = first(task.key_encoder), first(task.encoder), task.queue.keys.clone()
    recorder = Recorder(progress_at(5), lambda: (first(task.key_encoder), task.queue.keys.clone()))
    task.step(next(Views().batches(0)), recorder)
    momentum = cosine(10, start=0.9, end=0.99)(5)
    (_, (moved, untouched)), (_, (_, filled)) = recorder.seen
    torch.testing.assert_close(moved, momentum * before + (1 - momentum) * online)
    torch.testing.assert_close(untouched, queue)
    assert int(task.queue.position) == 16
    torch.testing.assert_close(filled[:16].norm(dim=1), torch.ones(16))
    torch.testing.assert_close(filled[16:], queue[16:])


@pytest.mark.parametrize("case", ["momentum0", "momentum1"])
def test_key_momentum_is_the_published_one(case: str, reference: Callable[[str], dict[str, Any]]) -> None:
    a = reference("ssl_optim")
    epochs, steps_per_epoch, start, end = (float(x) for x in a[f"{case}_args"])
    momentum = cosine(int(epochs * steps_per_epoch), start=start, end=end)
    np.testing.assert_allclose([momentum(int(s)) for s in a[f"{case}_steps"]], a[f"{case}_out"], rtol=1e-12)


@pytest.mark.parametrize("case", ["lr0", "lr1"])
def test_learning_rates_are_the_published_ones(case: str, reference: Callable[[str], dict[str, Any]]) -> None:
    a = reference("ssl_optim")
    epochs, steps_per_epoch, batch, lr, bias_lr = (float(x) for x in a[f"{case}_args"])
    total = int(epochs * steps_per_epoch)
    config = changed(CONFIG, batch_size=int(batch), lr=lr, bias_lr=bias_lr, epochs=int(epochs))
    (optimisation,) = build("barlow", config).optimisations(Plan(total, int(steps_per_epoch)))
    assert callable(optimisation.schedule)
    rates = [group["lr"] for group in optimisation.optimizer.param_groups]
    for step, expected in zip(a[f"{case}_steps"], a[f"{case}_out"], strict=True):
        factor = optimisation.schedule(int(step))
        np.testing.assert_allclose([rate * factor for rate in rates], expected, rtol=1e-12)


def test_runs_shorter_than_the_warm_up_have_one_of_a_tenth() -> None:
    schedule = published_schedule(Plan(40, 4), warmup_epochs=10)
    assert [schedule(step) for step in (0, 2, 4)] == [0.0, 0.5, 1.0]
    assert schedule(40) == pytest.approx(0.001)


def test_optimiser_decays_weights_alone() -> None:
    (optimisation,) = build("byol").optimisations(Plan(4, 2))
    weights, others = optimisation.optimizer.param_groups
    assert weights["weight_decay"] == 1e-4
    assert others["weight_decay"] == 0
    assert all(p.ndim > 1 for p in weights["params"])
    assert all(p.ndim == 1 for p in others["params"])
    task = build("byol")
    count = sum(p.numel() for p in task.encoder.parameters()) + sum(
        p.numel() for p in cast(ByolTask, task).predictor.parameters()
    )
    assert count == sum(p.numel() for g in optimisation.optimizer.param_groups for p in g["params"])


def test_term_is_weighted_by_the_epoch() -> None:
    config = changed(CONFIG, w2=True, w2_weight=30.0, w2_weight_final=0.0, epochs=3)
    task = build("barlow", config)
    batch = next(Views().batches(0))
    for epoch, weight in enumerate((20.0, 10.0, 0.0)):
        losses = task.losses(batch, Progress(2 * epoch, epoch, 6, 2))
        assert losses.terms["w2_weight"] == pytest.approx(weight)
        expected = losses.terms["method"] + weight * losses.terms["w2"]
        torch.testing.assert_close(losses.total, expected)


@pytest.mark.parametrize("method", ["moco", "byol", "barlow"])
def test_later_regularisers_see_projections_that_are_not_normalised(method: str) -> None:
    """Unit vectors have no coordinate of variance 1, which VICReg and SIGReg ask for."""
    task = build(method, changed(CONFIG, regulariser="vicreg"))
    batch = next(Views().batches(0))
    term = task.losses(batch, progress_at(0)).terms["vicreg"]
    views = [task.encoder(view) for view in batch.views]
    torch.testing.assert_close(term, vicreg_regulariser(*views))
    assert term < vicreg_regulariser(*map(nn.functional.normalize, views)) - 0.01


def test_weight_stays_where_it_starts_unless_an_end_is_given() -> None:
    assert CONFIG.uniformity.term_weights == (0.0, 0.0)
    assert changed(CONFIG, w2=True, w2_weight=0.2).uniformity.term_weights == (0.2, 0.2)
    assert changed(CONFIG, lu=True, lu_weight=3.0, lu_weight_final=0.0).uniformity.term_weights == (3.0, 0.0)


def test_moving_average_leaves_buffers_alone() -> None:
    average, network = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    nn.init.constant_(network.weight, 3.0)
    network.running_mean = torch.ones(3)
    move_towards(average, network, 0.75)
    torch.testing.assert_close(average.weight.detach(), torch.full((3,), 1.5))
    torch.testing.assert_close(average.running_mean, torch.zeros(3))


def trained(method: str, term: str, sync_bn: bool = True) -> tuple[dict[str, Tensor], Tensor]:
    """The whole state after two epochs on all ranks together, and the last loss."""
    config = changed(CONFIG, w2=term == "w2", lu=term == "lu", sync_bn=sync_bn, lu_weight=0.5)
    task = build(method, config).double()
    synchronise(task)

    class Doubled(Views):
        def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
            for batch in super().batches(epoch, start):
                yield Batch(tuple(view.double() for view in batch.views), batch.labels, batch.indices)

    Trainer(task, Doubled(), cadence=Cadence(epochs=2, log_every=1), track=()).fit()
    with torch.no_grad():
        last = task.train().losses(next(Doubled().batches(0)), progress_at(0)).total
    return {k: v.clone() for k, v in task.state_dict().items()}, reduce_sum(last) / world_size()


@pytest.mark.distributed
@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("method", METHODS)
def test_two_ranks_train_as_one(method: str, term: str) -> None:
    """Parameters, moving averages, batch-norm buffers, queue and its position, after four updates."""
    expected, loss = trained(method, term)
    for state, own in run_ranks(trained, 2, method, term):
        torch.testing.assert_close(own, loss, rtol=1e-7, atol=1e-9)
        assert state.keys() == expected.keys()
        for name, value in state.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-8, msg=name)


def shuffled_keys(images: Tensor) -> Tensor:
    task = cast(MocoTask, build("moco"))
    task.shuffled = True
    share = len(images) // world_size()
    torch.manual_seed(7)
    return task.eval()._key(images[rank() * share : (rank() + 1) * share])


@pytest.mark.distributed
def test_shuffled_keys_come_back_in_order() -> None:
    images = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = shuffled_keys(images)
    found = torch.cat(run_ranks(shuffled_keys, 2, images))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
