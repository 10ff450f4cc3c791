"""The floors of the house: a lower one never imports a higher one, plugins never import each other."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "wasskit"
FLOORS = {
    "errors": 0, "system": 0, "ot": 0,
    "models": 1, "data": 1, "distributed": 1,
    "evaluation": 2, "pictures": 2, "training": 2,
    "trained": 3, "report": 3,
    "plugins": 4,
    "cli": 5, "commands": 5, "__main__": 6,
}  # fmt: skip


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith("wasskit.")}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downwards(path: Path) -> None:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    floor = FLOORS.get(parts[0])
    if floor is None:
        return
    for name in _imports(path):
        other = name.split(".")[1:]
        target = FLOORS.get(other[0])
        if target is None:
            continue
        assert target <= floor, f"{path} imports {name} from a higher floor"
        if parts[0] == "plugins" == other[0] and len(parts) > 2 and len(other) > 1 and parts[1] != other[1]:
            built_ins = {"mrl", "ssl", "metrix", "w2gn", "study", "plot"}
            assert other[1] not in built_ins, f"{path} imports another plugin: {name}"
