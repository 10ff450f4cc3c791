"""Waiting for jobs, and what they say."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PATIENCE_SECONDS = 300.0


def await_(condition: Callable[[], Any], why: Callable[[], str] = str) -> None:
    """Wait until something holds; ``why`` says what is known where it does not in time."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, why()
        time.sleep(0.05)


def said(folder: Path) -> str:
    """All logs of jobs below a folder."""
    return "\n".join(f"{path}:\n{path.read_text()}" for path in sorted(folder.rglob("*_log.*")))
