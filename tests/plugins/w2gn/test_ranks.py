"""Every experiment on several ranks is the experiment on one: its batches, gradients, losses and metrics."""

from __future__ import annotations

import csv
import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from tests.distributed.harness import run_ranks
from wasskit.cli import load_command, run
from wasskit.config import fields_of
from wasskit.data.domains import Domain
from wasskit.data.toy import gaussian_mixture, ring_centers
from wasskit.distributed.collectives import average_gradients, reduce_sum
from wasskit.distributed.group import is_main, world_size
from wasskit.errors import UserError
from wasskit.plugins.w2gn import plugin
from wasskit.plugins.w2gn.core.task import Pair, TransportTask, own_rows, pair_source
from wasskit.plugins.w2gn.core.transport import W2GN
from wasskit.plugins.w2gn.experiments.autoencoder import Autoencoder, AutoencoderStage
from wasskit.plugins.w2gn.experiments.domain import ClassifierStage
from wasskit.plugins.w2gn.fitting import sampler
from wasskit.plugins.w2gn.maps import load_map
from wasskit.plugins.w2gn.options import StepOptions, TransportOptions
from wasskit.training.task import Progress, Task

pytestmark = [pytest.mark.distributed, pytest.mark.usefixtures("undrawn")]

OPTIONS = {name: load_command(plugin, name).options for name in plugin.commands}
EXPERIMENTS = [name for name, options in OPTIONS.items() if issubclass(options, TransportOptions)]

#: Settings of whatever experiment has them. Two ranks share the batches unequally.
SMALL = {
    "--steps": "5", "--batch-size": "61", "--log-every": "1", "--eval-every": "5", "--device": "cpu",
    "--hidden": "16,8", "--test-size": "101", "--dim": "3", "--start-samples": "500",
    "--image-size": "8", "--width": "2", "--patches": "32", "--classifier-steps": "4",
    "--autoencoder-steps": "4", "--autoencoder-batch-size": "33", "--latent": "4", "--filters": "4",
    "--discrete-rows": "64", "--keep": "end",
}  # fmt: skip
REFUSED = {"style": {"--hidden", "--start-samples"}}
"""What an experiment has by its groups of options, and refuses."""
DROPOUT = "toy --dropout 0.1 --sampling random --refine newton"
VARIANTS = [
    *(name for name in EXPERIMENTS),
    "fit --keep better --coordinates whitened",
    "gaussians --gauss-newton-steps 2 --gauss-newton-points 1025",
    "gaussians --dim 70 --batch-size 62 --keep better",
    "gaussians --members 2 --apart 0.5",
    "gaussians --members 3 --start pretrain --pretrain-steps 3",
    "toy --start pretrain --pretrain-steps 3 --refine none --ema 0",
    DROPOUT,
    "toy --l1 1e-3 --dual target --clip-norm 0.01 --start identity",
]
#: How far apart runs of float32 may be after their first step. The bias of a latent whose inputs are all on one side
#: of the leaky ReLU has no gradient but rounding, because batch normalisation follows, and Adam moves it by its rate
#: all the same: 1e-3 per step.
DRIFT = {"latent": 4e-3}
USUAL_DRIFT = 1e-5


class Trained(NamedTuple):
    """A run: its metrics by (split, step, name), each optimiser's first gradient, the coordinates of a point."""

    metrics: dict[tuple[str, int, str], float]
    gradients: list[Tensor]
    dim: int
    folder: Path


def train(words: str, folder: Path, interrupt_at: int | None = None) -> tuple[int, list[Tensor]]:
    """Run an experiment on this rank, or go on with it: the exit code, and the first gradient of every optimiser.

    Args:
        interrupt_at: rank 0 gets a Ctrl-C after so many steps of optimisers.
    """
    name, *extra = words.split()
    known = {field.flag for field in fields_of(OPTIONS[name])} - REFUSED.get(name, set())
    given = [word for pair in SMALL.items() if pair[0] in known - set(extra) for word in pair]
    gradients: dict[torch.optim.Optimizer, Tensor] = {}
    steps = itertools.count(1)

    def keep(optimizer: torch.optim.Optimizer, *_: object) -> None:
        if optimizer not in gradients:
            owned = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            gradients[optimizer] = nn.utils.parameters_to_vector(owned).clone()

    def stop(*_: object) -> None:
        if next(steps) == interrupt_at and is_main():
            os.kill(os.getpid(), signal.SIGINT)

    hooks = [register_optimizer_step_pre_hook(keep), register_optimizer_step_post_hook(stop)]
    always = ("--no-tensorboard", "--quiet", "--requeue", "--run-dir", str(folder))
    try:
        code = run(["w2gn", name, *given, *extra, *always])
    finally:
        for hook in hooks:
            hook.remove()
    return code, list(gradients.values())


