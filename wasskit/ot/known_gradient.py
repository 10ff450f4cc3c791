"""A scalar whose gradient is found with its value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def known_gradient(compute: Callable[[Tensor, bool], tuple[Tensor, Tensor | None]], x: Tensor) -> Tensor:
    """The scalar ``compute(x, with_gradient)[0]``; its gradient in ``x`` is ``compute``'s second result.

    Differentiable once. ``compute`` is called once, without recording, with whether a gradient will be wanted.
    """
    value: Tensor = _KnownGradient.apply(x, compute)
    return value


class _KnownGradient(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, compute: Callable[[Tensor, bool], tuple[Tensor, Tensor | None]]) -> Tensor:
        value, gradient = compute(x, ctx.needs_input_grad[0])
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (own,) = ctx.saved_tensors
        return gradient.to(own) * own, None
