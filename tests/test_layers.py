"""The floors of ARCHITECTURE.md: a lower one never imports a higher one, plugins never import each other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import house
from wasskit.plugins import BUILT_IN


def test_every_module_has_a_floor() -> None:
    assert set(house.floors()) == house.TOP


def test_every_plugin_is_registered() -> None:
    assert set(BUILT_IN) == house.PLUGINS
    project = (house.ROOT / "pyproject.toml").read_text(encoding="utf-8")
    points = project.partition('[project.entry-points."wasskit.plugins"]')[2].partition("[tool")[0]
    assert dict(re.findall(r'^(\w+) = "(.+)"$', points, flags=re.MULTILINE)) == BUILT_IN


@pytest.mark.parametrize("path", house.MODULES, ids=lambda p: str(p.relative_to(house.PACKAGE)))
def test_imports_point_to_lower_floors(path: Path) -> None:
    assert house.wrong_imports(path) == []


def test_there_is_no_circle_of_imports() -> None:
    assert house.import_circles() == []
