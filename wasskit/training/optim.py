"""Optimisers by name, LARS, and the grouping of parameters into weights and the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn

from wasskit.errors import UserError

OPTIMIZERS = ("sgd", "adam", "adamw", "lars")


def split_parameters(*modules: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The trainable parameters as (weights, others): others are biases and norms, of at most one dimension.

    A parameter that several modules share appears once.
    """
    unique = dict.fromkeys(p for module in modules for p in module.parameters() if p.requires_grad)
    return [p for p in unique if p.ndim > 1], [p for p in unique if p.ndim <= 1]


def parameter_groups(
    *modules: nn.Module, lr: float, weight_decay: float = 0.0, bias_lr: float | None = None
) -> list[dict[str, Any]]:
    """Two groups: weights with decay; biases and norms without, at ``bias_lr`` where given."""
    weights, others = split_parameters(*modules)
    groups = [
        {"params": weights, "lr": lr, "weight_decay": weight_decay},
        {"params": others, "lr": lr if bias_lr is None else bias_lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(
    name: str,
    groups: Iterable[dict[str, Any]] | Iterable[nn.Parameter],
    *,
    lr: float,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    trust: float = 0.02,
) -> torch.optim.Optimizer:
    """An optimiser by name (one of ``OPTIMIZERS``).

    On CUDA a step is one fused operation (LARS: a few over all parameters).

    Args:
        groups: parameters, or groups of them (:func:`parameter_groups`), whose own ``lr`` and ``weight_decay`` win.
        momentum, nesterov: of SGD; ``momentum`` also of LARS.
        betas, eps: of Adam and AdamW. Adam's weight decay joins the gradient, AdamW's does not.
        trust: LARS's eta.

    Raises:
        UserError: the name is unknown.
    """
    params: list[Any] = list(groups)
    flat = (p for part in params for p in (part["params"] if isinstance(part, dict) else [part]))
    # None: torch's own choice, on the CPU one operation for each parameter, as ever.
    common: dict[str, Any] = {"weight_decay": weight_decay, "fused": all(p.is_cuda for p in flat) or None}
    if name == "sgd":
        return torch.optim.SGD(params, lr, momentum=momentum, nesterov=nesterov, **common)
    if name in ("adam", "adamw"):
        kind = torch.optim.Adam if name == "adam" else torch.optim.AdamW
        return kind(params, lr, betas=betas, eps=eps, **common)
    if name == "lars":
        return LARS(params, lr, momentum=momentum, weight_decay=weight_decay, trust=trust)
    raise UserError(f"Unknown optimiser {name!r}: choose one of {', '.join(OPTIMIZERS)}.")


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (You et al., 2017, arXiv 1708.03888), in the form used in self-supervision.

    For a parameter p with gradient g, momentum buffer m and rate lr::

        g <- g + weight_decay p;   g <- g trust |p| / |g|  where both norms are positive
        m <- momentum m + g;       p <- p - lr m

    The first line is for weights only; parameters of at most one dimension (biases, norms) skip it.
    """

    def __init__(
        self, params: Any, lr: float, *, momentum: float = 0.9, weight_decay: float = 0.0, trust: float = 0.02
    ) -> None:
        if lr < 0 or momentum < 0 or weight_decay < 0 or trust <= 0:
            raise ValueError(f"LARS with {lr=}, {momentum=}, {weight_decay=}, {trust=}")
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            gradients = [p.grad for p in params]
            places = [i for i, p in enumerate(params) if p.ndim > 1]
            if places:
                adapted = self._adapt([params[i] for i in places], [gradients[i] for i in places], group)
                for i, gradient in zip(places, adapted, strict=True):
                    gradients[i] = gradient
            for p in params:
                if "momentum_buffer" not in self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
            buffers = [self.state[p]["momentum_buffer"] for p in params]
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, gradients)
            torch._foreach_add_(params, buffers, alpha=-group["lr"])
        return loss

    @staticmethod
    def _adapt(weights: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
        decayed = torch._foreach_add(gradients, weights, alpha=group["weight_decay"])
        of_weights = torch.stack(torch._foreach_norm(weights))
        of_gradients = torch.stack(torch._foreach_norm(decayed))
        both = (of_weights > 0) & (of_gradients > 0)
        ratios = torch.where(both, group["trust"] * of_weights / of_gradients, torch.ones_like(of_weights))
        torch._foreach_mul_(decayed, list(ratios.unbind()))
        return list(decayed)
