"""``wasskit ssl invariance``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wasskit.config import Command, Invocation
from wasskit.plugins.ssl.options import PretrainOptions


@dataclass(frozen=True, kw_only=True)
class Invariance(PretrainOptions):
    """Options of ``wasskit ssl invariance``."""


def body(config: Invariance, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit.plugins.ssl.pretrain import pretrain
    from wasskit.plugins.ssl.tasks import InvarianceTask

    return pretrain(config, invocation, InvarianceTask)


command = Command(
    "ssl invariance",
    Invariance,
    body,
    "Pretrain by the invariance of two views and a regulariser alone.\n\n"
    "With --regulariser vicreg, sigreg or visreg the loss is that of VICReg, LeJEPA or VISReg, up to a factor. Without "
    "a regulariser the projections collapse.",
    (
        "wasskit ssl invariance --regulariser vicreg",
        "wasskit ssl invariance --regulariser sigreg --slices 512 --stop-on-collapse",
        "wasskit ssl invariance --regulariser w2",
    ),
)
