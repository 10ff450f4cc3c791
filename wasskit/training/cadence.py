"""The length of a run, and at which of its steps it logs, evaluates and saves."""

from __future__ import annotations

from dataclasses import dataclass

from wasskit.training.task import Plan


@dataclass(frozen=True, kw_only=True)
class Cadence:
    """How long a run is and what is due when. A step is one update.

    Args:
        epochs, steps: the length of the run, one of the two.
        eval_every, checkpoint_every: in epochs for a run of epochs (by default every one), in steps for a run of steps
            (by default a tenth of the run); 0 only at the end. A checkpoint is also written at the end and when the
            monitored metric is the best so far.
        log_every: training losses are recorded as means over so many steps, and before each evaluation.
        evaluate_first: also evaluate before the first step.
    """

    epochs: int | None = None
    steps: int | None = None
    eval_every: int | None = None
    checkpoint_every: int | None = None
    log_every: int = 50
    evaluate_first: bool = False

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give the length of the run either in epochs or in steps")
        if self.log_every < 1 or (self.epochs or self.steps or 0) < 1:
            raise ValueError(f"log_every={self.log_every}, epochs={self.epochs}, steps={self.steps} must be at least 1")

    def plan(self, steps_per_epoch: int) -> Plan:
        """The length of a run whose epochs have so many steps."""
        return Plan(self.steps or (self.epochs or 0) * steps_per_epoch, steps_per_epoch)

    def logs(self, step: int) -> bool:
        return step > 0 and step % self.log_every == 0

    def evaluates(self, step: int, plan: Plan) -> bool:
        return self._due(self.eval_every, step, plan) or (step == 0 and self.evaluate_first)

    def saves(self, step: int, plan: Plan) -> bool:
        return self._due(self.checkpoint_every, step, plan)

    def _due(self, every: int | None, step: int, plan: Plan) -> bool:
        if self.epochs is not None:
            interval = plan.steps_per_epoch * (1 if every is None else every)
        else:
            interval = max(plan.total_steps // 10, 1) if every is None else every
        return step >= plan.total_steps or (step > 0 and interval > 0 and step % interval == 0)
