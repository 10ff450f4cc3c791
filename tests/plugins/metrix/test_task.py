from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wasskit.config import changed
from wasskit.data.metric_sets import MetricSplits
from wasskit.data.transforms import PerImage
from wasskit.errors import UserError
from wasskit.evaluation.embedding import extract_features
from wasskit.plugins.metrix import network as networks
from wasskit.plugins.metrix.commands.train import MetrixTrain
from wasskit.plugins.metrix.data import augmentation, load_parts, train_loader
from wasskit.plugins.metrix.network import MetricNetwork, build_model, describe
from wasskit.plugins.metrix.task import MetrixTask, build_task
from wasskit.training.run import RunDirectory
from wasskit.training.session import Session
from wasskit.training.task import Plan, Progress
from wasskit.training.trainer import Trainer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def parts() -> MetricSplits:
    return load_parts(changed(MetrixTrain(), seed=0))


def task_of(parts: MetricSplits, **options: Any) -> MetrixTask:
    torch.manual_seed(0)
    return build_task(changed(MetrixTrain(), **options), parts, CPU)


def one_step(task: MetrixTask, parts: MetricSplits, step: int = 0) -> Any:
    source = train_loader(task.config, parts.train, CPU)
    batch = next(iter(source.batches(0)))
    task.train()
    losses = task.losses(batch, Progress(step, 0, 100, 10))
    losses.total.backward()
    return losses


@pytest.mark.parametrize("loss", ["contrastive", "cosine", "multisimilarity", "proxyanchor", "potentialfield"])
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


def trainer_of(task: MetrixTask, parts: MetricSplits, path: Path) -> Trainer:
    """The loop as the command builds it."""
    run = RunDirectory.create(path, command="metrix train", options={}, seed=0)
    session = Session(task.config, CPU, run, None)
    loader = train_loader(task.config, parts.train, CPU)
    updates = session.updates(clip_value=task.config.clip_value)
    return session.trainer(task, loader, updates=updates, track=())


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [True, False])
def test_a_run_leaves_the_backbone_alone_while_the_head_warms_up(
    parts: MetricSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frozen: bool
) -> None:
    """Bit for bit, in spite of weight decay; the statistics of batch norm stay as well where they are frozen."""
    task = task_of(
        parts, loss="proxyanchor", mode="embed", batch_size=150, epochs=3, head_epochs=2, max_triples=200,
        weight_decay=0.1, freeze_batch_norm=frozen,
    )  # fmt: skip
    states: list[dict[str, Tensor]] = []

    def snapshot(progress: Progress) -> dict[str, dict[str, float]]:
        states.append({name: value.clone() for name, value in task.state_dict().items()})
        return {"test": {"recall@1": 0.0}}

    monkeypatch.setattr(task, "evaluate", snapshot)
    snapshot(Progress(0, 0, 1, 1))
    trainer_of(task, parts, tmp_path / "r").fit()
    assert len(states) == 4
    trunk = {name for name, _ in task.named_parameters() if name.startswith("network.trunk.")}
    others = {name for name, _ in task.named_parameters()} - trunk
    statistics = {name for name in states[0] if name.endswith(("running_mean", "running_var"))}
    assert trunk
    assert statistics
    assert others == {"network.head.weight", "network.head.bias", "objective.clean.proxies"}
    for number, (before, after) in enumerate(pairwise(states)):
        kept = {name for name in before if torch.equal(before[name], after[name])}
        assert not others & kept
        assert (trunk <= kept) if number < 2 else not trunk & kept
        assert (statistics <= kept) if frozen else not statistics & kept


