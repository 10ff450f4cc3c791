"""``wasskit ssl byol``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wasskit.config import Command, Invocation, option
from wasskit.plugins.ssl.options import PretrainOptions, UniformityOptions


@dataclass(frozen=True, kw_only=True)
class Byol(PretrainOptions):
    """Options of ``wasskit ssl byol``."""

    uniformity: UniformityOptions = UniformityOptions(w2_weight=0.2)
    predictor: bool = option(True, help="Predict the target's projection by a network.", panel="Method")
    predictor_hidden: int | None = option(
        None, help="Hidden width of the predictor.", panel="Method", min=1, show_default="the projector's"
    )
    target_momentum: float = option(
        0.99, help="Momentum of the target network's moving average.", panel="Method", min=0, max=1
    )


def body(config: Byol, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.plugins.ssl.pretrain import pretrain
    from wasskit.plugins.ssl.tasks import ByolTask, Parts

    def task(parts: Parts[Byol]) -> ByolTask:
        config = parts.config
        hidden = (config.predictor_hidden or parts.description["projector"][0]) if config.predictor else None
        return ByolTask(parts, predictor=hidden, momentum=config.target_momentum)

    return pretrain(config, invocation, task)


command = Command(
    "ssl byol",
    Byol,
    body,
    "Pretrain by BYOL: predict, from one view of an image, a moving average's projection of another.\n\n"
    "With --w2 the Wasserstein-2 distance of the projections to the uniform distribution is added to the loss.",
    (
        "wasskit ssl byol --w2",
        "wasskit ssl byol --recipe ssl/cifar10-byol-w2 --data-root DATA --device cuda",
        "wasskit ssl byol --dataset imagefolder --data-root PHOTOS --image-size 96 --epochs 100",
        "wasskit ssl byol --resume runs/ssl/byol-w2-digits",
    ),
)
