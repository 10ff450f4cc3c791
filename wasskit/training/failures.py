"""What ends a training early: numbers that are not finite, too little memory, a rank that is gone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from wasskit.distributed.group import any_rank, is_lost_peer, lost_peer
from wasskit.errors import RunFailed
from wasskit.system.memory import out_of_memory
from wasskit.training.meters import LossMeter


def check_losses(meter: LossMeter, advice: Callable[[], str]) -> None:
    """Stop all ranks if a loss of any of them was not finite. Waits for the device.

    Args:
        advice: gives the sentence on what to do, with a space before it.

    Raises:
        RunFailed: names the step and the terms of its loss.
    """
    bad = meter.bad_step()
    if bad is not None:
        raise RunFailed(f"{bad.describe()}{advice()}")


def check_parameters(task: nn.Module, step: int, advice: Callable[[], str]) -> None:
    """Stop all ranks if a parameter of any of them is not finite. Waits for the device.

    Raises:
        RunFailed: names the step.
    """
    owned = [p.detach() for p in task.parameters() if p.is_floating_point() and p.numel()]
    norms = torch.stack(torch._foreach_norm(owned, float("inf"))) if owned else torch.zeros(1)
    if any_rank(not bool(torch.isfinite(norms).all())):
        raise RunFailed(
            f"A parameter was not finite after step {step}, though the losses were: a gradient was not.{advice()}"
        )


@contextlib.contextmanager
def explained(
    device: torch.device, step: Callable[[], int], options: Mapping[str, Any], advice: Callable[[], str]
) -> Iterator[None]:
    """Inside, errors of memory and of lost ranks become ``RunFailed``, with ``advice()`` on how to go on.

    Args:
        options: the values of the command's options, for what may save memory.
    """
    try:
        yield
    except RuntimeError as error:
        lacking = out_of_memory(error, options, f"At step {step()} {device} ran")
        if lacking is not None:
            raise RunFailed(f"{lacking}{advice()}") from error
        if not is_lost_peer(error):
            raise
        raise lost_peer(advice()) from error
