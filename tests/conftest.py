"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

REFERENCE = Path(__file__).parent / "reference"


@pytest.fixture(scope="session")
def reference() -> Callable[[str], dict[str, Any]]:
    """Load one file of reference numbers by its name without extension, as a dict of arrays."""

    def load(name: str) -> dict[str, Any]:
        with np.load(REFERENCE / f"{name}.npz") as archive:
            return {key: archive[key] for key in archive.files}

    return load


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data sets named by ``WASSKIT_DATA``; tests that need it skip without it."""
    root = os.environ.get("WASSKIT_DATA")
    if not root:
        pytest.skip("WASSKIT_DATA is not set")
    return Path(root)
