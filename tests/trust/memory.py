"""How much memory a process takes."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

__all__ = ["peak_memory"]


def peak_memory(*, restart: bool = False) -> int:
    """The most bytes that were resident since the last call with ``restart``, which says how many are so now.

    Not ``ru_maxrss``, which counts what the process was before it became another program: with a large parent, that of
    the parent. Without ``/proc`` the peak of the process, in which a trial is hidden behind a larger one before it.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    if restart:
        Path("/proc/self/clear_refs").write_text("5")
    peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(peak.split()[1]) << 10
