"""Gauss-Newton steps: the derivatives of the dual value, the bounded step, and what a step does."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from tests.distributed.harness import run_ranks
from tests.gpu.device import LogicalCuda
from wasskit.cli import run
from wasskit.distributed.shard import shard_indices
from wasskit.errors import UserError
from wasskit.models.icnn import ConvICNN, DenseICNN, Potential, QuadraticPotential
from wasskit.plugins.w2gn.core import gauss_newton
from wasskit.plugins.w2gn.core.gauss_newton import (
    Batch,
    bounded_step,
    bounded_weights,
    check_size,
    dual_gradient,
    dual_matrix,
    dual_value,
    gauss_newton_step,
)


def a_potential(dim: int = 2, hidden: tuple[int, ...] = (6, 5, 4)) -> QuadraticPotential:
    """With output weights that are not zero, and some hidden ones that are."""
    potential = QuadraticPotential(DenseICNN(dim, hidden), dim)
    network = potential.network
    assert isinstance(network, DenseICNN)
    with torch.no_grad():
        network.final_layer.weight.uniform_(0.0, 0.3)
        network.hidden_weights[0][:, 0] = 0.0
    return potential


def a_batch(count: int, dim: int = 2, dtype: torch.dtype = torch.float64) -> Batch:
    """Points of a normal, and of one that is narrower along one axis, with three centres along the other."""
    x = torch.randn(count, dim, dtype=dtype)
    y = torch.randn(count, dim, dtype=dtype) * 0.3
    y[:, 0] += torch.arange(count) % 3 - 1.0
    return Batch(x, y, y.clone(), count)


def test_the_gradient_and_the_matrix_are_derivatives_of_the_dual_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """The potential is linear in its output weights, in which the matrix is therefore the whole second derivative; the
    points of the conjugate move with the weights."""
    torch.manual_seed(0)
    monkeypatch.setattr(gauss_newton, "POINTS_PER_ROW_OF_MATRIX", 1)
    monkeypatch.setattr(gauss_newton, "EVALUATIONS", 200)
    monkeypatch.setattr(gauss_newton, "TOLERANCE", 1e-12)
    potential = a_potential().double()
    batch = a_batch(300)
    at = parameters_to_vector(potential.parameters()).detach()

    def value(weights: Tensor) -> float:
        own = copy.deepcopy(potential)
        vector_to_parameters(weights, own.parameters())
        return dual_value(own, batch)[0]

    _, solved = dual_value(potential, batch)
    gradient = dual_gradient(potential, batch, solved.point)
    matrix = dual_matrix(potential, batch, solved.point)
    for _ in range(5):
        direction = torch.randn_like(at)
        # Central differences of a function with bends in its third derivative: h^2 of the size of the third one.
        slope = (value(at + 1e-5 * direction) - value(at - 1e-5 * direction)) / 2e-5
        assert float(gradient @ direction) == pytest.approx(slope, rel=1e-4, abs=1e-6)

    names = [name for name, own in potential.named_parameters() for _ in range(own.numel())]
    output = torch.tensor(["final_layer" in name for name in names])
    for _ in range(5):
        direction = torch.randn_like(at) * output
        h = 1e-3
        second = (value(at + h * direction) - 2.0 * value(at) + value(at - h * direction)) / h**2
        assert float(direction @ matrix @ direction) == pytest.approx(second, rel=2e-3)
    assert torch.equal(matrix, matrix.t())


def brute_force(matrix: Tensor, gradient: Tensor, at: Tensor, bounded: Tensor) -> Tensor:
    """The minimiser over all choices of the weights that are held at zero."""
    best, lowest = torch.zeros_like(at), float("inf")
    places = bounded.nonzero().squeeze(1).tolist()
    for size in range(len(places) + 1):
        for held in itertools.combinations(places, size):
            step = torch.zeros_like(at)
            index = torch.tensor(held, dtype=torch.long)
            step[index] = -at[index]
            free = torch.ones_like(bounded)
            free[index] = False
            rest = gradient[free] + matrix[free][:, ~free] @ step[~free]
            step[free] = -torch.linalg.solve(matrix[free][:, free], rest)
            value = float(gradient @ step + 0.5 * step @ matrix @ step)
            if bool((at + step)[bounded].min() >= -1e-12) and value < lowest:
                best, lowest = step, value
    return best


def test_the_bounded_step_is_the_best_of_all_active_sets() -> None:
    """Where the matrix has no positive entries off its diagonal, and so the method comes to rest; elsewhere the step is
    feasible."""
    torch.manual_seed(0)
    held = 0
    for _ in range(30):
        factor = torch.rand(6, 6, dtype=torch.float64)
        matrix = 12.0 * torch.eye(6, dtype=torch.float64) - factor - factor.t()
        gradient = 8.0 * torch.randn(6, dtype=torch.float64)
        at = torch.rand(6, dtype=torch.float64)
        at[0] = 0.0
        bounded = torch.tensor([True, True, True, False, True, False])
        expected = brute_force(matrix + 0.5 * torch.eye(6, dtype=torch.float64), gradient, at, bounded)
        found = bounded_step(matrix, gradient, at, bounded, 0.5)
        assert found is not None
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        held += int((at + found == 0.0).sum())
    assert held > 20
    for _ in range(30):
        factor = torch.randn(9, 6, dtype=torch.float64)
        matrix, at = factor.t() @ factor, torch.rand(6, dtype=torch.float64)
        gradient = torch.randn(6, dtype=torch.float64)
        found = bounded_step(matrix, gradient, at, torch.ones(6, dtype=torch.bool), 1e-3)
        assert found is not None
        assert (at + found).min() >= 0.0
    assert bounded_step(-torch.eye(3).double(), torch.ones(3).double(), torch.ones(3).double(), at[:3] > 2, 0.1) is None


def test_a_step_lowers_the_dual_value_and_keeps_the_network_convex() -> None:
    torch.manual_seed(0)
    potential = a_potential()
    batch = a_batch(4096, dtype=torch.float32)
    values, damping = [], 1e-2
    for _ in range(6):
        taken = gauss_newton_step(potential, batch, damping)
        values.append(taken.value)
        damping = taken.damping
        bounded = bounded_weights(potential)
        assert parameters_to_vector(potential.parameters())[bounded].min() >= 0.0
        assert taken.solved.dtype == torch.float32
    assert all(after < before for before, after in itertools.pairwise(values))
    assert taken.residual < 1e-4
    x, y = torch.randn(2, 200, 2)
    assert bool((potential((x + y) / 2) <= (potential(x) + potential(y)) / 2 + 1e-5).all())


def test_a_few_steps_find_the_map_between_gaussians() -> None:
    """Where gradient descent needs hundreds. The matrix A of the map A x is fitted to the sample, whose covariances
    differ from the true ones by a few times N^-1/2."""
    torch.manual_seed(0)
    count = 20_000
    wanted = torch.tensor([[2.0, 0.6], [0.6, 0.5]])
    x = torch.randn(count, 2)
    y = torch.randn(count, 2) @ wanted
    potential = QuadraticPotential(DenseICNN(2, (4, 4)), 2)
    damping = 1e-3
    for _ in range(8):
        damping = gauss_newton_step(potential, Batch(x, y, y, count), damping).damping
    error = (potential.gradient(x) - x @ wanted).square().sum(1).mean().detach()
    assert float(error) < 20.0 / count * float(wanted.square().sum())


def test_no_step_is_taken_that_does_not_lower_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    potential = a_potential()
    before = copy.deepcopy(potential.state_dict())
    monkeypatch.setattr(gauss_newton, "LEAST_KEPT", 1e9)
    taken = gauss_newton_step(potential, a_batch(256, dtype=torch.float32), 1e-2)
    assert taken.damping == pytest.approx(1e-2 * 4.0**gauss_newton.TRIES)
    assert all(torch.equal(before[name], now) for name, now in potential.state_dict().items())


def step_of_rank(state: dict[str, Tensor], whole: Batch, damping: float) -> tuple[Tensor, float]:
    potential = a_potential()
    potential.load_state_dict(state)
    rows = shard_indices(len(whole.x))
    part = slice(rows.start, rows.stop)
    batch = Batch(whole.x[part], whole.y[part], whole.start[part], whole.size)
    taken = gauss_newton_step(potential, batch, damping)
    return parameters_to_vector(potential.parameters()).detach(), taken.value


@pytest.mark.distributed
def test_three_ranks_take_the_step_of_one() -> None:
    """With shares of different sizes. The matrix is summed in float32, in another order."""
    torch.manual_seed(0)
    state, whole = a_potential().state_dict(), a_batch(1001, dtype=torch.float32)
    expected, value = step_of_rank(state, whole, 1e-2)
    for found, own in run_ranks(step_of_rank, 3, state, whole, 1e-2):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
        assert own == pytest.approx(value, rel=1e-6)


def test_potentials_of_many_weights_and_of_images_are_refused() -> None:
    with pytest.raises(UserError, match=r"needs a matrix of \d+ GB; up to 16,384 are possible.*128,128,64"):
        check_size(DenseICNN(2, (128, 128, 64)))
    check_size(QuadraticPotential(DenseICNN(16, (64, 64, 32)), 16))
    images: Potential | nn.Module = ConvICNN(8, width=2)
    with pytest.raises(TypeError, match="dense networks, not of ConvICNN"):
        check_size(images)


@pytest.mark.slow
def test_steps_on_a_logical_device_mix_none(tmp_path: Path) -> None:
    steps = ["--batch-size", "64", "--steps", "6", "--gauss-newton-steps", "2", "--gauss-newton-points", "1024"]
    pair = ["--dim", "3", "--hidden", "16,8", "--test-size", "200", "--start", "identity", "--no-tensorboard"]
    with LogicalCuda():
        assert run(["w2gn", "gaussians", *pair, *steps, "--device", "cuda", "--run-dir", str(tmp_path / "run")]) == 0


def test_a_command_refuses_before_it_begins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["w2gn", "gaussians", "--dim", "2", "--gauss-newton-steps", "1", "--run-dir", str(tmp_path / "run")])
    assert code == 2
    assert "--gauss-newton-steps: a potential of 26,2" in capsys.readouterr().err
