"""``wasskit ssl barlow``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wasskit.config import Command, Invocation, option
from wasskit.plugins.ssl.options import PretrainOptions, UniformityOptions


@dataclass(frozen=True, kw_only=True)
class Barlow(PretrainOptions):
    """Options of ``wasskit ssl barlow``."""

    uniformity: UniformityOptions = UniformityOptions(
        w2_weight=30.0, w2_weight_final=0.0, lu_weight=30.0, lu_weight_final=0.0
    )
    off_diagonal: float = option(0.08, help="Weight of the correlations between features.", panel="Method", min=0)


def body(config: Barlow, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.plugins.ssl.pretrain import pretrain
    from wasskit.plugins.ssl.tasks import BarlowTask

    return pretrain(config, invocation, lambda parts: BarlowTask(parts, off_diagonal=parts.config.off_diagonal))


command = Command(
    "ssl barlow",
    Barlow,
    body,
    "Pretrain by Barlow Twins: features that agree between the views and are uncorrelated.\n\n"
    "With --w2 the Wasserstein-2 distance of the projections to the uniform distribution is added to the loss, "
    "with a weight that falls from 30 to 0.",
    ("wasskit ssl barlow --w2", "wasskit ssl barlow --recipe ssl/cifar10-barlow-w2 --data-root DATA --device cuda"),
)