@pytest.mark.slow
def test_a_run_clips_gradients_and_drops_its_rate(parts: MetricSplits, tmp_path: Path) -> None:
    """Entries at 10, as published; the rate of network and proxies by gamma after every two epochs."""
    task = task_of(
        parts, loss="proxyanchor", mode="embed", batch_size=150, epochs=5, max_triples=200, mix_weight=1e6,
        optimizer="sgd", lr=1e-6, lr_decay_step=2, lr_decay_gamma=0.1, proxy_lr_factor=50.0, eval_every=0,
    )  # fmt: skip
    trainer = trainer_of(task, parts, tmp_path / "r")
    rates: list[list[float]] = []
    largest: list[float] = []

    def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        rates.append([group["lr"] for group in optimizer.param_groups])
        largest.append(
            max(float(p.grad.abs().max()) for g in optimizer.param_groups for p in g["params"] if p.grad is not None)
        )

    trainer.stepper.optimisations[0].optimizer.register_step_pre_hook(note)
    trainer.fit()
    assert largest == [10.0] * len(largest)
    each = trainer.plan.steps_per_epoch
    assert len(rates) == 5 * each
    for step, (network, proxies) in enumerate(rates):
        expected = 1e-6 * 0.1 ** (step // each // 2)
        assert network == pytest.approx(expected, rel=1e-9)
        assert proxies == pytest.approx(50 * expected, rel=1e-9)


def test_queries_search_the_gallery_alone(parts: MetricSplits) -> None:
    """The In-Shop protocol, query by query: found at K if fewer than K garments of others are as near as the best."""
    order = torch.randperm(len(parts.test), generator=torch.Generator().manual_seed(1)).tolist()
    query, gallery = parts.test.subset(order[:40]), parts.test.subset(order[40:100])
    held = MetricSplits(parts.train, parts.train.subset(range(50)), query, gallery)
    task = task_of(held, mode="baseline", dataset="inshop")
    task.eval()
    features = {name: extract_features(task.network, loader) for name, loader in task.loaders.items()}
    results = task.evaluate(Progress(0, 0, 1, 1))
    searched = {"test": "gallery", "val": "val"}
    for split, found in results.items():
        asked, items = features[split], features[searched[split]]
        worst = []
        for i, (x, label) in enumerate(zip(asked.features, asked.labels, strict=True)):
            right: list[float] = []
            wrong: list[float] = []
            for j, (y, other) in enumerate(zip(items.features, items.labels, strict=True)):
                if split == "val" and i == j:
                    continue
                (right if other == label else wrong).append(float(x @ y))
            worst.append(sum(s >= max(right) for s in wrong))
        for k in (1, 10, 20, 30, 40, 50):
            expected = 100 * sum(count < k for count in worst) / len(worst)
            assert found[f"recall@{k}"] == pytest.approx(expected, abs=1e-9)
        assert found["precision@1"] == found["recall@1"]
    assert 0 < results["test"]["recall@1"] < 100


def test_optimiser_and_schedule(parts: MetricSplits) -> None:
    task = task_of(
        parts, loss="proxyanchor", lr=2e-3, lr_decay_step=3, lr_decay_gamma=0.5, weight_decay=1e-4, mode="embed"
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
    held = load_parts(changed(MetrixTrain(), validation=0.4))
    task = task_of(held, mode="embed", validation=0.4)
    assert task.monitor == "val/recall@1"
    assert task.model.description["classes"] == list(held.train.classes)
    task.eval()
    results = task.evaluate(Progress(0, 0, 1, 1))
    assert set(results) == {"test", "val"}
    assert set(results["val"]) == {"recall@1", "recall@2", "recall@4", "recall@8", "precision@1", "map@r"}


def test_backbones_without_maps_keep_their_pooling(parts: MetricSplits, monkeypatch: pytest.MonkeyPatch) -> None:
    from wasskit.plugins.metrix import task as tasks

    monkeypatch.setattr(tasks, "gives_maps", lambda *args, **options: False)
    with pytest.raises(UserError, match="tokens"):
        task_of(parts, mode="feature")
    task = task_of(parts, mode="embed", batch_size=20)
    assert task.network.pooling == "own"
    assert one_step(task, parts).total.isfinite()
    assert networks.gives_maps("resnet50", image_size=224, channels=3)


def test_network_pools_average_and_maximum(parts: MetricSplits) -> None:
    model = build_model(describe(changed(MetrixTrain(), embedding_size=12), parts.train))
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
    assert describe(changed(MetrixTrain(), backbone="resnet18"), parts.train)["embedding_size"] == 512


def test_colour_images_in_memory_are_cropped_and_flipped() -> None:
    fake = load_parts(changed(MetrixTrain(), dataset="fake")).train
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
        ({"distance": "cosine", "loss": "proxyanchor"}, "only the contrastive loss has two forms, not proxyanchor"),
        ({"similarity_scales": (1.0, 2.0)}, "takes 3 numbers"),
        ({"loss_settings": ("decay=2",)}, "the loss contrastive has no setting 'decay': it has none"),
        (
            {"loss": "potentialfield", "loss_settings": ("delta=2",)},
            "--loss-settings: the loss potentialfield has no setting 'delta': it has decay, radius, proxies_per_class",
        ),
        ({"loss": "potentialfield", "loss_settings": ("decay=-1",)}, "must lie between 0 and 10, not -1"),
        ({"loss": "potentialfield", "loss_settings": ("decay",)}, "a setting is written name=number, not 'decay'"),
        ({"proxy_scales": (0.0, 0.1)}, "scale alpha of 0 the loss is constant"),
        ({"loss": "proxyanchor", "pairs": "anchor-negative"}, "no image and no feature map"),
    ):
        with pytest.raises(UserError, match=message):
            changed(MetrixTrain(), **options).validate()
    assert changed(MetrixTrain(), dataset="sop").recalls == (1, 10, 100, 1000)
    assert changed(MetrixTrain(), dataset="inshop").recalls == (1, 10, 20, 30, 40, 50)
    assert changed(MetrixTrain(), recall=(16, 4)).recalls == (1, 4, 16)
