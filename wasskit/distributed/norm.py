"""Batch normalisation over the batch of all ranks, and the shuffling that keeps MoCo's ranks from cheating.

torch's own SyncBatchNorm refuses CPU tensors and gloo, and waits for the device at every call; this one needs nothing
but the collectives of this package. On CUDA both take the same kernels.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from wasskit.distributed.collectives import broadcast_tensor, gather_with_grad, reduce_sum, stack_ranks
from wasskit.distributed.group import is_by_host, rank, world_size
from wasskit.errors import UserError
from wasskit.system.transfer import to_device

M = TypeVar("M", bound=nn.Module)


def joint_norm(wanted: bool | None) -> bool:
    """Whether batch norm takes the batch of all ranks together: as wanted; by default, unless ranks share a GPU.

    Ranks that share a GPU, or compute on slices, exchange tensors through host memory: too slow for every layer.
    """
    return world_size() > 1 and (not is_by_host() if wanted is None else wanted)


class SyncBatchNorm(_BatchNorm):
    """Batch normalisation of (B, C, ...) with the mean and variance of the joined batch of all ranks.

    Output, gradient and running statistics are those of ``BatchNorm`` on the joined batch; ranks may hold different
    numbers of rows, at least one each. Parameters, buffers and state dict are ``BatchNorm``'s. On one rank, and in
    evaluation, it is ``BatchNorm``. Statistics of half-precision inputs are taken in float32.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected an input of at least 2 dimensions, (B, C, ...), got shape {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(input)
        self._check_input_dim(input)
        if input.is_cuda:
            input = input.contiguous(memory_format=_layout(input))
        mean, variance, count = joint_moments(input)
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            self._update_running(mean, variance, count)
        result: Tensor = _Normalise.apply(input, mean, variance, count, self.weight, self.bias, self.eps)
        return result

    @torch.no_grad()
    def _update_running(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        # Without a momentum the running statistics are plain averages over all batches seen.
        weight = self.num_batches_tracked.float().reciprocal() if self.momentum is None else self.momentum
        unbiased = variance * (count / (count - 1))
        for running, current in ((self.running_mean, mean), (self.running_var, unbiased)):
            running.add_((current.to(running.dtype) - running) * weight)


class _SyncBatchNormAct(SyncBatchNorm):
    """The same, followed by the drop-out and activation that timm's ``BatchNormAct2d`` holds itself."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        return cast(Tensor, self.act(self.drop(super().forward(input))))


@torch.no_grad()
def joint_moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (C,), biased variance (C,) and number of values per channel () of (B, C, ...) over all ranks.

    The ranks' moments (m_r, v_r, n_r) join by the law of total variance, with w_r = n_r / n: m = sum_r w_r
    m_r and v = sum_r w_r (v_r + (m_r - m)^2), which cancels nowhere, as the difference of raw moments would.
    """
    if x.is_cuda:
        mean, inverse_std = torch.batch_norm_stats(x, 0.0)  # (C,) each; 0 for a channel of equal values
        variance = torch.where(inverse_std > 0, inverse_std, torch.inf) ** -2
    else:
        wide = x if x.dtype == torch.float64 else x.float()
        variance, mean = torch.var_mean(wide, _all_but_channels(x), correction=0)
    count = mean.new_full((1,), x.numel() // x.shape[1])
    moments = stack_ranks(torch.cat([mean, variance, count]))
    channels = x.shape[1]
    means, variances, counts = moments[:, :channels], moments[:, channels:-1], moments[:, -1:]
    total = counts.sum()
    weights = counts / total
    mean = (weights * means).sum(0)
    variance = (weights * (variances + (means - mean) ** 2)).sum(0)
    return mean, variance, total


class _Normalise(Function):
    """y = weight (x - m) / sqrt(v + eps) + bias, where m and v are moments of the joined batch.

    With g = dL/dy, xhat = (x - m) / sqrt(v + eps), and sums over the n values of a channel on all ranks,
    dL/dx = weight / sqrt(v + eps) * (g - sum(g) / n - xhat * sum(g xhat) / n). The gradients of weight and
    bias stay this rank's own: ``average_gradients`` joins them with all others.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        mean: Tensor,
        variance: Tensor,
        count: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
    ) -> Tensor:
        inverse_std = (variance + eps).rsqrt()
        ctx.save_for_backward(x, mean, inverse_std, count, weight)
        if x.is_cuda:
            normalised: Tensor = torch.batch_norm_elemt(x, weight, bias, mean, inverse_std, eps)
            return normalised
        return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, inverse_std, count, weight = ctx.saved_tensors
        joined = _native_gradients if x.is_cuda else _gradients
        by_x, by_weight, by_bias = joined(gradient, x, mean, inverse_std, count, weight)
        return by_x, None, None, None, by_weight, by_bias, None


Gradients = tuple[Tensor, Tensor | None, Tensor | None]
"""By the input (B, C, ...), the weight (C,) and the bias (C,)."""


def _gradients(
    gradient: Tensor, x: Tensor, mean: Tensor, inverse_std: Tensor, count: Tensor, weight: Tensor | None
) -> Gradients:
    shape = (1, -1) + (1,) * (x.dim() - 2)
    wide = gradient.to(mean.dtype)
    normalised = (x.to(mean.dtype) - mean.view(shape)) * inverse_std.view(shape)
    sums = torch.stack([wide.sum(_all_but_channels(x)), (wide * normalised).sum(_all_but_channels(x))])
    along_bias, along_weight = reduce_sum(sums) / count
    scale = inverse_std if weight is None else inverse_std * weight
    by_x = scale.view(shape) * (wide - along_bias.view(shape) - normalised * along_weight.view(shape))
    by_bias, by_weight = (None, None) if weight is None else sums.to(weight.dtype)
    return by_x.to(x.dtype), by_weight, by_bias


def _native_gradients(
    gradient: Tensor, x: Tensor, mean: Tensor, inverse_std: Tensor, count: Tensor, weight: Tensor | None
) -> Gradients:
    """The same by torch's kernels: two passes over the activations."""
    gradient, affine = gradient.contiguous(memory_format=_layout(x)), weight is not None
    along_bias, along_weight, by_weight, by_bias = torch.batch_norm_backward_reduce(
        gradient, x, mean, inverse_std, weight, True, affine, affine
    )
    sums = reduce_sum(torch.stack([along_bias, along_weight]))
    wide = weight.to(mean.dtype) if weight is not None else None
    by_x: Tensor = torch.batch_norm_backward_elemt(
        gradient, x, mean, inverse_std, wide, sums[0], sums[1], count.reshape(1).to(torch.int32)
    )
    return (by_x, by_weight, by_bias) if affine else (by_x, None, None)


def _layout(x: Tensor) -> torch.memory_format:
    """In which the kernels read ``x`` fast: channels last where it has them there without gaps, else channels first.
    Of two tensors in different ones they read every number by itself."""
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim())
    return last if last is not None and x.is_contiguous(memory_format=last) else torch.contiguous_format


def _all_but_channels(x: Tensor) -> list[int]:
    return [0, *range(2, x.dim())]


def convert_sync_batchnorm(module: M) -> M:
    """Replace every batch normalisation in ``module`` by ``SyncBatchNorm``; return it, or its replacement.

    Parameters and buffers are taken over as they are, so optimisers and tied weights keep their hold on them.
    Raises ``UserError`` for a kind of batch normalisation whose forward is its own and unknown here.
    """
    if isinstance(module, _BatchNorm) and not isinstance(module, SyncBatchNorm):
        return cast(M, _synchronised(module))
    replacements: dict[nn.Module, nn.Module] = {}
    for owner in list(module.modules()):
        for name, child in list(owner._modules.items()):  # named_children passes over a second name of a module
            if isinstance(child, _BatchNorm) and not isinstance(child, SyncBatchNorm):
                # One module used in two places stays one module.
                setattr(owner, name, replacements.setdefault(child, _synchronised(child)))
    return module


def _synchronised(norm: _BatchNorm) -> SyncBatchNorm:
    if isinstance(norm, nn.SyncBatchNorm) or type(norm).forward is _BatchNorm.forward:
        kind: type[SyncBatchNorm] = SyncBatchNorm
    elif isinstance(getattr(norm, "act", None), nn.Module) and isinstance(getattr(norm, "drop", None), nn.Module):
        kind = _SyncBatchNormAct
    else:
        raise UserError(f"{type(norm).__name__} cannot be synchronised over ranks: choose a backbone without it.")
    converted = kind.__new__(kind)
    nn.Module.__init__(converted)
    # Everything a batch normalisation is made of: sizes, flags, parameters, buffers and hooks.
    for name, value in norm.__dict__.items():
        converted.__dict__[name] = value.copy() if isinstance(value, dict) else value
    return converted


@torch.no_grad()
def shuffle(x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Deal the rows of the joined batch anew to the ranks: shuffling BN, He et al. (MoCo, 2020), section 3.3.

    ``x`` is this rank's equal share, (B, ...); returns its new share, (B, ...), and the order, (N * B,), that
    ``unshuffle`` takes. Every rank draws from its ``generator``; rank 0's order counts for all. No gradient.
    """
    joined = gather_with_grad(x)
    device = generator.device if generator is not None else torch.device("cpu")
    drawn = torch.randperm(len(joined), generator=generator, device=device)
    order = to_device(broadcast_tensor(drawn.cpu()), x.device)
    return joined[_own_rows(order)], order


@torch.no_grad()
def unshuffle(x: Tensor, order: Tensor) -> Tensor:
    """Undo ``shuffle``: from (B, ...) of the shuffled share, the rows of the share before it. No gradient."""
    return gather_with_grad(x)[_own_rows(order.argsort())]


def _own_rows(order: Tensor) -> Tensor:
    share = len(order) // world_size()
    return order[rank() * share : (rank() + 1) * share]
