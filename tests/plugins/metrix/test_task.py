from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from wasskit.data.metric_sets import MetricSplits
from wasskit.data.transforms import PerImage
from wasskit.errors import UserError
from wasskit.plugins.metrix import network as networks
from wasskit.plugins.metrix.commands.train import MetrixTrain
from wasskit.plugins.metrix.data import augmentation, load_parts, train_loader
from wasskit.plugins.metrix.network import MetricNetwork, build_model, describe
from wasskit.plugins.metrix.task import MetrixTask, build_task
from wasskit.training.task import Plan, Progress

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def parts() -> MetricSplits:
    return load_parts(MetrixTrain(seed=0))


def task_of(parts: MetricSplits, **options: Any) -> MetrixTask:
    torch.manual_seed(0)
    return build_task(MetrixTrain(**options), parts, CPU)


def one_step(task: MetrixTask, parts: MetricSplits, step: int = 0) -> Any:
    source = train_loader(task.config, parts.train, CPU)
    batch = next(iter(source.batches(0)))
    task.train()
    losses = task.losses(batch, Progress(step, 0, 100, 10))
    losses.total.backward()
    return losses


@pytest.mark.parametrize("loss", ["contrastive", "cosine", "multisimilarity", "proxyanchor"])
@pytest.mark.parametrize("mode", ["baseline", "input", "feature", "embed"])
def test_every_loss_trains_in_every_mode(parts: MetricSplits, loss: str, mode: str) -> None:
    form = {"loss": "contrastive", "distance": "cosine"} if loss == "cosine" else {"loss": loss}
    task = task_of(parts, mode=mode, batch_size=20, embedding_size=8, **form)
    losses = one_step(task, parts)
    assert losses.total.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in task.network.parameters())
    if mode == "baseline":
        assert set(losses.terms) == {"clean"}
    else:
        assert losses.terms["triples"] > 0
        assert losses.terms["skipped"] == 0
        expected = losses.terms["clean"] + 0.4 * losses.terms["mixed"]
        assert losses.total.item() == pytest.approx(float(expected.detach()), rel=1e-6)
    if loss == "proxyanchor":
        proxies = next(task.objective.parameters())
        assert proxies.shape == (5, 8)
        assert proxies.grad is not None


def test_mixing_is_a_function_of_the_step(parts: MetricSplits) -> None:
    task = task_of(parts, mode="embed", batch_size=20)
    first = one_step(task, parts, 3).total.item()
    torch.manual_seed(99)
    assert one_step(task, parts, 3).total.item() == first
    assert one_step(task, parts, 4).total.item() != first


def test_only_the_head_learns_at_first(parts: MetricSplits) -> None:
    task = task_of(parts, loss="proxyanchor", mode="embed", batch_size=20, head_epochs=2, epochs=5)
    task.start_epoch(Progress(0, 1, 100, 10))
    one_step(task, parts)
    assert all(p.grad is None for p in task.network.trunk.parameters())
    assert all(p.grad is not None for p in task.network.head.parameters())
    assert all(p.grad is not None for p in task.objective.parameters())
    task.start_epoch(Progress(0, 2, 100, 10))
    one_step(task, parts)
    assert all(p.grad is not None for p in task.network.parameters())


def test_optimiser_and_schedule(parts: MetricSplits) -> None:
    task = task_of(
        parts,
        loss="proxyanchor",
        lr=2e-3,
        lr_decay_step=3,
        lr_decay_gamma=0.5,
        weight_decay=1e-4,
        mode="embed",
    )
    (optimisation,) = task.optimisations(Plan(total_steps=100, steps_per_epoch=10))
    groups = optimisation.optimizer.param_groups
    assert [group["lr"] for group in groups] == pytest.approx([2e-3, 0.2])
    assert all(group["weight_decay"] == 1e-4 for group in groups)
    schedule = optimisation.schedule
    assert callable(schedule)
    assert [schedule(step) for step in (0, 29, 30, 60)] == pytest.approx([1, 1, 0.5, 0.25])


