"""Whether the metrics of an epoch say that a representation has collapsed, in words."""

from __future__ import annotations

from collections.abc import Mapping

from wasskit import console
from wasskit.errors import RunFailed

#: One point has W2 = sqrt 2; with the trace s of an even spread around it, W2^2 = 2 - 2 sqrt s: here s = 0.001.
_POINT = 1.39
#: Share of the dimensions below which the effective rank says collapse, whatever the augmentations leave.
_USED = 0.02
#: Rank below which nothing but a line is left.
_LINE = 2.0


def collapse_of(metrics: Mapping[str, float], width: int) -> str | None:
    """What kind of collapse of (N, ``width``) projections ``w2`` and ``effective_rank`` show; None where they show
    none.

    Made to miss the beginnings of a collapse rather than to alarm the first epochs of a sound training, whose
    projections share a direction: the metrics themselves, and ``study measure``, tell the degrees between.
    """
    w2, rank = metrics.get("w2"), metrics.get("effective_rank")
    if w2 is not None and w2 >= _POINT:
        return f"complete collapse: all projections are nearly one point (W2 {w2:.3f}, of at most 1.414)"
    if rank is not None and width > 1 and rank < max(_LINE, _USED * width):
        return f"dimensional collapse: the projections use about {rank:.1f} of {width} dimensions (effective rank)"
    return None


def check_collapse(metrics: Mapping[str, float], width: int, epoch: int, *, stop: bool) -> None:
    """Warn where an epoch's metrics show a collapse; with ``stop`` raise ``RunFailed``."""
    found = collapse_of(metrics, width)
    if found is None:
        return
    sentence = f"Epoch {epoch} shows {found}."
    remedy = "Add or strengthen a --regulariser, or lower --lr."
    if stop:
        raise RunFailed(f"{sentence} --stop-on-collapse ended the run. {remedy}")
    console.warn(f"{sentence} {remedy}")
