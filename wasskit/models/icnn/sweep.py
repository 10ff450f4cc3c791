"""Value and gradient map of a dense input-convex network in one sweep, and the derivatives of both in another.

With ``q`` the skip layers, ``u_i = C_i h_{i-1} + q_i`` the pre-activations, ``h_i = a(u_i)`` and ``k_i`` the derivative
of the value in ``u_i``, a sweep is the forward recursion to the value and the backward one to ``k``. Its derivative,
for a loss with the derivatives ``v'`` in the value and ``k'`` in ``k``, runs the two recursions once more::

    t_0 = k'_0,    t_i = (k'_i + C_i t_{i-1}) a'(u_i)                                             along the layers
    w_i = C_{i+1}^T w_{i+1} a'(u_i) + (k'_i + C_i t_{i-1}) k_i a''(u_i) / a'(u_i),
    w_{L-1} likewise, from v' k_{L-1}                                                             and back

``w`` is the derivative of the loss in ``q``; that in ``C_i`` is ``w_i h_{i-1}^T + k_i t_{i-1}^T``. Autograd would find
the same, with about twice the operations, each of which keeps a tensor.

Layers lie above each other: ``q`` and ``k`` are (H, B), H being the sum of the widths, so that every layer is one block
of memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import Function

from wasskit.models.icnn.potential import Activation, activate, relative_curvature


def _in_place() -> bool:
    """Whether operations may write over what they read: autograd does not look, and no compiler."""
    return not (torch.is_grad_enabled() or torch.compiler.is_compiling())


class Skips(Protocol):
    """Input-quadratic layers ``q(x)``, from what they make of the parameters: tensors of the class's own order."""

    def values(self) -> Tensor:
        """``q(x)``, (H, B)."""

    def pull_back(self, k: Tensor) -> Tensor:
        """``J_q(x)^T k``, (B, D), for ``k`` (H, B)."""

    def along(self, direction: Tensor) -> Tensor:
        """``J_q(x) d``, (H, B), for directions (B, D). Called after `pull_back`."""

    def derivatives(self, w: Tensor, with_input: bool) -> list[Tensor | None]:
        """Derivatives in ``x``, if asked for, and in the parameters of ``<w, q(x)> + <d, J_q(x)^T k>``, with the last
        ``k`` and ``d``, if there was any."""