def test_frozen_batch_norm_keeps_its_statistics(parts: MetricSplits) -> None:
    for frozen in (True, False):
        task = task_of(parts, mode="embed", batch_size=20, freeze_batch_norm=frozen)
        norms = [m for m in task.network.modules() if isinstance(m, nn.BatchNorm2d)]
        before = [norm.running_mean.clone() for norm in norms if norm.running_mean is not None]
        one_step(task, parts)
        task.eval()
        task.train()
        assert all(norm.training is not frozen for norm in norms)
        after = [norm.running_mean for norm in norms if norm.running_mean is not None]
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True)) is frozen


def test_monitor_follows_the_validation_classes(parts: MetricSplits) -> None:
    assert task_of(parts, mode="embed").monitor == "test/recall@1"
    held = load_parts(MetrixTrain(validation=0.4))
    task = task_of(held, mode="embed", validation=0.4)
    assert task.monitor == "val/recall@1"
    assert task.model.description["classes"] == list(held.train.classes)
    task.eval()
    results = task.evaluate(Progress(0, 0, 1, 1))
    assert set(results) == {"test", "val"}
    assert set(results["val"]) == {"recall@1", "recall@2", "recall@4", "recall@8", "precision@1", "map@r"}


def test_backbones_without_maps_keep_their_pooling(
    parts: MetricSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wasskit.plugins.metrix import task as tasks

    monkeypatch.setattr(tasks, "gives_maps", lambda *args, **options: False)
    with pytest.raises(UserError, match="tokens"):
        task_of(parts, mode="feature")
    task = task_of(parts, mode="embed", batch_size=20)
    assert task.network.pooling == "own"
    assert one_step(task, parts).total.isfinite()
    assert networks.gives_maps("resnet50", image_size=224, channels=3)


def test_network_pools_average_and_maximum(parts: MetricSplits) -> None:
    model = build_model(describe(MetrixTrain(embedding_size=12), parts.train))
    network = model.network
    network.eval()
    images = torch.randn(3, 1, 8, 8)
    maps, embeddings = network.maps_and_embeddings(images)
    assert maps is not None
    pooled = maps.mean((2, 3)) + maps.amax((2, 3))
    raw = pooled @ network.head.weight.T + network.head.bias
    torch.testing.assert_close(embeddings, raw / raw.norm(dim=1, keepdim=True))
    torch.testing.assert_close(network.project(pooled), raw)
    assert isinstance(network, MetricNetwork)
    assert describe(MetrixTrain(), parts.train)["embedding_size"] == 64
    assert describe(MetrixTrain(backbone="resnet18"), parts.train)["embedding_size"] == 512


def test_colour_images_in_memory_are_cropped_and_flipped() -> None:
    fake = load_parts(MetrixTrain(dataset="fake")).train
    assert fake.images is not None
    augment = augmentation(fake, 0.3)
    assert not isinstance(augment, PerImage)
    views = augment(fake.images[:6], torch.Generator().manual_seed(0))
    (view,) = views if isinstance(views, tuple) else (views,)
    assert view.shape == (6, 3, 32, 32)
    again = augment(fake.images[:6], torch.Generator().manual_seed(1))
    assert not torch.equal(view, again[0])


def test_choices_that_contradict_each_other() -> None:
    for options, message in (
        ({"batch_size": 1}, "holds no pair"),
        ({"batch_size": 20, "images_per_class": 3}, "does not divide"),
        ({"epochs": 3, "head_epochs": 3}, "leaves none"),
        ({"loss": "multisimilarity", "published": True}, "contrastive loss only"),
        ({"published": True, "distance": "cosine"}, "compares Euclidean distances"),
        ({"distance": "cosine", "margin": 1.5}, "no cosine is larger"),
        ({"similarity_scales": (1.0, 2.0)}, "takes 3 numbers"),
        ({"loss": "proxyanchor", "pairs": "anchor-negative"}, "no image and no feature map"),
    ):
        with pytest.raises(UserError, match=message):
            replace(MetrixTrain(), **options).validate()
    assert MetrixTrain(dataset="sop").recalls == (1, 10, 100, 1000)
    assert MetrixTrain(dataset="inshop").recalls == (1, 10, 20, 30, 40, 50)
    assert MetrixTrain(recall=(16, 4)).recalls == (1, 4, 16)
