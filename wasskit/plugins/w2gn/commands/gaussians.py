"""``wasskit w2gn gaussians``: maps between Gaussians, against the closed form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wasskit.config import Command, Invocation, changed, group, option
from wasskit.plugins.w2gn.options import (
    EnsembleOptions,
    GaussNewtonOptions,
    PotentialOptions,
    SamplingOptions,
    StepOptions,
    TransportOptions,
)

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True, kw_only=True)
class W2gnGaussians(TransportOptions):
    """Options of ``wasskit w2gn gaussians``."""

    training: StepOptions = StepOptions(steps=300, lr=1e-4)
    potentials: PotentialOptions = group(
        PotentialOptions(hidden=()),
        help={
            "hidden": "Widths of the hidden layers; by default the published ones, at least 128, 128, 64 and the "
            "dimension."
        },
    )
    ensemble: EnsembleOptions = EnsembleOptions()
    newton: GaussNewtonOptions = GaussNewtonOptions()
    sampling: SamplingOptions = SamplingOptions()

    dim: tuple[int, ...] = option(
        (2, 4, 8, 16, 32, 64), help="Dimensions, one run each.", panel="Data", min=2, max=8192
    )
    test_size: int = option(4096, help="Test points.", panel="Run", min=100)

    def settled(self, dim: int) -> Self:
        """With the widths for ``dim`` dimensions, where they are open."""
        return changed(self, hidden=self.potentials.hidden or (max(128, dim), max(128, dim), max(64, dim)))


def body(config: W2gnGaussians, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.plugins.w2gn.experiments.gaussians import PUBLISHED, gaussian_pair
    from wasskit.plugins.w2gn.series import run_series

    def pair(settled: Any, dim: int) -> Any:
        return gaussian_pair(dim, settled.run.seed, settled.test_size)

    return run_series(config, invocation, pair, published=PUBLISHED, base_name="gaussians")


command = Command(
    "w2gn gaussians",
    W2gnGaussians,
    body,
    "Maps between Gaussians, against the closed form.\n\n"
    "For every dimension trains both maps between two Gaussians and "
    "gives their unexplained variance (L2-UVP) in percent beside the published figures. With --start gaussian the maps "
    "begin at the closed form of the estimated covariances; --start identity shows what training alone finds.",
    (
        "wasskit w2gn gaussians --dim 2,16,64",
        "wasskit w2gn gaussians --dim 64 --start identity --lr 5e-3",
        "wasskit w2gn gaussians --recipe w2gn/gaussians-16-paper",
    ),
)
