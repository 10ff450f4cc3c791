"""Means of gradients over the ranks, taken while the backward pass still runs.

Every rank sends the same messages in the same order, whichever gradients it has: a missing one travels as zeros, and
the last message says of each parameter whether the rank has a gradient of it. So nothing is agreed on before.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from wasskit.distributed.group import channels, world_size
from wasskit.distributed.messages import buckets, flatten, widen
from wasskit.errors import RunFailed
from wasskit.system.transfer import to_device


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the ranks, in place; once, after a step's last backward.

    A parameter without a gradient on every rank keeps none, as on one rank; one that has a gradient on some
    ranks counts as zero on the others and has the mean on all. Ranks end with the same bits.
    """
    GradientAverage(parameters).finish()


@dataclass(eq=False)
class _Bucket:
    """Parameters whose gradients travel together; this backward pass owes ``missing`` of them."""

    parameters: list[nn.Parameter]
    missing: int = 0


@dataclass(eq=False)
class _Sent:
    """The gradients of a bucket on their way: ``flat`` is their sum when ``work`` is done."""

    parameters: list[nn.Parameter]
    flat: Tensor
    work: Any


class GradientAverage:
    """`average_gradients` of the same parameters again and again, sent while the backward pass runs.

    ``start`` before the backward pass of an update, ``finish`` after it, on all ranks alike. ``finish`` alone does all
    of the work. Several passes before one ``finish`` are right, too: averaging a mean again leaves it. Between hosts
    the messages have a process group of their own, so that other collectives may come before or after them.

    A parameter without a gradient on any rank costs no bytes from the second update on, until it has one. Where
    gradients stay on GPUs (nccl), the host would have to wait for the device to know what the other ranks have: it does
    so once for each pattern of its own, and `RunFailed` is raised when a pattern later stands for something else.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._parameters = list(dict.fromkeys(parameters))
        self._open = False  # between start and finish: passes before are of micro-batches, whose sums are not complete
        self._required: list[bool] | None = None
        self._absent: set[nn.Parameter] = set()
        self._settled = False
        self._order: list[nn.Parameter] = []
        self._buckets: list[_Bucket] = []
        self._sent: list[_Sent] = []
        self._hooks: list[Any] = []
        self._patterns: dict[bytes, tuple[Tensor, list[bool]]] = {}
        self._doubt: tuple[Tensor, Tensor, torch.cuda.Event] | None = None

    def start(self) -> None:
        """A backward pass begins, the last one of its update for all that this object knows."""
        if world_size() == 1:
            return
        if self._sent:
            self.finish()
        self._follow_frozen()
        if not self._hooks and self._overlaps():
            self._listen()
        for bucket in self._buckets:
            bucket.missing = len(bucket.parameters)
        self._open = True

    @torch.no_grad()
    def finish(self) -> None:
        """Make every gradient the mean over the ranks."""
        if world_size() == 1:
            return
        self._open = False
        self._follow_frozen()
        if not self._order:
            return
        own = [parameter.grad is not None for parameter in self._order]
        while len(self._sent) < len(self._buckets) - 1:
            self._send(self._buckets[len(self._sent)])
        self._send(self._buckets[-1], own)
        for sent in self._sent:
            if sent.work is not None:
                sent.work.wait()
        there = dict(zip(self._order, self._anywhere(self._sent[-1].flat[-len(own) :], own), strict=True))
        for sent in self._sent:
            _take(sent, there)
        self._sent.clear()
        self._settle(there)

    def _settle(self, there: dict[nn.Parameter, bool]) -> None:
        """Leave out what no rank has a gradient of, in the first update; add what has one later."""
        late = [parameter for parameter in self._order if there[parameter] and parameter in self._absent]
        if late:
            average_gradients(late)
            self._absent.difference_update(late)
        elif not self._settled:
            self._absent = {parameter for parameter in self._order if not there[parameter]}
        if late or (self._absent and not self._settled):
            self._lay_out()
        self._settled = True

    def _follow_frozen(self) -> None:
        """Another layout where parameters were frozen or thawed, as they are on all ranks alike."""
        required = [parameter.requires_grad for parameter in self._parameters]
        if required != self._required:
            self._required, self._settled, self._absent = required, False, set()
            self._lay_out()

    def _lay_out(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._patterns.clear()
        # The backward pass comes to the last layers first.
        trained = [parameter for parameter in reversed(self._parameters) if parameter.requires_grad]
        carried = [parameter for parameter in trained if parameter not in self._absent]
        self._order = carried + [parameter for parameter in trained if parameter in self._absent]
        self._buckets = [_Bucket(members) for members in buckets(carried)] or [_Bucket([])]

    def _overlaps(self) -> bool:
        """Whether gradients can be sent from within the backward pass without waiting for the device."""
        return bool(self._order) and (not self._order[0].is_cuda or channels().cuda is not None)

    def _listen(self) -> None:
        """Send each bucket but the last when its gradients are there, and all buckets before it are sent."""
        owner = weakref.ref(self)

        def arrived(parameter: Tensor, bucket: _Bucket) -> None:
            average = owner()
            if average is None or not average._open:
                return
            bucket.missing -= 1
            while len(average._sent) < len(average._buckets) - 1:
                following = average._buckets[len(average._sent)]
                if following.missing:
                    return
                average._send(following)

        for bucket in self._buckets[:-1]:
            for parameter in bucket.parameters:
                hook = parameter.register_post_accumulate_grad_hook(lambda p, bucket=bucket: arrived(p, bucket))
                self._hooks.append(hook)

    @torch.no_grad()
    def _send(self, bucket: _Bucket, own: Sequence[bool] = ()) -> None:
        """The sum of a bucket begins, with which parameters have gradients behind the last one."""
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket.parameters]
        flat = widen(flatten(parts)) if parts else self._order[0].new_zeros(0, dtype=torch.float32)
        if own:
            flat = torch.cat([flat, to_device(torch.tensor(own, dtype=flat.dtype), flat.device)])
        channel = channels()
        process_group = channel.gradients
        if flat.is_cuda and channel.cuda is not None:
            process_group = channel.cuda
        else:
            flat = flat.cpu()
        work = dist.all_reduce(flat, group=process_group, async_op=True)
        self._sent.append(_Sent(bucket.parameters, flat, work))

    def _anywhere(self, flags: Tensor, own: Sequence[bool]) -> list[bool]:
        """Which parameters have a gradient on at least one rank, the same answer on all of them."""
        if not flags.is_cuda:
            return [flag > 0 for flag in flags.tolist()]
        if self._doubt is not None and self._doubt[2].query() and bool(self._doubt[1]):
            raise RunFailed(
                "A parameter had a gradient on some ranks only, where it had one on all or on none before: "
                "the loss must use the same parameters on every rank."
            )
        found, pattern = flags > 0, bytes(own)
        if pattern not in self._patterns:
            self._patterns[pattern] = found, found.tolist()
        else:
            strange = (found != self._patterns[pattern][0]).any()
            if self._doubt is not None:  # which may not have been read: the device is often steps behind
                strange = strange | self._doubt[0]
            told = strange.to("cpu", non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            self._doubt = strange, told, event
        return self._patterns[pattern][1]


def _take(sent: _Sent, there: dict[nn.Parameter, bool]) -> None:
    """Write the means of a bucket into its gradients."""
    mean, start = sent.flat.div_(world_size()), 0
    for parameter in sent.parameters:
        part = mean[start : start + parameter.numel()].view(parameter.shape)
        start += parameter.numel()
        if there[parameter]:
            if parameter.grad is None:
                parameter.grad = torch.empty_like(parameter)
            parameter.grad.copy_(part)
