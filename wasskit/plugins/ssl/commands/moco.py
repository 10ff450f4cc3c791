"""``wasskit ssl moco``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wasskit.config import Command, Invocation, option
from wasskit.errors import UserError
from wasskit.plugins.ssl.options import PretrainOptions


@dataclass(frozen=True, kw_only=True)
class Moco(PretrainOptions):
    """Options of ``wasskit ssl moco``."""

    queue: int = option(4096, help="Keys in the queue.", panel="Method", min=1)
    moco_temperature: float = option(0.2, help="Temperature of InfoNCE.", panel="Method", above=0, flag="--temperature")
    key_momentum: float = option(0.99, help="Momentum of the key encoder at the start.", panel="Method", min=0, max=1)
    key_momentum_final: float = option(
        0.999, help="Its momentum at the end, reached on a cosine.", panel="Method", min=0, max=1
    )
    shuffle: bool = option(
        False, help="Compute keys on images dealt anew to the processes, with batch norm local to each.", panel="Method"
    )

    def validate(self) -> None:
        super().validate()
        if 2 * self.loop.batch_size > self.queue:
            raise UserError(
                f"--queue: a batch brings {2 * self.loop.batch_size} keys, more than the {self.queue} of the queue; "
                "lengthen it or take a smaller --batch-size."
            )
        if self.shuffle and self.sync_bn is not False:
            raise UserError("--shuffle is for batch norm that is local to each process: add --no-sync-bn.")


def body(config: Moco, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.plugins.ssl.pretrain import pretrain
    from wasskit.plugins.ssl.tasks import MocoTask, Parts

    def task(parts: Parts[Moco]) -> MocoTask:
        config = parts.config
        momentum = (config.key_momentum, config.key_momentum_final)
        return MocoTask(
            parts, queue=config.queue, temperature=config.moco_temperature, momentum=momentum, shuffled=config.shuffle
        )

    return pretrain(config, invocation, task)


command = Command(
    "ssl moco",
    Moco,
    body,
    "Pretrain by MoCo v2: tell the other view of an image from a queue of other images' keys.\n\n"
    "The loss is symmetric in the views. With --w2 the Wasserstein-2 distance of the projections to the uniform "
    "distribution is added.",
    (
        "wasskit ssl moco --w2",
        "wasskit ssl moco --recipe ssl/cifar10-moco-w2 --data-root DATA --device cuda",
        "wasskit ssl moco --nproc 2 --no-sync-bn --shuffle",
    ),
)
