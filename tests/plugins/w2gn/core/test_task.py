"""Maps are measured in float32, as they are saved, whatever they are trained in."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.gpu_checks.losses import rounded
from wasskit.plugins.w2gn.core.task import TransportTask
from wasskit.plugins.w2gn.core.transport import W2GN
from wasskit.plugins.w2gn.options import StepOptions
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
