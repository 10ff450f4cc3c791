"""Steps of a training as CUDA graphs: recorded once, launched as one.

A step of many small operations is bound by the host, which launches them one by one. A CUDA graph records the
operations of one step with the memory that they read and write; its replay is one launch. What a step is given
therefore lies in the same memory every time: the batch is copied there, learning rates are tensors, parameters and the
optimisers' states stay where they are. Random numbers of the device's own generator go on from replay to replay.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from wasskit.distributed.group import world_size
from wasskit.training.stepper import UpdateStepper
from wasskit.training.task import Losses, Task

WARM_STEPS = 3
"""Steps of a kind that are taken as ever before one is recorded: libraries and optimisers set themselves up."""

MOST_KINDS = 4
"""Kinds of step that are recorded; a graph keeps all the memory that its step needs."""


@dataclass
class _Recorded:
    """A graph, what it reads and writes, and which optimisers it steps."""

    graph: Any
    inputs: list[Tensor]
    losses: Losses
    norms: dict[str, Tensor]
    stepped: tuple[int, ...]


class GraphedSteps:
    """`Task.step` by CUDA graphs, for steps that the task calls alike (`Task.kind_of_step`); the others as ever.

    Where a step cannot be recorded, that is said once, with the reason, and the training goes on without.

    Args:
        say: tells the user something.
    """

    def __init__(self, task: Task, stepper: UpdateStepper, say: Callable[[str], None]) -> None:
        self.task, self.stepper, self.say = task, stepper, say
        self.enabled = stepper.updates.cuda_graph and stepper.device.type == "cuda"
        self._seen: dict[Hashable, int] = {}
        self._recorded: dict[Hashable, _Recorded] = {}

    def __call__(self, batch: Any) -> Losses:
        """One batch: forward, backward, update."""
        kind = self._kind(batch) if self.enabled else None
        if kind is None:
            return self.task.step(batch, self.stepper)
        recorded = self._recorded.get(kind)
        if recorded is None:
            with self.stepper.rates_on_device():
                taken = self._next(kind, batch)
            if isinstance(taken, Losses):
                return taken
            recorded = taken
        return self._replay(recorded, batch)

    def _kind(self, batch: Any) -> Hashable:
        """What steps of one graph have in common; None where a step cannot be one."""
        own = self.task.kind_of_step(self.stepper.progress)
        if own is None:
            return None
        obstacle = self._obstacle()
        if obstacle is not None:
            self._give_up(obstacle)
            return None
        leaves, form = tree_flatten(batch)
        if not all(isinstance(leaf, Tensor) and leaf.device.type == self.stepper.device.type for leaf in leaves):
            self._give_up("a batch is not made of tensors of the device alone")
            return None
        kind = own, str(form), tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        return kind if kind in self._seen or len(self._seen) < MOST_KINDS else None

    def _obstacle(self) -> str | None:
        if world_size() > 1:
            return "gradients are averaged between processes"
        if self.stepper.scaler is not None:
            return "--precision fp16 decides on the host which steps are taken"
        if self.stepper.updates.accumulate > 1:
            return "gradients are accumulated over batches"
        if not all("capturable" in group and group.get("fused") for group in self.stepper.groups()):
            return "the optimiser cannot be recorded"
        return None

    def _next(self, kind: Hashable, batch: Any) -> Losses | _Recorded:
        """A warm step, or the graph of this one."""
        self._seen[kind] = self._seen.get(kind, 0) + 1
        warm = self._seen[kind] <= WARM_STEPS
        try:
            _ = self._stream  # which not every device has
            if not warm:
                self._recorded[kind] = self._record(batch)
        except RuntimeError as error:
            self.stepper.forget_gradients()
            # Leaving a recording that has failed raises as well, and says less.
            cause = error.__context__ if isinstance(error.__context__, RuntimeError) else error
            self._give_up(str(cause).strip().split("\n")[0])
            return self.task.step(batch, self.stepper)
        return self._aside(batch) if warm else self._recorded[kind]

    @cached_property
    def _stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream()

    def _aside(self, batch: Any) -> Losses:
        """A step on a stream of its own, as one that is recorded."""
        stream, current = self._stream, torch.cuda.current_stream()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            losses = self.task.step(batch, self.stepper)
        current.wait_stream(stream)
        return losses

    def _record(self, batch: Any) -> _Recorded:
        leaves, form = tree_flatten(batch)
        inputs = [leaf.clone() for leaf in leaves]
        graph = torch.cuda.CUDAGraph()
        generators = [(generator, generator.clone_state()) for generator in torch.cuda.default_generators]
        try:
            # A recording that fails does not give the stream back that it has taken: the outermost block does.
            # Threads that load data may use the device meanwhile.
            with (
                torch.cuda.stream(torch.cuda.current_stream()),
                self.stepper.recording(),
                torch.cuda.graph(graph, capture_error_mode="thread_local"),
            ):
                losses = self.task.step(tree_unflatten(inputs, form), self.stepper)
        except RuntimeError:
            for generator, state in generators:  # which a failed recording leaves as if it went on
                generator.graphsafe_set_state(state)
            raise
        # Without the nodes of autograd, which would keep the stream of the recording for parameters' gradients.
        losses = Losses(losses.total.detach(), {name: _detached(value) for name, value in losses.terms.items()})
        return _Recorded(graph, inputs, losses, dict(self.stepper.norms), tuple(self.stepper.stepped))

    def _replay(self, recorded: _Recorded, batch: Any) -> Losses:
        with torch.no_grad():
            torch._foreach_copy_(recorded.inputs, tree_flatten(batch)[0])
        self.stepper.replay(recorded.stepped, recorded.norms)
        recorded.graph.replay()
        return recorded.losses

    def _give_up(self, reason: str) -> None:
        self.enabled = False
        self._recorded.clear()
        self.say(f"Steps are not recorded as CUDA graphs, but taken one operation at a time: {reason}.")


def _detached(value: Tensor | float) -> Tensor | float:
    return value.detach() if isinstance(value, Tensor) else value
