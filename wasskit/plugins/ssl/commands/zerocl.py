"""``wasskit ssl zerocl``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from wasskit.config import Command, Invocation, option
from wasskit.plugins.ssl.options import PretrainOptions, UniformityOptions


@dataclass(frozen=True, kw_only=True)
class ZeroCl(PretrainOptions):
    """Options of ``wasskit ssl zerocl``."""

    uniformity: UniformityOptions = UniformityOptions(
        w2_weight=30.0, w2_weight_final=0.0, lu_weight=30.0, lu_weight_final=0.0
    )
    along: Literal["feature", "instance", "both"] = option(
        "feature", help="What is whitened: features over the batch, instances over the features, or both.",
        panel="Method",
    )  # fmt: skip


def body(config: ZeroCl, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.plugins.ssl.pretrain import pretrain
    from wasskit.plugins.ssl.tasks import ZeroClTask

    return pretrain(config, invocation, lambda parts: ZeroClTask(parts, along=parts.config.along))


command = Command(
    "ssl zerocl",
    ZeroCl,
    body,
    "Pretrain by Zero-CL: views that agree after whitening, without negatives or a second network.\n\n"
    "With --w2 the Wasserstein-2 distance of the projections to the uniform distribution is added to the loss.",
    (
        "wasskit ssl zerocl --w2",
        "wasskit ssl zerocl --along both",
        "wasskit ssl zerocl --recipe ssl/cifar10-zerocl-w2 --data-root DATA --device cuda",
    ),
)
