"""Options of ``wasskit w2gn fit``. Free of torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from wasskit.candidates import complete_local_paths
from wasskit.config import argument, group, option
from wasskit.errors import UserError
from wasskit.plugins.w2gn.options import PotentialOptions, StepOptions, TransportOptions
from wasskit.trained.vectors import FILES

if TYPE_CHECKING:
    from typing_extensions import Self

Coordinates = Literal["plain", "standardised", "whitened"]
HIDDEN = (128, 128, 64)
LARGEST_BATCH = 1024
MOST_STEPS = 1000
FEWEST_STEPS = 200
OPERATIONS = 1e13
"""Floating point operations of a training by the default number of steps, at most: some five minutes of a core."""


def batch_for(rows: int, dim: int) -> int:
    """Points per step: all rows of the larger cloud, up to 1,024, or 256 beyond 1,024 dimensions."""
    return min(LARGEST_BATCH if dim <= 1024 else 256, rows)


def lr_for(rows: int, dim: int) -> float:
    """The learning rate: 0.01 from 200 rows per dimension, in proportion below, and 0.0005 at least.

    With few rows the best maps are passed within the first steps, before the rows are learned by heart.
    """
    return 1e-2 * min(max(rows / (200 * dim), 0.05), 1.0)


def steps_for(rows: int, dim: int, batch: int, hidden: tuple[int, ...]) -> int:
    """Training steps for clouds of so many rows, of which the larger one counts.

    More rows carry more detail: from 200 a step more for every eight of them, up to 1,000. In many dimensions there are
    fewer, down to 200, by what a step costs: some 16 evaluations of potentials with D (4 D + 8 H) products for each
    point, H being the sum of the widths.
    """
    affordable = OPERATIONS / (16 * batch * dim * (4 * dim + 8 * sum(hidden)))
    return int(min(MOST_STEPS, FEWEST_STEPS + rows / 8, max(affordable, FEWEST_STEPS)))


@dataclass(frozen=True, kw_only=True)
class CloudStepOptions(StepOptions):
    """Steps whose number and size follow from the clouds."""

    steps: int | None = option(  # type: ignore[assignment]
        None, help="Training steps.", panel="Optimisation", min=1, show_default="200 to 1000, by rows and dimension"
    )
    batch_size: int | None = option(  # type: ignore[assignment]
        None, help="Points of each cloud per step, over all processes.", panel="Optimisation", min=2, short="-b",
        show_default="all training rows, up to 1024",
    )  # fmt: skip
    lr: float | None = option(  # type: ignore[assignment]
        None, help="Learning rate of Adam (peak).", panel="Optimisation", above=0,
        show_default="0.0005 to 0.01, by rows per dimension",
    )  # fmt: skip

    @property
    def settled(self) -> tuple[int, int]:
        """Steps and batch size, when they are known."""
        assert self.steps is not None
        assert self.batch_size is not None
        return self.steps, self.batch_size


@dataclass(frozen=True, kw_only=True)
class CloudOptions(TransportOptions):
    """The clouds, and how maps are fitted to them."""

    training: CloudStepOptions = CloudStepOptions()
    potentials: PotentialOptions = group(
        PotentialOptions(hidden=HIDDEN), show_default={"start_samples": "all training rows, up to 262144"}
    )
    source: Path | None = argument(
        None,
        help=f"Rows (N, D) that the map takes ({FILES}); without files: patches of two photographs.",
        complete=complete_local_paths,
        metavar="SOURCE",
        saved=True,
    )
    target: Path | None = argument(
        None,
        help="Rows (M, D) of the cloud that it maps onto; without files: other patches, by another camera.",
        complete=complete_local_paths,
        metavar="TARGET",
        saved=True,
    )
    coordinates: Coordinates = option(
        "plain",
        help="Where squared distances are measured: in the rows as they are; with each column divided by its deviation "
        "within the clouds (columns of different units); or with all directions of equal deviation.",
        panel="Data",
    )
    held_out: float = option(
        0.2,
        help="Share of the rows of each cloud, up to 8192, kept from training: half of them choose, half measure.",
        panel="Data",
        above=0,
        max=0.5,
    )
    discrete_rows: int = option(1024, help="Rows of each cloud in the exact discrete transport.", panel="Run", min=2)

    def validate(self) -> None:
        super().validate()
        if (self.source is None) != (self.target is None):
            raise UserError("A map needs two clouds: name SOURCE and TARGET, or neither.")

    def settled(self, rows: int, dim: int) -> Self:
        """With the numbers that follow from the clouds: ``rows`` to train on in the larger one, of ``dim`` numbers."""
        batch = self.training.batch_size or max(batch_for(rows, dim), 2)
        steps = self.training.steps or steps_for(rows, dim, batch, self.potentials.hidden)
        lr = self.training.lr or lr_for(rows, dim)
        training = dataclasses.replace(self.training, batch_size=batch, steps=steps, lr=lr)
        return dataclasses.replace(self, training=training)
