"""The task: how weights are drawn, and that maps are measured in float32, as they are saved, whatever they train in."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.gpu_checks.losses import rounded
from wasskit.models.icnn import DenseICNN, QuadraticPotential
from wasskit.plugins.w2gn.core.task import TransportTask, fitted_transport
from wasskit.plugins.w2gn.core.transport import W2GN
from wasskit.plugins.w2gn.options import InitialOptions, PotentialOptions, StepOptions, TransportOptions
from wasskit.training.task import Progress

backends: Any = torch.backends


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch before 2.9")
def test_evaluation_is_in_full_where_products_are_in_tf32() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(64, 3), 2.0 * torch.randn(64, 3) + 1.0
    pair = W2GN.dense(3, hidden=(8, 8), start=(x, y))
    options = StepOptions(batch_size=16)
    task = TransportTask(pair, options, lambda maps: {"test": {"sum": float(maps.forward_map(x).sum())}})
    progress = Progress(0, 0, 1, 1)
    expected = task.evaluate(progress)
    backends.mkldnn.matmul.fp32_precision = "tf32"
    try:
        with rounded():
            found = task.evaluate(progress)
            by_products = float(task.averaged.forward_map(x).sum())
    finally:
        backends.mkldnn.matmul.fp32_precision = "none"
    assert found == expected
    assert by_products != expected["test"]["sum"]


def drawn(initial: InitialOptions) -> list[DenseICNN]:
    """The two networks on normal points."""

    def points(number: int, count: int, rows: range | None = None) -> torch.Tensor:
        return torch.randn(count, 3, generator=torch.Generator().manual_seed(abs(number)))

    torch.manual_seed(1)
    options = TransportOptions(potentials=PotentialOptions(hidden=(30, 20), start_samples=500))
    networks = []
    for potential in fitted_transport(options, 3, points, points, initial).potentials():
        core = potential.get_submodule("core")
        assert isinstance(core, QuadraticPotential)
        assert isinstance(core.network, DenseICNN)
        networks.append(core.network)
    return networks


def test_weights_are_drawn_as_asked_in_both_networks() -> None:
    for plain, scaled in zip(drawn(InitialOptions()), drawn(InitialOptions(quadratic_scale=0.25)), strict=True):
        for ours, others in zip(plain.quadratics, scaled.quadratics, strict=True):
            torch.testing.assert_close(others.quadratic_decomposed, 0.5 * ours.quadratic_decomposed)
            torch.testing.assert_close(others.weight, ours.weight, rtol=0, atol=0)
    for plain, apart in zip(drawn(InitialOptions()), drawn(InitialOptions(bend_spread=3.0)), strict=True):
        for ours, others in zip(plain.quadratics, apart.quadratics, strict=True):
            assert float((others.bias - ours.bias).detach().std()) > 1.0
