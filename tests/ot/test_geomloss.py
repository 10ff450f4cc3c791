"""The published, annealed divergences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from wasskit.ot.geomloss import annealed_nested_sinkhorn_divergences
from wasskit.ot.sinkhorn import nested_sinkhorn_divergences

References = Callable[[str], dict[str, Any]]


@pytest.mark.parametrize("file", ["mwrl_loss_small", "mwrl_loss_large1", "mwrl_loss_large2"])
def test_published_values(reference: References, file: str) -> None:
    """To 1e-8 in float64, 1e-5 absolute in float32."""
    ref = reference(file)
    x = torch.nn.functional.normalize(torch.tensor(ref["E"]).double(), dim=1)
    dims = ref["dims"].tolist()
    for (_, _, beta, blur, _), expected in zip(ref["combos"], torch.tensor(ref["w"]), strict=True):
        values = annealed_nested_sinkhorn_divergences(x, dims, beta=beta, blur=blur)
        torch.testing.assert_close(values, expected, rtol=1e-8, atol=0)
        single = annealed_nested_sinkhorn_divergences(x.float(), dims, beta=beta, blur=blur)
        torch.testing.assert_close(single.double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("beta", [1.0, 10.0])
def test_slow_annealing_approaches_the_converged_divergences_and_gradients(reference: References, beta: float) -> None:
    """GeomLoss at scaling 0.99 against ours: values to 1e-6, gradients to 3e-5."""
    ref = reference("mwrl_loss_small")
    x = torch.nn.functional.normalize(torch.tensor(ref["E"]).double(), dim=1)
    dims = ref["dims"].tolist()
    e = x.clone().requires_grad_()
    annealed = annealed_nested_sinkhorn_divergences(e, dims, beta=beta, blur=0.1, scaling=0.99)
    (annealed_grad,) = torch.autograd.grad(annealed.sum(), e)
    converged = nested_sinkhorn_divergences(e, dims, beta=beta, blur=0.1)
    (converged_grad,) = torch.autograd.grad(converged.sum(), e)
    torch.testing.assert_close(converged, annealed, rtol=1e-6, atol=0)
    assert (annealed_grad - converged_grad).norm() < 3e-5 * converged_grad.norm()


def test_one_dimension_has_no_pair() -> None:
    assert annealed_nested_sinkhorn_divergences(torch.ones(3, 4), [4]).shape == (0,)


def test_wrong_dimensions() -> None:
    with pytest.raises(ValueError, match="larger than the embedding"):
        annealed_nested_sinkhorn_divergences(torch.ones(3, 4), [2, 8])