def on_ranks(ranks: int, words: str, folder: Path, interrupt_at: int | None = None) -> list[tuple[int, list[Tensor]]]:
    if ranks == 1:
        return [train(words, folder, interrupt_at)]
    return run_ranks(train, ranks, words, folder, interrupt_at)


def trained(ranks: int, words: str, folder: Path) -> Trained:
    """The run on so many ranks."""
    results = on_ranks(ranks, words, folder)
    assert [code for code, _ in results] == [0] * ranks
    for _, gradients in results:
        assert all(map(torch.equal, gradients, results[0][1]))
    about = load_map(folder / "map.safetensors")[1]["potential"]
    dim = about["dim"] if "dim" in about else about["channels"] * about["image_size"][0] * about["image_size"][1]
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    metrics = {(row["split"], int(row["step"]), row["metric"]): float(row["value"]) for row in rows}
    return Trained(metrics, results[0][1], dim, folder)


Runs = Callable[[int, str], Trained]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The run of an experiment on so many ranks; each is made once."""
    made: dict[tuple[int, str], Trained] = {}

    def find(ranks: int, words: str) -> Trained:
        if (ranks, words) not in made:
            made[ranks, words] = trained(ranks, words, tmp_path_factory.mktemp("runs") / "run")
        return made[ranks, words]

    return find


def assert_one_run(one: Trained, other: Trained, drift: float) -> None:
    """Two runs of one experiment have the same metrics but for rounding.

    The losses are differences of means of potentials, which are about half a squared norm, hence of the size of the
    dimension, where the coordinates are white. In float32 such a mean is right to a few times 6e-8 of its terms: the
    first losses differ by 1e-6 of the loss and the dimension at most.
    """
    assert list(other.metrics) == list(one.metrics)
    first = min(step for _, step, _ in one.metrics)
    for (split, step, name), value in one.metrics.items():
        bound = 1e-6 if split == "train" and step == first else drift
        size = abs(value) + (one.dim if split == "train" else 1.0)
        assert abs(other.metrics[split, step, name] - value) <= bound * size, (split, step, name, value)


@pytest.mark.parametrize("words", VARIANTS)
def test_two_ranks_train_as_one(words: str, runs: Runs) -> None:
    one, two = runs(1, words), runs(2, words)
    assert_one_run(one, two, DRIFT.get(words, USUAL_DRIFT))
    # The gradients of the map, too, are differences of means, some ten times smaller than these; that of a network
    # that starts at its optimum is nothing but rounding. What is exact is compared in float64 below.
    size = torch.cat(one.gradients).norm()
    for expected, gradient in zip(one.gradients, two.gradients, strict=True):
        assert float((gradient - expected).norm()) <= 1e-5 * max(float(expected.norm()), 0.01 * float(size))


@pytest.mark.parametrize("words", [*EXPERIMENTS, DROPOUT])
def test_two_ranks_resume_to_the_bit(words: str, runs: Runs, tmp_path: Path) -> None:
    whole = runs(2, words)
    # After the map's third step, or its first one where another stage of four steps comes before.
    assert [code for code, _ in on_ranks(2, words, tmp_path / "run", 6)] == [130, 130]
    half = trained(2, words, tmp_path / "run")
    assert half.metrics == whole.metrics
    maps = [load_map(run.folder / "map.safetensors")[0].state_dict() for run in (whole, half)]
    assert all(torch.equal(maps[0][name], maps[1][name]) for name in maps[0])


@pytest.mark.parametrize("ranks", [(2, 1), (1, 2)])
def test_another_number_of_ranks_goes_on_with_the_same_run(ranks: tuple[int, int], runs: Runs, tmp_path: Path) -> None:
    assert {code for code, _ in on_ranks(ranks[0], DROPOUT, tmp_path / "run", 6)} == {130}
    assert_one_run(runs(1, DROPOUT), trained(ranks[1], DROPOUT, tmp_path / "run"), USUAL_DRIFT)


# --- In float64, where nothing is lost to rounding ------------------------------------------------------------------


class Recorder:
    """A stepper that averages the gradients over the ranks and leaves them where they are."""

    device = torch.device("cpu")
    final = True

    def __init__(self, task: Task, step: int) -> None:
        self.task = task
        self.progress = Progress(step, 0, 10, 10)

    def autocast(self) -> Any:
        return torch.autocast("cpu", enabled=False)

    def backward(self, loss: Tensor, *, retain_graph: bool = False) -> None:
        loss.backward()

    def update(self, *names: str) -> None:
        average_gradients(self.task.parameters())


class Images:
    """Images in memory, as far as the autoencoder's stage asks."""

    def __init__(self) -> None:
        self.images = torch.randint(256, (29, 1, 8, 8), generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return len(self.images)


def transport_task(refine: str, dropout: float, dual: str, step: int) -> tuple[Task, Any]:
    x, y = (gaussian_mixture(ring_centers(3).float(), 0.5), gaussian_mixture(2.0 + ring_centers(4).float(), 0.3))
    settings: dict[str, Any] = {"refine": refine, "l1": 0.01, "cycle_x": 0.5, "dual": dual}
    start = x.draw(100, 0), y.draw(100, 1)
    transport = W2GN.dense(2, hidden=(6, 4), rank=2, dropout=dropout, start=start, **settings).double()
    with torch.no_grad():
        for parameter in transport.parameters():
            parameter.add_(0.1 * torch.rand_like(parameter))
    options = StepOptions(batch_size=13)
    task = TransportTask(transport, options, lambda *_: {}, pretrain=5)
    draws = [sampler(measure, 0, side, "sobol", torch.device("cpu")) for side, measure in (("x", x), ("y", y))]
    batch = pair_source(draws[0], draws[1], 13).draw(step)
    return task.train(), Pair(batch.x.double(), batch.y.double())


def stage_task(name: str) -> tuple[Task, Any]:
    if name == "autoencoder":
        images: Any = Images()
        network = Autoencoder(8, 1, 4, 3)
        stage: Any = AutoencoderStage(network, images, images, batch_size=13, lr=1e-3, seed=0)
        return stage.double().train(), stage.batch(3).double()
    stage = ClassifierStage(domain(), domain(), batch_size=13, lr=1e-3, seed=0)
    batch, labels = stage.batch(3)
    return stage.double().train(), (batch.double(), labels)


def domain() -> Domain:
    generator = torch.Generator().manual_seed(2)
    images = torch.rand(101, 1, 28, 28, generator=generator)
    labels = torch.randint(10, (101,), generator=generator)
    return Domain("noise", images, labels, images, labels)


CASES: list[tuple[Any, ...]] = [
    *itertools.product(("none", "lbfgs", "newton"), (0.0, 0.3), ("source", "target"), (7,)),
    ("none", 0.3, "source", 0),
    ("classifier",),
    ("autoencoder",),
]


def first_steps() -> list[tuple[Tensor, Tensor]]:
    """Loss over all ranks and the averaged gradient of every case."""
    found = []
    for case in CASES:
        torch.manual_seed(0)
        task, batch = transport_task(*case) if len(case) > 1 else stage_task(*case)
        torch.manual_seed(1)
        losses = task.step(batch, Recorder(task, case[-1] if len(case) > 1 else 0))
        gradients = [p.grad for p in task.parameters() if p.grad is not None]
        loss = reduce_sum(losses.total.detach()) / world_size()
        found.append((loss, nn.utils.parameters_to_vector(gradients)))
    return found


@pytest.mark.parametrize("ranks", [2, 3])
def test_loss_and_gradient_of_the_whole_batch(ranks: int) -> None:
    expected = first_steps()
    for found in run_ranks(first_steps, ranks):
        for case, (loss, gradient), (value, whole) in zip(CASES, found, expected, strict=True):
            torch.testing.assert_close(loss, value, rtol=1e-12, atol=1e-12, msg=str(case))
            assert float((gradient - whole).norm() / whole.norm()) < 1e-11, case


def counted() -> tuple[float, float, Tensor, Tensor]:
    """Evaluations of the stages over numbers of images that ranks do not divide."""
    torch.manual_seed(0)
    classifier, autoencoder = stage_task("classifier")[0].eval(), stage_task("autoencoder")[0].eval()
    assert isinstance(classifier, ClassifierStage)
    assert isinstance(autoencoder, AutoencoderStage)
    images, labels = classifier.target.test_images.double(), classifier.target.test_labels
    accuracy = classifier.accuracy(images, labels)
    autoencoder.float()
    return accuracy, autoencoder.reconstruction_error(), classifier.features(images), autoencoder.points().y


@pytest.mark.parametrize("ranks", [2, 3])
def test_evaluations_are_shared_and_counts_exact(ranks: int) -> None:
    accuracy, error, features, latents = counted()
    for found in run_ranks(counted, ranks):
        assert found[0] == accuracy
        assert found[1] == pytest.approx(error, rel=1e-6)
        torch.testing.assert_close(found[2], features, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found[3], latents, rtol=1e-4, atol=1e-5)


def refusal() -> str:
    with pytest.raises(UserError) as caught:
        own_rows(2)
    return str(caught.value)


def test_every_rank_needs_a_part_of_the_batch() -> None:
    assert set(run_ranks(refusal, 3)) == {"--batch-size: 2 cannot be shared by 3 processes, which need one each."}
