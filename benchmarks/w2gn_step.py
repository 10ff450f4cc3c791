"""Training steps per second of W2GN against the plain form with a differentiated backward pass.

The baseline computes both maps by ``torch.autograd.grad(create_graph=True)`` and evaluates the potential at
the detached inverse anew, as the published code does; everything else (networks, batch, optimiser,
projection) is the same, and so are the losses, which are compared before anything is timed.

Products of matrices bound the ratio from above: the plain form has 1.3 times as many as the closed one, and in
256 dimensions little else. Beside the times stand the operations of a step, which is what launches cost on a GPU.

    python benchmarks/w2gn_step.py [--compile] [--threads N] [--device cuda] [--seconds 5]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.harness import Case, benchmark, main
from wasskit.models.icnn import DenseICNN
from wasskit.plugins.w2gn.core.objective import cyclic_objective, refined_objective

CASES = (
    ("2-D, 128-128-64, rank 3, batch 1024", 2, (128, 128, 64), 3, 1024),
    ("64-D, 128-128-64, batch 1024", 64, (128, 128, 64), 1, 1024),
    ("256-D, 256-256-256, batch 256", 256, (256, 256, 256), 1, 256),
)

Loss = Callable[[DenseICNN, DenseICNN, Tensor, Tensor], Tensor]


def plain_value(net: DenseICNN, x: Tensor) -> Tensor:
    """The network as its formula reads."""
    h = x
    for i, layer in enumerate(net.quadratics):
        squares = x.matmul(layer.quadratic_decomposed.transpose(1, 0)).transpose(1, 0).square().sum(1)
        q = squares + F.linear(x, layer.weight, layer.bias)
        h = q if i == 0 else F.celu(F.linear(h, net.hidden_weights[i - 1]) + q)
    return F.linear(h, net.final_layer.weight).squeeze(1) + 0.5 * net.strong_convexity * x.square().sum(1)


def plain_map(net: DenseICNN, x: Tensor) -> Tensor:
    """Its gradient by a differentiated backward pass."""
    return torch.autograd.grad(plain_value(net, x).sum(), x, create_graph=True)[0]


def plain_loss(psi: DenseICNN, conjugate: DenseICNN, x: Tensor, y: Tensor, cycle: float = 10.0) -> Tensor:
    """The objective with both cycle terms, of weight ``cycle``."""
    x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
    back = plain_map(conjugate, y)
    correlation = plain_value(psi, x).mean() - plain_value(psi, back.detach()).mean()
    cycle_y = (plain_map(psi, back) - y).square().mean()
    cycle_x = (plain_map(conjugate, plain_map(psi, x)) - x).square().mean()
    return correlation + cycle * (cycle_y + cycle_x)


def fast_loss(psi: DenseICNN, conjugate: DenseICNN, x: Tensor, y: Tensor) -> Tensor:
    """The same by closed-form maps."""
    return cyclic_objective(psi, conjugate, x, y, cycle_x=10.0, cycle_y=10.0).total


def solved_loss(psi: DenseICNN, conjugate: DenseICNN, x: Tensor, y: Tensor) -> Tensor:
    """The objective with solved conjugates, ten evaluations each."""
    return refined_objective(psi, conjugate, x, y, evaluations=10).total


def pair(dim: int, hidden: tuple[int, ...], rank: int, device: torch.device) -> tuple[DenseICNN, DenseICNN]:
    torch.manual_seed(0)
    psi, conjugate = (DenseICNN(dim, hidden, rank, strong_convexity=1.0).to(device) for _ in range(2))
    return psi, conjugate


def training_step(loss: Loss, nets: tuple[DenseICNN, DenseICNN], x: Tensor, y: Tensor) -> Callable[[], None]:
    """Loss, backward, Adam, projection."""
    psi, conjugate = nets
    parameters = [*psi.parameters(), *conjugate.parameters()]
    optimiser = torch.optim.Adam(parameters, 1e-4, betas=(0.8, 0.99), fused=True)

    def step() -> None:
        value = loss(psi, conjugate, x, y)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        psi.convexify()
        conjugate.convexify()

    return step


class Operations(TorchDispatchMode):
    """Counts operations, views left out."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view and "empty" not in func.__name__ and "detach" not in func.__name__
        return func(*args, **(kwargs or {}))


def operations(loss: Loss, nets: tuple[DenseICNN, DenseICNN], x: Tensor, y: Tensor) -> int:
    """Of a whole step."""
    step = training_step(loss, nets, x, y)
    step()
    with Operations() as counted:
        step()
    return int(counted.count)


def compiled(loss: Loss, device: torch.device) -> Loss:
    mode = "reduce-overhead" if device.type == "cuda" else "default"
    return torch.compile(loss, mode=mode, dynamic=False)


@benchmark(
    "W2GN training step",
    plain="maps by differentiated backward passes, as published",
    floor="1.3 times as many products in the plain form",
    quick={"cases": ("2-D",)},
)
def w2gn_step(
    *, compile: bool = False, cases: tuple[str, ...] = ("2-D", "64-D", "256-D"), device: str = "cpu"
) -> Iterator[Case]:
    for title, dim, hidden, rank, batch in CASES:
        if title.split(",")[0] in cases:
            forms: dict[str, Loss] = {"closed form": fast_loss, "solved conjugates": solved_loss}
            if compile:
                forms["closed form, compiled"] = compiled(fast_loss, torch.device(device))
            for name, loss in forms.items():
                yield case(f"{title}; {name}", loss, (dim, hidden, rank), batch, torch.device(device))


def case(title: str, loss: Loss, shape: tuple[int, tuple[int, ...], int], batch: int, device: torch.device) -> Case:
    x, y = torch.randn(2, batch, shape[0], device=device)
    if loss is not solved_loss:
        values = [form(*pair(*shape, device), x, y).item() for form in (plain_loss, loss)]
        assert abs(values[0] - values[1]) < 1e-4 * abs(values[0]), values

    def note() -> str:
        ours, plain = (operations(form, pair(*shape, device), x, y) for form in (loss, plain_loss))
        return f"{ours} operations, plain {plain}"

    return Case(
        title,
        training_step(loss, pair(*shape, device), x, y),
        training_step(plain_loss, pair(*shape, device), x, y),
        note=note,
    )


if __name__ == "__main__":
    main(__doc__, w2gn_step)
