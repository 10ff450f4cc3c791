"""Options that the commands of ``wasskit w2gn`` share. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from wasskit.config import OptionGroup, RecipeOptions, option
from wasskit.errors import UserError
from wasskit.options import RunOptions, TrainingDeviceOptions


@dataclass(frozen=True, kw_only=True)
class PotentialOptions(OptionGroup):
    """The two potentials and how they start."""

    hidden: tuple[int, ...] = option((128, 128, 64), help="Widths of the hidden layers.", panel="Potentials", min=1)
    rank: int = option(1, help="Rank of the quadratic skip layers.", panel="Potentials", min=1)
    activation: Literal["celu", "softplus"] = option("celu", help="Activation.", panel="Potentials")
    strong_convexity: float = option(
        1e-6, help="Factor of the quadratic that bounds the curvature from below.", panel="Potentials", min=0
    )
    dropout: float = option(0.0, help="Dropout.", panel="Potentials", min=0, below=1)
    start: Literal["gaussian", "identity", "pretrain"] = option(
        "gaussian",
        help="Where the maps start: at the optimal transport between the two covariances, at the identity, or at "
        "networks trained to the identity first (the published way).",
        panel="Potentials",
    )
    start_samples: int | None = option(
        None,
        help="Points from which the two covariances are estimated.",
        panel="Potentials",
        min=2,
        show_default="32768 plus 4096 per dimension",
    )
    keep: Literal["better", "end"] = option(
        "better",
        help="With --start gaussian keep the trained maps where fresh points show that both are better than the start, "
        "and the start otherwise; or keep what training ends with in any case.",
        panel="Potentials",
        runtime=True,
        absent="end",
    )
    pretrain_steps: int = option(
        2000, help="Steps of training to the identity, for --start pretrain.", panel="Potentials", min=1
    )


@dataclass(frozen=True, kw_only=True)
class ObjectiveOptions(OptionGroup):
    """The objective."""

    refine: Literal["none", "lbfgs", "newton"] = option(
        "lbfgs",
        help="Solve for the conjugate in training, started from the second network, or (none) rely on the cycle "
        "terms alone, as published.",
        panel="Objective",
    )
    refine_evaluations: int = option(
        10, help="Evaluations of the potential per solved conjugate.", panel="Objective", min=1
    )
    cycle: float = option(
        1.0,
        help="Lambda: weight of the mean squared entries of the cycle term on the target side.",
        panel="Objective",
        flag="--lambda",
        above=0,
    )
    cycle_source: float = option(0.0, help="Weight of the cycle term on the source side.", panel="Objective", min=0)
    dual: Literal["source", "target"] = option(
        "source",
        help="Whose potential the dual problem is written in: the source's, which makes the inverse images of the "
        "target follow the source, or the target's, which makes the images of the source follow the target.",
        panel="Objective",
    )
    l1: float = option(0.0, help="Weight of the absolute values of all parameters.", panel="Objective", min=0)


@dataclass(frozen=True, kw_only=True)
class StepOptions(OptionGroup):
    """Length of the training and how its steps are taken."""

    steps: int = option(2000, help="Training steps.", panel="Optimisation", min=1)
    batch_size: int = option(
        1024, help="Points of each measure per step, over all processes.", panel="Optimisation", min=2, short="-b"
    )
    lr: float = option(1e-2, help="Learning rate of Adam (peak).", panel="Optimisation", above=0)
    betas: tuple[float, ...] = option(
        (0.9, 0.99), help="Adam's two decay rates for the potential.", panel="Optimisation", min=0, below=1
    )
    conjugate_betas: tuple[float, ...] = option(
        (0.9, 0.99), help="The same for the inverse's network.", panel="Optimisation", min=0, below=1
    )
    weight_decay: float = option(0.0, help="Weight decay.", panel="Optimisation", min=0)
    schedule: Literal["cosine", "constant"] = option(
        "cosine", help="Learning rate after the warm-up.", panel="Optimisation"
    )
    warmup_steps: int = option(50, help="Steps of linear warm-up.", panel="Optimisation", min=0)
    ema: float = option(
        0.999,
        help="Decay of the average of the weights that is evaluated and saved (0: the weights themselves).",
        panel="Optimisation",
        min=0,
        below=1,
    )
    clip_norm: float | None = option(
        None, help="Largest norm of the gradient of either network.", panel="Optimisation", above=0
    )
    eval_every: int | None = option(
        None, help="Steps between evaluations.", panel="Run", min=1, show_default="a tenth of the run"
    )
    compile: bool = option(False, help="Compile the objective with torch.compile.", panel="Machine", runtime=True)
    cuda_graph: bool = option(
        True,
        help="On CUDA, record a step once and launch it as one graph, instead of its hundreds of operations one by "
        "one.",
        panel="Machine",
        runtime=True,
    )

    def validate(self) -> None:
        super().validate()
        for flag, betas in (("--betas", self.betas), ("--conjugate-betas", self.conjugate_betas)):
            if len(betas) != 2:
                raise UserError(f"{flag}: expected two numbers, got {len(betas)}.")


@dataclass(frozen=True, kw_only=True)
class GaussNewtonOptions(OptionGroup):
    """Steps of second order after those of Adam, for potentials of few weights."""

    gauss_newton_steps: int = option(
        0,
        help="Gauss-Newton steps of the dual problem after those of Adam. Each takes a matrix of as many rows as a "
        "potential has weights: choose narrow layers.",
        panel="Optimisation",
        min=0,
    )
    gauss_newton_points: int = option(
        65536, help="Points of each measure per Gauss-Newton step, over all processes.", panel="Optimisation", min=1024
    )


@dataclass(frozen=True, kw_only=True)
class EnsembleOptions(OptionGroup):
    """Several pairs of potentials whose means are the answer."""

    members: int = option(
        1,
        help="Pairs of potentials whose means are the answer. They start apart, are each trained on its own, and then "
        "their means are.",
        panel="Potentials",
        min=1,
    )
    apart: float = option(
        0.7,
        help="Share of Adam's steps in which several members are trained each on its own.",
        panel="Potentials",
        min=0,
        max=1,
    )

    def steps_apart(self, steps: int) -> int:
        """How many of so many steps of Adam train members each on its own."""
        return round(self.apart * steps) if self.members > 1 else 0


@dataclass(frozen=True, kw_only=True)
class SamplingOptions(OptionGroup):
    """How points are drawn from measures in closed form."""

    sampling: Literal["sobol", "random"] = option(
        "sobol",
        help="Draw training batches from scrambled Sobol points (batch averages vary less) or at random.",
        panel="Optimisation",
    )


@dataclass(frozen=True, kw_only=True)
class TransportOptions(RecipeOptions):
    """Everything that a training of two dense potentials needs."""

    objective: ObjectiveOptions = ObjectiveOptions()
    training: StepOptions = StepOptions()
    potentials: PotentialOptions = PotentialOptions()
    run: RunOptions = RunOptions()
    machine: TrainingDeviceOptions = TrainingDeviceOptions()


@dataclass(frozen=True, kw_only=True)
class StagedOptions(TransportOptions):
    """The same on points that a network makes, which may lie in a plane of few dimensions."""

    start_floor: float = option(
        1e-3, help="Smallest variance for the Gaussian start, over the mean one.", panel="Potentials", above=0, below=1
    )


def refuse_newton(refine: str) -> None:
    """Raises `UserError` for Newton's method, where the networks are those for images."""
    if refine == "newton":
        raise UserError(
            "--refine newton needs second derivatives, which networks for images do not have: give --refine lbfgs."
        )