class Monomials:
    """In few dimensions: linear forms of the monomials ``x_d x_e`` and ``x_d``, so that every intermediate of the
    network's width is of size (H, B).

    Args:
        x: (B, D).
        forms: symmetric coefficients of ``x_d x_e``, and of ``x_d``, (D * D + D, H).
        bias: (H).
    """

    def __init__(self, x: Tensor, forms: Tensor, bias: Tensor) -> None:
        self.x, self.forms, self.bias = x, forms, bias
        self.monomials = torch.cat([self.outer(x, x), x], 1)
        self.k: Tensor | None = None
        self.direction: Tensor | None = None

    @staticmethod
    def outer(a: Tensor, b: Tensor) -> Tensor:
        return (a.unsqueeze(2) * b.unsqueeze(1)).flatten(1)

    def values(self) -> Tensor:
        return torch.addmm(self.bias.unsqueeze(1), self.forms.t(), self.monomials.t())

    def pull_back(self, k: Tensor) -> Tensor:
        self.k = k
        square, linear = self.coefficients(k)
        return linear.t() + 2.0 * torch.einsum("deb,be->bd", square, self.x)

    def coefficients(self, k: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients (D, D, B) and (D, B) of ``<k, q>`` in the monomials."""
        dim = self.x.shape[1]
        found = self.forms @ k
        return found[: dim * dim].unflatten(0, (dim, dim)), found[dim * dim :]

    def along(self, direction: Tensor) -> Tensor:
        self.direction = direction
        return self.forms.t() @ self.changes(direction).t()

    def changes(self, direction: Tensor) -> Tensor:
        """Of the monomials, where the forms are symmetric."""
        return torch.cat([2.0 * self.outer(direction, self.x), direction], 1)

    def derivatives(self, w: Tensor, with_input: bool) -> list[Tensor | None]:
        by_forms = self.monomials.t() @ w.t()
        if self.direction is not None and self.k is not None:
            by_forms.addmm_(self.changes(self.direction).t(), self.k.t())
        by_input = None
        if with_input:
            square, linear = self.coefficients(w)
            by_input = 2.0 * torch.einsum("deb,be->bd", square, self.x) + linear.t()
            if self.direction is not None and self.k is not None:
                by_input += 2.0 * torch.einsum("deb,be->bd", self.coefficients(self.k)[0], self.direction)
        return [by_input, by_forms, w.sum(1)]


class Products:
    """In many dimensions: squares of products with the factors, (rank * H, B).

    Args:
        x: (B, D).
        factors: (D, rank, H); ``weight`` (H, D); ``bias`` (H).
    """

    def __init__(self, x: Tensor, factors: Tensor, weight: Tensor, bias: Tensor) -> None:
        self.x, self.weight, self.bias = x, weight, bias
        self.flat, self.rank = factors.flatten(1), factors.shape[1]
        self.products = self.flat.t() @ x.t()
        self.k: Tensor | None = None
        self.weighted: Tensor | None = None
        self.direction: Tensor | None = None
        self.changes: Tensor | None = None

    def by_rank(self, a: Tensor) -> Tensor:
        return a.view(self.rank, -1, a.shape[1])

    def values(self) -> Tensor:
        linear = torch.addmm(self.bias.unsqueeze(1), self.weight, self.x.t())
        return self.with_squares(linear, self.products, 1.0)

    def with_squares(self, linear: Tensor, other: Tensor, factor: float) -> Tensor:
        """``linear`` and ``factor`` times the sums of ``products * other``; in the place of ``linear`` where it may."""
        if self.rank == 1:
            out = linear if _in_place() else None
            return torch.addcmul(linear, self.products, other, value=factor, out=out)
        squares: Tensor = self.by_rank(self.products * other).sum(0)
        return linear.add(squares, alpha=factor)

    def times(self, products: Tensor, k: Tensor) -> Tensor:
        return products * k if self.rank == 1 else (self.by_rank(products) * k).flatten(0, 1)

    def pull_back(self, k: Tensor) -> Tensor:
        self.k, self.weighted = k, self.times(self.products, k)
        return self.pulled(k, self.weighted)

    def pulled(self, k: Tensor, weighted: Tensor) -> Tensor:
        """The products are taken in the layout of their factors, which is faster than to transpose those."""
        return torch.addmm(self.weight.t() @ k, self.flat, weighted, alpha=2.0).t().contiguous()

    def along(self, direction: Tensor) -> Tensor:
        self.direction = direction
        self.changes = self.flat.t() @ direction.t()
        return self.with_squares(self.weight @ direction.t(), self.changes, 2.0)

    def derivatives(self, w: Tensor, with_input: bool) -> list[Tensor | None]:
        half = self.times(self.products, w)  # half the derivative in the products
        by_weight = w @ self.x
        if self.direction is not None and self.changes is not None and self.k is not None:
            if self.rank == 1:
                half.addcmul_(self.changes, self.k)
            else:
                half += self.times(self.changes, self.k)
            by_weight.addmm_(self.k, self.direction)
        by_flat = self.x.t() @ half.t()
        if self.direction is not None and self.weighted is not None:
            by_flat.addmm_(self.direction.t(), self.weighted.t())
        by_input = self.pulled(w, half) if with_input else None
        return [by_input, by_flat.mul_(2.0).unflatten(1, (self.rank, -1)), by_weight, w.sum(1)]


@dataclass
class Layers:
    """The layers behind the skips, and what a sweep through them leaves for its derivative.

    Args:
        activation: of the hidden layers.
        widths: of all layers.
        output: weights (1, H_{L-1}) of the sum that is the value.
        hidden: weights between the layers.
        masks: of dropout, for each hidden layer (H_i, B); none where nothing is dropped.
    """

    activation: Activation
    widths: Sequence[int]
    output: Tensor
    hidden: Sequence[Tensor]
    masks: Sequence[Tensor] | None = None
    outputs: list[Tensor] = field(default_factory=list)
    slopes: list[Tensor] = field(default_factory=list)
    k: list[Tensor] = field(default_factory=list)

    def dropped(self, i: int, x: Tensor) -> Tensor:
        """``x`` of hidden layer ``i`` (from 1), with some entries dropped."""
        return x if self.masks is None else x * self.masks[i - 1]

    def add(self, first: Tensor, i: int, second: Tensor) -> Tensor:
        """``first + C_i second``, the latter with dropout; in the place of ``first`` where autograd does not look."""
        weight = self.hidden[i - 1]
        if self.masks is not None:
            return first + self.dropped(i, weight @ second)
        return first.addmm_(weight, second) if _in_place() else torch.addmm(first, weight, second)

    def value(self, q: Tensor) -> Tensor:
        """The value, (B), of the skips' (H, B)."""
        first, *skips = q.split(list(self.widths))
        self.outputs = [first]
        for i, skip in enumerate(skips, 1):
            h, slope = activate(self.add(skip, i, self.outputs[-1]), self.activation, in_place=_in_place())
            self.outputs.append(h)
            self.slopes.append(slope)
        return (self.output @ self.outputs[-1]).squeeze(0)

    def derivative(self) -> Tensor:
        """Of the value in the skips, (H, B); where autograd does not look, each layer's is computed in its place."""
        last, first = len(self.hidden), self.outputs[0]
        if not self.hidden:
            self.k = [self.output.t().expand(-1, first.shape[1])]
            return self.k[0].contiguous()
        whole = first.new_empty(sum(self.widths), first.shape[1]) if _in_place() else None
        places: Sequence[Tensor | None] = [None] * (last + 1) if whole is None else whole.split(list(self.widths))
        k = self.output.t()
        found: list[Tensor] = []
        for i in range(last, 0, -1):
            k = torch.mul(k, self.slopes[i - 1], out=places[i])
            found.append(k)
            k = torch.mm(self.hidden[i - 1].t(), self.dropped(i, k), out=places[i - 1])
        self.k = [k, *found[::-1]]
        return torch.cat(self.k) if whole is None else whole

    def second(self, by_value: Tensor | None, by_k: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """Derivatives in the skips, (H, B), and in the output's and the hidden weights, of a loss with the derivatives
        ``by_value`` (B) in the value and ``by_k`` (H, B) in `derivative`; one of them at least. ``by_k`` is written
        over."""
        last, widths = len(self.hidden), list(self.widths)
        bent: list[Tensor] = []  # what each layer's curvature adds, over k
        tangents: list[Tensor] = []
        if by_k is not None:
            first, *rest = by_k.split(widths)
            tangents = [first]
            for i, part in enumerate(rest, 1):
                part = self.add(part, i, tangents[-1])
                h, slope = self.outputs[i], self.slopes[i - 1]
                bent.append(relative_curvature(h, slope, self.activation).mul_(part))
                tangents.append(part.mul_(slope))
        whole = self.outputs[0].new_empty(sum(widths), self.outputs[0].shape[1])
        places = whole.split(widths)
        by_output = None
        if by_value is None:
            places[last].zero_()
        else:
            torch.mul(self.k[last], by_value, out=places[last])
            by_output = self.outputs[last] @ by_value
        if by_k is not None:
            of_slopes = tangents[last].sum(1)
            by_output = of_slopes if by_output is None else by_output.add_(of_slopes)
        assert by_output is not None
        by_hidden: list[Tensor] = []
        for i in range(last, 0, -1):
            w = places[i]
            if bent:
                w.addcmul_(bent[i - 1], self.k[i])
            w = self.dropped(i, w)
            gradient = w @ self.outputs[i - 1].t()
            if tangents:
                gradient.addmm_(self.dropped(i, self.k[i]), tangents[i - 1].t())
            by_hidden.append(gradient)
            below = torch.mm(self.hidden[i - 1].t(), w, out=places[i - 1])
            if i > 1:
                below.mul_(self.slopes[i - 2])
        return whole, [by_output.unsqueeze(0), *by_hidden[::-1]]


@dataclass(frozen=True)
class Form:
    """What a sweep needs besides tensors that have derivatives."""

    skips: type[Monomials] | type[Products]
    activation: Activation
    widths: tuple[int, ...]
    strong_convexity: float
    masks: tuple[Tensor, ...] | None = None

    def run(self, x: Tensor, tensors: Sequence[Tensor], with_gradient: bool) -> tuple[Tensor, Tensor | None, Any, Any]:
        """Value, gradient, and the parts that know their derivatives."""
        hidden = len(self.widths) - 1
        places = len(tensors) - 1 - hidden
        skips = self.skips(x, *tensors[:places])
        own, others = (None, None) if self.masks is None else (self.masks[0], self.masks[1:])
        layers = Layers(self.activation, self.widths, tensors[places], tensors[places + 1 :], others)
        q = skips.values()
        value = layers.value(q if own is None else q * own)
        s = self.strong_convexity
        if s:
            value = value.add(x.square().sum(1), alpha=0.5 * s)
        if not with_gradient:
            return value, None, skips, layers
        k = layers.derivative()
        gradient = skips.pull_back(k if own is None else k * own)
        return value, gradient.add(x, alpha=s) if s else gradient, skips, layers


class _Sweep(Function):
    @staticmethod
    def forward(ctx: Any, form: Form, with_gradient: bool, x: Tensor, *tensors: Tensor) -> Any:
        value, gradient, skips, layers = form.run(x, tensors, with_gradient)
        ctx.form, ctx.skips, ctx.layers, ctx.with_gradient = form, skips, layers, with_gradient
        ctx.save_for_backward(x, *tensors)
        ctx.set_materialize_grads(False)
        return (value, gradient) if with_gradient else value

    @staticmethod
    def backward(ctx: Any, by_value: Tensor | None, by_gradient: Tensor | None = None) -> Any:
        x, *_ = ctx.saved_tensors  # refuses weights that have changed since
        if torch.is_grad_enabled():  # the derivatives are to be differentiated in their turn
            return None, None, *_recorded(ctx, by_value, by_gradient)
        form: Form = ctx.form
        skips, layers, s = ctx.skips, ctx.layers, form.strong_convexity
        if by_value is None and by_gradient is None:
            return None, None, *(None for _ in ctx.needs_input_grad[2:])
        own = None if form.masks is None else form.masks[0]
        if not layers.k:
            layers.derivative()
        by_k = None
        skips.direction = None  # that of an earlier derivative, where the graph is retained
        if by_gradient is not None:
            by_k = skips.along(by_gradient)
            by_k = by_k if own is None else by_k * own
        w, by_layers = layers.second(by_value, by_k)
        by_x, *by_skips = skips.derivatives(w if own is None else w * own, ctx.needs_input_grad[2])
        if by_x is not None and s:
            if by_gradient is not None:
                by_x.add_(by_gradient, alpha=s)
            if by_value is not None:
                by_x.addcmul_(by_value.unsqueeze(1), x, value=s)
        return None, None, by_x, *by_skips, *by_layers


def _recorded(ctx: Any, by_value: Tensor | None, by_gradient: Tensor | None) -> list[Tensor | None]:
    """The derivatives by autograd, which can differentiate them again."""
    inputs = ctx.saved_tensors
    value, gradient, *_ = ctx.form.run(inputs[0], inputs[1:], ctx.with_gradient)
    pairs = [(out, by) for out, by in ((value, by_value), (gradient, by_gradient)) if by is not None]
    wanted = [place for place, needed in enumerate(ctx.needs_input_grad[2:]) if needed]
    found = torch.autograd.grad(
        [out for out, _ in pairs], [inputs[place] for place in wanted], [by for _, by in pairs], create_graph=True,
        allow_unused=True,
    )  # fmt: skip
    derivatives: list[Tensor | None] = [None] * len(inputs)
    for place, derivative in zip(wanted, found, strict=True):
        derivatives[place] = derivative
    return derivatives


def value(form: Form, x: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """The value (B) at ``x``; differentiable any number of times, once fast."""
    return _run(form, x, tensors, False)[0]


def value_and_gradient(form: Form, x: Tensor, tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The value (B) and the gradient (B, D) at ``x``; differentiable any number of times, once fast."""
    found, gradient = _run(form, x, tensors, True)
    assert gradient is not None
    return found, gradient


def _run(form: Form, x: Tensor, tensors: Sequence[Tensor], with_gradient: bool) -> tuple[Tensor, Tensor | None]:
    device = x.device.type
    if torch.is_autocast_enabled(device):  # once for all, instead of operation by operation
        kind = torch.get_autocast_dtype(device)
        masks = None if form.masks is None else tuple(mask.to(kind) for mask in form.masks)
        with torch.autocast(device, enabled=False):
            found = _run(replace(form, masks=masks), x.to(kind), [t.to(kind) for t in tensors], with_gradient)
        return found[0].to(x.dtype), None if found[1] is None else found[1].to(x.dtype)
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():  # nothing to add to the operations themselves
        return form.run(x, tensors, with_gradient)[:2]
    recorded = _Sweep.apply(form, with_gradient, x, *tensors)
    return recorded if with_gradient else (recorded, None)
